"""Attributes of images: what each is known to have, from any table of them, or from the names of their files."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from toolkit.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAME_COLUMNS = (
    "path", "paths", "crop", "image_path", "image_paths", "filename", "file_name", "image", "image_name", "image_id",
    "file", "name",
)  # fmt: skip
THRESHOLD = 0.5  # of a probability, from which on an image has an attribute
_MOST_TEXTS = 50  # of a column: more are names of things, not attributes
_MOST_NUMBERS = 10  # of a column, each an attribute; of more, ranges are
_RANGES = 5  # with about as many images in each: the narrowest that still have enough in most clusters
_LONGEST_NAME = 255  # of a file, as most file systems allow
_TRUE, _FALSE = ("true", "yes"), ("false", "no")
_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELD_NAME = re.compile(r"([^\W\d]\w{0,63})(\*?)")


@dataclass(frozen=True)
class Attributes:
    """What images have.

    Attributes
    ----------
    names : list of str
    has : ndarray (n_images, n_attributes) bool
        False too where it is not known.
    column : ndarray (n_attributes,) int64
        Which column of `is_known` an attribute belongs to.
    is_known : ndarray (n_images, n_columns) bool
    notes : list of str
        What was left out, and how columns were read.
    """

    names: list[str]
    has: np.ndarray
    column: np.ndarray
    is_known: np.ndarray
    notes: list[str]

    @property
    def n_known(self) -> int:
        """Images of which anything is known."""
        return int(self.is_known.any(axis=1).sum())


class Column(NamedTuple):
    """A column of a table: the number of each image's value, -1 where there is none, and the values."""

    name: str
    codes: np.ndarray
    values: list[str]


def read_attributes(table: Path, paths: np.ndarray) -> Attributes:
    """Read a table of attributes.

    Parameters
    ----------
    table : Path
        A CSV with the path or the name of an image in a column called path, filename, image_id or the like, and
        columns of attributes; or CelebA's ``list_attr_celeba.txt``. See `encoded` for how columns are read.
    paths : ndarray (n_images,) of str
        The images. A line belongs to the one with its path, else to the one with its file name, if no other image and
        no other line has that.

    Raises
    ------
    InputError
        If it is no table that can be read, has no such column, or no line belongs to an image.
    """
    frame = _read_table(table)
    named = [name for name in frame.columns if str(name).strip().lower() in NAME_COLUMNS]
    if not named:
        listed = ", ".join(str(name) for name in frame.columns)
        raise InputError(f"{table} has no column called any of: {', '.join(NAME_COLUMNS)}; there are: {listed:.200}")
    key = min(named, key=lambda name: NAME_COLUMNS.index(str(name).strip().lower()))
    line, notes = _matched(paths, frame[key].astype(object).fillna("").astype(str).tolist(), table)
    columns = []
    for name in frame.columns.drop(key):
        of_lines = frame[name].cat
        codes = np.where(line >= 0, of_lines.codes.to_numpy(np.int64)[line], -1)
        columns.append(Column(str(name).strip(), codes, [str(value) for value in of_lines.categories]))
    found = encoded(columns)
    found.notes[:0] = notes
    return found


def name_fields(template: str, paths: np.ndarray) -> Attributes:
    """Read attributes from file names.

    Parameters
    ----------
    template : str
        What file names (without folder and extension) look like, ``{id}_{born}_{year}`` for instance. A field in
        braces holds none of the characters that any text between fields begins with; one, with a star, may:
        ``{person*}_{number}``. Fields called ``_`` are ignored.
    paths : ndarray (n_images,) of str

    Raises
    ------
    InputError
        If the template is none, or no file name is like it.
    """
    pattern = _pattern(template)
    stems = [PurePosixPath(str(path).replace("\\", "/")).stem for path in paths]
    fits = [pattern.fullmatch(stem) if len(stem) <= _LONGEST_NAME else None for stem in stems]
    strange = [stem for stem, fit in zip(stems, fits, strict=True) if fit is None]
    if len(strange) == len(stems):
        example = f", for instance {strange[0]!r:.80}" if strange else ""
        raise InputError(f"no file name is like --fields {template!r:.100}{example}; write one as {{id}}_{{year}}")
    columns = []
    for field in pattern.groupindex:
        codes, values = pd.factorize(np.array([None if fit is None else fit[field] for fit in fits], dtype=object))
        columns.append(Column(field, codes.astype(np.int64), [str(value) for value in values]))
    found = encoded(columns)
    if strange:
        found.notes.insert(0, f"{len(strange):,} file names are not like {template}, for instance {strange[0]!r:.80}")
    return found


