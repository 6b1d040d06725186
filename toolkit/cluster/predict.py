"""The cluster of a new row, from what a model was fitted on: arrays in, labels out.

Every decision falls between float64 distances, as in the fit, so labels do not depend on blocks, on threads or on the
other rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from toolkit.cluster import kmeans, kmeans_kernels
from toolkit.cluster import predict_kernels as kernels
from toolkit.cluster.kmeans_matrix import padded
from toolkit.cluster.trees import cluster_deaths, select_clusters
from toolkit.errors import InputError
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolkit.cluster.density import DensityForest
    from toolkit.cluster.trees import CondensedTree


class Prediction(NamedTuple):
    """What a model says of new rows.

    Attributes
    ----------
    labels : ndarray (n,) int32
        -1 is noise.
    measure : ndarray (n,) float64
        The predictor's `measure`.
    """

    labels: np.ndarray
    measure: np.ndarray


class Predictor(Protocol):
    """A fitted model, ready for new rows.

    Attributes
    ----------
    measure : str
        What comes with the labels: "distance", or "strength" from 0 to 1.
    row_bytes : int
        What one new row takes.
    block_bytes : int
        What a block takes beside that.
    """

    measure: str
    row_bytes: int
    block_bytes: int

    def predict(self, X: np.ndarray) -> Prediction:
        """Label new rows, (n, n_features) float32, C order, finite."""
        ...


class NearestCentre:
    """KMeans: the nearest centre, the lowest-numbered of equally near ones; `measure` is the distance to it.

    Parameters
    ----------
    centres : ndarray (n_clusters, n_features) float64
    """

    measure = "distance"

    def __init__(self, centres: np.ndarray) -> None:
        self.centres = np.ascontiguousarray(centres)
        n_clusters, d = centres.shape
        self.row_bytes = 4 * padded(d) + 64
        self.block_bytes = 60 * n_clusters * d + n_threads() * 4 * kmeans_kernels.BLOCK * (n_clusters + padded(d))

    def predict(self, X: np.ndarray) -> Prediction:  # noqa: D102
        if not len(X):
            return Prediction(np.empty(0, np.int32), np.empty(0))
        labels, squared = kmeans.assign(X, self.centres).labels, np.empty(len(X))
        kmeans_kernels.label_distances(X, self.centres, labels, 0, len(X), squared)
        return Prediction(labels, np.sqrt(squared))


class CoreRows:
    """DBSCAN: what scikit-learn does with a border row of the fit.

    The lowest-numbered cluster that has a core row within `eps`, squares compared in float64, else -1; `measure` is
    the distance to the nearest core row, inf where there is none.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32
        What the model was fitted on.
    labels : ndarray (n_samples,) int
    is_core : ndarray (n_samples,) bool
    eps : float
    """

    measure = "distance"

    def __init__(self, X: np.ndarray, labels: np.ndarray, is_core: np.ndarray, eps: float) -> None:
        self.X, self.labels = X, labels.astype(np.int32)
        self.rows = np.flatnonzero(is_core & (labels >= 0))
        self.squared_radius = min(eps, 1e154) ** 2  # as DensityForest
        self.centre = kernels.centre_of(X)
        self.row_bytes, self.block_bytes = 32, n_threads() * kernels.tile_bytes(X.shape[1])

    def predict(self, X: np.ndarray) -> Prediction:  # noqa: D102
        found = [Prediction(np.empty(0, np.int32), np.empty(0)), *kernels.by_parts(X, self._predict)]
        return Prediction(*(np.concatenate(part) for part in zip(*found, strict=True)))

    def _predict(self, new: np.ndarray) -> Prediction:
        nearest, labels = np.full(len(new), np.inf), np.full(len(new), kernels.NO_LABEL, np.int32)
        for tile in kernels.tiles(new, self.X, self.rows, self.centre):
            kernels.scan_cores(new, self.X, tile, self.labels, self.squared_radius, nearest, labels)
        labels[labels == kernels.NO_LABEL] = -1
        return Prediction(labels, np.sqrt(nearest))


class Branches(NamedTuple):
    """The clusters of an HDBSCAN model in its condensed tree.

    Attributes
    ----------
    tree : CondensedTree
    label : ndarray (n_clusters,) int32
        Of the selected cluster that each cluster is, or is in; -1 if there is none.
    death : ndarray (n_clusters,) float64
        The largest lambda of that selected cluster.
    least : float
        Lambda below which a row is noise whatever its cluster; above 0 only where the root is the cluster.
    """

    tree: CondensedTree
    label: np.ndarray
    death: np.ndarray
    least: float

    @classmethod
    def of(cls, tree: CondensedTree, selected: np.ndarray, labels: np.ndarray, *, epsilon: float = 0.0) -> Branches:
        """Find them from which clusters are selected and from the labels of the fitted rows, (n_samples,) int.

        A selected cluster has the label of most of its rows: of all, unless another engine broke ties otherwise.
        """
        above = np.where(selected, np.arange(len(selected)), -1)
        for cluster in range(1, len(selected)):
            if above[cluster] < 0:
                above[cluster] = above[tree.parent[cluster]]
        inside = (above[tree.row_cluster] >= 0) & (labels >= 0)
        width = int(labels.max(initial=0)) + 1
        pairs = above[tree.row_cluster[inside]] * width + labels[inside].astype(np.int64)
        pairs, counts = np.unique(pairs, return_counts=True)
        pairs = pairs[np.argsort(counts, kind="stable")]  # so that the most frequent is written last
        label_of = np.full(len(selected) + 1, -1, np.int32)  # the last is that of no cluster
        label_of[pairs // width] = pairs % width
        deaths = np.append(cluster_deaths(tree), 0.0)
        least = 0.0 if not selected[0] else 1 / epsilon if epsilon > 0 else float(deaths[0])
        return cls(tree, label_of[above], deaths[above], least)

    def attach(self, neighbour: np.ndarray, distance: np.ndarray) -> Prediction:
        """Label rows that join the tree beside a fitted row each, (n,) int, at a mutual reachability, (n,) float64."""
        with np.errstate(divide="ignore"):
            value = np.minimum(1 / distance, self.tree.row_lambda[neighbour])
        cluster = self.tree.row_cluster[neighbour]
        while (outside := (cluster > 0) & (self.tree.birth[cluster] >= value)).any():
            cluster = np.where(outside, self.tree.parent[cluster], cluster)
        labels = np.where(value >= self.least, self.label[cluster], -1)
        death = self.death[cluster]
        certain = np.isinf(value) | (death == 0)
        strength = np.where(certain, 1.0, np.minimum(value, death) / np.where(certain, 1.0, death))
        return Prediction(labels.astype(np.int32), np.where(labels >= 0, strength, 0.0))


class DensityTree:
    """HDBSCAN: the place of a new row in the fitted tree (approximate_predict of hdbscan; McInnes, Healy 2017).

    The core distance of the new row is that of its `min_samples`-th nearest row, itself counted. It joins the tree
    beside the fitted row of smallest mutual reachability w with it (of equal ones the nearest, then the first), at
    lambda = 1 / w, and leaves its cluster there, or with that row, if the row leaves before. Its cluster is the
    selected one that exists at that lambda; `measure`, the strength, is the lambda over the largest of the cluster.
    A new row that equals a fitted one has that one's label and probability.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32
    core : ndarray (n_samples,) float64
        Core distances of its rows.
    branches : Branches
    min_samples : int
        At most n_samples.
    """

    measure = "strength"

    def __init__(self, X: np.ndarray, core: np.ndarray, branches: Branches, min_samples: int) -> None:
        self.X, self.core, self.branches, self.min_samples = X, core, branches, min_samples
        self.rows = np.arange(len(X))
        self.centre = kernels.centre_of(X)
        self.row_bytes = 64
        list_bytes = 16 * kernels.PART_ROWS * max(min_samples - 1, 1)
        self.block_bytes = n_threads() * (kernels.tile_bytes(X.shape[1]) + list_bytes)

    def predict(self, X: np.ndarray) -> Prediction:  # noqa: D102
        found = [(np.empty(0, np.int64), np.empty(0)), *kernels.by_parts(X, self._join)]
        neighbour, distance = (np.concatenate(part) for part in zip(*found, strict=True))
        return self.branches.attach(neighbour, distance)

    def _join(self, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where each row joins the tree: beside which row and at which distance."""
        lists = kernels.Lists.empty(len(new), max(self.min_samples - 1, 1))
        for tile in kernels.tiles(new, self.X, self.rows, self.centre):
            kernels.scan_rows(new, self.X, tile, self.core, lists)
        neighbour, distance = np.empty(len(new), np.int64), np.empty(len(new))
        kernels.choose(lists, self.core, self.min_samples, neighbour, distance)
        return neighbour, distance


