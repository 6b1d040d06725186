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

_NAME_HEADERS = ("filename", "file", "image", "image_path", "image_name", "path", "name")  # the first found is taken
_IGNORED_HEADERS = {"", "index", "row", "id", "label", "class", "unnamed: 0", "__index_level_0__"}
_NUMBER = r"^[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|NaN|inf|Inf|infinity|Infinity)$"
_BATCH_BYTES = 16 << 20
_SAMPLE_ROWS = 100
_MAX_CELL = 1 << 26  # characters; the csv module's own limit is below a vector of 10,000 numbers


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
        return np.array(["" if name is None else str(name) for batch in names for name in batch])

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
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        try:
            column = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            number = pc.match_substring_regex(column, _NUMBER)
            column = pc.cast(pc.if_else(number, column, None), pa.float64())
    elif not pa.types.is_floating(column.type):
        column = pc.cast(column, pa.float64(), safe=False)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _choose_names(candidates: dict[str, str]) -> str | None:
    """Return the column of image names: column -> its header, for the columns that may be it."""
    headers = {header.lower(): column for column, header in candidates.items()}
    usual = [headers[header] for header in _NAME_HEADERS if header in headers]
    nameless = [headers[header] for header in ("", "__index_level_0__") if header in headers]  # pandas' index
    return next(iter(usual + nameless), None)


class ParquetTable(_Table):
    """A parquet file: a list column, a fixed-size-list column, or one column per feature."""

    def __init__(self, path: Path, memory: MemoryBudget) -> None:
        self.path, self.memory = path, memory
        try:
            with pq.ParquetFile(path) as file:
                schema, metadata = file.schema_arrow, file.metadata
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from error
        self.n_rows = metadata.num_rows
        index = [name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
        known = {*_NAME_HEADERS, *_IGNORED_HEADERS, *(name.lower() for name in index)}
        may_be_names = [f for f in schema if _is_text(f.type) or f.name.lower() in _NAME_HEADERS]
        self.name_column = _choose_names({f.name: "" if f.name in index else f.name for f in may_be_names})
        lists = [field for field in schema if _is_vector(field.type)]
        numeric = [field for field in schema if _is_number(field.type) and field.name.lower() not in known]
        self.vectors = bool(lists)
        if len(lists) > 1:
            raise InputError(f"{path} has {len(lists)} columns of vectors; exactly one is expected")
        self.features = [field.name for field in lists or numeric]
        if not self.n_rows or not self.features:
            what = "no row" if not self.n_rows else "no column of numbers or of vectors"
            raise InputError(f"{path} has {what} in it ({self.n_rows} rows, {len(schema)} columns)")
        chosen = {*self.features, self.name_column}
        strangers = [f.name for f in schema if f.name not in chosen and f.name.lower() not in known]
        if strangers and not lists:
            raise InputError(
                f"{path}: column {strangers[0]!r} holds no numbers; call it filename if it names images, or drop it"
            )
        kinds = {field.type.value_type for field in lists} or {field.type for field in numeric}
        self.dtype = np.dtype("f4" if kinds <= {pa.float16(), pa.float32()} else "f8")
        groups = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
        memory.require(2 * max(groups), f"the largest row group of {path} (write it with smaller row groups)")
        self.n_features = self._width() if self.vectors else len(self.features)

    def _width(self) -> int:
        """Return the most common length of the vectors that are read first."""
        for batch in self.batches(self.features):
            lengths = pc.drop_null(pc.list_value_length(batch.column(0))).to_numpy(zero_copy_only=False)
            if lengths.any():
                return int(np.bincount(lengths[lengths > 0]).argmax())
        raise InputError(f"{self.path}: no row of column {self.features[0]} holds a vector")

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Yield record batches of about 16 MiB."""
        rows = max(1, _BATCH_BYTES // (8 * getattr(self, "n_features", 1024)))
        try:
            with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 16) as file:
                yield from file.iter_batches(rows, columns=columns, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.path} is damaged: {str(error).splitlines()[0]}") from error


def _is_number(kind: Any) -> bool:
    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def _is_text(kind: Any) -> bool:
    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_vector(kind: Any) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and _is_number(kind.value_type))


class CsvTable(_Table):
    """A CSV file: ``filename,features`` with the numbers as one comma-joined text, or one column per feature.

    The columns are called c0, c1, ... inside, so that headers may repeat.
    """

    dtype = np.dtype("f8")

    def __init__(self, path: Path, memory: MemoryBudget) -> None:
        self.path, self.memory = path, memory
        csv.field_size_limit(_MAX_CELL)
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = [row for _, row in zip(range(_SAMPLE_ROWS + 1), filter(None, csv.reader(file)), strict=False)]
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} is not a readable CSV: {error}") from error
        if not rows:
            raise InputError(f"{path} is empty: no header and no row in it")
        ragged = next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), None)
        if ragged is not None:
            raise InputError(f"{path}: row {ragged} has {len(rows[ragged])} columns, the first has {len(rows[0])}")
        below = [_Column([row[j] for row in rows[1:]]) for j in range(len(rows[0]))]
        try:
            self.has_header = _is_header(rows[0], below)
        except _AmbiguousError as error:
            raise InputError(
                f"{path}: the first row may be a header or numbers; add a header that is no number"
            ) from error
        self.headers = rows[0] if self.has_header else [""] * len(rows[0])
        self.columns = [f"c{j}" for j in range(len(rows[0]))]
        if self.has_header and len(rows) == 1:
            raise InputError(f"{path} has a header and no row: at least one image is needed")
        content = below if self.has_header else [_Column(list(cells)) for cells in zip(*rows, strict=True)]
        if not self.has_header and (problem := _headerless_problem(content)):
            raise InputError(f"{path} has no header, and {problem}; add a header, or leave the column out")
        self._choose_columns(content)
        self.n_rows = sum(batch.num_rows for batch in self.batches([self.columns[0]]))

    def _choose_columns(self, content: list[_Column]) -> None:
        """Decide from headers and content which columns are features and which one holds the names."""
        known = [header.strip().lower() for header in self.headers]
        texts = {
            self.columns[j]: known[j] for j in range(len(known)) if known[j] in _NAME_HEADERS or content[j].is_text
        }
        self.name_column = _choose_names(texts)
        vectors = [j for j, column in enumerate(content) if column.width > 1]
        numbers = [
            j
            for j, column in enumerate(content)
            if column.width == 1
            and self.columns[j] not in texts
            and not (self.has_header and known[j] in _IGNORED_HEADERS)
        ]
        if len(vectors) > 1:
            raise InputError(f"{self.path} has {len(vectors)} columns of vectors; exactly one is expected")
        chosen = vectors or numbers
        if not chosen:
            raise InputError(f"{self.path} has no column of numbers (columns: {', '.join(self.headers)[:200]})")
        expected = {*_NAME_HEADERS, *_IGNORED_HEADERS}
        strangers = [j for j in range(len(known)) if j not in numbers and known[j] not in expected]
        if strangers and not vectors:
            raise InputError(
                f"{self.path}: column {self.headers[strangers[0]]!r} holds no numbers at its top; "
                f"call it filename if it names the images, or leave it out"
            )
        self.vectors = bool(vectors)
        self.features = [self.columns[j] for j in chosen]
        self.n_features = content[vectors[0]].width if vectors else len(numbers)

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Yield record batches of up to 16 MiB of the file, every column as text."""
        block_size = int(np.clip(self.memory.free // 32, 1 << 20, _BATCH_BYTES))
        read = pa.csv.ReadOptions(
            block_size=block_size, column_names=self.columns, skip_rows_after_names=int(self.has_header)
        )
        convert = pa.csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=columns != [self.name_column],
        )
        parse = pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(self.columns) > 1)
        try:
            with pa.csv.open_csv(self.path, read_options=read, parse_options=parse, convert_options=convert) as reader:
                yield from reader
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.path} is damaged: {str(error).splitlines()[0][:200]}") from error


