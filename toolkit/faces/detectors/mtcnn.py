"""MTCNN (Zhang et al. 2016): faces of all sizes proposed, refined and decided by three small networks.

Boxes are float32 (n, 4): left, top, right, bottom, the first and the last pixel of each side, from 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

from toolkit.faces.align import ARCFACE_5
from toolkit.faces.detectors.detector import Detector, Face
from toolkit.faces.detectors.mtcnn_networks import PNet, given_files, open_networks, packaged_files
from toolkit.faces.models.preprocessing import resized
from toolkit.faces.models.torch_network import exact_products

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from toolkit.faces.detectors.mtcnn_networks import ONet, RNet

_PROPOSED, _REFINED, _DECIDED = 0.6, 0.7, 0.7  # least probabilities after each network
_SHRINKING = 0.709  # of the image from one size to the next: half the area
_STRIDE = 2  # pixels from one window of PNet to the next
_BAND_PIXELS = 1 << 17  # of the image that go through PNet at once
_BATCH = 64  # windows that go through RNet or ONet at once


class Mtcnn(Detector):
    """Three convolutional networks, each stricter than the one before; they find landmarks too.

    Parameters
    ----------
    weights : Path, optional
        Folder with ``pnet.pt``, ``rnet.pt`` and ``onet.pt``, state dicts of PyTorch; by default those that ship in
        the package facenet-pytorch.

    Attributes
    ----------
    min_face : int
        Pixels of a side of the smallest face that can be found; half as many in small images.

    Notes
    -----
    The networks run on the CPU, on one thread: an image at a time is too little for a GPU, and the images go to several
    processes. What is found is what facenet-pytorch finds, but at the edge of the image: there it measures boxes and
    landmarks in windows that reach beyond the image, and shows its networks only what is inside, stretched.

    facenet-pytorch, and the authors' repository that its weights come from, are under the MIT licence; the images
    that the networks were trained on (WIDER FACE, CelebA) are for non-commercial research only.
    """

    small, bytes_per_pixel, process_bytes, landmark_model = 250_000, 28, 350 << 20, ARCFACE_5
    licence_note = (
        "the weights of mtcnn are under the MIT licence, but were trained on WIDER FACE and CelebA, which are for "
        "non-commercial research only; without such terms: dlib-hog"
    )
    min_face: ClassVar[int] = 20

    def __init__(self, weights: Path | None = None) -> None:
        self.weight_files = () if weights is None else given_files(weights)
        self._pnet, self._rnet, self._onet = open_networks(self.weight_files or packaged_files())

    def search(self, image: np.ndarray, factor: int) -> list[Face]:  # noqa: D102
        height, width = image.shape[:2]
        if min(height, width) * factor < self.min_face:
            return []
        enlarged = resized(image, (height * factor, width * factor), Image.Resampling.BILINEAR)
        with torch.inference_mode(), exact_products(is_cuda=False):
            # Channel by channel, as it is pooled: torch would copy another layout each time.
            pixels = torch.from_numpy(np.ascontiguousarray(enlarged.transpose(2, 0, 1))[None]).float()
            boxes = self._refined(pixels, self._proposed(pixels))
            return [_face(*found, factor) for found in zip(*self._decided(pixels, boxes), strict=True)]

    def _proposed(self, pixels: torch.Tensor) -> np.ndarray:
        """Return the squares (n, 4) that may show a face."""
        found = []
        for scale in scales(min(pixels.shape[2:]), self.min_face):
            boxes, scores, shares = _hits(self._pnet, pixels, scale)
            kept = suppressed(boxes, scores, 0.5)
            found.append((boxes[kept], scores[kept], shares[kept]))
        boxes, scores, shares = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kept = suppressed(boxes, scores, 0.7)
        return _squares(_moved(boxes[kept], shares[kept], last=0))

    def _refined(self, pixels: torch.Tensor, boxes: np.ndarray) -> np.ndarray:
        """Return those of the squares (n, 4) that still may show a face, brought nearer to it."""
        boxes, (scores, shares) = _seen(self._rnet, pixels, boxes)
        sure = scores > _REFINED
        boxes, scores, shares = boxes[sure], scores[sure], shares[sure]
        kept = suppressed(boxes, scores, 0.7)
        return _squares(_moved(boxes[kept], shares[kept]))

    def _decided(self, pixels: torch.Tensor, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the boxes (n, 4), scores (n,) and landmarks (n, 5, 2) of the faces in squares (n, 4)."""
        boxes, (scores, shares, landmarks) = _seen(self._onet, pixels, boxes)
        sure = scores > _DECIDED
        boxes, scores, shares, landmarks = boxes[sure], scores[sure], shares[sure], landmarks[sure]
        points = landmarks.reshape(-1, 2, 5).transpose(0, 2, 1)
        points = boxes[:, None, :2] + points * (boxes[:, 2:] - boxes[:, :2] + 1)[:, None]
        boxes = _moved(boxes, shares)
        kept = suppressed(boxes, scores, 0.7, of_smaller=True)
        return boxes[kept], scores[kept], points[kept]


