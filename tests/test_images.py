"""Images: every mode and format, what is damaged, files and archives. Everything is a real file made here."""

from __future__ import annotations

import io
import os
import struct
import threading
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from toolkit.errors import InputError, MemoryBudgetError
from toolkit.images import decode as decode_room
from toolkit.images import source as source_room
from toolkit.images.source import ImageError, open_images
from toolkit.images.thumbnails import Thumbnails, _Room, write_skipped
from toolkit.memory import MemoryBudget, resident_bytes

RED, BLUE = (200, 30, 40), (20, 40, 210)


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def solid(mode, colour, size=(60, 40)):
    return Image.new(mode, size, colour)


def gradient(width, height):
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)], axis=2).astype(np.uint8)
    )


def images_in(folder, contents):
    """Write name -> bytes as files and open them as a source."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return open_images(np.array(list(contents)), folder)


def thumbnails_of(source, size, memory):
    made = Thumbnails(source, size, memory)
    found = list(made.stream(range(len(source.paths))))
    assert [row for row, _ in found] == list(range(len(source.paths)))
    assert {row for row, image in found if image is None} == set(made.problems)
    return [image for _, image in found], made.problems


def palette(transparency=None):
    image = solid("P", 1)
    image.putpalette([*BLUE, *RED])
    return encoded(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


def checkerboard():
    return Image.fromarray((np.indices((400, 400)).sum(axis=0) % 2).astype(bool))


# name -> (bytes, the colour that the thumbnail has everywhere, tolerance)
MODES = {
    "L": (encoded(solid("L", 100), "PNG"), (100,) * 3, 0),
    "LA": (encoded(solid("LA", (100, 51)), "PNG"), (224,) * 3, 1),
    "P": (palette(), RED, 0),
    "P transparent": (palette(transparency=1), (255,) * 3, 0),
    "RGB": (encoded(solid("RGB", RED), "PNG"), RED, 0),
    "RGB one colour transparent": (encoded(solid("RGB", RED), "PNG", transparency=RED), (255,) * 3, 0),
    "RGBA": (encoded(solid("RGBA", (255, 0, 0, 128)), "PNG"), (255, 127, 127), 1),
    "CMYK tiff": (encoded(solid("CMYK", (0, 255, 255, 0)), "TIFF"), (255, 0, 0), 1),
    "CMYK jpeg": (encoded(solid("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0), 6),
    "16 bits png": (encoded(Image.fromarray(np.full((40, 60), 200 * 257, np.uint16)), "PNG"), (200,) * 3, 0),
    "16 bits tiff": (encoded(Image.fromarray(np.full((40, 60), 90 * 257, np.uint16)), "TIFF"), (90,) * 3, 0),
    "16 bits in 32": (encoded(Image.fromarray(np.full((40, 60), 200 * 257, np.int32)), "TIFF"), (200,) * 3, 0),
    "1 bit": (encoded(checkerboard(), "PNG"), (127,) * 3, 4),
    "1 bit tiff": (encoded(checkerboard(), "TIFF"), (127,) * 3, 4),
    "animated gif": (
        encoded(solid("RGB", RED), "GIF", save_all=True, append_images=[solid("RGB", BLUE)]), RED, 3),
    "animated webp": (
        encoded(solid("RGB", RED), "WEBP", save_all=True, append_images=[solid("RGB", BLUE)], lossless=True), RED, 1),
    "webp": (encoded(solid("RGB", RED), "WEBP", lossless=True), RED, 0),
    "jpeg": (encoded(solid("RGB", RED), "JPEG", quality=95), RED, 4),
    "grey jpeg": (encoded(solid("L", 77), "JPEG", quality=95), (77,) * 3, 2),
    "bmp": (encoded(solid("RGB", RED), "BMP"), RED, 0),
    "ppm": (encoded(solid("RGB", RED), "PPM"), RED, 0),
    "tiff": (encoded(solid("RGB", RED), "TIFF", compression="tiff_lzw"), RED, 0),
}  # fmt: skip


@pytest.mark.parametrize("size", [24, 60, 130])
def test_modes(tmp_path, memory, size):
    """Averaged, as it is, and enlarged, all become RGB of the right colour."""
    images, problems = thumbnails_of(images_in(tmp_path, {n: data for n, (data, *_) in MODES.items()}), size, memory)
    assert not problems
    for image, (name, (_, colour, tolerance)) in zip(images, MODES.items(), strict=True):
        assert image.mode == "RGB", name
        assert max(image.size) <= size
        assert np.abs(np.asarray(image).astype(int) - colour).max() <= tolerance, name


def test_decoding_takes_no_more_than_it_asks_for():
    values = np.arange(1_000_000, dtype=np.int32).reshape(1000, 1000) * 1000
    tracemalloc.start()
    decode_room.decode(encoded(Image.fromarray(values), "TIFF"), most_bytes=30_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 22_000_000  # of NumPy and the file; what Pillow takes, 4 bytes a pixel and then 4 more, is not traced
    padded = encoded(solid("RGB", RED, (4, 4)), "PNG") + bytes(1 << 20)
    decode_room.decode(padded, most_bytes=(1 << 20) + 2000)
    with pytest.raises(ImageError, match=r"needs 1.* MiB to be decoded, of 1 MiB"):
        decode_room.decode(padded, most_bytes=1 << 20)


def test_numbers_of_32_bits_are_scaled_from_least_to_greatest(tmp_path, memory):
    values = np.linspace(-3, 7, 60, dtype=np.float32)[None].repeat(40, axis=0)
    holes = np.where(values > 0, values, np.nan)
    images, problems = thumbnails_of(
        images_in(
            tmp_path,
            {
                "f.tif": encoded(Image.fromarray(values), "TIFF"),
                "nan.tif": encoded(Image.fromarray(holes), "TIFF"),
                "i.tif": encoded(Image.fromarray((values * 1e6).astype(np.int32)), "TIFF"),
                "flat.tif": encoded(Image.fromarray(np.full((4, 4), 5, np.float32)), "TIFF"),
            },
        ),
        60,
        memory,
    )
    assert not problems
    expected = np.linspace(0, 255, 60)
    for image in (images[0], images[2]):
        np.testing.assert_allclose(np.asarray(image)[20, :, 0], expected, atol=1.01)
    assert np.asarray(images[1])[20, :, 0].tolist() == [0] * 18 + np.rint(np.linspace(0, 255, 42)).tolist()
    assert np.asarray(images[3]).max() == 0


def test_small_images_keep_their_pixels(tmp_path, memory, rng):
    pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    source = images_in(tmp_path, {"a.png": encoded(Image.fromarray(pixels), "PNG")})
    (image,), _ = thumbnails_of(source, 100, memory)
    assert image.size == (96, 96)
    np.testing.assert_array_equal(np.asarray(image)[:, :, 1], np.kron(pixels, np.ones((12, 12), np.uint8)))


def test_large_images_are_averaged(tmp_path, memory):
    """Against Pillow's own high-quality filter on the whole image; alpha is averaged with its colour."""
    large = gradient(2400, 1500)
    dots = Image.fromarray(np.dstack([np.full((800, 800, 3), 255, np.uint8), np.zeros((800, 800), np.uint8)]), "RGBA")
    dots.paste((0, 0, 0, 255), (0, 0, 800, 400))
    contents = {
        "a.png": encoded(large, "PNG"),
        "a.jpg": encoded(large, "JPEG", quality=95),
        "thin.png": encoded(large.resize((3000, 2)), "PNG"),
        "dots.png": encoded(dots, "PNG"),
    }
    images, problems = thumbnails_of(images_in(tmp_path, contents), 96, memory)
    assert not problems
    expected = np.asarray(large.resize((96, 60), Image.Resampling.LANCZOS)).astype(int)
    for image in images[:2]:
        assert image.size == (96, 60)
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= 5
    assert images[2].size == (96, 1)
    assert np.asarray(images[3])[10, 50].tolist() == [0, 0, 0]
    assert np.asarray(images[3])[90, 50].tolist() == [255, 255, 255]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_images_are_upright(tmp_path, memory, form):
    upright = gradient(40, 24)
    contents, expected = {}, []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(upright, form, exif=exif, **({"quality": 100} if form != "PNG" else {}))
        contents[f"{orientation}"] = data
        image = Image.open(io.BytesIO(data))
        expected.append(ImageOps.exif_transpose(image).convert("RGB"))
    images, problems = thumbnails_of(images_in(tmp_path, contents), 40, memory)
    assert not problems
    assert images[5].size == (24, 40)
    for image, right in zip(images, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(right))


