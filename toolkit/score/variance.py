"""Calinski-Harabasz, Davies-Bouldin and centroids of many labellings, from sums over rows that are read twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.score.labellings import Partition

_BLOCK_BYTES = 1 << 20  # of centred float64 rows, which stay in the cache while all labellings of a group use them
_COINCIDE = 1e-13  # centroids closer than this share of their spreads and norms differ by rounding only


def column_origin(X: np.ndarray) -> np.ndarray:
    """Return a point amid the data, (n_features,) float64: the median of up to 255 rows spread over all of X.

    Sums of rows minus this point keep their digits wherever the data lies. It depends on X alone; a constant column
    is exactly its constant.
    """
    rows = X[:: max(1, -(-len(X) // 255))].astype(np.float64)
    return np.median(rows, axis=0)


def group_bytes(n_features: int, partitions: list[Partition]) -> int:
    """Return the bytes that `variance_scores` of these labellings takes."""
    block = _block_rows(n_features) * (8 * n_features + 8)
    return 3 * block + sum(partition.n_clusters * 8 * (3 * n_features + 8) for partition in partitions)


def variance_scores(X: np.ndarray, origin: np.ndarray, partitions: list[Partition]) -> list[tuple[float, float]]:
    """Score labellings of at least 2 clusters, in two reads of X for all of them, on this thread.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32 or float64
    origin : ndarray (n_features,) float64
        What is subtracted from every row.
    partitions : list of Partition

    Returns
    -------
    list of (float, float)
        Calinski-Harabasz and Davies-Bouldin. A sum is taken row after row, so that neither the blocks nor the other
        labellings change a bit of it.
    """
    centres = centroids(X, origin, partitions)
    spreads = [np.zeros(partition.n_clusters) for partition in partitions]
    squares = [np.zeros(partition.n_clusters) for partition in partitions]
    for rows, block in _centred_blocks(X, origin):
        for i, partition in enumerate(partitions):
            _add_distances(block, partition.clusters(rows), centres[i], spreads[i], squares[i])
    return [scores_of(*sums) for sums in zip(centres, spreads, squares, partitions, strict=True)]


def scores_of(
    centres: np.ndarray, spreads: np.ndarray, squares: np.ndarray, partition: Partition
) -> tuple[float, float]:
    """Return Calinski-Harabasz and Davies-Bouldin.

    Parameters
    ----------
    centres : ndarray (n_clusters, n_features) float64
    spreads, squares : ndarray (n_clusters,) float64
        Sums of the distances of the rows to their centroid, and of their squares.
    partition : Partition
    """
    between, within = _between(centres, partition.sizes), float(squares.sum())
    n, k = partition.n_clustered, partition.n_clusters
    calinski_harabasz = 1.0 if within == 0 else between * (n - k) / (within * (k - 1))
    spread = spreads / partition.sizes
    norms = np.sqrt(np.einsum("ij,ij->i", centres, centres))
    worst = _worst_similarity(centres, spread, _COINCIDE * (spread + norms))
    return calinski_harabasz, float(worst.mean())


def centroids(X: np.ndarray, origin: np.ndarray, partitions: list[Partition]) -> list[np.ndarray]:
    """Return the centroids minus `origin` of each labelling, (n_clusters, n_features) float64, in one read of X.

    Sums are taken around a row of the cluster: the centroid of equal rows is exactly that row.
    """
    references = [X[partition.first_rows] - origin for partition in partitions]
    sums = [np.zeros_like(reference) for reference in references]
    for rows, block in _centred_blocks(X, origin):
        for i, partition in enumerate(partitions):
            _add_rows(block, partition.clusters(rows), references[i], sums[i])
    for i, partition in enumerate(partitions):
        sums[i] /= partition.sizes[:, None]
        sums[i] += references[i]
    return sums


def _between(centres: np.ndarray, sizes: np.ndarray) -> float:
    middle = sizes @ centres / sizes.sum()
    return float(sizes @ ((centres - middle) ** 2).sum(axis=1))


def _block_rows(n_features: int) -> int:
    return max(16, _BLOCK_BYTES // (8 * n_features))


def _centred_blocks(X: np.ndarray, origin: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield stretches of rows and those rows minus `origin`, float64; the array is reused."""
    step = _block_rows(X.shape[1])
    buffer = np.empty((step, X.shape[1]))
    for start in range(0, len(X), step):
        rows = X[start : start + step]
        block = buffer[: len(rows)]
        np.subtract(rows, origin, out=block)
        yield slice(start, start + step), block


@numba.njit(nogil=True, cache=True)
def _add_rows(rows, clusters, references, sums):  # type: ignore[no-untyped-def]
    for r in range(rows.shape[0]):
        cluster = clusters[r]
        if cluster >= 0:
            for c in range(rows.shape[1]):
                sums[cluster, c] += rows[r, c] - references[cluster, c]


@numba.njit(nogil=True, cache=True)
def _add_distances(rows, clusters, centres, spreads, squares):  # type: ignore[no-untyped-def]
    """Add each row's distance to its centroid, and the square of it, to its cluster."""
    for r in range(rows.shape[0]):
        cluster = clusters[r]
        if cluster >= 0:
            squared = squared_distance(rows[r], centres[cluster])
            spreads[cluster] += np.sqrt(squared)
            squares[cluster] += squared


@numba.njit(nogil=True, cache=True)
def _worst_similarity(centres, spread, close):  # type: ignore[no-untyped-def]
    """Return each cluster's largest (spread_i + spread_j) / distance_ij; coinciding centroids are left out."""
    worst = np.zeros(len(centres))
    for i in range(len(centres)):
        for j in range(i):
            distance = np.sqrt(squared_distance(centres[i], centres[j]))
            if distance > close[i] + close[j]:
                similarity = (spread[i] + spread[j]) / distance
                worst[i] = max(worst[i], similarity)
                worst[j] = max(worst[j], similarity)
    return worst


@numba.njit(nogil=True, cache=True, inline="always")
def squared_distance(a, b):  # type: ignore[no-untyped-def]
    """Return the squared Euclidean distance of two rows, float64.

    Eight lanes that are added in a fixed order: the compiler can use vector instructions of any width, and the
    result is the same with all of them.
    """
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    n = len(a)
    c = 0
    while c + 8 <= n:
        s0 += (a[c] - b[c]) * (a[c] - b[c])
        s1 += (a[c + 1] - b[c + 1]) * (a[c + 1] - b[c + 1])
        s2 += (a[c + 2] - b[c + 2]) * (a[c + 2] - b[c + 2])
        s3 += (a[c + 3] - b[c + 3]) * (a[c + 3] - b[c + 3])
        s4 += (a[c + 4] - b[c + 4]) * (a[c + 4] - b[c + 4])
        s5 += (a[c + 5] - b[c + 5]) * (a[c + 5] - b[c + 5])
        s6 += (a[c + 6] - b[c + 6]) * (a[c + 6] - b[c + 6])
        s7 += (a[c + 7] - b[c + 7]) * (a[c + 7] - b[c + 7])
        c += 8
    while c < n:
        s0 += (a[c] - b[c]) * (a[c] - b[c])
        c += 1
    return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
