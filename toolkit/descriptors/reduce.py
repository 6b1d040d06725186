"""Exact principal component analysis of a matrix that is only ever seen block by block.

Every block is centred around the median of its first rows before its float64 sums are taken, and the blocks' means and
scatter matrices are merged (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance"), so an offset
of the data costs no digits. The eigenvectors of the covariance are the components (Jolliffe 2002, "Principal
Component Analysis").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from toolkit.backend.cpu import ordered_map
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

_CENTRE_ROWS = 65  # enough for a robust centre; of a constant column it is the constant itself
_CACHE_VALUES = 1 << 17  # float64 values that stay in a processor's second-level cache
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
class _Block:
    """What one block adds: rows read, positions of the bad ones, number of good ones.

    Of these: a `centre` (n_features,), their mean from it (`off`), and what a `Gram` makes of them around it.
    """

    n_read: int
    bad: np.ndarray
    n_rows: int
    centre: np.ndarray
    off: np.ndarray
    products: Any


class Gram(Protocol):
    """Adds up ``V.T @ V`` of blocks of rows, on some device."""

    def begin(self, values: np.ndarray) -> Any:
        """Do what any thread may do at any time with a block, (n, n_features) float64."""
        ...

    def add(self, part: Any) -> None:
        """Add what `begin` returned; in the order of the blocks."""
        ...

    def total(self) -> np.ndarray:
        """Return the sum, (n_features, n_features) float64."""
        ...


class HostGram:
    """See `Gram`; every block's products are made by the thread that read it."""

    def __init__(self) -> None:
        self.sum: np.ndarray | None = None

    def begin(self, values: np.ndarray) -> np.ndarray:  # noqa: D102
        products: np.ndarray = values.T @ values
        return products

    def add(self, part: np.ndarray) -> None:  # noqa: D102
        self.sum = part if self.sum is None else np.add(self.sum, part, out=self.sum)

    def total(self) -> np.ndarray:  # noqa: D102
        return np.zeros((0, 0)) if self.sum is None else self.sum


def measure(blocks: Iterable[np.ndarray], *, covariance: bool, workers: int, gram: Gram | None = None) -> Moments:
    """Compute the moments in one pass.

    Parameters
    ----------
    blocks : iterable of ndarray (n, n_features)
        The rows, in order; any numeric dtype.
    covariance : bool
        Whether second moments are needed.
    workers : int
        Threads; 0 works in this one.
    gram : Gram, optional
        Where products are added up; by default here.

    Raises
    ------
    InputError
        If no row is finite, or squares overflow float64.
    """
    n_read = 0
    bad: list[np.ndarray] = []
    good: list[_Block] = []
    summed = (gram or HostGram()) if covariance else None
    for part in ordered_map(lambda block: _measure_block(block, summed), blocks, workers=workers):
        bad.append(n_read + part.bad)
        n_read += part.n_read
        if part.n_rows:
            if summed is not None:
                summed.add(part.products)
            good.append(replace(part, products=None))
    if not good:
        raise InputError(f"all {n_read:,} rows hold NaN or inf; at least one row of numbers is needed")
    counts = np.array([part.n_rows for part in good], dtype=np.float64)
    offs = np.stack([part.off for part in good])
    means = np.stack([part.centre for part in good]) + offs
    with np.errstate(over="ignore", invalid="ignore"), threadpool_limits(1, user_api="blas"):
        mean = means[0] + counts @ (means - means[0]) / counts.sum()  # of equal means: exactly that
        scatter: np.ndarray = np.zeros((0, 0))
        if summed is not None:  # within the blocks, around their means, and between the blocks
            scatter = summed.total()
            weights = np.sqrt(counts)[:, None]
            scatter -= (weights * offs).T @ (weights * offs)
            scatter += (weights * (means - mean)).T @ (weights * (means - mean))
    if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
        raise InputError("the values are so large that their squares overflow float64; rescale them before")
    n_rows = int(counts.sum())
    return Moments(n_rows, mean, scatter / max(n_rows - 1, 1), np.concatenate(bad).astype(np.int64))


