"""Where the faces of an image are: the detectors by name. What one needs is imported when it is made."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from toolkit.errors import unknown
from toolkit.faces.detectors.detector import ORIGINAL, PADDED, UPSAMPLED, Detector, Face, padded, padding
from toolkit.faces.detectors.dlib_detectors import DlibHog, DlibMmod
from toolkit.faces.detectors.opencv_detectors import Haar, YuNet
from toolkit.packages import import_package

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = (
    "DETECTORS",
    "ORIGINAL",
    "PADDED",
    "UPSAMPLED",
    "Detector",
    "Face",
    "default_detector",
    "make_detector",
    "padded",
    "padding",
)


def _mtcnn(weights: Path | None) -> Detector:
    import_package("torch", pip="torch", what="the detector mtcnn")
    from toolkit.faces.detectors.mtcnn import Mtcnn  # its networks are classes of torch

    return Mtcnn(weights)


DETECTORS: dict[str, Callable[[Path | None], Detector]] = {
    "dlib-hog": DlibHog,
    "dlib-mmod": DlibMmod,
    "haar": Haar,
    "haar-strict": partial(Haar, min_neighbors=45),
    "mtcnn": _mtcnn,
    "yunet": YuNet,
}


def default_detector() -> str:
    """Return ``dlib-hog`` where dlib and its models are installed, else ``mtcnn``; nothing is imported."""
    return "dlib-hog" if find_spec("dlib") and find_spec("face_recognition_models") else "mtcnn"


def make_detector(name: str, weights: Path | None = None) -> Detector:
    """Make a detector.

    Parameters
    ----------
    name : str
        One of `DETECTORS`.
    weights : Path, optional
        File of its model, where it takes one; of ``mtcnn`` a folder.

    Raises
    ------
    InputError
        If there is no such detector, or its weights are missing, damaged or none that it takes.
    MissingPackageError
        If a package that it needs is not installed.
    """
    if name not in DETECTORS:
        raise unknown("detector", name, DETECTORS)
    return DETECTORS[name](weights)
