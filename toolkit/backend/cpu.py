"""The processors of this machine: work on blocks with all of them, in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from toolkit.cluster.kmeans import Fit, Fitter
    from toolkit.cluster.kmeans_matrix import Matrix
    from toolkit.cluster.lists import Lists
    from toolkit.descriptors.reduce import Gram
    from toolkit.memory import MemoryBudget
    from toolkit.score.labellings import Partition
    from toolkit.score.partition import Room
    from toolkit.score.silhouette import RowGroup

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(function: Callable[[T], R], blocks: Iterable[T], *, workers: int) -> Iterator[R]:
    """Apply `function` to every block, each on one thread, and yield the results in the order of the blocks.

    At most ``workers + 2`` blocks are in flight (one without workers, in this thread), so memory is bounded. BLAS is
    held to one thread meanwhile: a result depends on its block alone, and a reduction over the results on their
    order alone, so the number of processors changes no bit of it.
    """
    if workers == 0:
        with threadpool_limits(1, user_api="blas"):
            yield from map(function, blocks)
        return
    pending: deque[Future[R]] = deque()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        try:
            for block in blocks:
                pending.append(pool.submit(function, block))
                del block
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class CpuBackend:
    """NumPy, its BLAS and compiled loops; see `toolkit.backend.base.Backend`."""

    name = "cpu"

    def describe(self) -> dict[str, str]:  # noqa: D102
        return {"name": self.name}

    def reset_peak(self) -> None:  # noqa: D102
        pass

    def peak_bytes(self) -> int | None:  # noqa: D102
        return None

    def shrunk(self) -> list[str]:  # noqa: D102
        return []

    def gram(self, n_features: int) -> Gram:  # noqa: D102
        from toolkit.descriptors.reduce import HostGram

        return HostGram()

    def list_neighbors(  # noqa: D102
        self,
        X: np.ndarray,
        min_samples: int,
        *,
        memory: MemoryBudget,
        folder: Path | None,
        advance: Callable[[float], None] = lambda _: None,
    ) -> Lists:
        from toolkit.cluster.forest_plan import list_neighbors

        return list_neighbors(X, min_samples, memory=memory, folder=folder, advance=advance)

    def fit_kmeans(self, data: Matrix) -> Fitter:  # noqa: D102
        from toolkit.cluster.kmeans import HostFitter

        return HostFitter(data)

    def sweep_kmeans(self, X: np.ndarray, n_clusters: Sequence[int], **options: Any) -> dict[int, Fit]:  # noqa: D102
        from toolkit.cluster.kmeans import sweep

        return sweep(X, n_clusters, backend=self, **options)

    def variance_scores(  # noqa: D102
        self,
        X: np.ndarray,
        origin: np.ndarray,
        partitions: list[Partition],
        *,
        room: Room,
        advance: Callable[[int], None],
    ) -> Iterator[tuple[float, float]]:
        from toolkit.score.partition import host_variance

        return host_variance(X, origin, partitions, room=room, advance=advance)

    def silhouettes(  # noqa: D102
        self, X: np.ndarray, origin: np.ndarray, group: RowGroup, *, room: Room, advance: Callable[[float], object]
    ) -> dict[int, tuple[float, int]]:
        from toolkit.score.partition import host_silhouettes

        return host_silhouettes(X, origin, group, room=room, advance=advance)
