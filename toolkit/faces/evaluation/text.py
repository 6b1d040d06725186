"""How numbers are shown to a person."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
