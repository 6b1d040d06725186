"""The odd rows of a finished run: measured, combined, cut, and written with the images that show them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit.atomic import atomic_file
from toolkit.descriptors.cache import digest, load_arrays, save_arrays
from toolkit.errors import InputError
from toolkit.grid.folder import RunFolder
from toolkit.images.quality import PROBLEMS, image_quality, write_quality
from toolkit.images.source import open_images, run_images
from toolkit.images.thumbnails import write_skipped
from toolkit.outliers.combine import COMBINATION, Combined, Cut, combine, ranks
from toolkit.outliers.detectors import PYOD, Detector, Evidence, find_detectors, measure_rows
from toolkit.report.predict import cost_text, predict_forests
from toolkit.report.study import Study

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.grid.finished import FinishedRun, Model
    from toolkit.images.source import ImageSource
    from toolkit.outliers.detectors import Measures

TABLE, MEASURES, IMAGES = "outliers.csv", "outlier_measures.csv", "image_problems.csv"
_VERSION, _QUALITY_VERSION = 1, 1  # of what is cached
_LOADING_SECONDS = 5.0  # of what measures and draws
_ROW_SECONDS = 1e-4  # of all measures of a descriptor once the forest is there (measured)
_IMAGE_SECONDS = 2e-3


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
    quality : DataFrame or None
        Of the images, see `toolkit.images.quality`; None without images.
    """

    measures: dict[str, dict[str, Measures]]
    combined: Combined
    cut: Cut
    rank: np.ndarray
    n_outliers: int
    notes: list[str]
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
    measured, in its own units, in the order of the rows; ``image_problems.csv`` the images that failed or show nothing;
    ``plots/outliers*.png`` the histogram with the cut, how far detectors agree, and contact sheets.

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
    source = run_images(run) if images is None else open_images(run.image_paths, Path(images))
    with RunFolder(run.folder), source:
        _announce(run, chosen, source)
        found = find_outliers(run, chosen, cut or Cut(), named=bool(detectors))
        found = _with_quality(run, found, source)
        with atomic_file(run.folder / MEASURES) as file:
            _measure_table(run, found).to_csv(file, index=False, lineterminator="\n", float_format="%.7g")
        with atomic_file(run.folder / TABLE) as file:
            _table(run, found).to_csv(file, index=False, lineterminator="\n", float_format="%.5g")
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
    measures: dict[str, dict[str, Measures]] = {}
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
        spread = {name: {one: _spread(m, rows, run.n_rows) for one, m in of.items()} for name, of in found.items()}
        if spread:
            measures[descriptor] = spread
    _check_used(measures, detectors, notes, named=named)
    over = {
        descriptor: {name: detectors[name].over(list(of.values()), axis=0) for name, of in by_detector.items()}
        for descriptor, by_detector in measures.items()
    }
    combined = combine(over)
    for note in notes:
        run.reporter.say(note)
    rank = ranks(combined.score)
    return Outliers(measures, combined, cut, rank, cut.n_outliers(combined.score), notes)


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
    """Measure the rows of a model's matrix, (n_fitted,), or take what was measured before from the cache."""
    run = study.run
    values, cells = study.min_samples(model, largest=None), dbscan_cells(run, model)
    partitions = [other for other in run.models.values() if _is_partition(other, model)]

    def make(folder: Path) -> dict[str, Any]:
        found, missing = measure_rows(_evidence(study, model, values, cells, partitions), detectors)
        columns = {name: list(of) for name, of in found.items()}
        for number, (name, one) in enumerate((name, one) for name, of in columns.items() for one in of):
            save_arrays(folder, **{str(number): found[name][one]})
        return {"columns": columns, "missing": missing}

    key = digest(
        _VERSION, run.matrix_key(model), values, cells, sorted(other.id for other in partitions), list(detectors),
        run.config.seed, _packages(detectors),
    )  # fmt: skip
    folder, content = run.keeper.cache.get("outliers", key, make)
    names = [(name, one) for name, of in content["columns"].items() for one in of]
    arrays = load_arrays(folder, *(str(number) for number in range(len(names))))
    found: dict[str, Measures] = {name: {} for name in content["columns"]}
    for (name, one), array in zip(names, arrays, strict=True):
        found[name][one] = array
    return found, content["missing"]