def scales(side: int, min_face: int) -> Iterator[float]:
    """Yield by what an image is multiplied so that faces from `min_face` to its shorter side have PNet's size."""
    scale = PNet.side / min_face
    least = side * scale
    while least >= PNet.side:
        yield scale
        scale, least = scale * _SHRINKING, least * _SHRINKING


def suppressed(boxes: np.ndarray, scores: np.ndarray, most: float, *, of_smaller: bool = False) -> np.ndarray:
    """Leave out each box that overlaps too much with one of a higher score (non-maximum suppression).

    Parameters
    ----------
    boxes : ndarray (n, 4)
        Left, top, right and bottom.
    scores : ndarray (n,)
        Of equal ones the first counts as higher.
    most : float
        That two boxes may have in common, as a share of their union; one that is left out leaves none out.
    of_smaller : bool
        As a share of the smaller of both instead.

    Returns
    -------
    ndarray (n_kept,) int64
        Numbers of the boxes that stay, the highest score first.
    """
    order = np.argsort(-scores, kind="stable")
    corners, others = boxes[:, :2], boxes[:, 2:]
    areas = (others - corners).prod(axis=1)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(others[best], others[order]) - np.maximum(corners[best], corners[order])
        common = sides.clip(min=0).prod(axis=1)
        whole = np.minimum(areas[best], areas[order]) if of_smaller else areas[best] + areas[order] - common
        shares = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
        order = order[shares <= most]
    return np.array(kept, np.int64)


# Networks
def propose(network: PNet, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `PNet` says of an image (1, 3, height, width), whose memory at a time is bounded.

    The image goes through it in bands, each of which begins with the rows that its windows share with the last one.
    """
    n_rows = max(1, _BAND_PIXELS // (_STRIDE * image.shape[3]))  # of windows
    last = image.shape[2] - PNet.side
    bands = [
        network(_input(image[:, :, top : top + _STRIDE * (n_rows - 1) + PNet.side]))
        for top in range(0, last + _STRIDE, _STRIDE * n_rows)
    ]
    probabilities, shares = zip(*bands, strict=True)
    return torch.cat(probabilities, dim=1), torch.cat(shares, dim=2)


def _hits(network: PNet, pixels: torch.Tensor, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the windows of an image at a scale that may show a face: boxes (n, 4), scores (n,), shares (n, 4)."""
    size = [int(side * scale + 1) for side in pixels.shape[2:]]
    probabilities, shares = propose(network, adaptive_avg_pool2d(pixels, size))
    rows, columns = (probabilities[0] >= _PROPOSED).nonzero(as_tuple=True)
    windows = _STRIDE * torch.stack([columns, rows], dim=1).numpy().astype(np.float32)
    first, last = (np.floor((windows + add) / np.float32(scale)) - 1 for add in (1, PNet.side))
    found = probabilities[0, rows, columns], shares[0][:, rows, columns].T
    return np.concatenate([first, last], axis=1), found[0].numpy(), found[1].numpy()


def _seen(network: RNet | ONet, pixels: torch.Tensor, boxes: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the parts of boxes (n, 4) that are inside of the image, where there are any, and what a network says.

    What it says is measured in these parts, as it sees nothing else: in whole boxes, landmarks of faces at the edge
    would be far off.
    """
    height, width = pixels.shape[2:]
    last = np.array([width - 1, height - 1], np.float32)
    corners, ends = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], last)
    boxes = np.concatenate([corners, ends], axis=1)[(corners <= ends).all(axis=1)]
    windows = np.floor(boxes).astype(np.int64).tolist()
    parts = [network(pixels.new_empty((0, 3, network.side, network.side)))]  # what it says of none
    for start in range(0, len(windows), _BATCH):
        looks = [
            adaptive_avg_pool2d(pixels[:, :, top : bottom + 1, left : right + 1], network.side)
            for left, top, right, bottom in windows[start : start + _BATCH]
        ]
        parts.append(network(_input(torch.cat(looks))))
    return boxes, [torch.cat(part).numpy() for part in zip(*parts, strict=True)]


def _input(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - 127.5) / 128


# Boxes
def _moved(boxes: np.ndarray, shares: np.ndarray, *, last: int = 1) -> np.ndarray:
    """Move the sides of boxes by shares of their lengths, to which the last pixel belongs but in the first stage."""
    sides = boxes[:, 2:] - boxes[:, :2] + np.float32(last)
    return np.asarray(boxes + shares * np.concatenate([sides, sides], axis=1))


def _squares(boxes: np.ndarray) -> np.ndarray:
    """Return squares around the middles of boxes, with their longer sides."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True)
    corners = boxes[:, :2] + sides * np.float32(0.5) - longer * np.float32(0.5)
    return np.concatenate([corners, corners + longer], axis=1)


def _face(box: np.ndarray, score: np.floating, points: np.ndarray, factor: int) -> Face:
    """Make a face of what was found in the enlarged image; a pixel of it is centred at a fraction of one."""
    left, top, right, bottom = box.astype(np.float64).tolist()
    landmarks = (points.astype(np.float64) + 0.5) / factor - 0.5
    return Face(
        left / factor, top / factor, (right - left + 1) / factor, (bottom - top + 1) / factor, float(score), landmarks
    )