def test_damaged_exif_does_not_cost_the_image(tmp_path, memory):
    data = encoded(solid("RGB", RED), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    (image,), problems = thumbnails_of(images_in(tmp_path, {"a.jpg": data}), 30, memory)
    assert not problems
    assert image.size == (30, 20)


# What cannot be used
def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def tiff_header(width, height):
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 4, height), (279, 4, 100)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 104


def halved(form, **options):
    data = encoded(gradient(300, 200), form, **options)
    return data[: len(data) // 2]


BROKEN = {
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"<html>404 not found</html>", "is no image of a format that is read: JPEG, PNG"),
    "one.jpg": (b"\xff", "is no image"),
    "start.jpg": (b"\xff\xd8\xff", "cannot be decoded"),
    "half.jpg": (halved("JPEG"), "truncated"),
    "half.png": (halved("PNG"), "cannot be decoded"),
    "half.gif": (halved("GIF"), "cannot be decoded"),
    "half.webp": (halved("WEBP"), "cannot be decoded"),
    "half.tif": (halved("TIFF"), "cannot be decoded"),
    "half.bmp": (halved("BMP"), "truncated"),
    "half.ppm": (halved("PPM"), "truncated"),
    "noise.png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "cannot be decoded"),
    "huge.png": (png_header(40_000, 40_000), "has 1,600 megapixels (40,000 x 40,000); allowed: 128"),
    "huge.tif": (tiff_header(40_000, 40_000), "has 1,600 megapixels (40,000 x 40,000); allowed: 128"),
    "lies.png": (png_header(9_000, 9_000), "cannot be decoded"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image"),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image"),
}


