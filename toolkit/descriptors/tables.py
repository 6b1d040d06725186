"""Descriptor tables: parquet and CSV, read as streams of record batches.

A value that is missing or is no number, and a vector of another length, make a row of NaN: the row is quarantined
later, with the file going on.
"""

from __future__ import annotations

import csv
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from toolkit.descriptors.formats import DescriptorFile
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from toolkit.memory import MemoryBudget

_NAME_HEADERS = {"filename", "file", "image", "image_path", "image_name", "path", "name"}
_IGNORED_HEADERS = {"", "index", "row", "id", "label", "class", "__index_level_0__"}
_NUMBER = r"^[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|NaN|inf|Inf|infinity|Infinity)$"
_BATCH_BYTES = 16 << 20
_SAMPLE_ROWS = 100


class _Table(DescriptorFile):
    """A table with either one column of vectors or one column per feature.

    Attributes
    ----------
    features : list of str
        The columns that hold the numbers.
    vectors : bool
        Whether that is one column of vectors.
    name_column : str or None
        The column of image names.
    """

    features: list[str]
    vectors: bool
    name_column: str | None

    @abstractmethod
    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Yield record batches with the given columns, in order."""

    def windows(self, size: int) -> Iterator[np.ndarray]:
        held: list[np.ndarray] = []
        n_held = 0
        for batch in self.batches(self.features):
            held.append(self._matrix(batch))
            n_held += len(held[-1])
            if n_held >= size:
                rows = np.concatenate(held)
                n_whole = n_held - n_held % size
                for start in range(0, n_whole, size):
                    yield rows[start : start + size]
                held, n_held = [rows[n_whole:].copy()], n_held - n_whole
        if n_held:
            yield np.concatenate(held)

    def image_names(self) -> np.ndarray | None:
        if self.name_column is None:
            return None
        names = [batch.column(0).to_pylist() for batch in self.batches([self.name_column])]
        return np.array([str(name) for batch in names for name in batch])

    def _matrix(self, batch: Any) -> np.ndarray:
        """Return the batch as (rows, n_features), rows that are not whole as NaN."""
        if not self.vectors:
            matrix = np.empty((batch.num_rows, self.n_features), self.dtype)
            for j in range(self.n_features):
                matrix[:, j] = _to_numbers(batch.column(j))
            return matrix
        column = _split(batch.column(0))
        whole = pc.fill_null(pc.equal(pc.list_value_length(column), self.n_features), False)  # noqa: FBT003
        matrix = np.full((batch.num_rows, self.n_features), np.nan, self.dtype)
        values = _to_numbers(pc.list_flatten(column.filter(whole)))
        matrix[np.asarray(whole)] = values.reshape(-1, self.n_features)
        return matrix


def _split(column: Any) -> Any:
    """Return a column of vectors; text is split at its commas."""
    if pa.types.is_string(column.type):
        return pc.split_pattern(pc.utf8_trim(column, characters="[]() \t"), ",")
    return column


def _to_numbers(column: Any) -> np.ndarray:
    """Return a column as floats, NaN where a value is missing or is no number."""
    if pa.types.is_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        try:
            column = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            number = pc.match_substring_regex(column, _NUMBER)
            column = pc.cast(pc.if_else(number, column, None), pa.float64())
    elif column.null_count and not pa.types.is_floating(column.type):
        column = pc.cast(column, pa.float64(), safe=False)
    return np.asarray(column.to_numpy(zero_copy_only=False))


class ParquetTable(_Table):
    """A parquet file: a list column, a fixed-size-list column, or one column per feature."""

    def __init__(self, path: Path, memory: MemoryBudget) -> None:
        self.path, self.memory = path, memory
        try:
            with pq.ParquetFile(path) as file:
                schema, self.n_rows = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from error
        texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        self.name_column = texts[0] if texts else None
        lists = [f for f in schema if _is_vector(f.type)]
        self.vectors = bool(lists)
        if lists:
            if len(lists) > 1:
                raise InputError(f"{path} has {len(lists)} columns of vectors; exactly one is expected")
            self.features = [lists[0].name]
            kinds = {lists[0].type.value_type}
        else:
            numeric = [f for f in schema if _is_number(f.type) and f.name not in _IGNORED_HEADERS]
            self.features, kinds = [f.name for f in numeric], {f.type for f in numeric}
        if not self.n_rows or not self.features:
            raise InputError(
                f"{path} holds no vectors: {self.n_rows} rows, {len(schema)} columns, none of them numeric"
            )
        self.dtype = np.dtype("f4" if kinds <= {pa.float16(), pa.float32()} else "f8")
        self.n_features = self._width() if self.vectors else len(self.features)

    def _width(self) -> int:
        for batch in self.batches(self.features):
            lengths = pc.drop_null(pc.list_value_length(batch.column(0)))
            if len(lengths) and (width := lengths[0].as_py()):
                return int(width)
        raise InputError(f"{self.path}: no row of column {self.features[0]} holds a vector")

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Yield record batches of about 16 MiB."""
        try:
            with pq.ParquetFile(self.path) as file:
                rows = max(1, _BATCH_BYTES // (8 * getattr(self, "n_features", 1024)))
                yield from file.iter_batches(rows, columns=columns, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.path} is damaged: {str(error).splitlines()[0]}") from error


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _is_vector(kind: Any) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and _is_number(kind.value_type))


