"""The job from images to a descriptor file: one row per image, resumable, whatever is wrong with single images."""

from __future__ import annotations

import csv as csv_format
import io
import json
import os
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from toolkit.atomic import atomic_file, remove_unfinished, write_text
from toolkit.backend.cpu import ordered_map
from toolkit.descriptors.cache import digest, write_npy_header
from toolkit.descriptors.formats import open_npy
from toolkit.descriptors.loader import read_paths
from toolkit.errors import InputError
from toolkit.faces.align import DLIB_5
from toolkit.faces.chunks import CHUNK, Chunks, Part
from toolkit.faces.models import CHIP_MARGIN, Choice, choose_model
from toolkit.images.decode import decode
from toolkit.images.source import ImageError, ImageSource, open_images
from toolkit.memory import MemoryBudget, n_threads
from toolkit.progress import Reporter, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")
PATHS_FILE, DUPLICATES_FILE, FACES_FILE = "images_paths.csv", "duplicate_files.csv", "faces.csv"
_FACES_RECORD, _CROP, _ALIGNED = "faces.json", "crop", "aligned"  # what `detect_faces` writes
_ROW_BYTES = 1_000  # of a process, for each path it looks up, see `open_images`
_IMAGE_BYTES = 256 << 20  # of a process, to decode: 12 megapixels
_BATCH_BYTES = 16 << 20  # of a process, for each image that is in the network at once
_CSV_ROWS = 256  # at a time


@dataclass(frozen=True)
class Embedded:
    """What `embed_images` made.

    Attributes
    ----------
    model : str
    descriptor : Path
        ``.npy``, float32 (n_images, dimensions).
    n_images, dimensions : int
    n_failed : int
        Rows of NaN.
    n_duplicates : int
        Images whose file has the bytes of an earlier one.
    seconds : float
        That it took now.
    was_finished : bool
        Whether it was there before.
    """

    model: str
    descriptor: Path
    n_images: int
    dimensions: int
    n_failed: int
    n_duplicates: int
    seconds: float
    was_finished: bool

    @property
    def text(self) -> str:
        """For a person, a few lines."""
        folder = self.descriptor.parent
        when = "finished before" if self.was_finished else f"in {format_seconds(self.seconds)}"
        lines = [f"{self.model}: {self.n_images:,} images x {self.dimensions:,} numbers, {when}"]
        lines += [f"descriptor  {self.descriptor}", f"paths       {folder / PATHS_FILE}"]
        if self.n_failed:
            failed = f"{self.n_failed:,} without a descriptor, their rows are NaN"
            lines.append(f"quarantine  {_quarantine(self.descriptor)}: {failed}")
        if self.n_duplicates:
            lines.append(f"duplicates  {folder / DUPLICATES_FILE}: {self.n_duplicates:,} copies of earlier files")
        return "\n".join(lines)


def embed_images(
    images: Path,
    out: Path,
    *,
    model: str = "dlib",
    weights: Path | None = None,
    accept_licence: bool = False,
    preprocessing: str | None = None,
    batch: int | None = None,
    device: str = "auto",
    memory: str | int | MemoryBudget | None = None,
    workers: int | None = None,
    csv: Path | None = None,
    reporter: Reporter | None = None,
) -> Embedded:
    """Write the descriptors of images, one row per image in the order of their paths.

    Parameters
    ----------
    images : Path
        A folder, with its subfolders; a folder with a ``faces.csv`` of detected faces, whose crops are taken; a zip
        archive; or a CSV with a path per row, as seen from the current folder or from the CSV's.
    out : Path
        Folder, made if it is missing, of ``MODEL.npy`` (float32), ``MODEL.json`` (what it was made of and with),
        ``images_paths.csv``, and, where there are any, ``quarantine_MODEL.csv`` (path, reason) and
        ``duplicate_files.csv`` (path, same_as). Descriptors of several models of the same images can share it.
    model, weights, accept_licence, preprocessing, batch, device
        See `toolkit.faces.models.choose_model`.
    memory : str, int or MemoryBudget, optional
        Budget for all processes together.
    workers : int, optional
        Processes at most, by default as many as there are processors; 0 works in this one. On a GPU it is always
        this one, and they are threads that read and decode.
    csv : Path, optional
        Also write a table ``filename,features``, the numbers of an image in one cell.
    reporter : Reporter, optional

    Returns
    -------
    Embedded
        An image that cannot be read, or has no face where the model needs one, has a row of NaN.

    Raises
    ------
    InputError
        If there are no images, `out` holds other images or other descriptors of this name, or an option is wrong.
    MissingPackageError
        Without the package of the model.
    MemoryBudgetError
        If not even one process fits.
    WorkerDiedError
        If a process dies; the same call goes on.

    Notes
    -----
    A call that was stopped or killed goes on with what is missing, and ends with the same bytes.
    """
    started = time.monotonic()
    reporter = reporter or Reporter(quiet=True)
    images, out = Path(images), Path(out)
    if workers is not None and workers < 0:
        raise InputError(f"workers is {workers}; allowed: 0 (no process beside this one) or more")
    choice = choose_model(
        model,
        weights=weights,
        accept_licence=accept_licence,
        preprocessing=preprocessing,
        batch=batch,
        device=device,
    )
    found = list_images(images)
    if found.n_passed_over:
        reporter.say(f"{found.n_passed_over:,} files in {images} are passed over: their names are not those of images")
    if found.are_faces and choice.card.for_faces is False:
        reporter.warn(f"{choice.name} does not tell faces apart: use its descriptors of faces for nothing but images")
    _check_out(out, found, csv)
    with found.open() as source:
        identity = [choice.identity(), found.identity(source)]
    job = _Job(out, choice, found, digest(identity))
    was_finished = job.is_finished()
    if not was_finished:
        out.mkdir(parents=True, exist_ok=True)
        remove_unfinished(out)
        _embed(job, identity, MemoryBudget.resolve(memory), workers, reporter)
    job.remove_chunks()
    if csv is not None:
        _write_features(csv, job.descriptor, found.paths, MemoryBudget.resolve(memory))
    record = json.loads(job.record.read_text(encoding="utf-8"))
    return Embedded(
        choice.name,
        job.descriptor,
        len(found.paths),
        record["dimensions"],
        record["n_failed"],
        record["n_duplicates"],
        time.monotonic() - started,
        was_finished,
    )


