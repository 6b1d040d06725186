"""MTCNN: with networks of random weights, which run everywhere, and with those of facenet-pytorch where it is there."""

from __future__ import annotations

import functools
import math
import pickle
import sys
import types
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import astronaut

from toolkit import packages
from toolkit.errors import InputError, MissingPackageError
from toolkit.faces import align
from toolkit.faces.crops import detect_faces
from toolkit.faces.detectors import make_detector
from toolkit.memory import peak_bytes, reset_peak, resident_bytes

torch = pytest.importorskip("torch")
from toolkit.faces.detectors import mtcnn  # noqa: E402
from toolkit.faces.detectors.mtcnn_networks import ONet, PNet, RNet, open_networks  # noqa: E402

PHOTO = astronaut()
SMALL = np.asarray(Image.fromarray(PHOTO).resize((90, 80)))
FILES = ("pnet.pt", "rnet.pt", "onet.pt")
LAST = ("conv4_1", "dense5_1", "dense6_1")  # layers that tell faces from others
# What MTCNN(keep_all=True).detect(astronaut(), landmarks=True) of facenet-pytorch 2.6.0 returns, with torch 2.13.0 on a
# CPU and torchvision's batched_nms written anew in NumPy. Its boxes count pixels from 1, its landmarks from 0.
REFERENCE_BOX = (181.051407, 62.156132, 267.747314, 172.050156)
REFERENCE_SCORE = 0.99999774
REFERENCE_LANDMARKS = (
    (205.010910, 101.727448), (246.762573, 103.714081), (224.671356, 128.964996), (201.716110, 139.246170),
    (245.265488, 141.857010),
)  # fmt: skip


def random_networks(bias, gain=30.0):
    """Return the three networks: the larger the bias, the more windows they take for a face."""
    torch.manual_seed(5)
    networks = PNet(), RNet(), ONet()
    for network, name in zip(networks, LAST, strict=True):
        with torch.no_grad():
            getattr(network, name).weight.mul_(gain)
            getattr(network, name).bias.copy_(torch.tensor([0.0, bias]))
    return networks


