"""The CSVs of paths, identities, labels and pairs, and how numbers are shown to a person."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING

from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

PATH_COLUMNS = ("path", "image_path", "filename", "image_name")


class Table:
    """A CSV with a header, in UTF-8."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                lines = [row for row in csv.reader(file, strict=True) if row]
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist; give a CSV") from error
        except (UnicodeDecodeError, csv.Error, OSError) as error:
            raise InputError(f"{path} is not a readable CSV in UTF-8: {error}") from error
        self.header = [name.strip() for name in lines[0]] if lines else []
        ragged = next((i for i, row in enumerate(lines) if len(row) != len(self.header)), None)
        if ragged is not None:
            raise InputError(
                f"{path}: row {ragged} has {len(lines[ragged])} columns, the header has {len(self.header)}; quote "
                f"cells that hold commas"
            )
        self.rows = lines[1:]

    def find(self, names: Sequence[str]) -> int | None:
        """Return the place of the first of these columns that there is; case does not matter."""
        header = [name.lower() for name in self.header]
        return next((header.index(name) for name in names if name in header), None)

    def column(self, names: Sequence[str]) -> list[str]:
        """Return the first of these columns that there is."""
        place = self.find(names)
        if place is None:
            raise InputError(
                f"{self.path} has no column {' or '.join(names)}; there are: {', '.join(self.header)[:200] or 'none'}"
            )
        return self.cells(place)

    def cells(self, place: int) -> list[str]:
        """Return the column at a place."""
        return [row[place].strip() for row in self.rows]


def number(value: float) -> str:
    """Write a measure with four digits, or a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def left_out_text(counts: Iterable[tuple[int, str]]) -> str:
    """Say how many of what were left out, if any were."""
    texts = [f"{n:,} {what}" for n, what in counts if n]
    return f"; left out: {', '.join(texts)}" if texts else ""


def aligned(rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Return lines in which names and cells stand below each other."""
    first = max(len(name) for name, _ in rows)
    width = max(len(cell) for _, cells in rows for cell in cells)
    return [f"{name:<{first}}" + "".join(f"  {cell:>{width}}" for cell in cells) for name, cells in rows]
