"""The two clusters that are nearest to a row: by their nearest rows, so whatever the shapes of the clusters.

As in `predict_kernels`, float32 products only bound and distances of float64 differences decide; what comes out does
not depend on blocks, on threads or on memory.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from toolkit.backend.cpu import ordered_map
from toolkit.backend.simd import squared_distance
from toolkit.cluster import predict_kernels as kernels
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from toolkit.memory import MemoryBudget

_ROW_BYTES = 24  # of what is found


class NearestClusters(NamedTuple):
    """Of each row: the nearest cluster, the lowest-numbered of equally near ones, and how far it and the next are.

    Attributes
    ----------
    label : ndarray (n,) int32
    nearest, second : ndarray (n,) float64
        Squared distance to the nearest row of that cluster, and to the nearest row of any other; inf without another.
    """

    label: np.ndarray
    nearest: np.ndarray
    second: np.ndarray


class _Fitted(NamedTuple):
    """Clustered rows, `rows` (n_columns,) int64, centred."""

    rows: np.ndarray
    centred: kernels.Centred


def nearest_clusters(
    X: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    memory: MemoryBudget,
    advance: Callable[[float], None] = lambda _: None,
) -> NearestClusters:
    """Find the two nearest clusters of some rows of X.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32
        C order, finite.
    labels : ndarray (n_samples,) int
        Negative: in no cluster. At least one row is in one.
    rows : ndarray (n,) int64
    memory : MemoryBudget
        It decides how many clustered rows are held centred, and how many threads work, and changes no bit.
    advance : callable
        Told the share of the work that was done.

    Raises
    ------
    MemoryBudgetError
        If one block on one thread does not fit.
    """
    labels = labels.astype(np.int32)
    clustered = np.flatnonzero(labels >= 0)
    found = NearestClusters(np.full(len(rows), kernels.NO_LABEL, np.int32), *np.full((2, len(rows)), np.inf))
    n_tiles = -(-len(clustered) // kernels.tile_columns(X.shape[1]))
    workers, held = _room(X.shape[1], n_tiles, len(rows), memory)
    centre = kernels.centre_of(X)

    def scan(tiles: list[_Fitted], start: int) -> int:
        part = slice(start, start + kernels.PART_ROWS)
        new = X[rows[part]]
        centred = kernels.Centred.of(new, centre)
        state = NearestClusters(*(values[part] for values in found))
        for columns, fitted in tiles:
            tile = kernels.Tile(centred.rows @ fitted.rows.T, columns, centred, fitted)
            _scan_clusters(new, X, tile, labels, *state)
            del tile  # before the next product is made
        return len(new)

    for tiles in _panels(X, clustered, centre, n_tiles, held, workers):
        share = sum(len(tile.rows) for tile in tiles) / len(clustered)
        for done in ordered_map(partial(scan, tiles), range(0, len(rows), kernels.PART_ROWS), workers=workers):
            advance(share * done / len(rows))
        del tiles  # before the next ones are made
    return found


def product_equivalents(n_rows: int, n_clustered: int, n_features: int) -> float:
    """Return how many multiply-adds of a float32 matrix product take as long as `nearest_clusters`; measured."""
    return n_rows * n_clustered * (1.1 * n_features + 45)


def _room(n_features: int, n_tiles: int, n_rows: int, memory: MemoryBudget) -> tuple[int, int]:
    """Return how many threads may work, none being this one, and how many tiles may be held."""
    tile_bytes = kernels.tile_columns(n_features) * (4 * n_features + 32)
    thread_bytes = kernels.tile_bytes(n_features)
    memory.require(_ROW_BYTES * n_rows + tile_bytes + thread_bytes, f"the nearest clusters of {n_rows:,} rows")
    free = memory.free - _ROW_BYTES * n_rows
    most = n_threads() if n_rows > kernels.PART_ROWS else 0
    workers = int(min(most, (free - tile_bytes) // thread_bytes))
    workers = 0 if workers == 1 else workers
    return workers, int(np.clip((free - max(workers, 1) * thread_bytes) // tile_bytes, 1, n_tiles))


def _panels(
    X: np.ndarray, clustered: np.ndarray, centre: np.ndarray, n_tiles: int, held: int, workers: int
) -> Iterator[list[_Fitted]]:
    """Yield the clustered rows, centred, in tiles of which so many are held.

    A tile's rows are spread over all of them, so that the first ones tell about how far the nearest clusters are.
    """

    def centred(number: int) -> _Fitted:
        columns = clustered[number::n_tiles]
        return _Fitted(columns, kernels.Centred.of(X[columns], centre))

    for start in range(0, n_tiles, held):
        yield list(ordered_map(centred, range(start, min(start + held, n_tiles)), workers=workers))


@njit(nogil=True, cache=True)
def _scan_clusters(new, X, tile, labels, best, nearest, second):  # type: ignore[no-untyped-def]
    """Bring the two nearest clusters of new rows up to date with the rows of a tile."""
    bounds = np.empty(len(tile.columns))
    for i in range(len(new)):
        kernels.bounds_of(tile, i, bounds)
        label, least, other = best[i], nearest[i], second[i]
        for j in range(len(bounds)):
            if bounds[j] <= other:
                row = tile.columns[j]
                cluster = labels[row]
                if bounds[j] <= (least if cluster == label else other):
                    squared = squared_distance(new, i, X, row)
                    if cluster == label:
                        least = min(least, squared)
                    elif squared < least or (squared == least and cluster < label):
                        label, least, other = cluster, squared, least
                    else:
                        other = min(other, squared)
        best[i], nearest[i], second[i] = label, least, other
