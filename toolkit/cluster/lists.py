"""Neighbour lists, in memory or, where they do not fit, on disk; and what trees and labels read in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numba import njit

from toolkit.descriptors.cache import write_npy_header
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from tempfile import TemporaryDirectory

ENTRY_BYTES = 12
_READ_BYTES = 16 << 20
_EDGE_BYTES = 40  # of one entry of a table: the edge, its bound, and what spanning the table takes


class Edges(NamedTuple):
    """Edges of a graph: two points, int32, and the squared weight, float64, of each."""

    i: np.ndarray
    j: np.ndarray
    squared: np.ndarray


class Components(NamedTuple):
    """The component of each point, (n_points,) int32, numbered from 0 by first point, and how many there are."""

    of_point: np.ndarray
    number: int


class Table(NamedTuple):
    """The lightest edge from each component (row) to each group of `size` components (column).

    `arrays` are (squared weights, point inside, point outside), each (n_components, n_groups); inf is no edge.
    """

    size: int
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]

    @staticmethod
    def fits(n_components: int, n_bytes: int) -> bool:
        """Tell whether a table with a column for each component takes at most `n_bytes`."""
        return n_components**2 * _EDGE_BYTES <= n_bytes

    @classmethod
    def empty(cls, n_components: int, n_bytes: int) -> Table:
        """Make one with a column for each component if that takes at most `n_bytes`, else with fewer."""
        n_groups = min(n_components, max(1, n_bytes // (_EDGE_BYTES * n_components)))
        size = -(-n_components // n_groups)
        shape = (n_components, -(-n_components // size))
        return cls(size, (np.full(shape, np.inf), np.empty(shape, np.int32), np.empty(shape, np.int32)))


class EdgeSearch(Protocol):
    """Looks for edges of mutual reachability in the lists, for one `min_samples`."""

    def best(self, components: Components) -> Edges:
        """Return the lightest listed edge that leaves each component; inf where the lists hold none."""
        ...

    def tabulate(self, components: Components, table: Table) -> None:
        """Enter the listed edges between components."""
        ...

    def tabulate_rest(self, components: Components, table: Table, bounds: np.ndarray) -> None:
        """Enter the edges between components that are in no list and lighter than `bounds`, of the table's shape."""
        ...


