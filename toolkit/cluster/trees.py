"""From a spanning tree to clusters: hierarchy, condensed tree, selection, probabilities, outlier scores.

The definitions are those of HDBSCAN* (Campello, Moulavi, Sander 2013; Campello et al. 2015; McInnes, Healy 2017;
cluster selection epsilon: Malzer, Baum 2020), as in scikit-learn, with one difference: all edges of equal weight are
merged at once. A binary merge order would be decided by the order of the rows wherever weights tie, and the clusters
with it. Sums that are compared are added in an order that the hierarchy alone decides, for the same reason.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit


class Hierarchy(NamedTuple):
    """A single-linkage hierarchy in which a node joins any number of nodes.

    Nodes are numbered as they are made: the rows first, then joins of growing distance; the last is the root.

    Attributes
    ----------
    parent : ndarray (n_nodes,) int32
        -1 for the root.
    distance : ndarray (n_nodes,) float64
        At which a node's parts are joined; 0 for rows.
    size : ndarray (n_nodes,) int32
        Rows below each node.
    """

    parent: np.ndarray
    distance: np.ndarray
    size: np.ndarray


class CondensedTree(NamedTuple):
    """The clusters of at least a certain size, and where each row leaves them; lambda is one over the distance.

    Attributes
    ----------
    row_cluster : ndarray (n_samples,) int32
        The smallest cluster that each row is in; 0 is the root, and a cluster comes after the one it splits from.
    row_lambda : ndarray (n_samples,) float64
        At which the row leaves it; inf at distance 0.
    parent : ndarray (n_clusters,) int32
        -1 for the root.
    birth : ndarray (n_clusters,) float64
        The lambda at which each cluster splits from its parent; 0 for the root.
    size : ndarray (n_clusters,) int32
    stability : ndarray (n_clusters,) float64
        The excess of mass: the sum over rows of (lambda at which they leave, or the cluster splits, - birth).
    """

    row_cluster: np.ndarray
    row_lambda: np.ndarray
    parent: np.ndarray
    birth: np.ndarray
    size: np.ndarray
    stability: np.ndarray


@njit(nogil=True, cache=True)
def build_hierarchy(i, j, distance):  # type: ignore[no-untyped-def]
    """Merge the edges of a spanning tree, lightest first, all of equal distance at once.

    Parameters
    ----------
    i, j : ndarray (n_samples - 1,) int
    distance : ndarray (n_samples - 1,) float64, ascending

    Returns
    -------
    Hierarchy
    """
    n_samples = len(i) + 1
    owner = np.arange(n_samples)  # union-find over the rows
    node_of = np.arange(n_samples)  # of each root of it, the node that holds all its rows
    parent = np.full(2 * n_samples - 1, -1, np.int32)
    joined_at = np.zeros(2 * n_samples - 1)
    size = np.ones(2 * n_samples - 1, np.int32)
    for edge in range(n_samples - 1):
        a, b = i[edge], j[edge]
        while owner[a] != a:
            owner[a] = owner[owner[a]]
            a = owner[a]
        while owner[b] != b:
            owner[b] = owner[owner[b]]
            b = owner[b]
        node = n_samples + edge
        joined_at[node] = distance[edge]
        size[node] = size[node_of[a]] + size[node_of[b]]
        parent[node_of[a]] = parent[node_of[b]] = node
        if size[node_of[a]] < size[node_of[b]]:
            a, b = b, a
        owner[b] = a
        node_of[a] = node
    # A node whose parent has the same distance is part of it.
    whole = np.arange(2 * n_samples - 1)
    for node in range(2 * n_samples - 3, n_samples - 1, -1):
        if joined_at[parent[node]] == joined_at[node]:
            whole[node] = whole[parent[node]]
    number = np.empty(2 * n_samples - 1, np.int32)
    n_nodes = 0
    for node in range(2 * n_samples - 1):
        if whole[node] == node:
            number[node] = n_nodes
            n_nodes += 1
    parents, distances, sizes = np.empty(n_nodes, np.int32), np.empty(n_nodes), np.empty(n_nodes, np.int32)
    for node in range(2 * n_samples - 1):
        if whole[node] == node:
            kept = number[node]
            parents[kept] = -1 if parent[node] < 0 else number[whole[parent[node]]]
            distances[kept], sizes[kept] = joined_at[node], size[node]
    return Hierarchy(parents, distances, sizes)


@njit(nogil=True, cache=True)
def condense(hierarchy, min_cluster_size):  # type: ignore[no-untyped-def]
    """Keep the splits into at least two clusters of `min_cluster_size` rows; below that, rows leave.

    Returns
    -------
    CondensedTree
    """
    n_nodes = len(hierarchy.parent)
    n_samples = hierarchy.size[n_nodes - 1]
    large_parts = np.zeros(n_nodes, np.int32)
    for node in range(n_nodes - 1):
        if hierarchy.size[node] >= min_cluster_size:
            large_parts[hierarchy.parent[node]] += 1
    n_clusters = 1
    for node in range(n_nodes - 1):
        if hierarchy.size[node] >= min_cluster_size and large_parts[hierarchy.parent[node]] > 1:
            n_clusters += 1
    parent, birth = np.full(n_clusters, -1, np.int32), np.zeros(n_clusters)
    size = np.full(n_clusters, n_samples, np.int32)
    cluster = np.zeros(n_nodes, np.int32)
    left_at = np.full(n_nodes, -1, np.int32)  # the node at which the rows below left their cluster
    row_cluster, row_lambda = np.zeros(n_samples, np.int32), np.empty(n_samples)
    made = 1
    for node in range(n_nodes - 2, -1, -1):
        above = hierarchy.parent[node]
        cluster[node], left_at[node] = cluster[above], left_at[above]
        if left_at[above] < 0:
            if hierarchy.size[node] < min_cluster_size:
                left_at[node] = above
            elif large_parts[above] > 1:
                cluster[node] = made
                parent[made], birth[made] = cluster[above], _inverse(hierarchy.distance[above])
                size[made] = hierarchy.size[node]
                made += 1
        if node < n_samples:
            row_cluster[node] = cluster[node]
            row_lambda[node] = _inverse(hierarchy.distance[left_at[node]])
    stability = _stabilities(hierarchy, min_cluster_size, cluster, left_at, large_parts, birth)
    return CondensedTree(row_cluster, row_lambda, parent, birth, size, stability)


@njit(nogil=True, cache=True)
def _inverse(distance):  # type: ignore[no-untyped-def]
    return 1.0 / distance if distance > 0.0 else np.inf


@njit(nogil=True, cache=True)
def _stabilities(hierarchy, min_cluster_size, cluster, left_at, large_parts, birth):  # type: ignore[no-untyped-def]
    """Sum (lambda - birth) over the rows of each cluster, by distinct lambda from the densest on."""
    n_nodes = len(hierarchy.parent)
    leaving = np.zeros(n_nodes, np.int64)  # rows that leave a cluster at a node, or are split off from it
    for node in range(n_nodes - 1):
        above = hierarchy.parent[node]
        if left_at[above] < 0 and (hierarchy.size[node] < min_cluster_size or large_parts[above] > 1):
            leaving[above] += hierarchy.size[node]
    stability = np.zeros(len(birth))
    waiting, since = np.zeros(len(birth), np.int64), np.zeros(len(birth))
    for node in range(n_nodes):
        if leaving[node] > 0:
            own, value = cluster[node], _inverse(hierarchy.distance[node])
            if value != since[own] and waiting[own] > 0:
                stability[own] += (since[own] - birth[own]) * waiting[own]
                waiting[own] = 0
            since[own] = value
            waiting[own] += leaving[node]
    for own in range(len(birth)):
        if waiting[own] > 0:
            stability[own] += (since[own] - birth[own]) * waiting[own]
    return stability


def select_clusters(
    tree: CondensedTree,
    *,
    method: str,
    epsilon: float,
    max_cluster_size: int | None,
    allow_single_cluster: bool,
) -> np.ndarray:
    """Return which clusters of a condensed tree are selected, (n_clusters,) bool; see `DensityForest.hdbscan`."""
    n_clusters = len(tree.parent)
    has_children = np.zeros(n_clusters, np.bool_)
    has_children[tree.parent[1:]] = True
    if method == "leaf":
        selected = ~has_children
        selected[0] = False
    else:
        selected = _excess_of_mass(tree, max_cluster_size, allow_single_cluster)
        if selected[0]:
            return selected  # the root has no split to undo
    if epsilon > 0 and n_clusters > 1:
        selected = _undo_splits(tree, selected, epsilon, allow_single_cluster)
    return selected


def _excess_of_mass(tree: CondensedTree, max_cluster_size: int | None, allow_single_cluster: bool) -> np.ndarray:  # noqa: FBT001
    """Select the clusters whose stability is at least that of all clusters selected below them."""
    n_clusters = len(tree.parent)
    largest = np.inf if max_cluster_size is None else max_cluster_size
    size = tree.size.copy()
    size[0] = tree.size[tree.parent == 0].sum()  # as scikit-learn counts the root: its clusters, not its rows
    below: list[list[float]] = [[] for _ in range(n_clusters)]
    wins = np.zeros(n_clusters, np.bool_)
    for cluster in range(n_clusters - 1, -1 if allow_single_cluster else 0, -1):
        of_parts = float(np.sum(sorted(below[cluster])))  # sorted: the same sum however the parts are numbered
        wins[cluster] = not (of_parts > tree.stability[cluster] or size[cluster] > largest)
        if cluster > 0:
            below[tree.parent[cluster]].append(float(tree.stability[cluster]) if wins[cluster] else of_parts)
    covered = np.zeros(n_clusters, np.bool_)
    for cluster in range(1, n_clusters):
        above = tree.parent[cluster]
        covered[cluster] = covered[above] or wins[above]
    return wins & ~covered


def _undo_splits(tree: CondensedTree, selected: np.ndarray, epsilon: float, allow_single_cluster: bool) -> np.ndarray:  # noqa: FBT001
    """Replace each selected cluster that splits off below a distance by its first ancestor that does not."""
    merged = np.zeros(len(selected), np.bool_)
    for cluster in np.flatnonzero(selected).tolist():
        if 1 / tree.birth[cluster] < epsilon:
            while True:
                above = tree.parent[cluster]
                if above == 0:
                    cluster = 0 if allow_single_cluster else cluster
                    break
                cluster = above
                if 1 / tree.birth[cluster] > epsilon:
                    break
        merged[cluster] = True
    merged[1:] &= not merged[0]
    return merged


def label_rows(tree: CondensedTree, selected: np.ndarray, *, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the label and the membership probability of each row, (n_samples,) int64 and float64.

    Clusters are numbered by their first row. The probability is the row's lambda over the largest of its cluster.
    """
    n_clusters = len(tree.parent)
    chosen = np.where(selected, np.arange(n_clusters), -1)  # the selected cluster that each cluster is in
    for cluster in range(1, n_clusters):
        if chosen[cluster] < 0:
            chosen[cluster] = chosen[tree.parent[cluster]]
    of_row = chosen[tree.row_cluster]
    deaths = cluster_deaths(tree)
    if selected[0]:  # the root alone: without another cluster beside it, its sparse rows are told by their lambda
        of_row = np.where(tree.row_lambda >= (1 / epsilon if epsilon > 0 else deaths[0]), 0, -1)
    used, first = np.unique(of_row[of_row >= 0], return_index=True)
    number = np.full(n_clusters, -1)
    number[used[np.argsort(first)]] = np.arange(len(used))
    labels = np.where(of_row >= 0, number[of_row], -1)
    probabilities = np.zeros(len(labels))
    rows = np.flatnonzero(labels >= 0)
    value, death = tree.row_lambda[rows], deaths[of_row[rows]]
    certain = np.isinf(value) | (death == 0)
    probabilities[rows] = np.where(certain, 1.0, np.minimum(value, death) / np.where(certain, 1.0, death))
    return labels, probabilities


def cluster_deaths(tree: CondensedTree) -> np.ndarray:
    """Return the largest lambda of each cluster: its last row leaves, or it splits."""
    deaths = np.zeros(len(tree.parent))
    np.maximum.at(deaths, tree.row_cluster, tree.row_lambda)
    np.maximum.at(deaths, tree.parent[1:], tree.birth[1:])
    return deaths


def glosh(tree: CondensedTree) -> np.ndarray:
    """Return the outlier score of each row, (n_samples,) float64 from 0 to 1 (GLOSH, Campello et al. 2015).

    One minus the row's lambda over the largest of its cluster and all clusters within it.
    """
    deaths = cluster_deaths(tree)
    for cluster in range(len(deaths) - 1, 0, -1):
        above = tree.parent[cluster]
        deaths[above] = max(deaths[above], deaths[cluster])
    death = deaths[tree.row_cluster]
    dense = np.isinf(tree.row_lambda) | (death == 0)
    with np.errstate(invalid="ignore"):
        scores: np.ndarray = (death - tree.row_lambda) / death
    scores[np.isinf(death)] = 1.0
    scores[dense] = 0.0
    return scores
