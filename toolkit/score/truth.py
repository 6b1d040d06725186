"""How well distances, or clusters, tell known identities apart: pairs verified, clusters against the truth."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from toolkit.score.agreement import agreement

FALSE_ACCEPTANCE = 1e-3  # at which the true acceptance rate is told
FOLDS = 10  # of the accuracy, as in LFW
_ONE_IN = round(1 / FALSE_ACCEPTANCE)
_CURVE_POINTS = 400
_PIECE = 1 << 20  # distances that are looked up at a time


# Pairs
class Verification(NamedTuple):
    """How well a distance tells pairs of the same identity from pairs of different ones.

    A pair is accepted (taken for the same identity) if its distance is at most a threshold. TAR, the true acceptance
    rate, is the share of the pairs of one identity that are accepted, FAR, the false acceptance rate, that of the pairs
    of different ones.

    Attributes
    ----------
    n_same, n_different : int
        Pairs that were measured.
    auc : float
        Area under the ROC curve: the chance that a pair of one identity is nearer than one of different identities,
        ties counted half.
    equal_error_rate : float
        FAR where it equals 1 - TAR, on the ROC curve with straight lines between its points.
    tar : float
        The largest TAR of a threshold whose FAR is at most 0.001.
    accuracy, accuracy_std : float
        (TAR + 1 - FAR) / 2, as if there were as many pairs of both kinds: mean and standard deviation over 10 folds,
        each judged by the threshold that is best on the others (Huang et al. 2007, "Labeled Faces in the Wild"); fewer
        folds where there are fewer pairs of a kind, NaN with one.
    threshold : float
        The distance with the largest (TAR + 1 - FAR) / 2 on all pairs, the lowest of several.
    curve_far, curve_tar : ndarray (at most 401,) float64
        Points of the ROC curve, from few false acceptances to many, evenly on a logarithmic scale.
    """

    n_same: int
    n_different: int
    auc: float
    equal_error_rate: float
    tar: float
    accuracy: float
    accuracy_std: float
    threshold: float
    curve_far: np.ndarray
    curve_tar: np.ndarray


def verification(same: np.ndarray, different: np.ndarray, generator: np.random.Generator | None = None) -> Verification:
    """Judge distances by whether their pairs are of one identity, by exact ranks.

    Parameters
    ----------
    same, different : ndarray (n_same,) and (n_different,) float64
        Distances of the pairs of one identity and of different ones, at least one of each; without NaN. With a
        `generator` they are sorted in place.
    generator : numpy Generator, optional
        Deals the pairs to the folds; without it, each kind is cut into folds in the order given, as lists of pairs are.
    """
    n_folds = min(FOLDS, len(same), len(different))
    same, fold_of_same = _sorted(same, n_folds, generator)
    different, fold_of_different = _sorted(different, n_folds, generator)
    accuracies = []
    for fold in range(n_folds if n_folds > 1 else 0):
        here, there = fold_of_same == fold, fold_of_different == fold
        threshold = _best_threshold(same[~here], different[~there])
        accuracies.append((np.mean(same[here] <= threshold) + np.mean(different[there] > threshold)) / 2)
    far, tar = _curve(same, different)
    return Verification(
        n_same=len(same),
        n_different=len(different),
        auc=_area(same, different),
        equal_error_rate=_equal_error_rate(same, different),
        tar=float(np.searchsorted(same, different[len(different) // _ONE_IN]) / len(same)),
        accuracy=float(np.mean(accuracies)) if accuracies else math.nan,
        accuracy_std=float(np.std(accuracies)) if accuracies else math.nan,
        threshold=_best_threshold(same, different),
        curve_far=far,
        curve_tar=tar,
    )


def _sorted(
    distances: np.ndarray, n_folds: int, generator: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances in order and the fold of each, (n,) int8; no fold is empty."""
    folds = np.empty(len(distances), np.int8)
    edges = np.linspace(0, len(distances), n_folds + 1).round().astype(np.int64)
    for fold in range(n_folds):
        folds[edges[fold] : edges[fold + 1]] = fold
    if generator is None:
        order = np.argsort(distances, kind="stable")
        return distances[order], folds[order]
    distances.sort()  # dealt at random: the order of the pairs need not be kept, which would take twice the memory
    generator.shuffle(folds)
    return distances, folds


def _best_threshold(same: np.ndarray, different: np.ndarray) -> float:
    """Return the distance with the largest TAR - FAR, both ascending; only one of `same` can be it."""
    best, threshold = -math.inf, math.nan
    for start in range(0, len(same), _PIECE):
        part = same[start : start + _PIECE]
        accepted = np.arange(start + 1, start + len(part) + 1) / len(same)  # of equal distances the last counts
        gain = accepted - np.searchsorted(different, part, side="right") / len(different)
        at = int(np.argmax(gain))
        if gain[at] > best:
            best, threshold = float(gain[at]), float(part[at])
    return threshold


