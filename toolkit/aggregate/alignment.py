"""Faces brought into one position before their pixels are averaged, by what `toolkit faces detect` wrote of them."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from toolkit.aggregate.metadata import lines_of
from toolkit.descriptors.cache import digest
from toolkit.errors import InputError, one_line
from toolkit.faces.align import DLIB_5, LANDMARK_MODELS, aligned_chip
from toolkit.images.source import ImageError
from toolkit.packages import import_package

if TYPE_CHECKING:
    from pathlib import Path

_RECORD = "faces.json"  # beside the table: which landmarks they are, and the margin of the crops
_COLUMNS = ("crop", "image_path", "x", "y", "width", "height", "landmarks", "aligned")
_NO_FACE = "has no line of its own in the table of faces: none, or several faces"
_NO_LANDMARKS = "has no landmarks in the table of faces, and is no aligned crop"


@dataclass(frozen=True)
class Alignment:
    """How the face of each image gets into its position; a `toolkit.images.pixels.Cut`.

    Attributes
    ----------
    model : str
        Of the landmarks, see `toolkit.faces.align`.
    size : int
        Pixels of a side.
    margin : float
        What is shown around the template, as a share of its side.
    landmarks : ndarray (n_images, 5, 2) float64
        In pixels of the photograph; NaN of an image that is an aligned crop.
    crop : ndarray (n_images, 3) float64
        Left, top and side, in pixels of the photograph, of an image that is a crop; NaN of a photograph.
    problems : dict of int to str
        Images that have no position.
    n_aligned, n_warped : int
        Images that are aligned already, and those that are warped.
    """

    model: str
    size: int
    margin: float
    landmarks: np.ndarray
    crop: np.ndarray
    problems: dict[int, str]
    n_aligned: int
    n_warped: int

    @property
    def identity(self) -> object:
        """What decides the chips."""
        numbers = digest(self.landmarks.tolist(), self.crop.tolist(), sorted(self.problems.items()))
        return [self.model, self.size, self.margin, numbers]

    @property
    def text(self) -> str:
        """For a person, one line."""
        parts = [
            f"{self.n_aligned:,} are aligned crops",
            f"{self.n_warped:,} are warped by their {self.model} landmarks",
        ]
        return "; ".join([*parts, f"{len(self.problems):,} without a position are left out"])

    def __call__(self, row: int, image: Image.Image) -> Image.Image:
        """Return the chip of a face, or the image itself if it is one."""
        if row in self.problems:
            raise ImageError(self.problems[row])
        if np.isnan(self.landmarks[row, 0, 0]):
            return image
        points = self.landmarks[row]
        left, top, side = self.crop[row]
        if not np.isnan(side):  # the centre of the first pixel is (0, 0), its corner (-0.5, -0.5)
            points = (points + 0.5 - (left, top)) * np.array(image.size) / side - 0.5
        try:
            chip = aligned_chip(np.asarray(image), points, self.model, size=self.size, margin=self.margin)
        except InputError as error:
            raise ImageError(str(error)) from error
        return Image.fromarray(chip)


def read_alignment(table: Path, paths: np.ndarray, *, size: int) -> Alignment:
    """Read how faces are aligned.

    Parameters
    ----------
    table : Path
        The ``faces.csv`` of `toolkit faces detect`, with the ``faces.json`` beside it.
    paths : ndarray (n_images,) of str
        Crops, or photographs with one face each. Crops that are aligned stay as they are; in crops that are not, and
        in photographs, the landmarks are brought to where they are in an aligned crop. What is none of these has no
        position.
    size : int
        Pixels of a side of a chip.

    Raises
    ------
    InputError
        If the table or its record cannot be used, or not one image gets a position.
    MissingPackageError
        Without dlib, if its landmarks are to be used.
    """
    lines, (model, margin) = _lines(table), _facts(table.with_name(_RECORD))
    of_crop = lines_of(paths, [line["crop"] for line in lines])
    of_photograph = lines_of(paths, [line["image_path"] for line in lines])
    exact = {line["image_path"] for line in lines} - {line["crop"] for line in lines}
    of_crop[np.isin(paths, list(exact))] = -1  # else the crop of another photograph may have the same file name
    landmarks, crop = np.full((len(paths), 5, 2), np.nan), np.full((len(paths), 3), np.nan)
    problems: dict[int, str] = {}
    n_aligned = 0
    for row in range(len(paths)):
        is_crop = of_crop[row] >= 0
        number = int(of_crop[row] if is_crop else of_photograph[row])
        if number < 0:
            problems[row] = _NO_FACE
        elif is_crop and lines[number]["aligned"] == "true":
            n_aligned += 1
        elif (points := _points(lines[number], table)) is None or model not in LANDMARK_MODELS:
            problems[row] = _NO_LANDMARKS
        else:
            landmarks[row] = points
            crop[row] = _box(lines[number], margin, table) if is_crop else np.nan
    if len(problems) == len(paths):
        raise InputError(f"no image gets a position by {table}: {paths[0]!r:.200} {problems[0]}; leave --faces out")
    n_warped = len(paths) - len(problems) - n_aligned
    if n_warped and model == DLIB_5:
        import_package("dlib", pip="dlib-bin", what="alignment by dlib's landmarks")
    return Alignment(str(model), size, margin, landmarks, crop, problems, n_aligned, n_warped)


def _lines(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            lines = [] if missing else [{name: line[name] or "" for name in _COLUMNS} for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"faces {table} cannot be read: {one_line(error)}; give the table of `faces detect`"
        ) from error
    if missing or not lines:
        what = f"has no column {missing[0]}" if missing else "lists no face"
        raise InputError(f"faces {table} {what}; give the faces.csv of `toolkit faces detect`")
    return lines


def _facts(record: Path) -> tuple[str | None, float]:
    """Return which landmarks a detector found, and the margin of its crops."""
    try:
        job: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))["job"]
        return job["landmarks"], float(job["margin"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{record} cannot be used: {one_line(error)}; it says which landmarks there are: keep it beside faces.csv"
        ) from error


def _points(line: dict[str, str], table: Path) -> np.ndarray | None:
    if not line["landmarks"]:
        return None
    try:
        points = np.array(json.loads(line["landmarks"]), np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"faces {table}: landmarks {line['landmarks']!r:.60} of {line['crop']!r:.100} are no JSON"
        ) from (error)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise InputError(f"faces {table}: landmarks of {line['crop']!r:.100} are {points.shape}; allowed: five points")
    return points


def _box(line: dict[str, str], margin: float, table: Path) -> np.ndarray:
    """Return left, top and side of what `toolkit.faces.align.square_chip` cut out."""
    try:
        x, y, width, height = (float(line[name]) for name in ("x", "y", "width", "height"))
    except ValueError as error:
        raise InputError(f"faces {table}: the box of {line['crop']!r:.100} is no four numbers") from error
    side = max(width, height) * (1 + 2 * margin)
    return np.array([x + width / 2 - side / 2, y + height / 2 - side / 2, side])
