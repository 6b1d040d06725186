"""Images that no descriptor can make up for: unreadable, blank, tiny, dark, over-exposed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from toolkit.atomic import atomic_file
from toolkit.images.thumbnails import Thumbnails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from PIL import Image

    from toolkit.images.source import ImageSource
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

_SIDE = 192  # of the copies: the noise of photographs averages out, small print on a page does not
_NUMBERS = ("width", "height", "brightness", "contrast", "range", "darkest", "brightest", "white")
_ROW_BYTES = 700  # of the table, while it is put together

# sRGB values, 0 to 1
_BLANK_RANGE = 0.1  # noise of 3 levels of 256 spans that, and a page with nothing but its number twice as much
_DARK_BRIGHTEST = 0.39  # an eighth of the light of white: three stops
_OVER_EXPOSED_DARKEST = 0.73  # half of the light of white; print is darker, averaged with its paper
_OVER_EXPOSED_BRIGHTNESS = 0.9
_OVER_EXPOSED_CONTRAST = 0.02  # paper with nothing but a line of text has less
_WHITE = 0.98  # clipped, but for the rounding of a JPEG
_WHITE_SHARE = 0.5
_WHITE_TIMES = 5  # the usual share: of scans and of products on white, much is white
_TINY_SHARE = 0.25
_TINY_SIDE = 112  # half of what most networks read: the image is enlarged more than twice for them


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with an image that can be read.

    Attributes
    ----------
    name : str
        The column ``is_<name>`` of the table tells which images have it.
    title : str
        Its name for people.
    rule : str
        When an image has it, in words, with the numbers that are used.
    numbers : tuple of str
        The columns that it is decided by.
    holds : callable
        The table with its numbers, NaN where an image cannot be used -> which rows have it (bool), never those.
    """

    name: str
    title: str
    rule: str
    numbers: tuple[str, ...]
    holds: Callable[[pd.DataFrame], pd.Series[bool]]


def _is_blank(table: pd.DataFrame) -> pd.Series[bool]:
    return table["range"] < _BLANK_RANGE


def _is_tiny(table: pd.DataFrame) -> pd.Series[bool]:
    shorter = table[["width", "height"]].min(axis=1)
    median = shorter.quantile(interpolation="lower")  # a side that there is: of two sizes, half each, none is tiny
    return (shorter < _TINY_SHARE * median) & (shorter < _TINY_SIDE)


def _is_dark(table: pd.DataFrame) -> pd.Series[bool]:
    return (table["range"] >= _BLANK_RANGE) & (table["brightest"] < _DARK_BRIGHTEST)


def _is_over_exposed(table: pd.DataFrame) -> pd.Series[bool]:
    washed_out = (
        (table["darkest"] > _OVER_EXPOSED_DARKEST)
        & (table["brightness"] > _OVER_EXPOSED_BRIGHTNESS)
        & (table["contrast"] > _OVER_EXPOSED_CONTRAST)
    )
    clipped = (table["white"] > _WHITE_SHARE) & (table["white"] > _WHITE_TIMES * table["white"].median())
    return (table["range"] >= _BLANK_RANGE) & (washed_out | clipped)


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem(
            "blank",
            "Blank",
            f"In no colour channel do two pixels differ by {_BLANK_RANGE} or more.",
            ("range",),
            _is_blank,
        ),
        Problem(
            "tiny",
            "Tiny",
            f"The shorter side is below {_TINY_SHARE:.0%} of the median shorter side of all images, and below "
            f"{_TINY_SIDE} pixels.",
            ("width", "height"),
            _is_tiny,
        ),
        Problem(
            "dark",
            "Dark (under-exposed)",
            f"Not blank, and no pixel reaches {_DARK_BRIGHTEST} in any colour channel.",
            ("brightest",),
            _is_dark,
        ),
        Problem(
            "over_exposed",
            "Over-exposed",
            f"Not blank, and washed out: brightness above {_OVER_EXPOSED_BRIGHTNESS} with a standard deviation above "
            f"{_OVER_EXPOSED_CONTRAST}, every pixel above {_OVER_EXPOSED_DARKEST} in all colour channels; or clipped: "
            f"more than {_WHITE_SHARE:.0%} of the pixels above {_WHITE} in all of them, and {_WHITE_TIMES} times as "
            f"many as in the median image.",
            ("darkest", "brightness", "contrast", "white"),
            _is_over_exposed,
        ),
    )
}


