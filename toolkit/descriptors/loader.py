"""DataLoader: which descriptors there are, how long they are, and which images their rows belong to."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backend.arrays import to_array
from toolkit.descriptors.formats import FORMATS, DescriptorFile, open_descriptor
from toolkit.errors import InputError, unknown
from toolkit.memory import MemoryBudget, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BLOCK_ROWS = 65_536
_PATHS_FILE = "images_paths.csv"
_QUARANTINE, _DUPLICATES = "quarantine_", "duplicate_files.csv"  # that lie beside descriptors, see toolkit.faces.embed
_PATH_BYTES = 4096  # that file systems take
_PATH_HEADERS = ("path", "paths", "image_path", "image_paths", "filename", "image", "image_name", "file")


class DataLoader:
    """Descriptor files of one folder, opened without loading them.

    Parameters
    ----------
    descriptor_names : sequence of str, optional
        File names without extension; by default every descriptor file in the folder.
    descriptor_folder : path
    image_paths : path, optional
        CSV with one image path per row of the descriptors; by default ``images_paths.csv`` in the folder. Without
        it, image names inside the descriptor files (``filename`` column of a CSV or parquet) are used, else the rows
        are numbered.
    verbose : bool
        Print what is opened and loaded.
    memory : str, int or MemoryBudget, optional
        Budget for the whole process, for instance ``"8GiB"``; by default 80 % of what is available.

    Attributes
    ----------
    names : tuple of str
    n_rows : int
        The same in every descriptor.
    descriptor : tuple (str, array)
        Name and matrix of what `load_descriptor` loaded last.

    Raises
    ------
    InputError
        If a file is missing, damaged or ambiguous, or the row counts differ.
    """

    def __init__(
        self,
        descriptor_names: Sequence[str] | None = None,
        descriptor_folder: str | Path = "descriptors",
        image_paths: str | Path | None = None,
        verbose: bool = False,  # noqa: FBT001, FBT002 (the signature that notebooks use)
        *,
        memory: str | int | MemoryBudget | None = None,
    ) -> None:
        self.folder = Path(descriptor_folder)
        self.memory = MemoryBudget.resolve(memory)
        self.verbose = verbose
        usual = self.folder / _PATHS_FILE
        self._paths_file = Path(image_paths) if image_paths is not None else usual if usual.exists() else None
        available = self._list_files()
        self.names = tuple(descriptor_names) if descriptor_names is not None else tuple(available)
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise InputError(f"descriptor {twice[0]!r} is named twice")
        missing = [name for name in self.names if name not in available]
        if missing:
            raise unknown("descriptor", missing[0], available or ["none: the folder holds no descriptor file"])
        if not self.names:
            raise InputError(f"folder {self.folder} holds no descriptor file; formats read: {' '.join(FORMATS)}")
        self._files = {name: open_descriptor(available[name], self.memory) for name in self.names}
        self.n_rows = self._same_length()
        self._image_paths: np.ndarray | None = None
        self.descriptor: tuple[str, Any] | None = None
        for name, file in self._files.items():
            self._say(f"{name}: {file.n_rows:,} x {file.n_features:,} {file.dtype} in {file.path}")

    def _list_files(self) -> dict[str, Path]:
        if not self.folder.is_dir():
            what = "is a file, not a folder" if self.folder.exists() else "does not exist"
            raise InputError(f"descriptor folder {self.folder} {what}; put it back, or name another")
        found: dict[str, Path] = {}
        for path in sorted(self.folder.iterdir()):
            is_paths = path.name == _PATHS_FILE or (
                self._paths_file is not None and path.resolve() == self._paths_file.resolve()
            )
            is_list = path.name == _DUPLICATES or path.name.startswith(_QUARANTINE)
            if path.suffix.lower() not in FORMATS or path.name.startswith(".") or is_paths or is_list:
                continue
            if not path.name.isprintable():
                raise InputError(f"the name of descriptor file {path.name!a} cannot be printed; rename it")
            if path.stem in found:
                raise InputError(f"descriptor {path.stem!r} is there twice: {found[path.stem].name} and {path.name}")
            found[path.stem] = path
        return found

    def _same_length(self) -> int:
        lengths = {name: file.n_rows for name, file in self._files.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {n:,}" for name, n in lengths.items())
            raise InputError(f"descriptors must have one row per image each, in the same order; rows found: {listed}")
        return next(iter(lengths.values()))

    def open(self, name: str) -> DescriptorFile:
        """Return the open descriptor file called `name`."""
        if name not in self._files:
            raise unknown("descriptor", name, self._files)
        return self._files[name]

    @property
    def image_paths(self) -> np.ndarray | None:
        """Image path of every row, (n_rows,) of str, or None if nobody says them.

        Raises
        ------
        InputError
            If there are more or fewer paths than rows.
        """
        if self._image_paths is None:
            if self._paths_file is not None:
                self._image_paths, source = read_paths(self._paths_file), str(self._paths_file)
            else:
                self._image_paths, source = self._names_in_files()
            if self._image_paths is not None and len(self._image_paths) != self.n_rows:
                raise InputError(
                    f"{source} has {len(self._image_paths):,} image paths, the descriptors have {self.n_rows:,} rows; "
                    f"both must list the same images in the same order"
                )
        return self._image_paths

    def _names_in_files(self) -> tuple[np.ndarray | None, str]:
        found, source = None, ""
        for name, file in self._files.items():
            names = file.image_names()
            if names is None:
                continue
            if found is not None and not np.array_equal(found, names):
                raise InputError(f"descriptors {source} and {name} name their images differently, row by row")
            found, source = names, name
        return found, source

    def n_sampled(self, data_fraction: float) -> int:
        """Return ``ceil(data_fraction * n_rows)``."""
        return math.ceil(data_fraction * self.n_rows)

    def rows(self, data_fraction: float = 1.0, random_state: int | None = None) -> np.ndarray | None:
        """Return ``ceil(data_fraction * n_rows)`` random row numbers, sorted, int64; None means all rows."""
        if not isinstance(data_fraction, int | float) or not 0 < data_fraction <= 1:
            raise InputError(f"fraction is {data_fraction!r:.40}; allowed: more than 0, at most 1")
        if random_state is not None and random_state < 0:
            raise InputError(f"random_state is {random_state}; allowed: None, or a whole number of at least 0")
        if data_fraction == 1:
            return None
        n_chosen = self.n_sampled(data_fraction)
        generator = np.random.default_rng(random_state)
        return np.sort(generator.choice(self.n_rows, n_chosen, replace=False, shuffle=False)).astype(np.int64)

    def blocks(
        self,
        name: str,
        data_fraction: float = 1.0,
        random_state: int | None = None,
        *,
        rows: np.ndarray | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield a descriptor's rows in order, in blocks that the memory budget allows.

        Parameters
        ----------
        name : str
        data_fraction, random_state
            As in `rows`.
        rows : ndarray of int64, optional
            Sorted row numbers, instead of a random fraction.

        Yields
        ------
        ndarray (at most 65,536, n_features)
            In the file's own dtype.
        """
        file = self.open(name)
        row_bytes = 2 * file.n_features * file.dtype.itemsize  # a window, and the rows taken from it
        size = self.memory.rows_that_fit(row_bytes, wanted=_BLOCK_ROWS, what=f"a block of {name}")
        yield from file.blocks(size, self.rows(data_fraction, random_state) if rows is None else rows)

    def load_descriptor(
        self, name: str, dtype: str = "numpy", data_fraction: float = 1.0, random_state: int | None = None
    ) -> Any:
        """Load a descriptor, or a random part of it, into memory.

        Parameters
        ----------
        name : str
        dtype : {"numpy", "cupy", "torch"}
            The array library.
        data_fraction : float
            ``ceil(data_fraction * n_rows)`` random rows are taken, in their order.
        random_state : int, optional

        Returns
        -------
        array (n_rows, n_features)
            In the file's own dtype; also kept as `descriptor`.
        """
        file = self.open(name)
        rows = self.rows(data_fraction, random_state)
        n_rows = self.n_rows if rows is None else len(rows)
        n_bytes = n_rows * file.n_features * file.dtype.itemsize
        self.memory.require(n_bytes, f"{name} in memory ({n_rows:,} x {file.n_features:,} {file.dtype})")
        matrix = np.empty((n_rows, file.n_features), file.dtype.newbyteorder("="))
        filled = 0
        for block in self.blocks(name, data_fraction, random_state, rows=rows):
            matrix[filled : filled + len(block)] = block
            filled += len(block)
        self._say(f"{name}: loaded {n_rows:,} rows, {format_size(n_bytes)}")
        self.descriptor = (name, to_array(matrix, dtype))
        return self.descriptor[1]

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text)


