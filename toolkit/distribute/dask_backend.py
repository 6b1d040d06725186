"""The processors of many machines: a backend whose large work is done by the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from toolkit.atomic import scratch_folder
from toolkit.backend.cpu import CpuBackend
from toolkit.cluster.forest_plan import LEAST_NEIGHBORS, room_for_lists
from toolkit.cluster.kmeans import Fit
from toolkit.cluster.lists import ENTRY_BYTES, NeighborLists
from toolkit.cluster.neighbor_parts import BLOCK, pair_bytes
from toolkit.cluster.neighbors import PassPlan
from toolkit.descriptors.cache import load_arrays
from toolkit.distribute import tasks
from toolkit.distribute.cluster import open_cluster
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.memory import MemoryBudget, format_size
from toolkit.score.silhouette import mean_silhouettes, n_row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from toolkit.cluster.lists import Lists
    from toolkit.distribute.cluster import Cluster
    from toolkit.progress import Reporter
    from toolkit.score.labellings import Partition
    from toolkit.score.partition import Room
    from toolkit.score.silhouette import RowGroup

_LEAST_WORK = 2e10  # multiplications, about a second of one processor; what is less is done here
_LEAST_GROUP = 4 * BLOCK  # points of a group of a neighbour pass
_ITERATIONS = 20  # of KMeans, about
_SCORE_WORK = 0.1  # multiplications that take as long as the unit of `RowGroup.cost`
_VARIANCE_COST = 60  # of one feature of one row, in that unit
_GROUPS = 2  # of a pass, for each task at a time: so that none of them waits long for the last one
_MATRICES = 2  # that are kept for the workers: the rows of a forest are not always those of its scores


class DaskBackend(CpuBackend):
    """Neighbours, KMeans and scores by the workers of a cluster, everything else on this machine.

    All results are those of one machine, to the bit: workers return what does not depend on how the work was cut, or
    sums that are added here in the order in which one machine adds them. What they work on lies in files of a folder
    that all of them share; the scheduler carries names and numbers.

    Parameters
    ----------
    cluster : Cluster
    folder : Path
        Shared.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self._matrices: list[Path] = []

    def describe(self) -> dict[str, str]:  # noqa: D102
        return super().describe() | self.cluster.describe()

    # The neighbour pass
    def list_neighbors(  # noqa: D102
        self,
        X: np.ndarray,
        min_samples: int,
        *,
        memory: MemoryBudget,
        folder: Path | None,
        advance: Callable[[float], None] = lambda _: None,
    ) -> Lists:
        n_points, n_features = X.shape
        if n_points**2 * n_features / 2 < _LEAST_WORK:
            return super().list_neighbors(X, min_samples, memory=memory, folder=folder, advance=advance)
        n_neighbors = min(n_points, max(min_samples, LEAST_NEIGHBORS))
        plan = PassPlan.of(n_points, n_neighbors, 0)
        what = f"the neighbour pass over {n_points:,} rows with min_samples up to {min_samples}"
        lists = room_for_lists(n_points, n_neighbors, what, memory, folder)
        matrix = self._shared(X)
        with self._scratch() as scratch:
            groups = self._groups(plan, X)
            job = tasks.PassJob(matrix, scratch, plan, groups)
            self._require_disk(plan, len(groups), what)
            if len(groups) == 1:
                futures = {(0,): self.cluster.submit(tasks.list_all, matrix, job.lists(0), min_samples)}
            else:
                futures = self._submit_pass(job)
            costs = _costs(job)
            for name, _ in self.cluster.finished(futures):
                if len(name) == 1:
                    _take(lists, job.lists(name[0]), groups[name[0]])
                advance(costs[name])
        return lists

    def _groups(self, plan: PassPlan, X: np.ndarray) -> tuple[tuple[int, int], ...]:
        """Cut the points so that all workers are busy and the candidates of two groups fit into the share of a task."""
        n_slots, n_blocks = self.cluster.slots(), -(-plan.n_points // BLOCK)
        if n_slots == 1 or plan.n_points < 2 * _LEAST_GROUP:
            return ((0, plan.n_points),)
        fixed = plan.n_points * X.shape[1] * (X.itemsize + 4)
        fitting = (self.cluster.free - fixed) // pair_bytes(plan, 2 * BLOCK)  # blocks of one group
        if fitting < 1:
            raise MemoryBudgetError(
                f"a part of the neighbour pass over {plan.n_points:,} rows needs "
                f"{format_size(fixed + pair_bytes(plan, 2 * BLOCK))}, but a task of --dask {self.cluster.where} may "
                f"take {format_size(max(self.cluster.free, 0))}; use fewer workers on a machine, or more memory"
            )
        wanted = min(_GROUPS * n_slots, plan.n_points // _LEAST_GROUP)
        number = min(n_blocks, max(2, wanted, -(-n_blocks // fitting)))
        ends = [min(n_blocks * i // number * BLOCK, plan.n_points) for i in range(number)] + [plan.n_points]
        return tuple(itertools.pairwise(ends))

    def _require_disk(self, plan: PassPlan, n_groups: int, what: str) -> None:
        """Refuse a pass whose parts do not fit onto the shared disk."""
        of_point = plan.n_neighbors * ENTRY_BYTES + (8 * plan.capacity if n_groups > 1 else 0)
        free = shutil.disk_usage(self.folder).free
        if plan.n_points * of_point > free:
            raise MemoryBudgetError(
                f"{what} needs {format_size(plan.n_points * of_point)} of the disk of {self.folder.parent} for what "
                f"workers hand to each other, but {format_size(free)} are free; free some space, or lower min_samples "
                f"or fraction"
            )

    def _submit_pass(self, job: tasks.PassJob) -> dict[Any, Any]:
        """Submit all tasks of a pass; a task waits for those whose files it reads."""
        submit, numbers = self.cluster.submit, range(len(job.groups))
        futures: dict[Any, Any] = {("thresholds", i): submit(tasks.find_thresholds, job, i) for i in numbers}
        pairs = [(i, j) for i in numbers for j in numbers if i < j] + [(i, i) for i in numbers]  # the longest first
        for i, j in pairs:
            after = [futures["thresholds", one] for one in {i, j}]
            futures[i, j] = submit(tasks.find_candidates, job, i, j, after)
        for i in numbers:
            after = [futures[min(i, j), max(i, j)] for j in numbers]
            futures[i,] = submit(tasks.merge_lists, job, i, after)
        return futures

    # KMeans
    def sweep_kmeans(self, X: np.ndarray, n_clusters: Sequence[int], **options: Any) -> dict[int, Fit]:  # noqa: D102
        work = X.size * options["n_init"] * sum(n_clusters) * _ITERATIONS
        if work < _LEAST_WORK or not isinstance(options["init"], str):
            return super().sweep_kmeans(X, n_clusters, **options)
        advance = options.pop("advance")
        del options["memory"]  # of this process
        parts = _deal(n_clusters, self.cluster.slots())
        matrix = self._shared(X)
        fits: dict[int, Fit] = {}
        with self._scratch() as scratch:
            futures = {
                at: self.cluster.submit(tasks.fit_models, matrix, scratch / f"models-{at}", part, options)
                for at, part in enumerate(parts)
            }
            for at, _ in self.cluster.finished(futures):
                for k in parts[at]:
                    names = (f"{name}-{k}" for name in ("centres", "labels", "inertia", "n_iter"))
                    centres, labels, inertia, n_iter = load_arrays(scratch / f"models-{at}", *names)
                    fits[k] = Fit(centres, labels, float(inertia[0]), int(n_iter[0]))
                advance(len(parts[at]) / len(n_clusters))
        return {k: fits[k] for k in n_clusters}

    # Scores
    def variance_scores(  # noqa: D102
        self,
        X: np.ndarray,
        origin: np.ndarray,
        partitions: list[Partition],
        *,
        room: Room,
        advance: Callable[[int], None],
    ) -> Iterator[tuple[float, float]]:
        if _SCORE_WORK * _VARIANCE_COST * X.size * len(partitions) < _LEAST_WORK:
            yield from super().variance_scores(X, origin, partitions, room=room, advance=advance)
            return
        matrix = self._shared(X)
        n_parts = min(len(partitions), self.cluster.slots())
        cuts = [len(partitions) * at // n_parts for at in range(n_parts + 1)]
        with self._scratch() as scratch:
            futures = {}
            for at, (start, stop) in enumerate(itertools.pairwise(cuts)):
                some, folder = partitions[start:stop], scratch / f"labels-{at}"
                room(4 * len(X) * len(some), "labels for the workers")
                tasks.write_partitions(folder, [one.clusters(slice(None)) for one in some], [one.sizes for one in some])
                futures[at] = self.cluster.submit(tasks.score_variance, matrix, folder)
            found = {}
            for at, scores in self.cluster.finished(futures):
                found[at] = scores
                advance(len(scores))
        for at in range(n_parts):
            yield from found[at]

    def silhouettes(  # noqa: D102
        self, X: np.ndarray, origin: np.ndarray, group: RowGroup, *, room: Room, advance: Callable[[float], object]
    ) -> dict[int, tuple[float, int]]:
        if _SCORE_WORK * group.cost(X.shape[1]) < _LEAST_WORK:
            return super().silhouettes(X, origin, group, room=room, advance=advance)
        matrix, n_blocks = self._shared(X), n_row_blocks(group)
        n_parts = min(n_blocks, self.cluster.slots())
        cuts = [n_blocks * at // n_parts for at in range(n_parts + 1)]
        room(4 * len(group.rows) * len(group.sampled), "labels for the workers")
        with self._scratch() as scratch:
            labels = [one.labels(group.rows) for one in group.sampled]
            tasks.write_partitions(scratch / "labels", labels, [one.sizes for one in group.sampled], rows=group.rows)
            futures = {
                at: self.cluster.submit(tasks.score_silhouettes, matrix, scratch / "labels", range(start, stop))
                for at, (start, stop) in enumerate(itertools.pairwise(cuts))
            }
            found = {}
            for at, sums in self.cluster.finished(futures):
                found[at] = sums
                advance(len(sums) / n_blocks)
        return mean_silhouettes(group, np.concatenate([found[at] for at in range(n_parts)]))

    # Files
    def _shared(self, X: np.ndarray) -> Path:
        """Return the file of a matrix for the workers; it is written once, and goes when others follow."""
        X = np.ascontiguousarray(X)
        name = xxhash.xxh3_128_hexdigest(X.data)
        path = self.folder / f"{name}-{'x'.join(map(str, X.shape))}-{X.dtype}.npy"
        if path not in self._matrices:
            while len(self._matrices) >= _MATRICES:
                self._matrices.pop(0).unlink(missing_ok=True)
            tasks.write_matrix(path, X)
        else:
            self._matrices.remove(path)
        self._matrices.append(path)
        return path

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        with scratch_folder(self.folder) as name:
            yield Path(name)


@contextlib.contextmanager
def open_backend(
    where: str, out: Path, *, device: str, engine: str, memory: MemoryBudget, reporter: Reporter
) -> Iterator[tuple[DaskBackend, MemoryBudget]]:
    """Open a cluster for a run into a folder; yield its backend, and the memory that is left for this process.

    Parameters
    ----------
    where : str
        See `toolkit.distribute.cluster.open_cluster`.
    out : Path
        The folder of the run. If it was not there, and nothing has been put into it, it goes again.
    device, engine : str
        Only the shared engine, on processors, is distributed.
    memory : MemoryBudget
    reporter : Reporter

    Raises
    ------
    InputError
        If the cluster or the folder cannot be used.
    """
    if device == "cuda":
        raise InputError("--dask: workers compute on processors; allowed: --device cpu or auto, not cuda")
    if engine != "shared":
        raise InputError(f"--dask: engine {engine!r} runs in one process; allowed: engine shared")
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    made = [path for path in (out, *out.parents) if not path.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with (
            scratch_folder(out) as folder,
            open_cluster(where, Path(folder), memory=memory, reporter=reporter) as cluster,
        ):
            given = cluster.share.memory
            own = memory if given is None else MemoryBudget(given, f"a part of {format_size(memory.limit)} for --dask")
            yield DaskBackend(cluster, Path(folder)), own
    finally:
        with contextlib.suppress(OSError):  # somebody put something into it
            for path in made:
                path.rmdir()


def _deal(n_clusters: Sequence[int], n_parts: int) -> list[list[int]]:
    """Deal numbers of clusters so that all parts have about as many clusters."""
    parts: list[list[int]] = [[] for _ in range(min(n_parts, len(n_clusters)))]
    for k in sorted(n_clusters, reverse=True):
        min(parts, key=sum).append(k)
    return parts


def _costs(job: tasks.PassJob) -> dict[Any, float]:
    """Return the share of the pass that each of its tasks is, by products."""
    sizes = [stop - start for start, stop in job.groups]
    costs: dict[Any, float] = {}
    for i, size in enumerate(sizes):
        costs["thresholds", i] = costs[i,] = size * job.plan.n_sampled
        costs[i, i] = size * size / 2
        costs |= {(i, j): float(size * sizes[j]) for j in range(i + 1, len(sizes))}
    if len(sizes) == 1:
        return {(0,): 1.0}
    return {name: cost / sum(costs.values()) for name, cost in costs.items()}


def _take(lists: NeighborLists, folder: Path, group: tuple[int, int]) -> None:
    """Copy the lists of a group to where all of them are, and remove them."""
    part = NeighborLists.open(folder, group[1] - group[0], lists.n_neighbors, in_memory=False)
    for start, squared, indices in part.blocks():
        first = group[0] + start
        lists.write(np.arange(first, first + len(squared)), squared, indices)
    shutil.rmtree(folder, ignore_errors=True)