class _Column:
    """What the cells of a CSV column hold: `width` numbers each (0: none), or text."""

    def __init__(self, cells: list[str]) -> None:
        self.cells = cells
        filled = [cell for cell in cells if cell.strip()]
        widths = [width for cell in filled if (width := _as_vector(cell))]
        self.is_text = len(filled) > 2 * len(widths)
        self.width = 0 if self.is_text or not widths else max(set(widths), key=widths.count)

    @property
    def has_fractions(self) -> bool:
        """Whether a number that is not whole is among the cells."""
        return any(_as_vector(cell) == 1 and not float(cell.strip("[]() \t")).is_integer() for cell in self.cells)


class _AmbiguousError(Exception):
    """A first row that may be a header or numbers."""


def _is_header(row: list[str], below: list[_Column]) -> bool:
    """Tell whether the first row is a header.

    It is if it has a known header, text above numbers, nothing above numbers (pandas' index), or counts the columns
    above numbers that are not whole. Rising whole numbers might be either, where they count from 0 or stand above
    numbers that are not whole.

    Raises
    ------
    _AmbiguousError
        If both are possible.
    """
    cells = [cell.strip() for cell in row]
    if any(cell.lower() in {*_NAME_HEADERS, *_IGNORED_HEADERS} - {""} for cell in cells):
        return True
    above = [(cell, column) for cell, column in zip(cells, below, strict=True) if not column.is_text]
    if not any(column.width for _, column in above):  # nothing but text, or no further row
        return not any(map(_as_vector, cells))
    filled = [cell for cell, _ in above if cell]
    if not filled or not all(map(_as_vector, filled)) or (not cells[0] and below[0].width):
        return True
    if not all(cell.isdigit() for cell in filled):
        return False
    numbers = [int(cell) for cell in filled]
    if numbers != sorted(set(numbers)):
        return False
    counted = numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] in (0, 1)
    has_fractions = len(numbers) > 1 and any(column.has_fractions for _, column in above)
    if has_fractions and counted:
        return True
    if has_fractions or (counted and numbers[0] == 0):
        raise _AmbiguousError
    return False


def _headerless_problem(content: list[_Column]) -> str | None:
    """Say why the columns of a file without a header cannot be told apart, if so."""
    texts = [j for j, column in enumerate(content) if column.is_text]
    if texts not in ([], [0]):
        return f"column {texts[-1]} holds text"
    counts = [str(i) for i in range(len(content[0].cells))]
    if len(content) > 1 and len(counts) > 2 and [cell.strip() for cell in content[0].cells] == counts:
        return "its first column counts the rows"
    return None


def _as_vector(text: str) -> int:
    """Return how many numbers, separated by commas, a cell holds; 0 if it holds anything else."""
    parts = text.strip("[]() \t").split(",")
    try:
        return len([float(part) for part in parts])
    except ValueError:
        return 0
