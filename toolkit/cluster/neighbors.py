"""The k nearest neighbours of every point, exactly, in one blocked pass over all pairs.

Each pair of points is multiplied once, in float32. A row keeps a pair if a lower bound of the distance is within the
row's threshold, which comes from a sample of the columns; what was kept is measured again as float64 differences, and
a row whose threshold turns out too tight is done again. So the lists are exact, whatever the float32 products say.
"""

from __future__ import annotations

import contextlib
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from toolkit.backend.cpu import ordered_map
from toolkit.backend.simd import (
    LANES,
    bits_float,
    float_bits,
    lowest_bit,
    prefetch_row,
    reaching,
    squared_distance,
)
from toolkit.cluster.points import Products, padded, tile
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from toolkit.cluster.lists import ListSink, NeighborLists

_BLOCK = 1024  # points in a block; a pair of blocks is the unit of work
_TILE_ROWS = 512  # of a pair of blocks at once: 2 MiB of products, about a core's own cache
_SAMPLE_SHARE = 16  # one in so many points decides the thresholds
_SAMPLE_BYTES = 8 << 20  # of products with the sample at once
_MEASURED_BYTES = 4 << 20  # of candidates and lists that are measured at once
_LEAST_REACHED = np.float32(-(2.0**-126))  # where a threshold is 0, no distance above 0 would be certain
_ROWS = np.uint32((1 << LANES) - 1)  # of a mask, the bits of the rows
_PREFETCH = 6  # rows ahead of the one that is measured


@njit(nogil=True, cache=True)
def _scan(products, begin, row, offsets, column, column_offsets, column_thresholds, candidates, points):  # type: ignore[no-untyped-def]
    """Keep the entries of a tile that reach the threshold of their row or of their column.

    Parameters
    ----------
    products : ndarray (n_rows, n_padded) float32
    begin : int
        The column of the tile at which to start; ``len(column_offsets)`` columns are scanned.
    row : int
        Of the candidates, for the first row of the tile.
    offsets : ndarray (n_rows,) float32
    column : int
        Of the order of the points, for the first column that is scanned.
    column_offsets, column_thresholds : ndarray (n_columns,) float32, padded with NaN and inf
        A threshold of inf leaves the column alone; otherwise its candidates are in row ``column - rows[0]``.
    candidates : tuple of (keys, counts, thresholds, rows, n_neighbors)
        See `Pass.panel`.
    points : tuple of (X, order, margins, scale)
    """
    keys, counts, thresholds, rows, _ = candidates
    flat = products.reshape(-1)
    stride = products.shape[1]
    capacity = keys.shape[1]
    for i in range(len(products)):
        own = row + i
        offset, threshold, count = offsets[i], thresholds[own], counts[own]
        start = i * stride + begin
        for j in range(0, len(column_offsets), LANES):
            mask = reaching(flat, start + j, column_offsets, column_thresholds, j, offset, threshold)
            while mask & _ROWS != 0:
                at = j + np.intp(lowest_bit(mask))
                mask &= mask - np.uint32(1)
                value = (flat[start + at] + column_offsets[at]) + offset
                if count == capacity:
                    counts[own] = count
                    _compact(own, candidates, points)
                    count, threshold = counts[own], thresholds[own]
                if value >= threshold:
                    keys[own, count] = _pack(value, column + at)
                    count += 1
            while mask != 0:
                at = j + np.intp(lowest_bit(mask)) - LANES
                mask &= mask - np.uint32(1)
                value = (flat[start + at] + column_offsets[at]) + offset
                other = column + at - rows[0]
                if counts[other] == capacity:
                    _compact(other, candidates, points)
                    column_thresholds[at] = thresholds[other]
                if value >= column_thresholds[at]:
                    keys[other, counts[other]] = _pack(value, rows[own])
                    counts[other] += 1
        counts[own] = count


@njit(nogil=True, cache=True)
def _compact(own, candidates, points):  # type: ignore[no-untyped-def]
    """Tighten the threshold of a row to the k-th smallest upper bound, and drop what is beyond it.

    Where that frees little, because many distances are nearly equal, the candidates are measured and the k nearest
    stay.
    """
    keys, counts, thresholds, rows, n_neighbors = candidates
    X, order, margins, scale = points
    capacity = keys.shape[1]
    upper = np.empty(capacity)
    for u in range(capacity):
        bound, column = _unpack(keys[own, u])
        upper[u] = bound + margins[rows[own]] + margins[column]
    limit = np.partition(upper, n_neighbors - 1)[n_neighbors - 1]
    kept = 0
    for u in range(capacity):
        if _unpack(keys[own, u])[0] <= limit:
            keys[own, kept] = keys[own, u]
            kept += 1
    if kept > n_neighbors + (capacity - n_neighbors) // 2:
        squared = np.empty(n_neighbors)
        found_points = np.empty(n_neighbors, np.int32)
        nearest = np.empty(n_neighbors, np.uint64)
        found = 0
        for u in range(kept):
            other = order[_unpack(keys[own, u])[1]]
            exact = squared_distance(X, order[rows[own]], X, other)
            found = _insert(exact, other, keys[own, u], squared, found_points, nearest, found)
        keys[own, :found] = nearest[:found]
        kept = found
        limit = squared[found - 1] * scale * scale
    counts[own] = kept
    rounded = np.float32(limit)
    if rounded < limit:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    reached = min(np.float32(-0.5) * rounded, _LEAST_REACHED)
    thresholds[own] = max(thresholds[own], reached)  # what was passed over stays so