def encoded(columns: Iterable[Column]) -> Attributes:
    """Turn columns into attributes.

    - True and false, yes and no, 1 and 0, 1 and -1 (as in CelebA): the attribute is the column.
    - Numbers from 0 to 1 are probabilities: it is had from 0.5 on.
    - Up to 10 other numbers: each is one, ``children=2``. More: five ranges with about as many images in each,
      ``year 1990 to 1999``.
    - Up to 50 texts: each is one, ``colour=red``. Columns with more are left out.
    """
    names: list[str] = []
    has: list[np.ndarray] = []
    column: list[int] = []
    known: list[np.ndarray] = []
    kinds: dict[str, list[str]] = {}
    for one in map(_only_used, columns):
        kind, titles, of_value = _attributes_of(one)
        kinds.setdefault(kind, []).append(one.name)
        if titles:
            names += titles
            column += [len(known)] * len(titles)
            known.append(one.codes >= 0)
            has += [np.append(is_had, False)[one.codes] for is_had in of_value]
    n_images = len(known[0]) if known else 0
    notes = [f"{kind}: {', '.join(of_kind):.300}" for kind, of_kind in kinds.items() if kind]
    return Attributes(
        names,
        np.array(has).reshape(-1, n_images).T,
        np.array(column, np.int64),
        np.array(known).reshape(-1, n_images).T,
        notes,
    )


def joined(parts: Sequence[Attributes]) -> Attributes:
    """Put attributes of the same images together."""
    offsets = np.cumsum([0, *(part.is_known.shape[1] for part in parts)])
    return Attributes(
        [name for part in parts for name in part.names],
        np.hstack([part.has for part in parts]),
        np.concatenate([part.column + offset for part, offset in zip(parts, offsets[:-1], strict=True)]),
        np.hstack([part.is_known for part in parts]),
        [note for part in parts for note in part.notes],
    )


# Tables
def _read_table(table: Path) -> pd.DataFrame:
    """Read all columns as texts, each value once."""
    try:
        with table.open(encoding="utf-8-sig") as file:
            first, second = file.readline(4096), file.readline(65536)
        if first.strip().isdecimal() and second:  # CelebA: the number of images, the names, then lines with the image
            return pd.read_csv(
                table, sep=r"\s+", skiprows=2, header=None, names=["image_id", *second.split()], dtype="category"
            )
        if ";" in first and "," not in first:
            raise InputError(f"{table} is separated by semicolons; save it as CSV separated by commas")
        return pd.read_csv(table, dtype="category", encoding="utf-8-sig", skipinitialspace=True, index_col=False)
    except FileNotFoundError as error:
        raise InputError(f"attributes {table} does not exist; give a CSV with a line for each image") from error
    except (ValueError, OSError) as error:  # pandas' own are ValueErrors
        raise InputError(
            f"attributes {table} is not a readable CSV: {one_line(error)}; save it as CSV UTF-8"
        ) from error


def _matched(paths: np.ndarray, names: list[str], table: Path) -> tuple[np.ndarray, list[str]]:
    """Return the line of each image, -1 without one, and what is worth saying of the others."""
    line = lines_of(paths, names)
    n_without = int((line < 0).sum())
    if n_without == len(line):
        example = f", for instance {names[0]!r:.80}" if names else ""
        raise InputError(f"no line of {table}{example} belongs to one of the {len(line):,} images, as {paths[0]!r:.80}")
    notes = [f"{n_without:,} of {len(line):,} images have no line of their own in {table.name}"] if n_without else []
    n_left = len(names) - len(np.unique(line[line >= 0]))
    return line, notes + ([f"{n_left:,} of {len(names):,} lines of {table.name} belong to no image"] if n_left else [])


def lines_of(paths: np.ndarray, names: list[str]) -> np.ndarray:
    """Return the line of each image, (n_images,) int64, -1 without one.

    It is the only one with its path, else the only one with its file name, if no other image has that.
    """
    wanted, there = [_plain(str(path)) for path in paths], [_plain(name) for name in names]
    whole, images = _once(there), Counter(_file(path) for path in wanted)
    files = _once([_file(name) for name in there])
    alone = (files.get(_file(path), -1) if images[_file(path)] == 1 else -1 for path in wanted)
    return np.array([whole.get(path, other) for path, other in zip(wanted, alone, strict=True)], np.int64)


