"""The k nearest neighbours of every point on the device; see `toolkit.cluster.neighbors`, whose plan this follows.

Tiles of products are compared with the thresholds of their rows and of their columns as they are; what reaches one is
appended to the candidates of its row. Candidates are measured again as float64 differences, so the lists are those of
the host, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backend.cuda.device import Rows
from toolkit.backend.cuda.lists import DeviceLists
from toolkit.backend.cuda.points import DeviceProducts, pair_bytes, squared_distances
from toolkit.cluster.forest_plan import LEAST_NEIGHBORS, room_for_lists
from toolkit.cluster.lists import ENTRY_BYTES
from toolkit.cluster.neighbors import PassPlan, stretches, tournament
from toolkit.errors import DeviceError, MemoryBudgetError
from toolkit.memory import format_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from toolkit.backend.cuda.device import Device
    from toolkit.cluster.lists import Lists, NeighborLists
    from toolkit.memory import MemoryBudget

_LARGEST_TILE = 8192  # rows and columns: more is no faster
_LEAST_TILE = 128
_MOST_ENTRIES = 1 << 28  # of a tile of any shape
_PROBED = 1024  # rows that show how tight the bounds of short products are
_TIGHT = 0.05  # of the distance that decides
_MOST = 0.9  # of those rows
_LEAST_REACHED = -(2.0**-126)
_TINY = 1e-280  # squares below it have lost digits
_PRODUCT_BYTES = 32  # of a tile, for each product: the product, comparisons, what reaches a threshold


def list_neighbors(
    device: Device,
    X: np.ndarray,
    min_samples: int,
    *,
    memory: MemoryBudget,
    folder: Path | None,
    advance: Callable[[float], None] = lambda _: None,
) -> Lists:
    """Find the neighbours of every point on the device; parameters as for `toolkit.cluster.forest_plan`.

    The lists stay on the device if they take at most half of it, and go to the host's memory or disk otherwise.
    """
    n, n_neighbors = len(X), min(len(X), max(min_samples, LEAST_NEIGHBORS))
    told = 0.0

    def tell(share: float) -> None:
        nonlocal told
        told += share
        advance(share)

    def work(n_bytes: int) -> Lists:
        nonlocal told
        advance(-told)  # a pass that ran out of memory begins anew
        told = 0.0
        points = Rows(device, device.host(X))
        products = _products(device, points, PassPlan.of(n, n_neighbors, 0))
        n_bytes -= points.held_bytes + products.left.held_bytes + products.right.held_bytes
        list_bytes = n * n_neighbors * ENTRY_BYTES
        lists: DeviceLists | NeighborLists
        if list_bytes <= n_bytes // 2:
            lists = DeviceLists(device, points, n_neighbors)
            n_bytes -= list_bytes
        else:
            what = f"the neighbour pass over {n:,} rows with min_samples up to {min_samples}"
            lists = room_for_lists(n, n_neighbors, what, memory, folder)
        _Pass(device, points, products, lists, n_bytes, tell).run()
        return lists

    return device.with_less(f"the neighbour pass over {n:,} rows", work)


def _products(device: Device, X: Rows, plan: PassPlan) -> DeviceProducts:
    """Return products of 11 bits where tensor cores take them and their bounds are tight for most rows of the sample.

    They are not where clusters are far smaller than the distances between them: more would be measured than saved.
    """
    order = plan.sample_first()
    if device.has_tensor_cores and plan.rank < plan.n_sampled:
        short = DeviceProducts.of(device, X, order, is_short=True)
        probed = slice(0, min(_PROBED, plan.n_sampled))
        values = short.tile(device, probed, slice(0, plan.n_sampled)).topk(plan.rank, dim=1).values[:, -1]
        tight = 2 * short.margins[probed] <= -2 * _TIGHT * values
        if float(tight.double().mean()) >= _MOST:
            return short
        del short, values, tight
    return DeviceProducts.of(device, X, order, is_short=False)


def _roomy(plan: PassPlan, n_bytes: int) -> PassPlan:
    """Return a plan with half as many candidates more, if they fit: thinning out a few rows at a time is slow here."""
    capacity = min(plan.n_points + 1, plan.capacity * 3 // 2)
    return replace(plan, capacity=capacity) if plan.n_bytes // plan.capacity * capacity <= n_bytes else plan


class _Pass:
    """The state of one pass; see `list_neighbors`.

    Candidates of a panel of rows: `bounds` (n_rows, capacity) float32, lower bounds of squared distances in the units
    of the products, as ``-2 v``, and `columns` int32, places in the order; `counts` (n_rows,) int64 of them.
    `thresholds` (n_rows,) float32 are what ``v`` must reach, and every pair that does is a candidate.
    """

    def __init__(
        self,
        device: Device,
        X: Rows,
        products: DeviceProducts,
        lists: DeviceLists | NeighborLists,
        n_bytes: int,
        advance: Callable[[float], None],
    ) -> None:
        self.device, self.torch, self.X, self.products, self.lists = device, device.torch, X, products, lists
        self.advance, self.n_neighbors = advance, lists.n_neighbors
        n = len(X)
        tile_bytes = n_bytes // 3
        self.side = min(_LARGEST_TILE, max(_LEAST_TILE, 1 << int(np.log2(max(1, tile_bytes / _PRODUCT_BYTES)) / 2)))
        self.plan = _roomy(PassPlan.of(n, self.n_neighbors, n_bytes // 3), n_bytes // 3)
        self.entries = min(_MOST_ENTRIES, max(self.side**2, tile_bytes // _PRODUCT_BYTES))
        self.measured = max(1, n_bytes // 3 // pair_bytes(X))  # pairs that are measured at once
        if self.plan.n_bytes > n_bytes:
            raise MemoryBudgetError(
                f"the neighbour pass over {n:,} rows needs {format_size(self.plan.n_bytes)} of the device at least, "
                f"{format_size(n_bytes)} are free; stop what else runs there, lower min_samples, fraction or "
                "n_components, or use --device cpu"
            )
        self.violations = self.torch.zeros((), dtype=self.torch.int64, device=device.device)

    def run(self) -> None:
        """Fill the lists."""
        incomplete: list[Any] = []
        n = self.plan.n_points
        for start in range(0, n, self.plan.panel):
            incomplete.append(self.panel(start, min(start + self.plan.panel, n)))
        late, least = (self.torch.cat(parts) for parts in zip(*incomplete, strict=True))
        for start, stop in stretches(0, len(late), self.plan.panel):
            left, _ = self.again(late[start:stop], least[start:stop])
            self.violations += len(left)
        if int(self.violations):
            raise DeviceError(
                f"products on {self.device.name} are less exact than their bound ({int(self.violations)} violations); "
                "please report this, and use --device cpu"
            )

    def hold(self, rows: Any, thresholds: Any) -> None:
        """Make room for the candidates of some rows, given by their places in the order."""
        n, torch = len(rows), self.torch
        self.rows, self.thresholds = rows, thresholds
        shape = (n, self.plan.capacity)
        self.bounds = torch.empty(shape, dtype=torch.float32, device=self.device.device)
        self.columns = torch.empty(shape, dtype=torch.int32, device=self.device.device)
        self.counts = torch.zeros(n, dtype=torch.int64, device=self.device.device)

    def panel(self, start: int, stop: int) -> tuple[Any, Any]:
        """Find the neighbours of a stretch of the order, the sample within the first; return what `finish` does."""
        torch, n, sampled = self.torch, self.plan.n_points, self.plan.n_sampled
        self.hold(
            torch.arange(start, stop, device=self.device.device),
            torch.full((stop - start,), -torch.inf, dtype=torch.float32, device=self.device.device),
        )
        rest = max(start, sampled)
        strip = max(1, self.entries // sampled)
        for low, high in [*stretches(start, rest, strip), *stretches(rest, stop, strip)]:
            self.scan_sample(low, high, mutual=start == 0 and low >= sampled)
            self.tell((high - low) * sampled)
        for (low, high), (left, right) in tournament(stretches(rest, stop, self.side)):
            self.scan(low - start, high - start, left, right, mutual=low != left)
            self.tell((high - low) * (right - left))
        outside = [*stretches(sampled, max(start, sampled), self.side), *stretches(stop, n, self.side)]
        for low, high in stretches(start, stop, self.side):
            for left, right in outside:
                self.scan(low - start, high - start, left, right, mutual=False)
                self.tell((high - low) * (right - left))
        return self.finish()

    def tell(self, n_products: int) -> None:
        self.advance(n_products / self.plan.n_products)

    def again(self, rows: Any, least: Any) -> tuple[Any, Any]:
        """Find the neighbours of rows whose thresholds were too high; `least` are thresholds that are not."""
        self.hold(rows, least)
        for low, high in stretches(0, len(rows), self.side):
            for left, right in stretches(0, self.plan.n_points, self.side):
                self.scan(low, high, left, right, mutual=False)
        return self.finish()

    def scan_sample(self, low: int, high: int, *, mutual: bool) -> None:
        """Multiply rows of the order with the sample, set their thresholds, and keep what reaches them."""
        sampled, rank, first = self.plan.n_sampled, self.plan.rank, int(self.rows[0])
        values = self.products.tile(self.device, slice(low, high), slice(0, sampled))
        if rank < sampled:
            self.thresholds[low - first : high - first] = values.topk(rank, dim=1, sorted=False).values.amin(1)
        self.keep(values, low - first, 0, mutual=mutual)

    def scan(self, low: int, high: int, left: int, right: int, *, mutual: bool) -> None:
        """Multiply rows `low` to `high` of the panel with a stretch of the order, and keep what reaches a threshold."""
        values = self.products.tile(self.device, self.rows[low:high], slice(left, right))
        self.keep(values, low, left, mutual=mutual)

    def keep(self, values: Any, low: int, left: int, *, mutual: bool) -> None:
        """Append the entries of a tile that reach the threshold of their row, and of their column if mutual."""
        torch = self.torch
        row, column = torch.nonzero(values >= self.thresholds[low : low + len(values), None], as_tuple=True)
        self.append(low, len(values), row, values[row, column], column + left)
        if mutual:
            first = left - int(self.rows[0])
            thresholds = self.thresholds[first : first + values.shape[1]]
            row, column = torch.nonzero((values >= thresholds).T.contiguous(), as_tuple=True)
            self.append(first, values.shape[1], row, values[column, row], self.rows[low + column])

    def append(self, low: int, n: int, row: Any, values: Any, columns: Any) -> None:
        """Append candidates to the rows from `low` on; `row`, counted from there, is ascending."""
        torch, capacity = self.torch, self.plan.capacity
        counts = self.counts[low : low + n]
        while len(row):
            number = torch.bincount(row, minlength=n)
            place = counts[row] + torch.arange(len(row), device=row.device) - (number.cumsum(0) - number)[row]
            fits = place < capacity
            at = (low + row[fits]) * capacity + place[fits]
            self.bounds.view(-1)[at] = (-2 * values[fits]).clamp_(min=0)
            self.columns.view(-1)[at] = columns[fits].to(torch.int32)
            counts += number
            counts.clamp_(max=capacity)
            if len(at) == len(row):
                return
            row, values, columns = row[~fits], values[~fits], columns[~fits]
            self.thin(low + torch.unique_consecutive(row))
            open_still = values >= self.thresholds[low + row]
            row, values, columns = row[open_still], values[open_still], columns[open_still]

    def thin(self, rows: Any) -> None:
        """Keep the nearest candidates of crowded rows only, and raise their thresholds to the farthest of those."""
        for these, squared, _, places in self.nearest(rows):
            n_kept = self.n_neighbors
            self.bounds[these, :n_kept] = self.bounds[these].gather(1, places)
            self.columns[these, :n_kept] = self.columns[these].gather(1, places)
            self.counts[these] = n_kept
            self.thresholds[these] = self.torch.maximum(self.thresholds[these], self.reaching(squared[:, -1]))

    def reaching(self, squared: Any) -> Any:
        """Return what ``v`` reaches wherever the squared distance is within a limit, float32."""
        limit = squared * self.products.scale * self.products.scale
        rounded = limit.float()
        above = self.torch.nextafter(rounded, rounded.new_full((), self.torch.inf))
        reached = -0.5 * self.torch.where(rounded.double() < limit, above, rounded)
        return reached.clamp_(max=_LEAST_REACHED)  # where it is 0, no distance above 0 would be certain

    def nearest(self, rows: Any) -> Any:
        """Yield (rows, squared distances, points, places), each but the first (n, n_neighbors), of some rows' nearest.

        Places are those of the candidates; a row with fewer candidates ends in distances of inf.
        """
        torch, products, k = self.torch, self.products, self.n_neighbors
        step = max(1, self.measured // self.plan.capacity)
        for start in range(0, len(rows), step):
            these = rows[start : start + step]
            counts = self.counts[these]
            most = max(k, int(counts.max()))
            used = torch.arange(most, device=these.device) < counts[:, None]
            lower, place = torch.where(used, self.bounds[these, :most], torch.inf).sort(dim=1)
            column = torch.where(used, self.columns[these, :most], 0).long().gather(1, place)
            margin = products.margins[self.rows[these]][:, None] + products.margins[column]
            limit = (lower.double() + margin).kthvalue(k, dim=1).values
            close = (lower <= limit[:, None]) & (lower < torch.inf)
            width = max(k, int(close.sum(1).max()))
            close, lower, column, place = (part[:, :width] for part in (close, lower, column, place))
            point = products.order[column]
            squared = squared_distances(self.X, products.order[self.rows[these]], point)
            scaled = squared * products.scale * products.scale
            outside = (lower > scaled) | (scaled > lower.double() + margin[:, :width])
            self.violations += (outside & close & (lower > 0) & (squared > _TINY)).sum()
            squared = torch.where(close, squared, torch.inf)
            by_point = point.argsort(1)
            squared, nearest_first = squared.gather(1, by_point).sort(dim=1, stable=True)
            chosen = by_point.gather(1, nearest_first[:, :k])
            yield these, squared[:, :k], point.gather(1, chosen), place.gather(1, chosen)

    def finish(self) -> tuple[Any, Any]:
        """Write the lists of the rows; return the rows that are incomplete, and thresholds that are low enough."""
        torch, late, least = self.torch, [], []
        all_rows = torch.arange(len(self.rows), device=self.device.device)
        for these, squared, points, _ in self.nearest(all_rows):
            farthest = squared[:, -1]
            reached = -2 * self.thresholds[these].double()
            incomplete = ~(farthest * self.products.scale * self.products.scale <= reached)
            self.write(self.products.order[self.rows[these]], squared, points)  # what is incomplete is written over
            late.append(self.rows[these][incomplete])
            least.append(self.reaching(farthest[incomplete]))
        return torch.cat(late), torch.cat(least)

    def write(self, points: Any, squared: Any, indices: Any) -> None:
        if isinstance(self.lists, DeviceLists):
            self.lists.write(points, squared, indices)
        else:
            host = (self.device.get(part) for part in (points, squared, indices.to(self.torch.int32)))
            self.lists.write(*host)
