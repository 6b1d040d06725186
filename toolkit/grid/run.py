"""The main job: stages of a grid search, from descriptor files to the best labelling, resumable at any moment."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import InputError
from toolkit.grid.fit import warm_up
from toolkit.grid.fitter import Fitter
from toolkit.grid.folder import RunFolder
from toolkit.grid.labelling import (
    CENTRES,
    TRAIN_ASSIGNMENTS,
    write_assignments,
    write_best,
    write_centres,
    write_quarantine,
)
from toolkit.grid.plan import Cell, group_cells
from toolkit.grid.predict import check_disk, check_memory, predict
from toolkit.grid.refine import cells_of
from toolkit.grid.selection import finalists
from toolkit.grid.table import export_scores, model_name, score_table
from toolkit.memory import peak_bytes, reset_peak
from toolkit.report.tables import plan_summary
from toolkit.score.partition import cluster_centroids

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.backend.base import Backend
    from toolkit.config import Config, Stage
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter


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
        self.config, self.memory, self.reporter, self.out = config, memory, reporter, Path(out)
        self.backend, self.reason = backend, reason
        self.fitter = Fitter(config, self.out, memory=memory, backend=backend, reporter=reporter, strict=strict)
        self.loader = self.fitter.loader

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
            self.fitter.open()
            for change in self.folder.claim(self.config.identity(), self.fitter.fingerprints):
                self.reporter.warn(f"the finished models were fitted with another version: {change}")
            self.store = self.fitter.store
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
            self._write_ends(chosen, {self.fitter.model_id(cell): cell for cell in cells})
            self.folder.finish()
        return Outcome(self.out, chosen, models, self.fitter.n_fitted)

    # One stage
    def _stage(self, stage: Stage, cells: list[Cell]) -> pd.DataFrame:
        started = time.monotonic()
        reset_peak()
        self.backend.reset_peak()
        fitter = self.fitter
        pending = fitter.pending(cells)
        if not cells:
            self.reporter.warn(f"stage {stage.name}: no model of the stage before meets the constraints of best")
        self.reporter.say(f"{stage.name}: {len(cells)} models, {len(cells) - len(pending)} already finished")
        for cell in cells:  # first, so that bad input is found before hours of fitting
            fitter.reduced(cell.sample)
        groups = group_cells(pending)
        seconds = [fitter.cost(group).seconds for group in groups]
        with self.reporter.track(stage.name, sum(seconds)) as task:
            for group in groups:
                fitter.fit(group, task)
        models = [fitter.model_id(cell) for cell in cells]
        errors = {model: fitter.errors[model] for model in models if model in fitter.errors}
        if cells and len(errors) == len(cells):
            first = next(iter(errors.values()))
            raise InputError(f"all {len(cells)} models of stage {stage.name} failed, the first with {first}")
        table = score_table(
            [
                self.store.row_of(cell, model) | {"error": errors.get(model)}
                for cell, model in zip(cells, models, strict=True)
            ]
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

    # The end of a run
    def _image_paths(self) -> np.ndarray:
        paths = self.loader.image_paths
        return np.arange(self.loader.n_rows).astype(str) if paths is None else paths

    def _write_ends(self, chosen: pd.DataFrame, cells: dict[str, Cell]) -> None:
        """Write the labels of the finalists, what new images are assigned by, and what was left out."""
        paths = self._image_paths()
        labellings = {
            model_name(model): (
                self.fitter.reduced(cells[model["model"]].sample).rows,
                self.store.labels(model["model"]),
            )
            for _, model in chosen.iterrows()
        }
        write_best(self.out / "best_clusterization.csv", paths, labellings)
        write_quarantine(self.out / "quarantine.csv", paths, self.fitter.reductions)
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
        return cluster_centroids(self.fitter.scaled(cell), labels, memory=self.memory)[1]
