"""The estimators of scikit-learn, computed by the toolkit's own engines."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import euclidean_distances
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from toolkit.backend.arrays import from_array
from toolkit.backend.device import get_backend
from toolkit.cluster import kmeans
from toolkit.cluster.arguments import refuse, require_choice, require_integer, require_number
from toolkit.errors import InputError
from toolkit.memory import MemoryBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from toolkit.backend.base import Backend

_INPUT = {"dtype": [np.float64, np.float32], "order": "C", "accept_large_sparse": False}
_INITS = ("k-means++", "random")
_N_INIT_RANDOM = 10  # what scikit-learn's "auto" means for random starts; for the others it is one
_SEEDS = 2**32


def draw_seed(random_state: object) -> int:
    """Return a seed from what scikit-learn accepts: an int as it is, one drawn from None or a generator."""
    if isinstance(random_state, int | np.integer):
        return require_integer("random_state", random_state, least=0)
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(_SEEDS))
    return int(check_random_state(random_state).randint(_SEEDS, dtype=np.int64))


def _check_init(init: object, n_clusters: Iterable[int], n_features: int) -> str | np.ndarray:
    """Return the name, or the centres as float64."""
    if isinstance(init, str) or callable(init) or init is None or np.isscalar(init):
        if init not in _INITS:
            names = ", ".join(map(repr, _INITS))
            raise InputError(
                f"init is {init!r:.60}, which is not supported; allowed: {names}, or an array (n_clusters, n_features)"
            )
        return str(init)
    centres: np.ndarray = check_array(init, dtype=np.float64, order="C", copy=True, input_name="init")
    for k in n_clusters:
        if centres.shape != (k, n_features):
            raise InputError(
                f"init has shape {centres.shape}; allowed: (n_clusters, n_features), which is ({k}, {n_features})"
            )
    return centres


def kmeans_sweep(
    X: Any,
    n_clusters: Iterable[int] = (2, 3, 15),
    n_init: int | str = 10,
    random_state: Any = 0,
    *,
    init: Any = "k-means++",
    max_iter: int = 300,
    tol: float = 1e-4,
    memory: str | int | MemoryBudget | None = None,
    device: str | Backend | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> dict[int, KMeans]:
    """Fit KMeans for several numbers of clusters together, in the same passes over the data.

    The model for one number of clusters is, bit for bit, the same whatever the others are, and what
    ``KMeans(k, n_init=n_init, random_state=random_state).fit(X)`` gives; but for data of which some rows are 1e15 times
    as large as others, where sums of small rows lose digits while large ones come and go.

    Parameters
    ----------
    X : array-like, CuPy or torch array (n_samples, n_features)
        float32 or float64 (anything else becomes float64), finite, dense. It is not changed; one float32 copy is made.
    n_clusters : iterable of int
        Each from 1 to n_samples.
    n_init : int or "auto"
        Starts per number of clusters; the one with the smallest inertia is kept, of equal ones the first.
    random_state : int, RandomState, Generator or None
        Every start draws from a stream of its own.
    init : {"k-means++", "random"} or array-like (n_clusters, n_features)
        "k-means++" draws twice as many rows or more, and merges them; see `kmeans_seeds.plus_plus`.
    max_iter : int
        Iterations at most.
    tol : float
        A model has converged when the squared moves of its centres add up to at most this times the mean variance of
        the columns, or no label changes.
    memory : str, int, MemoryBudget or None
        What the process may hold, for instance ``"8GiB"``; decides how many models are fitted at a time.
    device : {"cpu", "cuda", "auto"}, Backend or None
        Where rows are assigned and summed; None: where X is. The models are the same.
    advance : callable
        Told the share of the work that was done, for a progress bar.

    Returns
    -------
    dict of int to KMeans
        In the order of `n_clusters`.

    Raises
    ------
    ValueError
        If a parameter or the data cannot be used (`toolkit.errors.InputError`, or scikit-learn's own message).
    MemoryBudgetError
        If not even one model fits into memory.

    References
    ----------
    Lloyd 1982, "Least squares quantization in PCM". Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful
    seeding".
    """
    if not np.iterable(n_clusters):
        raise InputError(f"n_clusters is {n_clusters!r:.60}; allowed: a list of whole numbers, such as [2, 3, 15]")
    wanted = list(dict.fromkeys(require_integer("n_clusters", k) for k in n_clusters))
    if not wanted:
        raise InputError("n_clusters is empty; give at least one number of clusters")
    options: dict[str, Any] = {"init": init, "n_init": n_init, "max_iter": max_iter, "tol": tol}
    models = {k: KMeans(k, random_state=random_state, **options) for k in wanted}
    X, where = from_array(X)
    X = validate_data(models[wanted[0]], X, **_INPUT)
    _fit(X, models, random_state=random_state, memory=memory, device=device or where, advance=advance, **options)
    first = models[wanted[0]]
    for model in models.values():
        model.n_features_in_ = first.n_features_in_
        if hasattr(first, "feature_names_in_"):
            model.feature_names_in_ = first.feature_names_in_
    return models


def _fit(
    X: np.ndarray,
    models: dict[int, KMeans],
    *,
    init: Any,
    n_init: Any,
    max_iter: Any,
    tol: Any,
    random_state: Any,
    memory: str | int | MemoryBudget | None,
    device: str | Backend = "cpu",
    advance: Callable[[float], None] = lambda _: None,
) -> None:
    """Check the parameters, fit all models, set their attributes."""
    init = _check_init(init, models, X.shape[1])
    if isinstance(n_init, str):
        require_choice("n_init", n_init, ("auto",))
        n_init = _N_INIT_RANDOM if isinstance(init, str) and init == "random" else 1
    n_init = require_integer("n_init", n_init)
    if not isinstance(init, str) and n_init != 1:
        warnings.warn(f"init gives the centres: one start instead of n_init={n_init}", RuntimeWarning, stacklevel=3)
        n_init = 1
    most = max(models)
    if len(X) < most:
        raise InputError(f"n_samples={len(X)} should be >= n_clusters={most}; ask for at most {len(X)} clusters")
    fits = get_backend(device).sweep_kmeans(
        X,
        list(models),
        init=init,
        n_init=n_init,
        max_iter=require_integer("max_iter", max_iter),
        tol=require_number("tol", tol),
        seed=draw_seed(random_state),
        memory=MemoryBudget.resolve(memory),
        advance=advance,
    )
    for k, fit in fits.items():
        models[k]._take(fit)


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """KMeans with the parameters, methods and attributes of ``sklearn.cluster.KMeans``, on dense data.

    Labels are exact for the centres (float64 differences decide what float32 products leave open) and do not depend on
    the number of threads. The seeds differ from scikit-learn's for the same `random_state`.

    Parameters
    ----------
    n_clusters : int
        From 1 to n_samples.
    init : {"k-means++", "random"} or array-like (n_clusters, n_features)
        "k-means++" draws twice as many rows or more, and merges them; see `kmeans_seeds.plus_plus`. A function is not
        supported.
    n_init : int or "auto"
        Starts, of which the best is kept; "auto" is 10 for "random", else 1.
    max_iter : int
    tol : float
        Of the squared moves of all centres, relative to the mean variance of the columns.
    verbose : int
        Only 0.
    random_state : int, RandomState, Generator or None
    copy_x : bool
        Without effect: `X` is never changed.
    algorithm : {"lloyd"}

    Attributes
    ----------
    cluster_centers_ : ndarray (n_clusters, n_features) float64
        float64 for float32 data too: `labels_` are exact for these very numbers.
    labels_ : ndarray (n_samples,) int32
    inertia_ : float
        Sum of squared distances of the rows to their centres.
    n_iter_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray (n_features,) of str
        If `X` has names of columns.

    References
    ----------
    Lloyd 1982, "Least squares quantization in PCM". Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful
    seeding".
    """

    cluster_centers_: np.ndarray
    labels_: np.ndarray
    inertia_: float
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: int | str = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm

    def fit(self, X: Any, y: object = None, **unsupported: object) -> Self:
        """Fit to the rows of `X`, array-like (n_samples, n_features); `y` is ignored.

        Raises
        ------
        ValueError
            If a parameter, an argument (such as ``sample_weight``) or the data cannot be used.
        """
        refuse("fit", unsupported)
        require_choice("algorithm", self.algorithm, ("lloyd",))
        require_choice("copy_x", self.copy_x, (True, False))
        require_choice("verbose", int(self.verbose), (0,))
        k = require_integer("n_clusters", self.n_clusters)
        X = validate_data(self, X, **_INPUT)
        _fit(
            X,
            {k: self},
            init=self.init,
            n_init=self.n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            random_state=self.random_state,
            memory=None,
        )
        return self

    def _take(self, fit: kmeans.Fit) -> None:
        self.cluster_centers_, self.labels_ = fit.centres, fit.labels
        self.inertia_, self.n_iter_ = fit.inertia, fit.n_iter
        self._n_features_out = len(fit.centres)
        distinct = len(np.unique(fit.labels))
        if distinct < len(fit.centres):
            warnings.warn(
                f"Number of distinct clusters ({distinct}) found smaller than n_clusters ({len(fit.centres)}). "
                f"Possibly due to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _check_new(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, reset=False, **_INPUT))

    def fit_predict(self, X: Any, y: object = None, **unsupported: object) -> np.ndarray:
        """Fit and return `labels_`."""
        return self.fit(X, y, **unsupported).labels_

    def predict(self, X: Any) -> np.ndarray:
        """Return the nearest centre of each row, (n_samples,) int32; the smallest index of equally near ones."""
        return kmeans.assign(self._check_new(X), self.cluster_centers_).labels

    def transform(self, X: Any) -> np.ndarray:
        """Return the distances to all centres, (n_samples, n_clusters)."""
        return np.asarray(euclidean_distances(self._check_new(X), self.cluster_centers_))

    def fit_transform(self, X: Any, y: object = None, **unsupported: object) -> np.ndarray:
        """Fit and return the distances to all centres, (n_samples, n_clusters)."""
        return self.fit(X, y, **unsupported).transform(X)

    def score(self, X: Any, y: object = None, **unsupported: object) -> float:
        """Return minus the sum of squared distances of the rows to their nearest centres."""
        refuse("score", unsupported)
        return -kmeans.assign(self._check_new(X), self.cluster_centers_).inertia