@njit(nogil=True, cache=True)
def _pack(value, column):  # type: ignore[no-untyped-def]
    """Return a candidate: the bits of the lower bound, ``-2 value`` but not negative, then the column."""
    bound = max(np.float32(0), np.float32(-2) * value) + np.float32(0)  # never -0.0: its bits are large
    return (np.uint64(float_bits(bound)) << np.uint64(32)) | np.uint64(column)


@njit(nogil=True, cache=True)
def _unpack(key):  # type: ignore[no-untyped-def]
    """Return the lower bound, float64, and the column of a candidate."""
    return np.float64(bits_float(np.uint32(key >> np.uint64(32)))), np.intp(key & np.uint64(0xFFFFFFFF))


@njit(nogil=True, cache=True)
def _insert(exact, point, key, squared, points, keys, found):  # type: ignore[no-untyped-def]
    """Put a neighbour into a list sorted by (distance, point) that holds `found` of at most its length."""
    if found == len(squared):
        if (exact, point) >= (squared[found - 1], points[found - 1]):
            return found
    else:
        found += 1
    at = found - 1
    while at > 0 and (exact, point) < (squared[at - 1], points[at - 1]):
        squared[at], points[at], keys[at] = squared[at - 1], points[at - 1], keys[at - 1]
        at -= 1
    squared[at], points[at], keys[at] = exact, point, key
    return found


@njit(nogil=True, cache=True)
def _clear_unused(keys, counts):  # type: ignore[no-untyped-def]
    for i in range(len(keys)):
        keys[i, counts[i] :] = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(nogil=True, cache=True)
def _measure(candidates, points, squared, indices):  # type: ignore[no-untyped-def]
    """Measure sorted candidates until no further one can be among the nearest; return which rows are incomplete.

    A row is complete if its k-th distance is within its threshold: every pair within that was kept.
    """
    keys, counts, thresholds, rows, n_neighbors = candidates
    X, order, _, scale = points
    incomplete = np.zeros(len(keys), np.bool_)
    unused = np.empty(n_neighbors, np.uint64)
    for i in range(len(keys)):
        found = 0
        nearest, other_points = squared[i], indices[i]
        for u in range(counts[i]):
            prefetch_row(X, order[_unpack(keys[i, min(u + _PREFETCH, counts[i] - 1)])[1]])
            bound, column = _unpack(keys[i, u])
            if found == n_neighbors and bound > nearest[found - 1] * scale * scale:
                break
            exact = squared_distance(X, order[rows[i]], X, order[column])
            found = _insert(exact, order[column], keys[i, u], nearest, other_points, unused, found)
        reached = -2.0 * np.float64(thresholds[i])
        incomplete[i] = found < n_neighbors or nearest[found - 1] * scale * scale > reached
    return incomplete


