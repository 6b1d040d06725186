"""The format of CelebA (Liu, Luo, Wang and Tang 2015): which attributes each image has, and what it is used for."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import InputError, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

CELEBA = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
LEFT_OUT = ("Attractive", "Blurry", "Pale_Skin")  # unless they are asked for
PREDECESSOR = tuple(name for name in CELEBA if name not in LEFT_OUT)  # of weights-FC37-MobileNetV2-0.92.hdf5
PARTS = ("training", "validation", "test")  # 0, 1, 2 in a partition

_LABELS = {"-1": -1, "1": 1, "0": 0, "": 0, "+1": 1}
_PARTITION = {str(number): number for number in range(len(PARTS))}


@dataclass(frozen=True)
class Attributes:
    """What a list of attributes says.

    Attributes
    ----------
    paths : ndarray (n_images,) of str
    names : tuple of str
    labels : ndarray (n_images, n_attributes) of int8
        1: has it, -1: has it not, 0: not known.
    """

    paths: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray

    def select(self, names: Sequence[str] = (), without: Sequence[str] = ()) -> Attributes:
        """Return some of the attributes, in the order of the list.

        Parameters
        ----------
        names : sequence of str
            Those that are wanted.
        without : sequence of str
            Those that are not, if none are named; by default `LEFT_OUT`.

        Raises
        ------
        InputError
            If a name is unknown, both are given, or nothing is left.
        """
        if names and without:
            raise InputError(
                f"attributes {', '.join(names)} without {', '.join(without)}; allowed: either the ones that are wanted "
                f"or the ones that are not"
            )
        for name in (*names, *without):
            if name not in self.names:
                raise unknown("attribute", name, self.names)
        dropped = without or LEFT_OUT
        kept = [i for i, name in enumerate(self.names) if (name in names if names else name not in dropped)]
        if not kept:
            raise InputError(f"without {', '.join(dropped)} no attribute is left; name those that are wanted")
        return Attributes(self.paths, tuple(self.names[i] for i in kept), self.labels[:, kept])


def read_attributes(path: Path) -> Attributes:
    """Read a list of attributes.

    Parameters
    ----------
    path : Path
        ``list_attr_celeba.txt`` (number of images; names; a line per image: name and, for each attribute, 1 or -1),
        or a CSV with a header (``image_id,5_o_Clock_Shadow,...``). 0 or an empty cell: not known.

    Raises
    ------
    InputError
        If it is not of that form, with the line that is wrong.
    """
    with _rows(path) as rows:
        n_images = None if _is_csv(path) else _count(path, next(rows, (1, []))[1])
        line, header = next(rows, (1, []))
        names = tuple(header[1:] if _is_csv(path) else header)
        _check_names(path, line, names)
        paths: dict[str, None] = {}
        labels = bytearray()
        for line, cells in rows:
            _check_length(path, line, cells, len(names) + 1)
            try:
                labels += bytes([_LABELS[cell.strip()] & 0xFF for cell in cells[1:]])
            except KeyError as error:
                raise InputError(
                    f"{path}, line {line}: {error.args[0]!r:.40}; allowed: 1 (has it), -1 (has it not), 0 (not known)"
                ) from None
            _add(path, line, cells[0], paths)
    if not paths:
        raise InputError(f"{path} lists no image; give list_attr_celeba.txt, or a CSV with a header")
    if n_images not in (None, len(paths)):
        raise InputError(
            f"{path} says that it lists {n_images:,} images, and lists {len(paths):,}; it is not whole: fetch it again"
        )
    found = np.frombuffer(bytes(labels), np.int8).reshape(len(paths), len(names))
    if not (found == -1).any():
        raise InputError(f"{path} holds no -1; write -1 where an image has an attribute not: 0 means not known")
    return Attributes(np.array(list(paths), np.str_), names, found)


def read_partition(path: Path) -> dict[str, int]:
    """Read what each image is used for: 0 training, 1 validation, 2 test.

    Parameters
    ----------
    path : Path
        ``list_eval_partition.txt`` (a line per image: name and number), or a CSV with a header.

    Raises
    ------
    InputError
        If it is not of that form, with the line that is wrong.
    """
    found: dict[str, int] = {}
    with _rows(path) as rows:
        if _is_csv(path):
            next(rows, None)
        for line, cells in rows:
            _check_length(path, line, cells, 2)
            if cells[1].strip() not in _PARTITION:
                raise InputError(
                    f"{path}, line {line}: {cells[1]!r:.40}; allowed: 0 (training), 1 (validation), 2 (test)"
                )
            _add(path, line, cells[0], found, _PARTITION[cells[1].strip()])
    if not found:
        raise InputError(f"{path} lists no image; give list_eval_partition.txt or a CSV with a header")
    return found


# Lines
def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Open a list: the lines that are not empty, with their numbers from 1, divided at blanks or as CSV."""
    if not path.is_file():
        raise InputError(f"{path} {'is no file' if path.exists() else 'does not exist'}; give a list of CelebA's form")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines: Iterable[list[str]] = csv.reader(file) if _is_csv(path) else (line.split() for line in file)
            yield ((number, cells) for number, cells in enumerate(lines, 1) if cells)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no readable list: {error}; give one of CelebA's form") from error


def _count(path: Path, cells: list[str]) -> int:
    if len(cells) != 1 or not cells[0].isdecimal():
        first = " ".join(cells)
        raise InputError(f"{path}, line 1: {first!r:.60}; allowed: the number of images (a CSV is to be called .csv)")
    return int(cells[0])


def _check_names(path: Path, line: int, names: tuple[str, ...]) -> None:
    if not names or not all(names):
        raise InputError(f"{path}, line {line} names no attributes; allowed: a name for each column of labels")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path}, line {line}: attribute {twice!r:.60} is there twice; name each once")


def _check_length(path: Path, line: int, cells: list[str], wanted: int) -> None:
    if len(cells) != wanted:
        raise InputError(f"{path}, line {line} has {len(cells)} columns; allowed: {wanted}, as above it")


def _add(path: Path, line: int, name: str, found: dict[str, int] | dict[str, None], value: int | None = None) -> None:
    if name in found:
        raise InputError(f"{path}, line {line}: image {name!r:.80} is there twice; list each once")
    found[name] = value  # type: ignore[assignment]
