"""The data of the HTML page, gathered from a study: which rows, models, maps, thumbnails and cuts it holds."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from toolkit.aggregate.reported import pictures_of_all, pictures_of_each
from toolkit.cluster.labelling import NOISE
from toolkit.grid.table import COLUMNS
from toolkit.images.thumbnails import Thumbnails
from toolkit.progress import format_seconds
from toolkit.report.cuts import what_ifs
from toolkit.report.html.data import Cluster, Figure, Map, Page, ReportedModel
from toolkit.report.maps import METHODS
from toolkit.report.members import model_members
from toolkit.report.why import why
from toolkit.score import METRICS

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.grid.finished import Model
    from toolkit.images.source import ImageSource
    from toolkit.report.study import Study

PAGE_ROWS = 100_000
_THUMBNAILS = 3000
_SIDE, _QUALITY = 56, 75  # of a thumbnail
_MEMBERS = 12  # of each kind, of a cluster
_MOST_CLUSTERS = 500  # of a model, that are listed; the largest
_LABEL_VALUES = 20_000_000  # rows x models whose labels are handed on; what fits of them is in the page
_WITH_MEMBERS = 60  # clusters of a model whose members are shown; the largest
_FIGURE_WIDTH, _FIGURE_QUALITY = 1200, 72
_CUTS = 100  # of a descriptor, about
_DOCUMENT_BYTES = 150 << 20  # of the document while it is put together
_LEFT_OUT = {"descriptor", "scaler", "cluster_class", "cluster_class_params", "labels", "model"}


@dataclass(frozen=True)
class _Shown:
    """A model that is shown with members: label -> kind -> rows of the run."""

    model: Model
    members: dict[int, dict[str, np.ndarray]]


def gather_page(study: Study, source: ImageSource, *, notes: list[str]) -> Page:
    """Gather everything that the HTML page of a run shows.

    Parameters
    ----------
    study : Study
    source : ImageSource
    notes : list of str
        What was left out of the report so far.
    """
    run = study.run
    with_members = _with_members(study)
    by_matrix = sorted(with_members, key=lambda m: (m.cell.sample.descriptor, m.cell.scaler))  # one is held at a time
    members = {model.id: _members(study, model, source) for model in by_matrix}
    shown = {model.id: _Shown(model, members[model.id]) for model in with_members}
    seen = _seen(study, shown)
    rows = _page_rows(study, shown, seen)
    ordered = _ordered(study)
    n_labelled = max(len(shown), _LABEL_VALUES // max(len(rows), 1))
    n_labellings = min(n_labelled, len(ordered)) + _CUTS * len(_bests(study))
    run.memory.require(4 * len(rows) * n_labellings + _DOCUMENT_BYTES, "the data of the HTML page")
    models = [
        _reported(study, model, rows, shown.get(model.id), with_labels=i < n_labelled)
        for i, model in enumerate(ordered)
    ]
    thumbnails = _thumbnails(study, source, rows, shown)
    maps, lost = _maps(study, rows)
    notes = [*notes, *_notes(study, source, rows, seen, len(thumbnails)), *lost]
    if n_labelled < len(ordered):
        notes.append(f"At most the labels of the first {n_labelled:,} of {len(ordered):,} models are on this page.")
    return Page(
        title=f"Clusters of {', '.join(run.names)}",
        facts=_facts(study),
        notes=notes,
        n_rows=run.n_rows,
        rows=rows,
        paths=[str(path) for path in run.image_paths[rows]],
        image_urls=_urls(source, rows, run.folder),
        thumbnails=thumbnails,
        maps=maps,
        models=models,
        what_ifs=[cut for model in _bests(study) for cut in what_ifs(study, model, rows)],
        figures=_figures([*sorted((run.folder / "plots").glob("*.png")), *pictures_of_all(run.folder)]),
        metrics={name: metric.greater_is_better for name, metric in METRICS.items()}
        | {"stability": True, "coverage": True},
        agreement=[(*pair, found.ari, found.ami) for pair, found in study.agreements.items()],
    )


def _bests(study: Study) -> list[Model]:
    found = [study.best(name) for name in study.run.names]
    return [model for model in found if model is not None]


def _with_members(study: Study) -> list[Model]:
    """Return the models that are shown with members: the finalists, then what else is shown of each descriptor."""
    shown = [model for name in study.run.names for model in study.shortlist(name)]
    return list(dict.fromkeys([*study.run.finalists, *shown]))


def _ordered(study: Study) -> list[Model]:
    """Return all models, the most important first: finalists, those that are shown, by rank, the last stage, others."""
    return list(dict.fromkeys([*_with_members(study), *study.ranked, *study.run.models.values()]))


def _largest(labels: np.ndarray, sizes: np.ndarray, most: int) -> list[int]:
    """Return the largest clusters, and noise if there is any; `labels` ascend."""
    order = np.argsort(-sizes, kind="stable")
    clusters = [int(label) for label in labels[order] if label != NOISE][:most]
    return [*clusters, *([NOISE] if labels[0] == NOISE else [])]


def _members(study: Study, model: Model, source: ImageSource) -> dict[int, dict[str, np.ndarray]]:
    usable = np.ones(study.run.n_rows, bool)
    if len(source.problems) < study.run.n_rows:  # without any image, paths show a cluster
        usable[np.fromiter(source.problems, np.int64)] = False
    names = _largest(*np.unique(study.run.labels(model), return_counts=True), most=_WITH_MEMBERS)
    return model_members(study.run, model, names=names, n=_MEMBERS, usable=usable)


def _seen(study: Study, shown: dict[str, _Shown]) -> np.ndarray:
    """Return the rows that any of the shown models was fitted on, ascending; all if there is none."""
    if not shown:
        return np.arange(study.run.n_rows)
    samples = {one.model.cell.sample: one.model for one in shown.values()}
    return np.unique(np.concatenate([study.run.reduced(model).rows for model in samples.values()]))


def _notes(study: Study, source: ImageSource, rows: np.ndarray, seen: np.ndarray, n_thumbnails: int) -> list[str]:
    """Say what of the run is not on the page."""
    run, notes = study.run, []
    if len(seen) < run.n_rows:
        notes.append(
            f"{run.n_rows - len(seen):,} of {run.n_rows:,} rows are not here: no shown model was fitted on them (a "
            "fraction of the rows was asked for, or they hold NaN or inf)."
        )
    if len(rows) < len(seen):
        notes.append(
            f"The page shows {len(rows):,} of {len(seen):,} rows: a random sample (seed {run.config.seed}), and those "
            "that show clusters. Sizes and scores are of all rows that a model was fitted on."
        )
    if 0 < (n_skipped := len(source.problems)) < run.n_rows:
        notes.append(f"{n_skipped:,} of {run.n_rows:,} images cannot be used; images_skipped.csv says why.")
    if names := [model.name for model in _with_members(study) if study.has_splits(model)]:
        notes.append(f"names.csv splits clusters of {', '.join(names)}: their parts are in labelled.csv, not here.")
    if 0 < n_thumbnails < len(rows) - len(source.problems):
        notes.append(f"{n_thumbnails:,} of {len(rows):,} rows have a thumbnail, those that show clusters first.")
    for name in run.names:
        best = study.best(name)
        if best is not None and best not in study.ranked:
            notes.append(f"No model of {name} meets the constraints of best: shown is the best regardless of them.")
    return notes


def _page_rows(study: Study, shown: dict[str, _Shown], seen: np.ndarray) -> np.ndarray:
    """Return the rows on the page, ascending: a sample of those that the shown models have seen, and all members."""
    chosen = [seen[study.maps.sample(seen, PAGE_ROWS)]]
    chosen += [rows for one in shown.values() for kinds in one.members.values() for rows in kinds.values()]
    return np.unique(np.concatenate(chosen))


def _reported(
    study: Study, model: Model, rows: np.ndarray, shown: _Shown | None, *, with_labels: bool
) -> ReportedModel:
    run = study.run
    stability = study.stability.get(model.id)
    scores = {name: _plain(model.scores[name]) for name in COLUMNS if name not in _LEFT_OUT}
    scores["stability"] = float(np.mean(stability.ari)) if stability and stability.ari else None
    is_finalist, all_labels = model in run.finalists, run.all_labels(model)
    return ReportedModel(
        id=model.id,
        name=model.name,
        stage=model.stage,
        descriptor=model.cell.sample.descriptor,
        scaler=model.cell.scaler,
        cluster_class=model.cell.cluster_class,
        params=dict(model.cell.params),
        scores=scores,
        labels=all_labels[rows] if with_labels else None,
        clusters=_clusters(study, model, all_labels, rows, shown, stability.clusters if stability else {}),
        is_finalist=is_finalist,
        is_pareto=model.id in study.front,
        is_eligible=model.id in study.eligible,
        why=why(study, model) if is_finalist else "",
    )


def _plain(value: Any) -> Any:
    """Return a number or text that JSON can hold; None for what is missing."""
    if value is None or pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _clusters(
    study: Study,
    model: Model,
    all_labels: np.ndarray,
    rows: np.ndarray,
    shown: _Shown | None,
    stability: dict[int, float],
) -> tuple[Cluster, ...]:
    run = study.run
    labels, sizes = np.unique(all_labels[all_labels >= NOISE], return_counts=True)
    listed = set(_largest(labels, sizes, _MOST_CLUSTERS))
    names = study.names_of(model)
    descriptor = model.cell.sample.descriptor
    has_sheets = model is study.best(descriptor)
    called = {label: names.get(label, str(label)) for label in labels.tolist()}
    aggregates = pictures_of_each(run.folder, model.id, called)
    found = []
    for label, size in zip(labels.tolist(), sizes.tolist(), strict=True):
        if label not in listed:
            continue
        sheet = f"plots/{descriptor}_cluster_{'noise' if label == NOISE else label}.png"
        kinds = shown.members.get(label, {}) if shown else {}
        found.append(
            Cluster(
                label=label,
                n_rows=size,
                name=names.get(label, ""),
                stability=stability.get(label),
                sheet=sheet if has_sheets and (run.folder / sheet).exists() else None,
                aggregates=aggregates.get(label, {}),
                members={kind: np.searchsorted(rows, of_kind).tolist() for kind, of_kind in kinds.items()},
            )
        )
    return tuple(found)


def _maps(study: Study, rows: np.ndarray) -> tuple[list[Map], list[str]]:
    """Return the maps, and why there are not more of them."""
    found, lost = [], []
    for model in _bests(study):
        for method in METHODS:
            try:
                places = study.maps.get(model, method)
            except OSError:
                raise  # the disk
            except Exception as error:  # a library's trouble with one map must not cost the page
                name = f"{METHODS[method].title} map of {model.cell.sample.descriptor}"
                lost.append(f"There is no {name}: {' '.join(str(error).split())}.")
                continue
            here = np.isin(places.rows, rows)
            found.append(
                Map(
                    descriptor=model.cell.sample.descriptor,
                    scaler=model.cell.scaler,
                    method=places.method,
                    points=places.points[here],
                    positions=np.searchsorted(rows, places.rows[here]),
                    note=places.note,
                )
            )
    return found, lost


def _thumbnails(study: Study, source: ImageSource, rows: np.ndarray, shown: dict[str, _Shown]) -> dict[int, bytes]:
    """Return thumbnails of the members of clusters, the finalists' first, then of random rows of the page."""
    members = [of_kind for one in shown.values() for kinds in one.members.values() for of_kind in kinds.values()]
    others = rows[np.argsort(study.maps.place_in_order[rows], kind="stable")]
    wanted = list(dict.fromkeys(np.concatenate([*members, others]).tolist()))[:_THUMBNAILS]
    thumbnails = Thumbnails(source, _SIDE, study.run.memory)
    found: dict[int, bytes] = {}
    stream = study.run.reporter.watch("thumbnails of the page", thumbnails.stream(wanted), lambda _: 1, len(wanted))
    for row, image in stream:
        if image is not None:
            jpeg = io.BytesIO()
            image.save(jpeg, "JPEG", quality=_QUALITY)
            found[int(np.searchsorted(rows, row))] = jpeg.getvalue()
    return found


