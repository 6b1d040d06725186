"""Pairs of rows of one identity, and of different ones, judged: all, or a sample; and those that a file lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from toolkit.backend.cpu import ordered_map
from toolkit.backend.simd import squared_distance
from toolkit.errors import InputError
from toolkit.faces.evaluation.identities import match_paths
from toolkit.faces.evaluation.tables import Table
from toolkit.memory import n_threads
from toolkit.score.truth import Verification, verification

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

_MOST_PAIRS = 50_000_000  # that are all measured
_SAMPLE = 10_000_000  # of each kind, where there are more
_BLOCK_PAIRS = 1 << 18
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


class Pairs(NamedTuple):
    """All pairs of one kind, numbered: each row with those that stand, in an order of the rows, in one stretch.

    Attributes
    ----------
    order : ndarray (n_rows,) int64
        Rows of the matrix, those of one identity in a stretch.
    first : ndarray (n_rows,) int64
        Of the row at each place, the place of the first partner.
    offsets : ndarray (n_rows + 1,) int64
        The number of the first pair of the row at each place.
    """

    order: np.ndarray
    first: np.ndarray
    offsets: np.ndarray

    @property
    def n_pairs(self) -> int:
        """Pairs of this kind."""
        return int(self.offsets[-1])

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both rows of pairs, given by their numbers, (n,) int64 each."""
        place = np.searchsorted(self.offsets, numbers, side="right") - 1
        return self.order[place], self.order[self.first[place] + numbers - self.offsets[place]]


def kinds_of_pairs(codes: np.ndarray, known: np.ndarray) -> tuple[Pairs, Pairs]:
    """Return the pairs of one identity and of different ones among the `known` rows of `codes`, each pair once."""
    order = known[np.argsort(codes[known], kind="stable")]
    places = np.arange(len(order))
    end = np.searchsorted(codes[order], codes[order], side="right")
    return tuple(  # type: ignore[return-value]
        Pairs(order, first, np.concatenate([[0], np.cumsum(last - first)]))
        for first, last in ((places + 1, end), (end, np.full(len(order), len(order))))
    )


def verify_all(
    X: np.ndarray, kinds: tuple[Pairs, Pairs], metric: str, seed: int, memory: MemoryBudget, reporter: Reporter
) -> Verification:
    """Judge the distances of all pairs of two kinds, or of a random sample of each."""
    n_measured = [kind.n_pairs for kind in kinds]
    if sum(n_measured) > _MOST_PAIRS:
        n_measured = [min(n, _SAMPLE) for n in n_measured]
    memory.require(24 * sum(n_measured), f"the distances of {sum(n_measured):,} pairs")
    generator = np.random.default_rng(seed)
    same, different = (
        _measure(X, kind, n, metric, generator, reporter) for kind, n in zip(kinds, n_measured, strict=True)
    )
    return verification(same, different, generator)


def _measure(
    X: np.ndarray, kind: Pairs, n_measured: int, metric: str, generator: np.random.Generator, reporter: Reporter
) -> np.ndarray:
    """Return the distances of all pairs of a kind, or of random ones with replacement, (n_measured,) float64."""
    chosen = None
    if n_measured < kind.n_pairs:
        chosen = np.sort(generator.integers(0, kind.n_pairs, n_measured))  # ascending: one row after the other
    found = np.empty(n_measured)

    def measure(start: int) -> int:
        stop = min(start + _BLOCK_PAIRS, n_measured)
        numbers = np.arange(start, stop) if chosen is None else chosen[start:stop]
        found[start:stop] = distances(X, *kind.rows(numbers), metric)
        return stop - start

    workers = n_threads() if n_measured > _BLOCK_PAIRS else 0
    done = ordered_map(measure, range(0, n_measured, _BLOCK_PAIRS), workers=workers)
    for _ in reporter.watch(f"distances of {n_measured:,} pairs", done, float, n_measured):
        pass
    return found


def distances(X: np.ndarray, first: np.ndarray, second: np.ndarray, metric: str) -> np.ndarray:
    """Return the distance of each pair of rows, (n_pairs,) float64; with cosine, of rows of length 1."""
    squares = _squared_distances(X, first, second)
    return np.asarray(squares / 2 if metric == "cosine" else np.sqrt(squares))  # |x - y|^2 = 2 - 2 cos


@njit(nogil=True, cache=True)
def _squared_distances(X, first, second):  # type: ignore[no-untyped-def]
    found = np.empty(len(first))
    for pair in range(len(first)):
        found[pair] = squared_distance(X, first[pair], X, second[pair])
    return found


# Pairs that a file lists
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
    for row, name in enumerate(map(str, paths.tolist())):
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
