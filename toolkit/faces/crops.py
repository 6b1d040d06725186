"""From images to crops of their faces: found, cut out and listed, by several processes, resumably."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.atomic import atomic_file, is_unfinished
from toolkit.descriptors.cache import file_digest
from toolkit.errors import InputError
from toolkit.faces.cutting import CROPS, Cutter, Job, Options, crop_names
from toolkit.faces.detectors import ORIGINAL, PADDED, UPSAMPLED, default_detector, make_detector
from toolkit.faces.images import FACES, FACES_RECORD, list_images
from toolkit.folder import Record, held
from toolkit.images.chunks import Chunks, has_chunks
from toolkit.memory import MemoryBudget, n_threads
from toolkit.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.faces.detectors import Detector
    from toolkit.faces.images import Images

QUARANTINE = "quarantine.csv"
FACE_COLUMNS = (
    "crop", "image_path", "face", "x", "y", "width", "height", "score", "landmarks", "detector", "found", "aligned",
)  # fmt: skip
QUARANTINE_COLUMNS = ("image_path", "reason")

_LOCK = ".lock"
_IMAGE_BYTES = 512 << 20  # that an image should have: photographs of 24 megapixels
_LEAST_IMAGE_BYTES = 32 << 20
_PATH_BYTES = 1200  # of a path in a process, beside its text: an archive's directory while it is read


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
    def facts(self) -> dict[str, Any]:
        """What the record keeps."""
        return {key: value for key, value in asdict(self).items() if key not in ("folder", "was_finished")}

    @property
    def text(self) -> str:
        """For people, one line."""
        helped = "".join(f", {count:,} of them only {found}" for found, count in self.n_helped.items() if count)
        left_out = f"; {self.n_left_out:,} more faces were left out by the options" if self.n_left_out else ""
        missed = f"; {self.n_quarantined:,} images without ({QUARANTINE})" if self.n_quarantined else ""
        done = f"{self.folder} is finished already: " if self.was_finished else ""
        return f"{done}{self.n_faces:,} faces in {self.n_images:,} images{helped}{missed}{left_out}"


def detect_faces(
    images: Path,
    out: Path,
    *,
    detector: str | None = None,
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
        A folder, searched recursively, a zip archive, or a CSV with one path per row, see
        `toolkit.faces.images.list_images`. Files that are not called as images are passed over, and counted.
    out : Path
        Folder of the results; new, empty, or one in which the same job was begun.
    detector : str, optional
        One of `toolkit.faces.detectors.DETECTORS`, by default the first of dlib-hog and mtcnn that is installed.
    weights : Path, optional
        The detector's model, where it takes one: a file, or, of mtcnn, a folder.
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
        Processes, 0 for none beside this one; by default as many as there are processors, or fewer, so that each can
        decode photographs.
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
    name = detector or default_detector()
    options = Options(name, align, size, float(margin), float(min_size), min_score, largest)
    _check(options, workers)
    model = make_detector(options.detector, weights)
    found = list_images(images, beside=out, each_once=True)
    found.tell_passed_over(reporter)
    workers, most_bytes = _shares(MemoryBudget.resolve(memory), found, model, workers)
    _warn(options, model, reporter)
    identity = asdict(options) | {
        "weights": None if weights is None else [file_digest(path) for path in model.weight_files],
        "landmarks": model.landmark_model,
        "images": found.identity(),
    }
    _check_out(out)
    with held(out, "finding faces", lock=_LOCK, reporter=reporter):
        made = f"the folder {out}"
        record = Record(out / FACES_RECORD, holds="faces", made=made, has_work=lambda: _has_crops(out))
        if (facts := record.claim(identity)) is not None and (out / FACES).is_file():
            return FaceCrops(out, **facts, was_finished=True)
        chunks = Chunks(out / CROPS, identity, len(found.paths), reporter=reporter)
        job = Job(found, crop_names(found.paths), out, options, weights, most_bytes)
        chunks.run("faces", job if workers else partial(Cutter, job, model), workers=workers)
        result = _gather(chunks, out, len(found.paths))
        record.finish(identity, result.facts)
        chunks.remove()
    return result


def _warn(options: Options, model: Detector, reporter: Reporter) -> None:
    if model.licence_note is not None:
        reporter.warn(model.licence_note)
    if options.align and model.landmark_model is None:
        reporter.warn(f"{options.detector} finds no landmarks (dlib is not installed): the faces are not aligned")


def _check_out(out: Path) -> None:
    """Refuse a folder in which somebody else keeps files."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    if out.is_dir() and not (out / FACES_RECORD).exists():
        strangers = sorted(path.name for path in out.iterdir() if path.name != _LOCK and not is_unfinished(path))
        if strangers:
            raise InputError(
                f"--out {out} holds files but no faces (for instance {strangers[0]}); give an empty folder"
            )


def _has_crops(out: Path) -> bool:
    """Whether an unfinished job has cut out anything: crops of other options would stay among those of these."""
    return has_chunks(out / CROPS) or any(not path.name.startswith(".") for path in (out / CROPS).glob("*"))


def _check(options: Options, workers: int | None) -> None:
    if not 16 <= options.size <= 2048:
        raise InputError(f"size {options.size} of the crops; allowed: 16 to 2048 pixels")
    if not 0 <= options.margin <= 2:
        raise InputError(f"margin {options.margin:g}; allowed: 0 to 2, a share of the side of the face")
    if not 1 <= options.min_size < math.inf:
        raise InputError(f"min_size {options.min_size:g}; allowed: from 1 pixel")
    if options.min_score is not None and not math.isfinite(options.min_score):
        raise InputError(f"min_score {options.min_score}; allowed: a number, or none")
    if workers is not None and workers < 0:
        raise InputError(f"workers is {workers}; allowed: 0 (no process beside this one) or more")


def _shares(memory: MemoryBudget, found: Images, model: Detector, workers: int | None) -> tuple[int, int]:
    """Return how many processes work (0: this one), and the bytes that each may take for an image."""
    base = model.process_bytes + 2 * found.paths.nbytes + _PATH_BYTES * len(found.paths)
    least = base + (_IMAGE_BYTES if workers is None else _LEAST_IMAGE_BYTES)
    n_processes = max(1, min(n_threads(), memory.free // least)) if workers is None else workers
    n_shares = max(n_processes, 1)
    memory.require(n_shares * (base + _LEAST_IMAGE_BYTES), f"finding faces in {n_shares} processes")
    return n_processes if workers is not None or n_processes > 1 else 0, memory.free // n_shares - base


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
