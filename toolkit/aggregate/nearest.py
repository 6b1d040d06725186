"""The real images that are nearest to given ones, by their pixels: exact, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from toolkit.images.pixels import PixelFile
    from toolkit.progress import Reporter

_BLOCK_BYTES = 32 << 20  # of pixels as float64


class Nearest(NamedTuple):
    """Rows of the nearest images, int64, and their distances, float64; each (n_given, n_nearest), the nearest first.

    A distance is the root of the mean squared difference of the pixels, in grey levels (0 to 255).
    """

    rows: np.ndarray
    distances: np.ndarray


def nearest_images(pixels: PixelFile, rows: np.ndarray, given: np.ndarray, most: int, reporter: Reporter) -> Nearest:
    """Find the nearest of some images of a cache.

    Parameters
    ----------
    pixels : PixelFile
    rows : ndarray (n_rows,) int64
        Ascending; of equally near ones the first counts.
    given : ndarray (n_given, size, size, 3) uint8
    most : int
        Images for each given one; at most as many as there are rows.
    reporter : Reporter

    Notes
    -----
    Squared distances are whole numbers below 2^53 and so are all products that make them: float64 rounds nothing.
    """
    most = min(most, len(rows))
    flat = given.reshape(len(given), -1).astype(np.float64)
    own = np.square(flat).sum(1)
    best = np.full((len(given), 0), 0.0)
    where = np.empty((len(given), 0), np.int64)
    n_block = max(1, _BLOCK_BYTES // (8 * flat.shape[1]))
    parts = [rows[start : start + n_block] for start in range(0, len(rows), n_block)]
    for part in reporter.watch("nearest images", parts, len, len(rows)):
        block = pixels.read(part).reshape(len(part), -1).astype(np.float64)
        squares = own[:, None] - 2 * flat @ block.T + np.square(block).sum(1)
        best = np.concatenate([best, squares], axis=1)
        where = np.concatenate([where, np.broadcast_to(part, squares.shape)], axis=1)
        order = np.argsort(best, axis=1, kind="stable")[:, :most]
        best, where = np.take_along_axis(best, order, 1), np.take_along_axis(where, order, 1)
    return Nearest(where, np.sqrt(best / flat.shape[1]))