class Lists(Protocol):
    """The nearest neighbours of every point, wherever they are.

    Attributes
    ----------
    n_points, n_neighbors, n_bytes : int
    """

    n_points: int
    n_neighbors: int

    @property
    def n_bytes(self) -> int: ...  # noqa: D102

    def radii(self) -> np.ndarray:
        """Return the squared distance within which each list is complete, (n_points,) float64."""
        ...

    def core(self, counts: np.ndarray, min_samples: int) -> np.ndarray:
        """Return the squared distance within which there are `min_samples` rows; `counts` is rows of each point."""
        ...

    def edges(self, core: np.ndarray, X: np.ndarray | None = None) -> EdgeSearch:
        """Return a search for edges under core distances; X, the points, for those in no list."""
        ...

    def label_borders(self, core: np.ndarray, squared_radii: np.ndarray, labels: np.ndarray) -> None:
        """Give each point that is not core the lowest label among the core points within the radius.

        `labels` is (n_radii, n_points) int32 with the core points labelled. A point that is not core has fewer points
        within the radius than its list is long, so all of them are listed.
        """
        ...

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (first point, squared distances, indices) of one stretch of points after another, on the host."""
        ...


class ListSink(Protocol):
    """Takes the lists of some points after the others."""

    def write(self, points: np.ndarray, squared: np.ndarray, indices: np.ndarray) -> None:
        """Keep them: (n,), (n, n_neighbors) float64, (n, n_neighbors) int32."""
        ...


class NeighborLists:
    """The nearest neighbours of every point, sorted by (squared distance, point), on the host; see `Lists`.

    Parameters
    ----------
    n_points, n_neighbors : int
    folder : Path or None
        Where the two arrays are kept as ``squared.npy`` and ``indices.npy``; None keeps them in memory.
    scratch : TemporaryDirectory or None
        The folder, if it is to vanish with the lists.
    """

    def __init__(
        self,
        n_points: int,
        n_neighbors: int,
        folder: Path | None = None,
        *,
        create: bool = True,
        scratch: TemporaryDirectory[str] | None = None,
    ) -> None:
        self.n_points, self.n_neighbors, self.folder, self._scratch = n_points, n_neighbors, folder, scratch
        shape = (n_points, n_neighbors)
        if folder is None:
            self._arrays = (np.empty(shape), np.empty(shape, np.int32))
        else:
            paths = {folder / f"{name}.npy": dtype for name, dtype in _ARRAYS.items()}
            self._files = [_NpyRows(path, shape, dtype, create=create) for path, dtype in paths.items()]

    @classmethod
    def open(cls, folder: Path, n_points: int, n_neighbors: int, *, in_memory: bool) -> NeighborLists:
        """Open lists that were saved, from their files or read into memory."""
        saved = cls(n_points, n_neighbors, folder, create=False)
        if not in_memory:
            return saved
        lists = cls(n_points, n_neighbors)
        saved._files[0].read(0, lists._arrays[0])
        saved._files[1].read(0, lists._arrays[1])
        return lists

    @property
    def n_bytes(self) -> int:
        """Bytes of both arrays."""
        return self.n_points * self.n_neighbors * ENTRY_BYTES

    def write(self, points: np.ndarray, squared: np.ndarray, indices: np.ndarray) -> None:
        """Keep the lists of some points: (n,), (n, n_neighbors) float64, (n, n_neighbors) int32."""
        if self.folder is None:
            self._arrays[0][points], self._arrays[1][points] = squared, indices
        else:
            for file, rows in zip(self._files, (squared, indices), strict=True):
                file.write(points, rows)

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (first point, squared distances, indices) of one stretch of points after another."""
        if self.folder is None:
            yield 0, *self._arrays
            return
        step = max(1, _READ_BYTES // (ENTRY_BYTES * self.n_neighbors))
        for start in range(0, self.n_points, step):
            stop = min(start + step, self.n_points)
            shape = (stop - start, self.n_neighbors)
            squared, indices = (file.read(start, np.empty(shape, file.dtype)) for file in self._files)
            yield start, squared, indices

    # What trees and labels read
    def radii(self) -> np.ndarray:  # noqa: D102
        if self.n_neighbors == self.n_points:
            return np.full(self.n_points, np.inf)
        return np.concatenate([squared[:, -1] for _, squared, _ in self.blocks()])

    def core(self, counts: np.ndarray, min_samples: int) -> np.ndarray:  # noqa: D102
        core = np.empty(self.n_points)
        for start, squared, indices in self.blocks():
            _core_distances(start, squared, indices, counts, min_samples, core)
        return core

    def edges(self, core: np.ndarray, X: np.ndarray | None = None) -> EdgeSearch:  # noqa: D102
        return _ListSearch(self, core, X)

    def label_borders(self, core: np.ndarray, squared_radii: np.ndarray, labels: np.ndarray) -> None:  # noqa: D102
        for start, squared, indices in self.blocks():
            _label_borders(start, squared, indices, core, squared_radii, labels)


def save_lists(lists: Lists, folder: Path) -> None:
    """Write both arrays into a folder."""
    saved = NeighborLists(lists.n_points, lists.n_neighbors, folder)
    for start, squared, indices in lists.blocks():
        saved.write(np.arange(start, start + len(squared)), squared, indices)


class _ListSearch:
    """See `EdgeSearch`."""

    def __init__(self, lists: NeighborLists, core: np.ndarray, X: np.ndarray | None) -> None:
        self.lists, self.core, self.X = lists, core, X
        self.done = np.zeros(lists.n_points, np.int32)  # entries at the start of each list in the point's component

    def best(self, components: Components) -> Edges:
        n = components.number
        best = Edges(np.zeros(n, np.int32), np.zeros(n, np.int32), np.full(n, np.inf))
        for start, squared, indices in self.lists.blocks():
            _scan_lists(self.core, start, squared, indices, components.of_point, self.done, best)
        return best

    def tabulate(self, components: Components, table: Table) -> None:
        for start, squared, indices in self.lists.blocks():
            _tabulate_lists(self.core, start, squared, indices, components.of_point, table.size, table.arrays)

    def tabulate_rest(self, components: Components, table: Table, bounds: np.ndarray) -> None:
        if self.X is None:
            raise AssertionError("edges in no list need the points")
        from toolkit.cluster.unlisted import tabulate_rows

        tabulate_rows(self.core, components.of_point, self.lists.radii(), self.X, table, bounds)


_ARRAYS: dict[str, np.dtype[Any]] = {"squared": np.dtype(np.float64), "indices": np.dtype(np.int32)}


class _NpyRows:
    """Rows of a ``.npy`` file, read and written in place, not mapped: mapped pages count as resident memory."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: np.dtype[Any], *, create: bool) -> None:
        self.path, self.dtype, self.shape = path, dtype, shape
        self.row_bytes = shape[1] * dtype.itemsize
        if not create:
            self.file = path.open("rb", buffering=0)
            np.lib.format.read_magic(self.file)
            found, _, found_dtype = np.lib.format.read_array_header_1_0(self.file)
            if found != shape or found_dtype != dtype:
                raise InputError(f"{path} holds {found} {found_dtype}; expected {shape} {dtype}")
        else:
            self.file = path.open("x+b", buffering=0)
            write_npy_header(self.file, shape, dtype)
            os.posix_fallocate(self.file.fileno(), self.file.tell(), shape[0] * self.row_bytes)
        self.start = self.file.tell()

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        for row, content in zip(rows.tolist(), np.ascontiguousarray(values), strict=True):
            os.pwrite(self.file.fileno(), content, self.start + row * self.row_bytes)

    def read(self, start: int, rows: np.ndarray) -> np.ndarray:
        """Fill `rows` with those from `start` on."""
        step = max(1, _READ_BYTES // self.row_bytes)
        for at in range(0, len(rows), step):
            piece = rows[at : at + step]
            if os.preadv(self.file.fileno(), [piece.data], self.start + (start + at) * self.row_bytes) != piece.nbytes:
                raise OSError(f"{self.path} is shorter than its header says")
        return rows


# Kernels
@njit(nogil=True, cache=True)
def _core_distances(start, squared, indices, counts, min_samples, core):  # type: ignore[no-untyped-def]
    for row in range(len(squared)):
        rows_within = 0
        for u in range(squared.shape[1]):
            rows_within += counts[indices[row, u]]
            if rows_within >= min_samples:
                core[start + row] = squared[row, u]
                break


@njit(nogil=True, cache=True)
def _label_borders(start, squared, indices, core, squared_radii, labels):  # type: ignore[no-untyped-def]
    for row in range(len(squared)):
        point = start + row
        for which in range(len(squared_radii)):
            if core[point] > squared_radii[which]:
                lowest = -1
                for u in range(squared.shape[1]):
                    if squared[row, u] > squared_radii[which]:
                        break
                    other = indices[row, u]
                    if core[other] <= squared_radii[which] and (lowest < 0 or labels[which, other] < lowest):
                        lowest = labels[which, other]
                labels[which, point] = lowest


@njit(nogil=True, cache=True)
def _scan_lists(core, start, squared, indices, component, done, best):  # type: ignore[no-untyped-def]
    best_i, best_j, best_squared = best
    n_neighbors = squared.shape[1]
    for row in range(len(squared)):
        i = start + row
        own = component[i]
        while done[i] < n_neighbors and component[indices[row, done[i]]] == own:
            done[i] += 1
        for u in range(done[i], n_neighbors):
            if max(core[i], squared[row, u]) >= best_squared[own]:
                break
            j = indices[row, u]
            if component[j] != own:
                weight = max(core[i], core[j], squared[row, u])
                if weight < best_squared[own]:
                    best_i[own], best_j[own], best_squared[own] = i, j, weight


@njit(nogil=True, cache=True)
def put(table, size, a, b, i, j, weight):  # type: ignore[no-untyped-def]
    """Enter an edge between components a and b if it is lighter than what is there."""
    weights, ends, others = table
    if weight < weights[a, b // size]:
        weights[a, b // size], ends[a, b // size], others[a, b // size] = weight, i, j
    if weight < weights[b, a // size]:
        weights[b, a // size], ends[b, a // size], others[b, a // size] = weight, j, i


@njit(nogil=True, cache=True)
def _tabulate_lists(core, start, squared, indices, component, size, table):  # type: ignore[no-untyped-def]
    for row in range(len(squared)):
        i = start + row
        for u in range(squared.shape[1]):
            j = indices[row, u]
            if component[i] != component[j]:
                weight = max(core[i], core[j], squared[row, u])
                put(table, size, component[i], component[j], i, j, weight)
