"""Statistics of images: what is flagged, and what must not be. Every image is a real file made here."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits, load_sample_images

from toolkit.errors import MemoryBudgetError
from toolkit.images import quality as quality_room
from toolkit.images import thumbnails as thumbnails_room
from toolkit.images.quality import PROBLEMS, image_quality, write_quality
from toolkit.images.source import open_images
from toolkit.memory import MemoryBudget, resident_bytes
from toolkit.progress import Reporter

FLAGS = ["is_failed", "is_blank", "is_tiny", "is_dark", "is_over_exposed"]
NUMBERS = ["width", "height", "brightness", "contrast", "range", "darkest", "brightest", "white"]
COLUMNS = ["row", "image_path", "reason", *NUMBERS, *FLAGS]


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def images_in(folder, contents):
    """Write name -> bytes as files and open them as a source; None is a file that is missing."""
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return open_images(np.array([str(folder / name) for name in contents]), None)


def measured(folder, contents, rows=None):
    source = images_in(folder, contents)
    rows = range(len(contents)) if rows is None else rows
    return image_quality(source, rows, MemoryBudget(resident_bytes() + (4 << 30)), Reporter(quiet=True))


def flagged(table):
    """Return the names of what is wrong with each row."""
    return [{name.removeprefix("is_") for name in FLAGS if line[name]} for _, line in table.iterrows()]


def flat(value, size=(60, 40), dtype=np.uint8):
    return np.full(size[::-1], value, dtype)


def exposed(pixels, stops):
    """Let in 2 ** stops times the light, as a camera does: linear, then clipped, then sRGB."""
    values = pixels / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) * 2.0**stops
    light = np.clip(light, 0, 1)
    return np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).astype(
        np.uint8
    )


def page(*lines, pixels=42, paper=255, ink=0):
    """A4 at 300 dots per inch."""
    image = Image.new("L", (2480, 3508), paper)
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        draw.text((250, 300 + round(1.4 * pixels) * i), line, fill=ink, font=ImageFont.load_default(pixels))
    return image


def night():
    pixels = np.random.default_rng(5).normal(12, 4, (900, 1200)).clip(0, 255).astype(np.uint8)
    pixels[700:720, 300:320] = pixels[690:710, 800:820] = 255
    return pixels


PHOTOGRAPHS = load_sample_images().images
TEXT = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor"


# The table
def test_numbers_are_those_of_the_pixels(tmp_path, rng):
    """Against formulas on the pixels, for images that are not made smaller."""
    contents, expected = {}, []
    for i, shape in enumerate([(8, 8), (30, 170), (192, 100), (1, 1), (1, 50)]):
        pixels = rng.integers(20 * i, 256 - 20 * i, (*shape, 3), dtype=np.uint8)
        pixels[0, 0] = 250
        luma = pixels @ [0.299, 0.587, 0.114] / 255
        span = pixels.max(axis=(0, 1)).astype(int) - pixels.min(axis=(0, 1))
        contents[f"{i}.png"] = encoded(pixels)
        white = (pixels.min(axis=2) >= 250).mean()
        least, greatest = pixels.min() / 255, pixels.max() / 255
        expected.append([*shape[::-1], luma.mean(), luma.std(), span.max() / 255, least, greatest, white])
    table = measured(tmp_path, contents)
    assert table.columns.tolist() == COLUMNS
    np.testing.assert_allclose(table[NUMBERS].astype(float), expected, atol=0.003)
    np.testing.assert_allclose(table[["range", "darkest", "brightest", "white"]], np.array(expected)[:, 4:], atol=1e-12)
    assert set(table[FLAGS].dtypes) == {np.dtype(bool)}
    assert table["reason"].tolist() == [""] * 5


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sizes_are_of_the_whole_upright_image(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    table = measured(tmp_path, {"a": encoded(flat(90, (1000, 700)), form, exif=exif)})
    assert table[["width", "height"]].values.tolist() == [[700, 1000] if orientation in (6, 8) else [1000, 700]]


def test_rows_in_any_order(tmp_path):
    contents = {f"{i}.png": encoded(flat(i, (i + 1, 2))) for i in range(9)} | {"gone.png": None}
    rows = [9, 3, 8, 3, 0]
    table = measured(tmp_path, contents, rows)
    assert table["row"].tolist() == rows
    assert table["width"].tolist() == [pd.NA, 4, 9, 4, 1]
    assert [path.rsplit("/", 1)[1] for path in table["image_path"]] == ["gone.png", "3.png", "8.png", "3.png", "0.png"]
    pd.testing.assert_frame_equal(measured(tmp_path, contents, iter(rows)), table)


def test_no_row(tmp_path):
    table = measured(tmp_path, {"a.png": encoded(flat(3))}, [])
    assert table.columns.tolist() == COLUMNS
    assert len(table) == 0
    full = measured(tmp_path, {"a.png": encoded(flat(3))})
    assert table.dtypes.tolist() == full.dtypes.tolist()
    assert write_quality(table, tmp_path / "a.csv") == 0


def test_what_cannot_be_read_costs_itself_only(tmp_path):
    good = encoded(PHOTOGRAPHS[0], "JPEG")
    contents = {"cut.jpg": good[: len(good) // 2], "good.jpg": good, "gone.jpg": None, "text.png": b"<html>"}
    table = measured(tmp_path, contents)
    assert flagged(table) == [{"failed"}, set(), {"failed"}, {"failed"}]
    for reason, part in zip(table["reason"], ["truncated", "", "does not exist", "is no image"], strict=True):
        assert part in reason
        assert bool(reason) == bool(part)
    assert table[NUMBERS].isna().all(axis=1).tolist() == [True, False, True, True]


def test_all_fail(tmp_path):
    table = measured(tmp_path, {f"{i}.png": None for i in range(5)})
    assert flagged(table) == [{"failed"}] * 5
    assert table[NUMBERS].isna().all(axis=None)
    assert write_quality(table, tmp_path / "a.csv") == 5


def test_neither_threads_nor_memory_change_a_bit(tmp_path, monkeypatch, rng):
    """Of large images too, which wait for each other where memory is short."""
    contents = {
        f"{i}.jpg": encoded(rng.integers(0, 256, (300 + 60 * i, 1000, 3), dtype=np.uint8), "JPEG") for i in range(12)
    }
    source = images_in(tmp_path, contents)
    table = image_quality(source, range(12), MemoryBudget(resident_bytes() + (4 << 30)), Reporter(quiet=True))
    assert not table["is_failed"].any()
    for threads, free in ((1, 4 << 30), (7, 4 << 30), (7, 100 << 20)):
        monkeypatch.setattr(thumbnails_room, "n_threads", lambda threads=threads: threads)
        other = image_quality(source, range(12), MemoryBudget(resident_bytes() + free), Reporter(quiet=True))
        pd.testing.assert_frame_equal(other, table, check_exact=True)


def test_only_a_few_images_are_in_memory(tmp_path, monkeypatch):
    alive, most = set(), [0]
    one = thumbnails_room.Thumbnails.one
    measure = quality_room._measure

    def counted(self, row):
        alive.add(row)
        most[0] = max(most[0], len(alive))
        return one(self, row)

    def forget(image):
        alive.discard(min(alive))
        return measure(image)

    monkeypatch.setattr(thumbnails_room, "n_threads", lambda: 2)
    monkeypatch.setattr(thumbnails_room.Thumbnails, "one", counted)
    monkeypatch.setattr(quality_room, "_measure", forget)
    assert len(measured(tmp_path, {f"{i}.png": encoded(flat(i)) for i in range(100)})) == 100
    assert most[0] <= 4


def test_a_table_beyond_the_budget_is_refused(tmp_path):
    source = images_in(tmp_path, {"a.png": encoded(flat(3))})
    with pytest.raises(MemoryBudgetError, match="the table of image statistics needs"):
        image_quality(
            source, np.zeros(1_000_000, int), MemoryBudget(resident_bytes() + (300 << 20)), Reporter(quiet=True)
        )


# What is wrong, and what is not
def noisy(sigma, size=120, value=128):
    noise = np.random.default_rng(7).normal(value, sigma, (size, size, 3))
    return np.rint(noise).clip(0, 255).astype(np.uint8)


def half(left, right):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = left, right
    return pixels


def spot(side, size=(900, 600), colour=(255, 255, 255), ground=(0, 0, 0)):
    pixels = np.full((size[1], size[0], 3), ground, np.uint8)
    pixels[300 : 300 + side, 400 : 400 + side] = colour
    return pixels


def glare(pixels):
    """Light on the left half, and what is under it just to be seen."""
    lit = pixels.astype(float)
    lit[:, :320] = 0.9 * 255 + 0.1 * lit[:, :320]
    return lit.astype(np.uint8)


RAMP = np.tile(np.linspace(0, 255, 300), (200, 1))
# name -> (image, what it is); a set of any of them with others, alone, or all together
LOOKS = {
    "black": (flat(0), "blank"),
    "grey": (flat(128), "blank"),
    "white": (flat(255), "blank"),
    "one colour": (np.full((40, 60, 3), (200, 30, 40), np.uint8), "blank"),
    "noise of 2 levels, few pixels": ((flat(128, (60, 60)) + np.random.default_rng(1).integers(-2, 3, (60, 60))).astype(
        np.uint8), "blank"),
    "noise of 2 levels, many": (noisy(2, 1500), "blank"),
    "transparent": (Image.new("RGBA", (60, 40), (9, 200, 30, 0)), "blank"),
    "16 bits, one value": (flat(30_000, dtype=np.uint16), "blank"),
    "16 bits, ramp": ((257 * RAMP).astype(np.uint16), ""),
    "gradient": (RAMP.astype(np.uint8), ""),
    "slow gradient": ((110 + RAMP / 8).astype(np.uint8), ""),
    "two colours of one luma": (half((255, 0, 0), (0, 130, 0)), ""),
    "noise": (np.random.default_rng(2).integers(0, 256, (3000, 3000), dtype=np.uint8), ""),
    "two whites": (half((237,) * 3, (252,) * 3), "blank"),
    "mask, small": (spot(20), ""),
    "faint on black": (spot(200, colour=(1, 0, 80)), "dark"),
    "blue on black": (spot(100, colour=(0, 0, 255)), ""),
    "small thing on white": (spot(20, colour=(0, 0, 0), ground=(255, 255, 255)), ""),
    "yellow on white": (spot(300, colour=(255, 255, 0), ground=(255, 255, 255)), ""),
    "night with lamps": (night(), ""),
    "night without lamps": (night().clip(0, 40), "dark"),
    "photograph": (PHOTOGRAPHS[0], ""),
    "dark photograph": (PHOTOGRAPHS[1], ""),
    "2 stops under": (exposed(PHOTOGRAPHS[0], -2), ""),
    "4 stops under": (exposed(PHOTOGRAPHS[0], -4), "dark"),
    "3 stops over": (exposed(PHOTOGRAPHS[0], 3), ""),
    "washed out": ((0.8 * 255 + 0.2 * PHOTOGRAPHS[0]).astype(np.uint8), "over_exposed"),
    "pale, not bright": ((0.75 * 255 + 0.15 * PHOTOGRAPHS[0]).astype(np.uint8), ""),
    "glare over half": (glare(PHOTOGRAPHS[0]), ""),
    "page": (page(*[TEXT] * 40), ""),
    "page of small print": (page(*[2 * TEXT] * 80, pixels=24), ""),
    "grey scan": (page(*[TEXT] * 40, paper=235, ink=60), ""),
    "page with few words": (page("Figure 3"), ""),
    "page with its number": (page("17"), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKS)
def test_looks(tmp_path, name):
    image, what = LOOKS[name]
    assert flagged(measured(tmp_path, {"a.png": encoded(image)})) == [{what} - {""}]


@pytest.mark.parametrize("name", ["photograph", "washed out", "4 stops under", "night with lamps", "page", "grey"])
@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
def test_looks_are_those_of_any_format(tmp_path, name, form):
    image, what = LOOKS[name]
    lossy = {"quality": 60} if form != "TIFF" else {}
    assert flagged(measured(tmp_path, {"a": encoded(image, form, **lossy)})) == [{what} - {""}]


def test_numbers_of_32_bits(tmp_path):
    """They are stretched, so that nothing is known of their exposure."""
    contents = {
        "flat.tif": encoded(flat(0.25, dtype=np.float32), "TIFF"),
        "ramp.tif": encoded((RAMP * 1e-6).astype(np.float32), "TIFF"),
        "nan.tif": encoded(flat(np.nan, dtype=np.float32), "TIFF"),
    }
    assert flagged(measured(tmp_path, contents)) == [{"blank"}, set(), {"blank"}]


def test_of_an_animation_the_first_picture_counts(tmp_path):
    first, second = Image.fromarray(PHOTOGRAPHS[0]).quantize(), Image.new("P", (640, 427))
    contents = {
        "a.gif": encoded(first, "GIF", save_all=True, append_images=[second]),
        "b.gif": encoded(second, "GIF", save_all=True, append_images=[first]),
    }
    table = measured(tmp_path, contents)
    assert flagged(table) == [set(), {"blank"}]
    assert table["width"].tolist() == [640, 640]


@pytest.mark.parametrize("inverted", [False, True])
def test_handwritten_digits_are_fine(tmp_path, inverted):
    """8 x 8 pixels, most of them black: small and dark for photographs, but not in their set."""
    pixels = np.rint(load_digits().images[:300] * 255 / 16).astype(np.uint8)
    pixels = 255 - pixels if inverted else pixels
    table = measured(tmp_path, {f"{i}.png": encoded(one) for i, one in enumerate(pixels)})
    assert not table[FLAGS].any(axis=None)


def test_what_is_clipped_beside_others(tmp_path):
    """Half of a photograph pure white is too much among photographs, and usual among products on white."""
    photographs = [PHOTOGRAPHS[0], PHOTOGRAPHS[1], PHOTOGRAPHS[0][::-1], PHOTOGRAPHS[1][::-1]]
    lit = PHOTOGRAPHS[1].copy()
    lit[:, :400] = 255
    over = [exposed(PHOTOGRAPHS[0], 4), lit]
    contents = {f"{i}.png": encoded(image) for i, image in enumerate(photographs + over)}
    assert flagged(measured(tmp_path / "photographs", contents)) == [set()] * 4 + [{"over_exposed"}] * 2
    on_white = [spot(100 + i, colour=(9, 9, 90), ground=(255, 255, 255)) for i in range(4)]
    contents = {f"{i}.png": encoded(image) for i, image in enumerate(on_white + over)}
    assert flagged(measured(tmp_path / "products", contents)) == [set()] * 6


# Sizes
def sized(*sides):
    return {f"{i}.png": encoded(RAMP[:1].repeat(h, 0).astype(np.uint8)[:, :w]) for i, (w, h) in enumerate(sides)}


def tiny(table):
    return table["is_tiny"].tolist()


def test_tiny_is_below_a_quarter_of_the_median(tmp_path):
    assert tiny(measured(tmp_path, sized((200, 200), (200, 300), (49, 100), (50, 100), (200, 49), (300, 250),
                                         (300, 220)))) == [False, False, True, False, True, False, False]  # fmt: skip


def test_what_is_large_enough_for_a_network_is_not_tiny(tmp_path):
    contents = {f"{i}.png": encoded(flat(3, (side, side))) for i, side in enumerate([1000, 1000, 1000, 112, 111])}
    assert tiny(measured(tmp_path, contents)) == [False, False, False, False, True]


def test_sets_of_one_and_of_two_sizes(tmp_path):
    """Of two sizes, half each, none is the unusual one."""
    one_by_one = measured(tmp_path, {f"{i}.png": encoded(flat(9, (1, 1))) for i in range(3)})
    assert flagged(one_by_one) == [{"blank"}] * 3
    assert tiny(measured(tmp_path, sized(*[(80, 80)] * 4))) == [False] * 4
    assert tiny(measured(tmp_path, sized((200, 200), (10, 10), (200, 200), (10, 10)))) == [False] * 4
    assert tiny(measured(tmp_path, sized((200, 200), (10, 10), (200, 200)))) == [False, True, False]


def test_images_that_fail_have_no_say_in_the_median(tmp_path):
    contents = sized((200, 200), (10, 10), (200, 200)) | {f"{i}gone.png": None for i in range(9)}
    assert tiny(measured(tmp_path, contents)) == [False, True, False] + [False] * 9


# What is said and written
def test_rules_say_the_numbers_that_are_used():
    """Every problem begins and ends exactly at the numbers in its rule."""
    assert list(PROBLEMS) == ["blank", "tiny", "dark", "over_exposed"]
    usual = {"width": 640, "height": 480, "brightness": 0.5, "contrast": 0.2, "range": 0.9, "darkest": 0.0,
             "brightest": 0.9, "white": 0.01}  # fmt: skip
    light = usual | {"brightness": 0.91, "darkest": 0.74, "contrast": 0.05, "range": 0.26, "brightest": 1.0}
    flips = [
        ("blank", usual, "range", -1, 0),
        ("tiny", usual, "height", -1, 1),
        ("dark", usual, "brightest", -1, 0),
        ("over_exposed", light, "brightness", 1, 0),
        ("over_exposed", light, "contrast", 1, 1),
        ("over_exposed", light, "darkest", 1, 2),
    ]
    flips.append(("over_exposed", usual, "white", 1, 3))
    for name, image, column, sign, place in flips:
        problem = PROBLEMS[name]
        stated = [float(n.rstrip("%")) / (100 if "%" in n else 1) for n in re.findall(r"\d+\.?\d*%?", problem.rule)]
        lines = [usual] * 3 + [image | {column: stated[place] + shift} for shift in (1e-9, -1e-9)]
        holds = problem.holds(pd.DataFrame(lines, dtype=float)).tolist()
        assert holds == [False] * 3 + [sign > 0, sign < 0], (name, column)
        assert column in problem.numbers
    share = float(re.findall(r"\d+", PROBLEMS["tiny"].rule)[0]) / 100
    sides = pd.DataFrame({"width": 300.0, "height": [200, 200, 200, 200 * share + 1e-9, 200 * share - 1e-9]})
    assert PROBLEMS["tiny"].holds(sides).tolist() == [False] * 4 + [True]
    assert len({problem.title for problem in PROBLEMS.values()}) == 4


def test_csv_has_the_images_with_a_problem(tmp_path):
    contents = {'a,"ü\n.png': encoded(flat(7)), "good.png": encoded(PHOTOGRAPHS[0]), "gone.png": None}
    table = measured(tmp_path / "images", contents, [2, 1, 0])
    path = tmp_path / "images_quality.csv"
    assert write_quality(table, path) == 2
    with path.open(newline="", encoding="utf-8") as file:
        header, gone, blank = csv.reader(file)
    assert header == COLUMNS
    assert gone == ["2", str(tmp_path / "images" / "gone.png"), "does not exist", *[""] * 8,
                    "True", *["False"] * 4]  # fmt: skip
    assert blank[:5] == ["0", str(tmp_path / "images" / 'a,"ü\n.png'), "", "60", "40"]
    assert [float(number) for number in blank[5:10]] == [0.02745, 0, 0, 0.02745, 0.02745]
    assert write_quality(table.iloc[1:2], path) == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "images"]