def test_what_is_damaged_costs_itself_only(tmp_path, memory):
    contents = {name: data for name, (data, _) in BROKEN.items()} | {"good.png": encoded(solid("RGB", RED), "PNG")}
    source = images_in(tmp_path, contents)
    images, problems = thumbnails_of(source, 60, memory)
    assert np.asarray(images[-1])[5, 5].tolist() == list(RED)
    assert sorted(problems) == list(range(len(BROKEN)))
    for row, (name, (_, reason)) in enumerate(BROKEN.items()):
        assert reason in problems[row], name
        assert "\n" not in problems[row]
    assert write_skipped(tmp_path / "images_skipped.csv", source) == len(BROKEN)
    table = pd.read_csv(tmp_path / "images_skipped.csv")
    assert table.columns.tolist() == ["row", "image_path", "reason"]
    assert table["image_path"].tolist() == list(BROKEN)
    assert table["reason"].tolist() == [problems[row] for row in range(len(BROKEN))]


def test_no_list_of_skipped_images_where_none_is(tmp_path):
    (tmp_path / "images_skipped.csv").write_text("of an earlier run")
    assert write_skipped(tmp_path / "images_skipped.csv", images_in(tmp_path, {"a.png": b"x"})) == 0
    assert not (tmp_path / "images_skipped.csv").exists()


def test_what_is_no_file(tmp_path, memory):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "long.png").touch()
    os.truncate(tmp_path / "long.png", source_room.MOST_BYTES + 1)  # sparse: takes no disk
    (tmp_path / "a.png").write_bytes(encoded(solid("RGB", RED), "PNG"))
    source = open_images(
        np.array(["pipe", "folder.png", "long.png", "nowhere.png", "nul\0.png", "", "a.png"]), tmp_path
    )
    assert source.problems == {0: "is no regular file", 1: "is a folder", 3: "does not exist", 4: "does not exist",
                               5: "does not exist"}  # fmt: skip
    images, problems = thumbnails_of(source, 60, memory)
    assert problems[2] == "has 512 MiB; allowed: 512 MiB"
    assert images[6] is not None


def test_a_file_that_goes_away(tmp_path, memory):
    source = images_in(tmp_path, {"a.png": encoded(solid("RGB", RED), "PNG")})
    (tmp_path / "a.png").unlink()
    _, problems = thumbnails_of(source, 60, memory)
    assert "cannot be read: " in problems[0]


def test_pixels_are_bounded_before_decoding(tmp_path, memory, monkeypatch):
    """A JPEG counts by what is decoded of it, unless all of it must be held."""
    monkeypatch.setattr(decode_room, "MOST_PIXELS", 1_000_000)
    large = gradient(1600, 1200)
    source = images_in(
        tmp_path,
        {
            "a.jpg": encoded(large, "JPEG"),
            "progressive.jpg": encoded(large, "JPEG", progressive=True),
            "a.png": encoded(large, "PNG"),
            "by colour.jpg": in_scans(encoded(large, "JPEG")),
        },
    )
    images, problems = thumbnails_of(source, 64, memory)
    assert images[0].size == (64, 48)
    assert set(problems) == {1, 2, 3}
    for reason in problems.values():
        assert "has 2 megapixels (1,600 x 1,200)" in reason


