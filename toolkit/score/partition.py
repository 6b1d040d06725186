"""Scores of labellings of one matrix: sizes, Calinski-Harabasz, Davies-Bouldin, silhouette; all labellings together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backend.cpu import CpuBackend, ordered_map
from toolkit.errors import InputError, unknown
from toolkit.memory import MemoryBudget, n_threads
from toolkit.score import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from toolkit.backend.base import Backend
    from toolkit.score.labellings import Partition
    from toolkit.score.silhouette import RowGroup

    Room = Callable[[int, str], int]  # (bytes, what for) -> bytes that are free, at least those

DISTANCE_BYTES = 128 << 20  # what scoring one labelling takes at once, unless it cannot do with so little
NOISE = ("exclude", "as_cluster")
_CHECKED_ROWS = 8192
_GROUPS_PER_WORKER = 2  # so that no thread waits long for the last one; each group reads X
_SAMPLING_BYTES = 32  # for each row, while the rows of the silhouettes are chosen
_VARIANCE_COST = 60  # of one feature of one row, in the unit of RowGroup.cost


def score_labellings(
    X: np.ndarray,
    labellings: Sequence[np.ndarray],
    *,
    noise: str = "exclude",
    silhouette_rows: int = 10_000,
    seed: int = 0,
    memory: MemoryBudget | None = None,
    backend: Backend | None = None,
    progress: Callable[[float], object] | None = None,
) -> list[dict[str, Any]]:
    """Score many labellings of one matrix together.

    The sums behind the variance scores of many labellings come from the same two reads of X, and a tile of distances
    is computed once for all silhouettes; a labelling that is there twice, or with its clusters numbered otherwise, is
    scored once. What a labelling scores does not depend on the others, on threads or on memory, to the last bit.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32 or float64
        The matrix that was clustered. Differences, sums and distances are float64.
    labellings : sequence of ndarray (n_samples,) int
        -1 is noise. They are not copied.
    noise : {"exclude", "as_cluster"}
        Whether noise is left out of the metrics, or counted as one more cluster.
    silhouette_rows : int
        The silhouette, quadratic in rows, is exact up to so many clustered rows; above, it is computed on the first
        so many clustered rows of one random order of all rows, which all labellings share. 0 leaves it out.
    seed : int
        Of that order.
    memory : MemoryBudget, optional
        What may be taken; it decides how many labellings and threads are in flight. None: what is available.
    backend : Backend, optional
        Where sums and distances are computed; None: on the processors of this machine.
    progress : callable, optional
        Called with the share of the work that is done, from 0 to 1.

    Returns
    -------
    list of dict
        For each labelling: n_clusters, n_noise, coverage (share of rows that are not noise), largest_share (of the
        clustered rows, in the largest cluster), calinski_harabasz_score, davies_bouldin_score, silhouette_score (None
        where there are fewer than 2 clusters, or no row more than clusters), silhouette_rows (rows it was computed
        on).

    Raises
    ------
    InputError
        For another value of `noise`, a negative `silhouette_rows`, values that are not finite, or labels that are not
        one integer per row.
    MemoryBudgetError
        If not even one labelling fits.

    Notes
    -----
    Calinski & Harabasz 1974; Davies & Bouldin 1979; Rousseeuw 1987; conventions for degenerate cases are
    scikit-learn's: a row alone in its cluster has silhouette 0, coinciding centroids are left out of Davies-Bouldin
    (coinciding: closer than 1e-13 of their spreads and norms), and Calinski-Harabasz is 1 where every row equals its
    centroid.
    """
    budget = MemoryBudget.resolve(memory)

    def room(n_bytes: int, what: str) -> int:
        budget.require(n_bytes, what)
        return budget.free

    where = CpuBackend() if backend is None else backend
    return _score(X, labellings, noise, silhouette_rows, seed, where, room, progress or (lambda _: None))


def score_labels(
    X: np.ndarray,
    labels: np.ndarray,
    *,
    noise: str = "exclude",
    silhouette_rows: int = 10_000,
    seed: int = 0,
    max_bytes: int = DISTANCE_BYTES,
) -> dict[str, Any]:
    """Score one labelling; the same numbers as `score_labellings` gives it among others.

    Parameters
    ----------
    X, noise, silhouette_rows, seed
        As in `score_labellings`.
    labels : ndarray (n_samples,) int
        -1 is noise.
    max_bytes : int
        What may be taken at once; more is taken only if one thread and this one labelling need it.

    Returns
    -------
    dict
        As in `score_labellings`.

    Raises
    ------
    InputError
        As in `score_labellings`.
    """

    def room(n_bytes: int, _: str) -> int:
        return max(n_bytes, max_bytes)

    return _score(X, [labels], noise, silhouette_rows, seed, CpuBackend(), room, lambda _: None)[0]


def cluster_centroids(
    X: np.ndarray, labels: np.ndarray, *, noise: str = "exclude", memory: MemoryBudget | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of the clusters in ascending order and their centroids, in one read of X.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32 or float64
    labels : ndarray (n_samples,) int
    noise : {"exclude", "as_cluster"}
        Whether the label -1 is left out.
    memory : MemoryBudget, optional

    Returns
    -------
    names : ndarray (n_clusters,) int
    centroids : ndarray (n_clusters, n_features) float64

    Raises
    ------
    InputError
        As in `score_labellings`.
    MemoryBudgetError
        If the centroids do not fit.
    """
    from toolkit.score.labellings import distinct
    from toolkit.score.variance import centroids, column_origin, group_bytes

    _check_noise(noise)
    check_matrix(X)
    partitions, _ = distinct([labels], n_samples=len(X), noise=noise)
    MemoryBudget.resolve(memory).require(group_bytes(X.shape[1], partitions), "the centroids of a labelling")
    origin = column_origin(X)
    found = centroids(X, origin, partitions)[0]
    order = np.argsort(partitions[0].names)
    return partitions[0].names[order], found[order] + origin


