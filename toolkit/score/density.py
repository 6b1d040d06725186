"""Density-based validity of a labelling: DBCV, and its estimate from a minimum spanning tree that is already there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from toolkit.backend.cpu import ordered_map
from toolkit.errors import InputError
from toolkit.memory import MemoryBudget, n_threads
from toolkit.score.labellings import distinct
from toolkit.score.partition import check_matrix
from toolkit.score.variance import squared_distance

if TYPE_CHECKING:
    from collections.abc import Callable

_ROWS = 256  # whose core distances are one piece of work
_TIE = 1e-5  # weights closer than this share tie, as hdbscan takes it


def dbcv(X: np.ndarray, labels: np.ndarray, *, memory: MemoryBudget | None = None) -> float:
    """Return the density-based clustering validation index of a labelling.

    For each cluster: the minimum spanning tree of its rows under mutual reachability with all-points core distances;
    its sparseness is the heaviest edge between inner nodes (of degree 2 or more; of all edges if there are none), its
    separation the least mutual reachability distance between its inner nodes and another cluster's. The validity of
    the cluster is (separation - sparseness) / max(separation, sparseness); the index is the mean of the validities
    weighted by cluster sizes, all rows being counted in the denominator.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32 or float64
        Distances are float64 differences.
    labels : ndarray (n_samples,) int
        -1 is noise.
    memory : MemoryBudget, optional
        What may be taken: the clustered rows in float64 and once more while they are gathered, and 64 bytes for each.
        None: what is available.

    Returns
    -------
    float
        From -1 to 1, more is better; NaN with fewer than 2 clusters. A cluster of one row has no sparseness, its
        validity is 0.

    Raises
    ------
    InputError
        If values are not finite, or labels are not one integer per row.
    MemoryBudgetError
        If the clustered rows do not fit.

    Notes
    -----
    Moulavi, Jaskowiak, Campello, Zimek & Sander 2014, "Density-Based Clustering Validation", definitions 1 to 8. The
    time is quadratic in the size of the clusters and in the number of inner nodes.

    The core distance is the mean of distance^-n_features over the other rows of the cluster, to the power of
    -1 / n_features. It is computed from logarithms, so that hundreds of features neither overflow nor underflow. Rows
    at distance 0 are left out of the sum, not of the count. Where edges of a tree tie, the inner nodes depend on the
    tree that is taken: as in ``hdbscan.validity.validity_index``, Prim's algorithm starts at the first row of the
    cluster, and a row is joined to the first row in the tree whose distance is within 1e-5 of the smallest.
    """
    check_matrix(X)
    partition = distinct([labels], n_samples=len(X), noise="exclude")[0][0]
    n_clusters, n_clustered = partition.n_clusters, partition.n_clustered
    if n_clusters < 2:
        return float("nan")
    what = f"DBCV of {n_clustered:,} clustered rows"
    MemoryBudget.resolve(memory).require(n_clustered * ((8 + X.itemsize) * X.shape[1] + 64) + 24 * len(X), what)
    clusters = partition.clusters(slice(None))
    order = np.argsort(clusters, kind="stable")[len(X) - n_clustered :]
    rows = X[order].astype(np.float64)
    bounds = np.concatenate([[0], np.cumsum(partition.sizes)])
    log_cores = np.empty(n_clustered)
    for _ in ordered_map(_core_work(rows, bounds, log_cores), _pieces(bounds), workers=n_threads()):
        pass
    cores = np.exp(log_cores)
    inner = np.empty(n_clustered, np.bool_)

    def sparseness(k: int) -> float:
        these = slice(bounds[k], bounds[k + 1])
        heaviest: float = _sparseness(rows[these], cores[these], inner[these])
        return heaviest

    def separations(k: int) -> np.ndarray:
        nearest: np.ndarray = _separations(rows, cores, inner, bounds, k)
        return nearest

    sparse = np.array(list(ordered_map(sparseness, range(n_clusters), workers=n_threads())))
    separation = np.full(n_clusters, np.inf)
    for k, nearest in enumerate(ordered_map(separations, range(n_clusters), workers=n_threads())):
        separation[k] = min(separation[k], nearest.min())
        np.minimum(separation, nearest, out=separation)
    validity = _validity(separation, sparse)
    validity[partition.sizes == 1] = 0
    return float(partition.sizes @ validity / len(X))


def relative_validity(mst: tuple[np.ndarray, np.ndarray, np.ndarray], labels: np.ndarray) -> float:
    """Estimate DBCV from a minimum spanning tree of all rows, in linear time.

    The sparseness of a cluster is its heaviest edge of the tree, its separation the lightest edge of the tree to
    another cluster; a cluster without such an edge is separated by twice the heaviest edge of the tree, the only
    cluster by twice the lightest edge between a clustered row and noise. Noise counts in the denominator.

    Parameters
    ----------
    mst : (ndarray (n_samples - 1,) int, ndarray (n_samples - 1,) int, ndarray (n_samples - 1,) float64)
        The two rows of each edge, and its weight, the mutual reachability distance.
    labels : ndarray (n_samples,) int
        -1 is noise.

    Returns
    -------
    float
        From -1 to 1, more is better; only to be compared with other parameters on the same matrix. 0 if all rows are
        noise.

    Raises
    ------
    InputError
        If the tree does not have one edge less than there are labels.

    Notes
    -----
    The definition is that of the attribute ``relative_validity_`` of ``hdbscan.HDBSCAN``, but for a cluster whose
    separation and sparseness are both 0 (among duplicates): it counts 0 there, not NaN.
    """
    i, j, weights = (np.asarray(part) for part in mst)
    labels = np.asarray(labels)
    if not len(i) == len(j) == len(weights) == len(labels) - 1:
        raise InputError(
            f"the tree has {len(i)}, {len(j)} and {len(weights)} ends and weights for {len(labels)} labels; allowed: "
            "one edge less than labels"
        )
    names, sizes = np.unique(labels[labels != -1], return_counts=True)
    numbers = np.where(labels == -1, -1, np.searchsorted(names, labels))
    a, b = numbers[i], numbers[j]
    heaviest = float(weights.max()) if len(weights) else 0.0
    within, between, to_noise = (a == b) & (a >= 0), (a != b) & (a >= 0) & (b >= 0), (a >= 0) != (b >= 0)
    sparse = np.zeros(len(names))
    separation = np.full(len(names), np.inf)
    np.maximum.at(sparse, a[within], weights[within])
    np.minimum.at(separation, a[between], weights[between])
    np.minimum.at(separation, b[between], weights[between])
    only = float(weights[to_noise].min()) if to_noise.any() else heaviest
    separation[np.isinf(separation)] = 2 * (heaviest if len(names) > 1 else only)
    return float(sizes @ _validity(separation, sparse) / len(labels))


def _validity(separation: np.ndarray, sparse: np.ndarray) -> np.ndarray:
    """Return (separation - sparseness) / the larger of them; 0 where both are 0."""
    larger = np.maximum(separation, sparse)
    validity: np.ndarray = np.divide(separation - sparse, larger, out=np.zeros_like(larger), where=larger > 0)
    return validity


def _pieces(bounds: np.ndarray) -> list[tuple[int, int]]:
    """Return (cluster, first row) of every piece of work on the core distances."""
    return [(k, start) for k in range(len(bounds) - 1) for start in range(bounds[k], bounds[k + 1], _ROWS)]


def _core_work(rows: np.ndarray, bounds: np.ndarray, log_cores: np.ndarray) -> Callable[[tuple[int, int]], None]:
    def work(piece: tuple[int, int]) -> None:
        k, start = piece
        stop = min(start + _ROWS, bounds[k + 1])
        _log_core_distances(rows[bounds[k] : bounds[k + 1]], rows[start:stop], log_cores[start:stop])

    return work


@numba.njit(nogil=True, cache=True)
def _log_core_distances(members, rows, log_cores):  # type: ignore[no-untyped-def]
    """Compute logarithms of all-points core distances; -inf for rows whose cluster has no other place."""
    n_features = members.shape[1]
    logs = np.empty(len(members))
    for r in range(len(rows)):
        nearest = np.inf
        for m in range(len(members)):
            squared = squared_distance(rows[r], members[m])
            logs[m] = 0.5 * np.log(squared) if squared > 0 else np.inf
            nearest = min(nearest, logs[m])
        if np.isinf(nearest):
            log_cores[r] = -np.inf
        else:
            total = 0.0  # relative to the nearest row's share, which is 1
            for m in range(len(members)):
                total += np.exp(n_features * (nearest - logs[m]))
            log_cores[r] = nearest - np.log(total / (len(members) - 1)) / n_features


@numba.njit(nogil=True, cache=True)
def _sparseness(rows, cores, inner):  # type: ignore[no-untyped-def]
    """Grow the minimum spanning tree of a cluster, mark its inner nodes, return its heaviest inner edge."""
    n = len(rows)
    inner[:] = False
    if n == 1:
        inner[0] = True
        return 0.0
    in_tree = np.zeros(n, np.bool_)
    reach = np.full(n, np.inf)  # of each row outside, to the tree
    degree = np.zeros(n, np.int64)
    parent = np.zeros(n, np.int64)
    weight = np.zeros(n)
    current = 0
    for step in range(n):
        in_tree[current] = True
        joined = step == 0
        closest = -1
        for other in range(n):
            if other == current or (in_tree[other] and joined):
                continue
            distance = max(np.sqrt(squared_distance(rows[current], rows[other])), cores[current], cores[other])
            if not in_tree[other]:
                reach[other] = min(reach[other], distance)
                if closest < 0 or reach[other] < reach[closest]:
                    closest = other
            elif distance - weight[current] <= _TIE * weight[current]:
                parent[current] = other
                joined = True
        if step > 0:
            degree[current] += 1
            degree[parent[current]] += 1
        if closest >= 0:
            weight[closest] = reach[closest]
            current = closest
    heaviest = heaviest_inner = 0.0
    n_inner = n_edges = 0
    for row in range(n):
        inner[row] = degree[row] > 1
        n_inner += inner[row]
        heaviest = max(heaviest, weight[row])
        if row > 0 and degree[row] > 1 and degree[parent[row]] > 1:
            heaviest_inner = max(heaviest_inner, weight[row])
            n_edges += 1
    if n_inner == 0:
        inner[0] = True
    return heaviest_inner if n_edges else heaviest


@numba.njit(nogil=True, cache=True)
def _separations(rows, cores, inner, bounds, k):  # type: ignore[no-untyped-def]
    """Return the least mutual reachability distance of inner nodes of cluster k to those of each later cluster."""
    separations = np.full(len(bounds) - 1, np.inf)
    for i in range(bounds[k], bounds[k + 1]):
        if not inner[i]:
            continue
        for other in range(k + 1, len(bounds) - 1):
            for j in range(bounds[other], bounds[other + 1]):
                larger = max(cores[i], cores[j])
                if inner[j] and larger < separations[other]:
                    distance = np.sqrt(squared_distance(rows[i], rows[j]))
                    separations[other] = min(separations[other], max(distance, larger))
    return separations
