"""The job that cuts out faces: what it writes, of whatever images, however it is stopped."""

from __future__ import annotations

import fcntl
import functools
import io
import json
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from skimage.data import astronaut

from tests.killed import run_killed
from toolkit import packages
from toolkit.errors import InputError, MissingPackageError
from toolkit.faces import align, crops, cutting
from toolkit.faces.crops import detect_faces
from toolkit.faces.detectors import Detector, Face, make_detector
from toolkit.faces.detectors.dlib_detectors import DlibHog
from toolkit.images import chunks
from toolkit.memory import peak_bytes, reset_peak, resident_bytes
from toolkit.progress import Reporter

QUIET = Reporter(quiet=True)
PHOTO = astronaut()
AROUND = Image.fromarray(PHOTO[30:230, 120:340])  # 220 x 200 pixels around it
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
    return detect_faces(images, out, reporter=QUIET, **{"workers": 0} | options)


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
            "notes.png": b"no image",
            "notes.txt": b"no image, and not called as one",
            "pixel.png": encoded(Image.new("RGB", (1, 1))),
            "torn.png": encoded(AROUND)[:4000],
            "wide.png": encoded(Image.new("RGB", (5000, 2))),
            ".hidden.png": encoded(AROUND),
        },
    )


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
    assert list(reasons) == ["empty.jpg", "grey.png", "notes.png", "pixel.png", "torn.png", "wide.png"]
    assert reasons["empty.jpg"] == "is empty"
    assert reasons["notes.png"].startswith("is no image of a format that is read")
    assert reasons["torn.png"].startswith("cannot be decoded")
    assert {reasons[name] for name in ("grey.png", "pixel.png", "wide.png")} == {"no face found"}
    assert (result.n_images, result.n_faces, result.n_quarantined, result.n_left_out) == (12, 6, 6, 0)
    assert "6 faces in 12 images" in result.text


@pytest.mark.usefixtures("hog")
def test_what_is_not_called_as_an_image_is_told(album, tmp_path, capfd):
    detect_faces(album, tmp_path / "out", workers=1)
    assert "1 files in" in (told := capfd.readouterr().err)
    assert "are passed over, their names are not those of images (1 .txt)" in told
    (tmp_path / "list.csv").write_text("album/notes.txt\nalbum/a/one.png\n")
    assert find(tmp_path / "list.csv", tmp_path / "listed").n_quarantined == 1  # what is listed is meant


@pytest.mark.usefixtures("hog")
def test_the_detector_is_recorded_and_its_terms_are_told(tmp_path, monkeypatch, capfd):
    images = write(tmp_path / "i", {"a.png": encoded(AROUND)})
    monkeypatch.setattr(DlibHog, "licence_note", "only on Sundays")
    detect_faces(images, tmp_path / "default", workers=1)
    assert capfd.readouterr().err.count("warning: only on Sundays\n") == 1
    detect_faces(images, tmp_path / "named", detector="dlib-hog", workers=1)
    assert files(tmp_path / "default") == files(tmp_path / "named")
    record = json.loads((tmp_path / "default" / "faces.json").read_text())
    assert record["job"]["detector"] == "dlib-hog"
    assert record["versions"]["pillow"] == version("pillow")


def test_weights_are_known_by_their_content(tmp_path):
    detector("dlib-mmod")
    images = write(tmp_path / "i", {"a.png": encoded(AROUND.resize((110, 100)))})
    content = packages.packaged_file("face_recognition_models", "models/mmod_human_face_detector.dat", what="a test")
    first, second = tmp_path / "a.dat", tmp_path / "b.dat"
    first.write_bytes(content.read_bytes())
    assert find(images, tmp_path / "o", detector="dlib-mmod", weights=first).n_images == 1
    first.rename(second)
    assert find(images, tmp_path / "o", detector="dlib-mmod", weights=second).was_finished
    second.write_bytes(content.read_bytes() + b"more")
    with pytest.raises(InputError, match=r"of other images or options \(weights are other ones\)"):
        find(images, tmp_path / "o", detector="dlib-mmod", weights=second)


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
    paths = [path for path in album.rglob("[!.]*") if path.is_file() and path.suffix != ".txt"]
    names = sorted(path.relative_to(album).as_posix() for path in paths)
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
    decode = cutting.decode
    calls = []

    def failing(data, *, most_bytes):
        calls.append(data)
        if len(calls) == 6:
            raise RuntimeError("the power is gone")
        return decode(data, most_bytes=most_bytes)

    monkeypatch.setattr(cutting, "decode", failing)
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
def test_all_processes_killed_again_and_again(tmp_path, monkeypatch):
    pictures = {f"{i % 7}/{i:03}.jpg": encoded(AROUND.rotate(i / 2), "JPEG") for i in range(39)}
    images = write(tmp_path / "i", pictures | {"bad.jpg": b"bad"})
    monkeypatch.setattr(chunks, "CHUNK", 4)
    find(images, tmp_path / "whole")
    out = tmp_path / "killed"
    command = ["faces", "detect", images, "--out", out, "--workers", 2, "--memory", "4GiB"]
    kept = run_killed(command, out / "crops" / ".parts", chunk=4)
    assert 0 < kept[0] < kept[1] < 10
    assert files(out) == files(tmp_path / "whole")


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
    assert "is finished already: 6 faces" in again.text
    assert "is finished already" not in capfd.readouterr().err, "the command line prints it once"
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
    monkeypatch.setattr(DlibHog, "bytes_per_pixel", 100_000)
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
    found = cutting.crop_names(np.array(names))
    assert found == ["a", "a-2", "A-3", "a-2-2", "a-4", "etc/b", "c/d", "image", "x" * 200]
    assert len({name.casefold() for name in found}) == len(names)


