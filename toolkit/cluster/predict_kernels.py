"""The compiled inner loops of labelling new rows: which fitted rows matter to each, and how far they are.

Distances decide as float64 differences (`toolkit.backend.simd.squared_distance`, which the density forest uses too).
A float32 product of centred rows only bounds them from below and tells which have to be looked at: with x, c the
centred rows and p their float32 product, ``|x - c|^2 >= |x|^2 + |c|^2 - 2 p - 2 n u |x| |c|`` (Higham 2002, section
3.1: any order of summation), with the roundings of the rows and of the last steps added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from toolkit.backend.cpu import ordered_map
from toolkit.backend.simd import squared_distance
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PART_ROWS = 512  # new rows that one thread works on
NO_LABEL = np.iinfo(np.int32).max
_TILE_COLUMNS = 2048  # rows of the model that they are multiplied with at once
_TILE_BYTES = 8 << 20  # of these, centred
_UNIT32, _UNIT64 = 2.0**-24, 2.0**-53
_REACH = 1 + 2.0**-50  # covers a root and its square


class Centred(NamedTuple):
    """Rows from a centre, each scaled by a power of two of its own so that no product leaves float32.

    `rows` (n, n_features) float32; `square` (n,) float64 of the unscaled rows; `length` (n,) float64 of the scaled
    ones; `factor` (n,) float64, one over the scale.
    """

    rows: np.ndarray
    square: np.ndarray
    length: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, centre: np.ndarray) -> Centred:
        """Centre and scale rows, (n, n_features) float32, in float64."""
        values = rows - centre
        square = np.einsum("ij,ij->i", values, values)
        exponent = np.frexp(np.abs(values).max(axis=1))[1]
        values *= np.ldexp(1.0, -exponent)[:, None]
        length = np.sqrt(np.einsum("ij,ij->i", values, values))
        return cls(values.astype(np.float32), square, length, np.ldexp(1.0, exponent))


class Tile(NamedTuple):
    """The products of new rows with some rows of the model, `columns` (n_columns,) int64."""

    products: np.ndarray
    columns: np.ndarray
    new: Centred
    fitted: Centred


def centre_of(X: np.ndarray) -> np.ndarray:
    """Return the mean row, (n_features,) float64: any point near the rows would do."""
    return np.asarray(X.mean(axis=0, dtype=np.float64))


def tile_columns(n_features: int) -> int:
    """Return how many fitted rows a tile has."""
    return int(np.clip(_TILE_BYTES // (8 * n_features), 64, _TILE_COLUMNS))


def tile_bytes(n_features: int) -> int:
    """Return what one thread holds while it works on a tile."""
    columns = tile_columns(n_features)
    return 20 * n_features * (columns + PART_ROWS) + 4 * columns * PART_ROWS


def by_parts(X: np.ndarray, function: Callable[[np.ndarray], Any]) -> Iterator[Any]:
    """Call a function for some new rows at a time on all threads, and yield what it returns in their order."""
    parts = (X[start : start + PART_ROWS] for start in range(0, len(X), PART_ROWS))
    return ordered_map(function, parts, workers=n_threads() if len(X) > PART_ROWS else 0)


def tiles(new: np.ndarray, X: np.ndarray, rows: np.ndarray, centre: np.ndarray) -> Iterator[Tile]:
    """Yield the products of new rows with some rows of X.

    A tile's rows are spread over all of them: in whatever order a file is, the first tile knows about how far the
    nearest are, and few distances have to be measured in the others.
    """
    n_tiles = -(-len(rows) // tile_columns(X.shape[1]))
    centred = Centred.of(new, centre)
    for start in range(n_tiles):
        columns = rows[start::n_tiles]
        fitted = Centred.of(X[columns], centre)
        yield Tile(centred.rows @ fitted.rows.T, columns, centred, fitted)


@njit(nogil=True, cache=True)
def bounds_of(tile, i, bounds):  # type: ignore[no-untyped-def]
    """Write lower bounds of what `squared_distance` gives for row i of a tile into `bounds`, (n_columns,) float64."""
    n_features = tile.new.rows.shape[1]
    square, factor = tile.new.square[i], 2.0 * tile.new.factor[i]
    slope = (n_features + 16) * (1.01 * _UNIT32) * tile.new.length[i]
    underflow, kept = n_features * 2.0**-140, 1.0 - (n_features + 16) * (4.0 * _UNIT64)
    products, fitted = tile.products[i], tile.fitted
    for j in range(len(bounds)):
        inner = fitted.factor[j] * (products[j] + (slope * fitted.length[j] + underflow))
        bounds[j] = (square + fitted.square[j]) * kept - factor * inner


@njit(nogil=True, cache=True)
def scan_cores(new, X, tile, labels, squared_radius, nearest, best):  # type: ignore[no-untyped-def]
    """Bring the squared distance to the nearest core row and the lowest label within the radius up to date."""
    bounds = np.empty(len(tile.columns))
    for i in range(len(new)):
        bounds_of(tile, i, bounds)
        least, label = nearest[i], best[i]
        for j in range(len(bounds)):
            if bounds[j] <= least or bounds[j] <= squared_radius:
                row = tile.columns[j]
                if bounds[j] <= least or labels[row] < label:
                    squared = squared_distance(new, i, X, row)
                    least = min(least, squared)
                    if squared <= squared_radius:
                        label = min(label, labels[row])
        nearest[i], best[i] = least, label


class Lists(NamedTuple):
    """Of each new row: its nearest fitted rows, and the one of smallest mutual reachability, its own core left out.

    `squared` (n, k) float64 and `row` (n, k) int64 are heaps, the farthest on top, of the nearest, by (squared
    distance, row); `reach`, `reach_squared` (n,) float64 and `reach_row` (n,) int64 are the smallest (the larger of
    the row's core distance and its distance, squared distance, row).
    """

    squared: np.ndarray
    row: np.ndarray
    reach: np.ndarray
    reach_squared: np.ndarray
    reach_row: np.ndarray

    @classmethod
    def empty(cls, n: int, k: int) -> Lists:
        """Make the lists of n new rows, of the k nearest each."""
        reach, reach_squared = np.full((2, n), np.inf)
        return cls(np.full((n, k), np.inf), np.zeros((n, k), np.int64), reach, reach_squared, np.zeros(n, np.int64))


@njit(nogil=True, cache=True)
def scan_rows(new, X, tile, core, lists):  # type: ignore[no-untyped-def]
    """Bring the lists up to date."""
    bounds = np.empty(len(tile.columns))
    for i in range(len(new)):
        bounds_of(tile, i, bounds)
        limit = _limit(lists, i)
        for j in range(len(bounds)):
            if bounds[j] <= limit:
                row = tile.columns[j]
                if bounds[j] <= lists.squared[i, 0] or core[row] <= lists.reach[i]:
                    _enter(lists, i, row, squared_distance(new, i, X, row), core[row])
                    limit = _limit(lists, i)


@njit(nogil=True, inline="always")
def _limit(lists, i):  # type: ignore[no-untyped-def]
    """Return the squared distance beyond which a row changes nothing in the lists of row i."""
    return max(lists.squared[i, 0], lists.reach[i] * lists.reach[i] * _REACH)


@njit(nogil=True, cache=True)
def _enter(lists, i, row, squared, core):  # type: ignore[no-untyped-def]
    """Enter a fitted row, with its core distance, into the lists of row i."""
    if _before(squared, row, lists.squared[i, 0], lists.row[i, 0]):
        _sift_in(lists.squared[i], lists.row[i], squared, row)
    reach = max(core, np.sqrt(squared))
    if reach < lists.reach[i] or (
        reach == lists.reach[i] and _before(squared, row, lists.reach_squared[i], lists.reach_row[i])
    ):
        lists.reach[i], lists.reach_squared[i], lists.reach_row[i] = reach, squared, row


@njit(nogil=True, inline="always")
def _before(squared, row, other_squared, other_row):  # type: ignore[no-untyped-def]
    return squared < other_squared or (squared == other_squared and row < other_row)


@njit(nogil=True, cache=True)
def _sift_in(squared, row, new_squared, new_row):  # type: ignore[no-untyped-def]
    """Replace the farthest of a heap; places that are empty hold inf, which is farther than any row."""
    at, size = 0, len(squared)
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _before(squared[child], row[child], squared[child + 1], row[child + 1]):
            child += 1
        if not _before(new_squared, new_row, squared[child], row[child]):
            break
        squared[at], row[at] = squared[child], row[child]
        at = child
    squared[at], row[at] = new_squared, new_row


@njit(nogil=True, cache=True)
def choose(lists, core, min_samples, neighbour, distance):  # type: ignore[no-untyped-def]
    """Choose the fitted row of smallest mutual reachability with each new row, and write it and the reachability.

    Where another row's reach is below the new row's own core distance, all such rows tie at that distance, and the
    nearest of them is in the list.
    """
    for i in range(len(neighbour)):
        own = np.sqrt(lists.squared[i, 0]) if min_samples > 1 else 0.0
        best, best_squared = lists.reach_row[i], lists.reach_squared[i]
        first, least = 0, np.inf
        for u in range(lists.squared.shape[1]):
            squared, row = lists.squared[i, u], lists.row[i, u]
            if _before(squared, row, least, first):
                first, least = row, squared
            if core[row] <= own and _before(squared, row, best_squared, best):
                best, best_squared = row, squared
        if least == 0.0:  # a row of the fit
            neighbour[i], distance[i] = first, 0.0
        else:
            neighbour[i], distance[i] = best, max(own, lists.reach[i])
