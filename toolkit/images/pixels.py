"""Images decoded once, to squares of pixels in one file, for what reads them many times (training)."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from PIL import Image

from toolkit.atomic import atomic_file, remove_unfinished, write_text
from toolkit.descriptors.cache import digest, write_npy_header
from toolkit.errors import InputError
from toolkit.images.chunks import CHUNK, Chunks, Part
from toolkit.images.decode import decode
from toolkit.images.source import ImageError, ImageSource, open_images
from toolkit.memory import MemoryBudget, format_size, n_threads

if TYPE_CHECKING:
    from types import TracebackType

    from toolkit.progress import Reporter

PIXELS, RECORD = "pixels.npy", "pixels.json"
_SIZES = range(8, 1025)
_PROCESS_BYTES = 120 << 20  # of a process: Python and its packages
_ROW_BYTES = 1_000  # of a process, for each path it looks up, see `open_images`
_IMAGE_BYTES = 256 << 20  # of a process, to decode: 12 megapixels


class Cut(Protocol):
    """Takes a part of an image; it is sent to the processes. What decides its results is its `identity` (JSON)."""

    @property
    def identity(self) -> object:
        """For the digest of the pixels."""

    def __call__(self, row: int, image: Image.Image) -> Image.Image:
        """Return the part of the row's image (RGB, upright).

        Raises
        ------
        ImageError
            If there is none; the row is then among those that failed.
        """


class Pixels(NamedTuple):
    """What `cache_pixels` made.

    Attributes
    ----------
    path : Path
        ``.npy``, uint8 (n_images, size, size, 3), RGB, in the order of the paths.
    failed : list of (int, str)
        Rows that are black because their image cannot be used, and why.
    """

    path: Path
    failed: list[tuple[int, str]]


def cache_pixels(
    images: Path,
    paths: np.ndarray,
    out: Path,
    *,
    size: int,
    memory: str | int | MemoryBudget | None = None,
    workers: int | None = None,
    cut: Cut | None = None,
    reporter: Reporter,
) -> Pixels:
    """Decode images, upright and in colours, and keep them as squares of pixels.

    Parameters
    ----------
    images : Path
        A folder or zip archive that holds them, or the CSV that lists them, see `open_listed`.
    paths : ndarray (n_images,) of str
    out : Path
        Folder for nothing else, made if it is missing: ``pixels.npy`` and ``pixels.json``.
    size : int
        Pixels of a side. Images are resized to it (bilinear, what is made smaller is averaged); their shape is not
        kept.
    memory : str, int or MemoryBudget, optional
        Budget for all processes together.
    workers : int, optional
        Processes at most, by default as many as there are processors; 0 works in this one.
    cut : Cut, optional
        Takes a part of each image before it is resized.
    reporter : Reporter

    Returns
    -------
    Pixels
        If they were there before, they are not made again.

    Raises
    ------
    InputError
        If `out` holds pixels of other images or of another size, there is none of the images, or no room on the disk.
    MemoryBudgetError
        If not even one process fits.
    WorkerDiedError
        If a process dies; the same call goes on.

    Notes
    -----
    A call that was killed goes on with what is missing, and ends with the same bytes.
    """
    if size not in _SIZES:
        raise InputError(f"size {size} of images; allowed: {_SIZES[0]} to {_SIZES[-1]} pixels a side")
    if workers is not None and workers < 0:
        raise InputError(f"workers is {workers}; allowed: 0 (no process beside this one) or more")
    out = Path(out)
    with open_listed(images, paths) as source:
        identity = [size, paths.tolist(), [source.stamp(row) for row in range(len(paths))]]
    identity += [cut.identity] if cut is not None else []
    out.mkdir(parents=True, exist_ok=True)
    remove_unfinished(out)
    key = digest(identity)
    if not (out / PIXELS).exists():
        job = _Job(images, paths, out / PIXELS, size, cut=cut)
        _make(job, key, identity, MemoryBudget.resolve(memory), workers, reporter)
    record = _record(out, key)
    return Pixels(out / PIXELS, [(row, reason) for row, reason in record["failed"]])


def open_listed(images: Path, paths: np.ndarray) -> ImageSource:
    """Open images by their paths.

    Parameters
    ----------
    images : Path
        A folder or a zip archive; or a CSV, whose paths are files as seen from the current folder or from its own.
    paths : ndarray (n_images,) of str
    """
    if images.suffix.lower() == ".csv" and not images.is_dir():
        return open_images(paths, None, images.parent)
    return open_images(paths, images)


class PixelFile:
    """The pixels of a cache, read by rows, from any thread: what was read is not held, as that of a map would be.

    Parameters
    ----------
    path : Path
        Of `Pixels`.

    Attributes
    ----------
    shape : tuple of int
        (n_images, size, size, 3).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        self.shape: tuple[int, ...] = mapped.shape
        self._start, self._row_bytes = int(mapped.offset), int(np.prod(self.shape[1:]))
        self._file = path.open("rb", buffering=0)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return rows, uint8 (n_rows, size, size, 3), RGB.

        Raises
        ------
        InputError
            If the file ends before one of them.
        """
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for row, pixels in zip(rows.tolist(), found.reshape(len(rows), self._row_bytes), strict=True):
            start, done = self._start + row * self._row_bytes, 0
            while done < self._row_bytes:
                n_bytes = os.preadv(self._file.fileno(), [pixels[done:].data], start + done)
                if not n_bytes:
                    raise InputError(
                        f"{self._path} ends before image {row:,}; remove {self._path.parent} and start again"
                    )
                done += n_bytes
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> PixelFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# The work
@dataclass(frozen=True)
class _Job:
    """What a process needs to begin."""

    images: Path
    paths: np.ndarray
    target: Path
    size: int
    store: Path | None = None  # where the pixels are put while they are made
    most_bytes: int = 0  # that decoding an image may take
    cut: Cut | None = None

    def __call__(self) -> _Worker:
        return _Worker(self)


class _Worker:
    """Decodes ranges of images into their place in the file."""

    def __init__(self, job: _Job) -> None:
        self.job, self.source = job, open_listed(job.images, job.paths)
        self.row_bytes = 3 * job.size**2

    def __call__(self, chunk: range) -> Part:
        """Return a line (row, reason) for each image that failed."""
        assert self.job.store is not None  # noqa: S101 (for the type checker)
        failed = []
        with self.job.store.open("r+b", buffering=0) as file:
            start = self.job.store.stat().st_size - len(self.job.paths) * self.row_bytes
            for row in chunk:
                try:
                    pixels = self._pixels(row)
                except ImageError as error:
                    failed.append({"row": row, "reason": str(error)})
                    continue  # black, as the file is made
                _write(file.fileno(), pixels, start + row * self.row_bytes)
            os.fsync(file.fileno())  # before the chunk counts as finished
        return Part(failed)

    def _pixels(self, row: int) -> bytes:
        image = decode(self.source.read(row), most_bytes=self.job.most_bytes)
        if self.job.cut is not None:
            image = self.job.cut(row, image)
        return image.resize((self.job.size, self.job.size), Image.Resampling.BILINEAR).tobytes()


def _write(file: int, data: bytes, start: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], start + done)


def _make(job: _Job, key: str, identity: object, budget: MemoryBudget, workers: int | None, reporter: Reporter) -> None:
    n_images = len(job.paths)
    n_processes, most_bytes = _shares(budget, n_images, workers)
    chunks = Chunks(job.target.parent, identity, n_images, reporter=reporter)
    store = chunks.folder / PIXELS
    if not store.exists():
        _check_disk(job)
        with atomic_file(store) as file:
            write_npy_header(file, (n_images, job.size, job.size, 3), np.dtype(np.uint8))
            file.truncate(file.tell() + n_images * 3 * job.size**2)
    made = _Job(job.images, job.paths, job.target, job.size, store, most_bytes, job.cut)
    chunks.run("images decoded", made, workers=n_processes)
    failed = [(line["row"], line["reason"]) for part in chunks.parts() for line in part.lines]
    write_text(job.target.with_name(RECORD), json.dumps({"job": key, "size": job.size, "failed": failed}) + "\n")
    store.replace(job.target)  # last, so that what is there is finished
    chunks.remove()


def _check_disk(job: _Job) -> None:
    needed, free = len(job.paths) * 3 * job.size**2, shutil.disk_usage(job.target.parent).free
    if needed > free:
        raise InputError(
            f"the pixels of {len(job.paths):,} images of {job.size} x {job.size} need {format_size(needed)} in "
            f"{job.target.parent}, where {format_size(free)} are free; make room, or use a smaller size or another disk"
        )


def _shares(budget: MemoryBudget, n_images: int, workers: int | None) -> tuple[int, int]:
    """Return how many processes work (0: this one), and the bytes that each may take to decode an image."""
    wanted = n_threads() if workers is None else workers
    own = (_PROCESS_BYTES if wanted else 0) + _ROW_BYTES * n_images
    budget.require(own + _IMAGE_BYTES, "decoding images")
    n_processes = min(wanted, budget.free // (own + _IMAGE_BYTES), -(-n_images // CHUNK))
    return n_processes, budget.free // max(n_processes, 1) - own


def _record(out: Path, key: str) -> dict[str, list[tuple[int, str]]]:
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        is_ours = record["job"] == key
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise InputError(f"{out} holds pixels of other images or of another size; give another folder, or remove it")
    shutil.rmtree(out / ".parts", ignore_errors=True)  # of a job that was killed at its very end
    return dict(record)
