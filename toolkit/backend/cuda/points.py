"""Rows on the device: distances to the same bits as on the host, and products that bound them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
PAIR_BYTES = 4 * 8 * LANES  # that `squared_distances` takes for each pair


def squared_distances(X: Any, i: Any, j: Any) -> Any:
    """Return the squared distances of rows i to rows j, float64, from differences.

    The terms are added in the order of `toolkit.backend.simd.squared_distance`, and each step is rounded by itself, so
    the host and every device see the same bits.

    Parameters
    ----------
    X : tensor (n_points, n_features) float32 or float64
    i : tensor (n,) int64
    j : tensor (n, m) int64

    Returns
    -------
    tensor (n, m) float64
    """
    n_features = X.shape[1]
    shape = (*j.shape, LANES)

    def squares(start: int, stop: int) -> Any:
        columns = X[:, start:stop]
        own = columns[i].double()[:, None, :]
        difference = columns[j.reshape(-1)].double().reshape(*j.shape, stop - start)
        difference.sub_(own)  # (a - b) ** 2 and (b - a) ** 2 are the same bits
        return difference.mul_(difference)

    if n_features < LANES:
        total = X.new_zeros(j.shape, dtype=X.dtype).double()
        for feature in range(n_features):
            total += squares(feature, feature + 1)[..., 0]
        return total
    lanes = X.new_zeros(shape).double()
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
    left, right : tensor (n_points, n_columns) float32
    margins : tensor (n_points,) float64
    scale : float
        A power of two.
    is_short : bool
    """

    order: Any
    left: Any
    right: Any
    margins: Any
    scale: float
    is_short: bool

    @classmethod
    def of(cls, device: Device, X: Any, order: np.ndarray, *, is_short: bool) -> DeviceProducts:
        """Make them from some points of X, or all, in an order.

        The error of a product is that of a dot product of so many terms (Higham 2002, section 3.1), with the rounding
        of the rows, which is measured, added.
        """
        torch = device.torch
        low, high = X.amin(0).double(), X.amax(0).double()
        check_range(float(max(-low.min(), high.max())))
        centre = X.mean(0, dtype=torch.float64)
        widest = float(torch.maximum(high - centre, centre - low).max())
        scale = 2.0 ** min(-int(np.frexp(widest)[1]), 1000) if widest > 0 else 1.0
        rows = device.put(order, torch.int64)
        n, n_features = len(order), X.shape[1]
        width = -(-(n_features + 2 * _OFFSET_PARTS) // _WIDTH) * _WIDTH
        left = torch.zeros((n, width), dtype=torch.float32, device=device.device)
        squares = torch.empty(n, dtype=torch.float64, device=device.device)
        rounding = torch.zeros((), dtype=torch.float64, device=device.device)
        step = max(1, _CENTRED_BYTES // (32 * n_features))
        for start in range(0, n, step):
            part = slice(start, start + step)
            block = (X[rows[part]].double() - centre) * scale
            rounded = block.float()
            left[part, :n_features] = _short(torch, rounded) if is_short else rounded
            squares[part] = (block * block).sum(1)
            lost = (block - left[part, :n_features]).square_().sum(1).sqrt_() - n_features * _LEAST_FLOAT
            rounding = torch.maximum(rounding, (lost / squares[part].sqrt().clamp(min=_LEAST_FLOAT)).max())
        terms = 2.02 * (n_features + 16) * _UNIT[is_short] + 2.03 * float(rounding)
        error = squares * terms + _TAIL * width
        right = left.clone()
        upper = torch.nextafter(((error - squares) / 2).float(), torch.tensor(torch.inf, device=device.device))
        for part_number in range(_OFFSET_PARTS):
            piece = _short(torch, upper)
            left[:, n_features + part_number] = piece
            right[:, n_features + part_number] = 1
            left[:, n_features + _OFFSET_PARTS + part_number] = 1
            right[:, n_features + _OFFSET_PARTS + part_number] = piece
            upper = upper - piece
        return cls(rows, left, right, 2 * error, float(scale), is_short)

    def tile(self, device: Device, rows: Any, columns: Any) -> Any:
        """Return ``v`` of rows with columns, both slices or indices, float32."""
        with device.fast_products() if self.is_short else device.exact_products():
            return self.left[rows] @ self.right[columns].T


def _short(torch: Any, values: Any) -> Any:
    """Round float32 values to 11 significant bits."""
    bits = values.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
