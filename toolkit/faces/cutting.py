"""What a process of the detection does: find the faces of its images and cut them out."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from toolkit.errors import InputError
from toolkit.faces.align import aligned_chip, square_chip
from toolkit.faces.detectors import PADDED, Face, make_detector, padded, padding
from toolkit.faces.images import read_image
from toolkit.images.chunks import Part
from toolkit.images.decode import decode
from toolkit.images.source import ImageError
from toolkit.memory import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.faces.detectors import Detector
    from toolkit.faces.images import Images
    from toolkit.images.chunks import Work

CROPS = "crops"  # folder of the crops, below that of the results
_NAME_BYTES, _PATH_BYTES = 200, 1000  # of the name of a crop or a folder: file systems allow 255; of a whole path: 4096
_AS_A_CROP = re.compile(r"_\d+\.png$", re.IGNORECASE)  # the end of a crop's name


@dataclass(frozen=True)
class Options:
    """What decides the crops beside the images; as in `toolkit.faces.crops.detect_faces`."""

    detector: str
    align: bool
    size: int
    margin: float
    min_size: float
    min_score: float | None
    largest: bool


@dataclass(frozen=True)
class Job:
    """What a process needs to begin; it is sent to each."""

    images: Images
    names: list[str]
    out: Path
    options: Options
    weights: Path | None
    most_bytes: int

    def __call__(self) -> Work:
        """Make the detector of a process."""
        detector = make_detector(self.options.detector, self.weights)
        if cv2 := sys.modules.get("cv2"):
            cv2.setNumThreads(1)  # the processes share the processors already
        return Cutter(self, detector)


class Cutter:
    """Finds and cuts out the faces of a range of images."""

    def __init__(self, job: Job, detector: Detector) -> None:
        self.job, self.options, self.detector = job, job.options, detector
        self.source, self.names = job.images.open(), job.images.names

    def __call__(self, rows: range) -> Part:
        """Return the lines of the tables: one for each face, and for each image without."""
        return Part([line for row in rows for line in self._lines(row)])

    def _lines(self, row: int) -> Iterator[dict[str, Any]]:
        path = self.names[row]
        try:
            image, faces, n_left_out = self._faces(row)
            crops = [self._cut(image, face) for face in faces]
        except InputError as error:
            yield {"image_path": path, "reason": str(error)}
            return
        for number, (face, (crop, aligned)) in enumerate(zip(faces, crops, strict=True)):
            name = f"{CROPS}/{self.job.names[row]}_{number}.png"
            _save(crop, self.job.out / name)
            yield {"crop": name, "image_path": path, "face": number, "aligned": aligned} | self._facts(face)
        if n_left_out:
            yield {"left_out": n_left_out}

    def _faces(self, row: int) -> tuple[np.ndarray, list[Face], int]:
        """Return an image, its faces and how many more there are, or say why there are none."""
        image = np.asarray(decode(read_image(self.source, row), most_bytes=self.job.most_bytes))
        needed = self.detector.needs(image)
        if needed + image.nbytes > self.job.most_bytes:
            raise ImageError(
                f"needs {format_size(needed)} to be searched, of {format_size(self.job.most_bytes)} that there are for "
                f"one image; raise --memory"
            )
        found = self.detector.detect(image)
        faces = self._taken(found)
        return image, faces, len(found) - len(faces)

    def _taken(self, found: list[Face]) -> list[Face]:
        """Return the faces that the options let through."""
        options = self.options
        if not found:
            raise ImageError("no face found")
        large = [face for face in found if min(face.width, face.height) >= options.min_size]
        if not large:
            largest = max(min(face.width, face.height) for face in found)
            raise ImageError(f"face too small: {largest:.0f} pixels; at least {options.min_size:g}")
        sure = [face for face in large if options.min_score is None or face.score >= options.min_score]
        if not sure:
            raise ImageError(f"score too low: {large[0].score:.3g}; at least {options.min_score:g}")
        return [max(sure, key=lambda face: face.area)] if options.largest else sure

    def _cut(self, image: np.ndarray, face: Face) -> tuple[np.ndarray, bool]:
        size, margin, most_bytes = self.options.size, self.options.margin, self.job.most_bytes - image.nbytes
        if not self.options.align or face.landmarks is None or self.detector.landmark_model is None:
            box = (face.x, face.y, face.width, face.height)
            return square_chip(image, *box, size=size, margin=margin, most_bytes=most_bytes), False
        landmarks = face.landmarks
        if face.found == PADDED:  # cut from what was searched: the chip shows much of what is beyond the image
            image, landmarks = padded(image), landmarks + padding(image)
        model = self.detector.landmark_model
        return aligned_chip(image, landmarks, model, size=size, margin=margin, most_bytes=most_bytes), True

    def _facts(self, face: Face) -> dict[str, Any]:
        numbers = {name: _number(getattr(face, name)) for name in ("x", "y", "width", "height", "score")}
        points = None if face.landmarks is None else [[_number(value) for value in point] for point in face.landmarks]
        return numbers | {"landmarks": points, "detector": self.options.detector, "found": face.found}


def _number(value: float) -> float | int:
    """Round to a thousandth of a pixel; whole numbers are written as such."""
    rounded = round(float(value), 3)
    return int(rounded) if rounded.is_integer() else rounded


def _save(crop: np.ndarray, path: Path) -> None:
    """Write a crop; if the process dies meanwhile, its chunk is not kept and it is written again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "PNG", compress_level=1)  # a third of the time of 6 for a tenth more bytes
    path.write_bytes(file.getvalue())


def _short(part: str) -> str:
    return part.encode(errors="replace")[:_NAME_BYTES].decode(errors="ignore")


def crop_names(paths: np.ndarray) -> list[str]:
    """Return what the crops of each image are called below `CROPS`, without the number: the path, made unique.

    Names that a file system may take for one (``a.jpg`` and ``a.png``, ``A.jpg``) get a number; nothing leads outside,
    is hidden, or longer than file systems allow: of too long a path the outer folders go.
    """
    names: list[str] = []
    taken: set[str] = set()
    for path in paths.tolist():
        shown = [part.lstrip(".") for part in path.replace("\\", "/").split("/")]
        parts = [part for part in shown if part] or ["image"]
        folders = [f"{part}-" if _AS_A_CROP.search(part) else part for part in map(_short, parts[:-1])]
        name = first = "/".join([*folders, _short(Path(parts[-1]).stem)])
        while len(first.encode()) > _PATH_BYTES:
            name = first = first.partition("/")[2]
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{first}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