def _urls(source: ImageSource, rows: np.ndarray, folder: Path) -> list[str] | None:
    urls = [source.url(int(row), folder) for row in rows]
    return [url or "" for url in urls] if any(urls) else None


def _figures(paths: list[Path]) -> list[Figure]:
    """Return pictures, made smaller; descriptor, title and caption are in their files."""
    found = []
    for path in paths:
        try:
            with Image.open(path, formats=["PNG"]) as image:
                text = getattr(image, "text", {})
                if not {"Descriptor", "Title", "Description"} <= set(text):  # a contact sheet, or somebody else's
                    continue
                image.load()
                small = image.convert("RGB")
        except UnidentifiedImageError:  # somebody else's
            continue
        small.thumbnail((_FIGURE_WIDTH, 4 * _FIGURE_WIDTH))
        packed = io.BytesIO()
        small.save(packed, "WEBP", quality=_FIGURE_QUALITY)
        found.append(Figure(text["Descriptor"], text["Title"], text["Description"], packed.getvalue()))
    return found


def _facts(study: Study) -> list[tuple[str, str]]:
    record, config = study.run.record, study.run.config
    seconds = sum(stage["seconds"] for stage in record["stages"].values())
    device = record.get("device", {})
    constraint = config.best
    n_stages = f"{len(config.stages)} stage{'s' * (len(config.stages) > 1)}"
    return [
        ("rows", f"{study.run.n_rows:,}"),
        ("descriptors", ", ".join(f"{n} ({study.run.loader.open(n).n_features} features)" for n in study.run.names)),
        ("models", f"{len(study.run.models):,} in {n_stages}, {format_seconds(seconds)}"),
        ("chosen by", f"{', '.join(constraint.metrics)} for each {constraint.per}"),
        ("engine", f"{config.engine}, device {device.get('name', '?')}, seed {config.seed}"),
        ("finished", str(record.get("finished", ""))),
        ("toolkit", str(record["toolkit"])),
    ]
