"""The job from labelled images to a conditional autoencoder of them; a killed one goes on."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.aggregate.labels import read_labels
from toolkit.aggregate.texts import few
from toolkit.atomic import write_text
from toolkit.backend.device import choose_backend
from toolkit.descriptors.cache import digest, file_digest
from toolkit.errors import InputError
from toolkit.folder import held
from toolkit.images.pixels import RECORD, PixelFile, cache_pixels, open_listed
from toolkit.memory import MemoryBudget, format_size
from toolkit.packages import import_package
from toolkit.progress import Reporter, format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.aggregate.history import Epoch
    from toolkit.aggregate.labels import Labels
    from toolkit.aggregate.plan import Plan
    from toolkit.aggregate.training import Data

PIXEL_FOLDER, IMAGES_FILE, SKIPPED_FILE = "pixels", "images.csv", "images_skipped.csv"
_LOCK = ".lock"
_LISTED = 5  # images that an error names


@dataclass(frozen=True)
class TrainedModel:
    """What `train_cvae` made.

    Attributes
    ----------
    weights : Path
        Of the best epoch, for `toolkit.aggregate.generate.generate_images`.
    last : Epoch
    best : Epoch
        That with the least validation loss.
    n_skipped : int
        Images that the labels name and that cannot be used.
    stopped_early : bool
        Whether epochs were left out because the validation loss had stopped falling.
    seconds : float
        That it took now.
    """

    weights: Path
    last: Epoch
    best: Epoch
    n_skipped: int
    stopped_early: bool
    seconds: float

    @property
    def text(self) -> str:
        """For a person, a few lines."""
        why = ", stopped early" if self.stopped_early else ""
        best, folder = self.best, self.weights.parent.parent
        lines = [
            f"{self.last.epoch} epochs{why}, in {format_seconds(self.seconds)}; the best is epoch {best.epoch}",
            f"error       {best.validation_error:.5f} of reconstructed validation images; mean image "
            f"{best.mean_image_error:.5f}, mean image of the class {best.class_mean_error:.5f}",
            f"latent      {best.validation_divergence:.1f} nats, {best.active_units} active units",
            f"weights     {self.weights}",
            f"history     {folder / 'history.csv'}",
        ]
        if best.validation_error >= best.mean_image_error:
            lines.append(
                "the reconstructions are no better than the mean image: train longer, raise --detail, or lower "
                "--learning_rate"
            )
        if not best.active_units:
            lines.append(
                "no latent unit is active: the latent vector says nothing, and all samples of a class are alike; raise "
                "--detail"
            )
        if self.n_skipped:
            lines.append(f"skipped     {folder / SKIPPED_FILE}: {self.n_skipped:,} images")
        return "\n".join(lines)


def train_cvae(
    image_path: str | Path,
    labels_path: str | Path,
    out: str | Path,
    plan: Plan,
    *,
    num_classes: int | None = None,
    model: str | None = None,
    num_epochs: int = 50,
    patience: int = 10,
    strict: bool = False,
    device: str = "auto",
    memory: str | int | MemoryBudget | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> TrainedModel:
    """Train a conditional variational autoencoder on images and their classes.

    Parameters
    ----------
    image_path : path
        Folder or zip archive that holds the images.
    labels_path : path
        See `toolkit.aggregate.labels.read_labels`.
    out : path
        Folder, made if it is missing: ``weights/best.pt`` and ``weights/last.pt``, ``history.csv``, ``tensorboard/``
        where that package is installed, ``images.csv`` (image_path, class, part), ``pixels/`` and, where there are any,
        ``images_skipped.csv``.
    plan : Plan
    num_classes : int, optional
        Classes at most; by default as many as the labels have.
    model : str, optional
        Model of a run, or column of a CSV.
    num_epochs : int
        At most; more can be done later by the same call with more.
    patience : int
        Epochs without a better validation loss after which it stops.
    strict : bool
        Refuse images that cannot be used instead of skipping them.
    device : {"auto", "cpu", "cuda"}
    memory : str, int or MemoryBudget, optional
    workers : int, optional
        Processes that decode images, see `toolkit.images.pixels.cache_pixels`.
    reporter : Reporter, optional

    Returns
    -------
    TrainedModel

    Raises
    ------
    InputError
        If labels, images or options cannot be used, or `out` holds the training of others, or another process trains
        there.
    MissingPackageError
        Without torch.
    MemoryBudgetError
        If a batch does not fit.
    DivergedError
        If the loss is not a number any more; the best weights so far are kept.

    Notes
    -----
    A call that was killed goes on with the epoch that it was in. On the CPU it ends with the same weights as one that
    was not, on processors of the same kind; a GPU may add in another order.
    """
    started = time.monotonic()
    import_package("torch", pip="torch", what="a variational autoencoder")
    from toolkit.aggregate.training import BEST, Training, make_network, training_bytes

    out, reporter, budget = Path(out), reporter or Reporter(quiet=True), MemoryBudget.resolve(memory)
    _check(plan, num_epochs, patience)
    make_network(plan, 1)  # what is wrong with its size, and with the device, is said before anything is read
    backend, reason = choose_backend(device)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    labels = read_labels(labels_path, model=model, memory=budget, reporter=reporter)
    _check_classes(labels, num_classes, reporter)
    labels, missing = _present(labels, Path(image_path), reporter, strict=strict)
    if len(labels.names) == 1:
        reporter.warn(f"there is one class only, {few(labels.names)}: the network has nothing to be conditional on")
    network = make_network(plan, len(labels.names))
    with held(out, "training", lock=_LOCK, reporter=reporter):
        folder, size = out / PIXEL_FOLDER, plan.image_size
        cached = cache_pixels(
            Path(image_path), labels.paths, folder, size=size, memory=budget, workers=workers, reporter=reporter
        )
        skipped = [*missing, *((str(labels.paths[row]), reason) for row, reason in cached.failed)]
        _report_skipped(out / SKIPPED_FILE, skipped, reporter, strict=strict)
        needed = training_bytes(plan, network, len(labels.paths))
        what = f"a batch of {plan.batch_size} takes about {format_size(needed)}"
        reporter.say(f"device {backend.name} ({reason}); {what}")
        if backend.name == "cpu":
            budget.require(needed, f"training with a batch of {plan.batch_size} images (--batch_size)")
        failed = {row for row, _ in cached.failed}
        rows = np.array([row for row in range(len(labels.paths)) if row not in failed], np.int64)
        with PixelFile(cached.path) as pixels:
            data = _data(pixels, labels, rows, plan, file_digest(folder / RECORD), reporter)
            _write_images(out / IMAGES_FILE, labels, data)
            training = Training(out, plan, data, backend.name, reporter)
            training.run(num_epochs, patience)
    best, last = training.epochs[training.best - 1], training.epochs[-1]
    seconds, is_early = time.monotonic() - started, len(training.epochs) < num_epochs
    return TrainedModel(training.weights / BEST, last, best, len(skipped), is_early, seconds)


def _check(plan: Plan, num_epochs: int, patience: int) -> None:
    plan.check()
    for name, value in (("num_epochs", num_epochs), ("patience", patience)):
        if value < 1:
            raise InputError(f"{name} is {value}; allowed: 1 or more")


def _check_classes(labels: Labels, num_classes: int | None, reporter: Reporter) -> None:
    n_found = len(labels.names)
    if num_classes is not None and n_found > num_classes:
        raise InputError(
            f"{labels.source} has {n_found} classes ({few(labels.names)}), --num_classes is {num_classes}; give "
            f"--num_classes {n_found}, or leave it out"
        )
    reporter.say(labels.text)
    if num_classes is not None and n_found < num_classes:
        reporter.warn(f"--num_classes is {num_classes}, the labels have {n_found} classes, and so has the network")


def _present(labels: Labels, images: Path, reporter: Reporter, *, strict: bool) -> tuple[Labels, list[tuple[str, str]]]:
    """Return the images that are there, and which ones are not and why."""
    with open_listed(images, labels.paths) as source:
        problems = dict(source.problems)
    missing = [(str(labels.paths[row]), reason) for row, reason in sorted(problems.items())]
    if not missing:
        return labels, []
    if strict or len(missing) == len(labels.paths):
        raise InputError(_skipped_text(missing, labels.source, len(labels.paths)))
    rows = np.array([row for row in range(len(labels.paths)) if row not in problems], np.int64)
    kept = labels.keep(rows)
    if lost := sorted(set(labels.names) - set(kept.names)):
        reporter.warn(f"no image of class {few(lost)} is there; the network has {len(kept.names)} classes")
    return kept, missing


def _skipped_text(skipped: list[tuple[str, str]], source: str, n_images: int) -> str:
    listed = "; ".join(f"{path!r:.100} {reason}" for path, reason in skipped[:_LISTED])
    return (
        f"{len(skipped):,} of {n_images:,} images of {source} cannot be used: {listed}"
        f"{'; ...' if len(skipped) > _LISTED else ''}; correct --image_path or the labels"
    )


def _report_skipped(path: Path, skipped: list[tuple[str, str]], reporter: Reporter, *, strict: bool) -> None:
    if not skipped:
        path.unlink(missing_ok=True)
        return
    _write_table(path, ("image_path", "reason"), skipped)
    first = f"{skipped[0][0]!r:.200} {skipped[0][1]}"
    text = f"{len(skipped):,} images that the labels name cannot be used, for instance {first}; {path} lists them"
    if strict:
        raise InputError(f"{text}; without --strict they are skipped")
    reporter.warn(text)


def _data(pixels: PixelFile, labels: Labels, rows: np.ndarray, plan: Plan, images_key: str, reporter: Reporter) -> Data:
    """Split the images that can be used; the numbers of the classes are those of the ones that are left."""
    from toolkit.aggregate.samples import baselines, split
    from toolkit.aggregate.training import Data

    kept = labels.keep(rows) if len(rows) else labels
    if not len(rows) or len(kept.names) < len(labels.names):
        lost = sorted(set(labels.names) - set(kept.names if len(rows) else ()))
        raise InputError(f"no image of class {few(lost)} can be decoded; leave these classes out of the labels")
    class_of = np.full(len(labels.paths), -1, np.int64)
    class_of[rows] = kept.classes
    parts = split(pixels, rows, kept.classes, share=plan.validation, seed=plan.seed)
    if parts.single:
        alone = few([kept.names[number] for number in parts.single])
        reporter.warn(f"class {alone}: no two different images, so all are for training and none for validation")
    found, _ = baselines(pixels, parts.training, parts.validation, class_of)
    key = digest(asdict(plan), images_key, list(kept.names), class_of.tolist())
    run = "" if labels.run is None else str(labels.run)
    return Data(pixels, class_of, kept.names, tuple(kept.sizes.tolist()), labels.source, run, parts, found, key)


def _write_images(path: Path, labels: Labels, data: Data) -> None:
    """Write the class of each row of the pixels, and whether it is trained with."""
    validated = set(data.split.validation.tolist())
    rows = []
    for row, (image, number) in enumerate(zip(labels.paths.tolist(), data.class_of.tolist(), strict=True)):
        part = "validation" if row in validated else "training"
        rows.append((image, data.class_names[number], part) if number >= 0 else (image, "", "unusable"))
    _write_table(path, ("image_path", "class", "part"), rows)


def _write_table(path: Path, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
