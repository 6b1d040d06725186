"""Everything that runs on one NVIDIA GPU, written with torch; the same code runs on CPU tensors, where it is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.backend.cuda.device import Device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from toolkit.cluster.lists import Lists
    from toolkit.memory import MemoryBudget


class CudaBackend:
    """One GPU; see `toolkit.backend.base.Backend`, and `Device` for the parameters and errors."""

    name = "cuda"

    def __init__(self, device: str = "cuda", memory: str | int | None = None) -> None:
        self.device = Device(device, memory)

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
