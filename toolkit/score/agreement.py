"""How far labellings of the same rows agree: contingency table, adjusted Rand index, adjusted mutual information."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit


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
    both = (a >= -1) & (b >= -1)
    if not both.any():
        return Agreement(np.nan, np.nan, 0)
    a, b = a[both], b[both]
    return Agreement(rand_index(a, b), _mutual_information(a, b), len(a))


def rand_index(a: np.ndarray, b: np.ndarray) -> float:
    """Return the adjusted Rand index of two labellings, (n_rows,) int; -1 is noise and counts as one group."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(a, b))


def _mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Return the adjusted mutual information, normalised by the mean of the entropies as in scikit-learn.

    What chance gives depends on the sizes of the groups alone, so it is computed once for each pair of sizes: with
    thousands of clusters there are far fewer of them than pairs of clusters.
    """
    from scipy.special import gammaln
    from sklearn.metrics import mutual_info_score

    sizes_a, sizes_b = (np.unique(labels, return_counts=True)[1] for labels in (a, b))
    if len(sizes_a) == len(sizes_b) == len(np.unique(np.stack([a, b]), axis=1)[0]):  # 0 / 0 where all is apart
        return 1.0
    of_a, times_a = np.unique(sizes_a, return_counts=True)
    of_b, times_b = np.unique(sizes_b, return_counts=True)
    by_chance = _expected_information(of_a, times_a, of_b, times_b, len(a), gammaln(np.arange(len(a) + 2)))
    entropies = [-float(np.sum(sizes / len(a) * np.log(sizes / len(a)))) for sizes in (sizes_a, sizes_b)]
    most = np.mean(entropies) - by_chance
    eps = np.finfo(np.float64).eps
    most = min(most, -eps) if most < 0 else max(most, eps)
    return float((mutual_info_score(a, b) - by_chance) / most)


@njit(nogil=True, cache=True)
def _expected_information(sizes_a, times_a, sizes_b, times_b, n, log_gamma):  # type: ignore[no-untyped-def]
    """Return the mutual information to expect of random labellings with groups of these sizes (Vinh et al. 2010).

    `log_gamma[i]` is the logarithm of gamma(i).
    """
    expected = 0.0
    for i in range(len(sizes_a)):
        x = sizes_a[i]
        for j in range(len(sizes_b)):
            y = sizes_b[j]
            fixed = log_gamma[x + 1] + log_gamma[y + 1] + log_gamma[n - x + 1] + log_gamma[n - y + 1] - log_gamma[n + 1]
            information = 0.0
            for both in range(max(1, x + y - n), min(x, y) + 1):
                chance = fixed - log_gamma[both + 1] - log_gamma[x - both + 1] - log_gamma[y - both + 1]
                chance -= log_gamma[n - x - y + both + 1]
                information += both / n * np.log(n * both / (x * y)) * np.exp(chance)
            expected += information * times_a[i] * times_b[j]
    return expected


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
