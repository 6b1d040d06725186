"""scikit-learn's DBSCAN and HDBSCAN over the density forest."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.metrics import pairwise_distances
from sklearn.utils.validation import check_is_fitted, validate_data

from toolkit.cluster.arguments import refuse, require_choice, require_integer, require_number
from toolkit.cluster.density import METHODS, DensityForest
from toolkit.cluster.mst import join, number_components
from toolkit.errors import InputError

_METRICS = ("euclidean", "l2", "minkowski")
_ALGORITHMS = ("auto", "brute", "kd_tree", "ball_tree")
_INPUT = {"dtype": [np.float64, np.float32], "order": "C"}
_INFINITE, _MISSING = -2, -3  # scikit-learn's labels of rows with inf, and with NaN


def _check_search(estimator: Any, algorithms: tuple[str, ...]) -> None:
    """Check the parameters that say how neighbours are found: they change no label, and have no effect here."""
    require_choice("metric", estimator.metric, _METRICS)
    require_choice("metric_params", estimator.metric_params, (None,))
    require_choice("algorithm", estimator.algorithm, algorithms)
    require_integer("leaf_size", estimator.leaf_size)
    if estimator.n_jobs is not None and not isinstance(estimator.n_jobs, int | np.integer):
        raise InputError(f"n_jobs is {estimator.n_jobs!r:.60}; allowed: a whole number or None")


class DBSCAN(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """DBSCAN with scikit-learn's interface and labels.

    Parameters
    ----------
    eps : float
        Above 0.
    min_samples : int
        Rows within `eps`, the row itself counted, that make a row core.
    metric : {"euclidean", "l2", "minkowski"}
    metric_params : None
    algorithm, leaf_size, n_jobs
        Without effect: labels do not depend on them, and all processors are used.
    p : float or None
        Only 2, or None.

    Attributes
    ----------
    labels_ : ndarray (n_samples,) int64
        -1 is noise. Equal to scikit-learn's for float64 input; for float32 input too, unless a distance equals `eps`
        to float32 precision, where scikit-learn may round `eps`.
    core_sample_indices_ : ndarray (n_core_samples,) int64
    components_ : ndarray (n_core_samples, n_features)
    n_features_in_ : int
    feature_names_in_ : ndarray (n_features,) of str
        If `X` has names of columns.

    References
    ----------
    Ester, Kriegel, Sander, Xu 1996, "A density-based algorithm for discovering clusters in large spatial databases
    with noise".
    """

    labels_: np.ndarray
    core_sample_indices_: np.ndarray
    components_: np.ndarray
    n_features_in_: int

    def __init__(
        self,
        eps: float = 0.5,
        *,
        min_samples: int = 5,
        metric: str = "euclidean",
        metric_params: None = None,
        algorithm: str = "auto",
        leaf_size: int = 30,
        p: float | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.eps = eps
        self.min_samples = min_samples
        self.metric = metric
        self.metric_params = metric_params
        self.algorithm = algorithm
        self.leaf_size = leaf_size
        self.p = p
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: object = None, **unsupported: object) -> Self:
        """Fit to the rows of `X`, array-like (n_samples, n_features), finite; `y` is ignored.

        Raises
        ------
        ValueError
            If a parameter, an argument (such as ``sample_weight``) or the data cannot be used.
        """
        refuse("fit", unsupported)
        _check_search(self, _ALGORITHMS)
        if self.p is not None and self.p != 2:
            raise InputError(f"p is {self.p!r:.60}, which is not supported; allowed: 2 or None")
        eps = require_number("eps", self.eps, above=0.0)
        min_samples = require_integer("min_samples", self.min_samples)
        X = validate_data(self, X, **_INPUT)
        forest = DensityForest(min_samples).fit(X)
        self.labels_ = forest.dbscan(eps, min_samples)
        self.core_sample_indices_ = np.flatnonzero(forest.is_core(eps, min_samples))
        self.components_ = X[self.core_sample_indices_].copy()
        return self

    def fit_predict(self, X: Any, y: object = None, **unsupported: object) -> np.ndarray:
        """Fit and return `labels_`."""
        return self.fit(X, y, **unsupported).labels_


class HDBSCAN(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """HDBSCAN with scikit-learn's interface.

    Where mutual reachability distances tie, edges of equal weight are merged at once, so the clusters do not depend
    on the order of the rows; where they do not, they are scikit-learn's. Clusters are numbered by their first row.

    Parameters
    ----------
    min_cluster_size : int
        At least 2.
    min_samples : int or None
        The row itself counted; None is `min_cluster_size`.
    cluster_selection_epsilon : float
    max_cluster_size : int or None
    metric : {"euclidean", "l2", "minkowski"}
    metric_params : None
    alpha : float
        Only 1.
    algorithm, leaf_size, n_jobs, copy
        Without effect: clusters do not depend on them, all processors are used, and `X` is never changed.
    cluster_selection_method : {"eom", "leaf"}
    allow_single_cluster : bool
    store_centers : {None, "centroid", "medoid", "both"}

    Attributes
    ----------
    labels_ : ndarray (n_samples,) int64
        -1 is noise, -2 a row with inf, -3 a row with NaN.
    probabilities_ : ndarray (n_samples,) float64
        How strongly each row belongs to its cluster; 0 for noise and rows with inf, NaN for rows with NaN.
    centroids_, medoids_ : ndarray (n_clusters, n_features) float64
        If `store_centers` asks for them, weighted by the probabilities.
    n_features_in_ : int
    feature_names_in_ : ndarray (n_features,) of str
        If `X` has names of columns.

    References
    ----------
    Campello, Moulavi, Sander 2013, "Density-based clustering based on hierarchical density estimates". McInnes, Healy
    2017, "Accelerated hierarchical density based clustering".
    """

    labels_: np.ndarray
    probabilities_: np.ndarray
    centroids_: np.ndarray
    medoids_: np.ndarray
    n_features_in_: int

    def __init__(
        self,
        min_cluster_size: int = 5,
        min_samples: int | None = None,
        cluster_selection_epsilon: float = 0.0,
        max_cluster_size: int | None = None,
        metric: str = "euclidean",
        metric_params: None = None,
        alpha: float = 1.0,
        algorithm: str = "auto",
        leaf_size: int = 40,
        n_jobs: int | None = None,
        cluster_selection_method: str = "eom",
        allow_single_cluster: bool = False,  # noqa: FBT001, FBT002 (scikit-learn's signature)
        store_centers: str | None = None,
        copy: bool | str = True,  # noqa: FBT001, FBT002
    ) -> None:
        self.min_cluster_size = min_cluster_size
        self.min_samples = min_samples
        self.cluster_selection_epsilon = cluster_selection_epsilon
        self.max_cluster_size = max_cluster_size
        self.metric = metric
        self.metric_params = metric_params
        self.alpha = alpha
        self.algorithm = algorithm
        self.leaf_size = leaf_size
        self.n_jobs = n_jobs
        self.cluster_selection_method = cluster_selection_method
        self.allow_single_cluster = allow_single_cluster
        self.store_centers = store_centers
        self.copy = copy

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit to the rows of `X`, array-like (n_samples, n_features); `y` is ignored.

        Raises
        ------
        ValueError
            If a parameter or the data cannot be used, or there are fewer rows than `min_samples`.
        """
        _check_search(self, _ALGORITHMS)
        if self.alpha != 1:
            raise InputError(f"alpha is {self.alpha!r:.60}, which is not supported; allowed: 1.0")
        require_choice("copy", self.copy, (True, False, "warn"))
        require_choice("allow_single_cluster", self.allow_single_cluster, (True, False))
        require_choice("store_centers", self.store_centers, (None, "centroid", "medoid", "both"))
        require_choice("cluster_selection_method", self.cluster_selection_method, METHODS)
        size = require_integer("min_cluster_size", self.min_cluster_size, least=2)
        min_samples = size if self.min_samples is None else require_integer("min_samples", self.min_samples)
        X = validate_data(self, X, ensure_all_finite=False, **_INPUT)
        finite = np.isfinite(X).all(axis=1)
        if not finite.any():
            raise InputError("X has no row without NaN or inf; give at least two")
        forest = DensityForest(min_samples).fit(X[finite])
        labels, probabilities = forest.hdbscan(
            size,
            min_samples,
            self.cluster_selection_method,
            self.cluster_selection_epsilon,
            max_cluster_size=self.max_cluster_size,
            allow_single_cluster=self.allow_single_cluster,
            probabilities=True,
        )
        missing = np.isnan(X).any(axis=1)
        self.labels_ = np.where(missing, _MISSING, _INFINITE)
        self.probabilities_ = np.where(missing, np.nan, 0.0)
        self.labels_[finite], self.probabilities_[finite] = labels, probabilities
        self._spanning_tree = forest.mst(min_samples=min_samples)
        if self.store_centers is not None:
            self._find_centres(X[finite], labels, probabilities)
        return self

    def _find_centres(self, X: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> None:
        members = [np.flatnonzero(labels == label) for label in range(labels.max(initial=-1) + 1)]
        shape = (len(members), X.shape[1])
        if self.store_centers in ("centroid", "both"):
            means = [np.average(X[rows], weights=probabilities[rows], axis=0) for rows in members]
            self.centroids_ = np.array(means, np.float64).reshape(shape)
        if self.store_centers in ("medoid", "both"):
            medoids = []
            for rows in members:
                weighted = pairwise_distances(X[rows]) * probabilities[rows]
                medoids.append(X[rows[weighted.sum(axis=1).argmin()]])
            self.medoids_ = np.array(medoids, np.float64).reshape(shape)

    def fit_predict(self, X: Any, y: object = None) -> np.ndarray:
        """Fit and return `labels_`."""
        return self.fit(X, y).labels_

    def dbscan_clustering(self, cut_distance: float, min_cluster_size: int = 5) -> np.ndarray:
        """Return the components at a distance, as DBSCAN without border rows: (n_samples,) int64.

        Parameters
        ----------
        cut_distance : float
            Edges of mutual reachability below it are kept.
        min_cluster_size : int
            Smaller components are noise.
        """
        check_is_fitted(self)
        tree = self._spanning_tree
        n_edges = int(np.searchsorted(tree.distance, require_number("cut_distance", cut_distance), side="left"))
        parent = np.arange(len(tree.distance) + 1, dtype=np.int32)
        join(parent, tree.i[:n_edges], tree.j[:n_edges])
        component, n_components = number_components(parent)
        large = np.bincount(component, minlength=n_components) >= require_integer("min_cluster_size", min_cluster_size)
        number = np.where(large, np.cumsum(large) - 1, -1)
        labels = self.labels_.copy()
        labels[labels > _INFINITE] = number[component]
        return labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
