"""The conditional autoencoder: its parts against oracles, a training that is killed, what it shows, bad input."""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from test_assign import command

from toolkit.aggregate.generate import Generated, file_names, generate_images
from toolkit.aggregate.nearest import nearest_images
from toolkit.aggregate.plan import Plan
from toolkit.aggregate.samples import Batches, balanced_order, baselines, split
from toolkit.aggregate.train import train_cvae
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.folder import held
from toolkit.images.pixels import PixelFile
from toolkit.memory import resident_bytes
from toolkit.progress import Reporter, Task

torch = pytest.importorskip("torch")

from toolkit.aggregate.checkpoints import open_trained  # noqa: E402
from toolkit.aggregate.network import ConditionalVAE, Posterior, activation_values  # noqa: E402
from toolkit.aggregate.objective import divergences, negative_log_likelihood, terms  # noqa: E402
from toolkit.aggregate.training import DivergedError, make_network, zero_images  # noqa: E402

JOBS = Path(__file__).parents[1] / "jobs"
QUIET = Reporter(quiet=True)
SMALL = Plan(image_size=16, latent_dim=4, width=8, batch_size=16, warm_up=1)


def pictures(folder, *, n=60, n_classes=3, size=16):
    """Write images whose class is where they are bright, and labels as the seed's; return (images, labels)."""
    rng = np.random.default_rng(5)
    (folder / "images").mkdir(parents=True)
    lines = ["image_name,class"]
    for row in range(n):
        pixels = rng.integers(0, 60, (size, size, 3))
        pixels[:, row % n_classes * 5 : row % n_classes * 5 + 5] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{row:03}.png")
        lines.append(f"{row:03}.png,{row % n_classes}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "images", folder / "labels.csv"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


def train(given, out, plan=SMALL, **options):
    options = {"num_epochs": 2, "workers": 0, "device": "cpu", "reporter": QUIET} | options
    return train_cvae(*given, out, plan, **options)


@pytest.fixture(scope="module")
def trained(given, tmp_path_factory):
    """The folder of a training of two epochs."""
    return train(given, tmp_path_factory.mktemp("trained") / "out").weights.parent.parent


def state(path):
    return torch.load(path, weights_only=True)["state_dict"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def pixel_file(folder, images):
    np.save(folder / "pixels.npy", images)
    return PixelFile(folder / "pixels.npy")


# The network
@pytest.mark.parametrize("size", [16, 32, 64, 96, 128, 224, 256])
def test_images_of_every_size_come_back(size):
    network = ConditionalVAE(size, 3, latent_dim=5, width=8)
    classes = network.one_hot(torch.tensor([2, 0]))
    posterior = network.encode(torch.rand(2, 3, size, size), classes)
    assert posterior.mean.shape == posterior.log_variance.shape == (2, 5)
    decoded = network.decode(posterior.sample(torch.Generator().manual_seed(0)), classes)
    assert decoded.shape == (2, 3, size, size)
    assert 0 <= decoded.min() < decoded.max() <= 1


@pytest.mark.parametrize("size", [0, 8, 24, 48, 100, 544, -32])
def test_other_sizes_are_refused(size):
    with pytest.raises(InputError, match=rf"image_size is {size}; allowed: 16, or a multiple of 32 from 32 to 512"):
        ConditionalVAE(size, 3)


def test_a_class_reaches_both_directions():
    network = ConditionalVAE(16, 2, latent_dim=3, width=8)
    image, latent, classes = torch.rand(1, 3, 16, 16), torch.zeros(1, 3), torch.eye(2)
    assert not torch.equal(network.encode(image, classes[:1]).mean, network.encode(image, classes[1:]).mean)
    assert not torch.equal(network.decode(latent, classes[:1]), network.decode(latent, classes[1:]))


def test_a_batch_changes_nothing_for_an_image():
    network = ConditionalVAE(16, 2, latent_dim=3, width=8).train()
    images, classes = torch.rand(6, 3, 16, 16), torch.eye(2).repeat(3, 1)
    together, alone = network.encode(images, classes).mean, network.encode(images[:1], classes[:1]).mean
    torch.testing.assert_close(together[:1], alone)


def test_the_predicted_activations_are_those_that_are_kept():
    network, kept = ConditionalVAE(64, 3, width=16), {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        classes = network.one_hot(torch.zeros(4))
        posterior = network.encode(torch.rand(4, 3, 64, 64), classes)
        decoded = network.decode(posterior.sample(None), classes)
        terms(torch.rand(4, 3, 64, 64), decoded, posterior, detail=100)
    for parameter in network.parameters():
        kept.pop(parameter.data_ptr(), None)
    assert sum(kept.values()) / 4 == pytest.approx(activation_values(64, 16), rel=0.1)


# The objective
def test_divergences_are_those_of_torch():
    posterior = Posterior(torch.randn(7, 5), torch.randn(7, 5))
    normal = torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(divergences(posterior), expected)


def test_the_variance_is_the_best_one():
    images, decoded = torch.rand(4, 3, 2, 2, dtype=torch.float64), torch.rand(4, 3, 2, 2, dtype=torch.float64)
    error = (images - decoded).square().mean()
    found = negative_log_likelihood(error, 12)
    likelihoods = [
        -torch.distributions.Normal(decoded, scale * error.sqrt()).log_prob(images).sum() / 4
        for scale in (0.9, 1.0, 1.1)
    ]
    torch.testing.assert_close(found, likelihoods[1])
    assert found < likelihoods[0]
    assert found < likelihoods[2]


def test_free_nats_and_the_weight():
    images, posterior = torch.rand(2, 3, 4, 4), Posterior(torch.tensor([[0.1, 3.0]] * 2), torch.zeros(2, 2))
    options = {"images": images, "decoded": torch.zeros_like(images), "posterior": posterior, "detail": 10}
    of_units = divergences(posterior).mean(0)  # 0.005 and 4.5
    none, free = terms(**options, weight=0).loss, terms(**options, weight=0.5, free_nats=1.0)
    torch.testing.assert_close(free.loss - none, 0.5 * (1.0 + of_units[1]))
    torch.testing.assert_close(free.divergence, of_units.sum())


# The images
def test_a_share_of_each_class_is_kept(tmp_path, rng):
    classes = np.repeat([0, 1, 2, 3], [40, 10, 2, 1])
    images = rng.integers(0, 256, (53, 4, 4, 3), np.uint8)
    rows = np.arange(53)
    with pixel_file(tmp_path, images) as pixels:
        found = split(pixels, rows, classes, share=0.1, seed=0)
        again = split(pixels, rows, classes, share=0.1, seed=1)
    assert np.bincount(classes[found.validation], minlength=4).tolist() == [4, 1, 1, 0]
    assert sorted([*found.training, *found.validation]) == rows.tolist()
    assert found.single == [3]
    assert found.validation.tolist() != again.validation.tolist()


def test_copies_are_not_validated_with(tmp_path, rng):
    images = rng.integers(0, 256, (20, 4, 4, 3), np.uint8)
    images[10:18] = images[:8]  # of another class
    rows, classes = np.arange(20), np.repeat([0, 1], 10)
    with pixel_file(tmp_path, images) as pixels:
        found = split(pixels, rows, classes, share=0.9, seed=0)
        assert found.validation.tolist() == [8, 9, 18, 19]
        with pytest.raises(InputError, match="no class has two different images"):
            split(pixels, rows[:18], np.repeat([0, 1], [8, 10])[:18] * 0 + np.arange(18), share=0.5, seed=0)


@pytest.mark.parametrize("sizes", [[100, 7, 1], [5, 5], [1], [3, 200, 4, 50]])
def test_classes_come_equally_often(sizes):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    epochs = [balanced_order(classes, seed=3, epoch=epoch) for epoch in range(1, 7)]
    for order in epochs:
        assert len(order) == len(classes)
        counts = np.bincount(classes[order], minlength=len(sizes))
        assert counts.max() - counts.min() <= 1
        for number, size in enumerate(sizes):  # no image is far ahead of the others of its class
            times = np.bincount(order[classes[order] == number], minlength=len(classes))[classes == number]
            assert times.max() - times.min() <= 2
            assert times.max() <= -(-counts[number] // size) + 1
    assert balanced_order(classes, seed=3, epoch=1).tolist() == epochs[0].tolist()
    if len(classes) > 10:
        assert epochs[0].tolist() != epochs[1].tolist()
        assert balanced_order(classes, seed=4, epoch=1).tolist() != epochs[0].tolist()
    seen = np.concatenate(epochs)
    for number, size in enumerate(sizes):  # large classes go on where they were
        n_taken = np.count_nonzero(classes[seen] == number)
        assert len(set(seen[classes[seen] == number])) >= min(size, n_taken) - len(epochs)  # one may be passed over


def test_mean_images_as_baselines(tmp_path, rng):
    images = rng.integers(0, 256, (150, 4, 4, 3), np.uint8)
    class_of = rng.integers(0, 3, 150)
    training, validation = np.arange(0, 130), np.arange(130, 150)
    with pixel_file(tmp_path, images) as pixels:
        found, means = baselines(pixels, training, validation, class_of)
    values = images / 255
    expected = np.stack([values[:130][class_of[:130] == number].mean(0) for number in range(3)])
    np.testing.assert_allclose(means / 255, expected, rtol=1e-5)
    assert found.mean == pytest.approx(np.square(values[130:] - values[:130].mean(0)).mean(), rel=1e-5)
    assert found.class_mean == pytest.approx(np.square(values[130:] - expected[class_of[130:]]).mean(), rel=1e-5)


def test_batches_are_the_rows_that_were_asked_for(tmp_path, rng):
    images = rng.integers(0, 256, (50, 4, 4, 3), np.uint8)
    parts = [np.array([3, 1, 1]), np.array([49]), np.array([0, 7])]
    with pixel_file(tmp_path, images) as pixels:
        batches = Batches(pixels)
        found = list(batches.read(parts))
    assert all(np.array_equal(one, images[part]) for one, part in zip(found, parts, strict=True))
    assert batches.waited > 0


def test_nearest_images_are_those_of_brute_force(tmp_path, rng, monkeypatch):
    images = rng.integers(0, 256, (60, 4, 4, 3), np.uint8)
    images[40] = images[11]  # equally near: the first counts
    rows, given = np.delete(np.arange(60), 5), images[[11, 5, 20]]
    monkeypatch.setattr("toolkit.aggregate.nearest._BLOCK_BYTES", 8 * 48 * 7)
    with pixel_file(tmp_path, images) as pixels:
        found = nearest_images(pixels, rows, given, 9, QUIET)
    distances = np.sqrt(np.square(given[:, None].astype(float) - images[rows].astype(float)).mean((2, 3, 4)))
    order = np.argsort(distances, axis=1, kind="stable")[:, :9]
    assert found.rows.tolist() == rows[order].tolist()
    np.testing.assert_array_equal(found.distances, np.take_along_axis(distances, order, 1))
    assert found.rows[0, :2].tolist() == [11, 40]


# Training
def test_digits_have_their_aggregates(tmp_path):
    digits = load_digits()
    (tmp_path / "images").mkdir()
    for row, image in enumerate(digits.images):
        Image.fromarray((255 * image / 16).astype(np.uint8)).save(tmp_path / "images" / f"{row}.png")
    names = [f"{row}.png" for row in range(len(digits.target))]
    pd.DataFrame({"image_name": names, "class": digits.target}).to_csv(tmp_path / "labels.csv", index=False)
    plan = Plan(image_size=16, width=8, latent_dim=32, learning_rate=3e-3, warm_up=1)
    found = train((tmp_path / "images", tmp_path / "labels.csv"), tmp_path / "out", plan, num_epochs=8)
    with PixelFile(tmp_path / "out" / "pixels" / "pixels.npy") as pixels:
        real = pixels.read(np.arange(len(names))).reshape(len(names), -1) / 255
    judge = SVC().fit(real, digits.target)
    zeros = zero_images(open_trained(found.weights).network).reshape(10, -1) / 255
    assert (judge.predict(zeros) == np.arange(10)).sum() >= 9
    assert found.best.validation_error < 0.5 * found.best.class_mean_error < found.best.mean_image_error
    assert found.best.active_units > 5


def test_what_a_training_leaves(given, trained):
    history = pd.read_csv(trained / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert history["weight"].tolist() == [0.5, 1.0]
    table = pd.read_csv(trained / "images.csv", dtype=str)
    assert table["part"].value_counts().to_dict() == {"training": 54, "validation": 6}
    assert table["class"].tolist() == [str(row % 3) for row in range(60)]
    found = open_trained(trained / "weights" / "best.pt")
    assert (found.class_names, found.class_sizes) == (("0", "1", "2"), (20, 20, 20))
    assert found.facts["validation_error"] == pytest.approx(history["validation_error"].min())
    assert found.facts["seed"] == 0
    assert "seconds" not in found.facts


def test_the_recorded_errors_are_those_of_the_weights(trained):
    found = open_trained(trained / "weights" / "best.pt")
    table = pd.read_csv(trained / "images.csv")
    rows = np.flatnonzero(table["part"] == "validation")
    with PixelFile(trained / "pixels" / "pixels.npy") as pixels:
        images = torch.from_numpy(pixels.read(rows)).permute(0, 3, 1, 2) / 255
    classes = found.network.one_hot(torch.tensor(table["class"].to_numpy()[rows]))
    posterior = found.network.encode(images, classes)
    error = (found.network.decode(posterior.mean, classes) - images).square().mean()
    assert found.facts["validation_error"] == pytest.approx(float(error), rel=1e-4)
    assert found.facts["validation_divergence"] == pytest.approx(float(divergences(posterior).sum(1).mean()), rel=1e-4)


def test_more_epochs_later_are_the_same(given, trained, tmp_path):
    train(given, tmp_path / "out", num_epochs=1)
    found = train(given, tmp_path / "out", num_epochs=2)
    assert equal(state(tmp_path / "out" / "weights" / "last.pt"), state(trained / "weights" / "last.pt"))
    assert found.weights.read_bytes() == (trained / "weights" / "best.pt").read_bytes()
    before = (tmp_path / "out" / "weights" / "last.pt").read_bytes()
    assert train(given, tmp_path / "out", num_epochs=2).last == found.last
    assert (tmp_path / "out" / "weights" / "last.pt").read_bytes() == before


def test_a_killed_training_ends_with_the_same_weights(given, tmp_path):
    out = tmp_path / "out"
    script = (
        "import sys; from pathlib import Path; from toolkit.aggregate.train import train_cvae; "
        "from toolkit.aggregate.plan import Plan; "
        f"train_cvae({str(given[0])!r}, {str(given[1])!r}, {str(out)!r}, {SMALL!r}, num_epochs=10**6, patience=10**6, "
        "workers=0, device='cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (out / "weights" / "last.pt").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)  # somewhere inside an epoch, or while files are written
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    n_done = len(torch.load(out / "weights" / "last.pt", weights_only=True)["epochs"])
    killed = train(given, out, num_epochs=n_done + 2, patience=10**6)
    whole = train(given, tmp_path / "whole", num_epochs=n_done + 2, patience=10**6)
    assert equal(state(out / "weights" / "last.pt"), state(whole.weights.parent / "last.pt"))
    assert killed.weights.read_bytes() == whole.weights.read_bytes()
    assert not list(out.glob(".unfinished*"))
    assert pd.read_csv(out / "history.csv")["epoch"].tolist() == list(range(1, n_done + 3))


def test_seeds_differ(given, trained, tmp_path):
    first, again, second = (make_network(Plan(**(SMALL.__dict__ | {"seed": seed})), 3) for seed in (0, 0, 1))
    assert equal(first.state_dict(), again.state_dict())
    assert not torch.equal(first.to_image.weight, second.to_image.weight)
    other = train(given, tmp_path / "out", Plan(**(SMALL.__dict__ | {"seed": 1})), num_epochs=1)
    assert not equal(state(other.weights), state(trained / "weights" / "best.pt"))


def test_it_stops_when_nothing_gets_better(given, tmp_path):
    plan = Plan(**(SMALL.__dict__ | {"learning_rate": 1e-30, "warm_up": 0}))
    found = train(given, tmp_path / "out", plan, num_epochs=50, patience=2)
    assert (found.last.epoch, found.best.epoch, found.stopped_early) == (3, 1, True)
    assert "stopped early" in found.text
    assert "no better than the mean image" in found.text


def test_what_is_said_meanwhile(given, tmp_path, capsys):
    train(given, tmp_path / "out", num_epochs=1, reporter=Reporter())
    said = capsys.readouterr().err
    assert "60 images in 3 classes (0: 20, 1: 20, 2: 20)" in said
    assert "a batch of 16 takes about" in said
    assert "epoch 1: error" in said
    assert "class means" in said


def test_the_log_for_tensorboard(given, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(given, tmp_path / "out", num_epochs=1)
    train(given, tmp_path / "out", num_epochs=2)
    log = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    assert [one.step for one in log.Scalars("validation/error")] == [1, 2]
    assert [one.step for one in log.Images("aggregates")] == [1, 2]


# Bad input of a training
def with_lines(given, tmp_path, *lines):
    path = tmp_path / "more.csv"
    path.write_text(given[1].read_text() + "".join(f"{line}\n" for line in lines))
    return given[0], path


def test_missing_and_damaged_images(given, trained, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for path in given[0].iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    (images / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    broken = with_lines((images, given[1]), tmp_path, "gone.png,1", "bad.png,2")
    found = train(broken, tmp_path / "out")
    skipped = pd.read_csv(tmp_path / "out" / "images_skipped.csv")
    assert skipped["image_path"].tolist() == ["gone.png", "bad.png"]
    assert found.n_skipped == 2
    assert "images_skipped.csv: 2 images" in found.text
    assert "2 images that the labels name cannot be used" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"1 of 62 images .*: 'gone.png' does not exist"):
        train(broken, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()
    (images / "gone.png").write_bytes((images / "000.png").read_bytes())
    with pytest.raises(InputError, match=r"'bad.png' cannot be decoded.*without --strict they are skipped"):
        train(broken, tmp_path / "strict", strict=True)
    with pytest.raises(InputError, match="holds pixels of other images"):  # it has come meanwhile
        train(broken, tmp_path / "out")


def test_a_class_that_cannot_be_decoded(given, tmp_path):
    (given[0] / "odd.png").write_bytes(b"nothing")
    try:
        with pytest.raises(InputError, match="no image of class 9 can be decoded"):
            train(with_lines(given, tmp_path, "odd.png,9"), tmp_path / "out")
    finally:
        (given[0] / "odd.png").unlink()


def test_a_class_of_one_image(given, tmp_path, capsys):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(given[0] / "alone.png")
    try:
        found = train(with_lines(given, tmp_path, "alone.png,7"), tmp_path / "out", num_epochs=1)
    finally:
        (given[0] / "alone.png").unlink()
    assert "class 7: no two different images" in capsys.readouterr().err
    assert open_trained(found.weights).class_sizes == (20, 20, 20, 1)


def test_one_class_only(given, tmp_path, capsys):
    lines = [line.split(",")[0] for line in given[1].read_text().splitlines()[1:]]
    (tmp_path / "labels.csv").write_text("image_name,class\n" + "".join(f"{line},all\n" for line in lines))
    found = train((given[0], tmp_path / "labels.csv"), tmp_path / "out", num_epochs=1)
    assert "there is one class only, all: the network has nothing to be conditional on" in capsys.readouterr().err
    said = "the latent vector says nothing"
    assert said in replace(found, best=replace(found.best, active_units=0)).text
    assert said not in replace(found, best=replace(found.best, active_units=1)).text


def test_numbers_of_classes(given, tmp_path, capsys):
    with pytest.raises(InputError, match=r"has 3 classes \(0, 1, 2\), --num_classes is 2; give --num_classes 3"):
        train(given, tmp_path / "out", num_classes=2)
    train(given, tmp_path / "out", num_classes=5, num_epochs=1)
    assert "--num_classes is 5, the labels have 3 classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": 40}, "image_size is 40; allowed: 16"),
        ({"batch_size": 0}, "batch_size is 0; allowed: 1 to 65,536"),
        ({"batch_size": 65_537}, "batch_size is 65537; allowed: 1 to 65,536"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; allowed: more than 0"),
        ({"validation": 1.0}, "validation is 1.0; allowed: between 0 and 1"),
        ({"width": 12}, "width is 12; allowed: a multiple of 8"),
        ({"latent_dim": 0}, "latent_dim is 0; allowed: 1 or more"),
    ],
)
def test_options_that_cannot_be(given, tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        train(given, tmp_path / "out", Plan(**(SMALL.__dict__ | changed)))
    assert not (tmp_path / "out").exists()


def test_another_training_in_the_folder(given, trained):
    before = (trained / "weights" / "last.pt").read_bytes()
    with pytest.raises(InputError, match="holds weights of other images, labels or options"):
        train(given, trained, Plan(**(SMALL.__dict__ | {"latent_dim": 5})))
    assert (trained / "weights" / "last.pt").read_bytes() == before


def test_one_training_at_a_time_in_a_folder(given, tmp_path):
    out = tmp_path / "out"
    with held(out, "training", lock=".lock", reporter=Reporter(quiet=True)):
        with pytest.raises(InputError, match=r"another process is training in .*out; wait for it"):
            train(given, out)
        assert not (out / "pixels").exists()
    assert train(given, out, num_epochs=1).weights.exists()


def test_a_class_of_which_no_image_is_there(given, tmp_path, capsys):
    found = train(with_lines(given, tmp_path, "gone.png,lost"), tmp_path / "out", num_epochs=1)
    assert "no image of class lost is there; the network has 3 classes" in capsys.readouterr().err
    assert open_trained(found.weights).class_names == ("0", "1", "2")


def test_too_little_memory(given, tmp_path):
    plan = Plan(image_size=128, batch_size=4096)
    with pytest.raises(MemoryBudgetError, match=r"training with a batch of 4096 images \(--batch_size\) needs 1\."):
        train(given, tmp_path / "out", plan, memory=resident_bytes() + (512 << 20))


@pytest.mark.parametrize("where", ["weights", "optimizer"])
def test_a_loss_that_is_no_number(given, tmp_path, where):
    plan = Plan(**(SMALL.__dict__ | {"batch_size": 64}))  # one step: what it breaks, the validation finds
    found = train(given, tmp_path / "out", plan, num_epochs=1)
    last, best = tmp_path / "out" / "weights" / "last.pt", found.weights.read_bytes()
    content = torch.load(last, weights_only=True)
    weights, moments = content["state_dict"]["to_image.bias"], content["optimizer"]["state"][0]["exp_avg"]
    (weights if where == "weights" else moments)[0] = torch.nan
    torch.save(content, last)
    before = last.read_bytes()
    place = "epoch 2, step 1" if where == "weights" else "the validation of epoch 2"
    with pytest.raises(DivergedError, match=rf"not a number.* in {place}; .*best.pt keeps epoch 1; try .*rate"):
        train(given, tmp_path / "out", plan, num_epochs=3)
    assert last.read_bytes() == before
    assert found.weights.read_bytes() == best


# What is made of it
def test_what_is_generated(trained, tmp_path):
    found = generate_images(trained / "weights" / "best.pt", out=tmp_path / "a", reporter=QUIET, device="cpu")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    of_classes = [
        f"{what}_{k}.{end}"
        for what, end in (("cluster", "jpg"), ("samples", "png"), ("nearest", "png"))
        for k in range(3)
    ]
    assert names == sorted([*of_classes, "aggregates.png", "interpolation.png", "nearest.csv"])
    assert sorted(path.name for path in (*found.aggregates, *found.others)) == names
    zeros = zero_images(open_trained(trained / "weights" / "best.pt").network)
    with Image.open(tmp_path / "a" / "cluster_1.jpg") as image:
        assert image.size == (16, 16)
        assert np.abs(np.asarray(image).astype(int) - zeros[1]).mean() < 4
    with Image.open(tmp_path / "a" / "aggregates.png") as image:
        assert image.text["Title"] == "Aggregate images"
        assert "validation" in image.text["Description"]
        assert "labels.csv, column class" in image.text["Description"]
    with (tmp_path / "a" / "nearest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["cluster"], row["among"], row["rank"]) for row in rows] == [
        (str(k), among, str(i)) for k in range(3) for among in ("class", "all") for i in range(1, 9)
    ]
    assert all(int(row["image_path"][:3]) % 3 == int(row["class"]) for row in rows)
    assert all(row["class"] == row["cluster"] for row in rows if row["among"] == "class")
    assert float(rows[8]["distance"]) <= float(rows[0]["distance"]) <= float(rows[1]["distance"])
    again = generate_images(trained / "weights" / "best.pt", cluster="1", out=tmp_path / "b", device="cpu")
    again = [path for path in (*again.aggregates, *again.others) if path.name != "nearest.csv"]
    assert len(again) == 3
    assert all(path.read_bytes() == (tmp_path / "a" / path.name).read_bytes() for path in again)


def test_how_pictures_get_into_the_report_of_a_run(tmp_path):
    aggregates = [tmp_path / "run" / "aggregates" / "cluster_0.jpg"]
    assert "report" not in Generated(tmp_path / "out", aggregates, [], "").text
    command_of = f"`toolkit report {tmp_path / 'run'} --only html` shows"
    elsewhere = Generated(tmp_path / "out", aggregates, [], str(tmp_path / "run")).text
    assert f"`toolkit cvae generate --out {tmp_path / 'run' / 'aggregates'}`, then {command_of}" in elsewhere
    there = Generated(tmp_path / "run" / "aggregates", aggregates, [], str(tmp_path / "run")).text
    assert command_of in there
    assert "cvae generate" not in there


def test_one_cluster(trained, tmp_path):
    generate_images(trained / "weights" / "best.pt", cluster="2", out=tmp_path / "a", nearest=0, device="cpu")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["cluster_2.jpg", "samples_2.png"]
    with pytest.raises(InputError, match=r"unknown cluster '3'; known: 0, 1, 2, all"):
        generate_images(trained / "weights" / "best.pt", cluster="3", out=tmp_path / "a", device="cpu")


def test_temperature_and_seed(trained, tmp_path):
    def samples(**options):
        out = tmp_path / json.dumps(options)
        generate_images(trained / "weights" / "best.pt", cluster="0", out=out, nearest=0, device="cpu", **options)
        with Image.open(out / "samples_0.png") as image:
            sheet = np.asarray(image)[140:180]  # of the first row
            return sheet[:, 30:122], sheet[:, 136:228]  # inside the frames of the first two

    assert not np.array_equal(samples(seed=1), samples(seed=2))
    assert not np.array_equal(*samples(seed=1))
    assert np.array_equal(*samples(temperature=0))
    with pytest.raises(InputError, match="temperature is -1"):
        samples(temperature=-1)


def test_classes_are_followed(trained, tmp_path, monkeypatch):
    followed = {}

    class Following(Task):
        def advance(self, predicted, note=""):
            followed[self.title] = followed.get(self.title, 0) + predicted

    monkeypatch.setattr(Reporter, "track", lambda self, title, predicted: Following(title, predicted, self))
    generate_images(trained / "weights" / "best.pt", out=tmp_path, device="cpu", reporter=QUIET)
    assert followed["samples"] == followed["nearest of the class"] == 3


def test_weights_alone(trained, tmp_path, capsys):
    (tmp_path / "best.pt").write_bytes((trained / "weights" / "best.pt").read_bytes())
    found = generate_images(tmp_path / "best.pt", out=tmp_path / "out", device="cpu")
    assert "no nearest images" in capsys.readouterr().err
    assert not [path for path in found.others if "nearest" in path.name]


def test_names_of_classes_as_names_of_files():
    found = file_names(["0", "old men", "old/men", "Old men", "..", "a_6", "a", "A", "=x", "жінка"])
    assert found[0] == "0"
    assert found[-2:] == ["x", "жінка"]
    assert len({name.lower() for name in found}) == len(found)
    assert not any("/" in name or "." in name or " " in name for name in found)


def test_other_weights(trained, tmp_path):
    content = torch.load(trained / "weights" / "best.pt", weights_only=True)
    path = tmp_path / "w.pt"

    def refused(match):
        with pytest.raises(InputError, match=match):
            generate_images(path, out=tmp_path / "out", device="cpu")

    refused("do not exist; `toolkit cvae train` writes")
    path.write_bytes(b"not weights")
    refused("are damaged, or hold code beside numbers")
    torch.save({"model": {"fc_mu.weight": torch.zeros(2, 2)}, "optimizer": {}}, path)  # of the seed
    refused("hold model, optimizer, not a network of .*another architecture")
    torch.save(content | {"config": content["config"] | {"latent_dim": 5}}, path)
    refused(r"are of another shape: to_posterior.weight is \[8, 256\], not \[10, 256\], .*; train again")
    state = {key.replace("to_image.bias", "strange"): value for key, value in content["state_dict"].items()}
    torch.save(content | {"state_dict": state}, path)
    refused("are of another shape: to_image.bias is missing, strange is strange; train again")
    for config in (
        {"image_size": 16},
        content["config"] | {"width": "many"},
        content["config"] | {"latent_dim": 1 << 50},
    ):
        torch.save(content | {"config": config}, path)
        refused("do not say how their network is made")
    torch.save(content | {"class_names": ["0"]}, path)
    refused("3 classes, 1 names and 3 sizes")
    path.write_bytes((trained / "weights" / "last.pt").read_bytes())
    refused("give the best.pt beside them")


def test_weights_run_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"format": "toolkit cvae 1", "x": Evil()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="hold code beside numbers, which is not run"):
        generate_images(tmp_path / "w.pt", out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "made").exists()


# The command line
def test_verbs_and_jobs(given, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["--image_path", given[0], "--labels_path", given[1], "--image_size", 16]
    small = ["--batch_size", 16, "--num_epochs", 1, "--width", 8, "--latent_dim", 4, "--workers", 0, "--device", "cpu"]
    code, said, _ = command(capsys, monkeypatch, "cvae", "train", *common, "--num_classes", 3, *small)
    assert code == 0
    assert "weights     cvae/weights/best.pt" in said
    code, said, _ = command(capsys, monkeypatch, "cvae", "generate", "--cluster", "all", "--device", "cpu")
    assert code == 0
    assert "inference_results/cluster_0.jpg ... cluster_2.jpg" in said
    code, _, errors = command(capsys, monkeypatch, "cvae", "train", *common, "--num_classes", 2, *small)
    assert (code, errors.count("\n")) == (2, 1)
    for wrong in (["--image_size", 7], ["--batch_size", 70_000], ["--device", "tpu"], ["--num_epochs", 0]):
        code, _, errors = command(capsys, monkeypatch, "cvae", "train", *common, *small, *wrong)
        assert (code, errors.count("\n")) == (2, 1)
    run_job(monkeypatch, "train_cvae.py", *common, *small)  # finished before
    (tmp_path / "inference_results" / "cluster_1.jpg").unlink()
    run_job(monkeypatch, "cvae_inference.py", "--cluster", 1, "--num_classes", 3, "--image_size", 16)
    assert (tmp_path / "inference_results" / "cluster_1.jpg").exists()
    capsys.readouterr()
    run_job(monkeypatch, "cvae_inference.py", "--cluster", 1, "--num_classes", 5, code=2)
    assert "--num_classes is 5, cvae/weights/best.pt were trained with 3" in capsys.readouterr().err


def run_job(monkeypatch, name, *arguments, code=0):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOBS / name), run_name="__main__")
    assert (ended.value.code or 0) == code
