"""Contact sheets: one picture for each cluster, with images that show it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from toolkit.backend.cpu import ordered_map
from toolkit.cluster.labelling import NOISE
from toolkit.images.thumbnails import Thumbnails, write_skipped
from toolkit.report.contact_sheet import COLUMNS, SIDE, Section, read_images, save_sheet
from toolkit.report.members import model_members

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.grid.finished import FinishedRun, Model
    from toolkit.images.source import ImageSource
    from toolkit.progress import Reporter

_SHOWN = 2 * COLUMNS  # images of each kind
_SPARE = 4 * COLUMNS  # candidates behind them, for images that cannot be read; with them, all of a small cluster

TITLES = {
    "central": "Central: the images nearest to the centre of the cluster",
    "random": "Random: images drawn by chance",
    "border": "Border: images that are nearly as close to another cluster",
    "farthest": "Farthest: images far from every cluster",
}
_ALL = {
    "central": "All images, from the centre outwards",
    "farthest": "All images, the farthest from any cluster first",
}


def write_sheets(
    run: FinishedRun,
    model: Model,
    source: ImageSource,
    folder: Path,
    *,
    names: dict[int, str] | None = None,
    stabilities: dict[int, float] | None = None,
    most: int = 100,
    reporter: Reporter | None = None,
) -> dict[int, Path]:
    """Write a contact sheet for each cluster of a model, and one for its noise.

    Sheets are called ``DESCRIPTOR_cluster_K.png`` (K is the label) and ``DESCRIPTOR_cluster_noise.png``; those of
    the same descriptor that were there before and are not written now are removed. An image that cannot be used is
    replaced by the next best of its cluster and listed, with all others, in the run's ``images_skipped.csv``.

    Parameters
    ----------
    run : FinishedRun
    model : Model
    source : ImageSource
        The images of all rows of the run.
    folder : Path
        Made if it is missing.
    names : dict of int to str, optional
        Label -> what the user calls the cluster.
    stabilities : dict of int to float, optional
        Label -> stability, from 0 to 1.
    most : int
        Sheets of clusters, those of the largest ones.
    reporter : Reporter, optional
        Takes warnings of what was left out; by default the run's.

    Returns
    -------
    dict of int to Path
        Label -> sheet, -1 being noise. Clusters of which no image can be read have none.
    """
    reporter = reporter or run.reporter
    folder.mkdir(parents=True, exist_ok=True)
    values, sizes = np.unique(run.labels(model), return_counts=True)
    counts = dict(zip(values.tolist(), sizes.tolist(), strict=True))
    wanted = _largest(counts, most)
    if n_left_out := len(counts) - len(wanted):
        reporter.warn(f"{model.name}: contact sheets of the {most} largest clusters only, {n_left_out:,} have none")
    usable = np.ones(run.n_rows, bool)
    usable[np.fromiter(source.problems, np.int64)] = False
    members = model_members(run, model, names=wanted, n=_SHOWN, spare=_SPARE, usable=usable)
    thumbnails = Thumbnails(source, SIDE, run.memory)
    descriptor = model.cell.sample.descriptor

    def write(label: int) -> Path | None:
        sections = _sections(members[label], thumbnails, counts[label])
        if not any(section.images for section in sections):
            return None
        path = folder / f"{descriptor}_cluster_{'noise' if label == NOISE else label}.png"
        save_sheet(path, _title(label, names or {}), _lines(model, label, counts, stabilities or {}), sections)
        return path

    sheets: dict[int, Path] = {}
    with reporter.track(f"{descriptor}: contact sheets", len(members)) as task:
        for label, path in zip(members, ordered_map(write, members, workers=thumbnails.workers), strict=True):
            task.advance(1)
            if path is not None:
                sheets[label] = path
    if sheets:  # else those that are there, of the same model, are better than none
        _remove_others(folder, descriptor, sheets)
    _tell(run, source, len(members), sheets, reporter)
    return sheets


def _largest(counts: dict[int, int], most: int) -> set[int]:
    """Return the labels of the largest clusters, and of noise if there is any."""
    clusters = sorted(counts.keys() - {NOISE}, key=lambda label: (-counts[label], label))
    return {*clusters[:most], *(counts.keys() & {NOISE})}


def _remove_others(folder: Path, descriptor: str, sheets: dict[int, Path]) -> None:
    """Remove sheets of an earlier model."""
    stay = set(sheets.values())
    pattern = re.compile(re.escape(descriptor) + r"_cluster_(\d+|noise)\.png")
    for path in folder.iterdir():
        if pattern.fullmatch(path.name) and path not in stay:
            path.unlink()


def _tell(run: FinishedRun, source: ImageSource, n_wanted: int, sheets: dict[int, Path], reporter: Reporter) -> None:
    """List the images that cannot be used, and say what that means for the sheets."""
    path = run.folder / "images_skipped.csv"
    n_skipped = write_skipped(path, source)
    if not n_skipped:
        return
    row, reason = min(source.problems.items())
    example = f"for instance {str(source.paths[row])!r:.120} {reason}"
    if not sheets:
        reporter.warn(
            f"no new contact sheets: not one image could be read ({example}); all are listed in {path}; say where the "
            f"images are by --images, or descriptors.images in the configuration"
        )
        return
    n_without = n_wanted - len(sheets)
    without = f"; sheets missing for lack of images: {n_without:,}" if n_without else ""
    reporter.warn(
        f"{n_skipped:,} of {run.n_rows:,} images cannot be used ({example}), others are shown in their place{without}; "
        f"all are listed in {path}"
    )


# What a sheet shows
def _title(label: int, names: dict[int, str]) -> str:
    title = "Noise" if label == NOISE else f"Cluster {label}"
    name = " ".join(names.get(label, "").split())
    return f"{title}: {name}" if name else title


def _lines(model: Model, label: int, counts: dict[int, int], stabilities: dict[int, float]) -> list[str]:
    """Return what stands below the title: the model, and how large the cluster is."""
    cell = model.cell
    params = ", ".join(f"{key} = {value}" for key, value in cell.params)
    n_rows = sum(counts.values())
    size = f"{counts[label]:,} of {n_rows:,} rows ({100 * counts[label] / n_rows:.1f} %)"
    if label in stabilities:
        size += f"     stability {stabilities[label]:.2f}"
    return [f"{cell.sample.descriptor}     {cell.cluster_class} ({params})     scaler {cell.scaler}", size]


def _sections(members: dict[str, np.ndarray], thumbnails: Thumbnails, n_rows: int) -> list[Section]:
    """Return what is shown of a cluster: all of a small one, else some of each kind."""
    main = next((kind for kind in ("central", "farthest") if kind in members and len(members[kind])), None)
    if main and len(members[main]) < _SHOWN + _SPARE:  # no more rows than candidates: these are all of them
        images = list(read_images(members[main], thumbnails, len(members[main])))
        unreadable = f" ({n_rows - len(images):,} more cannot be read)" if images and len(images) < n_rows else ""
        return [Section(_ALL[main] + unreadable, images)]
    kinds = [kind for kind in TITLES if len(members.get(kind, ()))]
    return [Section(TITLES[kind], list(read_images(members[kind], thumbnails, _SHOWN))) for kind in kinds]
