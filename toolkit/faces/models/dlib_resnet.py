"""The face recognition ResNet of dlib (King 2017), with the detector and the landmarks it was trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from toolkit.faces.align import DLIB_5, aligned_chip
from toolkit.faces.detectors.detector import PADDED, padded, padding
from toolkit.faces.detectors.dlib_detectors import DlibHog
from toolkit.faces.models import CHIP_MARGIN
from toolkit.faces.models.embedder import Embedder
from toolkit.images.source import ImageError
from toolkit.packages import import_package, packaged_file

if TYPE_CHECKING:
    from toolkit.faces.models import Choice

_PACKAGE, _FILE = "face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat"
_SIDE = 150  # of a chip


class DlibEmbedder(Embedder):
    """The network, and how the face is found in an image that is not aligned; see the card of the model.

    Parameters
    ----------
    choice : Choice
    """

    batch = 1

    def __init__(self, choice: Choice) -> None:
        what = f"the model {choice.card.name}"
        dlib = import_package("dlib", pip="dlib-bin", what=what)
        self.dimensions = int(choice.card.dimensions or 0)
        network = packaged_file(_PACKAGE, _FILE, sha256=str(choice.card.sha256), what=what)
        self.network = dlib.face_recognition_model_v1(str(network))
        self.detector = DlibHog()

    def prepare(self, image: np.ndarray, *, is_aligned: bool = False) -> np.ndarray:  # noqa: D102
        if is_aligned and image.shape[:2] == (_SIDE, _SIDE):
            return image
        image = np.ascontiguousarray(image)
        faces = self.detector.detect(image)
        if not faces:
            raise ImageError("has no face in it that the detector dlib-hog finds")
        face = max(faces, key=lambda one: one.area)  # of equal ones the surest, which comes first
        landmarks = np.asarray(face.landmarks)
        if face.found == PADDED:  # cut from what was searched: its edge goes on where the image ends
            image, landmarks = padded(image), landmarks + padding(image)
        return aligned_chip(image, landmarks, DLIB_5, size=_SIDE, margin=CHIP_MARGIN)

    def _forward(self, inputs: np.ndarray) -> np.ndarray:
        return np.array(self.network.compute_face_descriptor(inputs[0]), np.float32)[None]
