"""The rows that distances are computed between: distinct ones, and their centred float32 copies for fast products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from toolkit.backend.simd import LANES, squared_distance
from toolkit.errors import InputError

_BLOCK_BYTES = 8 << 20  # of rows that are centred at once
_UNIT = 2.0**-24  # half the distance of neighbouring float32 values around 1
_LARGEST = 1e150  # squares beyond this leave float64


@dataclass(frozen=True)
class Points:
    """The distinct rows of a matrix.

    Duplicates share all their neighbours, so everything is computed once for each distinct row.

    Attributes
    ----------
    X : ndarray (n_points, n_features) float32 or float64, C-contiguous
        In the order in which each first occurs; the caller's matrix itself where no row occurs twice.
    index_of : ndarray (n_samples,) int32
        The point of each row of the matrix.
    first : ndarray (n_points,) int32
        The first row of each point.
    counts : ndarray (n_points,) int32
        How many rows each point stands for.
    """

    X: np.ndarray
    index_of: np.ndarray
    first: np.ndarray
    counts: np.ndarray

    @property
    def has_duplicates(self) -> bool:
        """Whether some row occurs twice."""
        return len(self.first) < len(self.index_of)

    @classmethod
    def of(cls, X: np.ndarray) -> Points:
        """Find the distinct rows of X, (n_samples, n_features) float32 or float64 without NaN or inf."""
        X = np.ascontiguousarray(X)
        hashes = _hash_rows(X)
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        representative = _representatives(X, hashes, order)
        first, inverse, counts = np.unique(representative, return_inverse=True, return_counts=True)
        return cls(
            X if len(first) == len(X) else X[first],
            inverse.astype(np.int32),
            first.astype(np.int32),
            counts.astype(np.int32),
        )


@njit(nogil=True, cache=True)
def _hash_rows(X):  # type: ignore[no-untyped-def]
    """Return a 64-bit hash of the values of each row; 0.0 and -0.0 are the same value."""
    hashes = np.empty(len(X), np.uint64)
    bits = np.empty(1, np.float64)
    for i in range(len(X)):
        state = np.uint64(0x9E3779B97F4A7C15)
        for j in range(X.shape[1]):
            bits[0] = np.float64(X[i, j]) + 0.0
            state = (state ^ bits.view(np.uint64)[0]) * np.uint64(0xFF51AFD7ED558CCD)
            state ^= state >> np.uint64(32)
        hashes[i] = state
    return hashes


@njit(nogil=True, cache=True)
def _representatives(X, hashes, order):  # type: ignore[no-untyped-def]
    """Return, for each row, the first row with the same values; `order` sorts the hashes, stably."""
    representative = np.empty(len(X), np.int64)
    start = 0
    for at in range(len(X)):
        row = order[at]
        if hashes[row] != hashes[order[start]]:
            start = at
        representative[row] = row
        for earlier in range(start, at):  # more than one distinct row only where a hash collides
            other = order[earlier]
            if representative[other] == other and _same(X, row, other):
                representative[row] = other
                break
    return representative


@njit(nogil=True, cache=True)
def _same(X, i, j):  # type: ignore[no-untyped-def]
    return (X[i] == X[j]).all()


def check_range(largest: float) -> None:
    """Refuse a matrix whose largest value is too large."""
    if largest > _LARGEST:
        raise InputError(
            f"the matrix holds values up to {largest:.3g}; allowed: up to {_LARGEST:g} (squares of larger ones leave "
            "float64); scale the matrix first"
        )


@dataclass(frozen=True)
class Products:
    """Centred, scaled float32 rows whose products bound the squared distances of the points.

    With ``v = (rows[i] @ rows[j] + offsets[j]) + offsets[i]`` in float32, in whatever order the product is summed,
    ``-2 v <= scale**2 * d(i, j)**2 <= -2 v + margins[i] + margins[j]``. The bound is the usual one of a dot product,
    n_features * 2**-24 * |x| |y| (Higham 2002, section 3.1), with the roundings of the rows and of the sum added.

    Attributes
    ----------
    order : ndarray (n_points,) int32
        The point in each row.
    rows : ndarray (n_points, n_features) float32
    offsets, margins : ndarray (n_points,) float32
    scale : float
        A power of two, which puts the largest value near 1.
    """

    order: np.ndarray
    rows: np.ndarray
    offsets: np.ndarray
    margins: np.ndarray
    scale: float

    @classmethod
    def of(cls, X: np.ndarray, order: np.ndarray) -> Products:
        """Make them from some points of X, or all, in an order.

        Raises
        ------
        InputError
            For values whose squares leave float64.
        """
        low, high = X.min(axis=0).astype(np.float64), X.max(axis=0).astype(np.float64)
        check_range(max(-low.min(), high.max()))
        centre = X.mean(axis=0, dtype=np.float64)
        widest = float(np.maximum(high - centre, centre - low).max())
        scale = 2.0 ** min(-int(np.frexp(widest)[1]), 1000) if widest > 0 else 1.0
        n_points, n_features = len(order), X.shape[1]
        rows = np.empty((n_points, n_features), np.float32)
        squares = np.empty(n_points)
        step = max(1, _BLOCK_BYTES // (24 * n_features))
        for start in range(0, n_points, step):
            block = (X[order[start : start + step]] - centre) * scale
            rows[start : start + step] = block
            squares[start : start + step] = np.einsum("ij,ij->i", block, block)
        error = (n_features + 16) * _UNIT * 1.01 * squares + n_features * 2.0**-140
        offsets = np.nextafter((error / 2 - squares / 2).astype(np.float32), np.float32(np.inf))
        margins = np.nextafter((2 * error).astype(np.float32), np.float32(np.inf))
        return cls(order, rows, offsets, margins, scale)


def padded(values: np.ndarray, width: int, fill: float) -> np.ndarray:
    """Return the values, (n,) float32, followed by as many `fill` as make them `width`."""
    result = np.full(width, fill, np.float32)
    result[: len(values)] = values
    return result


def tile(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the products of rows and columns, float32, the number of columns padded to a multiple of the lanes."""
    products: np.ndarray[Any, Any] = np.empty((len(rows), -(-len(columns) // LANES) * LANES), np.float32)
    np.matmul(rows, columns.T, out=products[:, : len(columns)])
    return products


@njit(nogil=True, cache=True)
def measure(X, i, j):  # type: ignore[no-untyped-def]
    """Return the squared distance of each pair of rows, (n_pairs,) float64."""
    squared = np.empty(len(i))
    for pair in range(len(i)):
        squared[pair] = squared_distance(X, i[pair], X, j[pair])
    return squared