def _measure_block(block: np.ndarray, gram: Gram | None) -> _Block:
    n_read, bad = len(block), np.empty(0, np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        values, centre, off = _centre(block)
        if not np.isfinite(off).all():
            keep = np.isfinite(block).all(axis=1)
            bad = np.flatnonzero(~keep)
            values, centre, off = _centre(block[keep])
        products = None if gram is None else gram.begin(values)
        return _Block(n_read, bad, len(values), centre, off, products)


def _centre(block: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows minus a robust centre (in a constant column: the constant), it, and their mean from it."""
    values = np.empty(block.shape)
    if not len(block):
        return values, np.zeros(block.shape[1]), np.zeros(block.shape[1])
    centre = np.median(block[:_CENTRE_ROWS].astype(np.float64), axis=0)
    sums = np.zeros(block.shape[1])
    step = max(1, _CACHE_VALUES // block.shape[1])
    for start in range(0, len(block), step):  # piece by piece, while it is in the processor's cache
        piece = values[start : start + step]
        piece[...] = block[start : start + step]
        piece -= centre
        sums += np.ones(len(piece)) @ piece
    return values, centre, sums / len(block)


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
        """Project rows: (n, n_features) -> (n, n_features_out).

        Computed in float32 where the block's dtype fits into it without loss, in float64 otherwise. What is projected
        is returned as float32, what is not stays in the dtype it was computed in.
        """
        work = working_dtype(block.dtype)
        if not len(self.components):
            return block.astype(work)
        centred = np.subtract(block, self.mean.astype(work), dtype=work)
        with np.errstate(over="ignore"):  # the caller looks at the result
            return np.asarray(centred @ self.components.T.astype(work), np.float32)


def working_dtype(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """Return float32 if it holds every value of `dtype`, else float64."""
    return np.float32 if np.can_cast(dtype, np.float32, "safe") else np.float64


def check_components(value: Any) -> int | float | None:
    """Return a valid `n_components`: a whole number, a share of variance, or None.

    Raises
    ------
    InputError
        Saying what was received and what is allowed.
    """
    if value is None:
        return None
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1:
        return int(value)
    if isinstance(value, float | np.floating) and 0 < value < 1:
        return float(value)
    raise InputError(
        f"n_components is {value!r:.40}; allowed: a whole number of at least 1, a share of variance between 0 and 1, "
        f"or none (null) for no reduction"
    )


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
        raise InputError(f"all {moments.n_rows:,} rows are the same: there is nothing to cluster; look at the file")
    with threadpool_limits(1, user_api="blas"):  # the same bits whatever the number of processors
        most = _most_components(n_components, moments)
        values, vectors = eigh(moments.covariance, subset_by_index=(n_features - most, n_features - 1))
    values = np.clip(values[::-1], 0, None)
    values[values <= _NO_VARIANCE * values[0]] = 0
    n_kept = most
    if isinstance(n_components, float):  # the smallest number whose ratio exceeds it, as scikit-learn counts
        n_kept = min(int(np.searchsorted(np.cumsum(values) / total, n_components, side="right")) + 1, most)
    components = vectors[:, ::-1].T[:n_kept]
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(n_kept), largest])[:, None]
    components[values[:n_kept] == 0] = 0
    return Projection(moments.mean, np.ascontiguousarray(components), values[:n_kept], total)


def _most_components(n_components: int | float, moments: Moments) -> int:
    """Return how many components are needed at most."""
    n_rows, n_features = moments.n_rows, len(moments.mean)
    most = min(n_rows, n_features)
    if isinstance(n_components, float):
        return most
    if n_components > most:
        raise InputError(
            f"n_components is {n_components}; allowed: 1 to {most} ({n_rows:,} rows, {n_features} features), or a "
            f"share of variance between 0 and 1"
        )
    return n_components
