"""Exact silhouettes of many labellings: every tile of distances is computed once and added up for all of them.

The silhouette of a row (Rousseeuw 1987) needs its mean distance to each cluster. A tile holds the distances of
`_TILE_COLUMNS` rows (the columns of the tile) to `_TILE_ROWS` rows. For each labelling the columns are sorted by
cluster beforehand, so that a cluster's sums for all rows of the tile are a few vector additions per column. Tiles
always have the same shape and lie at the same places of one order of the rows, so that a labelling's numbers depend
neither on the labellings beside it nor on threads or memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np

from toolkit.backend.cpu import ordered_map
from toolkit.score.variance import squared_distance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from toolkit.score.labellings import Partition

_LANES = 64  # rows whose sums are added at once, as one stretch of memory
_TILE_ROWS = 128
_TILE_COLUMNS = 1024  # a multiple of _TILE_ROWS
_TILE_BYTES = 2 * 8 * _TILE_ROWS * _TILE_COLUMNS
_LABEL_BYTES = 4 + 4 + 4 * 12  # of a labelling and row: label, sorted column, runs (at most one) being put together
_SUM_BYTES = 16 << 20  # of sums per thread: beyond that they leave the cache, and new tiles are cheaper
_SHARED_PREFIX = 2  # labellings share tiles within so many times `max_rows` rows of the common order
NEAR = 2.0**-17  # squared distances below this share of the squared norms are computed again from the differences


@dataclass(frozen=True)
class Sampled:
    """One labelling of the rows that its silhouette is computed on.

    Attributes
    ----------
    position : int
        Of the labelling in the caller's list.
    partition : Partition
    sizes : ndarray (n_clusters,) int64
        Rows of each cluster that are among those rows; clusters without any are not there.
    """

    position: int
    partition: Partition
    sizes: np.ndarray

    @property
    def n_rows(self) -> int:
        """Rows that are counted."""
        return int(self.sizes.sum())

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Return the clusters, numbered as in `sizes`, of the rows that its group shares; -1 is not counted."""
        labels: np.ndarray = _renumber(self.partition.clusters(rows), self.partition.n_clusters, self.n_rows)[0]
        return labels


@dataclass
class RowGroup:
    """Labellings whose silhouettes are computed on the same rows of the matrix.

    Attributes
    ----------
    rows : ndarray (n_rows,) int64
    sampled : list of Sampled
    """

    rows: np.ndarray
    sampled: list[Sampled]

    @property
    def most_clusters(self) -> int:
        """The clusters of the labelling that has most."""
        return max(len(sampled.sizes) for sampled in self.sampled)

    def cost(self, n_features: int) -> int:
        """Return what the silhouettes take, in about 1e-11 seconds of one thread; for progress."""
        return len(self.rows) ** 2 * (4 * n_features + 9 * len(self.sampled))

    def n_bytes(self, n_features: int, workers: int) -> int:
        """Return what they take at least, on so many threads: with one labelling in flight."""
        per_row = 2 * 8 * n_features + 8 + _LABEL_BYTES  # the rows once more while they are gathered
        return _padded(len(self.rows)) * per_row + workers * (_TILE_BYTES + _sum_bytes(self.most_clusters))


def sample_rows(partitions: list[Partition], n_samples: int, *, max_rows: int, seed: int) -> list[RowGroup]:
    """Choose the rows of each labelling: all that are clustered, or the first `max_rows` of them in one random order.

    Labellings that find their rows within a common prefix of that order share it; the others, which cover few rows,
    have their own. Which of the two depends on the labelling alone.
    """
    order = np.arange(n_samples)
    if n_samples > max_rows:
        order = np.random.default_rng(seed).permutation(n_samples)
    prefix = order[: _SHARED_PREFIX * max_rows]
    shared, own = RowGroup(prefix, []), dict[bytes, RowGroup]()
    longest = 0
    for position, partition in enumerate(partitions):
        wanted = min(max_rows, partition.n_clustered)
        labels = partition.clusters(prefix)
        covered = np.count_nonzero(labels >= 0) >= wanted
        if not covered:
            rows = order[partition.clusters(order) >= 0][:wanted]
            labels = partition.clusters(rows)
        kept, sizes = _renumber(labels, partition.n_clusters, wanted)
        if 2 <= len(sizes) < wanted:
            group = shared if covered else own.setdefault(rows.tobytes(), RowGroup(rows, []))
            group.sampled.append(Sampled(position, partition, sizes))
            longest = max(longest, int(np.flatnonzero(kept >= 0)[-1]) + 1) if covered else longest
    shared.rows = prefix[:longest]
    return [group for group in (shared, *own.values()) if group.sampled]


