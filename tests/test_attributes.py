"""Attributes of faces: lists in CelebA's form, the network against an independent one, training, probabilities."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from toolkit.cli import app
from toolkit.descriptors.loader import DataLoader
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.faces.attributes import train as training_room
from toolkit.faces.attributes.accuracy import Counts, accuracy_table
from toolkit.faces.attributes.celeba import CELEBA, PREDECESSOR, read_attributes, read_partition
from toolkit.faces.attributes.predict import predict_attributes
from toolkit.faces.attributes.train import train_attributes
from toolkit.images.pixels import PixelFile, cache_pixels
from toolkit.progress import Reporter

torch = pytest.importorskip("torch")
functional = torch.nn.functional

QUIET = Reporter(quiet=True)
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def text_lists(folder, names, labels, parts, *, suffix=".png"):
    """Write both lists as CelebA has them, and return their paths."""
    attributes, partition = folder / "list_attr_celeba.txt", folder / "list_eval_partition.txt"
    lines = [f"{i:06}{suffix} " + " ".join(f"{value:2d}" for value in row) for i, row in enumerate(labels)]
    attributes.write_text("\n".join([str(len(labels)), " ".join(names) + " ", *lines, ""]))
    partition.write_text("".join(f"{i:06}{suffix} {part}\n" for i, part in enumerate(parts)))
    return attributes, partition


def drawn(folder, n_images, side=32, seed=0):
    """Draw squares: red or blue, on bright or dark, above or below; a seventh of the labels is not known."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 1], (n_images, 3))
    (folder / "images").mkdir(parents=True)
    for i, (red, bright, above) in enumerate(labels):
        image = np.full((side, side, 3), 200 if bright > 0 else 50)
        x, y = rng.integers(2, 6), rng.integers(0, 2) if above > 0 else rng.integers(14, 16)
        image[y : y + 16, x : x + 24] = (230, 30, 30) if red > 0 else (30, 30, 230)
        noisy = (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"images/{i:06}.png")
    labels[rng.random(labels.shape) < 1 / 7] = 0
    parts = np.array([0, 0, 0, 1, 2])[np.arange(n_images) % 5]
    lists = text_lists(folder, ("Red", "Bright", "Above"), labels, parts)
    return folder / "images", *lists, labels, parts


def trained(data, out, **options):
    images, attributes, partition, *_ = data
    usual = {"epochs": 2, "batch": 8, "image_size": 32, "device": "cpu", "workers": 0}
    return train_attributes(images, out, attributes=attributes, partition=partition, **(usual | options))


# Lists
def test_both_forms_of_the_lists_say_the_same(tmp_path):
    rng = np.random.default_rng(1)
    labels = rng.choice([-1, 0, 1], (6, 40), p=[0.6, 0.1, 0.3])
    attributes, partition = text_lists(tmp_path, CELEBA, labels, [0, 1, 2, 0, 0, 1], suffix=".jpg")
    names = [f"{i:06}.jpg" for i in range(6)]
    frame = pd.DataFrame(labels, columns=CELEBA)
    frame.insert(0, "image_id", names)
    frame.to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame({"image_id": names, "partition": [0, 1, 2, 0, 0, 1]}).to_csv(tmp_path / "p.csv", index=False)
    for path in (attributes, tmp_path / "a.csv"):
        found = read_attributes(path)
        assert found.names == CELEBA
        assert found.paths.tolist() == names
        np.testing.assert_array_equal(found.labels, labels)
        assert found.labels.dtype == np.int8
    parts = dict(zip(names, [0, 1, 2, 0, 0, 1], strict=True))
    assert read_partition(partition) == read_partition(tmp_path / "p.csv") == parts
    selected = found.select()
    assert selected.names == PREDECESSOR
    assert len(PREDECESSOR) == 37
    np.testing.assert_array_equal(selected.labels, frame[list(PREDECESSOR)])
    assert found.select(["Young", "Bald"]).names == ("Bald", "Young")
    assert len(found.select(without=["Young"]).names) == 39


def test_an_empty_cell_is_a_label_that_is_not_known(tmp_path):
    (tmp_path / "a.csv").write_text("image_id,A,B\nx.jpg,1,\ny.jpg,,-1\n")
    np.testing.assert_array_equal(read_attributes(tmp_path / "a.csv").labels, [[1, 0], [0, -1]])


BAD_ATTRIBUTES = {
    "3\nA B\nx 1 -1\n": r"says that it lists 3 images, and lists 1",
    "1\nA B\nx 1 -1 1\n": r"line 3 has 4 columns; allowed: 3",
    "2\nA B\nx 1 -1\ny 1\n": r"line 4 has 2 columns; allowed: 3",
    "1\nA B\nx 1 2\n": r"line 3: '2'; allowed: 1 \(has it\), -1 \(has it not\), 0",
    "1\nA A\nx 1 -1\n": r"line 2: attribute 'A' is there twice",
    "2\nA B\nx 1 -1\nx 1 -1\n": r"line 4: image 'x' is there twice",
    "1\nA B\nx 1 0\n": r"holds no -1",
    "image_id,A\nx,1\n": r"line 1: 'image_id,A,?.*'; allowed: the number of images",
    "0\nA B\n": r"lists no image",
    "1\n\n": r"line 1 names no attributes",
    "": r"line 1: ''; allowed: the number of images",
}