def make_predictor(
    family: str,
    params: dict[str, Any],
    *,
    centres: np.ndarray | None,
    X: Callable[[], np.ndarray],
    labels: np.ndarray,
    forest: Callable[[int], DensityForest],
) -> Predictor:
    """Make the predictor of a fitted model.

    Parameters
    ----------
    family : {"KMeans", "DBSCAN", "HDBSCAN"}
    params : dict
        scikit-learn's parameters.
    centres : ndarray (n_clusters, n_features) float64 or None
        Of KMeans.
    X : callable
        Returns the matrix that the model was fitted on, (n_samples, n_features) float32; not asked by KMeans.
    labels : ndarray (n_samples,) int
    forest : callable
        Returns the matrix's density forest for a `min_samples`; not asked by KMeans.

    Raises
    ------
    InputError
        For a KMeans without centres.
    """
    if family == "KMeans":
        if centres is None:
            raise InputError("the run has not kept the centres of this KMeans; run again with this version")
        return NearestCentre(centres)
    matrix = X()
    min_samples = min_samples_of(params)
    if min_samples > len(matrix):  # only DBSCAN fits such a one: all is noise
        return CoreRows(matrix, labels, np.zeros(len(matrix), np.bool_), params["eps"])
    fitted = forest(min_samples)
    if family == "DBSCAN":
        return CoreRows(matrix, labels, fitted.is_core(params["eps"], min_samples), params["eps"])
    epsilon = float(params.get("cluster_selection_epsilon", 0.0))
    tree = fitted.condensed_tree(params["min_cluster_size"], min_samples)
    selected = select_clusters(
        tree,
        method=params.get("cluster_selection_method", "eom"),
        epsilon=epsilon,
        max_cluster_size=params.get("max_cluster_size"),
        allow_single_cluster=params.get("allow_single_cluster", False),
    )
    core = fitted.core_distances(min_samples=min_samples)
    return DensityTree(matrix, core, Branches.of(tree, selected, labels, epsilon=epsilon), min_samples)


def min_samples_of(params: dict[str, Any]) -> int:
    """Return the `min_samples` of a DBSCAN or HDBSCAN with these parameters."""
    value = params.get("min_samples")
    return int(params["min_cluster_size"] if value is None else value)
