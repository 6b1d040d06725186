"""Rows on the device: distances to the same bits as on the host, and products that bound them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backend.cuda.device import Rows
from toolkit.backend.simd import LANES
from toolkit.cluster.points import check_range

if TYPE_CHECKING:
    from toolkit.backend.cuda.device import Device

_UNIT = {False: 2.0**-24, True: 2.0**-22}  # tensor cores cut off what they add instead of rounding it
_LEAST_FLOAT = 2.0**-126  # below it float32 may become zero
_TAIL = 2.0**-120  # covers what that costs a product, per column
_CENTRED_BYTES = 256 << 20
_WIDTH = 16  # columns of the products are filled up to a multiple
_OFFSET_PARTS = 3  # values of 11 bits that one float32 is the sum of


def pair_bytes(X: Rows) -> int:
    """Return the bytes that `squared_distances` takes for each pair."""
    return 4 * 8 * LANES + (0 if X.is_resident else X.tensor.element_size() * X.shape[1])


def squared_distances(X: Rows, i: Any, j: Any) -> Any:
    """Return the squared distances of rows i to rows j, float64, from differences.

    The terms are added in the order of `toolkit.backend.simd.squared_distance`, and each step is rounded by itself, so
    the host and every device see the same bits.

    Parameters
    ----------
    X : Rows (n_points, n_features) float32 or float64
    i : tensor (n,) int64
    j : tensor (n, m) int64

    Returns
    -------
    tensor (n, m) float64
    """
    n_features = X.shape[1]
    shape = (*j.shape, LANES)
    of_rows, of_others = X.columns(i), X.columns(j.reshape(-1))

    def squares(start: int, stop: int) -> Any:
        own = of_rows(start, stop).double()[:, None, :]
        difference = own - of_others(start, stop).reshape(*j.shape, stop - start)
        return difference.mul_(difference)  # multiplied by itself: one rounding, whatever the device fuses

    if n_features < LANES:
        total = i.new_zeros(j.shape).double()
        for feature in range(n_features):
            total += squares(feature, feature + 1)[..., 0]
        return total
    lanes = i.new_zeros(shape).double()
    for start in range(0, n_features - LANES + 1, LANES):
        lanes += squares(start, start + LANES)
    counted = LANES - n_features % LANES  # the last lanes overlap what is counted already
    if counted < LANES:
        lanes[..., counted:] += squares(n_features - LANES, n_features)[..., counted:]
    width = LANES
    while width > 1:
        width //= 2
        lanes = lanes[..., :width] + lanes[..., width:]
    return lanes[..., 0]


@dataclass(frozen=True)
class DeviceProducts:
    """Centred, scaled rows in two float32 matrices whose products bound squared distances.

    With ``v = left[i] @ right[j]``, ``-2 v <= scale**2 * d(i, j)**2 <= -2 v + margins[i] + margins[j]``, whatever the
    order of the sum; for ``is_short`` also on tensor cores, which take 11 bits of each value: the values of the
    matrices have no more. The halves of the squared norms are columns of the matrices, so that one product is all.

    Attributes
    ----------
    order : tensor (n_points,) int64
        The point in each row.
    left, right : Rows (n_points, n_columns) float32
    margins : tensor (n_points,) float64
    scale : float
        A power of two.
    is_short : bool
    """

    order: Any
    left: Rows
    right: Rows
    margins: Any
    scale: float
    is_short: bool

    @classmethod
    def of(cls, device: Device, X: Rows, order: np.ndarray, *, is_short: bool) -> DeviceProducts:
        """Make them from some points of X, or all, in an order.

        The error of a product is that of a dot product of so many terms (Higham 2002, section 3.1), with the rounding
        of the rows, which is measured, added.
        """
        torch = device.torch
        low, high, centre = _ranges(device, X)
        check_range(float(max(-low.min(), high.max())))
        widest = float(torch.maximum(high - centre, centre - low).max())
        scale = 2.0 ** min(-int(np.frexp(widest)[1]), 1000) if widest > 0 else 1.0
        rows = device.put(order, torch.int64)
        n, n_features = len(order), X.shape[1]
        width = -(-(n_features + 2 * _OFFSET_PARTS) // _WIDTH) * _WIDTH
        left, right = (Rows.empty(device, (n, width), torch.float32) for _ in range(2))
        squares = torch.empty(n, dtype=torch.float64, device=device.device)
        rounding = torch.zeros((), dtype=torch.float64, device=device.device)
        step = max(1, _CENTRED_BYTES // (32 * n_features))
        for start in range(0, n, step):
            part = slice(start, start + step)
            block = (X[rows[part]].double() - centre) * scale
            rounded = block.float()
            rounded = _short(torch, rounded) if is_short else rounded
            for side in (left, right):
                side.write(part, slice(n_features), rounded)
            squares[part] = (block * block).sum(1)
            lost = (block - rounded).square_().sum(1).sqrt_() - n_features * _LEAST_FLOAT
            rounding = torch.maximum(rounding, (lost / squares[part].sqrt().clamp(min=_LEAST_FLOAT)).max())
        terms = 2.02 * (n_features + 16) * _UNIT[is_short] + 2.03 * float(rounding)
        error = squares * terms + _TAIL * width
        upper = torch.nextafter(((error - squares) / 2).float(), torch.tensor(torch.inf, device=device.device))
        for side, at in ((left, n_features + _OFFSET_PARTS), (right, n_features)):
            side.write(slice(None), slice(at, at + _OFFSET_PARTS), torch.ones((), device=device.device))
        for part_number in range(_OFFSET_PARTS):
            piece = _short(torch, upper)
            for side, at in ((left, n_features + part_number), (right, n_features + _OFFSET_PARTS + part_number)):
                side.write(slice(None), slice(at, at + 1), piece[:, None])
            upper = upper - piece
        return cls(rows, left, right, 2 * error, float(scale), is_short)

    def tile(self, device: Device, rows: Any, columns: Any) -> Any:
        """Return ``v`` of rows with columns, both slices or indices, float32."""
        with device.fast_products() if self.is_short else device.exact_products():
            return self.left[rows] @ self.right[columns].T


def _ranges(device: Device, X: Rows) -> tuple[Any, Any, Any]:
    """Return the smallest and largest value and about the mean of each column, float64."""
    step = max(1, _CENTRED_BYTES // (32 * X.shape[1]))
    lows, highs, sums = [], [], []
    for start in range(0, len(X), step):
        block = X[slice(start, start + step)].double()
        lows.append(block.amin(0))
        highs.append(block.amax(0))
        sums.append(block.sum(0))
    stack = device.torch.stack
    return stack(lows).amin(0), stack(highs).amax(0), stack(sums).sum(0) / len(X)


def _short(torch: Any, values: Any) -> Any:
    """Round float32 values to 11 significant bits."""
    bits = values.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
