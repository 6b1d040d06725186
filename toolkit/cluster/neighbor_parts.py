"""The neighbour pass in parts that different processes can do: pairs of groups of points, each multiplied once.

A part keeps, for the rows of both its groups, the candidates that reach the thresholds of the rows; what all parts kept
for a row is then measured together. The lists are those of `toolkit.cluster.neighbors`, to the bit: they are exact,
whatever was kept beyond the nearest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from toolkit.atomic import atomic_file
from toolkit.backend.cpu import ordered_map
from toolkit.cluster.lists import ENTRY_BYTES
from toolkit.cluster.neighbors import Pass, PassPlan, nth_reached, stretches, tournament
from toolkit.cluster.points import Products, tile
from toolkit.descriptors.cache import write_npy_header
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from toolkit.cluster.lists import ListSink

BLOCK = 1024  # points in a block of a pass; groups begin at multiples of it
MERGED_BYTES = 64 << 20  # of candidates and lists that are measured at once
_COLUMN = np.uint64(0xFFFFFFFF)  # of a candidate, the bits of its column

Range = tuple[int, int]


@dataclass(frozen=True)
class Candidates:
    """What one part kept for the rows of one group.

    Attributes
    ----------
    counts : ndarray (n_rows,) int32
    thresholds : ndarray (n_rows,) float32
        Within which all was kept; see `Pass.hold`.
    keys : ndarray (sum of counts,) uint64
        Row by row: the bits of the lower bound, then the point.
    """

    counts: np.ndarray
    thresholds: np.ndarray
    keys: np.ndarray

    def save(self, path: Path) -> None:
        """Write a file, whole or not at all."""
        with atomic_file(path) as file:
            for array in (self.counts, self.thresholds, self.keys):
                write_npy_header(file, array.shape, array.dtype)
                file.write(np.ascontiguousarray(array).data)

    @classmethod
    def load(cls, path: Path) -> Candidates:
        """Read a file that `save` wrote."""
        with path.open("rb") as file:
            return cls(*(np.lib.format.read_array(file, allow_pickle=False) for _ in range(3)))


def whole_products(X: np.ndarray) -> Products:
    """Prepare all points in their own order, so that a column is a point."""
    return Products.of(X, np.arange(len(X), dtype=np.int32))


def sample_products(products: Products, plan: PassPlan) -> Products:
    """Return those of the random sample that decides the thresholds."""
    return _some(products, plan.sample_first()[: plan.n_sampled])


def row_thresholds(products: Products, sample: Products, plan: PassPlan, rows: Range) -> np.ndarray:
    """Return what the candidates of a group of rows must reach, (n_rows,) float32."""
    if plan.rank >= plan.n_sampled:
        return np.full(rows[1] - rows[0], -np.inf, np.float32)

    def reach(stretch: Range) -> np.ndarray:
        these = slice(*stretch)
        values = tile(products.rows[these], sample.rows)
        return nth_reached(values, sample.offsets, products.offsets[these], plan.rank)

    return np.concatenate(list(ordered_map(reach, stretches(*rows, plan.strip), workers=n_threads())))


def pair_bytes(plan: PassPlan, n_rows: int) -> int:
    """Return what the candidates of so many rows take while a part is done."""
    return 16 * plan.capacity * n_rows  # held, and what is copied out of it


def pair_candidates(
    X: np.ndarray, products: Products, plan: PassPlan, groups: Sequence[Range], thresholds: Sequence[np.ndarray]
) -> list[Candidates]:
    """Multiply the points of two groups, or of one with itself, and return the candidates of each group.

    Parameters
    ----------
    X : ndarray (n_points, n_features) float32 or float64
    products : Products
        Of all points; see `whole_products`.
    plan : PassPlan
    groups : sequence of one or two (start, stop)
        The first of two has a multiple of `BLOCK` points.
    thresholds : sequence of ndarray (n_rows,) float32
        Of each group.
    """
    points = np.concatenate([np.arange(*group, dtype=np.int32) for group in groups])
    own = _some(products, points)
    passing = Pass(X, own, _Nowhere(), plan, lambda _: None)
    passing.hold(np.arange(len(points)))
    keys, counts, limits = passing.candidates[:3]
    limits[:] = np.concatenate(thresholds)
    blocks = stretches(0, len(points), BLOCK)
    n_first = (groups[0][1] - groups[0][0]) // BLOCK
    passing.run(passing.scan_pair, tournament(blocks) if len(groups) == 1 else _across(blocks, n_first))
    found, start = [], 0
    for first, last in groups:
        rows = slice(start, start + last - first)
        flat = np.empty(int(counts[rows].sum()), np.uint64)
        _collect(keys[rows], counts[rows], points, flat)
        found.append(Candidates(counts[rows].copy(), limits[rows].copy(), flat))
        start = rows.stop
    return found


def merge_candidates(
    X: np.ndarray, products: Products, plan: PassPlan, rows: Range, parts: Sequence[Candidates], lists: ListSink
) -> None:
    """Measure what all parts kept for a group of rows, and write the lists of these.

    Parameters
    ----------
    X, products, plan
        As in `pair_candidates`.
    rows : (start, stop)
    parts : sequence of Candidates
        From every group, this one included.
    lists : ListSink
    """
    passing = Pass(X, products, lists, plan, lambda _: None)
    totals = np.stack([part.counts for part in parts]).sum(axis=0, dtype=np.int64)
    limits = np.stack([part.thresholds for part in parts]).max(axis=0)
    starts = [np.concatenate([[0], np.cumsum(part.counts, dtype=np.int64)]) for part in parts]
    step = max(1, MERGED_BYTES // (8 * max(int(totals.max()), 1) + ENTRY_BYTES * plan.n_neighbors))
    for low, high in stretches(0, rows[1] - rows[0], step):
        keys = np.empty((high - low, max(int(totals[low:high].max()), 1)), np.uint64)
        counts = np.zeros(high - low, np.int32)
        for part, begins in zip(parts, starts, strict=True):
            _gather(part.keys, begins, low, keys, counts)
        held = np.arange(rows[0] + low, rows[0] + high)
        passing.candidates = (keys, counts, limits[low:high].copy(), held, plan.n_neighbors)
        passing.finish()
    late, passing.incomplete = passing.incomplete, []
    for low, high in stretches(0, len(late), BLOCK):
        passing.again(np.array(late[low:high]))
    if passing.incomplete:
        raise AssertionError(f"the bound of the products failed for {len(passing.incomplete)} rows; please report this")


class _Nowhere:
    """Stands where lists would, in a part that makes none."""

    def write(self, points: np.ndarray, squared: np.ndarray, indices: np.ndarray) -> None:
        raise AssertionError("a part of a pass keeps candidates and writes no lists")


def _some(products: Products, points: np.ndarray) -> Products:
    """Return the products of some points, in this order."""
    kept = {name: getattr(products, name)[points] for name in ("rows", "offsets", "margins")}
    return replace(products, order=points, **kept)


def _across(blocks: list[Range], n_first: int) -> Iterator[tuple[Range, Range]]:
    """Yield every pair of one of the first blocks and one of the rest, so that those near in time share no block."""
    first, rest = blocks[:n_first], blocks[n_first:]
    for turn in range(max(len(first), len(rest))):
        for at in range(min(len(first), len(rest))):
            if len(first) <= len(rest):
                yield first[at], rest[(at + turn) % len(rest)]
            else:
                yield first[(at + turn) % len(first)], rest[at]


@njit(nogil=True, cache=True)
def _collect(keys, counts, points, flat):  # type: ignore[no-untyped-def]
    """Put the candidates of all rows one after the other, with points in place of columns."""
    at = 0
    for row in range(len(keys)):
        for u in range(counts[row]):
            key = keys[row, u]
            flat[at] = (key & ~_COLUMN) | np.uint64(points[np.intp(key & _COLUMN)])
            at += 1


@njit(nogil=True, cache=True)
def _gather(flat, begins, first, keys, counts):  # type: ignore[no-untyped-def]
    """Add the candidates of the rows from `first` on to `keys`, and count them."""
    for row in range(len(keys)):
        for at in range(begins[first + row], begins[first + row + 1]):
            keys[row, counts[row]] = flat[at]
            counts[row] += 1