# Which images there are
@dataclass(frozen=True)
class Images:
    """Images in the order of the rows; it can be sent to another process.

    Attributes
    ----------
    paths : ndarray (n_images,) of str
        Below the folder, in the archive, or as a CSV has them.
    where, folders : Path or None, tuple of Path
        Where they are, see `toolkit.images.source.open_images`.
    is_aligned : ndarray (n_images,) of bool
        Whether the image is a face as dlib's network takes it, if its size is right.
    are_faces : bool
        Whether they are known to be faces.
    n_passed_over : int
        Files beside them whose names are not those of images.
    """

    paths: np.ndarray
    where: Path | None
    folders: tuple[Path, ...]
    is_aligned: np.ndarray
    are_faces: bool = False
    n_passed_over: int = 0

    def open(self) -> ImageSource:
        """Open the images, to be read one by one."""
        return open_images(self.paths, self.where, *self.folders)

    def identity(self, source: ImageSource) -> str:
        """Return what stands for the images: their paths, sizes and times, and which are aligned."""
        stamps = [source.stamp(row) for row in range(len(self.paths))]
        return digest(self.paths.tolist(), stamps, np.flatnonzero(self.is_aligned).tolist())


def list_images(images: Path) -> Images:
    """List the images of a folder, a folder of detected faces, a zip archive, or a CSV of paths.

    Raises
    ------
    InputError
        If there are none.
    """
    if images.is_dir():
        table = images / FACES_FILE
        found = _of_faces(table) if table.is_file() else _plain(_below(images), images)
    elif images.is_file() and zipfile.is_zipfile(images):
        with zipfile.ZipFile(images) as archive:
            names = dict.fromkeys(info.filename for info in archive.infolist() if not info.is_dir())
        found = _plain(names, images)
    elif images.is_file() and images.suffix.lower() == ".csv":
        paths = read_paths(images)
        found = Images(paths, None, (images.parent,), np.zeros(len(paths), bool))
    else:
        what = "is no zip archive and no CSV" if images.is_file() else "does not exist"
        raise InputError(f"images {images} {what}; allowed: a folder, a zip archive, a CSV with a path per row")
    if not len(found.paths):
        raise InputError(f"images {images} holds no image; their names end in {' '.join(IMAGE_SUFFIXES)}")
    try:
        "\n".join(found.paths.tolist()).encode()
    except UnicodeEncodeError as error:
        name = error.object[max(error.start - 40, 0) : error.end]
        raise InputError(f"the name of image ...{name!a} is no UTF-8; rename it") from error
    return found


def _plain(names: Iterable[str], where: Path) -> Images:
    shown = [name for name in names if not any(map(_is_hidden, name.split("/")))]
    paths = np.array(sorted(name for name in shown if name.lower().endswith(IMAGE_SUFFIXES)), dtype=np.str_)
    return Images(paths, where, (), np.zeros(len(paths), bool), n_passed_over=len(shown) - len(paths))


