"""From many prototypes to the number of clusters asked for: Ward's merges or a few of them, then Hartigan's moves.

A prototype stands for the rows nearest to it. As long as rows move together with their prototype, the sum of squares
within clusters differs from that of the weighted prototypes by a constant, so a good clustering of a few dozen
prototypes, which costs nothing, is a good start for Lloyd's iterations over all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.cluster.kmeans_kernels import kernel, squared_distance

_SURE = 1.0 - 1e-12  # a move has to gain more than rounding does
_RESTARTS = 48  # divided by the clusters: for few of them the prototypes have many local minima, and each costs little
_PASSES = 100  # at most: among points that differ by rounding only, moves could go in circles


@kernel
def merge(prototypes: np.ndarray, weights: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return a cluster for each prototype, (n_prototypes,) int64, none empty.

    Parameters
    ----------
    prototypes : ndarray (n_prototypes, n_features) float64
    weights : ndarray (n_prototypes,) float64
        Positive: how many rows each stands for.
    n_clusters : int
        At most n_prototypes.

    References
    ----------
    Ward 1963, "Hierarchical grouping to optimize an objective function". Hartigan & Wong 1979, "Algorithm AS 136".
    """
    m = len(prototypes)
    labels = _ward(prototypes, weights, n_clusters)
    least = _move(prototypes, weights, n_clusters, labels)
    restarts = min(m, _RESTARTS // n_clusters) if n_clusters > 1 else 0
    for r in range(restarts):
        other = _around(prototypes, n_clusters, r * m // restarts)
        value = _move(prototypes, weights, n_clusters, other)
        if value < least * _SURE:
            least, labels = value, other
    return labels


@kernel
def _around(prototypes: np.ndarray, n_clusters: int, start: int) -> np.ndarray:
    """Return which of `n_clusters` successive prototypes (drawn at random, all of them) each is nearest to."""
    m = len(prototypes)
    labels = np.empty(m, np.int64)
    for i in range(m):
        least = np.inf
        for j in range(n_clusters):
            seed = (start + j) % m
            value = -1.0 if seed == i else squared_distance(prototypes, i, prototypes, seed)
            if value < least:
                least = value
                labels[i] = j
    return labels


@kernel
def _nearest(i: Any, centres: np.ndarray, weights: np.ndarray, near: np.ndarray, cost: np.ndarray) -> None:
    """Find with which other cluster merging costs least; those that are gone have no weight."""
    cost[i] = np.inf
    for j in range(len(weights)):
        if j != i and weights[j] > 0.0:
            share = weights[i] / (weights[i] + weights[j]) * weights[j]
            value = share * squared_distance(centres, i, centres, j)
            if value < cost[i]:
                cost[i] = value
                near[i] = j


@kernel
def _ward(prototypes: np.ndarray, weights: np.ndarray, n_clusters: int) -> np.ndarray:
    """Merge the two clusters that add least to the sum of squares, until `n_clusters` are left.

    Merging two brings none of them nearer to a third than the nearer of the two was. So the nearest cluster stays known
    for all but those whose nearest was merged; what they would cost stays a lower bound, and they are looked at again
    only when it is the lowest.
    """
    m = len(prototypes)
    centres, weights = prototypes.copy(), weights.copy()
    owner = np.arange(m)
    near = np.zeros(m, np.int64)
    cost = np.full(m, np.inf)
    stale = np.zeros(m, np.bool_)
    for i in range(m):
        _nearest(i, centres, weights, near, cost)
    for _ in range(m - n_clusters):
        first = cost.argmin()
        while stale[first]:
            _nearest(first, centres, weights, near, cost)
            stale[first] = False
            first = cost.argmin()
        a, b = min(first, near[first]), max(first, near[first])
        total = weights[a] + weights[b]
        for t in range(centres.shape[1]):
            centres[a, t] += (centres[b, t] - centres[a, t]) * (weights[b] / total)
        weights[a], weights[b] = total, 0.0
        cost[b] = np.inf
        for i in range(m):
            if owner[i] == b:
                owner[i] = a
            stale[i] = stale[i] or i == a or near[i] == a or near[i] == b
    names = np.full(m, -1)
    n_named = 0
    for i in range(m):
        if names[owner[i]] < 0:
            names[owner[i]] = n_named
            n_named += 1
        owner[i] = names[owner[i]]
    return owner


@kernel
def _move(prototypes: np.ndarray, weights: np.ndarray, n_clusters: int, labels: np.ndarray) -> float:
    """Move single prototypes to other clusters as long as that lowers the sum of squares, which is returned."""
    m, d = prototypes.shape
    centres = np.zeros((n_clusters, d))
    total = np.zeros(n_clusters)
    members = np.zeros(n_clusters, np.int64)
    for i in range(m):
        j = labels[i]
        total[j] += weights[i]
        members[j] += 1
        for t in range(d):
            centres[j, t] += (prototypes[i, t] - centres[j, t]) * (weights[i] / total[j])
    unmoved = 0
    for step in range(_PASSES * m):
        if unmoved == m:
            break
        i = step % m
        old, w = labels[i], weights[i]
        unmoved += 1
        if members[old] > 1:
            without = total[old] - w
            best = w / without * total[old] * squared_distance(prototypes, i, centres, old) * _SURE
            new = old
            for j in range(n_clusters):
                if j != old:
                    value = w / (total[j] + w) * total[j] * squared_distance(prototypes, i, centres, j)
                    if value < best:
                        best = value
                        new = j
            if new != old:
                for t in range(d):
                    centres[old, t] -= (prototypes[i, t] - centres[old, t]) * (w / without)
                    centres[new, t] += (prototypes[i, t] - centres[new, t]) * (w / (total[new] + w))
                total[old] = without
                total[new] += w
                members[old] -= 1
                members[new] += 1
                labels[i] = new
                unmoved = 0
    total_squares = 0.0
    for i in range(m):
        total_squares += weights[i] * squared_distance(prototypes, i, centres, labels[i])
    return total_squares