def _once(names: list[str]) -> dict[str, int]:
    """Return the places of names that occur once."""
    counts = Counter(names)
    return {name: place for place, name in enumerate(names) if counts[name] == 1}


def _plain(path: str) -> str:
    return path.strip().replace("\\", "/").removeprefix("./")


def _file(path: str) -> str:
    return path.rsplit("/", 1)[-1]


# Columns
def _only_used(column: Column) -> Column:
    """Leave out values that no image has, and blanks: around values, and instead of them."""
    used = np.unique(column.codes[column.codes >= 0])
    texts = [column.values[value].strip() for value in used]
    values = list(dict.fromkeys(text for text in texts if text))
    place = np.full(len(column.values) + 1, -1, np.int64)  # the last is that of -1
    place[used] = (
        [values.index(text) if text else -1 for text in texts] if len(values) < len(used) else range(len(used))
    )
    return Column(column.name, place[column.codes], values)


def _attributes_of(column: Column) -> tuple[str, list[str], list[np.ndarray]]:
    """Return what is worth saying of a column, its attributes, and for each which values have it, (n_values,) bool."""
    values = column.values
    lower = [value.lower() for value in values]
    if not values:
        return "columns without any value, left out", [], []
    if set(lower) <= {*_TRUE, *_FALSE}:
        return "", [column.name], [np.isin(lower, _TRUE)]
    numbers = np.array([_number(value) for value in values])
    if np.isfinite(numbers).all():
        return _of_numbers(column, numbers)
    if len(values) > _MOST_TEXTS:
        return f"columns with more than {_MOST_TEXTS} different texts, left out", [], []
    return "", *_one_each(column.name, values)


def _of_numbers(column: Column, numbers: np.ndarray) -> tuple[str, list[str], list[np.ndarray]]:
    if np.isin(numbers, (0, 1)).all() or np.isin(numbers, (-1, 1)).all():
        return "", [column.name], [numbers == 1]
    if (numbers >= 0).all() and (numbers <= 1).all():
        return f"columns of probabilities, had from {THRESHOLD} on", [column.name], [numbers >= THRESHOLD]
    order = np.argsort(numbers, kind="stable")
    if len(numbers) <= _MOST_NUMBERS:
        names, had = _one_each(column.name, [column.values[value] for value in order])
        return "", names, [is_had[np.argsort(order)] for is_had in had]
    of_images = np.sort(numbers[column.codes[column.codes >= 0]])
    steps = of_images[np.ceil(np.arange(1, _RANGES) * len(of_images) / _RANGES).astype(int) - 1]
    range_of = np.searchsorted(np.unique(steps), numbers, side="left")  # a step is the last number of its range
    titles, had = [], []
    for one in np.unique(range_of):
        inside = order[range_of[order] == one]
        titles.append(f"{column.name} {column.values[inside[0]]} to {column.values[inside[-1]]}")
        had.append(range_of == one)
    return f"columns of numbers, in {_RANGES} ranges with about as many images in each", titles, had


def _one_each(name: str, values: list[str]) -> tuple[list[str], list[np.ndarray]]:
    return [f"{name}={value}" for value in values], list(np.eye(len(values), dtype=bool))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


# File names
def _pattern(template: str) -> re.Pattern[str]:
    """Turn a template into an expression that needs no more than the square of a name's length to match."""
    texts, fields = _FIELD.split(template)[::2], _FIELD.findall(template)
    named = [_FIELD_NAME.fullmatch(field) for field in fields]
    names = [match[1] for match in named if match and match[1] != "_"]
    what = None
    if not names or None in named or any("{" in text or "}" in text for text in texts):
        what = "has fields in braces that are names, as {id}_{year}"
    elif len(set(names)) < len(names):
        what = "has each field once"
    elif "" in texts[1:-1]:
        what = "has text between any two fields"
    elif sum(match[2] == "*" for match in named if match) > 1:
        what = "has one field with a star at most"
    if what:
        raise InputError(f"--fields {template!r:.100} is no template of file names, which {what}")
    outside = re.escape("".join(sorted({text[0] for text in texts if text})))
    pieces = [re.escape(texts[0])]
    for match, text in zip(named, texts[1:], strict=True):
        assert match is not None  # noqa: S101 (for the type checker)
        inside = ".+" if match[2] or not outside else f"[^{outside}]+"
        pieces.append((f"(?P<{match[1]}>{inside})" if match[1] != "_" else f"(?:{inside})") + re.escape(text))
    return re.compile("".join(pieces), re.DOTALL)
