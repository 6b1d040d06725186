"""The noise of a finished model: the nearest cluster of every noise row, or the clusters that are among them.

Both make new tables; the labels of the run stay as they are.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from toolkit.atomic import atomic_file
from toolkit.cluster.nearest_clusters import nearest_clusters, product_equivalents
from toolkit.config import Best, Grid, check_grid, listed, read_yaml, validated
from toolkit.errors import InputError
from toolkit.grid.finished import FinishedRun
from toolkit.grid.fit import Fitted, Settings, fit_and_score
from toolkit.grid.folder import RunFolder
from toolkit.grid.plan import Cell, Group, expand
from toolkit.grid.predict import CostModel
from toolkit.grid.selection import finalists
from toolkit.grid.table import export_scores, score_table, shorten
from toolkit.progress import format_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.grid.finished import Model
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

REASSIGNED, RECLUSTERED, SCORES = "reassigned.csv", "reclustered.csv", "recluster_scores.csv"
_RESULT_BYTES = 160  # of a row of the run, until the table is written
_FEWEST = 3  # rows that can be two clusters of which one holds two, as the scores need
_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)  # of the noise rows: min_cluster_size of the default grid
_SMALLEST = 5  # of these, and their min_samples


@dataclass(frozen=True)
class NoiseTable:
    """What was written.

    Attributes
    ----------
    path : Path
    text : str
        What is in it, for a person.
    """

    path: Path
    text: str


def reassign(
    folder: str | Path,
    *,
    model: str | None = None,
    min_confidence: float = 0.0,
    memory: str | int | MemoryBudget | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> NoiseTable:
    """Send every noise row of a model to the nearest cluster, with a confidence.

    A row is as far from a cluster as from its nearest row, in the model's space (float64 differences; of equally near
    clusters the lowest-numbered). With d1 and d2 the distances to the nearest and the second nearest cluster, the
    confidence is 1 - d1 / d2: 0 if another is as near, 1 if there is no other.

    Parameters
    ----------
    folder : path
        Of a finished run.
    model : str, optional
        Name or id; by default the best finalist that has noise.
    min_confidence : float
        From 0 to 1; rows below it stay noise.
    memory, reporter
        As in `FinishedRun`.
    device : str
        As in `FinishedRun`, which the matrix is made again on if it is gone; distances are computed on the CPU.

    Returns
    -------
    NoiseTable
        ``reassigned.csv`` in the run, beside the columns of other models: image_path, MODEL (its label),
        MODEL:reassigned, MODEL:distance (d1) and MODEL:confidence of every row of the run. Distance and confidence are
        empty where the row was not noise, all four where the model has not seen it.

    Raises
    ------
    InputError
        If the run or the model cannot be used, the model has no noise or no clusters, or `min_confidence` is none.
    """
    if not 0 <= min_confidence <= 1:
        raise InputError(f"min_confidence is {min_confidence}; allowed: a number from 0 to 1")
    run = FinishedRun(folder, memory=memory, device=device, reporter=reporter)
    noise = _noise_of(run, model)
    if len(noise.rows) == len(noise.labels):
        raise InputError(
            f"{noise.model.name} has no clusters to go to, all its {len(noise.rows):,} rows are noise; name a model "
            f"with clusters, or cluster the noise"
        )
    run.memory.require(_RESULT_BYTES * run.n_rows, f"a table of {run.n_rows:,} rows")
    with RunFolder(run.folder):
        labels, distance, confidence = _nearest(run, noise)
        stays = confidence < min_confidence
        path = run.folder / REASSIGNED
        _put(path, run, noise.model, _reassigned(run, noise, np.where(stays, -1, labels), distance, confidence))
    text = (
        f"{path}: {np.count_nonzero(~stays):,} of {len(stays):,} noise rows of {noise.model.name} go to their nearest "
        f"cluster, median confidence {np.median(confidence):.2f}"
    )
    if stays.any():
        text += f"; {np.count_nonzero(stays):,} stay noise (confidence below {min_confidence:g})"
    return NoiseTable(path, text)


def recluster(
    folder: str | Path,
    grid: str | Path | None = None,
    *,
    model: str | None = None,
    memory: str | int | MemoryBudget | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> NoiseTable:
    """Cluster the noise rows of a model by a grid of their own, in the model's space.

    The models of the grid are fitted, scored and chosen as those of a stage, with the engine, the seed and the
    treatment of noise of the run.

    Parameters
    ----------
    folder : path
        Of a finished run.
    grid : path, optional
        A YAML with ``grid`` (as in a stage), ``best`` (as in a run; what it does not give is as in this run, but
        that any coverage will do), or both; without a grid it is `default_grid`.
    model : str, optional
        Name or id; by default the best finalist that has noise.
    memory, device, reporter
        As in `FinishedRun`.

    Returns
    -------
    NoiseTable
        ``reclustered.csv`` in the run, beside the columns of other models: image_path, MODEL (its label) and
        MODEL:reclustered of every row of the run, empty where the model has not seen it. Clusters among the noise are
        numbered on after those of the model; -1 is still noise. ``recluster_scores.csv`` has the scores of all models
        of the grid.

    Raises
    ------
    InputError
        If the run, the model or the file cannot be used, the model has no or too little noise, or no model of the
        grid meets the constraints; the scores are written then.
    """
    run = FinishedRun(folder, memory=memory, device=device, reporter=reporter)
    noise = _noise_of(run, model)
    best_of_run = run.config.best.model_copy(update={"min_coverage": 0.0})  # what is noise twice may well be noise
    asked = _read_regrid(grid, best_of_run)
    if len(noise.rows) < _FEWEST:
        raise InputError(f"{noise.model.name} has {len(noise.rows)} noise rows; two clusters need at least {_FEWEST}")
    chosen_grid = asked.grid or default_grid(len(noise.rows))
    with RunFolder(run.folder):
        cells, fitted = _fit(run, noise, chosen_grid)
        table = score_table([_score_row(run, noise, *pair) for pair in zip(cells, fitted, strict=True)])
        export_scores(table, run.folder / SCORES)
        chosen = finalists(table, asked.best)
        if not len(chosen):
            _put(run.folder / RECLUSTERED, run, noise.model, {})  # what is there would be of other scores
            raise InputError(_nothing_chosen(run, noise, table, asked.best))
        best = int(chosen.index[0])
        found = np.asarray(fitted[best].labels)  # a model with scores has labels
        new = noise.labels.astype(np.int64)
        new[noise.rows] = np.where(found >= 0, found + noise.n_clusters, -1)
        path = run.folder / RECLUSTERED
        name = noise.model.name
        _put(path, run, noise.model, _label_columns(run, noise, {name: noise.labels, f"{name}:reclustered": new}))
    n_new, n_left = len(np.unique(found[found >= 0])), np.count_nonzero(found < 0)
    text = (
        f"{path}: {n_new} clusters, numbered from {noise.n_clusters}, among the {len(found):,} noise rows of {name}, "
        f"by {_title(cells[best])}; {n_left:,} rows are still noise; {SCORES} has the {len(table)} models"
    )
    return NoiseTable(path, text)


def default_grid(n_rows: int) -> Grid:
    """Return HDBSCAN with min_cluster_size 0.1, 0.2, 0.5, 1, 2, 5 and 10 % of the rows, at least 5, at min_samples 5.

    One value of min_samples: all models are then cuts of one tree, and few neighbours suit rows that are sparse.

    Raises
    ------
    InputError
        If there are too few rows for two clusters of 5.
    """
    if n_rows < 2 * _SMALLEST:
        raise InputError(
            f"{n_rows} noise rows are too few for two clusters of {_SMALLEST}, the smallest by default; give a grid"
        )
    sizes = sorted({max(_SMALLEST, round(share * n_rows)) for share in _SHARES})
    return {"HDBSCAN": {"min_cluster_size": sizes, "min_samples": [_SMALLEST]}}


# The noise
class _Noise(NamedTuple):
    """The noise of a model: `labels` (n_fitted,) int of all rows, and the numbers of the noise `rows` among them."""

    model: Model
    labels: np.ndarray
    rows: np.ndarray

    @property
    def n_clusters(self) -> int:
        return int(self.labels.max()) + 1


def _noise_of(run: FinishedRun, name: str | None) -> _Noise:
    """Return the noise of the named model, or of the best finalist that has some."""
    asked = run.finalists if name is None else [run.model(name)]
    for model in asked:
        labels = run.labels(model)
        if len(rows := np.flatnonzero(labels < 0)):
            return _Noise(model, labels, rows)
    there = [model.name for model in run.models.values() if model.scores["n_noise"] > 0]
    texts = ", ".join(f"{model.name} ({model.scores['n_clusters']} clusters)" for model in asked)
    what = (
        f"no finalist of {run.folder} has noise: {texts or 'there is none'}"
        if name is None
        else f"{texts} has no noise"
    )
    raise InputError(
        f"{what}; "
        + (f"give --model, for instance {', '.join(there[:3])}" if there else "no model of the run has some")
    )


# Reassigning
def _nearest(run: FinishedRun, noise: _Noise) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nearest cluster of each noise row, the distance to it and the confidence."""
    X = run.matrix(noise.model)
    n_noise, n_clustered = len(noise.rows), len(X) - len(noise.rows)
    per_product = CostModel(run.config).seconds_per_operation
    seconds = per_product * product_equivalents(n_noise, n_clustered, X.shape[1])
    title = f"{noise.model.name}: reassigning"
    run.reporter.say(
        f"{title} {n_noise:,} noise rows, by {n_clustered:,} rows in {noise.n_clusters} clusters: about "
        f"{format_seconds(seconds)}"
    )
    with run.reporter.track(title, 1.0) as task:
        found = nearest_clusters(X, noise.labels, noise.rows, memory=run.memory, advance=task.advance)
    nearest, second = np.sqrt(found.nearest), np.sqrt(found.second)
    ratio = np.divide(nearest, second, out=np.ones(n_noise), where=second > 0)  # both 0: as near to another
    return found.label, nearest, 1 - ratio


