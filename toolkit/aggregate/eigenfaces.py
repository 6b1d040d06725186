"""Eigenfaces: the principal components of the pixels of a group of images.

Sirovich & Kirby 1987, "Low-dimensional procedure for the characterization of human faces"; Turk & Pentland 1991,
"Eigenfaces for recognition", whose trick it is to decompose the products of n images instead of the covariance of
their many pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from threadpoolctl import threadpool_limits

from toolkit.aggregate.mean_images import BLOCK, Moments, blocks, moments
from toolkit.backend.cpu import ordered_map
from toolkit.errors import InputError
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from toolkit.images.pixels import PixelFile
    from toolkit.memory import MemoryBudget

MOST_IN_GRAM = 2048  # images whose products are held; more are read again and again
TOLERANCE = 1e-6  # of the variance along a component, where images are read again and again
_PIXELS_AT_ONCE = 4096  # of all images, while products are summed
_NO_VARIANCE = 1e-12  # of the total, below which a component is rounding
_SEED = 0


@dataclass(frozen=True)
class Eigenfaces:
    """Mean and principal components.

    Attributes
    ----------
    moments : Moments
    components : ndarray (n_components, size, size, 3) float64
        Of length 1, the largest entry of each being positive; fewer than asked for where images have no more.
    variance : ndarray (n_components,) float64
        Along each component.
    method : str
        ``gram`` or ``lanczos``.
    """

    moments: Moments
    components: np.ndarray
    variance: np.ndarray
    method: str

    @property
    def share(self) -> np.ndarray:
        """Of the total variance, along each component, (n_components,) float64."""
        return self.variance / max(self.moments.variance, np.finfo(float).tiny)


def eigenfaces(
    pixels: PixelFile,
    rows: np.ndarray,
    *,
    n_components: int,
    weights: np.ndarray | None = None,
    memory: MemoryBudget,
) -> Eigenfaces:
    """Return the mean and the first principal components of images.

    Parameters
    ----------
    pixels : PixelFile
    rows : ndarray (n_images,) int64
        At least one. Of one image there are no components.
    n_components : int
    weights : ndarray (n_images,) float64, optional
        Not negative; by default all are equal.
    memory : MemoryBudget

    Raises
    ------
    MemoryBudgetError
        If the images of a small group, or some vectors of the length of an image, do not fit.

    Notes
    -----
    Up to 2,048 images the matrix of their products is summed, which are whole numbers below 2^53, so that it is exact;
    centred and decomposed in float64. Of more, a Lanczos method (ARPACK) multiplies the covariance, which is never
    formed, with vectors, one pass over the images for each, until the variances are known to 1e-6. Which of both
    depends on the number of images alone; the memory decides nothing, nor does the number of processors.
    """
    found = moments(pixels, rows, weights)
    share = np.full(len(rows), 1 / len(rows)) if weights is None else weights / weights.sum()
    is_small = len(rows) <= MOST_IN_GRAM
    n = min(n_components, int(np.count_nonzero(share)) - 1, found.mean.size - 1)
    if n < 1 or found.variance == 0:
        n = 0
    variance, vectors = np.empty(0), np.empty((0, found.mean.size))
    if n:
        method = _by_gram if is_small else _by_lanczos
        with threadpool_limits(1, user_api="blas"):  # else their number changes the last bits
            variance, vectors = method(pixels, rows, share, found, n, memory)
    kept = variance > _NO_VARIANCE * found.variance
    vectors = _signed(vectors[kept]).reshape(-1, *found.mean.shape)
    return Eigenfaces(found, vectors, variance[kept], "gram" if is_small else "lanczos")


def _signed(vectors: np.ndarray) -> np.ndarray:
    """Turn vectors so that the largest entry of each is positive, the first of them if there are two."""
    largest = np.abs(vectors).argmax(axis=1)
    return np.asarray(vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None])


def _by_gram(
    pixels: PixelFile, rows: np.ndarray, share: np.ndarray, found: Moments, n: int, memory: MemoryBudget,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    n_rows, n_features = len(rows), found.mean.size
    held = n_rows * (n_features + 16 * min(_PIXELS_AT_ONCE, n_features)) + 40 * n_rows**2 + 8 * (n + 3) * n_features
    memory.require(held, f"eigenfaces of {n_rows:,} images of {n_features:,} numbers")
    images = pixels.read(rows).reshape(n_rows, n_features)
    products = np.zeros((n_rows, n_rows))
    for start in range(0, n_features, _PIXELS_AT_ONCE):
        some = images[:, start : start + _PIXELS_AT_ONCE].astype(np.float64)
        products += some @ some.T
    means = products @ share
    products += share @ means - means[:, None] - means
    roots = np.sqrt(share)
    products *= roots[:, None] * roots
    variance, of_rows = scipy.linalg.eigh(products, subset_by_index=[n_rows - n, n_rows - 1], overwrite_a=True)
    variance, of_rows = variance[::-1], of_rows[:, ::-1]
    vectors = np.empty((n, n_features))
    centred = of_rows * roots[:, None]
    for start in range(0, n_features, _PIXELS_AT_ONCE):
        part = slice(start, start + _PIXELS_AT_ONCE)
        vectors[:, part] = centred.T @ (images[:, part].astype(np.float64) - found.mean.reshape(-1)[part])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return variance, vectors / np.where(lengths > 0, lengths, 1)


def _by_lanczos(
    pixels: PixelFile, rows: np.ndarray, share: np.ndarray, found: Moments, n: int, memory: MemoryBudget,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    n_features = found.mean.size
    n_vectors = min(max(2 * n + 1, 20), n_features)  # that ARPACK holds
    in_flight = 9 * BLOCK * n_features * (n_threads() + 2)
    memory.require(in_flight + 8 * (2 * n_vectors + n) * n_features, f"eigenfaces of {len(rows):,} images")
    mean = found.mean.reshape(-1)

    def times(vector: np.ndarray) -> np.ndarray:
        product = np.zeros(n_features)

        def add(part: slice) -> np.ndarray:
            block = pixels.read(rows[part]).reshape(-1, n_features).astype(np.float64)
            block -= mean
            return np.asarray((share[part] * (block @ vector)) @ block)

        for one in ordered_map(add, blocks(len(rows)), workers=n_threads()):
            product += one
        return product

    operator: Any = LinearOperator((n_features, n_features), matvec=lambda v: times(v.reshape(-1)), dtype=np.float64)
    begin = np.random.default_rng(_SEED).standard_normal(n_features)
    try:
        variance, vectors = eigsh(operator, k=n, v0=begin, ncv=n_vectors, tol=TOLERANCE)
    except ArpackError as error:
        raise InputError(
            f"the eigenfaces of {len(rows):,} images were not found ({error}); ask for other --components"
        ) from error
    order = np.argsort(-variance, kind="stable")
    return variance[order], vectors.T[order]
