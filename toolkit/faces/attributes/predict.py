"""Which attributes faces have, as a table of probabilities."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from toolkit.atomic import atomic_file
from toolkit.descriptors.formats import open_npy
from toolkit.errors import InputError
from toolkit.faces.descriptor_files import PATHS_FILE, quarantine, write_paths
from toolkit.faces.embed import Embedded, check_start, embed_listed
from toolkit.faces.images import list_images
from toolkit.faces.models import choose_model
from toolkit.folder import Record, held
from toolkit.images.chunks import has_chunks
from toolkit.memory import MemoryBudget
from toolkit.packages import import_package
from toolkit.progress import Reporter, format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = "mobilenet_v2_attributes"
TABLE, RECORD = "attributes.csv", "attributes.json"
_UNFINISHED, _LOCK = ".attributes", ".attributes.lock"
_ROWS = 4096  # of the table at a time


@dataclass(frozen=True)
class FaceAttributes:
    """What `predict_attributes` made.

    Attributes
    ----------
    table : Path
        ``attributes.csv``.
    n_images, n_attributes : int
    n_failed : int
        Lines without numbers.
    seconds : float
        That it took now.
    was_finished : bool
        Whether it was there before.
    """

    table: Path
    n_images: int
    n_attributes: int
    n_failed: int
    seconds: float
    was_finished: bool

    @property
    def text(self) -> str:
        """For a person, a few lines."""
        when = "finished before" if self.was_finished else f"in {format_seconds(self.seconds)}"
        lines = [
            f"{self.n_attributes} attributes of {self.n_images:,} images, {when}",
            f"attributes  {self.table}: probabilities; paths in {PATHS_FILE}",
        ]
        if self.n_failed:
            lines.append(f"quarantine  {quarantine(self.table)}: {self.n_failed:,} images, their lines are empty")
        return "\n".join(lines)


def predict_attributes(
    images: Path,
    out: Path,
    *,
    weights: Path,
    batch: int | None = None,
    device: str = "auto",
    memory: str | int | MemoryBudget | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> FaceAttributes:
    """Write the probability of each attribute for each image.

    Parameters
    ----------
    images : Path
        As `toolkit.faces.embed.embed_images` takes them.
    out : Path
        Folder, made if it is missing, of ``attributes.csv`` (``path`` and a column for each attribute, 0 to 1, empty
        where the image failed), which a run reads as a descriptor; ``images_paths.csv``, ``attributes.json`` and,
        where images failed, ``quarantine_attributes.csv`` (path, reason).
    weights : Path
        ``best.pt`` of `train_attributes`, or a Keras file of the predecessor.
    batch : int, optional
        Images that go through the network at once, at most 256; by default 4, on a GPU 64.
    device : {"auto", "cpu", "cuda"}
    memory : str, int or MemoryBudget, optional
        Budget for all processes together.
    workers : int, optional
        Processes at most; see `embed_images`.
    reporter : Reporter, optional

    Raises
    ------
    InputError
        If there are no images, the weights are those of another network, or `out` holds other results.
    MissingPackageError
        Without PyTorch.
    MemoryBudgetError
        If not even one process fits.
    WorkerDiedError
        If a process dies; the same call goes on.
    """
    started = time.monotonic()
    reporter = reporter or Reporter(quiet=True)
    images, out, weights = Path(images), Path(out), Path(weights)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the attributes")
    choice = choose_model(MODEL, weights=weights, batch=batch, device=device)
    attributes = _attributes(weights)
    found = list_images(images, beside=out, crops=True)
    identity = {
        "images": found.identity(),
        "weights": str(choice.identity()[2]),
        "batch": choice.batch,
        "device": choice.device,
    }
    unfinished, has_table = out / _UNFINISHED, (out / TABLE).is_file()

    def has_work() -> bool:
        return has_table or (unfinished / f"{MODEL}.npy").exists() or has_chunks(unfinished / f".{MODEL}")

    record = Record(out / RECORD, holds="attributes", made=f"{out / RECORD} and {out / TABLE}", has_work=has_work)
    if not has_table:
        check_start(found, choice, memory=memory, workers=workers)
    with held(out, "telling attributes", lock=_LOCK, reporter=reporter):
        write_paths(out, found.names)
        facts = record.claim(identity)
        if not (out / TABLE).is_file():  # it was removed, or never written
            facts = None
        was_finished = facts is not None
        if facts is None:
            embedded = embed_listed(found, unfinished, choice, memory=memory, workers=workers, reporter=reporter)
            _write(out, embedded, found.names, attributes, MemoryBudget.resolve(memory))
            facts = _facts(embedded)
            record.finish(identity, facts, attributes=list(attributes), weights=str(weights))
        shutil.rmtree(unfinished, ignore_errors=True)
    return FaceAttributes(out / TABLE, seconds=time.monotonic() - started, was_finished=was_finished, **facts)


def _attributes(weights: Path) -> tuple[str, ...]:
    """Return the names of what the network tells; what is wrong with weights is said before anything is written."""
    import_package("torch", pip="torch", what="telling attributes")
    from toolkit.faces.attributes.weights import load_network

    return load_network(weights).design.attributes


def _facts(embedded: Embedded) -> dict[str, Any]:
    return {
        "n_images": embedded.n_images,
        "n_attributes": embedded.dimensions,
        "n_failed": embedded.n_failed,
    }


def _write(
    out: Path, embedded: Embedded, names: Sequence[str], attributes: Sequence[str], budget: MemoryBudget
) -> None:
    with atomic_file(out / TABLE) as file:
        start = 0
        for window in open_npy(embedded.descriptor, budget).windows(_ROWS):
            table = pd.DataFrame(window, columns=list(attributes))
            table.insert(0, "path", names[start : start + len(window)])
            table.to_csv(file, index=False, header=start == 0, lineterminator="\n", float_format="%.6f")
            start += len(window)
    failed, listed = quarantine(embedded.descriptor), quarantine(out / TABLE)
    if failed.exists():
        failed.replace(listed)
    elif not embedded.n_failed:  # else it was moved by a process that was killed then
        listed.unlink(missing_ok=True)
