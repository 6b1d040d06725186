"""The reference engine: every cell of a grid fitted alone by scikit-learn. Slow, and the oracle for every other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from toolkit.cluster.labelling import Labelling
from toolkit.errors import MemoryBudgetError
from toolkit.memory import MemoryBudget, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

_PROBE_ROWS = 256  # rows whose neighbours are counted to predict the size of all neighbour lists
LIST_BYTES = 28  # per neighbour: scikit-learn holds int64 indices, and more while it gathers them (measured)


def _kmeans(X: np.ndarray, params: dict[str, Any], seed: int, _memory: MemoryBudget) -> Labelling:
    from sklearn.cluster import KMeans

    # Threads add their partial sums in the order in which they finish, which changes the last bits.
    with threadpool_limits(1):
        fitted = KMeans(**{"n_init": 10} | params, random_state=seed).fit(X)
    return Labelling(np.asarray(fitted.labels_), fitted.cluster_centers_.astype(np.float64))


def _dbscan(X: np.ndarray, params: dict[str, Any], seed: int, memory: MemoryBudget) -> Labelling:
    from sklearn.cluster import DBSCAN
    from sklearn.metrics import pairwise_distances

    rows = np.random.default_rng(seed).choice(len(X), min(_PROBE_ROWS, len(X)), replace=False)
    step = max(1, (64 << 20) // (8 * len(X)))
    near = sum(
        np.count_nonzero(pairwise_distances(X[rows[i : i + step]], X) <= params["eps"])
        for i in range(0, len(rows), step)
    )
    needed = int(near / len(rows) * len(X) * LIST_BYTES)
    if needed > memory.free:
        raise MemoryBudgetError(
            f"DBSCAN with eps {params['eps']:g} needs about {format_size(needed)} for scikit-learn's neighbour lists, "
            f"{format_size(max(memory.free, 0))} are free; lower eps or fraction, or raise --memory"
        )
    return Labelling(np.asarray(DBSCAN(**params).fit(X).labels_))


def _hdbscan(X: np.ndarray, params: dict[str, Any], _seed: int, _memory: MemoryBudget) -> Labelling:
    from sklearn.cluster import HDBSCAN

    return Labelling(np.asarray(HDBSCAN(**params, copy=False).fit(X).labels_))


_FITS: dict[str, Callable[[np.ndarray, dict[str, Any], int, MemoryBudget], Labelling]] = {
    "KMeans": _kmeans,
    "DBSCAN": _dbscan,
    "HDBSCAN": _hdbscan,
}
FACTS = {name: {"exactness": "exact", "precision": "float32", "tie_rule": "scikit-learn"} for name in _FITS}


def fit_model(
    cluster_class: str, params: dict[str, Any], X: np.ndarray, *, seed: int, memory: MemoryBudget
) -> Labelling:
    """Fit one model.

    Parameters
    ----------
    cluster_class : {"KMeans", "DBSCAN", "HDBSCAN"}
    params : dict
        scikit-learn's parameters; KMeans takes the best of 10 starts unless ``n_init`` says otherwise.
    X : ndarray (n_samples, n_features) float32
    seed : int
        ``random_state`` of KMeans.
    memory : MemoryBudget

    Raises
    ------
    ValueError
        If the parameters do not suit the data (scikit-learn's message).
    MemoryBudgetError
        If the neighbour lists of a DBSCAN would not fit.
    """
    return _FITS[cluster_class](X, params, seed, memory)