class OneFile(DataLoader):
    """The loader of one file, whatever else lies beside it."""

    def __init__(self, path: Path, image_paths: Path | None, memory: MemoryBudget) -> None:
        self._path = path
        super().__init__([path.stem], path.parent, image_paths, memory=memory)

    def _list_files(self) -> dict[str, Path]:
        return {self._path.stem: self._path}


def read_paths(path: Path) -> np.ndarray:
    """Read the image paths: a one-column CSV, or the column of a table that is called path, filename or the like."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError as error:
        raise InputError(f"image paths {path} does not exist") from error
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise InputError(f"image paths {path} is not a readable CSV: {error}") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    named = [header.index(name) for name in _PATH_HEADERS if name in header]
    if not named and header not in ([""], ["0"], ["", "0"]):  # no header: pandas writes a nameless or numbered one
        if len(header) > 1:
            raise InputError(
                f"image paths {path} has no column called any of: {', '.join(_PATH_HEADERS)}; there are: "
                f"{', '.join(header)[:200]}"
            )
        return _as_array([row[0] for row in rows], path)
    column = named[0] if named else len(header) - 1
    ragged = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if ragged is not None:
        raise InputError(
            f"image paths {path}: row {ragged} has {len(rows[ragged])} columns, the header has {len(header)}; quote "
            f"paths that hold commas"
        )
    return _as_array([row[column] for row in rows[1:]], path)


def check_path(path: str, where: Path) -> None:
    """Refuse a path of an image that no file system takes: arrays of text give each entry the room of the longest."""
    if len(path) > _PATH_BYTES // 4 and (n_bytes := len(path.encode(errors="surrogatepass"))) > _PATH_BYTES:
        raise InputError(
            f"{where} names an image by {n_bytes:,} bytes ({path[:40]!r}...); allowed: {_PATH_BYTES:,}; rename it"
        )


def _as_array(paths: list[str], where: Path) -> np.ndarray:
    for path in paths:
        check_path(path, where)
    return np.array(paths)
