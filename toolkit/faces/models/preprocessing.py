"""What is subtracted from the pixels of an image, and by what they are divided: in numbers of 0 to 255, for R, G, B."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image


class Preprocessing(NamedTuple):
    """``(x - mean) / deviation`` for each channel."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


PREPROCESSINGS = {
    "arcface": Preprocessing((127.5,) * 3, (127.5,) * 3),
    "imagenet": Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "none": Preprocessing((0.0,) * 3, (1.0,) * 3),
}


def resized(image: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """Return an image at the size (height, width) of a network, uint8 (height, width, 3); its shape is not kept.

    Pillow's filters average what is made smaller, so nothing is aliased.
    """
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], resample))
