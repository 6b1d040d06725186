"""How far labellings of the same rows agree: contingency table, adjusted Rand index, adjusted mutual information."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Agreement(NamedTuple):
    """Of two labellings.

    Attributes
    ----------
    ari : float
        Adjusted Rand index (Hubert & Arabie 1985): 1 is the same partition, 0 what chance gives.
    ami : float
        Adjusted mutual information (Vinh, Epps & Bailey 2010), of the same scale.
    n_rows : int
        Rows that both have seen.
    """

    ari: float
    ami: float
    n_rows: int


def agreement(a: np.ndarray, b: np.ndarray) -> Agreement:
    """Compare two labellings, (n_rows,) int: below -1 is a row that was not seen, -1 is noise and counts as one group.

    Both indices are NaN where no row was seen by both.
    """
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    both = (a >= -1) & (b >= -1)
    if not both.any():
        return Agreement(np.nan, np.nan, 0)
    a, b = a[both], b[both]
    return Agreement(float(adjusted_rand_score(a, b)), float(adjusted_mutual_info_score(a, b)), len(a))


def cluster_overlaps(labels: np.ndarray, again: np.ndarray) -> dict[int, float]:
    """Return for each cluster the largest Jaccard index with a cluster of another labelling of the same rows.

    Parameters
    ----------
    labels, again : ndarray (n_rows,) int
        -1 is noise, which is no cluster.

    Returns
    -------
    dict of int to float
        Cluster of `labels` -> rows in both over rows in either (Hennig 2007, "Cluster-wise assessment of cluster
        stability"), from 0 to 1.
    """
    names, a = np.unique(labels, return_inverse=True)
    others, b = np.unique(again, return_inverse=True)
    pairs, n_both = np.unique(a.astype(np.int64) * len(others) + b, return_counts=True)
    i, j = np.divmod(pairs, len(others))
    sizes, sizes_again = np.bincount(a), np.bincount(b)
    jaccard = n_both / (sizes[i] + sizes_again[j] - n_both)
    best = np.zeros(len(names))
    clustered = others[j] != -1
    np.maximum.at(best, i[clustered], jaccard[clustered])
    return {int(name): float(value) for name, value in zip(names, best, strict=True) if name != -1}