@pytest.mark.usefixtures("hog")
def test_names_that_no_file_system_takes_and_that_look_as_crops_do(tmp_path):
    deep = "deep/" * 800
    names = ["d" * 300 + "/x.png", "ok.png", "ok_0.png/x.png", "OK_0.PNG/y.png", f"{deep}x.png", "e" * 300 + ".png"]
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as archive:
        for name in names:
            archive.writestr(name, encoded(AROUND))
    assert find(tmp_path / "i.zip", tmp_path / "o").n_faces == len(names)
    found = tables(tmp_path / "o")[0]["crop"]
    assert len(set(found.str.casefold())) == len(names)
    assert all((tmp_path / "o" / crop).is_file() for crop in found)


def test_crops_are_never_where_the_chunks_are():
    found = cutting.crop_names(np.array([".parts/000000000/a.png", ".a.png", "b/../c.png", "..."]))
    assert found == ["parts/000000000/a", "a", "b/c", "image"]


@pytest.mark.usefixtures("hog")
def test_names_with_carriage_returns(tmp_path):
    images = write(
        tmp_path / "i", {"a\rb.png": encoded(AROUND), "c.png": encoded(AROUND), "new\nline.png": encoded(GREY)}
    )
    find(images, tmp_path / "o")
    faces, quarantine = tables(tmp_path / "o")
    assert faces["image_path"].tolist() == ["c.png"]
    assert quarantine.to_numpy().tolist() == [
        ["a\\rb.png", "has a carriage return in its name; rename it"],
        ["new\nline.png", "no face found"],
    ]


@pytest.mark.parametrize("aligned", [True, False])
def test_cutting_asks_for_memory_too(tmp_path, monkeypatch, aligned):
    """A face that fills a photograph, with a wide margin, is cut from many times the photograph."""
    side = 1500
    corners = (align.ARCFACE_TEMPLATE + 0.5) * side / 112 - 0.5
    found = Face(0, 0, side, side, 1.0, corners)

    class Found(Detector):
        small, bytes_per_pixel, landmark_model = 0, 1, align.ARCFACE_5

        def search(self, image, factor):
            return [found]

    monkeypatch.setattr(crops, "make_detector", lambda *_: Found())
    images = write(tmp_path / "i", {"a.png": encoded(Image.new("RGB", (side, side), "grey"))})
    options = {"detector": "mtcnn", "align": aligned, "size": 64}
    reset_peak()
    before = resident_bytes()
    find(images, tmp_path / "wide", margin=2, memory=before + (2 << 30), **options)
    assert peak_bytes() - before < 25 * side**2 * 12, "the estimate is too low"
    find(images, tmp_path / "o", margin=2, memory=resident_bytes() + (600 << 20), **options)
    (reason,) = tables(tmp_path / "o")[1]["reason"]
    assert "to be cut out with its margin" in reason
    assert "raise --memory, or take a smaller --margin" in reason
    narrow = find(images, tmp_path / "narrow", margin=0.25, memory=resident_bytes() + (600 << 20), **options)
    assert narrow.n_faces == 1


@pytest.mark.usefixtures("hog")
def test_tables_that_were_removed_are_made_again(album, tmp_path):
    find(album, tmp_path / "o")
    before = files(tmp_path / "o")
    (tmp_path / "o" / "faces.csv").unlink()
    assert not find(album, tmp_path / "o").was_finished
    assert files(tmp_path / "o") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": "retina"}, "unknown detector 'retina'; known: dlib-hog, dlib-mmod, "),
        ({"size": 8}, "size 8 of the crops; allowed: 16 to 2048"),
        ({"margin": -0.1}, "margin -0.1; allowed: 0 to 2"),
        ({"min_size": 0}, "min_size 0; allowed: from 1"),
        ({"min_score": float("nan")}, "min_score nan; allowed"),
        ({"workers": -1}, "workers is -1; allowed: 0"),
    ],
)
@pytest.mark.usefixtures("hog")
def test_bad_options(tmp_path, options, message):
    images = write(tmp_path / "i", {"a.png": encoded(AROUND)})
    with pytest.raises(InputError) as error:
        find(images, tmp_path / "o", **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "o").exists()


def torn_archive():
    """An archive of which the directory is damaged, not the end that says where it is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", encoded(AROUND))
    data = file.getvalue()
    at = data.rindex(b"PK\x01\x02")
    return data[:at] + b"JUNK" + data[at + 4 :]


@pytest.mark.usefixtures("hog")
def test_bad_images(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path, {"no.zip": b"no zip", "list.csv": b"", "torn.zip": torn_archive()})
    for name, message in (
        ("gone", "does not exist"),
        ("empty", "holds no image"),
        ("no.zip", "is no zip archive and no CSV"),
        ("torn.zip", "is not a zip archive that can be read"),
        ("list.csv", "holds no image"),
    ):
        with pytest.raises(InputError, match=message):
            find(tmp_path / name, tmp_path / "o")
    assert not (tmp_path / "o").exists()
