"""What the workers of a cluster do: a task reads shared files and leaves its own there, whole.

A task that is done again, because its worker died, finds what is there already, or writes the same once more.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import threading
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.atomic import atomic_file, atomic_folder
from toolkit.backend.cpu import CpuBackend
from toolkit.cluster import neighbor_parts as parts
from toolkit.cluster.lists import ENTRY_BYTES, NeighborLists, save_lists
from toolkit.descriptors.cache import load_arrays, save_arrays, write_npy_header
from toolkit.memory import MemoryBudget, granted_threads, n_threads, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from toolkit.cluster.neighbors import PassPlan
    from toolkit.cluster.points import Products
    from toolkit.score.labellings import Partition

DASK_SHARE = 0.7  # of the memory that Dask grants a worker: at 0.8 it is paused
_KEPT_BYTES = 32 << 20  # the most that glibc's own rule ends at
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_one_at_a_time = threading.Lock()  # a matrix is prepared once, whatever tasks of this process wait for it


@dataclass(frozen=True)
class Share:
    """What one task may take of its machine.

    Attributes
    ----------
    slots : dict of str to int
        Host -> tasks that run on it at the same time.
    memory : int or None
        Bytes of a worker's process; None is `DASK_SHARE` of what Dask grants it.
    """

    slots: dict[str, int]
    memory: int | None

    @contextlib.contextmanager
    def taken(self) -> Iterator[MemoryBudget]:
        """Let this thread use its share of the processors, and yield its share of the memory."""
        from distributed import get_worker

        _keep_blocks()
        worker = get_worker()
        n_tasks = worker.state.nthreads
        held = resident_bytes()
        free = max(0, worker_memory(worker, self.memory) - held) // n_tasks
        with granted_threads(max(1, n_threads() // self.slots.get(socket.gethostname(), n_tasks))):
            yield MemoryBudget(held + free, "the share of a task of a worker")


@cache
def _keep_blocks() -> None:
    """Let the C library keep freed blocks of a few MiB, as it does by default.

    Dask starts workers with MALLOC_TRIM_THRESHOLD_=65536, with which every tile is mapped, and faulted in, anew: the
    neighbour pass then takes 1.8 times the time.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES)


def worker_memory(worker: Any, given: int | None) -> int:
    """Return the bytes that the process of a worker may take."""
    if given is not None:
        return given
    granted = worker.memory_manager.memory_limit
    return int(DASK_SHARE * granted) if granted else MemoryBudget.resolve().limit


# Matrices
def write_matrix(path: Path, X: np.ndarray) -> None:
    """Write a matrix for all workers, in C order."""
    with atomic_file(path) as file:
        write_npy_header(file, X.shape, X.dtype)
        file.write(np.ascontiguousarray(X).data)


@lru_cache(maxsize=2)
def read_matrix(path: Path) -> np.ndarray:
    """Map a matrix; processes of one machine share its pages."""
    mapped: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)  # kernels are compiled for what is writable
    return mapped.view(np.ndarray)


@lru_cache(maxsize=1)
def _products(path: Path) -> Products:
    return parts.whole_products(read_matrix(path))


@lru_cache(maxsize=1)
def _sample(path: Path, plan: PassPlan) -> Products:
    return parts.sample_products(_products(path), plan)


def _prepared(path: Path) -> tuple[np.ndarray, Products]:
    with _one_at_a_time:
        return read_matrix(path), _products(path)


def _forget_products() -> None:
    """Free the memory of what only the neighbour pass needs."""
    _sample.cache_clear()
    _products.cache_clear()


# The neighbour pass
@dataclass(frozen=True)
class PassJob:
    """A neighbour pass that is cut into groups of points.

    Attributes
    ----------
    matrix : Path
    folder : Path
        Where the parts are left.
    plan : PassPlan
    groups : tuple of (start, stop)
    """

    matrix: Path
    folder: Path
    plan: PassPlan
    groups: tuple[tuple[int, int], ...]

    def lists(self, i: int) -> Path:
        """Return where the lists of a group are left."""
        return self.folder / f"lists-{i}"

    def candidates(self, i: int, j: int) -> Path:
        """Return where the candidates of group i from group j are left."""
        return self.folder / f"candidates-{i}-{j}"

    def thresholds(self, i: int) -> Path:
        """Return where the thresholds of a group are left."""
        return self.folder / f"thresholds-{i}.npy"


def list_all(matrix: Path, folder: Path, min_samples: int, share: Share) -> None:
    """Do a whole neighbour pass."""
    with share.taken() as memory:
        if not folder.exists():
            lists = CpuBackend().list_neighbors(read_matrix(matrix), min_samples, memory=memory, folder=folder.parent)
            with atomic_folder(folder) as unfinished:
                save_lists(lists, unfinished)


def find_thresholds(job: PassJob, i: int, share: Share) -> None:
    """Find what the candidates of a group must reach."""
    with share.taken():
        if not job.thresholds(i).exists():
            _, products = _prepared(job.matrix)
            with _one_at_a_time:
                sample = _sample(job.matrix, job.plan)
            write_matrix(job.thresholds(i), parts.row_thresholds(products, sample, job.plan, job.groups[i]))


