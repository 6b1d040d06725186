"""Labels for new rows: the reduction, the scaler and the models of a finished run, applied to further files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from toolkit.atomic import atomic_file
from toolkit.cluster.forest_plan import ForestPlan
from toolkit.cluster.labelling import UNSEEN
from toolkit.cluster.predict import make_predictor, min_samples_of
from toolkit.descriptors.formats import FORMATS
from toolkit.descriptors.keeper import block_rows
from toolkit.descriptors.loader import DataLoader, OneFile
from toolkit.descriptors.new_rows import REASONS, NewRows, file_digests
from toolkit.errors import InputError
from toolkit.grid.finished import FinishedRun
from toolkit.grid.labelling import write_assignments
from toolkit.memory import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.cluster.density import DensityForest
    from toolkit.cluster.predict import Predictor
    from toolkit.descriptors.formats import DescriptorFile
    from toolkit.grid.finished import Model
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

TABLE, ASSIGNMENTS = "test_assignments.csv", "test_assignments.json"
SOURCES = ("fitted", "assigned", "unreadable")  # of a label: the fit, this module, or none
_RESULT_BYTES = 64  # of a row and a model, until the table is written


@dataclass(frozen=True)
class Assigned:
    """What a model says of the rows of a file.

    Attributes
    ----------
    model : Model
    labels : ndarray (n_rows,) int32
        -1 is noise; nothing where there is a reason.
    measure : str
        "distance" (to the nearest centre; of DBSCAN to the nearest core row) or "strength" (HDBSCAN, 0 to 1).
    values : ndarray (n_rows,) float64
        Of the measure; NaN where there is none.
    reason : ndarray (n_rows,) int8
        The place in `REASONS` of why a row has no label; 0 if it has one.
    """

    model: Model
    labels: np.ndarray
    measure: str
    values: np.ndarray
    reason: np.ndarray


def assign_descriptors(
    folder: str | Path,
    source: str | Path,
    *,
    model: str | None = None,
    image_paths: str | Path | None = None,
    out: str | Path | None = None,
    memory: str | int | MemoryBudget | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> list[Assigned]:
    """Label the rows of new descriptor files by finished models, and write both kinds of table.

    ``test_assignments.csv`` has the image path, for each model its label (as ``best_clusterization.csv`` names it) and
    its distance or strength, its cluster's name if ``names.csv`` gives one, and the reason of a row without a label;
    ``test_assignments.json`` is ``{image path: cluster}`` of the first model.

    A row that a model was fitted on gets the label of the fit, whatever file and order it comes in (HDBSCAN: if no
    other engine than this toolkit's fitted it); what other rows get does not depend on their order, on the rest of
    the file, on threads or on memory.

    Parameters
    ----------
    folder : path
        Of a finished run.
    source : path
        A folder, in which the file named as its descriptor is taken for each finalist, or one file.
    model : str, optional
        Name or id of one model, instead of all finalists.
    image_paths : path, optional
        CSV with one image path per row; without it as in `DataLoader`.
    out : path, optional
        Where the tables go, by default to the run.
    memory, device, reporter
        As in `FinishedRun`.

    Returns
    -------
    list of Assigned
        The best model first.

    Raises
    ------
    InputError
        If the run, the files or the model cannot be used, or a file has not the features that its model expects.
    """
    run = FinishedRun(folder, memory=memory, device=device, reporter=reporter)
    loader, targets = _targets(run, Path(source), model, None if image_paths is None else Path(image_paths))
    for one, file in targets:
        _check_features(run, one, file)
    paths = loader.image_paths
    paths = np.arange(loader.n_rows).astype(str) if paths is None else paths
    target = run.folder if out is None else Path(out)
    if target.exists() and not target.is_dir():
        raise InputError(f"--out {target} is a file; give a folder")
    run.memory.require(_RESULT_BYTES * loader.n_rows * len(targets), f"the labels of {loader.n_rows:,} rows")
    found = [assign_rows(run, one, file) for one, file in targets]
    target.mkdir(parents=True, exist_ok=True)
    with atomic_file(target / TABLE) as table:
        _table(run, paths, found).to_csv(table, index=False, lineterminator="\n")
    rows = np.flatnonzero(found[0].reason == 0)
    write_assignments(target / ASSIGNMENTS, paths, rows, found[0].labels[rows])
    return found


def assign_rows(
    run: FinishedRun,
    model: Model,
    file: DescriptorFile,
    *,
    rows: np.ndarray | None = None,
    predictor: Predictor | None = None,
) -> Assigned:
    """Label rows of a file by a model, in blocks that the memory budget allows.

    Parameters
    ----------
    run : FinishedRun
    model : Model
    file : DescriptorFile
        With the features that the model expects.
    rows : ndarray of int64, optional
        Sorted row numbers to take; by default all.
    predictor : Predictor, optional
        Labels the rows in the model's space, instead of the model itself.
    """
    numbers = np.arange(file.n_rows) if rows is None else rows
    labels, values = np.full(len(numbers), -1, np.int32), np.full(len(numbers), np.nan)
    reason = np.zeros(len(numbers), np.int8)
    if predictor is None:
        _announce(run, model, len(numbers))
        predictor = predictor_of(run, model)
    space = _space(run, model)
    row_bytes = NewRows.row_bytes(file, space.projection.n_features_out) + predictor.row_bytes
    run.memory.require(predictor.block_bytes + row_bytes, f"{model.name}, one new row at a time")
    fits = (run.memory.free - predictor.block_bytes) // row_bytes
    size = int(max(1, min(block_rows(file.n_features), file.n_rows, fits)))
    at = 0
    for block in run.reporter.watch(f"{model.name}: assigning", file.blocks(size, rows), len, len(numbers)):
        part = slice(at, at + len(block))
        at += len(block)
        placed = space.place(block, numbers[part])
        reason[part] = placed.reason
        good = np.flatnonzero(placed.reason == 0) + part.start
        labels[good], values[good] = predictor.predict(placed.rows)
    if len(bad := np.flatnonzero(reason)):
        run.reporter.warn(
            f"{file.path}: {len(bad):,} of {len(numbers):,} rows get no label, the first is row {numbers[bad[0]]} "
            f"({REASONS[reason[bad[0]]]})"
        )
    values[np.isinf(values)] = np.nan
    return Assigned(model, labels, predictor.measure, values, reason)


def assign_all(run: FinishedRun, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Label every row of a run by one of its models: also those that the model has not seen.

    Returns
    -------
    labels : ndarray (n_rows,) int32
        -1 is noise; nothing where the row is unreadable.
    source : ndarray (n_rows,) int8
        The place in `SOURCES` of where the label is from.
    """
    labels = run.all_labels(model)
    source = np.zeros(len(labels), np.int8)
    source[run.reduced(model).bad_rows] = 2
    unseen = np.flatnonzero((labels == UNSEEN) & (source == 0))
    if len(unseen):
        found = assign_rows(run, model, run.loader.open(model.cell.sample.descriptor), rows=unseen)
        labels[unseen], source[unseen] = found.labels, np.where(found.reason == 0, 1, 2)
    return labels, source


def predictor_of(run: FinishedRun, model: Model) -> Predictor:
    """Return a model, ready to label new rows of its own space."""

    def forest(min_samples: int) -> DensityForest:
        with run.reporter.track(f"{model.name}: density forest", 1.0) as task:
            return run.forest(model, [min_samples], advance=task.advance)

    if model.cell.cluster_class == "HDBSCAN" and run.config.engine != "shared":
        run.reporter.warn(
            f"{model.name} was fitted by engine {run.config.engine}: new rows go through the toolkit's own tree, and "
            f"take the label that most rows of their cluster have"
        )
    return make_predictor(
        model.cell.cluster_class,
        dict(model.cell.params),
        centres=run.centres(model),
        X=lambda: run.matrix(model),
        labels=run.labels(model),
        forest=forest,
    )


def _space(run: FinishedRun, model: Model) -> NewRows:
    """Return the way of new rows into the space of a model."""
    sample = model.cell.sample
    digests = None
    if sample.n_components is not None:
        file, cache = run.loader.open(sample.descriptor), run.keeper.cache
        digests = file_digests(cache, run.fingerprints[sample.descriptor], file, run.memory, run.reporter)
    return NewRows(run.reduced(model), model.cell.scaler, digests)


def _announce(run: FinishedRun, model: Model, n_rows: int) -> None:
    """Say what is compared with what, and about how much memory it takes."""
    matrix, cell = run.reduced(model).matrix, model.cell
    if cell.cluster_class == "KMeans":
        run.reporter.say(f"{model.name}: {n_rows:,} rows, {model.scores['n_clusters']} centres, block by block")
        return
    n_bytes = 4 * matrix.n_rows * matrix.n_features
    min_samples = min(min_samples_of(dict(cell.params)), matrix.n_rows)
    n_bytes += ForestPlan.of(matrix.n_rows, matrix.n_features, min_samples, run.memory.free - n_bytes).n_bytes
    run.reporter.say(
        f"{model.name}: {n_rows:,} rows, compared with the {matrix.n_rows:,} of the fit, whose density forest takes "
        f"{format_size(n_bytes)} at most (budget {format_size(run.memory.limit)})"
    )


# Which model labels which file
def _targets(
    run: FinishedRun, source: Path, name: str | None, image_paths: Path | None
) -> tuple[DataLoader, list[tuple[Model, DescriptorFile]]]:
    """Return the new files' loader, and which model labels which of them."""
    models = [run.model(name)] if name is not None or not run.finalists else run.finalists
    if source.is_dir():
        there = {path.stem for path in source.iterdir() if path.suffix.lower() in FORMATS}
        taken = [model for model in models if model.cell.sample.descriptor in there]
        if not taken:
            raise InputError(f"folder {source} holds no descriptor that is needed; {_expected(run, models)}")
        for model in models:
            if model not in taken:
                run.reporter.warn(f"{source} holds no {model.cell.sample.descriptor}: no labels of {model.name}")
        names = list(dict.fromkeys(model.cell.sample.descriptor for model in taken))
        loader = DataLoader(names, source, image_paths, memory=run.memory)
        return loader, [(model, loader.open(model.cell.sample.descriptor)) for model in taken]
    taken = _models_of_file(run, source, models, is_named=name is not None)
    loader = OneFile(source, image_paths, run.memory)
    return loader, [(model, loader.open(source.stem)) for model in taken]


def _models_of_file(run: FinishedRun, path: Path, models: list[Model], *, is_named: bool) -> list[Model]:
    """Return the models that a single file is for."""
    if not path.exists():
        raise InputError(f"{path} does not exist; give a descriptor file, or a folder of them")
    if path.stem not in run.names:
        if is_named or len(run.names) == 1:
            return models
        raise InputError(
            f"{path} is named as no descriptor of the run; name it so, or give --model: {_expected(run, models)}"
        )
    taken = [model for model in models if model.cell.sample.descriptor == path.stem]
    if not taken:
        hint = "rename it if it is" if is_named else f"name a model of {path.stem} with --model"
        raise InputError(f"{path} is not what is needed, by its name; {_expected(run, models)}; {hint}")
    return taken


def _expected(run: FinishedRun, models: Sequence[Model]) -> str:
    texts = []
    for model in models:
        file = run.loader.open(model.cell.sample.descriptor)
        texts.append(
            f"{model.name} expects {file.n_features} features of {model.cell.sample.descriptor} (as in {file.path})"
        )
    return ", ".join(texts)


def _check_features(run: FinishedRun, model: Model, file: DescriptorFile) -> None:
    if file.n_features != run.loader.open(model.cell.sample.descriptor).n_features:
        raise InputError(f"model {_expected(run, [model])}, got {file.n_features} in {file.path}")


# What is written
def _table(run: FinishedRun, paths: np.ndarray, found: list[Assigned]) -> pd.DataFrame:
    from toolkit.naming import defused

    columns: dict[str, object] = {"image_path": paths}
    reasons = np.full(len(paths), "", dtype=object)
    for one in found:
        labels = pd.array(one.labels, dtype="Int64")
        labels[one.reason != 0] = pd.NA
        columns[one.model.name] = labels
        columns[f"{one.model.name}:{one.measure}"] = one.values
        if names := _names(run, one.model):
            named = [defused(names.get(label, "")) for label in one.labels.tolist()]
            columns[f"{one.model.name}:name"] = np.where(one.reason == 0, np.array(named, dtype=object), "")
        for row in np.flatnonzero(one.reason):
            text = f"{one.model.cell.sample.descriptor}: {REASONS[one.reason[row]]}"
            if text not in reasons[row]:
                reasons[row] += f"; {text}" if reasons[row] else text
    return pd.DataFrame(columns | {"reason": reasons})


def _names(run: FinishedRun, model: Model) -> dict[int, str]:
    """Return label -> name; a names.csv that cannot be used costs the names, not the labels."""
    from toolkit.naming import all_names

    try:
        found = all_names(run).get(model)
    except InputError as error:
        run.reporter.warn(f"names are left out: {error}")
        return {}
    if found and found.split:
        split = ", ".join(map(str, found.split))
        run.reporter.warn(f"{model.name}: clusters {split} are split by names.csv; new rows get the name of the whole")
    return found.names if found else {}


def assigned_text(found: list[Assigned]) -> str:
    """Return how many rows each model labelled, for a person."""
    lines = []
    for one in found:
        good = one.labels[one.reason == 0]
        n_clusters = len(np.unique(good[good >= 0]))
        n_noise, bad = np.count_nonzero(good < 0), len(one.labels) - len(good)
        lines.append(
            f"{one.model.name}: {len(good):,} rows labelled, {n_clusters} clusters, {n_noise:,} noise"
            + (f"; {bad:,} rows without a label" if bad else "")
        )
    return "\n".join(lines)
