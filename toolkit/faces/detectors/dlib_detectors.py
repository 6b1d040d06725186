"""The detectors of dlib, and its five landmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.faces.align import DLIB_5
from toolkit.faces.detectors.detector import Detector, Face, loaded, refuse
from toolkit.packages import import_package, packaged_file

if TYPE_CHECKING:
    from pathlib import Path

_MMOD_SIDE = 40  # pixels; dlib's network damages memory on images of few pixels a side


def _dlib() -> Any:
    return import_package("dlib", pip="dlib-bin", what="a detector or landmarks of dlib")


def model_file(name: str) -> Path:
    """Return where a file of the package face_recognition_models is; it cannot be imported without pkg_resources."""
    return packaged_file("face_recognition_models", f"models/{name}", what="a detector or landmarks of dlib")


class FivePoints:
    """dlib's regression trees for five landmarks (Kazemi and Sullivan 2014)."""

    def __init__(self) -> None:
        self.rectangle = _dlib().rectangle
        self._predictor = _dlib().shape_predictor(str(model_file("shape_predictor_5_face_landmarks.dat")))

    def face(self, image: np.ndarray, box: Any, score: float) -> Face:
        """Make the face of a box, a dlib rectangle."""
        points = np.array([(point.x, point.y) for point in self._predictor(image, box).parts()], np.float64)
        return Face(box.left(), box.top(), box.width(), box.height(), score, points)


class DlibHog(Detector):
    """Histograms of oriented gradients and a linear classifier; faces from 80 pixels, from 40 in small images.

    Parameters
    ----------
    weights : Path, optional
        Not taken.
    """

    small, bytes_per_pixel, landmark_model = 1_000_000, 12, DLIB_5

    def __init__(self, weights: Path | None = None) -> None:
        refuse("dlib-hog", weights)
        self._detector, self._points = _dlib().get_frontal_face_detector(), FivePoints()

    def search(self, image: np.ndarray, factor: int) -> list[Face]:  # noqa: D102
        boxes, scores, _ = self._detector.run(image, factor - 1)
        return [self._points.face(image, box, score) for box, score in zip(boxes, scores, strict=True)]


class DlibMmod(Detector):
    """A convolutional network trained by max-margin object detection (King 2015): slow without a GPU.

    Parameters
    ----------
    weights : Path, optional
        Another network of dlib's detector than that of face_recognition_models.
    """

    small, bytes_per_pixel, landmark_model = 100_000, 1000, DLIB_5

    def __init__(self, weights: Path | None = None) -> None:
        dlib = _dlib()
        path = model_file("mmod_human_face_detector.dat") if weights is None else weights
        self._detector, self._points = loaded("dlib-mmod", dlib.cnn_face_detection_model_v1, path), FivePoints()
        self.weight_files = () if weights is None else (weights,)

    def search(self, image: np.ndarray, factor: int) -> list[Face]:  # noqa: D102
        if min(image.shape[:2]) < _MMOD_SIDE:
            return []
        found = self._detector(image, factor - 1)
        return [self._points.face(image, one.rect, one.confidence) for one in found]
