"""Mean images of groups of images, exact and in one pass over their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.backend.cpu import ordered_map
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.images.pixels import PixelFile

BLOCK = 64  # images over which sums are taken at once; a part of the result of weighted ones


@dataclass(frozen=True)
class Moments:
    """Mean and spread of the pixels of some images.

    Attributes
    ----------
    n_images : int
    mean : ndarray (size, size, 3) float64
        0 to 255.
    variance : float
        Of all pixels together: the sum over pixels and colours of their variance (divided by n, or by the weights).
    """

    n_images: int
    mean: np.ndarray
    variance: float


def moments(pixels: PixelFile, rows: np.ndarray, weights: np.ndarray | None = None) -> Moments:
    """Return the mean image and the total variance.

    Parameters
    ----------
    pixels : PixelFile
    rows : ndarray (n_images,) int64
        At least one.
    weights : ndarray (n_images,) float64, optional
        Not negative, and not all zero; by default all are equal, and sums are whole numbers, so that nothing is rounded
        before the division.
    """
    whole = np.zeros(pixels.shape[1:], np.int64 if weights is None else np.float64)
    squares = np.zeros(pixels.shape[1:], whole.dtype)

    def add(part: slice) -> tuple[np.ndarray, np.ndarray]:
        block = pixels.read(rows[part]).astype(np.int32)
        if weights is None:
            return block.sum(axis=0, dtype=np.int64), (block * block).sum(axis=0, dtype=np.int64)
        return np.tensordot(weights[part], block, 1), np.tensordot(weights[part], block * block, 1)

    for sums, of_squares in ordered_map(add, blocks(len(rows)), workers=n_threads()):
        whole += sums
        squares += of_squares
    total = len(rows) if weights is None else float(weights.sum())
    mean = whole / total
    return Moments(len(rows), mean, max(float((squares / total - mean * mean).sum()), 0.0))


def blocks(n_rows: int) -> Iterator[slice]:
    """Yield the blocks of rows over which sums are taken."""
    return (slice(start, start + BLOCK) for start in range(0, n_rows, BLOCK))