@dataclass(frozen=True)
class PassPlan:
    """How one neighbour pass is cut.

    Attributes
    ----------
    n_points, n_neighbors : int
    n_sampled : int
        Points whose distances decide the thresholds.
    rank : int
        A threshold is the so-many-th smallest distance to the sample.
    capacity : int
        Candidates that are held for each row.
    panel : int
        Rows whose candidates are held at once; fewer than all cost up to twice the products.
    """

    n_points: int
    n_neighbors: int
    n_sampled: int
    rank: int
    capacity: int
    panel: int

    @classmethod
    def of(cls, n_points: int, n_neighbors: int, n_bytes: int) -> PassPlan:
        """Plan a pass whose candidates take at most `n_bytes`, or as little as possible."""
        sampled = min(n_points, -(-max(n_points // _SAMPLE_SHARE, 2 * _BLOCK) // _BLOCK) * _BLOCK)
        mean = n_neighbors * sampled / n_points
        rank = math.ceil(mean + 3 * math.sqrt(mean) + 2)
        expected = n_points * rank / sampled
        capacity = int(min(n_points + 1, max(1.15 * expected, n_neighbors + 32) + 32))
        n_blocks = -(-n_points // _BLOCK)
        blocks = int(min(n_blocks, max(sampled // _BLOCK + 1, n_bytes // (8 * capacity * _BLOCK))))
        n_panels = -(-n_blocks // blocks)
        return cls(n_points, n_neighbors, sampled, rank, capacity, -(-n_blocks // n_panels) * _BLOCK)

    @property
    def strip(self) -> int:
        """Rows whose products with the sample are held at once; divides a block, so that each is in one."""
        return max(16, min(_TILE_ROWS, 1 << (_SAMPLE_BYTES // 4 // self.n_sampled).bit_length() >> 1))

    def sample_first(self) -> np.ndarray:
        """Return an order of the points, (n_points,) int32, that starts with a random sample."""
        sampled = np.random.default_rng(0).choice(self.n_points, self.n_sampled, replace=False)
        rest = np.ones(self.n_points, np.bool_)
        rest[sampled] = False
        return np.concatenate([np.sort(sampled), np.flatnonzero(rest)]).astype(np.int32)

    @property
    def n_bytes(self) -> int:
        """Bytes of the candidates that are held at once."""
        return 8 * self.capacity * min(self.panel, self.n_points)

    @property
    def n_products(self) -> int:
        """Products of two points; a block with itself, and the sample with itself, give each pair twice."""
        n, sampled, total = self.n_points, self.n_sampled, 0
        for start in range(0, n, self.panel):
            stop = min(start + self.panel, n)
            own = stop - max(start, sampled)
            total += (stop - start) * sampled + own * (own + _BLOCK) // 2 + own * (n - sampled - own)
            total += sampled * (n - stop) if start == 0 else 0
        return total


def find_neighbors(
    X: np.ndarray,
    products: Products,
    lists: NeighborLists,
    plan: PassPlan,
    *,
    advance: Callable[[float], None] = lambda _: None,
) -> None:
    """Fill the lists with the nearest neighbours of every point, the point itself among them.

    Parameters
    ----------
    X : ndarray (n_points, n_features) float32 or float64
        Distinct points.
    products : Products
        Of X; the first ``plan.n_sampled`` of its order are a random sample.
    lists : NeighborLists
    plan : PassPlan
    advance : callable
        Told the share of the pass that was done.
    """
    passing = Pass(X, products, lists, plan, advance)
    for start in range(0, plan.n_points, plan.panel):
        passing.panel(start, min(start + plan.panel, plan.n_points))
    late, passing.incomplete = passing.incomplete, []
    for start, stop in stretches(0, len(late), _BLOCK):
        passing.again(np.array(late[start:stop]))
    if passing.incomplete:
        raise AssertionError(f"the bound of the products failed for {len(passing.incomplete)} rows; please report this")


class Pass:
    """The state of one neighbour pass; see `find_neighbors`."""

    def __init__(
        self, X: np.ndarray, products: Products, lists: ListSink, plan: PassPlan, advance: Callable[[float], None]
    ) -> None:
        self.products, self.lists, self.plan, self.advance = products, lists, plan, advance
        self.points = (X, products.order, products.margins, products.scale)
        self.incomplete: list[int] = []
        self.workers = n_threads()

    def hold(self, rows: np.ndarray) -> None:
        """Make room for the candidates of some rows: (keys, counts, thresholds, rows, n_neighbors).

        A candidate is one uint64: the bits of the lower bound of the squared distance, then the column. A threshold
        is what ``v`` (see `Products`) must reach. The first row stands for the panel's place in the order.
        """
        n = len(rows)
        keys, counts = np.empty((n, self.plan.capacity), np.uint64), np.zeros(n, np.int32)
        self.candidates = (keys, counts, np.full(n, -np.inf, np.float32), rows, self.plan.n_neighbors)
        self.locks = {at: threading.Lock() for at in range(0, n, _BLOCK)}

    def panel(self, start: int, stop: int) -> None:
        """Find the neighbours of the points from `start` to `stop` of the order, the sample within the first panel."""
        self.hold(np.arange(start, stop))
        n, sampled = self.plan.n_points, self.plan.n_sampled
        rest = max(start, sampled)
        self.run(self.scan_sample, stretches(start, rest, self.plan.strip))  # its own thresholds come first
        self.run(self.scan_sample, stretches(rest, stop, self.plan.strip))
        self.run(self.scan_pair, tournament(stretches(rest, stop, _BLOCK)))
        outside = [*stretches(sampled, max(start, sampled), _BLOCK), *stretches(stop, n, _BLOCK)]
        inside = stretches(start, stop, _BLOCK)
        self.run(self.scan_pair, ((rows, columns) for rows in inside for columns in outside))
        self.finish()

    def again(self, rows: np.ndarray) -> None:
        """Find the neighbours of a few rows without thresholds; the candidates are thinned out as they come."""
        self.hold(rows)
        for start, stop in stretches(0, self.plan.n_points, _BLOCK):
            values = tile(self.products.rows[rows], self.products.rows[start:stop])
            self.scan(values, 0, 0, rows, (start, stop), mutual=False)
        self.finish()

    def run(self, work: Callable[[Any], int], tasks: Any) -> None:
        """Do tasks on all threads; each returns its number of products."""
        for n_products in ordered_map(work, tasks, workers=self.workers):
            self.advance(n_products / self.plan.n_products)

    def scan_sample(self, stretch: tuple[int, int]) -> int:
        """Multiply rows with the sample, set their thresholds, and keep what reaches them."""
        low, high = stretch
        sampled, rank = self.plan.n_sampled, self.plan.rank
        _, _, thresholds, rows, _ = self.candidates
        own = low - rows[0]
        values = tile(self.products.rows[low:high], self.products.rows[:sampled])
        if rank < sampled:
            offsets = self.products.offsets
            thresholds[own : own + high - low] = nth_reached(values, offsets[:sampled], offsets[low:high], rank)
        for columns in stretches(0, sampled, _BLOCK):
            mutual = rows[0] == 0 and low >= sampled
            self.scan(values, columns[0], own, np.arange(low, high), columns, mutual=mutual)
        return (high - low) * sampled

    def scan_pair(self, pair: tuple[tuple[int, int], tuple[int, int]]) -> int:
        """Multiply two blocks and keep what reaches the thresholds of the rows, and of the columns if in the panel."""
        (low, high), (start, stop) = pair
        rows = self.candidates[3]
        mutual = low != start and rows[0] <= start <= rows[-1]
        for at, to in stretches(low, high, _TILE_ROWS):
            values = tile(self.products.rows[at:to], self.products.rows[start:stop])
            self.scan(values, 0, at - rows[0], np.arange(at, to), (start, stop), mutual=mutual)
        return (high - low) * (stop - start)

    def scan(
        self, values: np.ndarray, begin: int, own: int, rows: np.ndarray, columns: tuple[int, int], *, mutual: bool
    ) -> None:
        """Scan a tile while nobody else adds to its rows (and, if mutual, columns)."""
        start, stop = columns
        _, _, thresholds, held, _ = self.candidates
        first = start - int(held[0])
        blocks = {own // _BLOCK * _BLOCK} | ({first // _BLOCK * _BLOCK} if mutual else set())
        offsets = self.products.offsets
        with contextlib.ExitStack() as stack:
            for block in sorted(blocks):
                stack.enter_context(self.locks[block])
            limits = thresholds[first : first + stop - start] if mutual else np.empty(0, np.float32)
            width = -(-(stop - start) // LANES) * LANES
            _scan(
                values, begin, own, offsets[rows], start, padded(offsets[start:stop], width, np.nan),
                padded(limits, width, np.inf), self.candidates, self.points,
            )  # fmt: skip

    def finish(self) -> None:
        """Measure the candidates of a panel and write the lists of its rows."""
        step = max(1, _MEASURED_BYTES // (12 * self.plan.n_neighbors + 8 * self.plan.capacity))
        for late in ordered_map(self.measure, stretches(0, len(self.candidates[3]), step), workers=self.workers):
            self.incomplete += late

    def measure(self, stretch: tuple[int, int]) -> list[int]:
        """Measure the candidates of some rows of a panel, write their lists, and return which are incomplete."""
        low, high = stretch
        held: tuple[Any, ...] = self.candidates
        n_neighbors = self.plan.n_neighbors
        keys, counts, thresholds, rows = (array[low:high] for array in held[:4])
        _clear_unused(keys, counts)
        keys.sort(axis=1)
        own = (keys, counts, thresholds, rows, n_neighbors)
        squared, indices = np.empty((len(keys), n_neighbors)), np.empty((len(keys), n_neighbors), np.int32)
        incomplete = _measure(own, self.points, squared, indices)
        self.lists.write(self.products.order[rows], squared, indices)  # what is incomplete is written over
        return [int(row) for row in rows[incomplete]]


def nth_reached(values: np.ndarray, offsets: np.ndarray, row_offsets: np.ndarray, rank: int) -> np.ndarray:
    """Return what the `rank` nearest columns of each row of a tile reach, (n_rows,) float32."""
    n = len(offsets)
    sums = values[:, :n] + offsets
    sums.partition(n - rank, axis=1)
    reached: np.ndarray = sums[:, n - rank] + row_offsets
    return reached


def stretches(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    """Cut a range at the multiples of `step`, counted from its start."""
    return [(at, min(at + step, stop)) for at in range(start, stop, step)]


def tournament(blocks: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield every pair of blocks, and each with itself, so that those near in time share no block."""
    n = len(blocks)
    for turn in range(n):
        for one in range(n):
            other = (turn - one) % n
            if one <= other:
                yield blocks[one], blocks[other]