def _is_hidden(part: str) -> bool:
    """Whether a part of a path says that what is there is of a program, not of a person."""
    return (part.startswith(".") and part not in (".", "..")) or part == "__MACOSX"


def _below(folder: Path) -> Iterator[str]:
    for inside, _, names in os.walk(folder):
        start = Path(inside).relative_to(folder).as_posix()
        yield from (name if start == "." else f"{start}/{name}" for name in names)


def _of_faces(table: Path) -> Images:
    """Read which crops there are, and which of them dlib's network takes as they are."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv_format.DictReader(file)
        if missing := {_CROP, _ALIGNED} - set(rows.fieldnames or ()):
            raise InputError(
                f"{table} has no column {' and '.join(sorted(missing))}; it is not a table of detected faces: give a "
                f"folder of images without it"
            )
        crops = [(row[_CROP], row[_ALIGNED] == "true") for row in rows]
    paths = np.array([crop for crop, _ in crops], dtype=np.str_)
    is_aligned = np.array([aligned for _, aligned in crops], bool) & _has_chips(table.with_name(_FACES_RECORD))
    return Images(paths, table.parent, (), is_aligned, are_faces=True)


def _has_chips(record: Path) -> bool:
    """Whether faces were aligned as dlib's network was trained: by its own landmarks, with its own margin."""
    try:
        job = json.loads(record.read_text(encoding="utf-8"))["job"]
        return bool(job["landmarks"] == DLIB_5 and job["margin"] == CHIP_MARGIN)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_out(out: Path, found: Images, csv: Path | None) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the descriptors")
    if csv is not None and csv.resolve().parent == out.resolve():
        raise InputError(f"{csv} would be read as one more descriptor in {out}; give it a place in another folder")
    listed = out / PATHS_FILE
    if listed.exists() and not np.array_equal(read_paths(listed), found.paths):
        raise InputError(
            f"{listed} lists other images than the {len(found.paths):,} given; descriptors in one folder are of the "
            f"same images: give another folder"
        )


# The work
class _Job:
    """Where the files of a job are."""

    def __init__(self, out: Path, choice: Choice, images: Images, key: str) -> None:
        self.out, self.choice, self.images, self.key = out, choice, images, key
        self.descriptor, self.record = out / f"{choice.name}.npy", out / f"{choice.name}.json"
        self.unfinished = out / f".{choice.name}"

    def is_finished(self) -> bool:
        """Whether the descriptors are there.

        Raises
        ------
        InputError
            If those that are there are others.
        """
        if not self.descriptor.exists():
            return False
        try:
            key = json.loads(self.record.read_text(encoding="utf-8"))["job"]
        except (OSError, ValueError, KeyError, TypeError):
            key = None
        if key != self.key:
            raise InputError(
                f"{self.descriptor} is there already, of other images, weights or options; give another folder, or "
                f"remove it"
            )
        return True

    def remove_chunks(self) -> None:
        """Remove the folder of the chunks, if there is one."""
        if self.unfinished.exists():
            self.unfinished.rmdir()


def _embed(job: _Job, identity: Any, budget: MemoryBudget, workers: int | None, reporter: Reporter) -> None:
    n_images, choice = len(job.images.paths), job.choice
    dimensions = choice.open().dimensions  # what is wrong with weights and packages is said before processes start
    chunks = Chunks(job.unfinished, identity, n_images, reporter=reporter)
    make, n_processes = _plan(job, budget, workers)
    chunks.run(f"{choice.name}: images embedded", make, workers=n_processes)
    _finish(job, chunks, dimensions)
    chunks.remove()