def in_scans(data):
    """Claim that the first scan of a JPEG has one of its three colours."""
    at = 2
    while data[at + 1] != 0xDA:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[: at + 4] + b"\1" + data[at + 5 :]


def test_no_warning_of_large_images(tmp_path, memory):
    """Pillow warns above 89 megapixels, whatever the reader of the warning could do about it."""
    source = images_in(tmp_path, {"a.png": encoded(Image.new("1", (9600, 9600)), "PNG")})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (image,), problems = thumbnails_of(source, 32, memory)
    assert not problems
    assert image.size == (32, 32)


# Memory
def test_an_image_beyond_the_budget_is_refused(tmp_path):
    source = images_in(
        tmp_path, {"large.png": encoded(Image.new("RGB", (4000, 3000)), "PNG"), "a.png": encoded(solid("L", 3), "PNG")}
    )
    images, problems = thumbnails_of(source, 60, MemoryBudget(resident_bytes() + (150 << 20)))
    assert list(problems) == [0]
    assert "needs 183 MiB to be decoded, of 7" in problems[0]
    assert images[1] is not None
    with pytest.raises(MemoryBudgetError, match="decoding images needs 64 MiB"):
        Thumbnails(source, 60, MemoryBudget(resident_bytes() + (10 << 20)))


def test_images_in_flight_stay_within_the_room(rng):
    """No more bytes than there are, no thread waiting for ever, whatever the sizes."""
    room, workers = 1000, 4
    limits = _Room(room, workers)
    taken, most, lock = [0], [0], threading.Lock()

    def add(n_bytes):
        with lock:
            taken[0] += n_bytes
            most[0] = max(most[0], taken[0])

    def work(sizes):
        for first, more in sizes:
            with limits.hold(first):
                add(first)
                with limits.hold(first + more, held=first):
                    add(more)
                    threading.Event().wait(0.0002)
                    add(-more)
                add(-first)

    threads = [threading.Thread(target=work, args=(rng.integers(0, 250, (60, 2)).tolist(),)) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert taken[0] == 0
    assert 250 < most[0] <= room
    with pytest.raises(ImageError, match="raise --memory"), limits.hold(501):
        pass


# Where images are
def test_files_are_looked_for_in_several_places(tmp_path, monkeypatch):
    for folder in ("here", "run", "descriptors"):
        (tmp_path / folder).mkdir()
    (tmp_path / "here" / "a.png").write_bytes(b"here")
    for name in ("a.png", "b.png"):
        (tmp_path / "run" / name).write_bytes(b"run")
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "descriptors" / name).write_bytes(b"descriptors")
    monkeypatch.chdir(tmp_path / "here")
    paths = np.array(["a.png", "b.png", "c.png", "d.png", str(tmp_path / "run" / "a.png")])
    source = open_images(paths, None, tmp_path / "run", tmp_path / "descriptors")
    assert [source.read(row) for row in (0, 1, 2, 4)] == [b"here", b"run", b"descriptors", b"run"]
    assert source.problems == {3: "does not exist"}
    with pytest.raises(ImageError, match="does not exist"):
        source.read(3)


def test_all_may_be_missing_where_nobody_said_where(tmp_path):
    assert len(open_images(np.array(["0", "1"]), None, tmp_path).problems) == 2


def test_a_folder_finds_what_its_end_of_the_path_names(tmp_path):
    contents = {"images/1/2.jpg": b"12", "3.jpg": b"3", "images/4.jpg": b"4", "4.jpg": b"other", "5.jpg": b"5"}
    images_in(tmp_path, contents)
    paths = ["/data/veri/images/1/2.jpg", "veri/3.jpg", "veri/images/4.jpg", "images/4.jpg", "a/5.jpg", "b/5.jpg"]
    source = open_images(np.array(paths), tmp_path)
    assert [source.read(row) for row in (0, 1, 3)] == [b"12", b"3", b"4"]
    assert source.problems == {
        2: "is ambiguous: more than one file fits it",
        4: f"is ambiguous: {tmp_path / '5.jpg'} also fits b/5.jpg",
        5: f"is ambiguous: {tmp_path / '5.jpg'} also fits a/5.jpg",
    }
    source = open_images(np.array(["images\\1\\2.jpg", "./3.jpg", ".\\images//4.jpg"]), tmp_path)
    assert [source.read(row) for row in range(3)] == [b"12", b"3", b"4"]


