"""Edges between components that are in no neighbour list, from products of those rows that can have one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from toolkit.backend.cpu import ordered_map
from toolkit.backend.simd import LANES, lowest_bit, reaching, squared_distance
from toolkit.cluster.lists import put
from toolkit.cluster.points import Products, padded, tile
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.cluster.lists import Table

_BLOCK = 1024  # columns of a tile
_TILE_ROWS = 512


def tabulate_rows(
    core: np.ndarray, component: np.ndarray, radius: np.ndarray, X: np.ndarray, table: Table, bounds: np.ndarray
) -> None:
    """Enter the edges between components that are in no list and lighter than the bounds.

    Such an edge is at least as heavy as the radius at both its ends, so only points whose radius is below the largest
    bound take part.

    Parameters
    ----------
    core, radius : ndarray (n_points,) float64
        Squared.
    component : ndarray (n_points,) int32
    X : ndarray (n_points, n_features)
    table : Table
    bounds : ndarray, of the table's shape
        Overwritten.
    """
    size, largest = table.size, bounds.max()
    active = np.flatnonzero(radius < largest)
    order = active[np.lexsort((radius[active], component[active]))].astype(np.int32)
    if len(np.unique(component[order])) < 2:
        return
    made = Products.of(X, order)

    def multiply(pair: tuple[slice, slice]) -> tuple[slice, slice, np.ndarray]:
        rows, columns = pair
        return rows, columns, tile(made.rows[rows], made.rows[columns])

    def pairs() -> Iterator[tuple[slice, slice]]:
        for row in range(0, len(order), _TILE_ROWS):
            for column in range(row // _BLOCK * _BLOCK, len(order), _BLOCK):
                rows, columns = slice(row, row + _TILE_ROWS), slice(column, column + _BLOCK)
                if component[order[rows][0]] != component[order[columns][-1]]:
                    yield rows, columns

    for rows, columns, values in ordered_map(multiply, pairs(), workers=n_threads()):
        n_padded = values.shape[1]
        _scan_between(
            values, order[rows], made.offsets[rows], order[columns], padded(made.offsets[columns], n_padded, np.nan),
            np.full(n_padded, np.inf, np.float32), core, radius, component, X, made.scale, bounds, size, table.arrays,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def _scan_between(  # type: ignore[no-untyped-def]
    products, rows, offsets, columns, column_offsets, unlimited, core, radius, component, X, scale, bounds, size, table
):
    """Enter the edges of a tile whose columns are of later components than their rows.

    Rows and columns are sorted by component and, within one, by radius.
    """
    flat = products.reshape(-1)
    stride = products.shape[1]
    starts = np.empty(len(columns) + 1, np.int64)  # of each component's columns
    n_runs = 0
    for column in range(len(columns)):
        if column == 0 or component[columns[column]] != component[columns[column - 1]]:
            starts[n_runs] = column
            n_runs += 1
    starts[n_runs] = len(columns)
    for row in range(len(rows)):
        i = rows[row]
        a = component[i]
        for run in range(n_runs):
            start, stop = starts[run], starts[run + 1]
            b = component[columns[start]]
            bound = max(bounds[a, b // size], bounds[b, a // size])
            if b > a and radius[i] < bound:
                threshold = _below(bound, scale)
                at = start
                while at < stop and radius[columns[at]] < bound:
                    begin = min(at, stride - LANES)
                    mask = reaching(
                        flat, row * stride + begin, column_offsets, unlimited, begin, offsets[row], threshold
                    )
                    mask &= np.uint32(0xFFFF) << np.uint32(at - begin)
                    while mask != 0:
                        column = begin + np.intp(lowest_bit(mask))
                        mask &= mask - np.uint32(1)
                        j = columns[column] if column < stop else -1
                        if j >= 0 and core[i] < bound and core[j] < bound:
                            weight = max(core[i], core[j], squared_distance(X, i, X, j))
                            if weight < bound:
                                put(table, size, a, b, i, j, weight)
                                bounds[a, b // size] = min(bounds[a, b // size], weight)
                                bounds[b, a // size] = min(bounds[b, a // size], weight)
                                bound = max(bounds[a, b // size], bounds[b, a // size])
                                threshold = _below(bound, scale)
                    at = begin + LANES


@njit(nogil=True, cache=True)
def _below(limit, scale):  # type: ignore[no-untyped-def]
    """Return what ``v`` of `Products` reaches wherever the squared distance is within a limit."""
    rounded = np.float32(limit * scale * scale)
    if rounded < limit * scale * scale:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return np.float32(-0.5) * rounded
