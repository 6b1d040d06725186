"""The odd rows of a finished run: measured, combined, cut, and written with the images that show them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xxhash

from toolkit.atomic import atomic_file, write_text
from toolkit.descriptors.cache import digest, load_arrays, save_arrays
from toolkit.errors import InputError
from toolkit.grid.folder import RunFolder
from toolkit.images.quality import PROBLEMS, image_quality, judged, write_quality
from toolkit.images.source import open_images, run_images
from toolkit.images.thumbnails import write_skipped
from toolkit.outliers.combine import COMBINATION, Combined, Cut, combine, ranks
from toolkit.outliers.detectors import PYOD, Detector, NotMeasurableError, find_detectors, measure
from toolkit.outliers.evidence import RunEvidence, dbscan_cells, plain, space_of
from toolkit.report.predict import cost_text, predict_forests
from toolkit.report.study import Study

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.grid.finished import FinishedRun, Model
    from toolkit.images.source import ImageSource
    from toolkit.outliers.detectors import Measures

TABLE, MEASURES, ABOUT, IMAGES = "outliers.csv", "outlier_measures.csv", "outliers.json", "image_problems.csv"
_VERSION, _QUALITY_VERSION = 1, 1  # of what is cached
_LOADING_SECONDS = 5.0  # of what measures and draws
_ROW_SECONDS = 1e-4  # of all measures of a descriptor once the forest is there (measured)
_IMAGE_SECONDS = 2e-3
_LIBRARY_BYTES = 150 << 20  # of what measures and draws
_VALUE_BYTES = 60  # of a row and a detector, from the measure to both tables


@dataclass(frozen=True)
class Outliers:
    """What was found.

    Attributes
    ----------
    measures : dict of str to dict of str to dict of str to ndarray
        Descriptor -> detector -> suffix of the column -> measure, (n_rows,) float64; NaN where the row has none.
    combined : Combined
    cut : Cut
    rank : ndarray (n_rows,) int64
        From 1; rows without a score last.
    n_outliers : int
        They have the first ranks.
    notes : list of str
        What could not be measured, and why.
    spaces : dict of str to str
        Descriptor -> in which space its rows were measured.
    quality : DataFrame or None
        Of the images, see `toolkit.images.quality`; None without images.
    """

    measures: dict[str, dict[str, Measures]]
    combined: Combined
    cut: Cut
    rank: np.ndarray
    n_outliers: int
    notes: list[str]
    spaces: dict[str, str]
    quality: pd.DataFrame | None = None

    @cached_property
    def is_outlier(self) -> np.ndarray:
        """Which rows are outliers, (n_rows,) bool."""
        return np.asarray(self.rank <= self.n_outliers)

    @property
    def threshold(self) -> float:
        """The least score of an outlier; inf without any."""
        return float(self.combined.score[self.is_outlier].min(initial=np.inf))


def write_outliers(
    run: FinishedRun,
    *,
    detectors: Sequence[str] = (),
    cut: Cut | None = None,
    top: int = 64,
    images: str | Path | None = None,
) -> Outliers:
    """Find the outliers of a finished run and write them to its folder.

    ``outliers.csv`` has a line for each row, the first rank first; ``outlier_measures.csv`` what each detector
    measured, in its own units, in the order of the rows; ``outliers.json`` how they were found;
    ``image_problems.csv`` the images that failed or show nothing; ``plots/outlier_*.png`` the histogram with the cut
    and how far detectors agree, ``plots/*outliers.png`` and ``plots/image_problems.png`` contact sheets.

    Parameters
    ----------
    run : FinishedRun
    detectors : sequence of str
        Names, see `find_detectors`; by default all of our own.
    cut : Cut, optional
        By default the knee.
    top : int
        Images on the sheet of the highest scores.
    images : path, optional
        Folder or zip archive that holds the images; by default as the run's configuration says.

    Raises
    ------
    InputError
        For a detector that does not exist or, if it was named, that can be used in no descriptor; images that cannot be
        used; a folder that another process works in.
    """
    from toolkit.outliers.pictures import write_pictures

    chosen = find_detectors(detectors)
    run.memory.require(_LIBRARY_BYTES, "measuring and drawing outliers")
    source = run_images(run) if images is None else open_images(run.image_paths, Path(images))
    with RunFolder(run.folder), source:
        _announce(run, chosen, source)
        found = find_outliers(run, chosen, cut or Cut(), named=bool(detectors))
        found = _with_quality(run, found, source)
        with atomic_file(run.folder / MEASURES) as file:
            _measure_table(run, found).to_csv(file, index=False, lineterminator="\n", float_format="%.7g")
        with atomic_file(run.folder / TABLE) as file:
            _table(run, found).to_csv(file, index=False, lineterminator="\n", float_format="%.5g")
        write_text(run.folder / ABOUT, json.dumps(_about(found), indent=1))
        write_pictures(run, found, source, detectors=chosen, top=top)
        write_skipped(run.folder / "images_skipped.csv", source)
    return found


def find_outliers(run: FinishedRun, detectors: dict[str, Detector], cut: Cut, *, named: bool = False) -> Outliers:
    """Measure, combine and cut the rows of a run; see `write_outliers`.

    Parameters
    ----------
    run : FinishedRun
    detectors : dict of str to Detector
    cut : Cut
    named : bool
        Whether a detector that can be used in no descriptor is an error.
    """
    study = Study(run)
    n_values = run.n_rows * len(run.names) * len(detectors)
    run.memory.require(_VALUE_BYTES * n_values, f"the measures of {run.n_rows:,} rows by {len(detectors)} detectors")
    measures: dict[str, dict[str, Measures]] = {}
    scored: dict[str, dict[str, np.ndarray]] = {}
    spaces: dict[str, str] = {}
    notes: list[str] = []
    for descriptor in run.names:
        model = study.best_matrix(descriptor)
        if model is None:
            notes.append(f"{descriptor}: no model was fitted, and so nothing measured")
            continue
        found, missing = _measures(study, model, detectors)
        notes += [f"{descriptor} {name}: left out, {reason}" for name, reason in missing.items()]
        rows = run.reduced(model).rows
        if len(rows) < run.n_rows:
            notes.append(f"{descriptor}: {run.n_rows - len(rows):,} rows are not measured, {_why_fewer(run, model)}")
        if found:
            spread = {name: {one: _spread(m, rows, run.n_rows) for one, m in of.items()} for name, of in found.items()}
            measures[descriptor] = spread
            scored[descriptor] = {name: detectors[name].score(of) for name, of in spread.items()}
            spaces[descriptor] = space_of(run, model)
    _check_used(measures, detectors, notes, named=named)
    for note in notes:
        run.reporter.say(note)
    combined = combine(scored)
    rank = ranks(combined.score)
    return Outliers(measures, combined, cut, rank, cut.n_outliers(combined.score), notes, spaces)


def _check_used(
    measures: dict[str, dict[str, Measures]], detectors: dict[str, Detector], notes: list[str], *, named: bool
) -> None:
    unused = [name for name in detectors if not any(name in of for of in measures.values())]
    if not measures or (named and unused):
        names = ", ".join(unused or detectors)
        raise InputError(f"{names} cannot be used in any descriptor of this run: {'; '.join(notes)}; choose others")


def _why_fewer(run: FinishedRun, model: Model) -> str:
    n_bad = len(run.reduced(model).bad_rows)
    fraction = model.cell.sample.fraction
    reasons = [f"{n_bad:,} hold NaN or inf"] if n_bad else []
    reasons += [f"stage {model.stage} has seen a fraction of {fraction:g}"] if fraction < 1 else []
    return ", ".join(reasons)


def _spread(values: np.ndarray, rows: np.ndarray, n_rows: int) -> np.ndarray:
    """Return measures of some rows as those of all, NaN for the others."""
    spread = np.full(n_rows, np.nan)
    spread[rows] = values
    return spread


# Measuring
def _measures(study: Study, model: Model, detectors: dict[str, Detector]) -> tuple[dict[str, Measures], dict[str, str]]:
    """Measure the rows that a model was fitted on, or take from the cache what was measured before.

    Returns
    -------
    measures : dict of str to dict
        Detector -> its measures, (n_fitted,) float64 each.
    missing : dict of str to str
        Detector -> why it could not be used.
    """
    run, seen = study.run, RunEvidence(study, model)
    found: dict[str, Measures] = {}
    missing: dict[str, str] = {}
    with run.reporter.track(f"{model.cell.sample.descriptor}: detectors", len(detectors)) as task:
        for name, detector in detectors.items():

            def make(folder: Path, name: str = name, detector: Detector = detector) -> dict[str, Any]:
                measured = measure(name, detector, seen)
                save_arrays(folder, **{str(number): one for number, one in enumerate(measured.values())})
                return {"columns": list(measured)}

            try:
                folder, content = run.keeper.cache.get("outliers", digest(_VERSION, name, *seen.identity(name)), make)
            except NotMeasurableError as error:
                missing[name] = str(error)
            else:
                numbers = map(str, range(len(content["columns"])))
                found[name] = dict(zip(content["columns"], load_arrays(folder, *numbers), strict=True))
            task.advance(1, name)
    return found, missing


def _announce(run: FinishedRun, detectors: dict[str, Detector], source: ImageSource) -> None:
    """Say what it will take if nothing is in the cache; calibrated on 2 processors."""
    study = Study(run)

    def largest(model: Model) -> int:
        cells = [value for _, value in dbscan_cells(run, model) if value <= run.n_rows]
        return max([*study.min_samples(model), *cells])

    models = [model for model in map(study.best_matrix, run.names) if model is not None]
    forests = [*models, *(plain(model) for model in models if plain(model) is not model)]
    n_images = run.n_rows - len(source.problems)
    cost = predict_forests(study, forests, largest)
    seconds = _LOADING_SECONDS + _ROW_SECONDS * run.n_rows * len(models) + _IMAGE_SECONDS * n_images
    others = "; PyOD takes its own time" if any(name.startswith(PYOD) for name in detectors) else ""
    run.reporter.say(
        f"outliers: {len(detectors)} detectors on {len(models)} x {run.n_rows:,} rows, {n_images:,} images; "
        f"{cost_text(replace(cost, seconds=cost.seconds + seconds), run.memory)}{others}"
    )


# What is written
def _with_quality(run: FinishedRun, found: Outliers, source: ImageSource) -> Outliers:
    """Look at the images too, if there are any."""
    if len(source.problems) == run.n_rows:
        (run.folder / IMAGES).unlink(missing_ok=True)  # of another time
        run.reporter.say("no images are looked at: none was found; --images takes a folder or a zip archive")
        return found
    quality = _quality(run, source)
    write_quality(quality, run.folder / IMAGES)
    return replace(found, quality=quality)


def _quality(run: FinishedRun, source: ImageSource) -> pd.DataFrame:
    """Measure the images, or take from the cache what is known of those that have not changed since.

    What failed is looked at again: it may have been for lack of memory.
    """

    def make(folder: Path) -> dict[str, Any]:
        image_quality(source, range(run.n_rows), run.memory, run.reporter).to_parquet(folder / "quality.parquet")
        return {"n_rows": run.n_rows}

    seen = xxhash.xxh3_128()
    for row, path in enumerate(source.paths):
        seen.update(f"{path}\n{source.stamp(row)}\n".encode())
    folder, _ = run.keeper.cache.get("quality", digest(_QUALITY_VERSION, seen.hexdigest()), make)
    kept = pd.read_parquet(folder / "quality.parquet")
    failed = kept.loc[kept["is_failed"], "row"]
    return kept if failed.empty else judged(kept, image_quality(source, failed, run.memory, run.reporter))


def _measure_table(run: FinishedRun, found: Outliers) -> pd.DataFrame:
    columns: dict[str, Any] = {"image_path": run.image_paths, "row": np.arange(run.n_rows)}
    for descriptor, by_detector in found.measures.items():
        for name, of in by_detector.items():
            columns |= {f"{descriptor}_{name}{suffix}": values for suffix, values in of.items()}
    return pd.DataFrame(columns)


def _table(run: FinishedRun, found: Outliers) -> pd.DataFrame:
    combined = found.combined
    votes, voters = combined.votes(found.n_outliers)
    columns: dict[str, Any] = {
        "image_path": run.image_paths,
        "row": np.arange(run.n_rows),
        "rank": pd.array(found.rank, dtype="Int64"),
        "is_outlier": found.is_outlier,
        "score": combined.score,
        "n_votes": votes,
        "n_detectors": voters,
        "strongest": combined.strongest,
    }
    columns["image_problem"] = "" if found.quality is None else _problem_texts(found.quality)
    for descriptor, score in combined.by_descriptor.items():
        columns[f"{descriptor}_is_outlier"] = ranks(score) <= found.cut.n_outliers(score)
        columns[f"{descriptor}_score"] = score
        columns |= {f"{descriptor}_{name}": values for name, values in combined.detectors[descriptor].items()}
    table = pd.DataFrame(columns)
    table.loc[table["score"].isna(), "rank"] = pd.NA
    return table.iloc[np.argsort(found.rank)]


def _problem_texts(quality: pd.DataFrame) -> np.ndarray:
    """Return what is wrong with each image, in the order of the rows."""
    texts = np.full(len(quality), "", dtype=object)
    for name in ("failed", *PROBLEMS):
        texts[quality[f"is_{name}"]] += f"{name} "
    return np.array([text.rstrip().replace(" ", "; ") for text in texts], dtype=object)


def _quality_text(quality: pd.DataFrame) -> str:
    counts = {name: int(quality[f"is_{name}"].sum()) for name in ("failed", *PROBLEMS)}
    found = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    return f"{len(quality):,} looked at: {found or 'none failed, blank, tiny, dark or over-exposed'}"


def _about(found: Outliers) -> dict[str, Any]:
    """Return how outliers were found, for a machine."""
    return {
        "n_outliers": found.n_outliers,
        "cut": found.cut.text,
        "threshold": found.threshold if found.n_outliers else None,
        "detectors": {name: list(of) for name, of in found.combined.detectors.items()},
        "measured": found.spaces,
        "combination": COMBINATION,
        "notes": found.notes,
    }


def outliers_text(run: FinishedRun, found: Outliers) -> str:
    """Return what was found, for a person."""
    n_rows = int(np.count_nonzero(~np.isnan(found.combined.score)))
    share = 100 * found.n_outliers / max(n_rows, 1)
    lines = [
        f"outliers   {found.n_outliers:,} of {n_rows:,} rows ({share:.2g} %), by {found.cut.text}"
        + (f": score {found.threshold:.3g} and above" if found.n_outliers else "")
    ]
    if found.n_outliers:
        strongest, counts = np.unique(found.combined.strongest[found.is_outlier], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        lines.append("strongest  " + ", ".join(f"{strongest[i]} {counts[i]:,}" for i in order))
    lines.append("measured   " + "; ".join(f"{name}: {space}" for name, space in found.spaces.items()))
    if found.quality is not None:
        lines.append(f"images     {_quality_text(found.quality)}")
        bad = _problem_texts(found.quality) != ""
        if n_bad := np.count_nonzero(bad):
            n_both = np.count_nonzero(bad & found.is_outlier)
            lines.append(f"           {n_both:,} of these {n_bad:,} are outliers too; all are in {run.folder / IMAGES}")
    lines += [f"score      {COMBINATION}", f"table      {run.folder / TABLE}, {MEASURES}"]
    lines.append(f"pictures   {run.folder / 'plots'}: outliers.png, *_outliers.png, outlier_*.png, image_problems.png")
    return "\n".join(lines)
