"""The cluster of a new row, from what a model was fitted on: arrays in, labels out.

Distances decide as float64 differences (`toolkit.backend.simd.squared_distance`, which the density forest uses too).
A float32 product of centred rows only bounds them from below and tells which have to be looked at: with x, c the
centred rows and p their float32 product, ``|x - c|^2 >= |x|^2 + |c|^2 - 2 p - 2 n u |x| |c|`` (Higham 2002, section
3.1: any order of summation). So labels do not depend on blocks, threads or the other rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numba import njit

from toolkit.backend.cpu import ordered_map
from toolkit.backend.simd import squared_distance
from toolkit.cluster import kmeans, kmeans_kernels
from toolkit.cluster.kmeans_matrix import padded
from toolkit.cluster.trees import _deaths, select_clusters
from toolkit.errors import InputError
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from toolkit.cluster.density import DensityForest
    from toolkit.cluster.trees import CondensedTree

_ROWS = 512  # new rows that one thread works on
_TILE_COLUMNS = 2048  # rows of the model that they are multiplied with at once
_TILE_BYTES = 8 << 20  # of these, centred
_UNIT32, _UNIT64 = 2.0**-24, 2.0**-53
_NO_LABEL = np.iinfo(np.int32).max
_REACH = 1 + 2.0**-50  # covers a root and its square


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
        self.centre = _centre(X)
        self.row_bytes, self.block_bytes = 32, n_threads() * _tile_bytes(X.shape[1])

    def predict(self, X: np.ndarray) -> Prediction:  # noqa: D102
        found = [Prediction(np.empty(0, np.int32), np.empty(0)), *_by_parts(X, self._predict)]
        return Prediction(*(np.concatenate(part) for part in zip(*found, strict=True)))

    def _predict(self, new: np.ndarray) -> Prediction:
        nearest, labels = np.full(len(new), np.inf), np.full(len(new), _NO_LABEL, np.int32)
        for tile in _tiles(new, self.X, self.rows, self.centre):
            _scan_cores(new, self.X, tile, self.labels, self.squared_radius, nearest, labels)
        labels[labels == _NO_LABEL] = -1
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
        deaths = np.append(_deaths(tree), 0.0)
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
        self.centre = _centre(X)
        self.row_bytes = 64
        list_bytes = 16 * _ROWS * max(min_samples - 1, 1)
        self.block_bytes = n_threads() * (_tile_bytes(X.shape[1]) + list_bytes)

    def predict(self, X: np.ndarray) -> Prediction:  # noqa: D102
        found = [(np.empty(0, np.int64), np.empty(0)), *_by_parts(X, self._join)]
        neighbour, distance = (np.concatenate(part) for part in zip(*found, strict=True))
        return self.branches.attach(neighbour, distance)

    def _join(self, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where each row joins the tree: beside which row and at which distance."""
        lists = _Lists.empty(len(new), max(self.min_samples - 1, 1))
        for tile in _tiles(new, self.X, self.rows, self.centre):
            _scan_rows(new, self.X, tile, self.core, lists)
        neighbour, distance = np.empty(len(new), np.int64), np.empty(len(new))
        _choose(lists, self.core, self.min_samples, neighbour, distance)
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


# Distances from new rows to fitted ones, tile by tile
class _Centred(NamedTuple):
    """Rows from a centre, each scaled by a power of two of its own so that no product leaves float32.

    `rows` (n, n_features) float32; `square` (n,) float64 of the unscaled rows; `length` (n,) float64 of the scaled
    ones; `factor` (n,) float64, one over the scale.
    """

    rows: np.ndarray
    square: np.ndarray
    length: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, centre: np.ndarray) -> _Centred:
        values = rows - centre
        square = np.einsum("ij,ij->i", values, values)
        exponent = np.frexp(np.abs(values).max(axis=1))[1]
        values *= np.ldexp(1.0, -exponent)[:, None]
        length = np.sqrt(np.einsum("ij,ij->i", values, values))
        return cls(values.astype(np.float32), square, length, np.ldexp(1.0, exponent))


class _Tile(NamedTuple):
    """The products of new rows with some rows of the model, `columns` (n_columns,) int64."""

    products: np.ndarray
    columns: np.ndarray
    new: _Centred
    fitted: _Centred


def _centre(X: np.ndarray) -> np.ndarray:
    return np.asarray(X.mean(axis=0, dtype=np.float64))


def _tile_columns(n_features: int) -> int:
    return int(np.clip(_TILE_BYTES // (8 * n_features), 64, _TILE_COLUMNS))


def _tile_bytes(n_features: int) -> int:
    columns = _tile_columns(n_features)
    return 20 * n_features * (columns + _ROWS) + 4 * columns * _ROWS


def _by_parts(X: np.ndarray, function: Callable[[np.ndarray], Any]) -> Iterator[Any]:
    """Call a function for some new rows at a time on all threads, and yield what it returns in their order."""
    parts = (X[start : start + _ROWS] for start in range(0, len(X), _ROWS))
    return ordered_map(function, parts, workers=n_threads() if len(X) > _ROWS else 0)


def _tiles(new: np.ndarray, X: np.ndarray, rows: np.ndarray, centre: np.ndarray) -> Iterator[_Tile]:
    """Yield the products of new rows with some rows of X.

    A tile's rows are spread over all of them: in whatever order a file is, the first tile knows about how far the
    nearest are, and few distances have to be measured in the others.
    """
    n_tiles = -(-len(rows) // _tile_columns(X.shape[1]))
    centred = _Centred.of(new, centre)
    for start in range(n_tiles):
        columns = rows[start::n_tiles]
        fitted = _Centred.of(X[columns], centre)
        yield _Tile(centred.rows @ fitted.rows.T, columns, centred, fitted)


@njit(nogil=True, cache=True)
def _bounds(tile, i, bounds):  # type: ignore[no-untyped-def]
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
def _scan_cores(new, X, tile, labels, squared_radius, nearest, best):  # type: ignore[no-untyped-def]
    """Bring the squared distance to the nearest core row and the lowest label within the radius up to date."""
    bounds = np.empty(len(tile.columns))
    for i in range(len(new)):
        _bounds(tile, i, bounds)
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


class _Lists(NamedTuple):
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
    def empty(cls, n: int, k: int) -> _Lists:
        reach, reach_squared = np.full((2, n), np.inf)
        return cls(np.full((n, k), np.inf), np.zeros((n, k), np.int64), reach, reach_squared, np.zeros(n, np.int64))


@njit(nogil=True, cache=True)
def _scan_rows(new, X, tile, core, lists):  # type: ignore[no-untyped-def]
    """Bring the lists up to date."""
    bounds = np.empty(len(tile.columns))
    for i in range(len(new)):
        _bounds(tile, i, bounds)
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
def _choose(lists, core, min_samples, neighbour, distance):  # type: ignore[no-untyped-def]
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
