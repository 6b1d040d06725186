"""Pairs that a file lists, judged apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import InputError
from toolkit.faces.evaluation.identities import match_paths
from toolkit.faces.evaluation.pairs import distances
from toolkit.faces.evaluation.table import Table
from toolkit.score.truth import Verification, verification

if TYPE_CHECKING:
    from pathlib import Path

_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


def verify_listed(
    path: Path, X: np.ndarray, rows: np.ndarray, paths: np.ndarray, metric: str
) -> tuple[Verification, int]:
    """Judge the pairs of a file; return also how many were left out. `rows` says which row of the file each of X is."""
    table = Table(path)
    cells = [table.column((f"row_{side}", f"path_{side}")) for side in (1, 2)]
    if table.find(("row_1",)) is not None:
        sides = [_row_numbers(path, side, len(paths)) for side in cells]
    else:
        sides = [_rows_of(path, side, paths) for side in cells]
    is_same = _truths(path, table.column(("same",)))
    place = np.full(len(paths) + 1, -1)  # the last is that of images without a row
    place[rows] = np.arange(len(rows))
    first, second = (place[side] for side in sides)
    there = (first >= 0) & (second >= 0)
    found = distances(X, first[there], second[there], metric)
    same, different = found[is_same[there]], found[~is_same[there]]
    if not len(same) or not len(different):
        raise InputError(
            f"{path} has {len(same):,} pairs that are the same and {len(different):,} that are not, of readable rows; "
            f"at least one of each is needed"
        )
    return verification(same, different), int(np.count_nonzero(~there))


def _row_numbers(path: Path, cells: list[str], n_rows: int) -> np.ndarray:
    wrong = next((cell for cell in cells if not cell.isdecimal() or int(cell) >= n_rows), None)
    if wrong is not None:
        raise InputError(f"{path} names row {wrong!r:.40}; allowed: 0 to {n_rows - 1}")
    return np.array([int(cell) for cell in cells], dtype=np.int64)


def _rows_of(path: Path, cells: list[str], paths: np.ndarray) -> np.ndarray:
    """Return the row of each image, -1 where there is none."""
    rows: dict[str, int] = {}
    twice: set[str] = set()
    for row, name in enumerate(paths.tolist()):
        if rows.setdefault(name, row) != row:
            twice.add(name)
    names = list(rows)
    places = match_paths(cells, names)
    unclear = next((names[at] for at in places.tolist() if at >= 0 and names[at] in twice), None)
    if unclear is not None:
        raise InputError(f"{path} names {unclear!r:.200}, an image of several rows; name rows by row_1 and row_2")
    return np.array([rows[names[at]] if at >= 0 else -1 for at in places.tolist()], dtype=np.int64)


def _truths(path: Path, cells: list[str]) -> np.ndarray:
    wrong = next((cell for cell in cells if cell.lower() not in _YES + _NO), None)
    if wrong is not None:
        raise InputError(f"{path}: same is {wrong!r:.40}; allowed: {' '.join(_YES)} or {' '.join(_NO)}")
    return np.array([cell.lower() in _YES for cell in cells], dtype=bool)
