"""Everything that runs on one NVIDIA GPU, written with torch; the same code runs on CPU tensors, where it is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit.backend.cuda.device import Device

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


class CudaBackend:
    """One GPU; see `toolkit.backend.base.Backend`, and `Device` for the parameters and errors."""

    name = "cuda"

    def __init__(self, device: str = "cuda", memory: str | int | None = None) -> None:
        self.device = Device(device, memory)

    def describe(self) -> dict[str, str]:  # noqa: D102
        torch = self.device.torch
        return {
            "name": self.name,
            "card": self.device.name,
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
        }

    def reset_peak(self) -> None:  # noqa: D102
        self.device.reset_peak()
        self.device.shrunk.clear()

    def peak_bytes(self) -> int | None:  # noqa: D102
        return self.device.peak_bytes

    def shrunk(self) -> list[str]:  # noqa: D102
        return list(self.device.shrunk)

    def gram(self, n_features: int) -> Gram:  # noqa: D102
        from toolkit.backend.cuda.reduce import DeviceGram

        return DeviceGram(self.device, n_features)

    def list_neighbors(  # noqa: D102
        self,
        X: np.ndarray,
        min_samples: int,
        *,
        memory: MemoryBudget,
        folder: Path | None,
        advance: Callable[[float], None] = lambda _: None,
    ) -> Lists:
        from toolkit.backend.cuda.neighbors import list_neighbors

        return list_neighbors(self.device, X, min_samples, memory=memory, folder=folder, advance=advance)

    def fit_kmeans(self, data: Matrix) -> Fitter:  # noqa: D102
        from toolkit.backend.cuda.kmeans import DeviceFitter

        return DeviceFitter(self.device, data)

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
        from toolkit.backend.cuda.scores import variance_scores

        return variance_scores(self.device, X, origin, partitions, advance=advance)

    def silhouettes(  # noqa: D102
        self, X: np.ndarray, origin: np.ndarray, group: RowGroup, *, room: Room, advance: Callable[[float], object]
    ) -> dict[int, tuple[float, int]]:
        from toolkit.backend.cuda.scores import silhouettes

        return silhouettes(self.device, X, origin, group, advance=advance)
