"""From images to crops of their faces: found, cut out and listed, by several processes, resumably."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import importlib.metadata
import io
import json
import math
import os
import sys
import zipfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import toolkit
from toolkit.atomic import atomic_file, is_unfinished, remove_unfinished, write_text
from toolkit.descriptors.cache import digest, file_digest
from toolkit.descriptors.loader import read_paths
from toolkit.errors import InputError
from toolkit.faces.align import aligned_chip, square_chip
from toolkit.faces.chunks import Chunks, Part
from toolkit.faces.detect import ORIGINAL, PADDED, UPSAMPLED, Face, make_detector, padded, padding
from toolkit.images.decode import decode
from toolkit.images.source import ImageError, ImageSource, open_images
from toolkit.memory import MemoryBudget, format_size, n_threads
from toolkit.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.faces.chunks import Work
    from toolkit.faces.detect import Detector

FACES, QUARANTINE, CROPS, RECORD = "faces.csv", "quarantine.csv", "crops", "faces.json"
FACE_COLUMNS = (
    "crop", "image_path", "face", "x", "y", "width", "height", "score", "landmarks", "detector", "found", "aligned",
)  # fmt: skip
QUARANTINE_COLUMNS = ("image_path", "reason")

_PROCESS_BYTES = 200 << 20  # of a process before it decodes: the interpreter, libraries, models
_IMAGE_BYTES = 512 << 20  # that an image should have: photographs of 24 megapixels
_LEAST_IMAGE_BYTES = 32 << 20
_PATH_BYTES = 1200  # of a path in a process, beside its text: an archive's directory while it is read
_NAME_BYTES = 200  # of the name of a crop: file systems allow 255
_NO_IMAGES = ("__MACOSX",)  # what macOS adds to archives
_VERSIONED = ("dlib-bin", "dlib", "opencv-python-headless", "pillow")


@dataclass(frozen=True)
class FaceCrops:
    """What `detect_faces` has made.

    Attributes
    ----------
    folder : Path
        Of the results.
    n_images : int
        That were searched.
    n_faces : int
        That were cut out.
    n_quarantined : int
        Images without any.
    n_left_out : int
        Faces that were found and not taken: too small, of a low score, not the largest.
    n_helped : dict of str to int
        Faces that were found only in the image upsampled, or padded.
    was_finished : bool
        Whether all was there before.
    """

    folder: Path
    n_images: int
    n_faces: int
    n_quarantined: int
    n_left_out: int
    n_helped: dict[str, int]
    was_finished: bool = False

    @property
    def text(self) -> str:
        """For people, one line."""
        helped = "".join(f", {count:,} of them only {found}" for found, count in self.n_helped.items() if count)
        left_out = f"; {self.n_left_out:,} more faces were left out by the options" if self.n_left_out else ""
        missed = f"; {self.n_quarantined:,} images without ({QUARANTINE})" if self.n_quarantined else ""
        done = f"{self.folder} is finished already: " if self.was_finished else ""
        return f"{done}{self.n_faces:,} faces in {self.n_images:,} images{helped}{missed}{left_out}"


@dataclass(frozen=True)
class _Options:
    """What decides the crops beside the images; as in `detect_faces`."""

    detector: str
    align: bool
    size: int
    margin: float
    min_size: float
    min_score: float | None
    largest: bool


def detect_faces(
    images: Path,
    out: Path,
    *,
    detector: str = "dlib-hog",
    weights: Path | None = None,
    align: bool = True,
    size: int = 150,
    margin: float = 0.25,
    min_size: float = 20,
    min_score: float | None = None,
    largest: bool = False,
    memory: str | int | MemoryBudget | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> FaceCrops:
    """Find the faces of images, and cut them out.

    Parameters
    ----------
    images : Path
        A folder, searched recursively (hidden files, and folders that are links, are passed over), a zip archive, or
        a CSV with one path per row, as seen from the current folder or else from that of the CSV.
    out : Path
        Folder of the results; new, empty, or one in which the same job was begun.
    detector : str
        One of `toolkit.faces.detect.DETECTORS`.
    weights : Path, optional
        File of the detector's model, where it takes one.
    align : bool
        Bring the landmarks to one position, where the detector has some; else, cut out the box, made square.
    size : int
        Side of the crops, 16 to 2,048 pixels.
    margin : float
        What a crop shows around the face, on each side, as a share of the side of the face; 0 to 2. The face is the
        template of the landmarks, or the box.
    min_size : float
        Pixels of the shorter side of a face.
    min_score : float, optional
        Of a face; by default what the detector gives is taken.
    largest : bool
        Take only the face of an image whose box is largest.
    memory : str, int or MemoryBudget, optional
        For all processes together.
    workers : int, optional
        Processes; by default as many as there are processors, or fewer, so that each can decode photographs.
    reporter : Reporter, optional
        Follows the images.

    Returns
    -------
    FaceCrops

    Raises
    ------
    InputError
        If an option or `images` cannot be used, or `out` holds something else.
    MissingPackageError
        If the detector needs a package that is not installed.

    Notes
    -----
    Below `out` there are then

    - ``crops/``: PNG files, named as the image, with its folders, and the number of the face from 0, by falling score;
    - ``faces.csv``: a line for each, by image path and number: crop (its path below `out`), image_path (below
      `images`), face, x, y, width, height, score, landmarks (JSON list of x and y), detector, found (in the image as
      it is, ``original``, or only ``upsampled`` or ``padded``), aligned (``true`` or ``false``). The box and the
      landmarks are in pixels of the upright image;
    - ``quarantine.csv``: image_path and reason of the images without a crop;
    - ``faces.json``: what was done.

    All but `memory`, `workers` and `reporter` decide the results. A job that was killed goes on where it was.
    """
    images, out, reporter = Path(images), Path(out), reporter or Reporter()
    options = _Options(detector, align, size, margin, min_size, min_score, largest)
    _check(options, workers)
    model = make_detector(detector, weights)
    paths, stamps = _listed(images, out)
    workers, most_bytes = _shares(MemoryBudget.resolve(memory), paths, workers)
    if align and model.landmark_model is None:
        reporter.warn(f"{detector} finds no landmarks (dlib is not installed): the faces are not aligned")
    identity = asdict(options) | {
        "weights": None if weights is None else file_digest(weights),
        "landmarks": model.landmark_model,
        "images": digest(paths.tolist(), stamps),
    }
    with _held(out):
        if (done := _claim(out, identity)) is not None:
            reporter.say(done.text)
            return done
        chunks = Chunks(out / CROPS, identity, len(paths), reporter=reporter)
        job = _Job(images, paths, _crop_names(paths), out, options, weights, most_bytes)
        if workers > 1:
            chunks.run("faces", job, workers=workers)
        else:
            chunks.run("faces", partial(_Worker, job, model), workers=0)
        result = _gather(chunks, out, len(paths))
        _record(out, identity, result)
        chunks.remove()
    return result


def _check(options: _Options, workers: int | None) -> None:
    if not 16 <= options.size <= 2048:
        raise InputError(f"size {options.size} of the crops; allowed: 16 to 2048 pixels")
    if not 0 <= options.margin <= 2:
        raise InputError(f"margin {options.margin}; allowed: 0 to 2, a share of the side of the face")
    if not 1 <= options.min_size < math.inf:
        raise InputError(f"min_size {options.min_size}; allowed: from 1 pixel")
    if options.min_score is not None and not math.isfinite(options.min_score):
        raise InputError(f"min_score {options.min_score}; allowed: a number, or none")
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers; allowed: from 1")


# Images
def _listed(images: Path, out: Path) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Return the paths of the images, each once and sorted, and what changes with their content."""
    if images.is_dir():
        found = list(_files(images, out))
    elif not images.is_file():
        raise InputError(f"images {images} does not exist; give a folder, a zip archive or a CSV with one path per row")
    elif _is_list(images):
        found = read_paths(images).tolist()
    else:
        with _opened(images, np.array([], np.str_)):  # refuses what is no archive
            found = list(_members(images))
    if not found:
        raise InputError(f"images {images} holds none; give a folder, a zip archive or a CSV with one path per row")
    paths = np.unique(np.array(found, np.str_))
    with _opened(images, paths) as source:
        return paths, [source.stamp(row) for row in range(len(paths))]


