"""The data of KMeans, prepared once for all passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.cluster.kmeans_kernels import BLOCK, kernel
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Share = Callable[[Callable[[int], None], Iterable[int]], None]

_LARGEST = 1e150  # beyond it squares overflow float64
_LANES = 16  # columns of `Matrix.Z` are filled up with zeros to a multiple of it: whole vectors


def padded(n_features: int) -> int:
    """Return the columns of `Matrix.Z`."""
    return -(-n_features // _LANES) * _LANES


@dataclass(frozen=True)
class Matrix:
    """The data, and what all passes share.

    Attributes
    ----------
    X : ndarray (n_samples, n_features) float32 or float64
        As given, C order.
    mean : ndarray (n_features,) float64
    scale : float
        The power of two that brings the centred values below 1, so that no product of theirs overflows float32.
    Z : ndarray (n_samples, n_features and up to 15 columns of zeros) float32
        ``(X - mean) * scale``, rounded.
    square, length : ndarray (n_samples,) float32
        Squared length of the unrounded rows of `Z`; its root, rounded up.
    mean_square : float
        Mean of the unrounded `square`.
    """

    X: np.ndarray
    mean: np.ndarray
    scale: float
    Z: np.ndarray
    square: np.ndarray
    length: np.ndarray
    mean_square: float

    @classmethod
    def of(cls, X: np.ndarray, share: Share) -> Matrix:
        """Centre and scale a copy of `X`.

        Raises
        ------
        InputError
            If squares of the values overflow float64.
        """
        reached = max(float(X.max()), -float(X.min()))
        if not reached < _LARGEST:
            raise InputError(f"values reach {reached:.3g}, whose squares overflow float64; rescale them before")
        mean = _column_means(X)
        largest = _largest_offset(X, mean)
        scale = 2.0 ** min(-int(np.frexp(largest)[1]), 1000) if largest > 0 else 1.0
        Z, square = np.zeros((len(X), padded(X.shape[1])), np.float32), np.empty(len(X))

        def centre(start: int) -> None:
            _centre_rows(X, mean, scale, start, min(start + BLOCK, len(X)), Z, square)

        share(centre, range(0, len(X), BLOCK))
        length = (np.sqrt(square) * (1 + 2.0**-20)).astype(np.float32)
        return cls(X, mean, float(scale), Z, square.astype(np.float32), length, float(square.mean()))

    @property
    def n_samples(self) -> int:
        """Rows."""
        return len(self.X)

    @property
    def n_blocks(self) -> int:
        """Blocks of rows."""
        return -(-len(self.X) // BLOCK)

    @property
    def variance(self) -> float:
        """Mean of the variances of the columns."""
        return float(self.mean_square / self.X.shape[1] / self.scale / self.scale)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, float, np.ndarray, np.ndarray]:
        """What the seeding kernels read."""
        return self.X, self.Z, self.scale, self.length, self.square


@kernel
def _column_means(X: np.ndarray) -> np.ndarray:
    """Return the means of the columns, (n_features,) float64, around the first row."""
    total = np.zeros(X.shape[1])
    for i in range(X.shape[0]):
        for t in range(X.shape[1]):
            total[t] += np.float64(X[i, t]) - np.float64(X[0, t])
    for t in range(X.shape[1]):
        total[t] = np.float64(X[0, t]) + total[t] / X.shape[0]
    return total


@kernel
def _largest_offset(X: np.ndarray, mean: np.ndarray) -> float:
    """Return the largest ``|x - mean|`` of any value."""
    largest = 0.0
    for i in range(X.shape[0]):
        for t in range(X.shape[1]):
            largest = max(largest, abs(np.float64(X[i, t]) - mean[t]))
    return largest


@kernel
def _centre_rows(
    X: np.ndarray, mean: np.ndarray, scale: float, start: int, stop: int, Z: np.ndarray, square: np.ndarray
) -> None:
    """Write ``Z = (X - mean) * scale`` as float32 and the squared lengths of the unrounded rows as float64."""
    for i in range(start, stop):
        total = 0.0
        for t in range(X.shape[1]):
            value = (np.float64(X[i, t]) - mean[t]) * scale
            Z[i, t] = np.float32(value)
            total += value * value
        square[i] = total
