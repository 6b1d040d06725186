"""KMeans on the device; see `toolkit.cluster.kmeans`, whose iterations these are.

A float32 product assigns the rows whose two nearest centres its error cannot confuse, float64 differences the others.
Sums are exact (`ExactSums`), so neither the order in which a device adds nor the device changes a bit, and atomic
additions are as good as any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backend.cuda.device import Rows
from toolkit.backend.cuda.sums import ExactSums
from toolkit.cluster.kmeans import Models
from toolkit.cluster.kmeans_kernels import SLACK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.backend.cuda.device import Device
    from toolkit.cluster.kmeans_matrix import Matrix, Share
    from toolkit.memory import MemoryBudget

_LANES = 8  # of `toolkit.cluster.kmeans_kernels.squared_distance`
_PRODUCT_WORK = 24  # bytes for each product of a row with a centre
_MOST_ROWS = 1 << 17  # of a product at once: more is no faster
_VALUE_WORK = 48  # bytes for each value that is cut into pieces
_MOVE_WORK = 40  # bytes for each row and model while it is looked for what moved
_CHUNK_BYTES = 256 << 20  # of values that are cut into pieces at once


class DeviceFitter:
    """Makes models of one matrix on a device; see `toolkit.cluster.kmeans.Fitter`.

    Attributes
    ----------
    X : Rows (n_samples, n_features) float32 or float64
    Z : Rows (n_samples, n_padded) float32
    square, length : tensor (n_samples,) float32
    sums : ExactSums
    """

    def __init__(self, device: Device, data: Matrix) -> None:
        self.device, self.data = device, data
        device.with_less("KMeans", self._begin)

    def _begin(self, _: int) -> None:
        device, data = self.device, self.data
        self.X, self.Z = Rows(device, device.host(data.X)), Rows(device, device.host(data.Z))
        self.square, self.length = device.put(data.square), device.put(data.length)
        self.sums = ExactSums.of(device, self.X.tensor.split(self.rows_of(16)), len(self.X))

    def rows_of(self, n_bytes_per_value: int) -> int:
        """Return how many rows may be worked on at once."""
        return max(1, int(_CHUNK_BYTES // (n_bytes_per_value * self.data.X.shape[1])))

    def room(self, n_clusters: Sequence[int], workers: int, memory: MemoryBudget) -> int:  # noqa: D102
        n, d = self.X.shape
        free = self.device.free // 2 - n * 64
        held, room = 0, 0
        for k in n_clusters:
            held += n * 8 + k * d * 8 * (2 * self.sums.n_pieces + 6)
            room += held <= free
        return max(1, room)

    def models(self, starts: Sequence[np.ndarray]) -> Models:  # noqa: D102
        return self.device.with_less("KMeans", lambda _: DeviceModels(self, starts))


class DeviceModels(Models):
    """Models whose labels and sums are on a device; labels (n_models, n_samples) int32, sums int64."""

    def __init__(self, fitter: DeviceFitter, starts: Sequence[np.ndarray]) -> None:
        super().__init__(fitter.data, starts)
        self.fitter, self.device, torch = fitter, fitter.device, fitter.device.torch
        shape = (len(starts), self.data.n_samples)
        self.labels = torch.zeros(shape, dtype=torch.int32, device=self.device.device)
        self.summed = torch.zeros(shape, dtype=torch.int32, device=self.device.device)
        self.changed = np.zeros((len(starts), 1), np.int32)
        n_rows, d = self.centres.shape
        self.sums = torch.zeros((fitter.sums.n_pieces, n_rows, d), dtype=torch.int64, device=self.device.device)
        self.sizes = torch.zeros(n_rows, dtype=torch.int64, device=self.device.device)

    def labels_of(self, m: int) -> np.ndarray:  # noqa: D102
        return self.device.get(self.labels[m])

    def assign(self, models: np.ndarray, share: Share) -> None:  # noqa: D102
        torch, device = self.device.torch, self.device
        by_size: dict[int, list[int]] = {}
        for m in models.tolist():
            by_size.setdefault(int(self.first[m + 1] - self.first[m]), []).append(m)
        groups = [(k, torch.tensor(group, device=device.device)) for k, group in sorted(by_size.items())]
        rows = np.concatenate(
            [np.arange(self.first[m], self.first[m + 1]) for k in sorted(by_size) for m in by_size[k]]
        )
        doubled = device.put(self.doubled[rows])
        base, slope, offset = (device.put(part[rows]) for part in (self.base, self.slope, self.offset))
        centres = device.put(self.centres[rows])
        fresh = self.labels.new_empty(self.labels.shape)  # an assignment that runs out of memory is done again

        def work(n_bytes: int) -> None:
            step = int(min(_MOST_ROWS, max(256, n_bytes // (_PRODUCT_WORK * len(rows)))))
            for start in range(0, self.data.n_samples, step):
                part = slice(start, start + step)
                length, square = self.fitter.length[part], self.fitter.square[part]
                with device.exact_products():
                    lower = torch.addmm(base, self.fitter.Z[part], doubled.T)
                lower -= length[:, None] * slope
                at = 0
                for k, group in groups:
                    of_group = slice(at, at + k * len(group))
                    own = lower[:, of_group].reshape(len(length), len(group), k)
                    nearest, open_rows, open_models = _nearest(
                        torch, own, length, square, *(v[of_group].reshape(-1, k) for v in (slope, offset))
                    )
                    if len(open_rows):
                        nearest[open_rows, open_models] = self._settle(
                            start + open_rows, at + open_models * k, k, centres, n_bytes
                        )
                    fresh[group, part] = nearest.T.to(fresh.dtype)
                    at += k * len(group)

        device.with_less("KMeans", work)
        for _, group in groups:
            differs = (fresh[group] != self.labels[group]).any(1)
            self.changed[device.get(group), 0] = device.get(differs)
            self.labels[group] = fresh[group]

    def _settle(self, rows: Any, first: Any, k: int, centres: Any, n_bytes: int) -> Any:
        """Return the nearest of k centres for rows, the first of equally near ones, by float64 differences."""
        torch = self.device.torch
        numbers = torch.arange(k, device=rows.device)
        step = max(1, n_bytes // (32 * _LANES * k))
        found = []
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            distances = _squared_distances(self.fitter.X, rows[part], centres, first[part, None] + numbers)
            is_nearest = distances == distances.amin(1, keepdim=True)
            found.append(torch.where(is_nearest, numbers, k).amin(1))
        return torch.cat(found)

    def add_up(self, models: np.ndarray, fresh: np.ndarray, share: Share) -> None:  # noqa: D102
        device = self.device

        def work(n_bytes: int) -> tuple[Any, Any]:
            torch = device.torch
            added, sizes = torch.zeros_like(self.sums), torch.zeros_like(self.sizes)
            is_new = bool(fresh[models].all())  # models that are fitted together begin together
            step = max(1, n_bytes // 2 // (_MOVE_WORK * self.data.n_samples))
            size = max(1, n_bytes // 2 // (_VALUE_WORK * self.data.X.shape[1]))
            for start in range(0, len(models), step):
                part = models[start : start + step]
                these, first = device.put(part), device.put(self.first[part])
                moved = self.labels[these] != self.summed[these]
                model, row = (moved | is_new).nonzero(as_tuple=True)
                for of, rows in zip(model.split(size), row.split(size), strict=True):
                    moves = [(first[of] + self.labels[these[of], rows], 1)]
                    if not is_new:  # where it was before
                        moves.append((first[of] + self.summed[these[of], rows], -1))
                    self.fitter.sums.add(added, self.fitter.X[rows], moves)
                    for places, sign in moves:
                        sizes.index_add_(0, places, torch.ones_like(places), alpha=sign)
            return added, sizes

        added, sizes = device.with_less("KMeans", work)
        self.sums += added
        self.sizes += sizes
        self.summed[models] = self.labels[models]
        high, rest = self.fitter.sums.join(self.sums)
        self.high[:], self.rest[:], self.counts[:] = (device.get(part) for part in (high, rest, self.sizes))


def _nearest(torch: Any, lower: Any, length: Any, square: Any, slope: Any, offset: Any) -> tuple[Any, Any, Any]:
    """Return the nearest centre by lower bounds, (n, n_models), and where that is not certain: rows, models.

    See `toolkit.cluster.kmeans_kernels` for the bounds; `lower` is (n, n_models, k), and overwritten.
    """
    low, nearest = lower.min(2)
    lower.scatter_(2, nearest[:, :, None], torch.inf)
    second = lower.amin(2)
    models = torch.arange(lower.shape[1], device=lower.device)
    error = length[:, None] * slope[models, nearest]
    high = low + (error + error + 2 * offset[models, nearest])
    own = square[:, None]
    near = (own + high) + (own + low.abs() + high.abs()) * SLACK
    far = (own + second) - (own + second.abs()) * SLACK
    rows, open_models = (~((far > near) | (second == torch.inf))).nonzero(as_tuple=True)
    return nearest, rows, open_models


def _squared_distances(X: Rows, i: Any, C: Any, j: Any) -> Any:
    """Return squared distances of rows i, (n,), to centres j, (n, k), with the bits of the host's kernel.

    The order of its sums is that of `toolkit.cluster.kmeans_kernels.squared_distance`.
    """
    d = X.shape[1]
    whole = d - d % _LANES
    of_rows = X.columns(i)

    def squares(start: int, stop: int) -> Any:
        difference = of_rows(start, stop).double()[:, None, :] - C[:, start:stop][j]
        return difference.mul_(difference)

    lanes = C.new_zeros((*j.shape, _LANES))
    for start in range(0, whole, _LANES):
        lanes += squares(start, start + _LANES)
    while lanes.shape[-1] > 1:
        lanes = lanes[..., 0::2] + lanes[..., 1::2]
    total = lanes[..., 0]
    for t in range(whole, d):
        total = total + squares(t, t + 1)[..., 0]
    return total
