"""Labellings without copies: cluster numbers on demand, sizes, and which labellings are the same partition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import xxhash

from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HASHED_ROWS = 1 << 16


@dataclass(frozen=True, eq=False)
class Partition:
    """A labelling whose clusters are numbered 0, 1, ... by their first row; rows that are not scored are -1.

    Attributes
    ----------
    values : ndarray (n_samples,) int
        The caller's labels, or positions in `numbers` where the labels span a wide range.
    lowest : int
        The value that `numbers` begins with.
    numbers : ndarray (n,) int32
        The cluster of each value.
    names : ndarray (n_clusters,) int
        The caller's label of each cluster.
    first_rows, sizes : ndarray (n_clusters,) int64
    n_noise : int
        Rows labelled -1, whether they are scored or not.
    """

    values: np.ndarray
    lowest: int
    numbers: np.ndarray
    names: np.ndarray
    first_rows: np.ndarray
    sizes: np.ndarray
    n_noise: int

    @property
    def n_clusters(self) -> int:
        """Clusters that are scored."""
        return len(self.sizes)

    @property
    def n_clustered(self) -> int:
        """Rows that are scored."""
        return int(self.sizes.sum())

    def clusters(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the clusters of these rows, (n_rows,) int32."""
        clusters: np.ndarray = _look_up(self.values[rows], self.lowest, self.numbers)
        return clusters

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the clusters of all rows, block by block."""
        for start in range(0, len(self.values), _HASHED_ROWS):
            yield self.clusters(slice(start, start + _HASHED_ROWS))


def partition(labels: np.ndarray, *, noise: str) -> Partition:
    """Make a partition of labels, (n_samples,) int; `noise` is as in `score_labellings`."""
    lowest, highest = int(labels.min()), int(labels.max())
    values, base, shift = labels, lowest, lowest
    if highest - lowest > len(labels) or labels.dtype == np.uint64:  # a table over the range would be larger than them
        found, inverse = np.unique(labels, return_inverse=True)
        values, base, shift = inverse.astype(np.int32), 0, 0
        span, skipped = len(found), int(np.searchsorted(found, -1)) if lowest < 0 and -1 in found else -1
    else:
        found, span, skipped = None, highest - lowest + 1, -1 - lowest
    n_noise, numbers, order, first_rows, sizes = _number(
        values, shift, span, skipped if 0 <= skipped < span else -1, noise == "exclude"
    )
    names = order + base if found is None else found[order]
    return Partition(values, shift, numbers, names, first_rows, sizes, n_noise)


def distinct(labellings: Sequence[Any], *, n_samples: int, noise: str) -> tuple[list[Partition], list[int]]:
    """Return the different partitions among labellings, and for each labelling which of them it is.

    Labellings that differ only in how clusters are numbered are the same partition, and so are scored once.

    Raises
    ------
    InputError
        If something is not an array (n_samples,) of integers.
    """
    partitions: list[Partition] = []
    of_labelling: list[int] = []
    by_digest: dict[bytes, list[int]] = {}
    for position, labels in enumerate(labellings):
        found = partition(_checked(labels, position, n_samples), noise=noise)
        alike = by_digest.setdefault(_digest(found), [])
        same = next((i for i in alike if _equal(partitions[i], found)), None)
        if same is None:
            same = len(partitions)
            alike.append(same)
            partitions.append(found)
        of_labelling.append(same)
    return partitions, of_labelling


def _checked(given: Any, position: int, n_samples: int) -> np.ndarray:
    labels: np.ndarray = np.asarray(given)
    if labels.shape != (n_samples,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"labelling {position} is {labels.dtype} {labels.shape}; allowed: integers ({n_samples},), one per row of X"
        )
    return labels


def _digest(found: Partition) -> bytes:
    digest = xxhash.xxh3_128()
    digest.update(found.n_noise.to_bytes(8, "little"))
    for block in found.blocks():
        digest.update(block.data)
    return digest.digest()


def _equal(a: Partition, b: Partition) -> bool:
    """Equal digests are not yet equal labellings."""
    return a.n_noise == b.n_noise and all(np.array_equal(x, y) for x, y in zip(a.blocks(), b.blocks(), strict=True))


@numba.njit(nogil=True, cache=True)
def _number(values, lowest, span, noise_at, exclude):  # type: ignore[no-untyped-def]
    """Return rows of noise, cluster of each value, value of each cluster, its first row, its size."""
    numbers = np.full(span, -1, np.int32)
    counts = np.zeros(span, np.int64)
    first = np.zeros(span, np.int64)
    order = np.empty(span, np.int64)
    n_clusters = 0
    for row in range(len(values)):
        value = np.int64(values[row]) - lowest
        counts[value] += 1
        if numbers[value] < 0 and not (exclude and value == noise_at):
            numbers[value] = n_clusters
            first[n_clusters] = row
            order[n_clusters] = value
            n_clusters += 1
    n_noise = counts[noise_at] if noise_at >= 0 else 0
    return n_noise, numbers, order[:n_clusters].copy(), first[:n_clusters].copy(), counts[order[:n_clusters]]


@numba.njit(nogil=True, cache=True)
def _look_up(values, lowest, numbers):  # type: ignore[no-untyped-def]
    clusters = np.empty(len(values), np.int32)
    for row in range(len(values)):
        clusters[row] = numbers[np.int64(values[row]) - lowest]
    return clusters