def _plan(job: _Job, budget: MemoryBudget, workers: int | None) -> tuple[_Make, int]:
    """Return what each process makes, and how many processes the budget allows (0: this one)."""
    n_images, choice = len(job.images.paths), job.choice
    wanted = n_threads() if workers is None else workers
    if choice.device == "cuda":
        budget.require(_IMAGE_BYTES, "decoding one image")
        n_decoding = min(max(wanted, 1), budget.free // _IMAGE_BYTES)
        return _Make(job.images, choice, budget.free // n_decoding, n_decoding), 0
    own = choice.card.process_bytes + _BATCH_BYTES * choice.batch + _ROW_BYTES * n_images
    needed = _IMAGE_BYTES + (own if wanted else 0)
    budget.require(needed, f"a process with the model {choice.name}")
    n_processes = min(wanted, budget.free // needed, -(-n_images // CHUNK))
    share = budget.free // max(n_processes, 1) - (own if wanted else 0)
    return _Make(job.images, choice, share, 0), n_processes


@dataclass(frozen=True)
class _Make:
    """Makes, in any process, what embeds chunks."""

    images: Images
    choice: Choice
    most_bytes: int  # that decoding an image may take
    n_decoding: int  # threads; 0: this one

    def __call__(self) -> _Worker:
        return _Worker(self)


class _Worker:
    """Embeds chunks of images."""

    def __init__(self, made: _Make) -> None:
        self.made, self.source, self.embedder = made, made.images.open(), made.choice.open()

    def __call__(self, chunk: range) -> Part:
        """Return a line (digest, reason) and a row for each image."""
        prepared = list(ordered_map(self._prepare, chunk, workers=self.made.n_decoding))
        rows = np.full((len(chunk), self.embedder.dimensions), np.nan, np.float32)
        there = [i for i, (_, seen) in enumerate(prepared) if seen is not None]
        rows[there] = self.embedder.embed([seen for _, seen in prepared if seen is not None])
        return Part([line for line, _ in prepared], rows)

    def _prepare(self, row: int) -> tuple[dict[str, str], np.ndarray | None]:
        """Return the digest of an image's file or the reason why there is none, and what the network sees."""
        line = {"digest": "", "reason": ""}
        try:
            data = self.source.read(row)
            line["digest"] = xxhash.xxh3_128_hexdigest(data)
            image = np.asarray(decode(data, most_bytes=self.made.most_bytes))
            return line, self.embedder.prepare(image, is_aligned=bool(self.made.images.is_aligned[row]))
        except ImageError as error:
            line["reason"] = str(error)
            return line, None


# The files
def _finish(job: _Job, chunks: Chunks, dimensions: int) -> None:
    """Write the files; the descriptors appear last, so that what is there is finished."""
    paths = job.images.paths.tolist()
    digests: list[str] = []
    failed: list[tuple[str, str]] = []
    with atomic_file(job.descriptor) as file:
        write_npy_header(file, (len(paths), dimensions), np.dtype("<f4"))
        for part in chunks.parts():
            assert part.array is not None  # noqa: S101 (for the type checker: `_Worker` gives one)
            file.write(part.array.astype("<f4", copy=False).tobytes())
            for line in part.lines:
                if line["reason"]:
                    failed.append((paths[len(digests)], line["reason"]))
                digests.append(line["digest"])
        if not (job.out / PATHS_FILE).exists():
            _write_table(job.out / PATHS_FILE, ("path",), ([path] for path in paths))
        copies = _copies(paths, digests)
        _write_list(_quarantine(job.descriptor), ("path", "reason"), failed)
        _write_list(job.out / DUPLICATES_FILE, ("path", "same_as"), copies)
        record = _record(job) | {"dimensions": dimensions, "n_failed": len(failed), "n_duplicates": len(copies)}
        write_text(job.record, json.dumps(record, indent=1) + "\n")


def _record(job: _Job) -> dict[str, Any]:
    choice = job.choice
    weights = choice.weights or (choice.member if choice.card.name == "onnx:PATH" else None)
    return {
        "job": job.key,
        "model": choice.card.name.replace("PATH", choice.member).replace("NAME", choice.member),
        "source": choice.card.source,
        "licence": choice.card.licence,
        "weights": str(weights) if weights else f"SHA-256 {choice.card.sha256}",
        "preprocessing": choice.preprocessing or choice.card.preprocessing,
        "batch": choice.batch,
        "device": choice.device,
        "n_images": len(job.images.paths),
    }


def _quarantine(descriptor: Path) -> Path:
    return descriptor.parent / f"quarantine_{descriptor.stem}.csv"


def _copies(paths: Sequence[str], digests: Sequence[str]) -> list[tuple[str, str]]:
    """Return (path, the first path whose file has the same bytes)."""
    first: dict[str, str] = {}
    pairs = [(path, first.setdefault(name, path)) for path, name in zip(paths, digests, strict=True) if name]
    return [(path, same) for path, same in pairs if path != same]


def _write_list(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table if there is anything to write; without, an earlier one goes."""
    if rows:
        _write_table(path, header, rows)
    else:
        path.unlink(missing_ok=True)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv_format.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _write_features(csv: Path, descriptor: Path, paths: np.ndarray, budget: MemoryBudget) -> None:
    """Write ``filename,features``, a block of rows at a time."""
    csv.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(csv) as file:
        file.write(b"filename,features\n")
        start = 0
        for window in open_npy(descriptor, budget).windows(_CSV_ROWS):
            text = io.StringIO()
            writer = csv_format.writer(text, lineterminator="\n")
            named = zip(paths[start : start + len(window)].tolist(), window.tolist(), strict=True)
            writer.writerows((path, str(row)) for path, row in named)
            file.write(text.getvalue().encode())
            start += len(window)