def test_urls(tmp_path):
    """A browser that follows them gets to the file."""
    names = ["a b.jpg", "100%.jpg", "#1?.jpg", "x:y.jpg", "ü/é'\"<.jpg", "..jpg"]
    source = images_in(tmp_path / "images", dict.fromkeys(names, b"x"))
    report = tmp_path / "results" / "deep"
    for row, name in enumerate(names):
        url = source.url(row, report)
        parts = urlsplit(url)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
        assert url.isascii()
        assert not set(url) & set(" '\"<>")
        assert Path(os.path.normpath(report / unquote(parts.path))) == tmp_path / "images" / name
    assert open_images(np.array(["nowhere.jpg"]), None).url(0, report) is None


def make_zip(path, members, **options):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **options) as archive:
        warnings.simplefilter("ignore")  # of duplicates
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_members(tmp_path):
    before = sorted(tmp_path.rglob("*"))
    archive = make_zip(
        tmp_path / "a.zip",
        [
            ("images/", b""),
            ("images/1/2.jpg", b"12"),
            ("images/3.jpg", b"3"),
            ("images/3.jpg", b"the later"),
            ("deep/er/4.jpg", b"4"),
            ("x/5.jpg", b"x5"),
            ("y/5.jpg", b"y5"),
            ("../../evil.jpg", b"evil"),
            ("/etc/abs.jpg", b"abs"),
            ("6.jpg", b"6"),
            ("un\u00efcode.jpg", b"u"),
            ("7.jpg", b"7"),
            ("z/7.jpg", b"z7"),
        ],
        compression=zipfile.ZIP_DEFLATED,
    )
    paths = {
        "images/1/2.jpg": b"12",
        "/data/veri/images/1/2.jpg": b"12",
        "images/3.jpg": b"the later",
        "4.jpg": b"4",
        "er/4.jpg": b"4",
        "r/4.jpg": "is not in the archive",
        "5.jpg": "is ambiguous: members that fit it are x/5.jpg and y/5.jpg",
        "x/5.jpg": b"x5",
        "../../evil.jpg": b"evil",
        "/etc/abs.jpg": b"abs",
        "p/6.jpg": "is ambiguous: 6.jpg also fits q/6.jpg",
        "q/6.jpg": "is ambiguous: 6.jpg also fits p/6.jpg",
        "un\u00efcode.jpg": b"u",
        "images": "is not in the archive",
        "images/": "is not in the archive",
        "data/z/7.jpg": "is ambiguous: members that fit it are z/7.jpg and 7.jpg",
        "images\\1\\2.jpg": b"12",
    }
    with open_images(np.array(list(paths)), archive) as source:
        for row, (path, expected) in enumerate(paths.items()):
            if path in ("4.jpg", "er/4.jpg", "/data/veri/images/1/2.jpg"):
                continue  # below
            if isinstance(expected, bytes):
                assert source.read(row) == expected, path
            else:
                assert source.problems[row] == expected
            assert source.url(row, tmp_path) is None
    assert sorted(tmp_path.rglob("*")) == [*before, archive]  # nothing is unpacked
    for path in ("4.jpg", "er/4.jpg", "/data/veri/images/1/2.jpg"):
        with open_images(np.array([path, path]), archive) as source:
            assert source.read(0) == source.read(1) == paths[path]


def test_members_that_cannot_be_read_cost_themselves_only(tmp_path, memory):
    picture = encoded(solid("RGB", RED), "PNG")
    archive = make_zip(tmp_path / "a.zip", [(name, picture) for name in ("crc.png", "secret.png", "good.png")])
    make_zip(tmp_path / "b.zip", [("bz.png", picture)], compression=zipfile.ZIP_BZIP2)
    data = bytearray(archive.read_bytes())
    data[data.index(picture) + 60] ^= 0xFF  # of crc.png: the CRC is no longer that of the content
    for at in (data.index(b"secret.png") - 30 + 6, data.rindex(b"secret.png") - 46 + 8):
        data[at] |= 1  # both headers say that it is encrypted
    archive.write_bytes(data)
    source = open_images(np.array(["crc.png", "secret.png", "good.png", "missing.png"]), archive)
    images, problems = thumbnails_of(source, 60, memory)
    assert "CRC" in problems[0]
    assert problems[1] == "is encrypted"
    assert problems[3] == "is not in the archive"
    assert images[2] is not None
    _, problems = thumbnails_of(open_images(np.array(["bz.png"]), tmp_path / "b.zip"), 60, memory)
    assert problems == {0: "is packed by method 12; allowed: stored, deflated"}


