"""Descriptor files: one class per way of storing a matrix, all read as windows of consecutive rows.

Nothing is loaded on opening. Files whose numbers lie contiguously on disk (.npy, stored .npz, .pickle) are read in
place with positioned reads: unlike pages of a memory map, which count as resident memory and turn a truncated file
into a crash (SIGBUS), a read costs one buffer and fails with an error.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.descriptors.pickled_array import PickledArray, RawBytes
from toolkit.descriptors.safe_pickle import locate_array
from toolkit.errors import InputError, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from toolkit.memory import MemoryBudget


_LEAST_BYTES = 1 << 20  # that a pickle of one array may take to be opened, whatever the budget


class DescriptorFile(ABC):
    """A matrix of descriptors on disk.

    Attributes
    ----------
    path : Path
    n_rows, n_features : int
    dtype : numpy.dtype
        Of the windows that are read.
    """

    path: Path
    n_rows: int
    n_features: int
    dtype: np.dtype[Any]

    @abstractmethod
    def windows(self, size: int) -> Iterator[np.ndarray]:
        """Yield consecutive windows of `size` rows, the last one shorter: arrays (rows, n_features)."""

    def image_names(self) -> np.ndarray | None:
        """Return the image names that the file itself holds, (n_rows,) of str, or None."""
        return None

    def blocks(self, size: int, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yield the rows in order, block by block.

        Parameters
        ----------
        size : int
            Rows of the file that are read at once; a block has at most so many rows.
        rows : ndarray of int64, optional
            Sorted row numbers to take; by default all.

        Raises
        ------
        InputError
            If the file has fewer or more rows than when it was opened.
        """
        start = 0
        for window in self.windows(size):
            if rows is None:
                yield window
            else:
                chosen = rows[slice(*np.searchsorted(rows, (start, start + size)))]
                if len(chosen):
                    yield window[chosen - start]
            start += len(window)
        if start != self.n_rows:
            raise InputError(
                f"{self.path} has {start:,} rows, {self.n_rows:,} when it was opened; it was changed or damaged"
            )