def _area(same: np.ndarray, different: np.ndarray) -> float:
    """Return the area under the ROC curve (Mann & Whitney 1947), both ascending; counted in whole halves."""
    halves = 0
    for start in range(0, len(same), _PIECE):
        part = same[start : start + _PIECE]
        not_farther = np.searchsorted(different, part) + np.searchsorted(different, part, side="right")
        halves += 2 * len(different) * len(part) - int(not_farther.sum())
    return halves / (2 * len(same) * len(different))


def _equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """Return FAR where the ROC curve meets FAR = 1 - TAR, both ascending.

    The curve has corners at the distances of `same` only. The first of them at which FAR + TAR reaches 1 is found by
    bisection; the curve then comes from the corner before, goes right to `before`, and straight on to `here`.
    """

    def shares(distance: float, side: str) -> tuple[float, float]:
        far, tar = (np.searchsorted(of, distance, side=side) / len(of) for of in (different, same))  # type: ignore[call-overload]
        return float(far), float(tar)

    low, high = 0, len(same) - 1
    while low < high:
        middle = (low + high) // 2
        if sum(shares(same[middle], "right")) >= 1:
            high = middle
        else:
            low = middle + 1
    before, here = shares(same[low], "left"), shares(same[low], "right")
    short = 1 - sum(before)
    if short <= 0:  # met on the way to the right, where TAR stands still
        return 1 - before[1]
    return before[0] + (here[0] - before[0]) * short / (sum(here) - sum(before))