def _score(
    X: np.ndarray,
    labellings: Sequence[np.ndarray],
    noise: str,
    silhouette_rows: int,
    seed: int,
    backend: Backend,
    room: Room,
    progress: Callable[[float], object],
) -> list[dict[str, Any]]:
    """Score labellings; `room` returns how much memory there is, if it is at least what it is asked for."""
    from toolkit.score.labellings import distinct
    from toolkit.score.silhouette import sample_rows
    from toolkit.score.variance import column_origin

    _check_noise(noise)
    if silhouette_rows < 0:
        raise InputError(f"silhouette_rows is {silhouette_rows}; allowed: 0 (no silhouette) or more")
    check_matrix(X)
    partitions, of_labelling = distinct(labellings, n_samples=len(X), noise=noise)
    rows = [_sizes(partition, len(X)) for partition in partitions]
    scored = [i for i, partition in enumerate(partitions) if 2 <= partition.n_clusters < partition.n_clustered]
    several = [partitions[i] for i in scored]
    groups = []
    if scored and silhouette_rows:
        room(_SAMPLING_BYTES * len(X), f"a sample of {len(X):,} rows")
        groups = sample_rows(several, len(X), max_rows=silhouette_rows, seed=seed)
    origin = column_origin(X)  # depends on X alone, so a labelling's numbers do not depend on the others
    cost = _VARIANCE_COST * X.size * len(several) + sum(group.cost(X.shape[1]) for group in groups)
    done = _Progress(progress, cost)
    unit = _VARIANCE_COST * X.size
    scores = backend.variance_scores(X, origin, several, room=room, advance=lambda n: done.advance(n * unit))
    for i, found in zip(scored, scores, strict=True):
        rows[i]["calinski_harabasz_score"], rows[i]["davies_bouldin_score"] = found
    for group in groups:
        share = partial(_advance_share, done, group.cost(X.shape[1]))
        for position, found in backend.silhouettes(X, origin, group, room=room, advance=share).items():
            rows[scored[position]]["silhouette_score"], rows[scored[position]]["silhouette_rows"] = found
    progress(1.0)
    return [dict(rows[i]) for i in of_labelling]


