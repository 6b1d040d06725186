"""What a device has to be able to do; everything else is the same code for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from toolkit.cluster.lists import Lists
    from toolkit.memory import MemoryBudget


class Backend(Protocol):
    """The primitives of the engine on one kind of device.

    Labels do not depend on which it is: float64 differences, added in one order, decide on all of them.

    Attributes
    ----------
    name : str
        ``"cpu"`` or ``"cuda"``; the column `device` of the tables.
    """

    name: str

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
