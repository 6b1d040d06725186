"""All pairs of rows within a distance: those in the neighbour lists, and those for which the lists are too short."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from toolkit.backend.cpu import ordered_map
from toolkit.backend.simd import squared_distance
from toolkit.cluster.local_outliers import square_roots
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.cluster.density import Neighbors
    from toolkit.memory import MemoryBudget

_TILE = 512  # points on each side of a tile of pairs that are measured
_TILE_BYTES = 16 * _TILE**2  # of the pairs of a tile, if all are near
_PAIR_BYTES = 128  # of a pair of rows, while pairs are put together and sorted


class RowPairs(NamedTuple):
    """Pairs of rows within a distance, ascending by distance, then by rows.

    Attributes
    ----------
    row_1, row_2 : ndarray (n_pairs,) int32
        The smaller row first; empty if there are more pairs than were asked for.
    distance : ndarray (n_pairs,) float64
    number : int
        How many pairs there are; if there are more than were asked for, at least so many.
    """

    row_1: np.ndarray
    row_2: np.ndarray
    distance: np.ndarray
    number: int

    @classmethod
    def only_counted(cls, number: int) -> RowPairs:
        """Make those of which only the number is known, or wanted."""
        return cls(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0), number)

    @property
    def are_listed(self) -> bool:
        """Whether the rows are known, and the number exactly."""
        return len(self.row_1) == self.number


class _PointPairs(NamedTuple):
    """Pairs of points: two points, int32, and their squared distance, float64."""

    i: np.ndarray
    j: np.ndarray
    squared: np.ndarray

    def n_row_pairs(self, counts: np.ndarray) -> int:
        return int((counts[self.i].astype(np.int64) * counts[self.j]).sum())


def near_pairs(
    X: np.ndarray, neighbors: Neighbors, labels: np.ndarray, squared_radius: float, most: int, memory: MemoryBudget
) -> RowPairs:
    """Find all pairs of rows within a distance, exactly.

    A list is complete below its radius. Where that is beyond the distance, the point's pairs are those in its list.
    What is left are pairs of two points whose lists end before: these are measured, group by group.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32 or float64, C-contiguous
    neighbors : Neighbors
        Of X.
    labels : ndarray (n_samples,) int
        The group of each row: its connected component in the graph of the pairs.
    squared_radius : float
    most : int
        Pairs of rows; if there are more, they are counted only up to there.
    memory : MemoryBudget

    Raises
    ------
    MemoryBudgetError
        If the pairs do not fit.
    """
    lists, counts = neighbors.lists, neighbors.counts
    is_cut = lists.radii() <= squared_radius
    n_equal = int((counts.astype(np.int64) * (counts - 1) // 2).sum())
    n_entries = sum(_count(*block, counts, squared_radius) for block in lists.blocks())
    number = n_equal + (n_entries + 1) // 2  # at least: a pair is listed once or twice
    if number > most:
        return RowPairs.only_counted(number)
    memory.require(_PAIR_BYTES * number, f"{number:,} pairs (a smaller distance has fewer)")
    found = [_listed(*block, is_cut, squared_radius) for block in lists.blocks()]
    number = n_equal + sum(pairs.n_row_pairs(counts) for pairs in found)
    for pairs in _unlisted(X, neighbors, np.flatnonzero(is_cut), labels, squared_radius, memory):
        found.append(pairs)
        number += pairs.n_row_pairs(counts)
        if number > most:
            return RowPairs.only_counted(number)
        memory.require(_PAIR_BYTES * number, f"{number:,} pairs (a smaller distance has fewer)")
    i, j, squared = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _sorted(*_expand(neighbors, i, j, squared, number))


def _sorted(row_1: np.ndarray, row_2: np.ndarray, squared: np.ndarray) -> RowPairs:
    order = np.lexsort((row_2, row_1, squared))
    return RowPairs(row_1[order], row_2[order], square_roots(squared[order]), len(order))


def _listed(
    start: int, squared: np.ndarray, indices: np.ndarray, is_cut: np.ndarray, squared_radius: float
) -> _PointPairs:
    """Return the pairs that a stretch of lists decides."""
    n_pairs = _fill_listed(start, squared, indices, is_cut, squared_radius, *_PointPairs(*_arrays(0)))
    pairs = _PointPairs(*_arrays(n_pairs))
    _fill_listed(start, squared, indices, is_cut, squared_radius, *pairs)
    return pairs


def _arrays(n_pairs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.empty(n_pairs, np.int32), np.empty(n_pairs, np.int32), np.empty(n_pairs)


def _unlisted(
    X: np.ndarray,
    neighbors: Neighbors,
    points: np.ndarray,
    labels: np.ndarray,
    squared_radius: float,
    memory: MemoryBudget,
) -> Iterator[_PointPairs]:
    """Yield the pairs of these points, group by group, tile by tile."""
    group = labels[neighbors.first[points]]
    order = np.argsort(group, kind="stable")
    points, starts = points[order].astype(np.int32), np.flatnonzero(np.diff(group[order], prepend=-1))

    def tiles() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for members in np.split(points, starts[1:]):
            for row in range(0, len(members), _TILE):
                for column in range(row, len(members), _TILE):
                    yield members[row : row + _TILE], members[column : column + _TILE]

    def measure(tile: tuple[np.ndarray, np.ndarray]) -> _PointPairs:
        return _PointPairs(*_measure_tile(X, neighbors.first, *tile, squared_radius))

    if len(points):
        memory.require((n_threads() + 2) * _TILE_BYTES, "measuring pairs")
        yield from ordered_map(measure, tiles(), workers=n_threads())


def _expand(
    neighbors: Neighbors, i: np.ndarray, j: np.ndarray, squared: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of rows that pairs of points stand for, and those of equal rows."""
    rows = np.argsort(neighbors.index_of, kind="stable").astype(np.int32)
    ends = np.cumsum(neighbors.counts)
    arrays = _arrays(number)
    _fill_rows(rows, ends - neighbors.counts, ends, i, j, squared, *arrays)
    return arrays