def n_row_blocks(group: RowGroup) -> int:
    """Return how many blocks of rows there are whose silhouettes are added up."""
    return -(-len(group.rows) // _TILE_ROWS)


def mean_silhouettes(group: RowGroup, sums: np.ndarray) -> dict[int, tuple[float, int]]:
    """Add up the sums of all blocks, (n_blocks, n_labellings), in their order.

    Returns
    -------
    dict
        position -> (mean silhouette, rows it was computed on).
    """
    totals = np.zeros(len(group.sampled))
    for of_block in sums:
        totals += of_block
    return {
        sampled.position: (float(total) / sampled.n_rows, sampled.n_rows)
        for sampled, total in zip(group.sampled, totals, strict=True)
    }


def silhouette_sums(
    X: np.ndarray,
    origin: np.ndarray,
    group: RowGroup,
    blocks: range,
    *,
    free: int,
    workers: int,
    advance: Callable[[float], object],
) -> np.ndarray:
    """Add up the silhouettes of some blocks of the rows that labellings share.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32 or float64
    origin : ndarray (n_features,) float64
        What is subtracted from every row before the products.
    group : RowGroup
    blocks : range
        Of all, which are counted by `n_row_blocks`.
    free : int
        Bytes that may be taken; fewer labellings are in flight if they are few (one is, whatever they are).
    workers : int
        Threads.
    advance : callable
        Told the share of the work that each finished piece was.

    Returns
    -------
    ndarray (n_blocks, n_labellings) float64
    """
    rows = np.zeros((_padded(len(group.rows)), X.shape[1]))
    np.subtract(X[group.rows], origin, out=rows[: len(group.rows)])
    norms = np.einsum("ij,ij->i", rows, rows)
    free -= rows.nbytes + norms.nbytes + workers * _TILE_BYTES
    found = np.empty((len(blocks), len(group.sampled)))
    first = 0
    for flight in _flights(group.sampled, len(rows), free, workers):
        work = _Flight(flight, group.rows, rows, norms)
        starts = (block * _TILE_ROWS for block in blocks)
        for at, sums in enumerate(ordered_map(work.block, starts, workers=workers)):
            found[at, first : first + len(flight)] = sums
            advance(len(flight) / len(group.sampled) / len(blocks))
        first += len(flight)
    return found


class _Flight:
    """Labellings whose sums are in memory together."""

    def __init__(self, flight: list[Sampled], positions: np.ndarray, rows: np.ndarray, norms: np.ndarray) -> None:
        self.rows, self.norms = rows, norms
        self.first = np.cumsum([0] + [len(sampled.sizes) for sampled in flight])
        self.sizes = np.concatenate([sampled.sizes for sampled in flight])
        self.labels = np.full((len(flight), len(rows)), -1, np.int32)
        n_chunks = len(rows) // _TILE_COLUMNS
        self.columns = np.empty((len(flight), len(rows)), np.int32)
        self.run_range = np.zeros((len(flight), n_chunks + 1), np.int64)
        runs: list[np.ndarray] = []
        n_runs = 0
        for i, sampled in enumerate(flight):
            self.labels[i, : len(positions)] = sampled.labels(positions)
            found, self.run_range[i, 1:] = _sort_columns(self.labels[i], _TILE_COLUMNS, self.columns[i])
            found[:, 0] += self.first[i]
            self.run_range[i] += n_runs
            n_runs += len(found)
            runs.append(found)
        self.runs = np.concatenate(runs)
        self.in_chunk = np.diff(self.run_range, axis=1).sum(axis=0)

    def block(self, start: int) -> np.ndarray:
        """Return, for each labelling, the sum of the silhouettes of `_TILE_ROWS` rows, (n_labellings,) float64."""
        rows, norms = self.rows[start : start + _TILE_ROWS], self.norms[start : start + _TILE_ROWS]
        labels = self.labels[:, start : start + _TILE_ROWS]
        totals = np.zeros(len(labels))
        if labels.max() < 0:
            return totals
        product = np.empty((_TILE_COLUMNS, _TILE_ROWS))
        distances = np.empty((_TILE_ROWS // _LANES, _TILE_COLUMNS, _LANES))
        sums = np.zeros((_TILE_ROWS // _LANES, self.first[-1], _LANES))
        for chunk, n_runs in enumerate(self.in_chunk):
            if n_runs:
                these = slice(chunk * _TILE_COLUMNS, (chunk + 1) * _TILE_COLUMNS)
                np.matmul(self.rows[these], rows.T, out=product)
                _distances(product, self.rows[these], rows, self.norms[these], norms, distances)
                _add_columns(distances, self.columns[:, these], self.runs, self.run_range, chunk, sums)
        _add_silhouettes(sums, labels, self.first, self.sizes, totals)
        return totals


def _flights(sampled: list[Sampled], n_rows: int, free: int, workers: int) -> Iterator[list[Sampled]]:
    """Cut the list so that the labels and sums of each part fit."""
    flight: list[Sampled] = []
    shared = sums = 0
    for one in sampled:
        shared, sums = shared + n_rows * _LABEL_BYTES, sums + _sum_bytes(len(one.sizes))
        if flight and (sums > _SUM_BYTES or shared + workers * sums > free):
            yield flight
            flight, shared, sums = [], n_rows * _LABEL_BYTES, _sum_bytes(len(one.sizes))
        flight.append(one)
    yield flight


def _sum_bytes(n_clusters: int) -> int:
    return 8 * _TILE_ROWS * n_clusters


def _padded(n_rows: int) -> int:
    return -(-n_rows // _TILE_COLUMNS) * _TILE_COLUMNS


@numba.njit(nogil=True, cache=True)
def _renumber(labels, n_clusters, max_rows):  # type: ignore[no-untyped-def]
    """Keep the first `max_rows` clustered rows, number their clusters by first row, count them."""
    numbers = np.full(n_clusters, -1, np.int32)
    sizes = np.zeros(n_clusters, np.int64)
    kept = np.full(len(labels), -1, np.int32)
    n_found = n_rows = 0
    for row in range(len(labels)):
        if labels[row] >= 0 and n_rows < max_rows:
            n_rows += 1
            if numbers[labels[row]] < 0:
                numbers[labels[row]] = n_found
                n_found += 1
            kept[row] = numbers[labels[row]]
            sizes[kept[row]] += 1
    return kept, sizes[:n_found].copy()


@numba.njit(nogil=True, cache=True)
def _sort_columns(labels, width, columns):  # type: ignore[no-untyped-def]
    """Sort the rows within each `width` by cluster, into `columns`.

    Returns runs (n_runs, 3) int32: cluster, and from where to where of `columns` in its chunk; and the runs before
    the end of each chunk.
    """
    starts = np.zeros(labels.max() + 2, np.int64)
    runs = np.empty((len(labels), 3), np.int32)
    n_chunks = len(labels) // width
    ends = np.empty(n_chunks, np.int64)
    n_runs = 0
    for chunk in range(n_chunks):
        part = labels[chunk * width : (chunk + 1) * width]
        starts[:] = 0
        for label in part:
            starts[label + 1] += 1 if label >= 0 else 0
        for k in range(1, len(starts)):
            if starts[k]:
                runs[n_runs, 0], runs[n_runs, 1], runs[n_runs, 2] = k - 1, starts[k - 1], starts[k - 1] + starts[k]
                n_runs += 1
            starts[k] += starts[k - 1]
        for column in range(width):
            label = part[column]
            if label >= 0:
                columns[chunk * width + starts[label]] = column
                starts[label] += 1
        ends[chunk] = n_runs
    return runs[:n_runs].copy(), ends


@numba.njit(nogil=True, cache=True)
def _distances(product, columns, rows, column_norms, row_norms, distances):  # type: ignore[no-untyped-def]
    """Turn products of rows into distances, (n_parts, n_columns, _LANES).

    |x|^2 + |y|^2 - 2xy has lost its digits where it is small beside the norms: such pairs are computed again.
    """
    for part in range(distances.shape[0]):
        first = part * _LANES
        for j in range(len(product)):
            norm = column_norms[j]
            n_near = 0
            for v in range(_LANES):
                both = norm + row_norms[first + v]
                squared = both - 2 * product[j, first + v]
                distances[part, j, v] = squared
                n_near += squared < NEAR * both
            if n_near:
                for v in range(_LANES):
                    if distances[part, j, v] < NEAR * (norm + row_norms[first + v]):
                        distances[part, j, v] = squared_distance(columns[j], rows[first + v])
            for v in range(_LANES):
                distances[part, j, v] = np.sqrt(distances[part, j, v])


@numba.njit(nogil=True, cache=True)
def _add_columns(distances, columns, runs, run_range, chunk, sums):  # type: ignore[no-untyped-def]
    """Add the distances of each run of columns to the sums of its cluster, eight columns at a time."""
    for part in range(distances.shape[0]):
        for labelling in range(columns.shape[0]):
            column = columns[labelling]
            for run in range(run_range[labelling, chunk], run_range[labelling, chunk + 1]):
                k, j, end = runs[run, 0], runs[run, 1], runs[run, 2]
                while j + 8 <= end:
                    a0, a1, a2, a3 = column[j], column[j + 1], column[j + 2], column[j + 3]
                    a4, a5, a6, a7 = column[j + 4], column[j + 5], column[j + 6], column[j + 7]
                    for v in range(_LANES):
                        sums[part, k, v] += (
                            (distances[part, a0, v] + distances[part, a1, v])
                            + (distances[part, a2, v] + distances[part, a3, v])
                        ) + (
                            (distances[part, a4, v] + distances[part, a5, v])
                            + (distances[part, a6, v] + distances[part, a7, v])
                        )
                    j += 8
                while j + 2 <= end:
                    a0, a1 = column[j], column[j + 1]
                    for v in range(_LANES):
                        sums[part, k, v] += distances[part, a0, v] + distances[part, a1, v]
                    j += 2
                if j < end:
                    a0 = column[j]
                    for v in range(_LANES):
                        sums[part, k, v] += distances[part, a0, v]


@numba.njit(nogil=True, cache=True)
def _add_silhouettes(sums, labels, first, sizes, totals):  # type: ignore[no-untyped-def]
    """Add up the silhouettes of a block of rows from its sums of distances, which are overwritten.

    A row alone in its cluster scores 0, and so does one whose distances are all 0, as in scikit-learn.
    """
    other = np.empty(_LANES)
    inner = np.empty(_LANES)
    for labelling in range(len(labels)):
        for part in range(sums.shape[0]):
            label = labels[labelling, part * _LANES : (part + 1) * _LANES]
            for v in range(_LANES):
                other[v] = inner[v] = np.inf
                if label[v] >= 0:
                    own = first[labelling] + label[v]
                    inner[v] = sums[part, own, v] / max(sizes[own] - 1, 1)
                    sums[part, own, v] = np.inf
            for k in range(first[labelling], first[labelling + 1]):
                for v in range(_LANES):
                    other[v] = min(other[v], sums[part, k, v] / sizes[k])
            for v in range(_LANES):
                if label[v] >= 0 and sizes[first[labelling] + label[v]] > 1:
                    larger = max(inner[v], other[v])
                    if larger > 0:
                        totals[labelling] += (other[v] - inner[v]) / larger