def host_variance(
    X: np.ndarray, origin: np.ndarray, partitions: list[Partition], *, room: Room, advance: Callable[[int], None]
) -> Iterator[tuple[float, float]]:
    """Yield (Calinski-Harabasz, Davies-Bouldin) of labellings, as many in flight as there is room for."""
    from toolkit.score.variance import group_bytes, variance_scores

    if not partitions:
        return
    n_bytes = [group_bytes(X.shape[1], [partition]) for partition in partitions]
    what = f"scoring a labelling of {max(partition.n_clusters for partition in partitions):,} clusters"
    free, workers = _workers(room, lambda workers: workers * max(n_bytes), what)
    most = -(-len(partitions) // (_GROUPS_PER_WORKER * workers))
    groups: list[list[Partition]] = [[]]
    taken = 0
    for partition, one in zip(partitions, n_bytes, strict=True):
        if groups[-1] and (len(groups[-1]) == most or taken + one > free // workers):
            groups.append([])
            taken = 0
        groups[-1].append(partition)
        taken += one
    for scores in ordered_map(lambda group: variance_scores(X, origin, group), groups, workers=workers):
        advance(len(scores))
        yield from scores


def host_silhouettes(
    X: np.ndarray, origin: np.ndarray, group: RowGroup, *, room: Room, advance: Callable[[float], object]
) -> dict[int, tuple[float, int]]:
    """Return position -> (silhouette, rows) of labellings that share rows."""
    from toolkit.score.silhouette import mean_silhouettes, n_row_blocks

    blocks = range(n_row_blocks(group))
    return mean_silhouettes(group, host_silhouette_sums(X, origin, group, blocks, room=room, advance=advance))


def host_silhouette_sums(
    X: np.ndarray,
    origin: np.ndarray,
    group: RowGroup,
    blocks: range,
    *,
    room: Room,
    advance: Callable[[float], object],
) -> np.ndarray:
    """Return the sums of the silhouettes of some blocks of rows, (n_blocks, n_labellings) float64."""
    from toolkit.score.silhouette import silhouette_sums

    what = f"the silhouette of {len(group.rows):,} rows in {group.most_clusters:,} clusters"
    free, workers = _workers(room, lambda workers: group.n_bytes(X.shape[1], workers), what)
    return silhouette_sums(X, origin, group, blocks, free=free, workers=workers, advance=advance)


def _workers(room: Room, n_bytes: Callable[[int], int], what: str) -> tuple[int, int]:
    """Return the free bytes, and how many threads fit into them; `n_bytes` is what so many threads take."""
    free = room(n_bytes(1), what)
    return free, max(workers for workers in range(1, n_threads() + 1) if workers == 1 or n_bytes(workers) <= free)


class _Progress:
    """Turns finished work into the share that is done."""

    def __init__(self, tell: Callable[[float], object], total: float) -> None:
        self.tell, self.total, self.done = tell, total, 0.0

    def advance(self, cost: float) -> None:
        self.done += cost
        self.tell(min(self.done / self.total, 1.0))


def _advance_share(done: _Progress, cost: float, share: float) -> None:
    done.advance(share * cost)


def _check_noise(noise: str) -> None:
    if noise not in NOISE:
        raise unknown("noise", noise, NOISE)


def check_matrix(X: np.ndarray) -> None:
    """Refuse what cannot be scored.

    Raises
    ------
    InputError
        If X is not a matrix of float32 or float64 with at least one row and feature, or not finite.
    """
    if X.ndim != 2 or 0 in X.shape or X.dtype not in (np.float32, np.float64):
        raise InputError(f"X is {X.dtype} {X.shape}; allowed: float32 or float64, rows of at least one feature")
    for start in range(0, len(X), _CHECKED_ROWS):
        finite = np.isfinite(X[start : start + _CHECKED_ROWS]).all(axis=1)
        if not finite.all():
            raise InputError(f"row {start + int(np.argmin(finite))} of X holds NaN or inf; leave such rows out")


def _sizes(partition: Partition, n_samples: int) -> dict[str, Any]:
    """Return a row of scores whose metrics are empty."""
    return {
        "n_clusters": partition.n_clusters,
        "n_noise": partition.n_noise,
        "coverage": 1 - partition.n_noise / n_samples,
        "largest_share": float(partition.sizes.max() / partition.n_clustered) if partition.n_clusters else None,
        **dict.fromkeys(METRICS),
        "silhouette_rows": 0,
    }
