"""A contact sheet: a title and, in sections, small images with what they are called."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from toolkit.atomic import atomic_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from toolkit.images.thumbnails import Thumbnails

COLUMNS = 8
SIDE = 96  # pixels of a thumbnail
_GAP, _MARGIN = 10, 28
_CAPTION, _LINE = 17, 24  # heights
_WIDTH = 2 * _MARGIN + COLUMNS * (SIDE + _GAP) - _GAP
_PAPER, _CELL, _RULE, _FAINT, _INK = ((grey,) * 3 for grey in (255, 243, 217, 107, 26))
_LONGEST = 300  # characters of a path that are looked at
_LEVELS = [round(round(value * 63 / 255) * 255 / 63) for value in range(256)]  # 6 bits: unseen, and a third fewer bytes


class Captioned(NamedTuple):
    """An image of a sheet, RGB, at most `SIDE` pixels a side, and the path below it, behind a short note."""

    path: str
    image: Image.Image
    note: str = ""


class Section(NamedTuple):
    """A title and the images below it."""

    title: str
    images: list[Captioned]


def read_images(
    rows: Iterable[int], thumbnails: Thumbnails, most: int, *, notes: Callable[[int], str] = lambda _: ""
) -> Iterator[Captioned]:
    """Yield the images of the first rows that can be read, at most so many."""
    n_read = 0
    for row in rows:
        if n_read < most and (image := thumbnails.one(row)) is not None:
            n_read += 1
            yield Captioned(str(thumbnails.source.paths[row]), image, notes(row))


def save_sheet(
    path: Path, title: str, lines: list[str], sections: list[Section], *, about: Mapping[str, str] | None = None
) -> None:
    """Draw a sheet with some lines below its title, and write it as PNG, with texts in it, whole or not at all."""
    texts = PngInfo()
    for key, text in (about or {}).items():
        texts.add_itxt(key, text)
    with atomic_file(path) as file:
        draw_sheet(title, lines, sections).point(_LEVELS * 3).save(file, "PNG", pnginfo=texts)


def draw_sheet(title: str, lines: list[str], sections: list[Section]) -> Image.Image:
    """Draw a sheet, RGB."""
    top = _MARGIN + 36 + _LINE * len(lines)
    heights = [_LINE + 12 + _n_rows(section) * (SIDE + _CAPTION + _GAP) + 10 for section in sections]
    sheet = Image.new("RGB", (_WIDTH, top + sum(heights) + _MARGIN // 2), _PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, _MARGIN - 6, title, _INK, _font(24, "bold"))
    for i, line in enumerate(lines):
        _write(pen, _MARGIN + 32 + _LINE * i, line, _FAINT, _font(14))
    for section, height in zip(sections, heights, strict=True):
        _draw_section(sheet, pen, section, top)
        top += height
    return sheet


def _draw_section(sheet: Image.Image, pen: ImageDraw.ImageDraw, section: Section, top: int) -> None:
    pen.line((_MARGIN, top, _WIDTH - _MARGIN, top), _RULE)
    title = section.title if section.images else f"{section.title} (none could be read)"
    _write(pen, top + 8, title, _INK, _font(14, "bold"))
    for i, (path, image, note) in enumerate(section.images):
        x = _MARGIN + i % COLUMNS * (SIDE + _GAP)
        y = top + _LINE + 12 + i // COLUMNS * (SIDE + _CAPTION + _GAP)
        pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), _CELL)
        sheet.paste(image, (x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2))
        pen.rectangle((x - 1, y - 1, x + SIDE, y + SIDE), outline=_RULE)  # else what is white is not seen
        caption = _caption(path, note, _font(10), SIDE)
        pen.text((x + SIDE / 2, y + SIDE + 3), caption, _FAINT, _font(10), anchor="ma")


def _write(
    pen: ImageDraw.ImageDraw, y: int, text: str, colour: tuple[int, int, int], font: ImageFont.FreeTypeFont
) -> None:
    """Write a line between the margins."""
    pen.text((_MARGIN, y), _fitting(_printable(text[:_LONGEST]), _cut_end, font, _WIDTH - 2 * _MARGIN), colour, font)


def _n_rows(section: Section) -> int:
    return -(-len(section.images) // COLUMNS)


# Text
@lru_cache
def _font(size: int, weight: str = "normal") -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib brings along."""
    from matplotlib import font_manager

    wanted = font_manager.FontProperties(family="DejaVu Sans", weight=weight)
    return ImageFont.truetype(font_manager.findfont(wanted), size)


def _caption(path: str, note: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    note = f"{note}  " if note else ""
    return note + _file_name(path, font, width - font.getlength(note))


def _file_name(path: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return as much of a path as fits: all of it, its file name, or the two ends of that."""
    path = _printable(path[-_LONGEST:])
    return path if font.getlength(path) <= width else _fitting(path.rsplit("/", 1)[-1], _cut_middle, font, width)


def _fitting(text: str, cut: Callable[[str, int], str], font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return a text, or what is left of it where it is cut to as many characters as fit."""
    if font.getlength(text) <= width:
        return text
    n_beyond = bisect_right(range(len(text)), width, key=lambda n: font.getlength(cut(text, n)))
    return cut(text, max(n_beyond - 1, 0))


def _cut_middle(text: str, n_kept: int) -> str:
    """Keep the first and last characters, one more of the last, where names differ."""
    n_first = n_kept // 2
    return f"{text[:n_first]}…{text[len(text) - (n_kept - n_first) :]}"


def _cut_end(text: str, n_kept: int) -> str:
    return f"{text[:n_kept]}…"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "�" for letter in text)
