"""KMeans for many numbers of clusters and many starts in the same passes over the data.

Every model goes through Lloyd's iterations (Lloyd 1982, "Least squares quantization in PCM") as if it were alone: its
assignments are exact for its centres and its sums are taken in row order, so neither the other models, nor the number
of threads, nor the memory budget changes a bit of it. What is shared is the work: one float32 product of a block of
rows with the centres of all unfinished models.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from toolkit.cluster import kmeans_kernels as kernels
from toolkit.cluster import kmeans_seeds as seeds
from toolkit.cluster.kmeans_kernels import BLOCK
from toolkit.cluster.kmeans_matrix import Matrix, padded
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from toolkit.backend.base import Backend
    from toolkit.cluster.kmeans_matrix import Share
    from toolkit.memory import MemoryBudget

_SMALL_WORK = 1 << 23  # multiplications below which a second thread costs more than it brings
_GROUP = 8  # models at most whose sums are taken together: they stay in a processor's cache


@contextmanager
def threads(workers: int) -> Iterator[Share]:
    """Yield ``share(function, items)``, which calls a function for every item on all threads, each with its own BLAS.

    One pool for all passes: `ordered_map` starts one, and looks for BLAS libraries, in every call, and a fit is
    hundreds of short passes. Nothing is returned: items write to places of their own.
    """

    def drain(function: Callable[[int], None], items: Iterator[int]) -> None:
        for item in items:  # taking the next one is atomic for the iterators used here
            function(item)

    with threadpool_limits(1, user_api="blas"):
        if workers <= 1:
            yield lambda function, items: drain(function, iter(items))
            return
        with ThreadPoolExecutor(workers) as pool:

            def share(function: Callable[[int], None], items: Iterable[int]) -> None:
                source = iter(items)
                for done in [pool.submit(drain, function, source) for _ in range(workers)]:
                    done.result()

            yield share


@dataclass(frozen=True)
class Fit:
    """One fitted model.

    Attributes
    ----------
    centres : ndarray (n_clusters, n_features) float64
    labels : ndarray (n_samples,) int32
        The nearest centre of each row, the smallest index of equally near ones.
    inertia : float
        Sum of squared distances to the nearest centre.
    n_iter : int
    """

    centres: np.ndarray
    labels: np.ndarray
    inertia: float
    n_iter: int


class Models(ABC):
    """Models that are fitted together: their centres stacked in one matrix, model m in rows first[m] to first[m + 1].

    What is here is the same for all devices: small arrays of the host. The names of the arrays are those of the
    kernels' parameters.

    Attributes
    ----------
    changed : ndarray (n_models, any number) int32
        All zero for models in which the last `assign` changed no label.
    shifts : ndarray (n_models,) float64
        Sum of the squared moves of a model's centres.
    """

    changed: np.ndarray

    def __init__(self, data: Matrix, starts: Sequence[np.ndarray]) -> None:
        sizes = [len(start) for start in starts]
        n_models, n_rows, d = len(starts), sum(sizes), data.X.shape[1]
        self.data = data
        self.first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.centres = np.zeros((n_rows, d))
        self.doubled = np.zeros((n_rows, data.Z.shape[1]), np.float32)
        self.base, self.slope, self.offset, self.spent = np.zeros((4, n_rows), np.float32)
        self.moved = np.zeros(n_rows)
        self.high, self.rest = np.zeros((2, n_rows, d))
        self.new = np.zeros((n_rows, d))
        self.counts = np.zeros(n_rows, np.int64)
        self.shifts = np.zeros(n_models)
        self.place(np.arange(n_models), np.concatenate(starts))

    @abstractmethod
    def assign(self, models: np.ndarray, share: Share) -> None:
        """Label every row for some models."""

    @abstractmethod
    def add_up(self, models: np.ndarray, fresh: np.ndarray, share: Share) -> None:
        """Bring sums and counts of some models up to date; of `fresh` ones from nothing."""

    @abstractmethod
    def labels_of(self, m: int) -> np.ndarray:
        """Return the labels of a model, (n_samples,) int."""

    def place(self, models: np.ndarray, new: np.ndarray) -> None:
        """Move the centres of some models; `new` is stacked like all centres."""
        kernels.place_centres(
            models, self.first, self.data.mean, self.data.scale, new, self.centres, self.doubled,
            self.base, self.slope, self.offset, self.moved, self.spent, self.shifts,
        )  # fmt: skip

    def means(self, models: np.ndarray) -> tuple[np.ndarray, set[int]]:
        """Return the new centres, stacked, and the models of which empty clusters were moved elsewhere."""
        new = self.new
        empty = kernels.fill_means(models, self.first, self.high, self.rest, self.counts, new)
        relocated = set()
        for m in models[empty > 0]:
            part = slice(self.first[m], self.first[m + 1])
            new[part] = self._relocate(m, new[part])
            relocated.add(int(m))
        return new, relocated

    def _relocate(self, m: int, means: np.ndarray) -> np.ndarray:
        """Give empty clusters the rows farthest from their centres, which leave theirs, as scikit-learn does."""
        part = slice(self.first[m], self.first[m + 1])
        counts, centres, X = self.counts[part].copy(), self.centres[part], self.data.X
        labels, distances = self.labels_of(m), np.empty(len(X))
        kernels.label_distances(X, centres, labels, 0, len(X), distances)
        if distances.max() > 0:  # otherwise there are fewer different rows than clusters
            empty = np.flatnonzero(counts == 0)
            sums = self.high[part] + self.rest[part]
            for cluster, row in zip(empty, np.argsort(-distances, kind="stable")[: len(empty)], strict=True):
                old = int(labels[row])
                sums[old] -= X[row]
                sums[cluster] = X[row]
                counts[old] -= 1
                counts[cluster] = 1
            means = sums / np.maximum(counts, 1)[:, None]
        means[counts == 0] = means[counts.argmax()]
        return means

    def result(self, m: int, n_iter: int, share: Share) -> Fit:
        """Return a model whose labels are those of its centres."""
        centres = self.centres[self.first[m] : self.first[m + 1]].copy()
        return finish(self.data.X, centres, self.labels_of(m), n_iter, share)


class HostModels(Models):
    """Models on the processors of this machine."""

    def __init__(self, data: Matrix, starts: Sequence[np.ndarray]) -> None:
        super().__init__(data, starts)
        n_models = len(starts)
        self.workers = n_threads()
        label_type = kernels.label_dtype(max(len(start) for start in starts))
        self.labels = np.zeros((n_models, data.n_samples), label_type)
        self.summed = np.zeros((n_models, data.n_samples), label_type)
        self.until = np.full((n_models, data.n_samples), -1, np.float32)
        self.changed = np.zeros((n_models, data.n_blocks), np.int32)

    def labels_of(self, m: int) -> np.ndarray:  # noqa: D102
        labels: np.ndarray = self.labels[m]
        return labels

    def assign(self, models: np.ndarray, share: Share) -> None:  # noqa: D102
        data = self.data

        def assign(block: int) -> None:
            kernels.assign_block(
                data.X, data.Z, data.length, data.square, block, models, self.first, self.centres, self.doubled,
                self.base, self.slope, self.offset, self.spent, self.labels, self.until, self.changed,
            )  # fmt: skip

        self.changed[models] = 0
        share(assign, range(data.n_blocks))

    def add_up(self, models: np.ndarray, fresh: np.ndarray, share: Share) -> None:  # noqa: D102
        group = min(_GROUP, -(-len(models) // (2 * self.workers)))

        def move(start: int) -> None:
            kernels.move_rows(
                self.data.X, models[start : start + group], fresh, self.first, self.labels, self.summed,
                self.changed, self.high, self.rest, self.counts,
            )  # fmt: skip

        share(move, range(0, len(models), max(group, 1)))


def finish(X: np.ndarray, centres: np.ndarray, labels: np.ndarray, n_iter: int, share: Share) -> Fit:
    """Add the inertia, summed within blocks of rows, then over them."""
    sums = np.empty(-(-len(X) // BLOCK))

    def measure(block: int) -> None:
        start, stop = block * BLOCK, min((block + 1) * BLOCK, len(X))
        sums[block] = kernels.label_distances(X, centres, labels, start, stop, np.empty(stop - start))

    share(measure, range(len(sums)))
    return Fit(centres, labels.astype(np.int32), float(sums.sum()), n_iter)


def lloyd(models: Models, *, max_iter: int, tol: float, share: Share) -> Iterator[tuple[int, Fit]]:
    """Fit models and yield ``(model, fit)`` as they finish.

    Parameters
    ----------
    models : Models
        With their initial centres.
    max_iter : int
    tol : float
        A model is finished once its labels stay the same, or the squared moves of its centres add up to at most this;
        then its rows are assigned to its last centres once more.
    share : callable
        From `threads`.
    """
    n_models = len(models.shifts)
    active, last = np.arange(n_models), np.empty(0, np.int64)
    n_iter = np.zeros(n_models, np.int64)
    fresh = np.ones(n_models, np.bool_)
    while len(active) or len(last):
        models.assign(np.concatenate([active, last]), share)
        for m in last:
            yield int(m), models.result(int(m), int(n_iter[m]), share)
        stable = ~fresh[active] & ~models.changed[active].any(axis=1)
        models.add_up(active, fresh, share)
        fresh[active] = False
        new, relocated = models.means(active)
        models.place(active, new)
        n_iter[active] += 1
        for m in active[stable]:
            if m not in relocated:
                yield int(m), models.result(int(m), int(n_iter[m]), share)
        moving = np.array([m in relocated for m in active], np.bool_)
        ended = stable | (models.shifts[active] <= tol) | (n_iter[active] >= max_iter)
        last = active[ended & (~stable | moving)]
        active = active[~ended]


@dataclass
class _Best:
    fits: dict[int, Fit] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)

    def take(self, k: int, start: int, fit: Fit) -> None:
        held = self.fits.get(k)
        if held is None or (fit.inertia, start) < (held.inertia, self.starts[k]):
            self.fits[k], self.starts[k] = fit, start


def sweep(
    X: np.ndarray,
    n_clusters: Sequence[int],
    *,
    init: str | np.ndarray,
    n_init: int,
    max_iter: int,
    tol: float,
    seed: int,
    memory: MemoryBudget,
    backend: Backend,
    advance: Callable[[float], None] = lambda _: None,
) -> dict[int, Fit]:
    """Return the best of `n_init` fits for every number of clusters; the first of equally good ones.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32 or float64
        Finite, C order.
    n_clusters : sequence of int
        Different, each from 1 to n_samples.
    init : {"k-means++", "random"} or ndarray (n_clusters, n_features)
    n_init, max_iter : int
    tol : float
        Relative to the mean variance of the columns.
    seed : int
    memory : MemoryBudget
        Decides how many models are fitted together.
    backend : Backend
    advance : callable
        Told the share of the models that were finished.

    Raises
    ------
    MemoryBudgetError
        If not even one model fits.
    """
    n, d = X.shape
    workers = 1 if n * d * n_init * sum(n_clusters) < _SMALL_WORK else min(n_threads(), -(-n // BLOCK))
    fixed = n * (4 * padded(d) + 16) + _scratch(max(n_clusters), d) * workers

    def starting(ks: Sequence[int]) -> int:
        if isinstance(init, str) and init == "k-means++":
            return seeds.seeding_bytes(n, d, ks, n_init, workers)
        return int(8 * (d * n_init * sum(ks) + n))

    memory.require(fixed + starting([max(n_clusters)]), "KMeans")
    best = _Best()
    with threads(workers) as share:
        data = Matrix.of(X, share)
        fitter = backend.fit_kmeans(data)
        left = sorted(n_clusters)
        while left:
            together = max(1, sum(starting(left[: i + 1]) <= memory.free // 2 for i in range(len(left))))
            part, left = left[:together], left[together:]
            if not isinstance(init, str):
                starts = {k: np.asarray(init, np.float64)[None] for k in part}
            elif init == "random":
                starts = seeds.random_rows(X, part, seeds.generators(seed, n_init))
            else:
                starts = seeds.plus_plus(data, part, seeds.generators(seed, n_init), share)
            jobs = [(k, start) for k in part for start in range(n_init)]
            while jobs:
                room = fitter.room([k for k, _ in jobs], workers, memory)
                now, jobs = jobs[:room], jobs[room:]
                models = fitter.models([starts[k][start] for k, start in now])
                for index, fit in lloyd(models, max_iter=max_iter, tol=tol * data.variance, share=share):
                    best.take(*now[index], fit)
                    advance(1 / (n_init * len(n_clusters)))
    return {k: best.fits[k] for k in n_clusters}


def _scratch(n_clusters: int, n_features: int) -> int:
    """Return what one thread holds while it works on a block, in bytes."""
    width = max(n_clusters, kernels.WIDTH)
    return 4 * (width * padded(n_features) + (width + n_clusters) * BLOCK) + 64 * BLOCK


class Fitter(Protocol):
    """Makes models of one matrix on one device."""

    def room(self, n_clusters: Sequence[int], workers: int, memory: MemoryBudget) -> int:
        """Return how many of the next models, given by their numbers of clusters, fit together; at least one."""
        ...

    def models(self, starts: Sequence[np.ndarray]) -> Models:
        """Return models with these initial centres, each (n_clusters, n_features) float64."""
        ...


@dataclass(frozen=True)
class HostFitter:
    """Makes models on the processors of this machine; see `Fitter`."""

    data: Matrix

    def room(self, n_clusters: Sequence[int], workers: int, memory: MemoryBudget) -> int:  # noqa: D102
        n, d = self.data.X.shape
        largest = max(n_clusters)
        label_bytes = np.dtype(kernels.label_dtype(largest)).itemsize
        held = [n * (2 * label_bytes + 4) + 4 * (n // BLOCK + 1) + k * (60 * d + 64) for k in n_clusters]
        fixed = workers * _scratch(largest, d) + 28 * n + n * 4 * len(set(n_clusters))
        memory.require(fixed + max(held), f"KMeans, one model of {largest} clusters at a time")
        free = memory.free - fixed
        return max(1, int(sum(total <= free for total in itertools.accumulate(held))))

    def models(self, starts: Sequence[np.ndarray]) -> Models:  # noqa: D102
        return HostModels(self.data, starts)


def assign(X: np.ndarray, centres: np.ndarray) -> Fit:
    """Assign new rows to given centres, as the fit does.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32 or float64
        Finite, C order.
    centres : ndarray (n_clusters, n_features) float64
    """
    workers = 1 if X.size * len(centres) < _SMALL_WORK else n_threads()
    with threads(workers) as share:
        models = HostModels(Matrix.of(X, share), [centres])
        models.assign(np.arange(1), share)
        return finish(X, centres, models.labels[0], 0, share)
