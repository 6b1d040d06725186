"""What a device has to be able to do; everything else is the same code for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
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


class Backend(Protocol):
    """The primitives of the engine on one kind of device.

    Labels do not depend on which it is: float64 differences, added in one order, decide on all of them.

    Attributes
    ----------
    name : str
        ``"cpu"`` or ``"cuda"``; the column `device` of the tables.
    """

    name: str

    def describe(self) -> dict[str, str]:
        """Return facts about the device, for the record of a run."""
        ...

    def reset_peak(self) -> None:
        """Begin to count `peak_bytes` and `shrunk` anew."""
        ...

    def peak_bytes(self) -> int | None:
        """Return the most memory of the device that was held; None if it is the host's."""
        ...

    def shrunk(self) -> list[str]:
        """Return what had to be done in smaller pieces, because memory ran out, since `reset_peak`."""
        ...

    def gram(self, n_features: int) -> Gram:
        """Return what adds up products of rows; see `toolkit.descriptors.reduce`."""
        ...

    def list_neighbors(
        self,
        X: np.ndarray,
        min_samples: int,
        *,
        memory: MemoryBudget,
        folder: Path | None,
        advance: Callable[[float], None] = ...,
    ) -> Lists:
        """Find the neighbours of every point; see `toolkit.cluster.forest_plan.list_neighbors`."""
        ...

    def fit_kmeans(self, data: Matrix) -> Fitter:
        """Return what makes KMeans models of a matrix."""
        ...

    def sweep_kmeans(self, X: np.ndarray, n_clusters: Sequence[int], **options: Any) -> dict[int, Fit]:
        """Fit KMeans for several numbers of clusters; see `toolkit.cluster.kmeans.sweep`."""
        ...

    def variance_scores(
        self,
        X: np.ndarray,
        origin: np.ndarray,
        partitions: list[Partition],
        *,
        room: Room,
        advance: Callable[[int], None],
    ) -> Iterator[tuple[float, float]]:
        """Yield Calinski-Harabasz and Davies-Bouldin of labellings; see `toolkit.score.variance`."""
        ...

    def silhouettes(
        self, X: np.ndarray, origin: np.ndarray, group: RowGroup, *, room: Room, advance: Callable[[float], object]
    ) -> dict[int, tuple[float, int]]:
        """Return the mean silhouettes of labellings that share rows; see `toolkit.score.silhouette`."""
        ...