def _curve(same: np.ndarray, different: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return FAR and TAR where about 0, 1, 2, ..., n pairs of `different` are accepted, both ascending."""
    n_accepted = np.unique(np.geomspace(1, len(different), _CURVE_POINTS).astype(np.int64) - 1)
    thresholds = different[n_accepted]  # nearer pairs than this one are accepted
    far = np.append(np.searchsorted(different, thresholds) / len(different), 1.0)
    tar = np.append(np.searchsorted(same, thresholds) / len(same), 1.0)
    return far, tar


# Clusters
class Match(NamedTuple):
    """How far clusters are the identities.

    Attributes
    ----------
    n_rows, n_clusters, n_identities : int
    ari, ami : float
        As in `Agreement`.
    nmi : float
        Normalised mutual information (by the mean of the entropies); it is the V-measure too.
    homogeneity, completeness : float
        Rosenberg & Hirschberg 2007: whether clusters hold one identity, and whether identities lie in one cluster.
    pair_precision, pair_recall, pair_f : float
        Of the pairs of rows in one cluster, the share of one identity; the reverse; their harmonic mean. NaN where
        there is no such pair.
    bcubed_precision, bcubed_recall, bcubed_f : float
        Amigo et al. 2009: the mean over rows of the share of its cluster that has its identity; the reverse; the
        harmonic mean of the two.
    """

    n_rows: int
    n_clusters: int
    n_identities: int
    ari: float
    ami: float
    nmi: float
    homogeneity: float
    completeness: float
    pair_precision: float
    pair_recall: float
    pair_f: float
    bcubed_precision: float
    bcubed_recall: float
    bcubed_f: float


class Merged(NamedTuple):
    """Two identities in one cluster: the one with most of its rows, and another one."""

    cluster: int
    identity: int
    n_rows: int
    other: int
    n_other: int


class Split(NamedTuple):
    """An identity in several clusters; noise is none of them."""

    identity: int
    n_rows: int
    n_clusters: int
    n_largest: int


class Confusions(NamedTuple):
    """What clusters mix up.

    Attributes
    ----------
    n_mixed : int
        Clusters of more than one identity.
    n_split : int
        Identities in more than one cluster.
    merged : list of Merged
        Those with the most rows of the other identity first.
    split : list of Split
        Those with the most rows outside of the largest cluster first.
    """

    n_mixed: int
    n_split: int
    merged: list[Merged]
    split: list[Split]


class _Cells(NamedTuple):
    """The contingency table without its zeros, (n_cells,) int64: rows that are in both, by cluster, then identity."""

    cluster: np.ndarray
    identity: np.ndarray
    n_both: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, identities: np.ndarray) -> _Cells:
        width = int(identities.max(initial=-1)) + 1
        keys, n_both = np.unique(labels.astype(np.int64) * width + identities, return_counts=True)
        return cls(*np.divmod(keys, max(width, 1)), n_both)


def with_single_noise(labels: np.ndarray) -> np.ndarray:
    """Return labels, (n_rows,) int64, in which every noise row (-1) is a cluster of its own."""
    found = labels.astype(np.int64)
    noise = np.flatnonzero(found < 0)
    found[noise] = found.max(initial=-1) + 1 + np.arange(len(noise))
    return found


def match(labels: np.ndarray, identities: np.ndarray) -> Match:
    """Compare clusters with identities; memory grows with the rows alone.

    Parameters
    ----------
    labels, identities : ndarray (n_rows,) int
        At least 0; numbers may be left out. At least one row.
    """
    cells = _Cells.of(labels, identities)
    clusters, truths = np.bincount(labels), np.bincount(identities)
    n_rows = len(labels)
    n_clusters, n_identities = np.count_nonzero(clusters), np.count_nonzero(truths)
    homogeneity, completeness, nmi = _information(cells, clusters, truths)
    # of equal partitions the index is 1 by definition, but 0 / 0 by its formula where all rows are apart
    is_equal = len(cells.n_both) == n_clusters == n_identities
    agreed = (1.0, 1.0) if is_equal else agreement(labels, identities)[:2]
    return Match(
        n_rows,
        int(n_clusters),
        int(n_identities),
        *agreed,
        nmi,
        homogeneity,
        completeness,
        *_pairs(cells, clusters, truths),
        *_bcubed(cells, clusters, truths),
    )


def _information(cells: _Cells, clusters: np.ndarray, truths: np.ndarray) -> tuple[float, float, float]:
    """Return homogeneity, completeness and NMI; 1 where there is nothing to know, as in scikit-learn."""
    n_rows = int(clusters.sum())
    by_chance = clusters[cells.cluster] * truths[cells.identity] / n_rows
    shared = max(0.0, float(np.sum(cells.n_both / n_rows * np.log(cells.n_both / by_chance))))
    of_clusters, of_truths = (_entropy(sizes[sizes > 0] / n_rows) for sizes in (clusters, truths))
    return (
        shared / of_truths if of_truths else 1.0,
        shared / of_clusters if of_clusters else 1.0,
        2 * shared / (of_clusters + of_truths) if of_clusters + of_truths else 1.0,
    )


def _entropy(shares: np.ndarray) -> float:
    return -float(np.sum(shares * np.log(shares)))


def _pairs(cells: _Cells, clusters: np.ndarray, truths: np.ndarray) -> tuple[float, float, float]:
    both, in_clusters, in_truths = (int(np.sum(n * (n - 1) // 2)) for n in (cells.n_both, clusters, truths))
    return _ratio(both, in_clusters), _ratio(both, in_truths), _ratio(2 * both, in_clusters + in_truths)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _bcubed(cells: _Cells, clusters: np.ndarray, truths: np.ndarray) -> tuple[float, float, float]:
    squares = cells.n_both.astype(np.float64) ** 2
    precision = float(np.sum(squares / clusters[cells.cluster])) / int(clusters.sum())
    recall = float(np.sum(squares / truths[cells.identity])) / int(clusters.sum())
    return precision, recall, 2 * precision * recall / (precision + recall)


def confusions(labels: np.ndarray, identities: np.ndarray, *, most: int = 10) -> Confusions:
    """Find which identities clusters mix, and which they take apart.

    Parameters
    ----------
    labels, identities : ndarray (n_rows,) int
        At least 0: rows that are noise are left out.
    most : int
        How many of each kind are listed. Of a cluster, every identity is paired with the largest only: all pairs
        would be the square of the identities in it.
    """
    cells = _Cells.of(labels, identities)
    order = np.lexsort((-cells.n_both, cells.cluster))
    cluster, identity, n_both = (column[order] for column in cells)
    _, starts, n_identities = np.unique(cluster, return_index=True, return_counts=True)
    largest = np.repeat(starts, n_identities)
    others = np.flatnonzero(largest != np.arange(len(cluster)))
    others = others[np.lexsort((-n_both[largest[others]], -n_both[others]))][:most]
    merged = [
        Merged(*(int(x) for x in (cluster[at], identity[top], n_both[top], identity[at], n_both[at])))
        for at, top in zip(others, largest[others], strict=True)
    ]
    n_rows, n_largest, n_clusters = (np.zeros(int(identities.max(initial=-1)) + 1, np.int64) for _ in range(3))
    np.add.at(n_rows, cells.identity, cells.n_both)
    np.add.at(n_clusters, cells.identity, 1)
    np.maximum.at(n_largest, cells.identity, cells.n_both)
    apart = np.flatnonzero(n_clusters > 1)
    chosen = apart[np.argsort((n_largest - n_rows)[apart], kind="stable")][:most]
    split = [Split(*(int(x) for x in (one, n_rows[one], n_clusters[one], n_largest[one]))) for one in chosen]
    return Confusions(int(np.count_nonzero(n_identities > 1)), len(apart), merged, split)