def test_a_member_that_is_larger_than_allowed(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", [("a.png", bytes(5000))], compression=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(source_room, "MOST_BYTES", 4096)
    with pytest.raises(ImageError, match=r"has 4\.88 KiB; allowed: 4 KiB"):
        open_images(np.array(["a.png"]), archive).read(0)


def test_a_member_that_lies_about_its_size_is_not_inflated_beyond_it(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a.png", bytes(50_000_000))], compression=zipfile.ZIP_DEFLATED)
    data = bytearray(archive.read_bytes())
    at = data.rindex(b"a.png") - 46 + 24
    data[at : at + 4] = struct.pack("<I", 1000)
    archive.write_bytes(data)
    with pytest.raises(ImageError, match="CRC"):
        open_images(np.array(["a.png"]), archive).read(0)


def test_an_archive_beyond_4_gib(tmp_path):
    path = tmp_path / "a.zip"
    path.touch()
    os.truncate(path, 5 << 30)  # sparse: takes no disk
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/1.png", b"far behind")
    assert open_images(np.array(["1.png"]), path).read(0) == b"far behind"


def test_members_are_read_by_many_threads(tmp_path, memory):
    colours = [(i % 256, i * 7 % 256, i * 31 % 256) for i in range(300)]
    members = [(f"{i}.png", encoded(solid("RGB", colour, (32, 32)), "PNG")) for i, colour in enumerate(colours)]
    archive = make_zip(tmp_path / "a.zip", members, compression=zipfile.ZIP_DEFLATED)
    source = open_images(np.array([f"{i}.png" for i in range(300)]), archive)
    thumbnails = Thumbnails(source, 32, memory)
    thumbnails.workers = 8
    for row, image in thumbnails.stream(range(300)):
        assert np.asarray(image)[3, 3].tolist() == list(colours[row])


def test_a_long_list_of_members_is_matched_in_one_pass(tmp_path, monkeypatch):
    """Names that are all alike, and one of ten thousand parts, take no time."""
    members = [(f"{i}/image.png", b"") for i in range(3000)] + [("a/" * 10_000 + "x.png", b"")]
    archive = make_zip(tmp_path / "a.zip", members)
    calls = []
    suffixes = source_room._suffixes
    monkeypatch.setattr(source_room, "_suffixes", lambda path: calls.append(path) or suffixes(path))
    source = open_images(np.array([*(f"set/{i}/image.png" for i in range(3000)), "image.png"]), archive)
    assert list(source.problems) == [3000]
    assert len(calls) <= 2 * len(members) + 1
    assert len(list(suffixes(members[-1][0]))) == 64


@pytest.mark.parametrize("kind", ["missing", "text", "cut", "empty", "pipe", "other folder", "other zip"])
def test_a_place_that_is_none(tmp_path, kind):
    where = tmp_path / "images"
    message = {
        "missing": "does not exist; allowed: a folder or a zip archive$",
        "pipe": "is neither a folder nor a file",
        "other folder": "the folder .* holds none of the 2 images, for instance 'a/1.png' does not exist; give",
        "other zip": "the archive .* holds none of the 2 images, for instance 'a/1.png' is not in the archive; give",
    }.get(kind, "is not a zip archive that can be read: .*; allowed: a folder")
    if kind == "text":
        where.write_text("no archive")
    elif kind == "empty":
        where.touch()
    elif kind == "pipe":
        os.mkfifo(where)
    elif kind == "other folder":
        where.mkdir()
    elif kind in ("cut", "other zip"):
        make_zip(where, [("x.png", b"abc")])
        if kind == "cut":
            where.write_bytes(where.read_bytes()[:-30])
    with pytest.raises(InputError, match=message) as caught:
        open_images(np.array(["a/1.png", "b/2.png"]), where)
    assert "\n" not in str(caught.value)


def test_a_folder_seen_from_below_it(tmp_path, monkeypatch):
    """The folder may begin with .., which is not for an image's path to do."""
    for name in ("deep/photographs/a/1.png", "here/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path / "here")
    source = open_images(np.array(["a/1.png", "../here/1.png"]), Path("../deep/photographs"))
    assert list(source.problems) == [1]
    assert "leads outside of ../deep/photographs" in source.problems[1]
    assert source.read(0) == b"deep/photographs/a/1.png"
