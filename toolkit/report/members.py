"""Which rows show a cluster: those in its middle, those at its border, and some at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from toolkit.backend.cpu import ordered_map
from toolkit.cluster.labelling import NOISE
from toolkit.memory import MemoryBudget, n_threads
from toolkit.score.partition import cluster_centroids
from toolkit.score.variance import squared_distance

if TYPE_CHECKING:
    from collections.abc import Iterable

    from toolkit.grid.finished import FinishedRun, Model

    Members = dict[int, dict[str, np.ndarray]]

KINDS = ("central", "border", "random", "farthest")  # farthest: of noise, which has neither middle nor border
_BLOCK_BYTES = 8 << 20  # of rows and their products with all centroids
_ROW_BYTES = 64  # of each row, while distances are kept and sorted
_IN_FLIGHT = 2  # blocks beyond one for each thread


def members_of(
    X: np.ndarray,
    labels: np.ndarray,
    *,
    names: Iterable[int] | None = None,
    n: int = 16,
    spare: int = 0,
    usable: np.ndarray | None = None,
    seed: int = 0,
    memory: MemoryBudget | None = None,
) -> Members:
    """Choose rows that show each cluster, in two reads of X.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32 or float64
    labels : ndarray (n_samples,) int
        -1 is noise.
    names : iterable of int, optional
        Labels of the clusters to be shown, -1 for noise; by default all. Distances are to all clusters all the same.
    n : int
        Rows of each kind that will be shown.
    spare : int
        Further rows of each kind, to stand in for those whose image cannot be read.
    usable : ndarray (n_samples,) bool, optional
        Rows that may be chosen; centroids are those of all rows.
    seed : int
        Of the random ones.
    memory : MemoryBudget, optional
        It decides how many rows are read at once, and nothing else.

    Returns
    -------
    dict of int to dict of str to ndarray of int64
        Label -> kind -> positions in X, at most ``n + spare``, the best first; where two are equally good, the
        smaller position first.

        - ``central``: nearest to the centroid. The first is the medoid of squared Euclidean distances, not something
          like it: their sum from a row m to all n rows of its cluster is ``n |m - centroid|^2`` plus the same for all.
        - ``border``: smallest simplified silhouette (Hruschka, Campello & de Castro 2006), ``(b - a) / max(a, b)``
          with a the distance to the own centroid and b to the nearest other one. Empty where there is one cluster.
        - ``random``: at first those that are not among the first `n` of the other kinds, if there are `n` such.
        - ``farthest``, of noise: farthest from their nearest centroid. Empty where there is no cluster.

        Clusters have the first three, noise the last two.

    Raises
    ------
    InputError
        As in `score_labellings`.
    MemoryBudgetError
        If the centroids, or a row of distances to all of them, do not fit.
    """
    budget = MemoryBudget.resolve(memory)
    labels = np.asarray(labels)
    clusters, centroids = cluster_centroids(X, labels, memory=budget)
    budget.require(_ROW_BYTES * len(X), f"distances of {len(X):,} rows to their centroids")
    wanted = np.unique(labels if names is None else np.fromiter(names, np.int64))
    rows = np.flatnonzero(np.isin(labels, wanted) & (True if usable is None else usable))
    own, other = _distances(X, rows, _numbers(labels[rows], clusters), centroids, budget)
    order = np.argsort(labels[rows], kind="stable")
    starts = np.searchsorted(labels[rows][order], wanted, side="left")
    ends = np.searchsorted(labels[rows][order], wanted, side="right")
    chosen: Members = {}
    for name, start, end in zip(wanted.tolist(), starts, ends, strict=True):
        mine = order[start:end]  # ascending, so that a stable sort leaves the smaller row first
        kinds = _outside(other[mine]) if name == NOISE else _inside(own[mine], other[mine])
        ranked = {kind: rows[mine[ranks]] for kind, ranks in kinds.items()}
        ranked["random"] = _random(rows[mine], ranked, n, seed, name)
        chosen[name] = {kind: ranked[kind][: n + spare] for kind in KINDS if kind in ranked}
    return chosen


def model_members(
    run: FinishedRun,
    model: Model,
    *,
    names: Iterable[int] | None = None,
    n: int = 16,
    spare: int = 0,
    usable: np.ndarray | None = None,
) -> Members:
    """Choose rows that show each cluster of a model, as `members_of` does, with the seed of the run.

    Parameters
    ----------
    run, model
    names, n, spare
        As in `members_of`.
    usable : ndarray (run.n_rows,) bool, optional
        Rows of the run that may be chosen.

    Returns
    -------
    dict of int to dict of str to ndarray of int64
        As `members_of`, but rows of the run instead of positions among those that the model was fitted on.
    """
    rows = run.reduced(model).rows
    found = members_of(
        run.matrix(model),
        run.labels(model),
        names=names,
        n=n,
        spare=spare,
        usable=None if usable is None else usable[rows],
        seed=run.config.seed,
        memory=run.memory,
    )
    return {name: {kind: rows[positions] for kind, positions in kinds.items()} for name, kinds in found.items()}


# How near a row is
def _numbers(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return the cluster of each row, numbered as the (ascending) `clusters` are, int64; -1 is noise."""
    return np.where(labels == NOISE, NOISE, np.searchsorted(clusters, labels))


