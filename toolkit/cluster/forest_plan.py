"""How much a density forest takes, and the neighbour pass that it is made from, on the host."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.atomic import scratch_folder
from toolkit.cluster.lists import ENTRY_BYTES, NeighborLists
from toolkit.cluster.mst import TABLE_BYTES
from toolkit.cluster.neighbors import PassPlan, find_neighbors
from toolkit.cluster.points import Products
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.memory import format_size, n_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from toolkit.memory import MemoryBudget

LEAST_NEIGHBORS = 64  # shorter lists leave too many components open to the spanning trees
BYTES_PER_POINT = 512  # trees for seven values of min_samples, and labels
_TILE_BYTES = 24 << 20  # of products, for each thread


@dataclass(frozen=True)
class ForestPlan:
    """What a forest takes, and how it fits.

    Attributes
    ----------
    passing : PassPlan
    n_bytes : int
        Resident memory beside the matrix.
    list_bytes : int
        Of the neighbour lists, in memory or on disk.
    spilled : bool
        Whether the lists are on disk.
    """

    passing: PassPlan
    n_bytes: int
    list_bytes: int
    spilled: bool

    @classmethod
    def of(cls, n_points: int, n_features: int, min_samples: int, n_free: int) -> ForestPlan:
        """Plan a forest for `n_points` distinct rows within `n_free` bytes, or with as few as possible."""
        n_neighbors = min(n_points, max(min_samples, LEAST_NEIGHBORS))
        lists = n_points * n_neighbors * ENTRY_BYTES
        fixed = n_points * (4 * n_features + BYTES_PER_POINT) + n_threads() * _TILE_BYTES
        fixed += min(TABLE_BYTES, n_points**2)
        fewest = PassPlan.of(n_points, n_neighbors, 0).n_bytes
        spilled = fixed + lists + fewest > n_free
        held = fixed + (0 if spilled else lists)
        passing = PassPlan.of(n_points, n_neighbors, n_free - held)
        return cls(passing, held + passing.n_bytes, lists, spilled)


def list_neighbors(
    X: np.ndarray,
    min_samples: int,
    *,
    memory: MemoryBudget,
    folder: Path | None,
    advance: Callable[[float], None] = lambda _: None,
) -> NeighborLists:
    """Find the neighbours of every point, at least `min_samples` of them, itself included.

    Parameters
    ----------
    X : ndarray (n_points, n_features) float32 or float64
        Distinct points.
    min_samples : int
    memory : MemoryBudget
    folder : Path or None
        Where lists go that do not fit into memory; None is the system's folder for temporary files.
    advance : callable
        Told the share of the pass that was done.

    Raises
    ------
    MemoryBudgetError
        If not even the smallest blocks fit, or the lists fit neither into memory nor onto the disk.
    """
    plan = ForestPlan.of(len(X), X.shape[1], min_samples, memory.free)
    what = f"the neighbour pass over {len(X):,} rows with min_samples up to {min_samples}"
    memory.require(plan.n_bytes, what)
    shape = plan.passing.n_points, plan.passing.n_neighbors
    lists = _lists_on_disk(*shape, what, memory, folder) if plan.spilled else NeighborLists(*shape)
    find_neighbors(X, Products.of(X, plan.passing.sample_first()), lists, plan.passing, advance=advance)
    return lists


def room_for_lists(
    n_points: int, n_neighbors: int, what: str, memory: MemoryBudget, folder: Path | None
) -> NeighborLists:
    """Return empty lists in memory if there is room for them and for what is made of them, and on disk otherwise."""
    needed = n_points * (n_neighbors * ENTRY_BYTES + BYTES_PER_POINT)
    if needed <= memory.free:
        return NeighborLists(n_points, n_neighbors)
    return _lists_on_disk(n_points, n_neighbors, what, memory, folder)


def _lists_on_disk(
    n_points: int, n_neighbors: int, what: str, memory: MemoryBudget, folder: Path | None
) -> NeighborLists:
    """Return empty lists in a folder that vanishes with them."""
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    if not folder.is_dir():
        raise InputError(f"the folder {folder} for neighbour lists does not exist; make it first")
    free, needed = shutil.disk_usage(folder).free, n_points * n_neighbors * ENTRY_BYTES
    if needed > free:
        raise MemoryBudgetError(
            f"the neighbour lists of {what} take {format_size(needed)}, but {format_size(max(memory.free, 0))} of "
            f"memory and {format_size(free)} of the disk of {folder} are free; raise --memory, free some space, or "
            "lower min_samples or fraction"
        )
    scratch = scratch_folder(folder)
    return NeighborLists(n_points, n_neighbors, folder=Path(scratch.name), scratch=scratch)