class _RandomAccess(DescriptorFile):
    """A file any stretch of which can be read directly."""

    @abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop) as an array (stop - start, n_features)."""

    def windows(self, size: int) -> Iterator[np.ndarray]:
        for start in range(0, self.n_rows, size):
            yield self.read(start, min(start + size, self.n_rows))

    def blocks(self, size: int, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        if rows is None:
            yield from self.windows(size)
            return
        for start in range(0, self.n_rows, size):
            chosen = rows[slice(*np.searchsorted(rows, (start, start + size)))]
            if len(chosen):
                yield self.read(int(chosen[0]), int(chosen[-1]) + 1)[chosen - chosen[0]]


class RawFile(_RandomAccess):
    """Numbers that lie contiguously in a file, from a byte offset on, in C or Fortran order."""

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], *, offset: int, fortran: bool = False
    ) -> None:
        self.path, self.dtype, self.offset, self.fortran = path, dtype, offset, fortran
        self.n_rows, self.n_features = _check_matrix(path, shape, dtype)
        self.end = offset + self.n_rows * self.n_features * dtype.itemsize
        if path.stat().st_size < self.end:
            raise InputError(
                f"{path} is truncated: {self.end:,} bytes expected, it has {path.stat().st_size:,}; write it anew"
            )

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop)."""
        shape = (self.n_features, stop - start) if self.fortran else (stop - start, self.n_features)
        block = np.empty(shape, self.dtype)
        with self.path.open("rb", buffering=0) as file:
            if not self.fortran:
                self._read_into(file, block, start * self.n_features)
                return block
            for column in range(self.n_features):
                self._read_into(file, block[column], column * self.n_rows + start)
        return block.T

    def _read_into(self, file: Any, target: np.ndarray, first: int) -> None:
        view = memoryview(target.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        file.seek(self.offset + first * self.dtype.itemsize)
        while view:
            n_read = file.readinto(view)
            if not n_read:
                raise InputError(f"{self.path} became shorter while it was read")
            view = view[n_read:]


class _RowsInPickle(_RandomAccess):
    """A pickled list of equally long rows: arrays with their own place in the file, or lists of numbers."""

    def __init__(self, path: Path, rows: list[Any]) -> None:
        self.path = path
        self.rows = [row if isinstance(row, PickledArray) else _numbers(row) for row in rows]
        for i, row in enumerate(self.rows):
            if row.shape != self.rows[0].shape or len(row.shape) != 1:
                raise InputError(
                    f"row {i} of the pickled list has shape {row.shape}, row 0 has {self.rows[0].shape}; "
                    f"allowed: rows of one length, or one 2-D array"
                )
        self.dtype = np.result_type(*{row.dtype for row in self.rows}) if rows else np.dtype("f8")
        width = self.rows[0].shape[0] if rows else 0
        self.n_rows, self.n_features = _check_matrix(path, (len(rows), width), self.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop), in the dtype that holds them all."""
        block = np.empty((stop - start, self.n_features), self.dtype)
        with self.path.open("rb") as file:
            for target, row in zip(block, self.rows[start:stop], strict=True):
                target[:] = _row_values(file, row) if isinstance(row, PickledArray) else row
        return block


def _row_values(file: Any, row: PickledArray) -> np.ndarray:
    data = row.data
    if isinstance(data, RawBytes):
        file.seek(data.offset)
        data = file.read(data.size)
    return np.frombuffer(data, row.dtype)


def _numbers(row: Any) -> np.ndarray:
    """Return a pickled list of numbers as float64."""
    if not (isinstance(row, list | tuple) and all(isinstance(value, int | float) for value in row)):
        raise InputError("the pickled list holds something else than rows of numbers")
    try:
        return np.array(row, dtype=np.float64)
    except OverflowError as error:
        raise InputError("the pickled list holds an integer that is too large for float64") from error


class ArrayInMemory(_RandomAccess):
    """A matrix that had to be read whole, because its file has no rows to read in place."""

    def __init__(self, path: Path, matrix: np.ndarray) -> None:
        self.path, self.matrix, self.dtype = path, matrix, matrix.dtype
        self.n_rows, self.n_features = _check_matrix(path, matrix.shape, matrix.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop), copied."""
        return np.array(self.matrix[start:stop])


class _CompressedNpz(DescriptorFile):
    """A deflated member of an .npz archive: decompressed anew, as a stream, on every pass."""

    def __init__(self, path: Path, member: str, shape: tuple[int, ...], dtype: np.dtype[Any], skip: int) -> None:
        self.path, self.member, self.dtype, self.skip = path, member, dtype, skip
        self.n_rows, self.n_features = _check_matrix(path, shape, dtype)

    def windows(self, size: int) -> Iterator[np.ndarray]:
        row_bytes = self.n_features * self.dtype.itemsize
        with _readable(self.path, "npz"), zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            file.read(self.skip)
            for start in range(0, self.n_rows, size):
                n_rows = min(size, self.n_rows - start)
                data = file.read(n_rows * row_bytes)
                if len(data) < n_rows * row_bytes:
                    raise InputError(f"{self.path} is truncated in member {self.member}")
                yield np.frombuffer(data, self.dtype).reshape(n_rows, self.n_features)


def _check_matrix(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return (n_rows, n_features) of a numeric 2-D matrix that has rows and columns, or say what is wrong."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise InputError(f"{path} has dtype {dtype}; allowed: numbers (bool, integers, floats up to 8 bytes)")
    if len(shape) != 2:
        raise InputError(f"{path} has shape {shape}; allowed: (n_rows, n_features), one row per image")
    if min(shape) < 1:
        missing = "row" if shape[0] < 1 else "column"
        raise InputError(f"{path} has shape {shape}: there is no {missing} in it; at least one is needed")
    return shape[0], shape[1]


@contextlib.contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into one line that names the file."""
    try:
        yield
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # on damaged bytes these libraries raise nearly anything, zlib.error to TokenError
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} is not a readable {kind} file: {text:.200}; it may be damaged or truncated"
        ) from error


def _read_npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def open_npy(path: Path, _memory: MemoryBudget) -> RawFile:
    """Open a NumPy .npy file in place."""
    with path.open("rb") as file:
        with _readable(path, "npy"):
            shape, fortran, dtype = _read_npy_header(file)
        opened = RawFile(path, shape, dtype, offset=file.tell(), fortran=fortran)
    extra = path.stat().st_size - opened.end
    if extra:
        raise InputError(f"{path} has {extra:,} bytes more than its header says; one array is read, save it alone")
    return opened


def open_npz(path: Path, memory: MemoryBudget) -> DescriptorFile:
    """Open the one 2-D array of a NumPy .npz archive: in place if it is stored, as a stream if it is deflated."""
    with _readable(path, "npz"), zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist() if info.filename.endswith(".npy")}
        heads = {}
        for member, info in members.items():
            with archive.open(info) as file:
                heads[member.removesuffix(".npy")] = (*_read_npy_header(file), file.tell())
    name = _the_one(path, "array", [name for name, head in heads.items() if len(head[0]) == 2], heads)
    info, (shape, fortran, dtype, skip) = members[name + ".npy"], heads[name]
    if info.file_size != skip + math.prod(shape) * dtype.itemsize:
        raise InputError(f"{path}: array {name} of shape {shape} does not match its {info.file_size:,} bytes")
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as raw:  # the local header repeats the name and has its own extra field
            raw.seek(info.header_offset + 26)
            lengths = int.from_bytes(raw.read(2), "little") + int.from_bytes(raw.read(2), "little")
        return RawFile(path, shape, dtype, offset=info.header_offset + 30 + lengths + skip, fortran=fortran)
    if not fortran:
        return _CompressedNpz(path, info.filename, shape, dtype, skip)
    memory.require(2 * info.file_size, f"{path} (compressed in Fortran order, which cannot be streamed)")
    with _readable(path, "npz"), np.load(path, allow_pickle=False) as archive_of_arrays:
        return ArrayInMemory(path, archive_of_arrays[name])


def open_pickle(path: Path, memory: MemoryBudget) -> DescriptorFile:
    """Open the array in a pickle without running anything that the file says, in place where it lies in one piece."""
    try:
        found = locate_array(path, max_bytes=max(memory.free // 2, _LEAST_BYTES))
        if isinstance(found, list):
            return _RowsInPickle(path, found)
    except InputError as error:
        raise InputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    if isinstance(found.data, RawBytes):
        return RawFile(path, found.shape, found.dtype, offset=found.data.offset, fortran=found.fortran)
    _check_matrix(path, found.shape, found.dtype)
    matrix = np.frombuffer(found.data, found.dtype).reshape(found.shape, order="F" if found.fortran else "C")
    return ArrayInMemory(path, matrix)


def open_hdf5(path: Path, _memory: MemoryBudget) -> DescriptorFile:
    """Open the one 2-D dataset of an HDF5 file."""
    return _Hdf5File(path)


class _Hdf5File(_RandomAccess):
    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        found: dict[str, Any] = {}
        with _readable(path, "HDF5"), h5py.File(path) as file:
            file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
            matrices = [name for name, item in found.items() if item.ndim == 2 and item.dtype.kind in "biuf"]
            self.dataset = _the_one(path, "dataset", matrices, found)
            dataset = found[self.dataset]
            if dataset.external or dataset.is_virtual:
                raise InputError(f"{path}: dataset {self.dataset} lies in other files; store it in this one")
            self.dtype = dataset.dtype
            self.n_rows, self.n_features = _check_matrix(path, dataset.shape, self.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop)."""
        import h5py

        with _readable(self.path, "HDF5"), h5py.File(self.path) as file:
            return np.asarray(file[self.dataset][start:stop])


def _the_one(path: Path, what: str, matrices: list[str], names: Iterable[str]) -> str:
    """Return the only 2-D entry, or the one that is called descriptors, features or embeddings."""
    named = [name for name in matrices if name.rsplit("/", 1)[-1] in ("descriptors", "features", "embeddings")]
    for choice in (matrices, named):
        if len(choice) == 1:
            return choice[0]
    raise InputError(
        f"{path} has {len(matrices)} two-dimensional {what}s (of: {', '.join(sorted(names)) or 'none'}); "
        f"exactly one is expected, or one called descriptors, features or embeddings"
    )


def open_parquet(path: Path, memory: MemoryBudget) -> DescriptorFile:
    """Open a parquet table of descriptors."""
    from toolkit.descriptors.tables import ParquetTable

    return ParquetTable(path, memory)


def open_csv(path: Path, memory: MemoryBudget) -> DescriptorFile:
    """Open a CSV table of descriptors."""
    from toolkit.descriptors.tables import CsvTable

    return CsvTable(path, memory)


FORMATS: dict[str, Callable[[Path, MemoryBudget], DescriptorFile]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".pickle": open_pickle,
    ".pkl": open_pickle,
    ".parquet": open_parquet,
    ".csv": open_csv,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
}


def open_descriptor(path: Path, memory: MemoryBudget) -> DescriptorFile:
    """Open a descriptor file by its extension, without loading it.

    Raises
    ------
    InputError
        If the format is unknown, or the file is damaged or does not hold one numeric matrix.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise unknown("descriptor format", path.suffix, FORMATS)
    if not path.is_file():
        raise InputError(f"descriptor file {path} does not exist")
    return FORMATS[path.suffix.lower()](path, memory)