@pytest.mark.parametrize("text", BAD_ATTRIBUTES)
def test_what_is_wrong_in_a_list_of_attributes_is_said_with_its_line(text, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=BAD_ATTRIBUTES[text]) as caught:
        read_attributes(tmp_path / "a.txt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x 0\ny 3\n", r"line 2: '3'; allowed: 0 \(training\), 1 \(validation\), 2 \(test\)"),
        ("x 0\ny\n", r"line 2 has 1 columns; allowed: 2"),
        ("x 0\nx 1\n", r"line 2: image 'x' is there twice"),
        ("", r"lists no image"),
    ],
)
def test_what_is_wrong_in_a_partition_is_said_with_its_line(text, message, tmp_path):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_partition(tmp_path / "p.txt")


def test_lists_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_attributes(tmp_path / "none.txt")
    (tmp_path / "a.txt").write_bytes(b"1\nA\n\xff\xfe 1\n")
    with pytest.raises(InputError, match="no readable list"):
        read_attributes(tmp_path / "a.txt")


def test_unknown_attributes_list_the_known(tmp_path):
    (tmp_path / "a.txt").write_text("1\nA B\nx 1 -1\n")
    found = read_attributes(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"unknown attribute 'C'; known: A, B"):
        found.select(["C"])
    with pytest.raises(InputError, match="either the ones that are wanted"):
        found.select(["A"], ["B"])
    with pytest.raises(InputError, match="no attribute is left"):
        found.select(without=["A", "B"])


# Pixels
def test_pixels_are_those_of_pillow_whatever_the_processes(tmp_path):
    rng = np.random.default_rng(2)
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"{i}.png" for i in range(70)]
    for i, name in enumerate(names):
        Image.fromarray(rng.integers(0, 256, (20 + i % 5, 30, 3), dtype=np.uint8)).save(folder / name)
    (folder / "3.png").write_bytes(b"no image")
    names[5] = "missing.png"
    paths = np.array(names)
    made = [
        cache_pixels(folder, paths, tmp_path / f"p{workers}", size=16, workers=workers, reporter=QUIET)
        for workers in (0, 2)
    ]
    assert made[0].path.read_bytes() == made[1].path.read_bytes()
    found = np.load(made[0].path)
    assert found.shape == (70, 16, 16, 3)
    for i, name in enumerate(names):
        black = i in (3, 5)
        expected = 0 if black else np.asarray(Image.open(folder / name).resize((16, 16), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(found[i], np.broadcast_to(expected, (16, 16, 3)))
    assert [row for row, _ in made[0].failed] == [3, 5]
    assert made[0].failed == made[1].failed
    rows = np.array([69, 0, 7, 7])
    with PixelFile(made[0].path) as file:
        assert file.shape == (70, 16, 16, 3)
        np.testing.assert_array_equal(file.read(rows), found[rows])
    again = cache_pixels(folder, paths, tmp_path / "p0", size=16, workers=0, reporter=QUIET)
    assert again == made[0]
    with pytest.raises(InputError, match="of other images or of another size"):
        cache_pixels(folder, paths, tmp_path / "p0", size=17, workers=0, reporter=QUIET)
    with pytest.raises(InputError, match=r"size 4 of images; allowed: 8 to 1024"):
        cache_pixels(folder, paths, tmp_path / "p4", size=4, workers=0, reporter=QUIET)
    with pytest.raises(InputError, match=r"allowed: 0 \(no process"):
        cache_pixels(folder, paths, tmp_path / "p4", size=8, workers=-1, reporter=QUIET)
    with pytest.raises(MemoryBudgetError):
        cache_pixels(folder, paths, tmp_path / "p4", size=8, memory="1MiB", reporter=QUIET)


def test_pixels_go_on_where_they_were_killed(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(3)
    paths = np.array([f"{i}.png" for i in range(130)])
    for name in paths:
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / name)
    whole = cache_pixels(folder, paths, tmp_path / "whole", size=8, workers=0, reporter=QUIET)

    import toolkit.images.pixels as room

    read = []

    def killing(data, *, most_bytes):
        read.append(1)
        if len(read) == 100:  # in the second chunk
            raise KeyboardInterrupt
        return decode(data, most_bytes=most_bytes)

    decode = room.decode
    monkeypatch.setattr(room, "decode", killing)
    with pytest.raises(KeyboardInterrupt):
        cache_pixels(folder, paths, tmp_path / "killed", size=8, workers=0, reporter=QUIET)
    assert not (tmp_path / "killed/pixels.npy").exists()
    made = cache_pixels(folder, paths, tmp_path / "killed", size=8, workers=0, reporter=QUIET)
    assert len(read) == 100 + 66  # the first chunk is not decoded again
    assert made.path.read_bytes() == whole.path.read_bytes()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["pixels.json", "pixels.npy"]


def test_pixels_that_end_too_early_are_told(tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    made = cache_pixels(tmp_path, np.array(["a.png"] * 3), tmp_path / "p", size=8, workers=0, reporter=QUIET)
    with PixelFile(made.path) as file:
        os.truncate(made.path, made.path.stat().st_size - 1)  # a disk that was full, or lost power
        assert file.read(np.array([1])).tolist() == [[[[255, 0, 0]] * 8] * 8]
        with pytest.raises(InputError, match=r"pixels\.npy ends before image 2; remove .*p and start again"):
            file.read(np.array([0, 2]))


def test_pixels_say_that_the_disk_is_full(tmp_path, monkeypatch):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 100}))
    with pytest.raises(InputError, match=r"need 192 B in .*, where 100 B are free"):
        cache_pixels(tmp_path, np.array(["a.png"]), tmp_path / "p", size=8, workers=0, reporter=QUIET)