def _reassigned(
    run: FinishedRun, noise: _Noise, labels: np.ndarray, distance: np.ndarray, confidence: np.ndarray
) -> dict[str, Any]:
    seen, name = run.reduced(noise.model).rows, noise.model.name
    new = noise.labels.astype(np.int64)
    new[noise.rows] = labels
    columns = _label_columns(run, noise, {name: noise.labels, f"{name}:reassigned": new})
    for column, values in (("distance", distance), ("confidence", confidence)):
        measured = np.full(run.n_rows, np.nan)
        measured[seen[noise.rows]] = values
        columns[f"{name}:{column}"] = measured
    return columns


def _label_columns(run: FinishedRun, noise: _Noise, labellings: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return labels of the rows that a model has seen as columns of all rows."""
    columns = {}
    for column, labels in labellings.items():
        columns[column] = pd.array([pd.NA] * run.n_rows, dtype="Int64")
        columns[column][run.reduced(noise.model).rows] = labels
    return columns


def _put(path: Path, run: FinishedRun, model: Model, columns: dict[str, Any]) -> None:
    """Write the columns of a model into a table, beside those of other models; a table without any is removed."""
    table = pd.DataFrame({"image_path": run.image_paths} | columns)
    with contextlib.suppress(OSError, ValueError, KeyError):  # there is none, or none of this run
        earlier = pd.read_csv(path, dtype=str, keep_default_na=False)
        own = [name for name in map(str, earlier) if name == model.name or name.startswith(f"{model.name}:")]
        if earlier.pop("image_path").tolist() == run.image_paths.tolist():
            table = pd.concat([table, earlier.drop(columns=own)], axis=1)
    if len(table.columns) == 1:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as file:
        table.to_csv(file, index=False, lineterminator="\n")


# Reclustering
class _Regrid(BaseModel):
    """What the YAML of a reclustering may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    grid: Annotated[Grid, BeforeValidator(listed), AfterValidator(check_grid)] | None = None
    best: Best


def _read_regrid(path: str | Path | None, best: Best) -> _Regrid:
    """Read and check the YAML; `best` says what it does not say of the choice."""
    if path is None:
        return _Regrid(best=best)
    content = read_yaml(path, "grid")
    known = ", ".join(_Regrid.model_fields)
    if not isinstance(content, dict):
        raise InputError(f"grid {path} holds {type(content).__name__}; expected keys: {known}")
    if strangers := [key for key in content if key not in _Regrid.model_fields]:
        raise InputError(f"grid {path}: unknown key {strangers[0]}; known here: {known}")
    given = content.get("best", {})
    merged = {**best.model_dump(), **given} if isinstance(given, dict) else given
    return validated(_Regrid, {**content, "best": merged}, f"grid {path}")


def _fit(run: FinishedRun, noise: _Noise, grid: Grid) -> tuple[list[Cell], list[Fitted]]:
    """Fit and score the models of a grid to the noise rows; one that fails has only an error in its row."""
    sample, scaler = noise.model.cell.sample, noise.model.cell.scaler
    cells = [Cell(sample, scaler, family, params) for family, params in expand(grid)]
    n_rows, n_columns = len(noise.rows), run.reduced(noise.model).matrix.n_features
    alike = Group(replace(sample, n_components=n_columns), scaler, tuple(cells))
    cost = CostModel(run.config).group(alike, n_rows, n_columns)
    title = f"{noise.model.name}: reclustering"
    run.reporter.say(
        f"{title} {n_rows:,} noise rows, {len(cells)} models ({_summary(grid)}): about {format_seconds(cost.seconds)}"
    )
    matrix = run.matrix(noise.model)
    run.memory.require(cost.n_bytes, f"{title} {n_rows:,} noise rows")
    X = matrix[noise.rows]
    config = run.config
    settings = Settings(config.engine, config.noise, config.silhouette_rows, config.seed, run.memory, run.backend)
    of_part = cost.fits | {"scores": cost.seconds - sum(cost.fits.values())}
    found: dict[int, Fitted] = {}
    models = [(cell.cluster_class, dict(cell.params)) for cell in cells]
    with run.reporter.track(title, cost.seconds) as task:
        for batch in fit_and_score(
            models, X, settings, advance=lambda part, share: task.advance(share * of_part[part], part)
        ):
            found |= batch
    fitted = [found[position] for position in range(len(cells))]
    for cell, one in zip(cells, fitted, strict=True):
        if one.labels is None:
            run.reporter.warn(f"{title}: {_title(cell)} failed: {one.row['error']}")
    return cells, fitted


def _score_row(run: FinishedRun, noise: _Noise, cell: Cell, fitted: Fitted) -> dict[str, object]:
    """Return the row of a score table; the model's id decides which rows these are, as a file's digest in a run."""
    row = run.store.row_of(cell, cell.model_id(noise.model.id, run.config)) | fitted.row
    return row if fitted.labels is None else row | {"labels": shorten(fitted.labels)}


def _nothing_chosen(run: FinishedRun, noise: _Noise, table: pd.DataFrame, best: Best) -> str:
    """Say why no model was chosen, and what to do."""
    scores = run.folder / SCORES
    if table["error"].notna().all():
        return f"all {len(table)} models of the grid failed, the first with {table['error'][0]} (see {scores})"
    limits = {"min_coverage", "max_largest_share", "min_clusters", "max_clusters"}
    said = ", ".join(f"{name} {value}" for name, value in best.model_dump(include=limits, exclude_none=True).items())
    text = (
        f"none of {len(table)} models of the {len(noise.rows):,} noise rows of {noise.model.name} meets the constraints"
    )
    scored = table[table[list(best.metrics)].notna().all(axis=1)]
    if len(scored):
        most = scored.iloc[int(scored["coverage"].argmax())]
        text += (
            f" ({said}): the most coverage is {most['coverage']:.3g}, with {most['n_clusters']} clusters and a largest "
            f"share of {most['largest_share']:.3g}; loosen them under best: in the YAML of the grid, or change its grid"
        )
    else:
        text += f" ({said}): none has the scores, for which two clusters are needed; give another grid"
    return f"{text} (see {scores})"


def _title(cell: Cell) -> str:
    return " ".join([cell.cluster_class, *(f"{name}={value}" for name, value in cell.params)])


def _summary(grid: Grid) -> str:
    """Return what a grid tries: ``HDBSCAN min_cluster_size 5, 10 min_samples 5``."""
    return "; ".join(
        " ".join([family, *(f"{name} {', '.join(map(str, values))}" for name, values in parameters.items())])
        for family, parameters in grid.items()
    )
