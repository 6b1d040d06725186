"""The detectors of OpenCV."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import InputError, MissingPackageError
from toolkit.faces.align import ARCFACE_5, DLIB_5
from toolkit.faces.detectors.detector import Detector, Face, loaded, refuse
from toolkit.faces.detectors.dlib_detectors import FivePoints
from toolkit.packages import import_package

if TYPE_CHECKING:
    from pathlib import Path


def _cv2() -> Any:
    return import_package("cv2", pip="'opencv-python-headless<5'", what="a detector of OpenCV")


class Haar(Detector):
    """Haar features and a cascade of classifiers (Viola and Jones 2001): OpenCV's for frontal faces.

    Parameters
    ----------
    weights : Path, optional
        Not taken.
    min_neighbors : int
        Hits that must fall together to be a face; their number is the score.

    Notes
    -----
    The landmarks are those of dlib, where it is installed.
    """

    small, bytes_per_pixel = 250_000, 70

    def __init__(self, weights: Path | None = None, *, min_neighbors: int = 5) -> None:
        refuse("haar", weights)
        cv2 = _cv2()
        self._cascade = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml")
        self._min_neighbors = min_neighbors
        try:
            self._points: FivePoints | None = FivePoints()
        except MissingPackageError:
            self._points = None
        else:
            self.landmark_model = DLIB_5

    def search(self, image: np.ndarray, factor: int) -> list[Face]:  # noqa: D102
        grey = _enlarged(_cv2().cvtColor(image, _cv2().COLOR_RGB2GRAY), factor)
        boxes, scores = self._cascade.detectMultiScale2(grey, scaleFactor=1.1, minNeighbors=self._min_neighbors)
        return [
            self._with_landmarks(image, _face(box, factor, score))
            for box, score in zip(np.reshape(boxes, (-1, 4)), scores, strict=True)
        ]

    def _with_landmarks(self, image: np.ndarray, face: Face) -> Face:
        if self._points is None:
            return face
        x, y = round(face.x), round(face.y)
        box = self._points.rectangle(x, y, x + round(face.width) - 1, y + round(face.height) - 1)
        return replace(face, landmarks=self._points.face(image, box, face.score).landmarks)


class YuNet(Detector):
    """A small convolutional network (Wu, Peng and Yu 2023), run by OpenCV; it finds landmarks itself.

    Parameters
    ----------
    weights : Path
        ONNX file of the network, such as face_detection_yunet_2023mar.onnx of the OpenCV Zoo.
    """

    small, bytes_per_pixel, landmark_model = 250_000, 400, ARCFACE_5

    def __init__(self, weights: Path | None = None) -> None:
        cv2 = _cv2()
        if weights is None:
            raise InputError(
                "detector 'yunet' needs weights; give the file face_detection_yunet_2023mar.onnx of the OpenCV Zoo"
            )
        make = partial(cv2.FaceDetectorYN.create, config="", input_size=(64, 64), score_threshold=0.6)
        self._detector = loaded("yunet", make, weights)
        self.weight_files = (weights,)

    def search(self, image: np.ndarray, factor: int) -> list[Face]:  # noqa: D102
        enlarged = _enlarged(np.ascontiguousarray(image[:, :, ::-1]), factor)
        self._detector.setInputSize((enlarged.shape[1], enlarged.shape[0]))
        _, found = self._detector.detect(enlarged)
        rows = np.empty((0, 15)) if found is None else found.astype(np.float64)
        return [_face(row[:4], factor, row[14], row[4:14].reshape(5, 2) / factor) for row in rows]


def _face(box: np.ndarray, factor: int, score: float, landmarks: np.ndarray | None = None) -> Face:
    x, y, width, height = (float(value) / factor for value in box)
    return Face(x, y, width, height, float(score), landmarks)


def _enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    cv2 = _cv2()
    return image if factor == 1 else np.asarray(cv2.resize(image, None, fx=factor, fy=factor))
