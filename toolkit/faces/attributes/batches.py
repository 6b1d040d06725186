"""Batches of a training: read from the pixel file ahead of the network, in an order and with changes that are known."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from toolkit.backend.cpu import ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.faces.models.preprocessing import Preprocessing
    from toolkit.images.pixels import PixelFile

READERS = 2  # threads; they wait for the disk
_TURN, _SHIFT, _ZOOM = np.deg2rad(10), 0.1, 0.1  # at most, to each side; shifts as a share of the image


class Batch(NamedTuple):
    """Images on the way to the network.

    Attributes
    ----------
    pixels : ndarray (n_images, size, size, 3) of uint8
    labels : ndarray (n_images, n_attributes) of int8
    motions : ndarray (n_images, 2, 3) of float32 or None
        See `motions`.
    """

    pixels: np.ndarray
    labels: np.ndarray
    motions: np.ndarray | None


@dataclass
class Batches:
    """What a training reads.

    Parameters
    ----------
    pixels : PixelFile
    labels : ndarray (n_images, n_attributes) of int8
        1, -1, 0: not known.
    size : int
        Images in a batch, at most; three where the last of pairs would be alone.
    seed : int

    Attributes
    ----------
    waited : float
        Seconds that the network had nothing to do since the pixels were not there yet.
    """

    pixels: PixelFile
    labels: np.ndarray
    size: int
    seed: int
    waited: float = field(default=0.0, init=False)

    def training(self, rows: np.ndarray, epoch: int) -> Iterator[Batch]:
        """Yield rows in the random order of an epoch, moved; the batches are of equal size, to one image.

        None is of one image alone: it has no variance to be normalised by.
        """
        order = rows[np.random.default_rng([self.seed, epoch]).permutation(len(rows))]
        return self._ahead(np.array_split(order, self.n_batches(rows)), epoch)

    def plain(self, rows: np.ndarray) -> Iterator[Batch]:
        """Yield rows in their order, as they are."""
        return self._ahead(np.array_split(rows, self.n_batches(rows)), None)

    def n_batches(self, rows: np.ndarray) -> int:
        """Return how many batches rows make."""
        return min(-(-len(rows) // self.size), max(len(rows) // 2, 1))

    def _ahead(self, parts: list[np.ndarray], epoch: int | None) -> Iterator[Batch]:
        def read(rows: np.ndarray) -> Batch:
            moved = None if epoch is None else motions(rows, self.seed, epoch)
            return Batch(self.pixels.read(rows), self.labels[rows], moved)

        batches = ordered_map(read, parts, workers=READERS)
        while True:
            started = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - started
            if batch is None:
                return
            yield batch


def motions(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return how each image is mirrored, turned, shifted and zoomed: a function of the seed, the epoch and its row.

    Returns
    -------
    ndarray (n_rows, 2, 3) of float32
        For a position in the new image (x, y, 1; from -1 to 1) where it is in the old one.
    """
    draws = np.array([np.random.default_rng([seed, epoch, row]).random(5) for row in rows.tolist()])
    mirror = np.where(draws[:, 0] < 0.5, -1.0, 1.0)
    turn, right, down, zoom = (2 * draws[:, 1:] - 1).T * np.array([_TURN, 2 * _SHIFT, 2 * _SHIFT, _ZOOM])[:, None]
    scale = 1 + zoom
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    first = np.stack([mirror * cosine, -sine, right], axis=1)
    second = np.stack([mirror * sine, cosine, down], axis=1)
    return np.stack([first, second], axis=1).astype(np.float32)


def inputs(batch: Batch, preprocessing: Preprocessing, device: torch.device) -> torch.Tensor:
    """Return what the network sees, float32 (n_images, 3, size, size); edges are continued beyond a moved image."""
    x = torch.from_numpy(batch.pixels).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    if batch.motions is not None:
        grid = functional.affine_grid(torch.from_numpy(batch.motions).to(device), list(x.shape), align_corners=False)
        x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    mean, deviation = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in preprocessing)
    return ((x - mean) / deviation).contiguous(memory_format=torch.channels_last)
