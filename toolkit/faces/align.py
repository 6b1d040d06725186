"""Faces brought into one position by their landmarks: a similarity transform to a template."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
from PIL import Image

from toolkit.errors import InputError
from toolkit.memory import format_size

DLIB_5, ARCFACE_5 = "dlib-5", "arcface-5"
LANDMARK_MODELS = {
    DLIB_5: "both corners of the eye on the right of the image, outer first, of the other, and the base of the nose",
    ARCFACE_5: "centre of the eye on the left of the image, of the other, tip of the nose, left and right mouth corner",
}

# Pixels of a chip of 112 x 112, the centre of the first being (0, 0): Deng et al. 2019, "ArcFace"
ARCFACE_SIZE = 112
ARCFACE_TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)

_REGION_BYTES = 12  # of a pixel of what is cut out, with its margin, measured: 8


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the rotation, scale and translation that bring points nearest to others (Umeyama 1991).

    Parameters
    ----------
    source, target : ndarray (n_points, 2)
        At least two points; the sum of squared distances is least.

    Returns
    -------
    ndarray (2, 3) float64
        ``source @ result[:, :2].T + result[:, 2]`` is near to `target`. It never mirrors.

    Raises
    ------
    InputError
        If all points of `source` are one, or not finite.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    middle, aim = source.mean(axis=0), target.mean(axis=0)
    spread = float(((source - middle) ** 2).sum())
    if not 0 < spread < math.inf:
        raise InputError("landmarks that are all in one place, or not finite, have no position; give other ones")
    left, values, right = np.linalg.svd((target - aim).T @ (source - middle))
    turn = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    linear = float(values @ turn) / spread * (left * turn) @ right
    return np.column_stack([linear, aim - linear @ middle])


def template(size: int, margin: float) -> np.ndarray:
    """Return where ArcFace's landmarks belong in a chip, (5, 2) float64 in pixels.

    Parameters
    ----------
    size : int
        Side of the chip in pixels.
    margin : float
        What the chip shows beyond ArcFace's, on each side, as a share of ArcFace's side.
    """
    share = (ARCFACE_TEMPLATE + 0.5) / ARCFACE_SIZE
    return (share + margin) / (1 + 2 * margin) * size - 0.5


def aligned_chip(
    image: np.ndarray, landmarks: np.ndarray, model: str, *, size: int, margin: float, most_bytes: float = math.inf
) -> np.ndarray:
    """Cut a face out so that its landmarks are where they belong.

    Parameters
    ----------
    image : ndarray (height, width, 3) uint8
    landmarks : ndarray (5, 2)
        x and y in pixels of the image, the centre of the first being (0, 0).
    model : str
        What they are, one of `LANDMARK_MODELS`.
    size : int
        Side of the chip in pixels.
    margin : float
        What the chip shows around the template, on each side, as a share of the template's side.
    most_bytes : float
        That cutting may take.

    Returns
    -------
    ndarray (size, size, 3) uint8
        Antialiased. Beyond the image it is black for dlib's landmarks, and repeats the edge for the others.

    Raises
    ------
    InputError
        If the landmarks are all in one place, or the face with its margin is too large for these bytes.

    Notes
    -----
    For its own landmarks dlib cuts the chip, so that its network sees the very pixels that it was trained for.
    """
    if model == DLIB_5:
        return _dlib_chip(image, landmarks, size, margin)
    return warped(image, similarity(landmarks, template(size, margin)), size, most_bytes=most_bytes)


def warped(image: np.ndarray, transform: np.ndarray, size: int, *, most_bytes: float = math.inf) -> np.ndarray:
    """Return the chip (size, size, 3) uint8 that a similarity transform (2, 3) cuts out, antialiased.

    What it shrinks is shrunk first, then turned; beyond the image its edge is repeated.
    """
    scale = math.sqrt(abs(np.linalg.det(transform[:, :2])))
    back = np.linalg.inv(transform[:, :2])
    corners = (np.array([(0, 0), (size, 0), (0, size), (size, size)]) - 0.5 - transform[:, 2]) @ back.T + 0.5
    border = math.ceil(3 / min(scale, 1))  # pixels that the filter reads beyond
    left, top = (int(value) for value in np.floor(corners.min(axis=0)) - border)
    right, bottom = (int(value) for value in np.ceil(corners.max(axis=0)) + border)
    _check_memory((right - left) * (bottom - top), most_bytes)
    region = Image.fromarray(region_of(image, left, top, right, bottom))
    if scale < 1:
        shrunk_size = (math.ceil(region.width * scale), math.ceil(region.height * scale))
        region = region.resize(shrunk_size, Image.Resampling.LANCZOS)
    shrunk = np.array([region.width / (right - left), region.height / (bottom - top)])
    # Pillow asks for the place in the region, corners of pixels being whole numbers, of each place in the chip.
    offset = (back @ (-0.5 - transform[:, 2]) + 0.5 - (left, top)) * shrunk
    rows = np.column_stack([back * shrunk[:, None], offset]).ravel().tolist()
    chip = region.transform((size, size), Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC)
    return np.asarray(chip)


def region_of(image: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """Return a rectangle of an image (height, width, 3), its edge being repeated where it leaves the image."""
    rows = np.clip(np.arange(top, bottom), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, right), 0, image.shape[1] - 1)
    return np.ascontiguousarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])[
        np.ix_(rows - rows[0], columns - columns[0])
    ]


def _check_memory(n_pixels: int, most_bytes: float) -> None:
    needed = n_pixels * _REGION_BYTES
    if needed > most_bytes:
        raise InputError(
            f"needs {format_size(needed)} to be cut out with its margin, of {format_size(most_bytes)} that there are "
            f"for one image; raise --memory, or take a smaller --margin"
        )


def square_chip(
    image: np.ndarray,
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    size: int,
    margin: float,
    most_bytes: float = math.inf,
) -> np.ndarray:
    """Cut a box out, made square around its middle.

    Parameters
    ----------
    image : ndarray (height, width, 3) uint8
    x, y, width, height : float
        The box, in pixels of the image.
    size : int
        Side of the result in pixels.
    margin : float
        What is added on each side, as a share of the longer side of the box.
    most_bytes : float
        That cutting may take.

    Returns
    -------
    ndarray (size, size, 3) uint8
        Antialiased; beyond the image its edge is repeated.

    Raises
    ------
    InputError
        If the box with its margin is too large for these bytes.
    """
    side = max(width, height) * (1 + 2 * margin)
    corner = np.array([x + width / 2, y + height / 2]) - side / 2
    left, top = (int(value) for value in np.floor(corner))
    right, bottom = (int(value) for value in np.ceil(corner + side))
    _check_memory((right - left) * (bottom - top), most_bytes)
    region = Image.fromarray(region_of(image, left, top, right, bottom))
    inside = (corner[0] - left, corner[1] - top, corner[0] - left + side, corner[1] - top + side)
    return np.asarray(region.resize((size, size), Image.Resampling.LANCZOS, box=inside))


def _dlib_chip(image: np.ndarray, landmarks: np.ndarray, size: int, margin: float) -> np.ndarray:
    dlib: Any = importlib.import_module("dlib")  # there: the landmarks are its own
    points = [dlib.point(int(x), int(y)) for x, y in landmarks]
    shape = dlib.full_object_detection(dlib.rectangle(), points)
    return np.asarray(dlib.get_face_chip(image, shape, size=size, padding=margin))
