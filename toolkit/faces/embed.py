"""The job from images to a descriptor file: one row per image, resumable, whatever is wrong with single images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from toolkit.errors import InputError
from toolkit.faces.descriptor_files import (
    DUPLICATES_FILE,
    PATHS_FILE,
    quarantine,
    write_descriptor,
    write_features,
    write_paths,
)
from toolkit.faces.images import FACES_RECORD, has_chips, list_images
from toolkit.faces.loaders import DALI, Share, choose_loader, open_loader
from toolkit.faces.models import choose_model
from toolkit.folder import Record, held
from toolkit.images.chunks import CHUNK, Chunks, Part, has_chunks
from toolkit.memory import MemoryBudget, n_threads
from toolkit.progress import Reporter, format_seconds

if TYPE_CHECKING:
    from toolkit.faces.descriptor_files import Counts
    from toolkit.faces.images import Images
    from toolkit.faces.loaders import LoaderChoice
    from toolkit.faces.models import Choice

_ROW_BYTES = 1_200  # of a process, for each path it looks up, see `open_images`
_IMAGE_BYTES = 256 << 20  # of a process, to decode: 12 megapixels
_BATCH_BYTES = 16 << 20  # of a process, for each image that is in the network at once
_DALI_BYTES = 300 << 20  # of a process, for DALI itself
_IDENTITY = ("model", "member", "weights", "preprocessing", "batch", "device")  # of `Choice.identity`


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
            lines.append(f"quarantine  {quarantine(self.descriptor)}: {failed}")
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
    loader: str = "auto",
    reporter: Reporter | None = None,
) -> Embedded:
    """Write the descriptors of images, one row per image in the order of their paths.

    Parameters
    ----------
    images : Path
        A folder, with its subfolders; a folder with a ``faces.csv`` of detected faces, whose crops are taken; a zip
        archive; or a CSV with a path per row, see `toolkit.faces.images.list_images`. Files that are not called as
        images are passed over, and counted.
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
        Also write a table ``filename,features``, the numbers of an image in one cell with commas between them; images
        without a descriptor are left out.
    loader : {"auto", "pillow", "dali"}
        What decodes and resizes; auto is DALI where it is installed and the network is on a GPU and sees whole images.
        Which it was, why, and what DALI left to Pillow is in ``MODEL.json``. Results differ within rounding.
    reporter : Reporter, optional

    Returns
    -------
    Embedded
        An image that cannot be read, or has no face where the model needs one, has a row of NaN.

    Raises
    ------
    InputError
        If there are no images, `out` holds other images or other descriptors of this name, another process makes
        them now, or an option is wrong.
    MissingPackageError
        Without the package of the model or of the loader.
    MemoryBudgetError
        If not even one process fits.
    WorkerDiedError
        If a process dies; the same call goes on.

    Notes
    -----
    A call that was stopped or killed goes on with what is missing, and ends with the same bytes.
    """
    reporter = reporter or Reporter(quiet=True)
    images, out = Path(images), Path(out)
    choice = choose_model(
        model,
        weights=weights,
        accept_licence=accept_licence,
        preprocessing=preprocessing,
        batch=batch,
        device=device,
    )
    choose_loader(loader, choice)  # what is wrong with it is said before images are listed
    found = list_images(images, beside=out, crops=True)
    if found.are_faces and choice.card.for_faces is False:
        reporter.warn(
            f"{choice.name} was not trained on faces: its descriptors group images that look alike, not people"
        )
    if found.are_faces and choice.card.chips and not has_chips(images / FACES_RECORD, *choice.card.chips):
        reporter.warn(f"{choice.name} was trained on faces that are aligned otherwise: {choice.card.preprocessing}")
    return embed_listed(found, out, choice, memory=memory, workers=workers, csv=csv, loader=loader, reporter=reporter)


def embed_listed(
    found: Images,
    out: Path,
    choice: Choice,
    *,
    memory: str | int | MemoryBudget | None,
    workers: int | None,
    csv: Path | None = None,
    loader: str = "auto",
    reporter: Reporter,
) -> Embedded:
    """Write the descriptors of images that are listed, by a model that is chosen; the rest is as in `embed_images`."""
    started = time.monotonic()
    _check_workers(workers)
    _check_out(out, csv)
    found.tell_passed_over(reporter)
    job = _Job(out, choice, choose_loader(loader, choice), found, MemoryBudget.resolve(memory), workers, reporter)
    ready = None if job.descriptor.exists() else job.prepare()  # a start that fails leaves nothing behind
    with held(out, f"embedding with {choice.name}", lock=f".{choice.name}.lock", reporter=reporter):
        facts = job.claim()
        was_finished = facts is not None
        if facts is None:
            facts = job.run(ready or job.prepare())
        job.remove_chunks()
        if csv is not None:
            write_features(csv, job.descriptor, found.names, job.budget)
    return Embedded(choice.name, job.descriptor, seconds=time.monotonic() - started, was_finished=was_finished, **facts)


def check_start(found: Images, choice: Choice, *, memory: str | int | MemoryBudget | None, workers: int | None) -> None:
    """Find what `embed_listed` would refuse before it begins, where that is late; nothing is written."""
    _check_workers(workers)
    _prepared(found, choice, choose_loader("auto", choice), MemoryBudget.resolve(memory), workers)


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 0:
        raise InputError(f"workers is {workers}; allowed: 0 (no process beside this one) or more")


def _check_out(out: Path, csv: Path | None) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the descriptors")
    if csv is not None and csv.resolve().parent == out.resolve():
        raise InputError(f"{csv} would be read as one more descriptor in {out}; give it a place in another folder")
    if csv is not None and csv.is_dir():
        raise InputError(f"{csv} is a folder; give a file for the table")


class _Job:
    """A job, and where its files are."""

    def __init__(
        self,
        out: Path,
        choice: Choice,
        loader: LoaderChoice,
        images: Images,
        budget: MemoryBudget,
        workers: int | None,
        reporter: Reporter,
    ) -> None:
        self.out, self.choice, self.loader, self.images = out, choice, loader, images
        self.budget, self.workers, self.reporter = budget, workers, reporter
        self.descriptor, self.unfinished = out / f"{choice.name}.npy", out / f".{choice.name}"
        path = out / f"{choice.name}.json"
        made = f"{self.descriptor}, {path} and {self.unfinished}"
        self.record = Record(path, holds=f"descriptors ({choice.name})", made=made, has_work=self._has_work)
        self.identity = dict(zip(_IDENTITY, choice.identity(), strict=True))
        self.identity |= {"loader": loader.name, "images": images.identity()}

    def claim(self) -> dict[str, Any] | None:
        """Begin the job or go on with it; return what it made if it is finished.

        Raises
        ------
        InputError
            If the folder is of other images, or holds another descriptor of this name.
        """
        if self.descriptor.exists() and not self.record.path.exists():
            raise InputError(
                f"{self.descriptor} is there already, and no {self.record.path.name} that says of what; give another "
                f"folder, or remove it"
            )
        # Jobs of two models that begin at once agree on the images.
        with held(self.out, "listing images", lock=".lock", waits=True, reporter=self.reporter):
            write_paths(self.out, self.images.names)
        facts = self.record.claim(self.identity)
        return facts if self.descriptor.exists() else None

    def prepare(self) -> _Ready:
        """Find what is wrong with memory, packages and weights before anything is written."""
        return _prepared(self.images, self.choice, self.loader, self.budget, self.workers)

    def run(self, ready: _Ready) -> dict[str, Any]:
        """Embed what is missing and write the files; return what was made."""
        n_images = len(self.images.paths)
        chunks = Chunks(self.unfinished, self.identity, n_images, reporter=self.reporter)
        chunks.run(f"{self.choice.name}: images embedded", ready.make, workers=ready.n_processes)
        facts = {"n_images": n_images, "dimensions": ready.dimensions}

        def finish(counts: Counts) -> None:
            facts.update(n_failed=counts.n_failed, n_duplicates=counts.n_duplicates)
            self.record.finish(self.identity, facts, **self._told(counts))

        write_descriptor(self.descriptor, chunks, self.images.names, ready.dimensions, finish=finish)
        chunks.remove()
        return facts

    def remove_chunks(self) -> None:
        """Remove the folder of the chunks, if there is one."""
        if self.unfinished.exists():
            self.unfinished.rmdir()

    def _has_work(self) -> bool:
        return self.descriptor.exists() or has_chunks(self.unfinished)

    def _told(self, counts: Counts) -> dict[str, Any]:
        """Return what is to be known of the descriptors beside what decides them."""
        choice = self.choice
        weights = choice.weights or (choice.member if choice.card.name == "onnx:PATH" else None)
        return {
            "model": choice.card.name.replace("PATH", choice.member).replace("NAME", choice.member),
            "source": choice.card.source,
            "licence": choice.card.licence,
            "weights": str(weights) if weights else f"SHA-256 {choice.card.sha256}",
            "preprocessing": choice.preprocessing or choice.card.preprocessing,
            "batch": choice.batch,
            "device": choice.device,
            "loader": self.loader.name,
            "loader_reason": self.loader.reason,
            "by_pillow": counts.by_pillow,
        }


def _prepared(
    images: Images, choice: Choice, loader: LoaderChoice, budget: MemoryBudget, workers: int | None
) -> _Ready:
    make, n_processes = _plan(images, choice, loader, budget, workers)
    embedder = choice.open()
    if loader.name == DALI:
        open_loader(DALI, images, embedder, make.share, device=choice.device)
    return _Ready(make, n_processes, embedder.dimensions)


def _plan(
    images: Images, choice: Choice, loader: LoaderChoice, budget: MemoryBudget, workers: int | None
) -> tuple[_Make, int]:
    """Return what each process makes, and how many processes the budget allows (0: this one)."""
    n_images, wanted = len(images.paths), n_threads() if workers is None else workers
    dali = _DALI_BYTES if loader.name == DALI else 0
    if choice.device == "cuda":
        budget.require(_IMAGE_BYTES + dali, "decoding one image")
        n_decoding = min(max(wanted, 1), max((budget.free - dali) // _IMAGE_BYTES, 1))
        return _Make(images, choice, loader.name, Share((budget.free - dali) // n_decoding, n_decoding)), 0
    own = choice.card.process_bytes + _BATCH_BYTES * choice.batch + _ROW_BYTES * n_images + 2 * images.paths.nbytes
    needed = _IMAGE_BYTES + dali + (own if wanted else 0)
    budget.require(needed, f"a process with the model {choice.name}")
    n_processes = min(wanted, budget.free // needed, -(-n_images // CHUNK))
    share = Share(budget.free // max(n_processes, 1) - dali - (own if wanted else 0), 0)
    return _Make(images, choice, loader.name, share), n_processes


@dataclass(frozen=True)
class _Make:
    """Makes, in any process, what embeds chunks."""

    images: Images
    choice: Choice
    loader: str
    share: Share

    def __call__(self) -> _Worker:
        return _Worker(self)


class _Ready(NamedTuple):
    """What a job needs to work: what each process makes, how many there are (0: this one), numbers of a descriptor."""

    make: _Make
    n_processes: int
    dimensions: int


class _Worker:
    """Embeds chunks of images."""

    def __init__(self, made: _Make) -> None:
        self.embedder = made.choice.open()
        self.loader = open_loader(made.loader, made.images, self.embedder, made.share, device=made.choice.device)

    def __call__(self, chunk: range) -> Part:
        """Return a line and a row for each image; each batch is embedded while the next is read."""
        rows = np.full((len(chunk), self.embedder.dimensions), np.nan, np.float32)
        lines: list[dict[str, str]] = []
        waiting: dict[int, Any] = {}
        for i, (line, seen) in enumerate(self.loader.stream(chunk)):
            lines.append(line._asdict())
            if seen is not None:
                waiting[i] = seen
            if len(waiting) == self.embedder.batch:
                self._embed(waiting, rows, lines)
        self._embed(waiting, rows, lines)
        return Part(lines, rows)

    def _embed(self, waiting: dict[int, Any], rows: np.ndarray, lines: list[dict[str, str]]) -> None:
        if not waiting:
            return
        found = self.embedder.embed(list(waiting.values()))
        for i, row in zip(waiting, found, strict=True):
            if np.isfinite(row).all():
                rows[i] = row
            else:
                lines[i]["reason"] = "the network makes no finite numbers of it"
        waiting.clear()