class CsvTable(_Table):
    """A CSV file: ``filename,features`` with the numbers as one comma-joined text, or one column per feature."""

    dtype = np.dtype("f8")

    def __init__(self, path: Path, memory: MemoryBudget) -> None:
        self.path, self.memory = path, memory
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for _, row in zip(range(_SAMPLE_ROWS + 1), csv.reader(file), strict=False)]
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} is not a readable CSV: {error}") from error
        if not rows:
            raise InputError(f"{path} is empty: no header and no row in it")
        self.has_header = not all(_as_vector(value) for value in rows[0])
        self.columns = rows[0] if self.has_header else [f"f{j}" for j in range(len(rows[0]))]
        sample = rows[1:] if self.has_header else rows
        if not sample:
            raise InputError(f"{path} has a header and no row: at least one image is needed")
        widths = [max(_as_vector(row[j]) for row in sample if len(row) > j) for j in range(len(sample[0]))]
        self._choose_columns(widths)
        self.n_rows = sum(batch.num_rows for batch in self.batches([self.columns[0]]))

    def _choose_columns(self, widths: list[int]) -> None:
        """Decide from how many numbers the cells of each column hold which columns are features."""
        named = list(zip(self.columns, widths, strict=False))
        vectors = [name for name, width in named if width > 1]
        names = [name for name, width in named if name.lower() in _NAME_HEADERS or (width == 0 and name)]
        self.name_column = names[0] if names else None
        self.vectors = bool(vectors)
        if len(vectors) > 1:
            raise InputError(f"{self.path} has {len(vectors)} columns of vectors; exactly one is expected")
        ignored = _IGNORED_HEADERS | _NAME_HEADERS
        self.features = vectors or [name for name, width in named if width == 1 and name.lower() not in ignored]
        self.n_features = max(widths) if vectors else len(self.features)
        if not self.features:
            raise InputError(f"{self.path} has no column of numbers (columns: {', '.join(self.columns)[:200]})")

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Yield record batches of about 16 MiB, every column as text."""
        read = pa.csv.ReadOptions(
            block_size=_BATCH_BYTES, column_names=self.columns, skip_rows=1 if self.has_header else 0
        )
        convert = pa.csv.ConvertOptions(
            include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True
        )
        try:
            with pa.csv.open_csv(self.path, read_options=read, convert_options=convert) as reader:
                yield from reader
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.path} is damaged: {str(error).splitlines()[0][:200]}") from error


def _as_vector(text: str) -> int:
    """Return how many numbers, separated by commas, a cell holds; 0 if it holds anything else."""
    parts = text.strip("[]() \t").split(",")
    try:
        return len([float(part) for part in parts])
    except ValueError:
        return 0
