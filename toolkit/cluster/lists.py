"""Neighbour lists, in memory or, where they do not fit, on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    def __init__(self, n_points: int, n_neighbors: int, folder: Path | None = None) -> None:
        self.n_points, self.n_neighbors, self.folder = n_points, n_neighbors, folder
        shape = (n_points, n_neighbors)
        if folder is None:
            self._arrays = (np.empty(shape), np.empty(shape, np.int32))
        else:
            self._files = [_NpyRows(folder / f"{name}.npy", shape, dtype) for name, dtype in _ARRAYS.items()]

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
            squared, indices = (file.read(start, stop) for file in self._files)
            yield start, squared, indices


_ARRAYS: dict[str, type] = {"squared": np.float64, "indices": np.int32}


class _NpyRows:
    """Rows of a ``.npy`` file, read and written in place, not mapped: mapped pages count as resident memory."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: type) -> None:
        self.dtype, self.shape = np.dtype(dtype), shape
        if not path.exists():
            with path.open("wb") as file:
                header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                os.posix_fallocate(file.fileno(), file.tell(), shape[0] * self.row_bytes)
        self.file = path.open("r+b")
        np.lib.format.read_magic(self.file)
        found, _, dtype = np.lib.format.read_array_header_1_0(self.file)
        if found != shape or dtype != self.dtype:
            raise ValueError(f"{path} holds {found} {dtype}; expected {shape} {self.dtype}")
        self.start = self.file.tell()

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        for row, content in zip(rows.tolist(), np.ascontiguousarray(values), strict=True):
            os.pwrite(self.file.fileno(), content, self.start + row * self.row_bytes)

    def read(self, start: int, stop: int) -> np.ndarray:
        content = np.empty((stop - start, self.shape[1]), self.dtype)
        if os.preadv(self.file.fileno(), [content], self.start + start * self.row_bytes) != content.nbytes:
            raise OSError(f"{self.file.name} is shorter than its header says")
        return content
