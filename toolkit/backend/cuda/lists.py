"""Neighbour lists on the device; see `toolkit.cluster.lists.Lists`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backend.cuda.points import DeviceProducts, pair_bytes, squared_distances
from toolkit.cluster.lists import ENTRY_BYTES, Components, Edges, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.backend.cuda.device import Device, Rows

_READING = "reading neighbour lists"
_ENTRY_WORK = 160  # bytes that looking at one entry of the lists takes
_PAIR_WORK = 120  # bytes that looking at one product takes
_MOST_WORK = 2 << 30  # bytes of such work at once: more gains nothing
_ROUNDING = 1e-12  # more than the last steps of a bound take
_NO_POINT = np.iinfo(np.int64).max


class DeviceLists:
    """The nearest neighbours of every point, sorted by (squared distance, point), on the device.

    Parameters
    ----------
    device : Device
    X : Rows (n_points, n_features)
    n_neighbors : int
    """

    def __init__(self, device: Device, X: Rows, n_neighbors: int) -> None:
        self.device, self.X = device, X
        self.n_points, self.n_neighbors = len(X), n_neighbors
        shape = (self.n_points, n_neighbors)
        self.squared = device.torch.empty(shape, dtype=device.torch.float64, device=device.device)
        self.indices = device.torch.empty(shape, dtype=device.torch.int32, device=device.device)

    @property
    def n_bytes(self) -> int:
        """Bytes of both arrays."""
        return self.n_points * self.n_neighbors * ENTRY_BYTES

    def write(self, points: Any, squared: Any, indices: Any) -> None:
        """Keep the lists of some points: (n,) int64, (n, n_neighbors) float64, (n, n_neighbors) int."""
        self.squared[points] = squared
        self.indices[points] = indices.to(self.indices.dtype)

    def parts(self, n_bytes: int, points: Any = None) -> Iterator[tuple[Any, Any, Any]]:
        """Yield (points, squared distances, indices as int64) of some points after others, for work in `n_bytes`."""
        step = max(1, min(_MOST_WORK, n_bytes) // (_ENTRY_WORK * self.n_neighbors))
        if points is None:
            points = self.device.torch.arange(self.n_points, device=self.device.device)
        for start in range(0, len(points), step):
            these = points[start : start + step]
            yield these, self.squared[these], self.indices[these].long()

    # What trees and labels read
    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:  # noqa: D102
        step = max(1, (256 << 20) // (ENTRY_BYTES * self.n_neighbors))
        for start in range(0, self.n_points, step):
            part = slice(start, start + step)
            yield start, self.device.get(self.squared[part]), self.device.get(self.indices[part])

    def radii(self) -> np.ndarray:  # noqa: D102
        if self.n_neighbors == self.n_points:
            return np.full(self.n_points, np.inf)
        return self.device.get(self.squared[:, -1])

    def core(self, counts: np.ndarray, min_samples: int) -> np.ndarray:  # noqa: D102
        if counts.max() == 1:
            return self.device.get(self.squared[:, min_samples - 1])

        def work(n_bytes: int) -> np.ndarray:
            rows_of = self.device.put(counts, self.device.torch.int64)
            core = self.squared.new_empty(self.n_points)
            for points, squared, indices in self.parts(n_bytes):
                reached = rows_of[indices].cumsum(1) >= min_samples
                core[points] = squared.gather(1, reached.long().argmax(1, keepdim=True))[:, 0]
            return self.device.get(core)

        return self.device.with_less(_READING, work)

    def edges(self, core: np.ndarray, X: np.ndarray | None = None) -> _DeviceSearch:  # noqa: D102
        return _DeviceSearch(self, core)

    def label_borders(self, core: np.ndarray, squared_radii: np.ndarray, labels: np.ndarray) -> None:  # noqa: D102
        torch = self.device.torch
        none = torch.iinfo(torch.int32).max

        def work(n_bytes: int) -> None:
            cores = self.device.put(core)
            for radius, row in zip(squared_radii.tolist(), labels, strict=True):
                known = self.device.put(row).clone()
                borders = torch.nonzero(cores > radius)[:, 0]
                for points, squared, indices in self.parts(n_bytes, borders):
                    near = (squared <= radius) & (cores[indices] <= radius)
                    lowest = torch.where(near, known[indices], none).amin(1)
                    known[points] = torch.where(lowest == none, -1, lowest)
                row[:] = self.device.get(known)

        self.device.with_less(_READING, work)


class _DeviceTable:
    """A `Table` while it is filled on the device; of equal edges the one with the smallest points is kept."""

    def __init__(self, device: Device, table: Table, n_points: int) -> None:
        torch = device.torch
        self.device, self.table, self.n_points = device, table, n_points
        n_entries = table.arrays[0].size
        self.weights = torch.full((n_entries,), torch.inf, dtype=torch.float64, device=device.device)
        self.codes = torch.full((n_entries,), _NO_POINT, dtype=torch.int64, device=device.device)

    def keys(self, a: Any, b: Any) -> Any:
        """Return the entries of edges from components a to components b."""
        return a * self.table.arrays[0].shape[1] + b // self.table.size

    def put(self, a: Any, b: Any, i: Any, j: Any, weights: Any) -> None:
        """Enter edges (i, j) between components a and b, in both directions."""
        for own, other, inside, outside in ((a, b, i, j), (b, a, j, i)):
            keys, codes = self.keys(own, other), inside * self.n_points + outside
            before = self.weights[keys]
            self.weights.scatter_reduce_(0, keys, weights, "amin")
            lightest = weights == self.weights[keys]
            lighter = lightest & (weights < before)
            self.codes[keys[lighter]] = _NO_POINT
            self.codes.scatter_reduce_(0, keys[lightest], codes[lightest], "amin")

    def merge(self) -> None:
        """Enter what was found into the table."""
        weights, inside, outside = (array.reshape(-1) for array in self.table.arrays)
        found, codes = self.device.get(self.weights), self.device.get(self.codes)
        lighter = found < weights
        weights[lighter] = found[lighter]
        inside[lighter], outside[lighter] = np.divmod(codes[lighter], self.n_points)


class _DeviceSearch:
    """See `toolkit.cluster.lists.EdgeSearch`."""

    def __init__(self, lists: DeviceLists, core: np.ndarray) -> None:
        self.lists, self.device = lists, lists.device
        self.core = self.device.put(core)

    def best(self, components: Components) -> Edges:
        return self.device.with_less(_READING, lambda n_bytes: self._best(components, n_bytes))

    def _best(self, components: Components, n_bytes: int) -> Edges:
        torch, n = self.device.torch, components.number
        component = self.device.put(components.of_point, torch.int64)
        lightest = torch.full((n,), torch.inf, dtype=torch.float64, device=self.device.device)
        row_weights = self.core.new_empty(self.lists.n_points)
        row_others = component.new_empty(self.lists.n_points)
        for points, squared, indices in self.lists.parts(n_bytes):
            weights = torch.maximum(squared, self.core[indices])
            weights = torch.maximum(weights, self.core[points][:, None])
            weights.masked_fill_(component[indices] == component[points][:, None], torch.inf)
            row_weights[points], at = weights.min(1)
            row_others[points] = indices.gather(1, at[:, None])[:, 0]
        lightest.scatter_reduce_(0, component, row_weights, "amin")
        rows = torch.nonzero((row_weights == lightest[component]) & (row_weights < torch.inf))[:, 0]
        first = torch.full((n,), _NO_POINT, dtype=torch.int64, device=self.device.device)
        first.scatter_reduce_(0, component[rows], rows, "amin")
        first[first == _NO_POINT] = 0
        i, j = (self.device.get(points.to(torch.int32)) for points in (first, row_others[first]))
        return Edges(i, j, self.device.get(lightest))

    def tabulate(self, components: Components, table: Table) -> None:
        self.device.with_less(_READING, lambda n_bytes: self._tabulate(components, table, n_bytes))

    def _tabulate(self, components: Components, table: Table, n_bytes: int) -> None:
        torch = self.device.torch
        component = self.device.put(components.of_point, torch.int64)
        filled = _DeviceTable(self.device, table, self.lists.n_points)
        for points, squared, indices in self.lists.parts(n_bytes):
            row, at = torch.nonzero(component[indices] != component[points][:, None], as_tuple=True)
            i, j = points[row], indices[row, at]
            weights = torch.maximum(torch.maximum(self.core[i], self.core[j]), squared[row, at])
            filled.put(component[i], component[j], i, j, weights)
        filled.merge()

    def tabulate_rest(self, components: Components, table: Table, bounds: np.ndarray) -> None:
        """See `toolkit.cluster.unlisted.tabulate_rows`, whose edges these are."""
        device, radius = self.device, self.lists.radii()
        active = np.flatnonzero(radius < bounds.max())
        order = active[np.lexsort((radius[active], components.of_point[active]))]
        if len(np.unique(components.of_point[order])) < 2:
            return
        rest = device.with_less("edges between components", lambda _: _Rest(self, order, components, table, bounds))
        device.with_less("edges between components", rest.scan_all)  # edges that are entered twice change nothing
        rest.filled.merge()


class _Rest:
    """The points that can have an edge to another component which is in no list, sorted by component and radius."""

    def __init__(
        self, search: _DeviceSearch, order: np.ndarray, components: Components, table: Table, bounds: np.ndarray
    ) -> None:
        device = self.device = search.device
        self.X, self.core = search.lists.X, search.core
        self.made = DeviceProducts.of(device, self.X, order, is_short=False)
        self.sorted = components.of_point[order]
        self.component = device.put(self.sorted, device.torch.int64)
        radius = device.put(search.lists.radii()[order])
        self.least = device.torch.maximum(self.core[self.made.order], radius)  # no edge of the point is lighter
        self.limits = device.put(bounds.reshape(-1)).clone()
        self.filled = _DeviceTable(device, table, search.lists.n_points)

    def scan_all(self, n_bytes: int) -> None:
        """Enter all edges, with tiles and pairs of so many bytes."""
        n_bytes = min(n_bytes, _MOST_WORK)
        side = max(64, int((n_bytes / 2 / _PAIR_WORK) ** 0.5))
        pairs = max(64, n_bytes // 2 // (pair_bytes(self.X) + _PAIR_WORK))
        n = len(self.sorted)
        pieces = [slice(start, min(start + side, n)) for start in range(0, n, side)]
        for at, rows in enumerate(pieces):
            for columns in pieces[at:]:
                if self.sorted[rows.start] != self.sorted[columns.stop - 1]:
                    self._scan(rows, columns, pairs)

    def _scan(self, rows: slice, columns: slice, pairs: int) -> None:
        torch, made = self.device.torch, self.made
        a, b = self.component[rows][:, None], self.component[columns][None]
        keys = self.filled.keys(a, b), self.filled.keys(b, a)
        bound = made.tile(self.device, rows, columns).double().mul_(-2)
        upper = self._heavier(
            bound + made.margins[rows][:, None] + made.margins[columns], self.core[made.order], rows, columns
        )
        upper.mul_(1 + _ROUNDING).masked_fill_(a >= b, torch.inf)
        for key in keys:  # an edge of at most this weight is there
            self.limits.scatter_reduce_(0, key.reshape(-1), upper.reshape(-1), "amin")
        lower = self._heavier(bound, self.least, rows, columns)
        limit = torch.maximum(self.limits[keys[0]], self.limits[keys[1]])
        row, column = torch.nonzero((a < b) & (lower <= limit), as_tuple=True)
        for start in range(0, len(row), pairs):
            part = slice(start, start + pairs)
            self._measure(rows.start + row[part], columns.start + column[part])

    def _heavier(self, bound: Any, weights: Any, rows: slice, columns: slice) -> Any:
        """Turn scaled squared distances into weights: at least those of both ends."""
        bound = bound / self.made.scale / self.made.scale
        self.device.torch.maximum(bound, weights[rows][:, None], out=bound)
        return self.device.torch.maximum(bound, weights[columns], out=bound)

    def _measure(self, rows: Any, columns: Any) -> None:
        torch, order = self.device.torch, self.made.order
        i, j, a, b = order[rows], order[columns], self.component[rows], self.component[columns]
        weights = squared_distances(self.X, i, j[:, None])[:, 0]
        weights = torch.maximum(weights, torch.maximum(self.core[i], self.core[j]))
        keys = self.filled.keys(a, b), self.filled.keys(b, a)
        light = weights <= torch.maximum(self.limits[keys[0]], self.limits[keys[1]])
        self.filled.put(*(values[light] for values in (a, b, i, j, weights)))
        for key in keys:
            self.limits.scatter_reduce_(0, key[light], weights[light], "amin")