# Kernels
@njit(nogil=True, cache=True)
def _count(start, squared, indices, counts, squared_radius):  # type: ignore[no-untyped-def]
    """Return how many near pairs of rows of different points a stretch of lists holds, one or two times each."""
    total = 0
    for row in range(len(squared)):
        for u in range(squared.shape[1]):
            if squared[row, u] > squared_radius:
                break
            if indices[row, u] != start + row:
                total += np.int64(counts[start + row]) * counts[indices[row, u]]
    return total


@njit(nogil=True, cache=True)
def _fill_listed(start, squared, indices, is_cut, squared_radius, i, j, distances):  # type: ignore[no-untyped-def]
    """Enter the pairs whose first point has a complete list, as far as there is room; return how many there are."""
    n_pairs = 0
    for row in range(len(squared)):
        point = start + row
        if is_cut[point]:
            continue
        for u in range(squared.shape[1]):
            if squared[row, u] > squared_radius:
                break
            other = indices[row, u]
            if point < other or (is_cut[other] and point != other):  # else the other enters it
                if n_pairs < len(i):
                    i[n_pairs], j[n_pairs], distances[n_pairs] = point, other, squared[row, u]
                n_pairs += 1
    return n_pairs


@njit(nogil=True, cache=True)
def _measure_tile(X, first, rows, columns, squared_radius):  # type: ignore[no-untyped-def]
    """Return the near pairs of a point among `rows` with a later one among `columns`, both ascending."""
    most = len(rows) * len(columns)
    i, j, distances = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most)
    n_pairs = 0
    for row in rows:
        for column in columns:
            if row < column:
                squared = squared_distance(X, first[row], X, first[column])
                if squared <= squared_radius:
                    i[n_pairs], j[n_pairs], distances[n_pairs] = row, column, squared
                    n_pairs += 1
    return i[:n_pairs].copy(), j[:n_pairs].copy(), distances[:n_pairs].copy()


@njit(nogil=True, cache=True)
def _fill_rows(rows, starts, ends, i, j, squared, row_1, row_2, distances):  # type: ignore[no-untyped-def]
    at = 0
    for point in range(len(starts)):
        for a in range(starts[point], ends[point]):
            for b in range(a + 1, ends[point]):
                row_1[at], row_2[at], distances[at] = rows[a], rows[b], 0.0
                at += 1
    for pair in range(len(i)):
        for a in range(starts[i[pair]], ends[i[pair]]):
            for b in range(starts[j[pair]], ends[j[pair]]):
                row_1[at], row_2[at] = min(rows[a], rows[b]), max(rows[a], rows[b])
                distances[at] = squared[pair]
                at += 1