def _distances(
    X: np.ndarray, rows: np.ndarray, numbers: np.ndarray, centroids: np.ndarray, budget: MemoryBudget
) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared distances of rows to their own centroid and to the nearest other one, (n_rows,) float64.

    Of noise, the first is inf and all centroids are others; inf, too, where there is no other.
    """
    own, other = np.empty(len(rows)), np.empty(len(rows))
    norms = np.einsum("ij,ij->i", centroids, centroids)
    row_bytes = 8 * (2 * X.shape[1] + len(centroids) + 4)
    workers = n_threads()
    size = budget.rows_that_fit(
        (workers + _IN_FLIGHT) * row_bytes,
        wanted=max(1, _BLOCK_BYTES // row_bytes),
        what=f"distances of rows to {len(centroids):,} centroids",
    )

    def measure(start: int) -> None:
        part = slice(start, start + size)
        block = X[rows[part]].astype(np.float64)
        _measure(block, numbers[part], block @ centroids.T, norms, centroids, own[part], other[part])

    for _ in ordered_map(measure, range(0, len(rows), size), workers=workers):
        pass
    return own, other


@numba.njit(nogil=True, cache=True)
def _measure(rows, numbers, products, norms, centroids, own, other):  # type: ignore[no-untyped-def]
    """Fill `own` and `other` for some rows.

    Products tell which centroids can be the nearest; their distances are taken as differences, so that no digits are
    lost, and neither the block nor the library of the product changes a bit of the result.
    """
    largest = np.sqrt(norms.max()) if len(norms) else 0.0
    for r in range(len(rows)):
        mine = numbers[r]
        own[r] = squared_distance(rows[r], centroids[mine]) if mine >= 0 else np.inf
        lowest, squares = np.inf, 0.0
        for k in range(len(norms)):
            if k != mine:
                lowest = min(lowest, norms[k] - 2 * products[r, k])
        for c in range(rows.shape[1]):
            squares += rows[r, c] * rows[r, c]
        margin = 8 * (rows.shape[1] + 8) * 2.3e-16 * (np.sqrt(squares) + largest) ** 2  # twice the errors of both sides
        other[r] = np.inf
        for k in range(len(norms)):
            if k != mine and norms[k] - 2 * products[r, k] <= lowest + margin:
                other[r] = min(other[r], squared_distance(rows[r], centroids[k]))


# Which rows of one cluster; all take and return ranks among its rows
def _inside(own: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    kinds = {"central": np.argsort(own, kind="stable"), "border": np.empty(0, np.int64)}
    if np.isfinite(other).all():
        a, b = np.sqrt(own), np.sqrt(other)
        larger = np.maximum(a, b)
        kinds["border"] = np.argsort((b - a) / np.where(larger > 0, larger, 1.0), kind="stable")
    return kinds


def _outside(other: np.ndarray) -> dict[str, np.ndarray]:
    kinds = {"farthest": np.empty(0, np.int64)}
    if np.isfinite(other).all():
        kinds["farthest"] = np.argsort(-other, kind="stable")
    return kinds


def _random(rows: np.ndarray, shown: dict[str, np.ndarray], n: int, seed: int, name: int) -> np.ndarray:
    """Return a random order of the rows of a cluster, which depends on nothing but them, the seed and its name."""
    order = np.random.default_rng([seed, name + 1]).permutation(rows)
    is_fresh = ~np.isin(order, np.concatenate([ranked[:n] for ranked in shown.values()]))
    if np.count_nonzero(is_fresh) < n:
        return order
    return np.concatenate([order[is_fresh], order[~is_fresh]])