def find_candidates(job: PassJob, i: int, j: int, after: Sequence[None], share: Share) -> None:
    """Multiply two groups, or one with itself, once the thresholds of both are there (`after`)."""
    which = [i] if i == j else [i, j]
    paths = [job.candidates(one, other) for one, other in zip(which, reversed(which), strict=True)]
    with share.taken() as memory:
        if all(path.exists() for path in paths):
            return
        X, products = _prepared(job.matrix)
        groups = [job.groups[one] for one in which]
        n_rows = sum(stop - start for start, stop in groups)
        memory.require(parts.pair_bytes(job.plan, n_rows), f"the candidates of {n_rows:,} rows")
        thresholds = [np.load(job.thresholds(one), allow_pickle=False) for one in which]
        for path, found in zip(paths, parts.pair_candidates(X, products, job.plan, groups, thresholds), strict=True):
            found.save(path)


def merge_lists(job: PassJob, i: int, after: Sequence[None], share: Share) -> None:
    """Write the lists of a group, once its candidates from all groups are there (`after`)."""
    with share.taken() as memory:
        if job.lists(i).exists():
            return
        X, products = _prepared(job.matrix)
        start, stop = job.groups[i]
        paths = [job.candidates(i, j) for j in range(len(job.groups))]
        needed = (stop - start) * job.plan.n_neighbors * ENTRY_BYTES + sum(path.stat().st_size for path in paths)
        memory.require(needed + parts.MERGED_BYTES, f"the neighbour lists of {stop - start:,} rows")
        lists = NeighborLists(stop - start, job.plan.n_neighbors)
        found = [parts.Candidates.load(path) for path in paths]
        parts.merge_candidates(X, products, job.plan, job.groups[i], found, _Shifted(lists, start))
        with atomic_folder(job.lists(i)) as unfinished:
            save_lists(lists, unfinished)


@dataclass(frozen=True)
class _Shifted:
    """Lists of some of the points, the first of which is number `start` of all."""

    lists: NeighborLists
    start: int

    def write(self, points: np.ndarray, squared: np.ndarray, indices: np.ndarray) -> None:
        self.lists.write(points - self.start, squared, indices)


# KMeans
def fit_models(matrix: Path, folder: Path, n_clusters: Sequence[int], options: dict[str, Any], share: Share) -> None:
    """Fit KMeans for some numbers of clusters."""
    with share.taken() as memory:
        if folder.exists():
            return
        _forget_products()
        fits = CpuBackend().sweep_kmeans(read_matrix(matrix), n_clusters, memory=memory, **options)
        with atomic_folder(folder) as unfinished:
            for k, fit in fits.items():
                of_fit = {"centres": fit.centres, "labels": fit.labels, "inertia": np.array([fit.inertia])}
                of_fit["n_iter"] = np.array([fit.n_iter])
                save_arrays(unfinished, **{f"{name}-{k}": array for name, array in of_fit.items()})


# Scores
def write_partitions(
    folder: Path, labels: Sequence[np.ndarray], sizes: Sequence[np.ndarray], **more: np.ndarray
) -> None:
    """Write labellings whose clusters are numbered by first row, and how many rows these have."""
    with atomic_folder(folder) as unfinished:
        save_arrays(
            unfinished,
            labels=np.stack(labels),
            sizes=np.concatenate(sizes),
            n_clusters=np.array([len(one) for one in sizes]),
            **more,
        )


def _read_partitions(folder: Path) -> list[Partition]:
    from toolkit.score.labellings import Partition

    labels, sizes, n_clusters = load_arrays(folder, "labels", "sizes", "n_clusters")
    found, at = [], 0
    for values, k in zip(labels, n_clusters.tolist(), strict=True):
        names = np.arange(k)
        first_rows = np.full(k, len(values))
        np.minimum.at(first_rows, values[values >= 0], np.flatnonzero(values >= 0))
        numbers = np.arange(-1, k, dtype=np.int32)
        found.append(Partition(values, -1, numbers, names, first_rows, sizes[at : at + k], 0))
        at += k
    return found


def score_variance(matrix: Path, folder: Path, share: Share) -> list[tuple[float, float]]:
    """Return Calinski-Harabasz and Davies-Bouldin of labellings."""
    from toolkit.score.partition import host_variance
    from toolkit.score.variance import column_origin

    with share.taken() as memory:
        _forget_products()
        X = read_matrix(matrix)
        scores = host_variance(
            X, column_origin(X), _read_partitions(folder), room=_room(memory), advance=lambda _: None
        )
        return list(scores)


def score_silhouettes(matrix: Path, folder: Path, blocks: range, share: Share) -> np.ndarray:
    """Return the sums of the silhouettes of some blocks of rows, (n_blocks, n_labellings) float64."""
    from toolkit.score.partition import host_silhouette_sums
    from toolkit.score.silhouette import RowGroup, Sampled
    from toolkit.score.variance import column_origin

    with share.taken() as memory:
        _forget_products()
        X = read_matrix(matrix)
        (rows,) = load_arrays(folder, "rows")
        sampled = [Sampled(at, one, one.sizes) for at, one in enumerate(_read_partitions(folder))]
        group = RowGroup(np.arange(len(rows)), sampled)
        return host_silhouette_sums(
            X[rows], column_origin(X), group, blocks, room=_room(memory), advance=lambda _: None
        )


def _room(memory: MemoryBudget) -> Any:
    def room(n_bytes: int, what: str) -> int:
        memory.require(n_bytes, what)
        return memory.free

    return room
