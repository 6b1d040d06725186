"""The images that a network learns from: which ones are kept for validation, in which order, and their pixels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from toolkit.aggregate.mean_images import blocks, moments
from toolkit.backend.cpu import ordered_map
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from toolkit.images.pixels import PixelFile

_READING = 2  # threads that read ahead, and so batches that wait
_SPLIT, _ORDER = 0, 1  # what random numbers are for: each has a sequence of its own


class Split(NamedTuple):
    """Rows to train with and rows to validate with, int64, ascending; those of `single` classes are among the first."""

    training: np.ndarray
    validation: np.ndarray
    single: list[int]


class Baselines(NamedTuple):
    """Mean squared errors of the validation images, pixels from 0 to 1, if a mean image stands for each of them."""

    mean: float
    class_mean: float


def split(pixels: PixelFile, rows: np.ndarray, classes: np.ndarray, *, share: float, seed: int) -> Split:
    """Keep a share of each class for validation, at least one image where there are two.

    Images with the same pixels stay in training: a copy of a training image validates nothing.

    Parameters
    ----------
    pixels : PixelFile
    rows, classes : ndarray (n_images,) int64
        Rows of `pixels`, and the class of each.
    share : float
    seed : int

    Raises
    ------
    InputError
        If no class has two images that differ from all others.
    """
    is_unique = _is_unique(pixels, rows)
    kept, single = [], []
    for number in range(int(classes.max()) + 1):
        members = np.flatnonzero(classes == number)
        candidates = members[is_unique[members]]
        most = min(len(candidates), len(members) - 1)
        if most < 1:
            single.append(number)
            continue
        generator = np.random.default_rng([seed, _SPLIT, number])
        kept.append(generator.permutation(candidates)[: min(most, max(1, round(share * len(members))))])
    if not kept:
        raise InputError("no class has two different images, so nothing can be kept for validation; give more images")
    chosen = np.zeros(len(rows), bool)
    chosen[np.concatenate(kept)] = True
    return Split(rows[~chosen], rows[chosen], single)


def _is_unique(pixels: PixelFile, rows: np.ndarray) -> np.ndarray:
    digests = [xxhash.xxh3_64_intdigest(image) for part in blocks(len(rows)) for image in pixels.read(rows[part])]
    _, first, counts = np.unique(np.array(digests, np.uint64), return_inverse=True, return_counts=True)
    return np.asarray(counts[first] == 1)


def balanced_order(classes: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Return which images an epoch takes, in which order: as many as there are, equally many of each class, within one.

    Each class goes through its images in a random order, again and again in new orders where it is small, and goes on
    in the next epoch where it is large. So no image comes twice before another of its class has come.

    Parameters
    ----------
    classes : ndarray (n_images,) int64
        Each class has at least one image.
    seed, epoch : int
        They and the classes decide the order.

    Returns
    -------
    ndarray (n_images,) int64
    """
    n_images, n_classes = len(classes), int(classes.max()) + 1
    quota = -(-n_images // n_classes)
    taken = []
    for number in range(n_classes):
        members = np.flatnonzero(classes == number)
        start = epoch * quota
        first, last = start // len(members), (start + quota - 1) // len(members)
        rounds = [
            np.random.default_rng([seed, _ORDER, number, which]).permutation(members)
            for which in range(first, last + 1)
        ]
        begin = start - first * len(members)
        taken.append(np.concatenate(rounds)[begin : begin + quota])
    generator = np.random.default_rng([seed, _ORDER, n_classes, epoch])
    last_ones = generator.permutation(n_classes)[: n_images - n_classes * (quota - 1)]  # who gives a full quota
    chosen = [one[: quota if number in set(last_ones.tolist()) else quota - 1] for number, one in enumerate(taken)]
    return generator.permutation(np.concatenate(chosen))


class Batches:
    """Batches of pixels, read ahead by threads of their own.

    Attributes
    ----------
    waited : float
        Seconds for which whoever iterates waited for pixels so far.
    """

    def __init__(self, pixels: PixelFile) -> None:
        self.pixels, self.waited = pixels, 0.0

    def read(self, parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the pixels of each of some arrays of rows, uint8 (n_rows, size, size, 3)."""
        stream = ordered_map(self.pixels.read, parts, workers=_READING)
        while True:
            started = time.perf_counter()
            found = next(stream, None)
            self.waited += time.perf_counter() - started
            if found is None:
                return
            yield found


def baselines(
    pixels: PixelFile, training: np.ndarray, validation: np.ndarray, class_of: np.ndarray
) -> tuple[Baselines, np.ndarray]:
    """Return how well mean images of the training images stand for the validation images.

    Parameters
    ----------
    pixels : PixelFile
    training, validation : ndarray of int64
        Rows.
    class_of : ndarray (n_pixel_rows,) int64
        The class of each row.

    Returns
    -------
    Baselines, ndarray (n_classes, size, size, 3) float32
        The mean image of each class, from 0 to 255.
    """
    sizes = np.bincount(class_of[training])
    means = np.stack(
        [moments(pixels, training[class_of[training] == number]).mean for number in range(len(sizes))]
    ).astype(np.float32)
    overall = np.average(means, axis=0, weights=sizes).astype(np.float32)
    errors = np.zeros(2)
    for part in blocks(len(validation)):
        rows = validation[part]
        images = pixels.read(rows).astype(np.float32)
        errors += [_sum_of_squares(images - overall), _sum_of_squares(images - means[class_of[rows]])]
    mean, class_mean = (errors / (len(validation) * overall.size * 255**2)).tolist()
    return Baselines(mean, class_mean), means


def _sum_of_squares(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())
