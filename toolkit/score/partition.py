"""Scores of one labelling of one matrix: sizes, Calinski-Harabasz, Davies-Bouldin, silhouette."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from scipy.spatial.distance import cdist

from toolkit.errors import InputError, unknown

_BLOCK_ROWS = 8192
DISTANCE_BYTES = 128 << 20  # of distances at once, unless the memory budget allows less
NOISE = ("exclude", "as_cluster")


def score_labels(
    X: np.ndarray,
    labels: np.ndarray,
    *,
    noise: str = "exclude",
    silhouette_rows: int = 10_000,
    seed: int = 0,
    max_bytes: int = DISTANCE_BYTES,
) -> dict[str, Any]:
    """Score a labelling.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32 or float64
        The matrix that was clustered. Sums and distances to centres are float64.
    labels : ndarray (n_samples,) int
        -1 is noise.
    noise : {"exclude", "as_cluster"}
        Whether noise is left out of the metrics, or counted as one more cluster.
    silhouette_rows : int
        The silhouette, quadratic in rows, is exact up to so many clustered rows and a random sample of so many
        above; 0 leaves it out.
    seed : int
        Of that sample.
    max_bytes : int
        Distances that are held at once; at least one row of them is.

    Returns
    -------
    dict
        n_clusters, n_noise, coverage (share of rows that are not noise), largest_share (of the clustered rows, in the
        largest cluster), calinski_harabasz_score, davies_bouldin_score, silhouette_score (None where there are fewer
        than 2 clusters, or no row more than clusters), silhouette_rows (rows it was computed on).

    Raises
    ------
    InputError
        For another value of `noise`, or a negative `silhouette_rows`.
    """
    if noise not in NOISE:
        raise unknown("noise", noise, NOISE)
    if silhouette_rows < 0:
        raise InputError(f"silhouette_rows is {silhouette_rows}; allowed: 0 (no silhouette) or more")
    n_noise = int(np.count_nonzero(labels == -1))
    used = labels if noise == "as_cluster" else labels[labels != -1]
    names, dense = np.unique(used, return_inverse=True)
    sizes = np.bincount(dense, minlength=len(names))
    row: dict[str, Any] = {
        "n_clusters": len(names),
        "n_noise": n_noise,
        "coverage": 1 - n_noise / len(labels),
        "largest_share": float(sizes.max() / sizes.sum()) if len(sizes) else None,
        "calinski_harabasz_score": None,
        "davies_bouldin_score": None,
        "silhouette_score": None,
        "silhouette_rows": 0,
    }
    if not 2 <= len(names) < len(used):
        return row
    full = np.full(len(labels), -1) if noise == "exclude" else np.empty(len(labels), np.int64)
    full[slice(None) if noise == "as_cluster" else labels != -1] = dense
    row["calinski_harabasz_score"], row["davies_bouldin_score"] = _variance_scores(X, full, sizes, max_bytes)
    row["silhouette_score"], row["silhouette_rows"] = _silhouette(X, full, silhouette_rows, seed, max_bytes)
    return row


def _variance_scores(X: np.ndarray, labels: np.ndarray, sizes: np.ndarray, max_bytes: int) -> tuple[float, float]:
    """Return (Calinski-Harabasz, Davies-Bouldin) of dense labels (-1: not counted), in two reads of X."""
    origin = X[np.argmax(labels >= 0)].astype(np.float64)  # sums around a point of the data keep their digits
    sums = np.zeros((len(sizes), X.shape[1]))
    for members, block in _clustered_blocks(X, labels, origin):
        sums += members @ block
    centres = sums / sizes[:, None]
    total = np.zeros(len(sizes))
    squares = 0.0
    for members, block in _clustered_blocks(X, labels, origin):
        block -= members.T @ centres
        squared = np.einsum("ij,ij->i", block, block)
        total += members @ np.sqrt(squared)
        squares += float(squared.sum())
    middle = sums.sum(axis=0) / sizes.sum()
    between = float(sizes @ ((centres - middle) ** 2).sum(axis=1))
    n, k = int(sizes.sum()), len(sizes)
    calinski_harabasz = 1.0 if squares == 0 else between * (n - k) / (squares * (k - 1))
    return calinski_harabasz, _davies_bouldin(centres, total / sizes, max_bytes)


def _davies_bouldin(centres: np.ndarray, spread: np.ndarray, max_bytes: int) -> float:
    """Return the mean, over clusters, of the largest (spread_i + spread_j) / distance_ij.

    Clusters of identical points everywhere score 0, and coinciding centres are left out, as in scikit-learn.
    """
    k = len(centres)
    step = max(1, max_bytes // (3 * 8 * k))
    worst = np.empty(k)
    furthest = 0.0
    for start in range(0, k, step):
        distance = cdist(centres[start : start + step], centres)
        furthest = max(furthest, float(distance.max()))
        distance[distance == 0] = np.inf
        worst[start : start + step] = ((spread[start : start + step, None] + spread) / distance).max(axis=1)
    if np.allclose(spread, 0) or np.allclose(furthest, 0):
        return 0.0
    return float(worst.mean())


def _clustered_blocks(X: np.ndarray, labels: np.ndarray, origin: np.ndarray) -> Any:
    """Yield, for each block of clustered rows, its (n_clusters, n) membership and its rows minus `origin`, float64."""
    n_clusters = labels.max() + 1
    for start in range(0, len(X), _BLOCK_ROWS):
        kept = labels[start : start + _BLOCK_ROWS] >= 0
        block_labels = labels[start : start + _BLOCK_ROWS][kept]
        ones, columns = np.ones(len(block_labels)), np.arange(len(block_labels))
        members = scipy.sparse.csr_array((ones, (block_labels, columns)), shape=(n_clusters, len(block_labels)))
        yield members, X[start : start + _BLOCK_ROWS][kept] - origin


def _silhouette(
    X: np.ndarray, labels: np.ndarray, max_rows: int, seed: int, max_bytes: int
) -> tuple[float | None, int]:
    """Return the mean silhouette and the number of rows it was computed on."""
    import sklearn
    from sklearn.metrics import silhouette_score

    rows = np.flatnonzero(labels >= 0)
    if len(rows) > max_rows:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_rows, replace=False))
    if not 2 <= len(np.unique(labels[rows])) < len(rows):
        return None, 0
    with sklearn.config_context(working_memory=max(max_bytes >> 20, 1)):
        return float(silhouette_score(X[rows].astype(np.float64), labels[rows])), len(rows)
