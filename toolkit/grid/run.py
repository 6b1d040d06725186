"""The main job: stages of a grid search, from descriptor files to the best labelling, resumable at any moment."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.descriptors.keeper import DataKeeper, Reduced, Sample
from toolkit.descriptors.loader import DataLoader
from toolkit.errors import InputError
from toolkit.grid.fit import Settings, fit_and_score, warm_up
from toolkit.grid.folder import RunFolder
from toolkit.grid.forests import Forests, forest_key
from toolkit.grid.labelling import (
    CENTRES,
    TRAIN_ASSIGNMENTS,
    write_assignments,
    write_best,
    write_centres,
    write_quarantine,
)
from toolkit.grid.plan import Cell, Group, check_descriptors, group_cells
from toolkit.grid.predict import Cost, CostModel, check_disk, check_memory, predict
from toolkit.grid.refine import cells_of
from toolkit.grid.selection import finalists
from toolkit.grid.store import Store
from toolkit.grid.table import export_scores, model_name, score_table, shorten
from toolkit.memory import peak_bytes, reset_peak
from toolkit.report.tables import plan_summary
from toolkit.score.partition import cluster_centroids

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.backend.base import Backend
    from toolkit.config import Config, Stage
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter, Task


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
    backend : Backend
        The device.
    reason : str
        Why that one, for ``run.json``.
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
        backend: Backend,
        reason: str,
        reporter: Reporter,
        strict: bool = False,
    ) -> None:
        self.config, self.memory, self.reporter, self.strict = config, memory, reporter, strict
        self.backend, self.reason = backend, reason
        self.loader = open_loader(config, memory)
        self.costs = CostModel(config)
        self.settings = Settings(
            engine=config.engine,
            noise=config.noise,
            silhouette_rows=config.silhouette_rows,
            seed=config.seed,
            memory=memory,
            backend=backend,
        )
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
            self.folder.check(self.config.identity())
            if self.config.engine == "shared":
                warm_up()
            parts = predict(self.config, self.loader)
            check_memory(parts, self.memory)
            if not (self.out / "cache").exists():
                check_disk(parts, self.out)
            self.reporter.say(plan_summary(parts, self.memory))
            self.keeper = DataKeeper(
                loader=self.loader,
                cache=self.out / "cache",
                strict=self.strict,
                reporter=self.reporter,
                device=self.backend,
            )
            hash_of = self.keeper.cache.fingerprint
            self.fingerprints = {name: hash_of(self.loader.open(name).path) for name in self.loader.names}
            for change in self.folder.claim(self.config.identity(), self.fingerprints):
                self.reporter.warn(f"the finished models were fitted with another version: {change}")
            self.forests = Forests(self.keeper.cache.folder, self.memory, self.reporter, self.backend)
            self.store = Store(self.out / "models")
            self.store.prepare()
            device = self.backend.describe() | {"reason": self.reason}
            images = self.config.descriptors.images or self.folder.record.get("images")
            self.folder.describe(
                memory_limit=self.memory.limit,
                memory_source=self.memory.source,
                device=device,
                images=None if images is None else str(images),
            )
            models: dict[str, pd.DataFrame] = {}
            cells: list[Cell] = []
            for stage in self.config.stages:
                before = next(reversed(models.values())) if models else None
                cells = cells_of(stage, self.config, self.loader.names, cells=cells, before=before)
                models[stage.name] = self._stage(stage, cells)
            chosen = finalists(models[self.config.stages[-1].name], self.config.best)
            self._write_ends(chosen, {self._id(cell): cell for cell in cells})
            self.folder.finish()
        return Outcome(self.out, chosen, models, self.n_fitted)

    def _id(self, cell: Cell) -> str:
        return cell.model_id(self.fingerprints[cell.sample.descriptor], self.config)

    # One stage
    def _stage(self, stage: Stage, cells: list[Cell]) -> pd.DataFrame:
        started = time.monotonic()
        reset_peak()
        self.backend.reset_peak()
        errors: dict[str, str] = {}
        pending = [cell for cell in cells if self._id(cell) not in self.store.rows]
        if not cells:
            self.reporter.warn(f"stage {stage.name}: no model of the stage before meets the constraints of best")
        self.reporter.say(f"{stage.name}: {len(cells)} models, {len(cells) - len(pending)} already finished")
        self._reduce_all(cells)
        groups = group_cells(pending)
        seconds = [self._cost(group).seconds for group in groups]
        with self.reporter.track(stage.name, sum(seconds)) as task:
            for group in groups:
                self._fit_group(group, task, errors)
        if cells and len(errors) == len(cells):
            first = next(iter(errors.values()))
            raise InputError(f"all {len(cells)} models of stage {stage.name} failed, the first with {first}")
        table = score_table(
            [self.store.row_of(cell, self._id(cell)) | {"error": errors.get(self._id(cell))} for cell in cells]
        )
        export_scores(table, self.out / f"{stage.name}_scores.csv")
        self.folder.add_stage(
            stage.name,
            fitted_now=len(pending) - len(errors),
            seconds=time.monotonic() - started,
            models=len(cells),
            failed=len(errors),
            predicted_seconds=round(sum(seconds), 3),
            peak_bytes=peak_bytes(),
            device_peak_bytes=self.backend.peak_bytes(),
            device_shrunk=self.backend.shrunk(),
        )
        return table

    def _cost(self, group: Group) -> Cost:
        """Predict a group with the number of components that it turned out to have."""
        n_columns = self._reduced[group.sample].matrix.n_features
        known = Group(replace(group.sample, n_components=n_columns), group.scaler, group.cells)
        return self.costs.group(known, len(self._reduced[group.sample].rows), n_columns)

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

    def _fit_group(self, group: Group, task: Task, errors: dict[str, str]) -> None:
        what = f"{group.sample.descriptor} {group.scaler} ({len(self._reduced[group.sample].rows):,} rows)"
        cost = self._cost(group)
        self.memory.require(cost.n_bytes, what)
        X = self.keeper.scale(group.sample, group.scaler)
        key = forest_key(self.fingerprints[group.sample.descriptor], group.sample, group.scaler, self.backend)
        models = [(cell.cluster_class, dict(cell.params)) for cell in group.cells]
        of_part = cost.fits | {"scores": cost.seconds - sum(cost.fits.values())}
        batches = fit_and_score(
            models,
            X,
            self.settings,
            forest_of=lambda min_samples, advance: self.forests.get(key, X, min_samples, advance=advance),
            advance=lambda part, share: task.advance(share * of_part[part], f"{what} {part}"),
        )
        for batch in batches:
            finished, centres = {}, {}
            for position, fitted in batch.items():
                cell = group.cells[position]
                name = f"{cell.sample.descriptor} {cell.scaler} {cell.cluster_class} {dict(cell.params)}"
                if fitted.labels is None:
                    errors[self._id(cell)] = fitted.row["error"]
                    self.reporter.warn(f"{name} failed: {fitted.row['error']}")
                else:
                    row = fitted.row | {"labels": shorten(fitted.labels)}
                    finished[self._id(cell)] = (row, fitted.labels)
                    if fitted.centres is not None:
                        centres[self._id(cell)] = fitted.centres
            if finished:
                self.store.commit(finished, centres)
            self.n_fitted += len(finished)

    # The end of a run
    def _image_paths(self) -> np.ndarray:
        paths = self.loader.image_paths
        return np.arange(self.loader.n_rows).astype(str) if paths is None else paths

    def _write_ends(self, chosen: pd.DataFrame, cells: dict[str, Cell]) -> None:
        """Write the labels of the finalists, what new images are assigned by, and what was left out."""
        paths = self._image_paths()
        labellings = {
            model_name(model): (
                self._reduced[cells[model["model"]].sample].rows,
                self.store.labels(model["model"]),
            )
            for _, model in chosen.iterrows()
        }
        write_best(self.out / "best_clusterization.csv", paths, labellings)
        write_quarantine(self.out / "quarantine.csv", paths, self._reduced)
        for name in (CENTRES, TRAIN_ASSIGNMENTS):  # of an earlier state, perhaps
            (self.out / name).unlink(missing_ok=True)
        if len(chosen):
            first = chosen.iloc[0]["model"]
            rows, labels = next(iter(labellings.values()))
            write_centres(self.out / CENTRES, self._centres(first, cells[first], labels))
            write_assignments(self.out / TRAIN_ASSIGNMENTS, paths, rows, labels)

    def _centres(self, model: str, cell: Cell, labels: np.ndarray) -> np.ndarray:
        """Return the centres of a model, or, where it has none, the centroids of its clusters, in their order."""
        centres = self.store.centres(model)
        if centres is not None:
            return centres
        return cluster_centroids(self.keeper.scale(cell.sample, cell.scaler), labels, memory=self.memory)[1]


def open_loader(config: Config, memory: MemoryBudget) -> DataLoader:
    """Open the descriptors of a configuration and check what it says about them, image paths included."""
    asked = config.descriptors
    loader = DataLoader(asked.names, asked.folder, asked.image_paths, memory=memory)
    check_descriptors(config, loader)
    if loader.image_paths is None and asked.image_paths is not None:
        raise InputError(f"image paths {asked.image_paths} are empty")
    return loader
