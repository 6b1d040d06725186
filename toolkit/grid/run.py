"""The main job: stages of a grid search, from descriptor files to the best labelling, resumable at any moment."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit.atomic import atomic_file
from toolkit.cluster.reference import fit_labels
from toolkit.descriptors.keeper import DataKeeper, Reduced, Sample
from toolkit.descriptors.loader import DataLoader
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.grid.folder import RunFolder
from toolkit.grid.plan import Cell, Group, check_descriptors, group_cells, stage_cells
from toolkit.grid.predict import CostModel
from toolkit.grid.refine import refine
from toolkit.grid.selection import finalists
from toolkit.grid.store import Store
from toolkit.grid.table import export_scores, model_name, score_table, shorten
from toolkit.memory import peak_bytes, reset_peak
from toolkit.score.partition import score_labels

if TYPE_CHECKING:
    from toolkit.config import Config, Stage
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter, Task

_ROW_FACTS = {"exactness": "exact", "precision": "float32", "tie_rule": "scikit-learn", "device": "cpu"}


@dataclass(frozen=True)
class Outcome:
    """What a run ends with.

    Attributes
    ----------
    folder : Path
    finalists : DataFrame
        The best model of each descriptor, the best of all first.
    models : dict of str to DataFrame
        The score table of each stage.
    n_fitted : int
        Models that this process fitted; the others were there.
    """

    folder: Path
    finalists: pd.DataFrame
    models: dict[str, pd.DataFrame]
    n_fitted: int


class Run:
    """One run of a configuration into one folder.

    Parameters
    ----------
    config : Config
    out : Path
        Made if it is missing; goes on where it stopped if it holds an unfinished run of the same configuration.
    memory : MemoryBudget
    device : dict
        The device that was chosen and why, for ``run.json``.
    reporter : Reporter
    strict : bool
        Make rows with NaN or inf an error.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        *,
        memory: MemoryBudget,
        device: dict[str, str],
        reporter: Reporter,
        strict: bool = False,
    ) -> None:
        self.config, self.memory, self.device, self.reporter, self.strict = config, memory, device, reporter, strict
        self.loader = open_loader(config, memory)
        self.costs = CostModel(config)
        self.out = Path(out)
        self.n_fitted = 0
        self._reduced: dict[Sample, Reduced] = {}

    def execute(self) -> Outcome:
        """Run every stage, write all tables and the best labelling.

        Raises
        ------
        InputError
            If the input or the folder cannot be used. Finished models are kept whatever happens.
        """
        with RunFolder(self.out) as self.folder:
            self.keeper = DataKeeper(
                loader=self.loader, cache=self.out / "cache", strict=self.strict, reporter=self.reporter
            )
            self.fingerprints = {
                name: self.keeper.cache.fingerprint(self.loader.open(name).path) for name in self.loader.names
            }
            self.folder.claim(self.config.identity(), self.fingerprints)
            self.store = Store(self.out / "models")
            self.store.prepare()
            self.folder.describe(memory_limit=self.memory.limit, memory_source=self.memory.source, device=self.device)
            models: dict[str, pd.DataFrame] = {}
            cells: list[Cell] = []
            for stage in self.config.stages:
                if stage.refine:
                    before = next(reversed(models.values()))
                    cells = refine(cells, before, top=stage.refine.top, best=self.config.best, fraction=stage.fraction)
                else:
                    cells = stage_cells(stage, self.loader.names, self.config.seed)
                models[stage.name] = self._stage(stage, cells)
            chosen = finalists(models[self.config.stages[-1].name], self.config.best)
            self._write_best(chosen, {self._id(cell): cell for cell in cells})
            self._write_quarantine()
            self.folder.finish()
        return Outcome(self.out, chosen, models, self.n_fitted)

    def _id(self, cell: Cell) -> str:
        return cell.model_id(self.fingerprints[cell.sample.descriptor], self.config)

    # One stage
    def _stage(self, stage: Stage, cells: list[Cell]) -> pd.DataFrame:
        started = time.monotonic()
        reset_peak()
        errors: dict[str, str] = {}
        pending = [cell for cell in cells if self._id(cell) not in self.store.rows]
        groups = group_cells(pending)
        seconds = self._predict(groups)
        if cells:
            self.reporter.say(f"{stage.name}: {len(cells)} models, {len(cells) - len(pending)} already finished")
        else:
            self.reporter.warn(
                f"stage {stage.name} has no models: none of the stage before meets the constraints of best"
            )
        self._reduce_all(cells)
        with self.reporter.track(stage.name, sum(seconds)) as task:
            for group, predicted in zip(groups, seconds, strict=True):
                self._fit_group(group, predicted, task, errors)
        rows = [self._row(cell, errors) for cell in cells]
        table = score_table(rows)
        export_scores(table, self.out / f"{stage.name}_scores.csv")
        self.folder.add_stage(
            stage.name,
            models=len(cells),
            fitted_now=len(pending) - len(errors),
            failed=len(errors),
            seconds=round(time.monotonic() - started, 3),
            predicted_seconds=round(sum(seconds), 3),
            peak_bytes=peak_bytes(),
        )
        return table

    def _predict(self, groups: list[Group]) -> list[float]:
        seconds = []
        for group in groups:
            n_rows = self._n_sampled(group.sample)
            seconds.append(
                self.costs.group(group, n_rows, self.loader.open(group.sample.descriptor).n_features).seconds
            )
        return seconds

    def _n_sampled(self, sample: Sample) -> int:
        rows = self.loader.rows(sample.fraction, sample.seed)
        return self.loader.n_rows if rows is None else len(rows)

    def _reduce_all(self, cells: list[Cell]) -> None:
        """Reduce every descriptor of a stage first, so that bad input is found before hours of fitting."""
        for sample in dict.fromkeys(cell.sample for cell in cells):
            if sample in self._reduced:
                continue
            reduced = self._reduced[sample] = self.keeper.reduce(sample)
            if len(reduced.bad_rows):
                self.reporter.warn(
                    f"descriptor {sample.descriptor}: {len(reduced.bad_rows):,} rows hold NaN or inf and are left "
                    f"out; they are listed in {self.out / 'quarantine.csv'}"
                )

    def _fit_group(self, group: Group, predicted: float, task: Task, errors: dict[str, str]) -> None:
        X = self.keeper.scale(group.sample, group.scaler)
        for cell in group.cells:
            name = f"{cell.sample.descriptor} {cell.scaler} {cell.cluster_class} {dict(cell.params)}"
            try:
                self._fit(cell, X)
            except (MemoryBudgetError, MemoryError, ValueError) as error:
                errors[self._id(cell)] = " ".join(str(error).split()) or type(error).__name__
                self.reporter.warn(f"{name} failed: {errors[self._id(cell)]}")
            task.advance(predicted / len(group.cells), name)

    def _fit(self, cell: Cell, X: np.ndarray) -> None:
        start = time.perf_counter()
        labels = fit_labels(cell.cluster_class, dict(cell.params), X, seed=self.config.seed, memory=self.memory)
        fitted = time.perf_counter()
        row = score_labels(
            X,
            labels,
            noise=self.config.noise,
            silhouette_rows=self.config.silhouette_rows,
            seed=self.config.seed,
        )
        row |= {
            "labels": shorten(labels),
            "n_rows": len(X),
            "n_components": X.shape[1],
            "engine": self.config.engine,
        } | _ROW_FACTS
        row |= {"fit_seconds": round(fitted - start, 6), "score_seconds": round(time.perf_counter() - fitted, 6)}
        self.store.commit({self._id(cell): (row, labels)})
        self.n_fitted += 1

    def _row(self, cell: Cell, errors: dict[str, str]) -> dict[str, Any]:
        model = self._id(cell)
        row = {
            "descriptor": cell.sample.descriptor,
            "scaler": cell.scaler,
            "cluster_class": cell.cluster_class,
            "cluster_class_params": dict(cell.params),
            "model": model,
            "error": errors.get(model),
        }
        if model in self.store.rows:
            row |= self.store.rows[model]
        return row

    # The end of a run
    def _image_paths(self) -> np.ndarray:
        paths = self.loader.image_paths
        return np.arange(self.loader.n_rows).astype(str) if paths is None else paths

    def _write_best(self, chosen: pd.DataFrame, cells: dict[str, Cell]) -> None:
        """Write the image path and one label column per finalist; a row that a model did not see is empty."""
        table = pd.DataFrame({"image_path": self._image_paths()})
        for _, model in chosen.iterrows():
            labels = pd.array([pd.NA] * len(table), dtype="Int64")
            labels[self._reduced[cells[model["model"]].sample].rows] = self.store.labels(model["model"])
            table[model_name(model)] = labels
        with atomic_file(self.out / "best_clusterization.csv") as file:
            table.to_csv(file, index=False, lineterminator="\n")

    def _write_quarantine(self) -> None:
        paths = self._image_paths()
        bad = {(sample.descriptor, int(row)) for sample, reduced in self._reduced.items() for row in reduced.bad_rows}
        rows = [(name, row, paths[row], "NaN or inf") for name, row in sorted(bad)]
        if rows:
            with atomic_file(self.out / "quarantine.csv") as file:
                pd.DataFrame(rows, columns=["descriptor", "row", "image_path", "reason"]).to_csv(file, index=False)


def open_loader(config: Config, memory: MemoryBudget) -> DataLoader:
    """Open the descriptors of a configuration and check what it says about them, image paths included."""
    asked = config.descriptors
    loader = DataLoader(asked.names, asked.folder, asked.image_paths, memory=memory)
    check_descriptors(config, loader)
    if loader.image_paths is None and asked.image_paths is not None:
        raise InputError(f"image paths {asked.image_paths} are empty")
    return loader
