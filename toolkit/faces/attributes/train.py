"""Training of the network of attributes: an epoch at a time, each kept, so that a killed training goes on exactly."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import xxhash

from toolkit.backend.device import choose_backend
from toolkit.descriptors.cache import digest, file_digest
from toolkit.errors import InputError
from toolkit.faces.attributes.celeba import PARTS
from toolkit.faces.attributes.data import QUARANTINE, Listed, read_lists, usable_rows
from toolkit.folder import Record, held
from toolkit.images.chunks import has_chunks
from toolkit.images.pixels import PIXELS, PixelFile, cache_pixels
from toolkit.memory import MemoryBudget
from toolkit.packages import import_package
from toolkit.progress import Reporter, format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.faces.attributes.trainer import Trainer

CHECKPOINT, BEST, HISTORY, ACCURACY, RECORD = "checkpoint.pt", "best.pt", "history.csv", "accuracy.csv", "training.json"
_PIXELS, _LOCK = "pixels", ".lock"  # the folder of the pixels is there as long as the training lasts
_SIDES = range(32, 513)
_NETWORK_BYTES = 300 << 20  # of weights, gradients, moments, and what PyTorch takes
_PIXEL_BYTES = 2_200  # of a pixel of an image in a batch, measured, while gradients are computed


@dataclass(frozen=True)
class Options:
    """How a training goes.

    Attributes
    ----------
    epochs, batch : int
    learning_rate : float
        At the start; it falls as a cosine.
    image_size : int
    seed : int
    device : {"cpu", "cuda"}
    """

    epochs: int
    batch: int
    learning_rate: float
    image_size: int
    seed: int
    device: str


@dataclass(frozen=True)
class TrainedAttributes:
    """What `train_attributes` made.

    Attributes
    ----------
    out : Path
    attributes : tuple of str
    n_images : tuple of int
        For training, validation and test.
    n_quarantined : int
    best_epoch : int
        From 1.
    accuracy : float
        Share of right answers on the validation images, over all attributes, after that epoch.
    majority_accuracy : float
        Of always saying what is more frequent there.
    seconds : float
        That it took now.
    data_share : float
        Share of the seconds of the epochs that the network waited for pixels.
    was_finished : bool
        Whether it was there before.
    """

    out: Path
    attributes: tuple[str, ...]
    n_images: tuple[int, ...]
    n_quarantined: int
    best_epoch: int
    accuracy: float
    majority_accuracy: float
    seconds: float
    data_share: float
    was_finished: bool

    @property
    def text(self) -> str:
        """For a person, a few lines."""
        counts = ", ".join(f"{n:,} {part}" for n, part in zip(self.n_images, PARTS, strict=True))
        when = f"in {format_seconds(self.seconds)}, {self.data_share:.1%} of the epochs waiting for images"
        lines = [
            f"{len(self.attributes)} attributes of {counts} images, {'finished before' if self.was_finished else when}",
            f"network     {self.out / BEST}: validation accuracy {self.accuracy:.4f} after epoch {self.best_epoch} "
            f"(always the more frequent answer: {self.majority_accuracy:.4f})",
            f"accuracy    {self.out / ACCURACY}, by attribute; {self.out / HISTORY}, by epoch",
        ]
        if self.n_quarantined:
            lines.append(f"quarantine  {self.out / QUARANTINE}: {self.n_quarantined:,} images left out")
        return "\n".join(lines)


def train_attributes(
    images: Path,
    out: Path,
    *,
    attributes: Path,
    partition: Path,
    backbone: Path | None = None,
    names: Sequence[str] = (),
    without: Sequence[str] = (),
    epochs: int = 8,
    batch: int = 64,
    learning_rate: float = 1e-3,
    image_size: int = 224,
    device: str = "auto",
    seed: int = 0,
    memory: str | int | MemoryBudget | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> TrainedAttributes:
    """Train MobileNetV2 to tell attributes of faces.

    Parameters
    ----------
    images : Path
        Folder or zip archive in which the listed images start.
    out : Path
        Folder, made if it is missing, of ``best.pt`` (for `predict_attributes`), ``checkpoint.pt``, ``history.csv``,
        ``accuracy.csv``, ``training.json`` and, where images are left out, ``quarantine.csv`` (image_path, reason).
    attributes, partition : Path
        Lists, see `toolkit.faces.attributes.celeba`.
    backbone : Path, optional
        State dict of torchvision's ``mobilenet_v2``; without it, training starts from random weights.
    names, without : sequence of str
        Attributes that are wanted, or those that are not; by default all but Attractive, Blurry and Pale_Skin.
    epochs : int
    batch : int
        Images of a step.
    learning_rate : float
        Of AdamW at the start; it falls as a cosine.
    image_size : int
        Pixels of a side that the network sees.
    device : {"auto", "cpu", "cuda"}
        On a GPU products are of float16 where PyTorch's autocast finds that safe.
    seed : int
    memory : str, int or MemoryBudget, optional
    workers : int, optional
        Processes that decode, by default as many as there are processors; 0 works in this one.
    reporter : Reporter, optional

    Returns
    -------
    TrainedAttributes

    Raises
    ------
    InputError
        If lists, images, weights or options are wrong, or `out` holds another training.
    TrainingDivergedError
        If the loss becomes NaN; the last epoch before is kept.
    MissingPackageError
        Without PyTorch.

    Notes
    -----
    The loss is binary cross-entropy over the labels that are known. Images are decoded once, to ``out/pixels``, which
    is removed at the end. A training that was killed goes on after its last whole epoch; on a CPU with as many
    threads, and only there, it ends with the same bits as one that was not.
    """
    started = time.monotonic()
    reporter = reporter or Reporter(quiet=True)
    images, out = Path(images), Path(out)
    import_package("torch", pip="torch", what="training")
    options = Options(
        epochs, batch, float(learning_rate), image_size, seed, choose_backend(device, engine="shared")[0].name
    )
    _check(options, out, backbone)
    listed = read_lists(attributes, partition, names, without)
    identity = _identity(listed, options, backbone)

    def has_work() -> bool:
        kept = (out / CHECKPOINT, out / BEST, out / _PIXELS / PIXELS)
        return any(path.exists() for path in kept) or has_chunks(out / _PIXELS)

    record = Record(out / RECORD, holds="a training", made=str(out), has_work=has_work)
    budget = MemoryBudget.resolve(memory)
    # What is wrong with memory or weights is said before anything is written, and before images are decoded.
    trainer = None if (out / ACCURACY).is_file() else _trainer(out, listed, options, backbone, budget, reporter)
    with held(out, "training", lock=_LOCK, reporter=reporter):
        facts = record.claim(identity)
        if not (out / ACCURACY).is_file():  # it was removed
            facts = None
        was_finished = facts is not None
        if facts is None:
            trainer = trainer or _trainer(out, listed, options, backbone, budget, reporter)
            facts = _train(images, out, listed, trainer, budget, workers, reporter)
            record.finish(identity, facts)
        shutil.rmtree(out / _PIXELS, ignore_errors=True)
    table = pd.read_csv(out / ACCURACY)
    validation = table[(table["part"] == PARTS[1]) & (table["n"] > 0)]
    majority = float((validation["majority_accuracy"] * validation["n"]).sum() / validation["n"].sum())
    return TrainedAttributes(
        out,
        listed.attributes.names,
        tuple(facts["n_images"]),
        facts["n_quarantined"],
        facts["best_epoch"],
        facts["accuracy"],
        majority,
        time.monotonic() - started,
        facts["data_share"],
        was_finished,
    )


def _check(options: Options, out: Path, backbone: Path | None) -> None:
    ranges = {"epochs": range(1, 10_001), "batch": range(2, 4097), "image_size": _SIDES, "seed": range(2**32)}
    for name, allowed in ranges.items():
        if getattr(options, name) not in allowed:
            raise InputError(f"{name} is {getattr(options, name)}; allowed: {allowed[0]} to {allowed[-1]}")
    if not 0 < options.learning_rate <= 1:
        raise InputError(f"learning_rate is {options.learning_rate}; allowed: more than 0, at most 1")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the training")
    if backbone is not None and not backbone.is_file():
        raise InputError(f"backbone {backbone} does not exist; give a state dict of torchvision's mobilenet_v2")


def _identity(listed: Listed, options: Options, backbone: Path | None) -> dict[str, Any]:
    """Return what decides the training, for its record."""
    found = listed.attributes
    arrays = [xxhash.xxh3_128_hexdigest(array.tobytes()) for array in (found.labels, listed.part)]
    data = digest(found.paths.tolist(), arrays)
    content = None if backbone is None else file_digest(backbone)
    return {"attributes": list(found.names), "data": data, "backbone": content, **asdict(options)}


def _trainer(
    out: Path, listed: Listed, options: Options, backbone: Path | None, budget: MemoryBudget, reporter: Reporter
) -> Trainer:
    from toolkit.faces.attributes.trainer import Trainer

    if not len(listed.attributes.paths):
        raise InputError(f"the lists have no image in common, for instance {listed.unassigned[0][0]!r:.80}")
    if options.device == "cpu":
        needed = _NETWORK_BYTES + options.batch * options.image_size**2 * _PIXEL_BYTES
        budget.require(needed, f"training with batches of {options.batch} images of {options.image_size} pixels a side")
    return Trainer(out, listed.attributes, options, backbone, reporter)


def _train(
    images: Path,
    out: Path,
    listed: Listed,
    trainer: Trainer,
    budget: MemoryBudget,
    workers: int | None,
    reporter: Reporter,
) -> dict[str, Any]:
    paths, size = listed.attributes.paths, trainer.options.image_size
    pixels = cache_pixels(images, paths, out / _PIXELS, size=size, memory=budget, workers=workers, reporter=reporter)
    rows = usable_rows(listed, pixels.failed, out)
    n_quarantined = len(pixels.failed) + len(listed.unassigned)
    if n_quarantined:
        reporter.warn(f"{n_quarantined:,} images are left out, see {out / QUARANTINE}")
    with PixelFile(pixels.path) as file:
        measured = trainer.train(file, rows)
    return measured | {"n_images": [len(of_part) for of_part in rows], "n_quarantined": n_quarantined}