def _packages(detectors: dict[str, Detector]) -> list[str]:
    """Return the versions of the packages whose detectors are used."""
    import sklearn

    versions = [str(sklearn.__version__)]
    return versions + ([str(sys.modules["pyod"].__version__)] if any(n.startswith(PYOD) for n in detectors) else [])


def _evidence(
    study: Study, model: Model, values: list[int], cells: list[tuple[float, int]], partitions: list[Model]
) -> Evidence:
    run = study.run
    X = run.matrix(model)
    needed = sorted({*values, *(value for _, value in cells if value <= len(X))})
    with run.reporter.track(f"{model.cell.sample.descriptor} {model.cell.scaler}: density forest", 1.0) as task:
        forest = run.forest(model, needed, advance=task.advance)
    fitted = [(run.labels(one), run.centres(one)) for one in partitions]
    kept = [(labels, centres) for labels, centres in fitted if centres is not None]
    residuals = run.keeper.residuals(model.cell.sample)
    return Evidence(X, forest, values, cells, kept, residuals, run.config.seed, run.memory)


def dbscan_cells(run: FinishedRun, model: Model) -> list[tuple[float, int]]:
    """Return eps and min_samples of every DBSCAN that a run tried on the model's descriptor with its scaler, sorted."""
    found = set()
    for table in run.tables.values():
        alike = (table["descriptor"] == model.cell.sample.descriptor) & (table["scaler"] == model.cell.scaler)
        for params in table.loc[alike & (table["cluster_class"] == "DBSCAN"), "cluster_class_params"]:
            found.add((float(params["eps"]), int(params["min_samples"])))
    return sorted(found)


def _is_partition(other: Model, model: Model) -> bool:
    """Return whether a model is a KMeans of another's matrix."""
    same = (other.cell.sample, other.cell.scaler) == (model.cell.sample, model.cell.scaler)
    return same and other.cell.cluster_class == "KMeans"


def _announce(run: FinishedRun, detectors: dict[str, Detector], source: ImageSource) -> None:
    """Say what it will take if nothing is in the cache; calibrated on 2 processors."""
    study = Study(run)

    def largest(model: Model) -> int:
        cells = [value for _, value in dbscan_cells(run, model) if value <= run.n_rows]
        return max([*study.min_samples(model, largest=None), *cells])

    models = [model for model in map(study.best_matrix, run.names) if model is not None]
    n_images = run.n_rows - len(source.problems)
    cost = predict_forests(study, models, largest)
    seconds = _LOADING_SECONDS + _ROW_SECONDS * run.n_rows * len(models) + _IMAGE_SECONDS * n_images
    run.reporter.say(
        f"outliers: {len(detectors)} detectors on {len(models)} x {run.n_rows:,} rows, {n_images:,} images; "
        f"{cost_text(replace(cost, seconds=cost.seconds + seconds), run.memory)}"
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
    """Measure the images, or take what was measured from the cache, if none has changed since."""

    def make(folder: Path) -> dict[str, Any]:
        image_quality(source, range(run.n_rows), run.memory, run.reporter).to_parquet(folder / "quality.parquet")
        return {"n_rows": run.n_rows}

    seen = digest(source.paths.tolist(), [source.stamp(row) for row in range(run.n_rows)])
    folder, _ = run.keeper.cache.get("quality", digest(_QUALITY_VERSION, seen), make)
    quality = pd.read_parquet(folder / "quality.parquet")
    failed = quality[quality["is_failed"]]
    source.problems.update(zip(failed["row"], failed["reason"], strict=True))
    return quality


def _measure_table(run: FinishedRun, found: Outliers) -> pd.DataFrame:
    columns: dict[str, Any] = {"row": np.arange(run.n_rows), "image_path": run.image_paths}
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
    if found.quality is not None:
        columns["image_problem"] = _problem_texts(found.quality)
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
    if found.quality is not None:
        lines.append(f"images     {_quality_text(found.quality)}")
    lines += [f"score      {COMBINATION}", f"table      {run.folder / TABLE}"]
    return "\n".join(lines)