def image_quality(
    source: ImageSource, rows: Iterable[int] | range, memory: MemoryBudget, reporter: Reporter
) -> pd.DataFrame:
    """Measure images and tell which are unreadable, blank, tiny, dark or over-exposed.

    Parameters
    ----------
    source : ImageSource
        Its `problems` take what cannot be decoded.
    rows : iterable of int
        In any order.
    memory : MemoryBudget
        How many images are decoded at once, and how large a single one may be.
    reporter : Reporter
        Follows the images.

    Returns
    -------
    DataFrame
        One line for each of `rows`, in their order:

        - ``row`` (int64), ``image_path`` (str);
        - ``reason`` (str): why the image cannot be used, empty if it can. Else the numbers are missing;
        - ``width``, ``height`` (Int64): pixels of the whole upright image;
        - ``brightness`` (float64, 0 to 1): mean luma (ITU-R BT.601) of a copy of at most 192 pixels a side;
        - ``contrast`` (float64, 0 to 0.5): standard deviation of the luma (root mean square contrast);
        - ``range`` (float64, 0 to 1): greatest difference of two pixels of the copy in one colour channel;
        - ``darkest``, ``brightest`` (float64, 0 to 1): least and greatest value in it, in any colour channel;
        - ``white`` (float64, 0 to 1): share of its pixels that are nearly white in all channels;
        - ``is_failed`` (bool): there is a reason;
        - ``is_blank``, ``is_tiny``, ``is_dark``, ``is_over_exposed`` (bool): by the rules of `PROBLEMS`.

    Raises
    ------
    MemoryBudgetError
        If the table, or decoding, does not fit.

    Notes
    -----
    The copy is what `Thumbnails` makes: what is too fine to be seen on it does not count. Numbers of 32 bits are
    scaled there from their least and greatest, so that of such images only constant ones are blank, and none is dark
    or over-exposed.
    """
    wanted = np.fromiter(rows, np.int64)
    memory.require(_ROW_BYTES * len(wanted), "the table of image statistics")
    numbers = np.full((len(wanted), len(_NUMBERS)), np.nan)
    thumbnails = Thumbnails(source, _SIDE, memory)
    stream = reporter.watch("image statistics", thumbnails.stream(wanted), lambda _: 1, len(wanted))
    for i, (_, image) in enumerate(stream):
        if image is not None:
            numbers[i] = _measure(image)
    reasons = [thumbnails.problems.get(row, "") for row in wanted.tolist()]
    return _table(source, wanted, reasons, numbers)


def write_quality(table: pd.DataFrame, path: Path) -> int:
    """Write the images that have a problem as CSV, the columns as in the table, whole or not at all.

    Parameters
    ----------
    table : DataFrame
        Of `image_quality`.
    path : Path

    Returns
    -------
    int
        How many there are; without any there is no file, and an earlier one is removed.
    """
    listed = table[table[["is_failed", *(f"is_{name}" for name in PROBLEMS)]].any(axis=1)]
    if listed.empty:
        path.unlink(missing_ok=True)
        return 0
    with atomic_file(path) as file:
        listed.to_csv(file, index=False, lineterminator="\n", float_format="%.4g")
    return len(listed)


def _measure(image: Image.Image) -> tuple[float, ...]:
    """Return the `_NUMBERS` of a thumbnail."""
    least, greatest = np.array(image.getextrema()).T / 255
    luma = np.asarray(image.convert("L"))
    white = (np.asarray(image) > 255 * _WHITE).all(axis=2).mean()
    numbers = (luma.mean() / 255, luma.std() / 255, (greatest - least).max(), least.min(), greatest.max(), white)
    return *image.info["original_size"], *map(float, numbers)


def _table(source: ImageSource, rows: np.ndarray, reasons: list[str], numbers: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "row": rows,
            "image_path": pd.Series(source.paths[rows], dtype="str"),
            "reason": pd.Series(reasons, dtype="str"),
            **dict(zip(_NUMBERS, numbers.T, strict=True)),
        }
    )
    return _judge(table.astype({"width": "Int64", "height": "Int64"}))


def judged(table: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `image_quality` with some of its lines measured again, and all judged beside these.

    Parameters
    ----------
    table, again : DataFrame
        Both from `image_quality`, each row once; those of `again` are in `table`.
    """
    merged = table.set_index("row", drop=False)
    merged.loc[again["row"], again.columns] = again.set_index("row", drop=False)
    return _judge(merged.reset_index(drop=True))


def _judge(table: pd.DataFrame) -> pd.DataFrame:
    numbers = table.astype({"width": "float64", "height": "float64"})
    problems = {f"is_{problem.name}": problem.holds(numbers).astype(bool) for problem in PROBLEMS.values()}
    return table.assign(is_failed=table["reason"] != "", **problems)