# The network, against one written with slices and sums
BLOCKS = [  # channels in, expansion, out, stride: table 2 of the paper, written out
    (32, 1, 16, 1), (16, 6, 24, 2), (24, 6, 24, 1), (24, 6, 32, 2), (32, 6, 32, 1), (32, 6, 32, 1), (32, 6, 64, 2),
    (64, 6, 64, 1), (64, 6, 64, 1), (64, 6, 64, 1), (64, 6, 96, 1), (96, 6, 96, 1), (96, 6, 96, 1), (96, 6, 160, 2),
    (160, 6, 160, 1), (160, 6, 160, 1), (160, 6, 320, 1),
]  # fmt: skip


class Naive:
    """The predecessor's network in NumPy and float64; with `fills`, it makes its weights on the way.

    Statistics of batch normalisation are then those of the images, so that something is left of them at the end.
    """

    def __init__(self, layers=None, *, n_outputs=37, pads_at_end=True, epsilon=1e-3, seed=0):
        self.fills, self.layers = layers is None, {} if layers is None else layers
        self.n_outputs, self.pads_at_end, self.epsilon = n_outputs, pads_at_end, epsilon
        self.rng = np.random.default_rng(seed)

    def __call__(self, x):
        x = self.norm("batch_normalization", np.maximum(self.dense("dense", self.backbone(x), 1536), 0))
        return 1 / (1 + np.exp(-self.dense("dense_1", x, self.n_outputs)))

    def backbone(self, x):
        x = self.relu6(self.norm("bn_Conv1", self.full("Conv1", x)))
        for i, (inside, expansion, outside, stride) in enumerate(BLOCKS):
            name = f"block_{i}" if i else "expanded_conv"
            y = x
            if expansion > 1:
                y = self.one(f"{name}_expand", y, inside * expansion)
                y = self.relu6(self.norm(f"{name}_expand_BN", y))
            y = self.relu6(self.norm(f"{name}_depthwise_BN", self.depthwise(f"{name}_depthwise", y, stride)))
            y = self.norm(f"{name}_project_BN", self.one(f"{name}_project", y, outside))
            x = x + y if stride == 1 and inside == outside else y
        return self.relu6(self.norm("Conv_1_bn", self.one("Conv_1", x, 1280))).mean((1, 2))

    def made(self, name, **shapes):
        if self.fills:
            fan_in = {"kernel": lambda shape: np.prod(shape[:-1]), "depthwise_kernel": lambda _: 9}
            self.layers[name] = {
                kind: (self.rng.normal(0, (2 / fan_in[kind](shape)) ** 0.5 if kind in fan_in else 0.3, shape)).astype(
                    np.float32
                )
                for kind, shape in shapes.items()
            }
        return [self.layers[name][kind].astype(np.float64) for kind in shapes]

    def padded(self, x, stride):
        before = [0 if stride == 2 and side % 2 == 0 and self.pads_at_end else 1 for side in x.shape[1:3]]
        return np.pad(x, ((0, 0), (before[0], 1), (before[1], 1), (0, 0)))

    def windows(self, x, stride):
        high, wide = (-(-side // stride) for side in x.shape[1:3])
        x = self.padded(x, stride)
        for i in range(3):
            for j in range(3):
                yield i, j, x[:, i : i + stride * high : stride, j : j + stride * wide : stride][:, :high, :wide]

    def full(self, name, x):
        (kernel,) = self.made(name, kernel=(3, 3, 3, 32))
        return sum(part @ kernel[i, j] for i, j, part in self.windows(x, 2))

    def depthwise(self, name, x, stride):
        (kernel,) = self.made(name, depthwise_kernel=(3, 3, x.shape[-1], 1))
        return sum(part * kernel[i, j, :, 0] for i, j, part in self.windows(x, stride))

    def one(self, name, x, outside):
        return x @ self.made(name, kernel=(1, 1, x.shape[-1], outside))[0][0, 0]

    def dense(self, name, x, outside):
        kernel, bias = self.made(name, kernel=(x.shape[-1], outside), bias=(outside,))
        return x @ kernel + bias

    def norm(self, name, x):
        n = x.shape[-1]
        if self.fills:
            axes = tuple(range(x.ndim - 1))
            self.layers[name] = {
                "gamma": self.rng.uniform(0.7, 1.3, n).astype(np.float32),
                "beta": self.rng.normal(0, 0.1, n).astype(np.float32),
                "moving_mean": x.mean(axes).astype(np.float32),
                "moving_variance": (x.var(axes) + 0.01).astype(np.float32),
            }
        gamma, beta, mean, variance = (self.layers[name][kind].astype(np.float64) for kind in self.layers[name])
        return gamma * (x - mean) / np.sqrt(variance + self.epsilon) + beta

    @staticmethod
    def relu6(x):
        return np.clip(x, 0, 6)


def keras_file(path, layers, *, renamed=None):
    """Write layers as Keras 2 writes a whole model."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        names = [(renamed or {}).get(name, name) for name in layers]
        group.attrs["layer_names"] = [name.encode() for name in [*names, "dropout"]]
        group.create_group("dropout").attrs["weight_names"] = []
        for name, arrays in zip(names, layers.values(), strict=True):
            group.create_group(name).attrs["weight_names"] = [f"{name}/{kind}:0".encode() for kind in arrays]
            for kind, array in arrays.items():
                group[name].create_dataset(f"{name}/{kind}:0", data=array)
    return path


def torch_state(layers):
    """Return the layers of the backbone as torchvision's state dict names them."""
    names = ["features.0.0", "features.0.1"]
    for i in range(1, 18):
        parts = ["0.0", "0.1", "1", "2"] if i == 1 else ["0.0", "0.1", "1.0", "1.1", "2", "3"]
        names += [f"features.{i}.conv.{part}" for part in parts]
    names += ["features.18.0", "features.18.1"]
    theirs = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    state = {}
    for name, arrays in zip(names, layers.values(), strict=False):
        for kind, array in arrays.items():
            if kind == "kernel":
                array = array.transpose(3, 2, 0, 1)
            elif kind == "depthwise_kernel":
                array = array.transpose(2, 3, 0, 1)
            state[f"{name}.{theirs.get(kind, 'weight')}"] = torch.tensor(np.ascontiguousarray(array))
    return state


def photographs(n_images, side, seed=0):
    """Smooth random images, uint8 (n, side, side, 3)."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
            )
            for _ in range(n_images)
        ]
    )


@pytest.fixture(scope="module")
def predecessor():
    """Layers of the predecessor's network, images, and what it says of them."""
    images = photographs(2, 224)
    naive = Naive()
    naive(photographs(6, 96, seed=1) / 255.0)
    return naive.layers, images, Naive(naive.layers)(images / 255.0)


def test_the_predecessors_network_is_read_from_its_file(predecessor, tmp_path):
    from toolkit.faces.attributes.weights import load_network

    layers, images, expected = predecessor
    assert expected.std(0).mean() > 0.05  # something is left of the images
    renamed = {"dense": "dense_9", "dense_1": "dense_10", "batch_normalization": "batch_normalization_3"}
    network = load_network(keras_file(tmp_path / "weights-FC37.hdf5", layers, renamed=renamed)).double()
    assert network.design.attributes == PREDECESSOR
    assert network.design.convention == "keras"
    with torch.inference_mode():
        found = torch.sigmoid(network(torch.tensor(images / 255.0).permute(0, 3, 1, 2)))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("convention", "side"), [("keras", 45), ("keras", 64), ("torchvision", 45), ("torchvision", 64)]
)
def test_both_conventions_of_padding(convention, side):
    from toolkit.faces.attributes.network import CONVENTIONS, MobileNetV2

    ours = CONVENTIONS[convention]
    options = {"pads_at_end": convention == "keras", "epsilon": {"keras": 1e-3, "torchvision": 1e-5}[convention]}
    images = photographs(3, side) / 255.0
    naive = Naive(seed=side, **options)
    naive.backbone(images)
    expected = Naive(naive.layers, **options).backbone(images)
    network = MobileNetV2(ours).double().eval()
    keys = {key for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    state = torch_state(naive.layers)
    assert set(state) == keys
    network.load_state_dict(state, strict=False)
    with torch.inference_mode():
        found = network(torch.tensor(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def generic(layers):
    """Name layers as Keras 3 does in a file of weights alone: by class and number."""
    seen, found = {}, {}
    for arrays in layers.values():
        kind = (
            "depthwise_conv2d" if "depthwise_kernel" in arrays
            else "batch_normalization" if "gamma" in arrays
            else "conv2d" if arrays["kernel"].ndim == 4
            else "dense"
        )  # fmt: skip
        number = seen[kind] = seen.get(kind, -1) + 1
        found[f"{kind}_{number}" if number else kind] = arrays
    return dict(sorted(found.items()))  # conv2d_10 before conv2d_2


def test_layers_that_keras_named_by_class_are_taken_by_number(predecessor):
    from toolkit.faces.attributes.keras_layers import network_of_layers

    layers, *_ = predecessor
    states = [network_of_layers(form, Path("x.h5")).state_dict() for form in (layers, generic(layers))]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def without(layers, name):
    return {key: value for key, value in layers.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: without(layers, "block_3_expand"), r"hold nothing where 1 layers \(block_3_expand\) should be"),
        (lambda layers: without(layers, "dense"), r"hold 1 layers \(dense_1\) where 2 layers \(dense, dense_1\)"),
        (lambda layers: layers | {"dense_2": layers["dense"]}, r"hold 3 layers .* where 2 layers"),
        (
            lambda layers: layers | {"Conv_1": layers["Conv1"]},
            r"layer Conv_1 is \(32, 3, 3, 3\), not \(1280, 320, 1, 1\)",
        ),
        (lambda layers: layers | {"Conv_1": layers["dense"]}, r"kernel of layer Conv_1 has 2 axes, not 4"),
        (
            lambda layers: layers | {"bn_Conv1": without(layers["bn_Conv1"], "gamma")},
            r"bn_Conv1 has no gamma, but beta",
        ),
        (
            lambda layers: layers | {"dense_1": {"kernel": np.zeros((1536, 5)), "bias": np.zeros(5)}},
            r"have 5 outputs, and Keras keeps no names of them; allowed: 37 \(CelebA\) or 40",
        ),
    ],
)
def test_layers_of_another_network_are_refused(predecessor, change, message):
    from toolkit.faces.attributes.keras_layers import network_of_layers

    with pytest.raises(InputError, match=message):
        network_of_layers(change(predecessor[0]), Path("x.h5"))


# Telling attributes
def saved_images(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def test_attributes_are_written_as_a_descriptor(predecessor, tmp_path):
    layers, images, expected = predecessor
    folder = saved_images(tmp_path / "faces", images)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    weights = keras_file(tmp_path / "FC37.hdf5", layers)
    made = predict_attributes(folder, tmp_path / "out", weights=weights, device="cpu", workers=0)
    assert (made.n_images, made.n_attributes, made.n_failed, made.was_finished) == (3, 37, 1, False)
    table = pd.read_csv(made.table)
    assert table.columns.tolist() == ["path", *PREDECESSOR]
    assert table["path"].tolist() == ["0.png", "1.png", "broken.png"]
    np.testing.assert_allclose(table.iloc[:2, 1:], expected, atol=3e-4)  # of float32
    assert table.iloc[2, 1:].isna().all()
    assert re.search(r"^broken\.png(,){37}$", made.table.read_text(), re.MULTILINE)
    with (tmp_path / "out/quarantine_attributes.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["broken.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.endswith(".lock")) == [
        "attributes.csv", "attributes.json", "images_paths.csv", "quarantine_attributes.csv",
    ]  # fmt: skip
    loader = DataLoader(descriptor_folder=tmp_path / "out")
    assert loader.names == ("attributes",)
    assert loader.image_paths.tolist() == table["path"].tolist()
    np.testing.assert_allclose(loader.load_descriptor("attributes"), table.iloc[:, 1:], rtol=1e-6)

    before = made.table.read_bytes()
    again = predict_attributes(folder, tmp_path / "out", weights=weights, device="cpu", workers=0)
    assert again.was_finished
    assert "finished before" in again.text
    assert made.table.read_bytes() == before
    with pytest.raises(InputError, match=r"holds attributes of other images or options \(batch was 4, is 2\)"):
        predict_attributes(folder, tmp_path / "out", weights=weights, batch=2, device="cpu", workers=0)


def test_attributes_go_on_where_they_were_stopped(predecessor, tmp_path, monkeypatch):
    from toolkit.faces.attributes import predict

    layers, images, _ = predecessor
    folder = saved_images(tmp_path / "faces", images[:1])
    (folder / "broken.png").write_bytes(b"no image")
    weights = keras_file(tmp_path / "FC37.hdf5", layers)
    whole = predict_attributes(folder, tmp_path / "whole", weights=weights, device="cpu", workers=0)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(predict, "_facts", stop)  # the table is written, the record is not
        with pytest.raises(KeyboardInterrupt):
            predict_attributes(folder, tmp_path / "stopped", weights=weights, device="cpu", workers=0)
    made = predict_attributes(folder, tmp_path / "stopped", weights=weights, device="cpu", workers=0)
    assert not made.was_finished
    for name in ("attributes.csv", "quarantine_attributes.csv", "images_paths.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (whole.table.parent / name).read_bytes()


def test_attributes_of_images_beside_the_results(predecessor, tmp_path):
    """What lies in the folder of the results is no image of the job, whatever else is in that of the images."""
    layers, images, _ = predecessor
    weights = keras_file(tmp_path / "FC37.hdf5", layers)
    folder = saved_images(tmp_path / "faces", images[:1])
    saved_images(folder / "results", images[:2])
    made = predict_attributes(folder, folder / "results", weights=weights, device="cpu", workers=0)
    assert pd.read_csv(made.table)["path"].tolist() == ["0.png"]
    before = made.table.read_bytes()
    made.table.unlink()
    again = predict_attributes(folder, folder / "results", weights=weights, device="cpu", workers=0)
    assert not again.was_finished
    assert made.table.read_bytes() == before


def test_weights_that_are_none_of_attributes_are_refused(tmp_path):
    folder = saved_images(tmp_path / "faces", photographs(1, 32))
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "zeros.pt").write_bytes(bytes(5000))
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"design": print}, tmp_path / "evil.pt")
    none, unreadable = "are none of a network of attributes; give best.pt", "is not a PyTorch file of tensors"
    for name, message in (
        ("other.pt", none),
        ("list.pt", none),
        ("text.pt", unreadable),
        ("zeros.pt", unreadable),
        ("evil.pt", unreadable),
        ("no.pt", "exist"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            predict_attributes(folder, tmp_path / "out", weights=tmp_path / name, device="cpu")
        assert "\n" not in str(caught.value)
        assert "mmap" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# Training
def test_images_are_moved_as_their_matrices_say():
    from scipy.ndimage import map_coordinates

    from toolkit.faces.attributes.batches import Batch, inputs, motions
    from toolkit.faces.attributes.network import CONVENTIONS

    rows = np.arange(40)
    moved = motions(rows, seed=3, epoch=2)
    np.testing.assert_array_equal(motions(rows[[7, 3]], seed=3, epoch=2), moved[[7, 3]])  # whatever the batch
    assert not np.array_equal(motions(rows, seed=3, epoch=3), moved)
    assert not np.array_equal(motions(rows, seed=4, epoch=2), moved)
    scale = np.sqrt(np.abs(np.linalg.det(moved[:, :, :2])))
    assert 0.3 < (np.linalg.det(moved[:, :, :2]) < 0).mean() < 0.7  # about half are mirrored
    assert scale.min() > 0.9 - 1e-6
    assert scale.max() < 1.1 + 1e-6
    assert np.abs(moved[:, :, 2]).max() <= 0.2  # a tenth of the side, which is 2 long
    assert np.abs(np.rad2deg(np.arctan2(moved[:, 0, 1], moved[:, 1, 1]))).max() <= 10

    side = 20
    pixels = np.random.default_rng(5).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    batch = Batch(pixels, np.zeros((3, 1), np.int8), moved[:3])
    found = inputs(batch, CONVENTIONS["keras"].preprocessing, torch.device("cpu")).numpy() * 255
    centres = (2 * np.arange(side) + 1) / side - 1
    x, y = np.meshgrid(centres, centres)
    for i in range(3):
        old_x, old_y = (moved[i].astype(float) @ np.stack([x.ravel(), y.ravel(), np.ones(side * side)]) + 1) * side / 2
        for channel in range(3):
            expected = map_coordinates(
                pixels[i, :, :, channel].astype(float), [old_y - 0.5, old_x - 0.5], order=1, mode="nearest"
            )
            np.testing.assert_allclose(found[i, channel].ravel(), expected, atol=0.02)


def test_labels_that_are_not_known_do_not_count():
    from toolkit.faces.attributes.trainer import _loss_sum

    logits = torch.tensor([[2.0, -1.0, 30.0], [0.5, 4.0, -30.0]], requires_grad=True)
    labels = torch.tensor([[1, -1, 0], [0, 1, -1]], dtype=torch.int8)
    loss = _loss_sum(logits, labels)
    expected = sum(np.log1p(np.exp(-value)) for value in (2.0, 1.0, 4.0, 30.0))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert logits.grad[0, 2] == logits.grad[1, 0] == 0
    assert (logits.grad[labels != 0] != 0).all()


def test_the_loss_of_an_epoch_is_the_mean_over_labels(tmp_path, monkeypatch):
    from toolkit.faces.attributes.trainer import Trainer

    seen = []

    def step(_self, batch):
        seen.append(int((batch.labels != 0).sum()))
        return torch.tensor(float(len(seen)))

    monkeypatch.setattr(Trainer, "_step", step)
    trained(drawn(tmp_path, 30), tmp_path / "out", epochs=1, batch=4)
    assert len(set(seen)) > 1
    expected = np.average(np.arange(1, len(seen) + 1), weights=seen)
    assert pd.read_csv(tmp_path / "out/history.csv")["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_no_image_is_alone_in_its_batch(tmp_path):
    from toolkit.faces.attributes.batches import Batches

    for n_images, size, expected in ((3, 2, [3]), (5, 2, [3, 2]), (4, 2, [2, 2]), (7, 3, [3, 2, 2]), (1, 2, [1])):
        batches = Batches(None, np.zeros((9, 1), np.int8), size, 0)
        parts = np.array_split(np.arange(n_images), batches.n_batches(np.arange(n_images)))
        assert [len(part) for part in parts] == expected
    data = drawn(tmp_path, 5)  # three to train with
    assert trained(data, tmp_path / "out", epochs=1, batch=2).n_images == (3, 1, 1)
    (tmp_path / "out/accuracy.csv").unlink()
    assert not trained(data, tmp_path / "out", epochs=1, batch=2).was_finished
    assert (tmp_path / "out/accuracy.csv").is_file()


def test_the_table_of_accuracy_is_that_of_scikit_learn():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    rng = np.random.default_rng(6)
    labels = rng.choice([-1, 0, 1], (200, 4), p=[0.6, 0.1, 0.3]).astype(np.int8)
    labels[:, 3] = np.abs(labels[:, 3])  # there is no image without it
    said = rng.random((200, 4)) < 0.5
    counts = Counts(4)
    counts.add(labels[:150], said[:150])
    counts.add(labels[150:], said[150:])
    table = accuracy_table("test", list("abcd"), counts)
    for j in range(4):
        known = labels[:, j] != 0
        truth, answer = labels[known, j] > 0, said[known, j]
        line = table.iloc[j]
        assert (line["part"], line["attribute"], line["n"]) == ("test", "abcd"[j], known.sum())
        assert line["accuracy"] == pytest.approx(accuracy_score(truth, answer))
        assert line["positive_rate"] == pytest.approx(truth.mean())
        assert line["majority_accuracy"] == pytest.approx(max(truth.mean(), 1 - truth.mean()))
        if j < 3:
            assert line["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, answer))
    assert np.isnan(table["balanced_accuracy"][3])
    right = ((labels > 0) == said) & (labels != 0)
    assert counts.accuracy == pytest.approx(right.sum() / (labels != 0).sum())


def test_a_training_learns_and_its_tables_are_true(tmp_path):
    data = drawn(tmp_path, 300)
    images, _, _, labels, parts = data
    options = {"epochs": 6, "batch": 12, "learning_rate": 3e-3}
    made = trained(data, tmp_path / "out", **options)
    assert made.n_images == (180, 60, 60)
    assert made.accuracy > 0.85  # 0.92 where this was written; sums of other processors differ
    assert 0.5 <= made.majority_accuracy < 0.7
    table = pd.read_csv(tmp_path / "out/accuracy.csv")
    assert table["part"].tolist() == ["validation"] * 3 + ["test"] * 3
    assert (table.loc[table["part"] == "test", "accuracy"] > 0.7).all()
    validation = table[table["part"] == "validation"]
    assert made.accuracy == pytest.approx(np.average(validation["accuracy"], weights=validation["n"]), abs=1e-5)
    history = pd.read_csv(tmp_path / "out/history.csv")
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert made.best_epoch == history["val_accuracy"].idxmax() + 1
    assert made.accuracy == pytest.approx(history["val_accuracy"].max(), abs=1e-6)
    assert "waiting for images" in made.text
    assert not (tmp_path / "out/pixels").exists()

    told = predict_attributes(images, tmp_path / "told", weights=tmp_path / "out/best.pt", device="cpu", workers=0)
    probabilities = pd.read_csv(told.table).set_index("path")[["Red", "Bright", "Above"]].to_numpy()
    for part, number in (("validation", 1), ("test", 2)):
        rows = parts == number
        for j, name in enumerate(("Red", "Bright", "Above")):
            known = rows & (labels[:, j] != 0)
            line = table[(table["part"] == part) & (table["attribute"] == name)].iloc[0]
            assert line["n"] == known.sum()
            right = (probabilities[known, j] > 0.5) == (labels[known, j] > 0)
            assert line["accuracy"] == pytest.approx(right.mean(), abs=1e-6)

    assert trained(data, tmp_path / "out", **options).was_finished
    with pytest.raises(InputError, match=r"holds a training of other images or options \(seed was 0, is 1\)"):
        trained(data, tmp_path / "out", **options, seed=1)


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_attributes import trained
data = [Path(path) for path in {data!r}]
trained(data, Path({out!r}), epochs=4)
"""


def test_a_killed_training_ends_as_one_that_was_not(tmp_path):
    data = drawn(tmp_path, 30)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    trained(data, whole, epochs=4)
    code = KILLED.format(tests=str(ROOT / "tests"), data=[str(path) for path in data[:3]], out=str(killed))
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while not (killed / "history.csv").exists():
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    n_done = len(pd.read_csv(killed / "history.csv"))
    assert json.loads((killed / "training.json").read_text())["finished"] is None
    assert 1 <= n_done < 4
    made = trained(data, killed, epochs=4)
    assert not made.was_finished
    for name in ("history.csv", "accuracy.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("best.pt", "checkpoint.pt"):
        one, other = (torch.load(folder / name, weights_only=True)["state_dict"] for folder in (whole, killed))
        assert all(torch.equal(one[key], other[key]) for key in one), name
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_loss_that_is_no_number_stops_the_training(tmp_path, monkeypatch):
    from toolkit.faces.attributes.trainer import Trainer, TrainingDivergedError

    data = drawn(tmp_path, 20)
    keep = Trainer._keep

    def keep_and_stop(self, done):
        keep(self, done)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_keep", keep_and_stop)
        with pytest.raises(KeyboardInterrupt):
            trained(data, tmp_path / "out")
    path = tmp_path / "out/checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    saved["state_dict"]["output.bias"][1] = float("nan")
    torch.save(saved, path)
    before = path.read_bytes()
    monkeypatch.setattr(Trainer, "_measure", None)  # it is said before anything is measured
    with pytest.raises(
        TrainingDivergedError,
        match=r"no longer a number in epoch 2; epoch 1 is kept in .*smaller learning rate, for instance 0.0001",
    ) as caught:
        trained(data, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    path.write_bytes(before[:1000])
    with pytest.raises(InputError, match="is damaged"):
        trained(data, tmp_path / "out")


def test_the_best_network_is_the_first_of_the_most_accurate(tmp_path):
    from toolkit.faces.attributes.celeba import Attributes
    from toolkit.faces.attributes.train import Options
    from toolkit.faces.attributes.trainer import Epoch, Trainer

    listed = Attributes(np.array(["a"]), ("A",), np.array([[1]], np.int8))
    trainer = Trainer(tmp_path, listed, Options(5, 2, 0.1, 32, 0, "cpu"), None, QUIET)
    for epoch, accuracy in enumerate((0.5, 0.7, 0.6, 0.7, 0.1), 1):
        torch.nn.init.constant_(trainer.network.output.bias, epoch)
        trainer._keep(Epoch(epoch, 1.0, 1.0, accuracy))
    found = {name: torch.load(tmp_path / name, weights_only=True) for name in ("best.pt", "checkpoint.pt")}
    assert found["best.pt"]["state_dict"]["output.bias"].item() == 2
    assert found["checkpoint.pt"]["state_dict"]["output.bias"].item() == 5
    assert pd.read_csv(tmp_path / "history.csv")["val_accuracy"].tolist() == [0.5, 0.7, 0.6, 0.7, 0.1]


def test_images_that_cannot_be_used_are_listed_and_left_out(tmp_path):
    images, _, partition, *_ = data = drawn(tmp_path, 20)
    (images / "000000.png").unlink()
    (images / "000001.png").write_bytes(b"no image")
    lines = partition.read_text().splitlines()
    partition.write_text("\n".join([*lines[:2], *lines[3:], "strange.png 0", ""]))
    made = trained(data, tmp_path / "out", epochs=1)
    assert made.n_images == (9, 4, 4)
    assert made.n_quarantined == 4
    with (tmp_path / "out/quarantine.csv").open() as file:
        found = {row["image_path"]: row["reason"] for row in csv.DictReader(file)}
    assert found["000000.png"] == "does not exist"
    assert found["000001.png"].startswith("is no image")
    assert found["000002.png"] == "has no line in list_eval_partition.txt"
    assert found["strange.png"] == "has no line in list_attr_celeba.txt"
    assert "4 images left out" in made.text

    for parts, told in (("1", "0 for training, 18 for validation"), ("0", "18 for training, 0 for validation")):
        partition.write_text("".join(f"{i:06}.png {parts}\n" for i in range(20)))
        with pytest.raises(InputError, match=f"{told}, 0 for test; 2 are left out, see .*; needed: 2 for training"):
            trained(data, tmp_path / f"none{parts}", epochs=1)
    partition.write_text("other.png 0\n")
    with pytest.raises(InputError, match="no image in common"):
        trained(data, tmp_path / "common", epochs=1)


def test_a_training_starts_from_a_backbone_of_torchvision(tmp_path):
    from toolkit.faces.attributes.weights import load_network

    data = drawn(tmp_path, 10)
    naive = Naive()
    naive.backbone(photographs(3, 32) / 255.0)
    state = torch_state(naive.layers)
    torch.save(state | {"classifier.1.weight": torch.zeros(1000, 1280)}, tmp_path / "mobilenet_v2.pth")
    trained(data, tmp_path / "out", backbone=tmp_path / "mobilenet_v2.pth", learning_rate=1e-9, epochs=1)
    found = load_network(tmp_path / "out/best.pt").state_dict()
    for key, value in state.items():
        if "running" not in key:
            torch.testing.assert_close(found[f"backbone.{key}"], value, rtol=0, atol=1e-6)
    torch.save({"features.0.0.weight": state["features.0.0.weight"]}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"are not those of torchvision's mobilenet_v2: .* missing"):
        trained(data, tmp_path / "other", backbone=tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"backbone .* does not exist"):
        trained(data, tmp_path / "none", backbone=tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; allowed: 1 to"),
        ({"batch": 1}, "batch is 1; allowed: 2 to"),
        ({"learning_rate": 0}, "learning_rate is 0.0; allowed: more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"image_size": 8}, "image_size is 8; allowed: 32 to 512"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"names": ["Smiling"]}, "unknown attribute 'Smiling'; known: Above, Bright, Red"),
        ({"memory": "10MiB"}, "training with batches of 8 images of 32 pixels a side needs"),
    ],
)
def test_wrong_options_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        trained(drawn(tmp_path, 5), tmp_path / "out", **options)


def test_a_training_that_could_not_start_claims_nothing(tmp_path, monkeypatch):
    data = drawn(tmp_path, 20)
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="are not those of torchvision's mobilenet_v2"):
        trained(data, tmp_path / "out", backbone=tmp_path / "other.pt")
    with pytest.raises(MemoryBudgetError):
        trained(data, tmp_path / "out", memory="50MiB")
    with pytest.raises(InputError, match="learning_rate is nan"):
        trained(data, tmp_path / "out", learning_rate=float("nan"))
    assert not (tmp_path / "out").exists()

    def stop(*_, **__):
        raise RuntimeError("the power is gone")

    for name in ("cache_pixels", "usable_rows"):  # killed before anything is decoded, and after all is
        with monkeypatch.context() as patch:
            patch.setattr(training_room, name, stop)
            with pytest.raises(RuntimeError, match="power"):
                trained(data, tmp_path / "out", seed=1)
        if name == "cache_pixels":
            with monkeypatch.context() as patch:
                patch.setattr(training_room, name, stop)
                with pytest.raises(RuntimeError, match="power"):  # is not refused
                    trained(data, tmp_path / "out", seed=2)
    with pytest.raises(InputError, match="seed was 1, is 2"):
        trained(data, tmp_path / "out", seed=2)


def test_attributes_that_could_not_start_claim_nothing(tmp_path):
    data = drawn(tmp_path, 20)
    trained(data, tmp_path / "a", epochs=1)
    trained(data, tmp_path / "b", epochs=1, seed=1)
    images, out = saved_images(tmp_path / "faces", photographs(2, 32)), tmp_path / "out"
    with pytest.raises(MemoryBudgetError):
        predict_attributes(images, out, weights=tmp_path / "a/best.pt", device="cpu", memory="50MiB")
    assert not out.exists()
    predict_attributes(images, out, weights=tmp_path / "b/best.pt", device="cpu", workers=0)
    with pytest.raises(InputError, match="weights are other ones"):
        predict_attributes(images, out, weights=tmp_path / "a/best.pt", device="cpu", workers=0)


def test_both_verbs(tmp_path):
    images, attributes, partition, *_ = drawn(tmp_path, 20)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in images.iterdir():
            archive.write(path, f"img_align_celeba/{path.name}")
    lists = ["--attributes", str(attributes), "--partition", str(partition)]
    command = ["faces", "train-attributes", str(tmp_path / "images.zip"), *lists, "--out", str(tmp_path / "out")]
    small = ["--epochs", "1", "--batch", "8", "--image-size", "32", "--device", "cpu", "--workers", "0"]
    result = CliRunner().invoke(app, [*command, *small, "--attribute", "Bright", "--attribute", "Red"])
    assert result.exit_code == 0, result.output
    assert "2 attributes of 12 training, 4 validation, 4 test images" in result.output
    told = ["faces", "attributes", str(images), "--weights", str(tmp_path / "out/best.pt"), "--device", "cpu"]
    result = CliRunner().invoke(app, [*told, "--workers", "0", "--out", str(tmp_path / "told")])
    assert result.exit_code == 0, result.output
    assert "2 attributes of 20 images" in result.output
    assert pd.read_csv(tmp_path / "told/attributes.csv").columns.tolist() == ["path", "Red", "Bright"]


def test_the_verbs_import_no_torch_before_they_need_it():
    code = (
        "import sys, toolkit.faces.attributes.train, toolkit.faces.attributes.predict; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, env=os.environ).returncode == 0
