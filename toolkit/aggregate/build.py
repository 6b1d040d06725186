"""Clusters as a whole: mean images, eigenfaces and how often attributes occur, written to a folder."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import toolkit
from toolkit.aggregate.alignment import read_alignment
from toolkit.aggregate.clusters import SKIPPED, Aggregates, Drawer
from toolkit.aggregate.eigenfaces import TOLERANCE
from toolkit.aggregate.labels import read_labels
from toolkit.aggregate.metadata import joined, name_fields, read_attributes
from toolkit.aggregate.occurrence import INTERVALS, NOISY
from toolkit.aggregate.reported import ABOUT, FOLDER
from toolkit.atomic import write_text
from toolkit.descriptors.cache import digest
from toolkit.errors import InputError
from toolkit.folder import held
from toolkit.images.pixels import PixelFile, cache_pixels
from toolkit.memory import MemoryBudget
from toolkit.progress import Reporter

if TYPE_CHECKING:
    import numpy as np

    from toolkit.aggregate.alignment import Alignment
    from toolkit.aggregate.labels import Labels
    from toolkit.aggregate.metadata import Attributes

WEIGHTED = (
    "each image counts as much as the shares, in its cluster, of the prominent attributes that it has: those with a "
    "lift above 1, p_adjusted below 0.05 and not noisy"
)
SIZES, COMPONENTS = range(16, 513), range(1, 65)
_LOCK = ".aggregate.lock"
_PIXELS = ".pixels-"  # how their folders begin; removed at the end, with what killed jobs of other options left
_LISTED = "images.csv"  # paths as in a list in the folder, whether there is one or not: they may lead out of it
_LIBRARY_BYTES = 250 << 20  # of what draws
_KINDS = ("mean", "eigenfaces", "weighted", "occurrence")
_OWN = re.compile(rf"({'|'.join(_KINDS)})_\d+\.png|(mean_images|occurrence)\.png|(occurrence|images_skipped)\.csv")
_VERSIONED = ("numpy", "scipy", "pillow", "matplotlib")


def aggregate_clusters(
    source: str | Path,
    *,
    images: str | Path | None = None,
    out: str | Path | None = None,
    model: str | None = None,
    attributes: str | Path | None = None,
    fields: str | None = None,
    faces: str | Path | None = None,
    size: int = 128,
    n_components: int = 8,
    strict: bool = False,
    workers: int | None = None,
    memory: str | int | MemoryBudget | None = None,
    reporter: Reporter | None = None,
) -> Aggregates:
    """Write what the images of each cluster have in common.

    ``mean_K.png`` (K is the label, or the number of the cluster where labels are names), ``mean_images.png``;
    ``eigenfaces_K.png``; with attributes ``occurrence.csv``, ``occurrence.png``, ``occurrence_K.png`` and
    ``weighted_K.png``; ``images_skipped.csv`` and ``aggregates.json``.

    Parameters
    ----------
    source : path
        See `toolkit.aggregate.labels.read_labels`. Noise is in no cluster, and not in the whole set.
    images : path, optional
        Folder or zip archive that holds the images; of a run by default as its configuration says.
    out : path, optional
        Folder for the results; of a run by default ``aggregates`` in it. What this function wrote there before is
        replaced.
    model : str, optional
        As in `read_labels`.
    attributes : path, optional
        See `toolkit.aggregate.metadata.read_attributes`.
    fields : str, optional
        See `toolkit.aggregate.metadata.name_fields`.
    faces : path, optional
        See `toolkit.aggregate.alignment.read_alignment`; without it, images are averaged as they are.
    size : int
        Pixels of a side of what is averaged, 16 to 512.
    n_components : int
        Eigenfaces of a cluster, 1 to 64.
    strict : bool
        Refuse images that cannot be used instead of skipping them.
    workers : int, optional
        Processes that decode, see `toolkit.images.pixels.cache_pixels`.
    memory, reporter
        As in `FinishedRun`.

    Raises
    ------
    InputError
        For labels, images, attributes or faces that cannot be used, if not one image can be (or, if `strict`, not all),
        or if another process does the same in the folder.
    MemoryBudgetError
        If something does not fit.

    Notes
    -----
    The attribute-weighted eigenface comes from https://github.com/Luca96/face-clustering, where the "eigenface" of a
    cluster is the mean that PCA takes away, which shows attributes as strongly as they are frequent. Here that is the
    mean image; the weighted one makes it explicit: each image counts as much as the shares, in its cluster, of the
    prominent attributes that it has, and one without any does not count. Prominent are those that the cluster has more
    often than the whole set (see `toolkit.aggregate.occurrence.prominent`), as those that are frequent everywhere tell
    nothing of a cluster.
    """
    _check(size, SIZES, "--size", "pixels a side")
    _check(n_components, COMPONENTS, "--components", "eigenfaces")
    budget, reporter = MemoryBudget.resolve(memory), reporter or Reporter(quiet=True)
    source = Path(source)
    if out is None and not source.is_dir():
        raise InputError(f"{source} is no folder of a run; --out says where the results go")
    labels = read_labels(source, model=model, memory=budget, reporter=reporter)
    where = _images_of(source, labels, budget) if images is None else Path(images)
    alignment = None if faces is None else read_alignment(Path(faces), labels.paths, size=size)
    known = _attributes(labels.paths, attributes, fields)
    budget.require(_LIBRARY_BYTES, "drawing mean images")
    folder = source / FOLDER if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; give a folder")
    decoded = folder / f"{_PIXELS}{digest(size, labels.paths.tolist(), alignment and alignment.identity)[:16]}"
    with held(folder, "aggregating clusters", lock=_LOCK, reporter=reporter):
        cached = cache_pixels(
            where, labels.paths, decoded, size=size, memory=budget, workers=workers, cut=alignment, reporter=reporter
        )
        found = Aggregates(folder, labels, dict(cached.failed))
        if found.failed:
            _report_skipped(found, decoded, reporter, strict=strict)
        found.notes += [alignment.text] if alignment is not None else []
        found.notes += known.notes if known is not None else []
        with PixelFile(cached.path) as pixels:
            Drawer(found, pixels, known, n_components, budget).draw(reporter)
        _write_about(found, alignment, known, size)
        _remove_others(found)
        for decoded in folder.glob(f"{_PIXELS}*"):
            shutil.rmtree(decoded)
    return found


# What goes in
def _check(value: int, allowed: range, option: str, what: str) -> None:
    if value not in allowed:
        raise InputError(f"{option} is {value}; allowed: {allowed[0]} to {allowed[-1]} {what}")


def _images_of(source: Path, labels: Labels, memory: MemoryBudget) -> Path:
    """Return where the images of a run are: as its configuration says, else where its paths lead."""
    if not source.is_dir():
        raise InputError(f"{source} does not say where its images are; --images takes a folder or a zip archive")
    from toolkit.grid.finished import FinishedRun

    run = FinishedRun(source, memory=memory)
    if run.config.descriptors.images is not None:
        return run.config.descriptors.images
    path = Path(str(labels.paths[0]))
    folders = (Path(path.anchor),) if path.is_absolute() else (Path(run.record["working_folder"]), run.loader.folder)
    for folder in folders:
        if any((folder / str(path)).is_file() for path in labels.paths):
            leaves = any(".." in Path(str(path)).parts for path in labels.paths)
            return folder / _LISTED if leaves else folder
    raise InputError(f"no image of {source} was found, as {str(path)!r:.200}; --images takes a folder or a zip archive")


def _attributes(paths: np.ndarray, table: str | Path | None, fields: str | None) -> Attributes | None:
    parts = [read_attributes(Path(table), paths)] if table is not None else []
    parts += [name_fields(fields, paths)] if fields is not None else []
    if not parts:
        return None
    found = joined(parts)
    if not found.names:
        raise InputError(f"there is no attribute in {table or fields}: {'; '.join(found.notes)}")
    return found


def _report_skipped(found: Aggregates, decoded: Path, reporter: Reporter, *, strict: bool) -> None:
    """List what is skipped, and say so, or refuse it."""
    row, reason = min(found.failed.items())
    n_images, is_all = len(found.labels.paths), len(found.failed) == len(found.labels.paths)
    count = "not one" if is_all else f"{len(found.failed):,}"
    can = "can" if is_all else "cannot"
    text = f"{count} of {n_images:,} images {can} be used, for instance {str(found.labels.paths[row])!r:.200} {reason}"
    if is_all or strict:
        shutil.rmtree(decoded)  # of images that are going to be others
        more = "" if is_all else "; without --strict they are skipped"
        raise InputError(f"{text}; correct --images or the labels{more}")
    _write_skipped(found)
    reporter.warn(f"{text}; {found.folder / SKIPPED} lists them")


def _write_skipped(found: Aggregates) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_path", "reason"])
    writer.writerows([found.labels.paths[row], reason] for row, reason in sorted(found.failed.items()))
    write_text(found.folder / SKIPPED, text.getvalue())
    found.files.append(SKIPPED)


def _write_about(found: Aggregates, alignment: Alignment | None, known: Attributes | None, size: int) -> None:
    versions = {"toolkit": toolkit.__version__} | {name: importlib.metadata.version(name) for name in _VERSIONED}
    about = {
        "labels": found.labels.source,
        "model": found.labels.model,
        "named": found.labels.is_named,
        "images": len(found.labels.paths),
        "failed": len(found.failed),
        "noise": found.labels.n_noise,
        "unlabelled": found.labels.n_unlabelled,
        "size": size,
        "alignment": "images as they are" if alignment is None else alignment.text,
        "eigenfaces": f"of RGB pixels; gram: exact, lanczos: variances to {TOLERANCE:g}",
        "attributes": None if known is None else {
            "number": len(known.names), "images": known.n_known, "intervals": INTERVALS, "noisy": NOISY,
            "weighted": WEIGHTED,
        },
        "notes": found.notes,
        "clusters": found.clusters,
        "files": found.files,
        "versions": versions,
    }  # fmt: skip
    write_text(found.folder / ABOUT, json.dumps(about, indent=1) + "\n")


def _remove_others(found: Aggregates) -> None:
    """Remove what an earlier call wrote and this one did not."""
    for path in found.folder.iterdir():
        if _OWN.fullmatch(path.name) and path.name not in found.files:
            path.unlink()
