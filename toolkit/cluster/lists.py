"""Neighbour lists, in memory or, where they do not fit, on disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.descriptors.cache import write_npy_header
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENTRY_BYTES = 12
_READ_BYTES = 16 << 20


class NeighborLists:
    """The nearest neighbours of every point, sorted by (squared distance, point).

    Parameters
    ----------
    n_points, n_neighbors : int
    folder : Path or None
        Where the two arrays are kept as ``squared.npy`` and ``indices.npy``; None keeps them in memory.
    """

    def __init__(self, n_points: int, n_neighbors: int, folder: Path | None = None, *, create: bool = True) -> None:
        self.n_points, self.n_neighbors, self.folder = n_points, n_neighbors, folder
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

    def save(self, folder: Path) -> None:
        """Write both arrays into a folder."""
        saved = NeighborLists(self.n_points, self.n_neighbors, folder)
        for start, *arrays in self.blocks():
            points = np.arange(start, start + len(arrays[0]))
            for file, rows in zip(saved._files, arrays, strict=True):
                file.write(points, rows)

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
