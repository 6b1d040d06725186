"""What a detector of faces is, what it finds, what helps it with small images, and weights that are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from toolkit.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ORIGINAL, UPSAMPLED, PADDED = "original", "upsampled", "padded"
_PADDED_SHARE = 3  # of the size, on each side: a third
_MOST_SEARCHED = 4 * (1 + 2 / _PADDED_SHARE) ** 2  # pixels of a padded and upsampled image, for each of its own


@dataclass(frozen=True)
class Face:
    """A face that a detector found.

    Attributes
    ----------
    x, y, width, height : float
        Its box in pixels of the upright image; it may reach beyond the image.
    score : float
        How sure the detector is, the larger the surer. Scores of different detectors do not compare.
    landmarks : ndarray (n_landmarks, 2) float64 or None
        x and y in pixels of the upright image, the centre of the first pixel being (0, 0); see
        `Detector.landmark_model`.
    found : {"original", "upsampled", "padded"}
        In which version of the image.
    """

    x: float
    y: float
    width: float
    height: float
    score: float
    landmarks: np.ndarray | None = None
    found: str = ORIGINAL

    @property
    def area(self) -> float:
        """Square pixels of the box."""
        return self.width * self.height


class Detector(ABC):
    """Finds the faces of an image.

    Attributes
    ----------
    landmark_model : str or None
        Which landmarks its faces have, one of `toolkit.faces.align.LANDMARK_MODELS`; None: they have none.
    small : int
        Pixels up to which an image in which nothing was found is searched upsampled, and then padded too. Larger ones
        would take too much time and memory, and their faces are seldom too small for the detector.
    bytes_per_pixel : int
        Most that a pixel takes while it is searched.
    process_bytes : int
        That a process with the detector takes, measured, images apart.
    licence_note : str or None
        Terms of its weights that exclude some uses; None: there are none.
    weight_files : tuple of Path
        Of the weights that were given; their content decides what is found.
    """

    small: ClassVar[int]
    bytes_per_pixel: ClassVar[int]
    process_bytes: ClassVar[int] = 200 << 20
    licence_note: ClassVar[str | None] = None
    landmark_model: str | None = None
    weight_files: tuple[Path, ...] = ()

    @abstractmethod
    def search(self, image: np.ndarray, factor: int) -> list[Face]:
        """Find the faces of an RGB image (height, width, 3) uint8, enlarged by the factor 1 or 2."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """Find the faces of an image, the surest first.

        The image is searched as it is; where nothing is found and it is `small`, enlarged twice; where nothing is
        found again, padded and enlarged twice, for faces that fill the image.

        Parameters
        ----------
        image : ndarray (height, width, 3) uint8
            RGB, upright.
        """
        faces = self.search(image, 1)
        if not faces and self._is_small(image):
            faces = [replace(face, found=UPSAMPLED) for face in self.search(image, 2)]
            if not faces:
                left, top = padding(image)
                faces = [_from_padded(face, left, top) for face in self.search(padded(image), 2)]
        return sorted(faces, key=lambda face: (-face.score, face.x, face.y))

    def needs(self, image: np.ndarray) -> int:
        """Return the bytes that `detect` takes at most for an image."""
        n_pixels = image.shape[0] * image.shape[1]
        return int(self.bytes_per_pixel * n_pixels * (_MOST_SEARCHED if self._is_small(image) else 1))

    def _is_small(self, image: np.ndarray) -> bool:
        return bool(image.shape[0] * image.shape[1] <= self.small)


def padding(image: np.ndarray) -> tuple[int, int]:
    """Return by how many pixels an image (height, width, 3) is padded on its left and right, and top and bottom."""
    return image.shape[1] // _PADDED_SHARE, image.shape[0] // _PADDED_SHARE


def padded(image: np.ndarray) -> np.ndarray:
    """Return an image (height, width, 3) with its edge replicated on each side, as faces are searched in it."""
    left, top = padding(image)
    return np.pad(image, [(top, top), (left, left), (0, 0)], mode="edge")


def _from_padded(face: Face, left: int, top: int) -> Face:
    landmarks = None if face.landmarks is None else face.landmarks - (left, top)
    return replace(face, x=face.x - left, y=face.y - top, landmarks=landmarks, found=PADDED)


# Weights that are given
def refuse(name: str, weights: Path | None) -> None:
    """Raise InputError if a detector that takes no weights is given some."""
    if weights is not None:
        raise InputError(f"detector {name!r} takes no weights, received {weights}; leave them out")


def loaded(name: str, make: Callable[[str], Any], path: Path) -> Any:
    """Return what a library makes of the path of a model.

    Raises
    ------
    InputError
        If it is no file, or the library cannot read it.
    """
    if not path.is_file():
        raise InputError(f"weights {path} is not a file; give the file of the model of {name}")
    try:
        return make(str(path))
    except Exception as error:  # dlib's and OpenCV's have no common class
        raise InputError(
            f"weights {path} cannot be read: {one_line(error)}; give the file of a model of {name}"
        ) from error
