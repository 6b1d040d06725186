"""How often each attribute occurs in each cluster, against the whole set: shares, lift, intervals, tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolkit.aggregate.metadata import Attributes

CONFIDENCE = 0.95
LEAST_EXPECTED = 5.0  # images: Cochran 1954
INTERVALS = (
    "shares: Wilson's score interval; lift: Koopman's score interval of the ratio to the rest of the set, carried over "
    "to the lift; p: the chi-squared test that this interval inverts; p_adjusted: Benjamini-Hochberg over all lines"
)
NOISY = "fewer than 5 images expected with or without the attribute, in the cluster or outside: the test may be wrong"

_STEPS = 60  # of a bisection: to 1e-16 of where it began
_WIDEST = 40.0  # of the logarithm of a ratio


def occurrence(labels: np.ndarray, attributes: Attributes) -> pd.DataFrame:
    """Compare each cluster with the whole set, attribute by attribute.

    Parameters
    ----------
    labels : ndarray (n_images,) int
        Numbers of clusters; these images together are the whole set.
    attributes : Attributes
        Of the same images.

    Returns
    -------
    DataFrame
        A line for each cluster and attribute, by cluster, then in the order of the attributes.

        - ``cluster``, ``attribute``;
        - ``n``: images of the cluster of which it is known, ``count``: those that have it, ``share`` with
          ``share_low`` and ``share_high`` (Wilson 1927);
        - ``share_of_all``: in the whole set, where it is known;
        - ``lift``: share / share_of_all, with ``lift_low`` and ``lift_high``; NaN where the attribute never occurs;
        - ``expected``: the least of the four numbers of images that are expected, with and without the attribute,
          inside and outside, if clusters do not matter;
        - ``p``, ``p_adjusted``: of no association, and times what controls the false discovery rate of all lines;
        - ``is_noisy``: ``expected`` is below 5, so that the intervals and p are rough.

    Notes
    -----
    A cluster is part of the whole set, so their shares are not independent. Its share p1 and that of the rest, p0,
    are: with w the cluster's share of the images, lift = r / (w r + 1 - w), r = p1 / p0, which grows with r, so that
    an interval of r is one of the lift. That of r is the score interval (Koopman 1984, "Confidence intervals for the
    ratio of two binomial proportions", Biometrics 40), which holds up where counts are small and has ends where they
    are zero.
    """
    clusters = np.unique(labels)
    x1, n1 = _counts(labels, clusters, attributes)
    x, n = x1.sum(axis=0), n1.sum(axis=0)
    x0, n0 = x - x1, n - n1
    with np.errstate(divide="ignore", invalid="ignore"):
        share, of_all, weight = x1 / n1, np.broadcast_to(x / n, x1.shape), n1 / n
        lift = share / of_all
        expected = np.minimum(n1, n0) * np.minimum(of_all, 1 - of_all)
    low, high = (as_lift(ratio, weight) for ratio in ratio_interval(x1, n1, x0, n0))
    share_low, share_high = wilson_interval(x1, n1)
    p = association(x1, n1, x0, n0)
    return pd.DataFrame(
        {
            "cluster": np.repeat(clusters, len(attributes.names)),
            "attribute": np.tile(np.array(attributes.names, dtype=object), len(clusters)),
            "n": n1.ravel(),
            "count": x1.ravel(),
            "share": share.ravel(),
            "share_low": share_low.ravel(),
            "share_high": share_high.ravel(),
            "share_of_all": of_all.ravel(),
            "lift": lift.ravel(),
            "lift_low": low.ravel(),
            "lift_high": high.ravel(),
            "expected": expected.ravel(),
            "p": p.ravel(),
            "p_adjusted": adjusted(p.ravel()),
            "is_noisy": ~(expected.ravel() >= LEAST_EXPECTED),
        }
    )


def prominent(table: pd.DataFrame, cluster: int) -> pd.DataFrame:
    """Return the lines of the attributes that a cluster has more often than the whole set, the highest lift first.

    Those whose ``p_adjusted`` is below 0.05 and which are not noisy.
    """
    is_more = (table["lift"] > 1) & (table["p_adjusted"] < 1 - CONFIDENCE) & ~table["is_noisy"]
    return table[(table["cluster"] == cluster) & is_more].sort_values("lift", ascending=False, kind="stable")


def _counts(labels: np.ndarray, clusters: np.ndarray, attributes: Attributes) -> tuple[np.ndarray, np.ndarray]:
    """Return how many images of each cluster have each attribute, and of how many it is known, int64."""
    rows = [np.flatnonzero(labels == cluster) for cluster in clusters]
    has = [attributes.has[mine].sum(axis=0, dtype=np.int64) for mine in rows]
    known = [attributes.is_known[mine].sum(axis=0, dtype=np.int64)[attributes.column] for mine in rows]
    return np.array(has).reshape(len(clusters), -1), np.array(known).reshape(len(clusters), -1)


# Intervals and tests; arrays of counts of one shape
def wilson_interval(x: np.ndarray, n: np.ndarray, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's score interval of a share, x of n; NaN where n is 0."""
    z = _normal(confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = (x + z**2 / 2) / (n + z**2)
        half = z / (n + z**2) * np.sqrt(x * (n - x) / n + z**2 / 4)
    is_none, is_all = x == 0, x == n  # where the ends are exact
    return np.where(is_none & (n > 0), 0.0, middle - half), np.where(is_all & (n > 0), 1.0, middle + half)


def ratio_interval(
    x1: np.ndarray, n1: np.ndarray, x0: np.ndarray, n0: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Return Koopman's score interval of (x1 / n1) / (x0 / n0).

    From 0 where x1 is 0, to inf where x0 is 0; NaN where both are, or one of n1 and n0 is.
    """
    z = _normal(confidence)
    counts = tuple(np.asarray(one, np.float64) for one in (x1, n1, x0, n0))
    low = np.exp(_falling_root(lambda log: _score(np.exp(log), *counts) - z, counts[0].shape))
    high = np.exp(_falling_root(lambda log: _score(np.exp(log), *counts) + z, counts[0].shape))
    unknown = (x1 + x0 == 0) | (n1 == 0) | (n0 == 0)
    low, high = np.where(x1 == 0, 0.0, low), np.where(x0 == 0, np.inf, high)
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def as_lift(ratio: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Turn a ratio to the share of the rest into one to that of the whole, of which the cluster is `weight`.

    Where the cluster is the whole, there is no rest, and it is 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(np.isinf(ratio), 1 / weight, ratio / (weight * ratio + 1 - weight))
    return np.where(weight == 1, 1.0, found)


def association(x1: np.ndarray, n1: np.ndarray, x0: np.ndarray, n0: np.ndarray) -> np.ndarray:
    """Return the p of Pearson's chi-squared test without correction; 1 where nothing differs or can be compared."""
    counts = [np.asarray(one, np.float64) for one in (x1, n1, x0, n0)]
    z = _score(np.ones(counts[0].shape), *counts)
    return np.where(np.isfinite(z), 2 * ndtr(-np.abs(z)), 1.0)


def adjusted(p: np.ndarray) -> np.ndarray:
    """Return p-values times what controls the false discovery rate (Benjamini & Hochberg 1995), (n,) float64."""
    order = np.argsort(-p, kind="stable")
    times = len(p) / np.arange(len(p), 0, -1)
    found = np.empty(len(p))
    found[order] = np.minimum(np.minimum.accumulate(p[order] * times), 1.0)
    return found


def _normal(confidence: float) -> float:
    return float(ndtri(0.5 + confidence / 2))


def _score(ratio: np.ndarray, x1: np.ndarray, n1: np.ndarray, x0: np.ndarray, n0: np.ndarray) -> np.ndarray:
    """Return the score statistic of p1 = ratio * p0, which falls as the ratio grows.

    The variance takes the shares that are likeliest among those with this ratio (Miettinen & Nurminen 1985).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        a, c = (n1 + n0) * ratio, x1 + x0
        b = n1 * ratio + x1 + n0 + x0 * ratio
        p0 = 2 * c / (b + np.sqrt(np.maximum(b * b - 4 * a * c, 0.0)))  # the smaller root, without cancellation
        p1 = np.minimum(ratio * p0, 1.0)
        variance = p1 * (1 - p1) / n1 + ratio**2 * p0 * (1 - p0) / n0
        difference = x1 / n1 - ratio * x0 / n0
        return np.where(difference == 0, 0.0, difference / np.sqrt(np.maximum(variance, 0.0)))


def _falling_root(function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Return where falling functions are zero, all by bisection at once."""
    low, high = np.full(shape, -_WIDEST), np.full(shape, _WIDEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        is_above = function(middle) > 0
        low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
    return np.asarray((low + high) / 2)
