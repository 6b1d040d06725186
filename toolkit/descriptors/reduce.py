"""Exact principal component analysis of a matrix that is only ever seen block by block.

The sums behind the covariance are accumulated in float64 around a robust provisional centre (the median of the first
rows), so that an offset of the data costs no digits (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample
variance"); the eigenvectors of the covariance are the components (Jolliffe 2002, "Principal Component Analysis").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from toolkit.backend.cpu import ordered_map
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CENTRE_ROWS = 65  # odd, so that the median of a constant column is that constant exactly
_NO_VARIANCE = float(np.finfo(np.float32).eps) ** 2  # of the largest: below it float32 holds only rounding


@dataclass(frozen=True)
class Moments:
    """First and second moments of the rows without NaN or inf.

    Attributes
    ----------
    n_rows : int
        Rows that were counted.
    mean : ndarray (n_features,) float64
    covariance : ndarray (n_features, n_features) float64
        Unbiased; (0, 0) if it was not asked for.
    bad_rows : ndarray int64
        Positions, among the rows that were read, of those that hold NaN or inf.
    """

    n_rows: int
    mean: np.ndarray
    covariance: np.ndarray
    bad_rows: np.ndarray


@dataclass(frozen=True)
class _BlockSums:
    n_read: int
    bad: np.ndarray
    sums: np.ndarray
    products: np.ndarray | None


def measure(blocks: Iterator[np.ndarray], *, covariance: bool, workers: int) -> Moments:
    """Compute the moments in one pass.

    Parameters
    ----------
    blocks : iterator of ndarray (n, n_features)
        The rows, in order; any numeric dtype.
    covariance : bool
        Whether second moments are needed.
    workers : int
        Threads.

    Raises
    ------
    InputError
        If no row is finite, if the rows are all the same, or if their squares overflow float64.
    """
    first = next(blocks)
    finite = first[np.isfinite(first).all(axis=1)][:_CENTRE_ROWS]
    centre = np.median(finite.astype(np.float64), axis=0) if len(finite) else np.zeros(first.shape[1])

    def sum_block(block: np.ndarray) -> _BlockSums:
        return _sum_block(block, centre, covariance=covariance)

    sums = np.zeros(len(centre))
    products = np.zeros((len(centre), len(centre)) if covariance else (0, 0))
    n_read = n_rows = 0
    bad: list[np.ndarray] = []
    for part in ordered_map(sum_block, _chain(first, blocks), workers=workers):
        bad.append(n_read + part.bad)
        n_read += part.n_read
        n_rows += part.n_read - len(part.bad)
        sums += part.sums
        if part.products is not None:
            products += part.products
    if n_rows == 0:
        raise InputError(f"all {n_read:,} rows hold NaN or inf")
    if not (np.isfinite(sums).all() and np.isfinite(products).all()):
        raise InputError("the values are so large that their squares overflow float64; rescale them before")
    off = sums / n_rows
    products -= n_rows * np.outer(off, off) if covariance else 0.0
    products /= max(n_rows - 1, 1)
    return Moments(n_rows, centre + off, products, np.concatenate(bad).astype(np.int64))


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    del first
    yield from rest


def _sum_block(block: np.ndarray, centre: np.ndarray, *, covariance: bool) -> _BlockSums:
    values = block.astype(np.float64)
    values -= centre
    bad = np.empty(0, np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.ones(len(values)) @ values
        if not np.isfinite(sums).all():
            keep = np.isfinite(values).all(axis=1)
            bad, values = np.flatnonzero(~keep), values[keep]
            sums = np.ones(len(values)) @ values
        return _BlockSums(len(block), bad, sums, values.T @ values if covariance else None)


@dataclass(frozen=True)
class Projection:
    """The principal components of a descriptor, or (no components) the descriptor as it is.

    Attributes
    ----------
    mean : ndarray (n_features,) float64
    components : ndarray (n_components, n_features) float64
        Orthonormal rows, the entry of largest magnitude positive, largest variance first. Rows beyond the rank of
        the data are zero: their direction is arbitrary and would become noise of full size under StandardScaler.
        (0, n_features) means that nothing is projected.
    explained_variance : ndarray (n_components,) float64
    total_variance : float
    """

    mean: np.ndarray
    components: np.ndarray
    explained_variance: np.ndarray
    total_variance: float

    @property
    def n_features_out(self) -> int:
        """Columns of what `apply` returns."""
        return len(self.components) or len(self.mean)

    @property
    def explained_variance_ratio(self) -> np.ndarray:
        """Share of the total variance per component, (n_components,)."""
        return self.explained_variance / self.total_variance

    def apply(self, block: np.ndarray) -> np.ndarray:
        """Project rows: (n, n_features) -> (n, n_components) float32.

        Computed in float32 where the block's dtype fits into it without loss, in float64 otherwise.
        """
        if not len(self.components):
            return block.astype(np.float32)
        work = _working_dtype(block.dtype)
        centred = np.subtract(block, self.mean.astype(work), dtype=work)
        return np.asarray(centred @ self.components.T.astype(work), np.float32)


def _working_dtype(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    return np.float32 if np.can_cast(dtype, np.float32, "safe") else np.float64


def principal_components(moments: Moments, n_components: int | float | None) -> Projection:
    """Find the components of largest variance.

    Parameters
    ----------
    moments : Moments
    n_components : int, float or None
        How many; or (a float below 1) as many as make the explained variance ratio exceed it, as scikit-learn
        counts; or None: no projection.

    Raises
    ------
    InputError
        If all rows are the same, or there are fewer rows or features than components.
    """
    n_features = len(moments.mean)
    if n_components is None:
        return Projection(moments.mean, np.empty((0, n_features)), np.empty(0), 0.0)
    total = float(np.trace(moments.covariance))
    if total <= 0:
        raise InputError(f"all {moments.n_rows:,} rows are the same: there is nothing to cluster")
    with threadpool_limits(1, user_api="blas"):  # the same bits whatever the number of processors
        values, vectors = eigh(moments.covariance)
    values = np.clip(values[::-1], 0, None)
    values[values <= _NO_VARIANCE * values[0]] = 0
    n_kept = _count_components(values, n_components, n_rows=moments.n_rows)
    components = vectors[:, ::-1].T[:n_kept]
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(n_kept), largest])[:, None]
    components[values[:n_kept] == 0] = 0
    return Projection(moments.mean, np.ascontiguousarray(components), values[:n_kept], total)


def _count_components(variances: np.ndarray, n_components: int | float, *, n_rows: int) -> int:
    most = min(n_rows, len(variances))
    if isinstance(n_components, int):
        if not 1 <= n_components <= most:
            raise InputError(
                f"n_components is {n_components}; allowed: 1 to {most} ({n_rows:,} rows, {len(variances)} features), "
                f"or a share of variance between 0 and 1"
            )
        return n_components
    ratio = np.cumsum(variances) / variances.sum()
    return min(int(np.searchsorted(ratio, n_components, side="right")) + 1, most)