def saved(networks, folder):
    for network, name in zip(networks, FILES, strict=True):
        torch.save(network.state_dict(), folder / name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(random_networks(1.0), tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def random_detector(folder):
    return make_detector("mtcnn", folder)


@functools.cache
def trained():
    return make_detector("mtcnn")


@pytest.fixture
def detector():
    """Return the detector with the weights of facenet-pytorch, or skip the test where it is missing."""
    try:
        return trained()
    except MissingPackageError as error:
        pytest.skip(str(error))


def arrays(faces):
    """Return boxes (n, 4), scores (n,), landmarks (n, 5, 2)."""
    boxes = np.array([(face.x, face.y, face.width, face.height) for face in faces])
    return boxes, np.array([face.score for face in faces]), np.array([face.landmarks for face in faces])


# Non-maximum suppression
def brute_force(boxes, scores, most, *, of_smaller):
    """Return what stays, by exact fractions, box after box."""
    boxes = [[Fraction(float(value)) for value in box] for box in boxes]
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if overlap(boxes[best], boxes[i], of_smaller) <= most]
    return kept


def overlap(one, two, of_smaller):
    width = max(min(one[2], two[2]) - max(one[0], two[0]), 0)
    height = max(min(one[3], two[3]) - max(one[1], two[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    whole = min(areas) if of_smaller else sum(areas) - width * height
    return width * height / whole if whole else 0


@pytest.mark.parametrize("of_smaller", [False, True])
@pytest.mark.parametrize("most", [Fraction(1, 2), Fraction(3, 4)])
def test_suppression_is_that_of_the_definition(most, of_smaller, rng):
    """On a lattice, where boxes are the same, overlaps lie on the boundary and scores are equal."""
    n_suppressed = n_boundary = 0
    for n in (0, 1, 2, 3, 30, 120):
        corners = rng.integers(0, 4, (n, 2))
        boxes = np.concatenate([corners, corners + rng.integers(0, 6, (n, 2))], axis=1).astype(np.float32)
        boxes = boxes[rng.integers(0, max(n, 1), n)]  # some of them several times
        scores = rng.choice(np.float32([0.6, 0.7, 0.9, 1.0]), n)
        expected = brute_force(boxes, scores, most, of_smaller=of_smaller)
        found = mtcnn.suppressed(boxes, scores, float(most), of_smaller=of_smaller)
        assert found.tolist() == expected
        n_suppressed += n - len(expected)
        n_boundary += sum(
            overlap(*([Fraction(float(v)) for v in boxes[i]] for i in (a, b)), of_smaller) == most
            for a in range(n)
            for b in range(a)
        )
    assert n_suppressed > 30
    assert n_boundary > 2


def test_what_is_suppressed_suppresses_nothing():
    boxes = np.float32([(0, 0, 10, 10), (4, 0, 14, 10), (8, 0, 18, 10)])
    assert mtcnn.suppressed(boxes, np.float32([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]
    assert mtcnn.suppressed(boxes, np.float32([0.7, 0.8, 0.7]), 0.4).tolist() == [1]


# Stages
@pytest.mark.parametrize("side", [1, 19, 20, 21, 28, 29, 100, 512, 3000])
def test_scales_reach_from_the_smallest_face_to_the_image(side):
    found = list(mtcnn.scales(side, 20))
    assert len(found) == (0 if side < 20 else 1 + math.floor(math.log(side / 20) / math.log(1 / 0.709) + 1e-9))
    np.testing.assert_allclose(found, [0.6 * 0.709**k for k in range(len(found))])


@pytest.mark.parametrize("shape", [(12, 12), (13, 12), (12, 31), (40, 27), (37, 44)])
@pytest.mark.parametrize("band", [1, 200, 1 << 17])
def test_proposals_are_those_of_each_window(shape, band, monkeypatch, rng):
    """Windows of 12 x 12 pixels, two apart; with odd sides the last ones lack a row or a column."""
    monkeypatch.setattr(mtcnn, "_BAND_PIXELS", band)
    network = random_networks(0.0)[0]
    image = torch.from_numpy(rng.integers(0, 256, (1, 3, *shape)).astype(np.float32))
    with torch.inference_mode():
        probabilities, shares = mtcnn.propose(network, image)
        n_rows, n_columns = ((side - 10) // 2 + side % 2 for side in shape)
        assert probabilities.shape == (1, n_rows, n_columns)
        assert shares.shape == (1, 4, n_rows, n_columns)
        for row in range(n_rows):
            for column in range(n_columns):
                window = image[:, :, 2 * row : 2 * row + 12, 2 * column : 2 * column + 12]
                probability, share = network((window - 127.5) / 128)
                torch.testing.assert_close(probability[0, 0, 0], probabilities[0, row, column], atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(share[0, :, 0, 0], shares[0, :, row, column], atol=1e-5, rtol=1e-5)
    assert probabilities.numel() == 1 or probabilities.std() > 0.05


@pytest.mark.parametrize("network", random_networks(0.0)[1:])
def test_networks_see_what_is_inside_and_measure_in_it(network, rng):
    image = torch.from_numpy(rng.integers(0, 256, (1, 3, 50, 70)).astype(np.float32))
    boxes = np.float32(
        [
            (3.7, 4.2, 30.9, 40.1),
            (-5.5, -0.5, 20.2, 60.9),
            (60, 45, 90, 80),
            (-9, 3, -0.5, 20),  # outside, as the next ones
            (70, 3, 80, 20),
            (5, -20, 9, -3),
            (5, 50.2, 9, 60),
            (69.5, 10, 80, 20),
            (69, 49, 80, 80),  # the last pixel
            (12, 12, 12, 12),
        ]
    )
    with torch.inference_mode():
        seen, (probabilities, shares, *_) = mtcnn._seen(network.eval(), image, boxes)
        inside = [
            ((4, 41), (3, 31)),
            ((0, 50), (0, 21)),
            ((45, 50), (60, 70)),
            ((49, 50), (69, 70)),
            ((12, 13), (12, 13)),
        ]
        np.testing.assert_allclose(
            seen, [(3.7, 4.2, 30.9, 40.1), (0, 0, 20.2, 49), (60, 45, 69, 49), (69, 49, 69, 49), (12, 12, 12, 12)],
            rtol=1e-6,
        )  # fmt: skip
        for k, (rows, columns) in enumerate(inside):
            part = image[0, :, slice(*rows), slice(*columns)].numpy()
            expected = network(torch.from_numpy(area_resized(part, network.side))[None].sub(127.5).div(128).float())
            np.testing.assert_allclose(probabilities[k], expected[0][0], atol=1e-5)
            np.testing.assert_allclose(shares[k], expected[1][0], atol=1e-5)
        nothing = mtcnn._seen(network, image, boxes[3:5])[1]
    assert [len(part) for part in nothing] == [0] * (2 + isinstance(network, ONet))


def area_resized(part, side):
    """Return the mean of the pixels that each of the new ones touches, (3, side, side)."""
    rows, columns = (
        [(n * i // side, -(-n * (i + 1) // side)) for i in range(side)] for n in part.shape[1:]
    )  # first and end
    return np.array([[[channel[a:b, c:d].mean() for c, d in columns] for a, b in rows] for channel in part])


# Detection with random weights
def test_batches_and_bands_change_nothing(random_detector, monkeypatch):
    whole = arrays(random_detector.search(SMALL, 1))
    assert len(whole[1]) > 2
    monkeypatch.setattr(mtcnn, "_BATCH", 3)
    monkeypatch.setattr(mtcnn, "_BAND_PIXELS", 300)
    for found, expected in zip(arrays(random_detector.search(SMALL, 1)), whole, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_enlarged_images_are_measured_in_the_pixels_of_the_image(random_detector):
    enlarged = np.asarray(Image.fromarray(SMALL).resize((180, 160), Image.Resampling.BILINEAR))
    boxes, scores, landmarks = arrays(random_detector.search(enlarged, 1))
    found = arrays(random_detector.search(SMALL, 2))
    assert len(scores) > 2
    np.testing.assert_array_equal(found[0], boxes / 2)
    np.testing.assert_array_equal(found[1], scores)
    np.testing.assert_allclose(found[2], landmarks / 2 - 0.25, atol=1e-9)


def test_threads_change_nothing_and_are_left_alone(random_detector):
    n_threads, used = torch.get_num_threads(), set()
    hook = random_detector._pnet.register_forward_hook(lambda *_: used.add(torch.get_num_threads()))
    try:
        torch.set_num_threads(1)
        one = random_detector.search(SMALL, 1)
        torch.set_num_threads(2)
        two = random_detector.search(SMALL, 1)
        assert torch.get_num_threads() == 2
    finally:
        hook.remove()
        torch.set_num_threads(n_threads)
    assert used == {1}
    for first, second in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (11, 11), (12, 12), (19, 400), (20, 20), (21, 333)])
def test_odd_shapes(shape, random_detector):
    faces = random_detector.search(np.full((*shape, 3), 128, np.uint8), 1)
    assert not faces or min(shape) >= 20
    assert all(np.isfinite(array).all() for array in arrays(faces))
    random_detector.detect(np.full((*shape, 3), 128, np.uint8))


def test_memory_is_what_was_asked_for(tmp_path, rng):
    """Of an image that is searched once, and of one that is enlarged and padded too."""
    shy = make_detector("mtcnn", saved(random_networks(-50.0), tmp_path))
    shy.detect(np.zeros((40, 40, 3), np.uint8))  # loads what torch loads late
    for shape in ((1500, 2000), (250, 1000)):
        image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        reset_peak()
        before = resident_bytes()
        assert shy.detect(image) == []
        assert peak_bytes() - before < shy.needs(image) + (32 << 20)


def test_the_job_aligns_by_its_landmarks(folder, random_detector, tmp_path, capfd):
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(SMALL).save(images / "a.png")
    detect_faces(images, tmp_path / "out", detector="mtcnn", weights=folder, min_size=1, workers=1)
    assert "WIDER FACE" in capfd.readouterr().err
    table = pd.read_csv(tmp_path / "out" / "faces.csv")
    faces = [face for face in random_detector.detect(SMALL) if min(face.width, face.height) >= 1]
    assert len(table) == len(faces) > 2
    assert table["aligned"].all()
    for name, face in zip(table["crop"], faces, strict=True):
        chip = align.aligned_chip(SMALL, face.landmarks, align.ARCFACE_5, size=150, margin=0.25)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / name)), chip)


# Detection with the weights of facenet-pytorch
def test_the_photograph_has_the_face_of_facenet_pytorch(detector):
    (face,) = detector.detect(PHOTO)
    box = (face.x + 1, face.y + 1, face.x + face.width, face.y + face.height)
    np.testing.assert_allclose(box, REFERENCE_BOX, atol=2e-3)
    np.testing.assert_allclose(face.landmarks, REFERENCE_LANDMARKS, atol=2e-3)
    assert face.score == pytest.approx(REFERENCE_SCORE, abs=1e-6)
    assert (face.found, detector.landmark_model) == ("original", align.ARCFACE_5)


@pytest.mark.parametrize(("top", "left"), [(85, 0), (0, 200), (85, 200)])
def test_landmarks_of_faces_at_the_edge(top, left, detector):
    """The box of the whole photograph begins at 180, 61: it is cut off here."""
    face = max(detector.detect(PHOTO[top:400, left:]), key=lambda face: face.area)
    assert np.abs(face.landmarks - np.subtract(REFERENCE_LANDMARKS, (left, top))).max() < 5
    assert min(face.x, face.y) < 5


def test_small_faces_need_the_enlarged_image(detector):
    small = np.asarray(Image.fromarray(PHOTO).resize((55, 55), Image.Resampling.LANCZOS))
    (face,) = detector.detect(small)
    assert face.found == "upsampled"
    expected = (np.array(REFERENCE_LANDMARKS) + 0.5) * (55 / 512) - 0.5
    assert np.abs(face.landmarks - expected).max() < 1.5


@pytest.mark.parametrize("shape", [(1, 1), (11, 11), (12, 12), (300, 200), (1000, 1000)])
def test_grey_shows_no_face(shape, detector):
    assert detector.detect(np.full((*shape, 3), 128, np.uint8)) == []


# Weights
def test_weights_are_a_folder_with_three_files(tmp_path, folder):
    for name in FILES[:2]:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(InputError, match=r"onet.pt missing; give .* a folder with pnet.pt, rnet.pt, onet.pt"):
        make_detector("mtcnn", tmp_path)
    with pytest.raises(InputError, match=r"pnet.pt, rnet.pt, onet.pt missing"):
        make_detector("mtcnn", tmp_path / "pnet.pt")
    (tmp_path / "onet.pt").write_bytes((folder / "rnet.pt").read_bytes())
    with pytest.raises(InputError, match="are not those of ONet of mtcnn"):
        make_detector("mtcnn", tmp_path)
    (tmp_path / "onet.pt").write_bytes(pickle.dumps({"conv1.weight": print}, protocol=2))
    with pytest.raises(InputError, match="not a PyTorch file of tensors, or holds code"):
        make_detector("mtcnn", tmp_path)


def test_given_files_are_told(folder, random_detector):
    assert random_detector.weight_files == tuple(folder / name for name in FILES)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"facenet_pytorch, .*: pip install --no-deps facenet-pytorch$"):
        make_detector("mtcnn")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match="the detector mtcnn needs the package torch"):
        make_detector("mtcnn")


def test_packaged_weights_of_another_version_are_refused(folder, monkeypatch, tmp_path):
    (tmp_path / "data").symlink_to(folder)
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(packages, "find_spec", lambda _: spec)
    with pytest.raises(InputError, match=r"has SHA-256 .* pip install --force-reinstall --no-deps facenet-pytorch$"):
        make_detector("mtcnn")


def test_networks_come_back_as_they_were_saved(folder):
    for network, saved_one in zip(
        open_networks(tuple(folder / name for name in FILES)), random_networks(1.0), strict=True
    ):
        assert not network.training
        for key, value in saved_one.state_dict().items():
            torch.testing.assert_close(network.state_dict()[key], value, rtol=0, atol=0)