def _files(images: Path, out: Path) -> Iterator[str]:
    """Yield the files below a folder, relative to it, but not those of the results."""
    results = out.resolve()
    for folder, folders, names in os.walk(images):
        folders[:] = [name for name in folders if _is_shown(name) and Path(folder, name).resolve() != results]
        yield from (Path(folder, name).relative_to(images).as_posix() for name in names if _is_shown(name))


def _members(archive: Path) -> Iterator[str]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if not info.is_dir() and all(_is_shown(part) for part in info.filename.split("/")):
                yield info.filename


def _is_shown(name: str) -> bool:
    return not (name.startswith(".") and name not in (".", "..")) and name not in _NO_IMAGES


def _is_list(images: Path) -> bool:
    return images.suffix.lower() == ".csv"


def _opened(images: Path, paths: np.ndarray) -> ImageSource:
    return open_images(paths, None, images.parent) if _is_list(images) else open_images(paths, images)


def _crop_names(paths: np.ndarray) -> list[str]:
    """Return what the crops of each image are called below `CROPS`, without the number: the path, made unique.

    Names that a file system may take for one (``a.jpg`` and ``a.png``, ``A.jpg``) get a number; nothing leads outside.
    """
    names: list[str] = []
    taken: set[str] = set()
    for path in paths.tolist():
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")] or ["image"]
        stem = Path(parts[-1]).stem.encode(errors="replace")[:_NAME_BYTES].decode(errors="ignore")
        name = first = "/".join([*parts[:-1], stem])
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{first}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _shares(memory: MemoryBudget, paths: np.ndarray, workers: int | None) -> tuple[int, int]:
    """Return how many processes work, and the bytes that each may take for an image."""
    base = _PROCESS_BYTES + 2 * paths.nbytes + _PATH_BYTES * len(paths)
    least = base + (_IMAGE_BYTES if workers is None else _LEAST_IMAGE_BYTES)
    n_processes = max(1, min(n_threads(), memory.free // least)) if workers is None else workers
    memory.require(n_processes * (base + _LEAST_IMAGE_BYTES), f"finding faces in {n_processes} processes")
    return n_processes, memory.free // n_processes - base


# Work
@dataclass(frozen=True)
class _Job:
    """What a process needs to begin; it is sent to each."""

    images: Path
    paths: np.ndarray
    names: list[str]
    out: Path
    options: _Options
    weights: Path | None
    most_bytes: int

    def __call__(self) -> Work:
        detector = make_detector(self.options.detector, self.weights)
        if cv2 := sys.modules.get("cv2"):
            cv2.setNumThreads(1)  # the processes share the processors already
        return _Worker(self, detector)


class _Worker:
    """Finds and cuts out the faces of a range of images."""

    def __init__(self, job: _Job, detector: Detector) -> None:
        self.job, self.options, self.detector = job, job.options, detector
        self.source = _opened(job.images, job.paths)

    def __call__(self, rows: range) -> Part:
        return Part([line for row in rows for line in self._lines(row)])

    def _lines(self, row: int) -> Iterator[dict[str, Any]]:
        path = str(self.job.paths[row])
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
        try:
            str(self.job.paths[row]).encode()
        except UnicodeEncodeError as error:
            raise ImageError("has a name that is not UTF-8; rename it") from error
        image = np.asarray(decode(self.source.read(row), most_bytes=self.job.most_bytes))
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
        size, margin = self.options.size, self.options.margin
        if not self.options.align or face.landmarks is None or self.detector.landmark_model is None:
            box = (face.x, face.y, face.width, face.height)
            return square_chip(image, *box, size=size, margin=margin), False
        landmarks = face.landmarks
        if face.found == PADDED:  # cut from what was searched: the chip shows much of what is beyond the image
            image, landmarks = padded(image), landmarks + padding(image)
        return aligned_chip(image, landmarks, self.detector.landmark_model, size=size, margin=margin), True

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


# Results
def _gather(chunks: Chunks, out: Path, n_images: int) -> FaceCrops:
    """Write the tables of all chunks."""
    n_faces = n_quarantined = n_left_out = 0
    n_found = {ORIGINAL: 0, UPSAMPLED: 0, PADDED: 0}
    with _table(out / QUARANTINE, QUARANTINE_COLUMNS) as quarantine, _table(out / FACES, FACE_COLUMNS) as faces:
        for part in chunks.parts():
            for line in part.lines:
                if "crop" in line:
                    n_faces += 1
                    n_found[line["found"]] += 1
                    landmarks = "" if line["landmarks"] is None else json.dumps(line["landmarks"])
                    aligned = "true" if line["aligned"] else "false"
                    faces.writerow(line | {"landmarks": landmarks, "aligned": aligned})
                elif "reason" in line:
                    n_quarantined += 1
                    quarantine.writerow(line)
                else:
                    n_left_out += line["left_out"]
    del n_found[ORIGINAL]
    return FaceCrops(out, n_images, n_faces, n_quarantined, n_left_out, n_found)


@contextlib.contextmanager
def _table(path: Path, columns: tuple[str, ...]) -> Iterator[csv.DictWriter[str]]:
    """Write a CSV file, whole or not at all; a path that is not UTF-8 is written with escapes."""
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        yield writer
        text.detach()  # flushes, and leaves the file open


# The folder
@contextlib.contextmanager
def _held(out: Path) -> Iterator[None]:
    """Hold the folder of the results for this process; a lock ends with it, however it does."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    if out.is_dir() and not (out / RECORD).exists():
        strangers = sorted(path.name for path in out.iterdir() if not path.name.startswith(".lock"))
        if strangers := [name for name in strangers if not is_unfinished(Path(name))]:
            raise InputError(
                f"--out {out} holds files but no faces (for instance {strangers[0]}); give an empty folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("ab") as lock:
        _lock(lock, out)
        remove_unfinished(out)
        yield


def _lock(lock: IO[bytes], out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another process is finding faces in {out}; wait for it, or use another folder") from error


def _claim(out: Path, identity: dict[str, Any]) -> FaceCrops | None:
    """Begin a job or go on with it; return what there is if it is finished."""
    path = out / RECORD
    if not path.exists():
        write_text(path, json.dumps({"job": identity, "finished": None}, indent=1) + "\n")
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        before, finished = dict(record["job"]), record["finished"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}; remove the folder {out}, or restore the file") from error
    changed = [key for key, value in identity.items() if before.get(key) != value]
    if changed:
        told = [key if key == "images" else f"{key} was {before.get(key)}, is {identity[key]}" for key in changed]
        raise InputError(
            f"--out {out} holds faces of other images or options ({', '.join(told)}); give another folder, or remove it"
        )
    return None if finished is None else FaceCrops(out, **finished, was_finished=True)


def _record(out: Path, identity: dict[str, Any], result: FaceCrops) -> None:
    facts = {key: value for key, value in asdict(result).items() if key not in ("folder", "was_finished")}
    versions = {"toolkit": toolkit.__version__}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    record = {"job": identity, "finished": facts, "versions": versions}
    write_text(out / RECORD, json.dumps(record, indent=1) + "\n")
