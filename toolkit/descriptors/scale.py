"""Scalers: what is done to the reduced matrix before distances are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of the columns of a matrix, float64.

    Attributes
    ----------
    n_rows : int
    minimum, maximum, mean : ndarray (n_columns,)
    squares : ndarray (n_columns,)
        Sum of squared deviations from the mean.
    """

    n_rows: int
    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, block: np.ndarray) -> ColumnStatistics:
        """Measure one block, (n, n_columns)."""
        values = block.astype(np.float64)
        mean = values.mean(axis=0)
        minimum, maximum = values.min(axis=0), values.max(axis=0)
        values -= mean
        return cls(len(block), minimum, maximum, mean, np.einsum("ij,ij->j", values, values))

    def merge(self, other: ColumnStatistics) -> ColumnStatistics:
        """Join with the statistics of further rows (Chan, Golub & LeVeque 1983)."""
        n_rows = self.n_rows + other.n_rows
        step = other.mean - self.mean
        return ColumnStatistics(
            n_rows,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.mean + step * (other.n_rows / n_rows),
            self.squares + other.squares + step**2 * (self.n_rows * other.n_rows / n_rows),
        )


@dataclass(frozen=True)
class Affine:
    """``(x - offset) * factor``, column by column; both (n_columns,) float64."""

    offset: np.ndarray
    factor: np.ndarray

    def apply(self, block: np.ndarray) -> np.ndarray:
        """Scale rows in float64 and return them as float32."""
        values = block.astype(np.float64)
        values -= self.offset
        values *= self.factor
        return values.astype(np.float32)


def _inverse(width: np.ndarray) -> np.ndarray:
    """Return 1 / width, and 1 for a constant column, which then becomes 0 (as scikit-learn does)."""
    return 1 / np.where(width > 0, width, 1)


def min_max(statistics: ColumnStatistics) -> Callable[[np.ndarray], np.ndarray]:
    """Bring every column that varies to [0, 1]; as scikit-learn's MinMaxScaler, but for ranges below 10 eps."""
    return Affine(statistics.minimum, _inverse(statistics.maximum - statistics.minimum)).apply


def standard(statistics: ColumnStatistics) -> Callable[[np.ndarray], np.ndarray]:
    """Bring every column to mean 0 and variance 1, as scikit-learn's StandardScaler."""
    constant = statistics.maximum == statistics.minimum
    deviation = np.where(constant, 0, np.sqrt(statistics.squares / statistics.n_rows))
    return Affine(statistics.mean, _inverse(deviation)).apply


def unit_rows(_: ColumnStatistics) -> Callable[[np.ndarray], np.ndarray]:
    """Bring every row to length 1, so that Euclidean distances order as cosine distances; zero rows stay zero."""

    def apply(block: np.ndarray) -> np.ndarray:
        values = block.astype(np.float64)
        values *= _inverse(np.sqrt(np.einsum("ij,ij->i", values, values)))[:, None]
        return values.astype(np.float32)

    return apply


def unscaled(_: ColumnStatistics) -> Callable[[np.ndarray], np.ndarray]:
    """Leave the matrix as it is, as float32."""
    return lambda block: block.astype(np.float32, copy=False)


SCALERS: dict[str, Callable[[ColumnStatistics], Callable[[np.ndarray], np.ndarray]]] = {
    "norm": min_max,
    "std": standard,
    "l2": unit_rows,
    "none": unscaled,
}
