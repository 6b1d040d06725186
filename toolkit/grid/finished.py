"""A finished run, opened again: to be looked at, to be named, to label new images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit.backend.device import choose_backend
from toolkit.cluster.labelling import UNSEEN
from toolkit.config import parse_config
from toolkit.descriptors.keeper import DataKeeper, Reduced
from toolkit.errors import InputError
from toolkit.grid.fitter import open_loader
from toolkit.grid.folder import is_locked, read_run
from toolkit.grid.forests import Forests, forest_key
from toolkit.grid.refine import cells_of
from toolkit.grid.selection import finalists
from toolkit.grid.store import Store
from toolkit.grid.table import model_name, score_table
from toolkit.memory import MemoryBudget
from toolkit.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolkit.cluster.density import DensityForest
    from toolkit.config import Config
    from toolkit.descriptors.keeper import Sample
    from toolkit.grid.plan import Cell


@dataclass(frozen=True, eq=False)  # one object per model: compared and hashed as such
class Model:
    """A model of a finished run.

    Attributes
    ----------
    id : str
        The hash of everything that decides it.
    name : str
        For people: ``osnet_norm_DBSCAN_eps=1_min_samples=16``; in a run with fractions not unique.
    stage : str
        The last one that has it.
    cell : Cell
        Its matrix, estimator and parameters.
    scores : dict
        Its row of the score table.
    """

    id: str
    name: str
    stage: str
    cell: Cell
    scores: dict[str, Any]


class FinishedRun:
    """A finished run: its models, labels, matrices and forests, each opened or made again when it is asked for.

    Parameters
    ----------
    folder : path
        What `toolkit run` wrote.
    memory : str, int, MemoryBudget or None
        As in `MemoryBudget.resolve`.
    device : {"auto", "cpu", "cuda"}
    reporter : Reporter, optional

    Attributes
    ----------
    config : Config
        Paths in it are as seen from here.
    tables : dict of str to DataFrame
        The score table of each stage.
    models : dict of str to Model
        By id; the last stage's first, in the order of its table. Failed ones are not here.
    finalists : list of Model
        What ``best`` chose, the best of all first.
    image_paths : ndarray (n_rows,) of str
        Row numbers where the run has no image paths.

    Raises
    ------
    InputError
        If there is no run, it is not finished, or its descriptors are gone or not those it was made from.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        memory: str | int | MemoryBudget | None = None,
        device: str = "auto",
        reporter: Reporter | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.record = read_run(self.folder)
        if self.record["state"] != "complete":
            state = "being run" if is_locked(self.folder) else "not finished"
            raise InputError(f"the run in {self.folder} is {state}; `toolkit status {self.folder}` says how far it is")
        self.memory = MemoryBudget.resolve(memory)
        self.reporter = reporter or Reporter(quiet=True)
        self.config = _seen_from_here(parse_config(self.record["config"]), self.record)
        self.device = device
        self.backend = choose_backend(device)[0]
        before = self.record.get("device", {}).get("name", self.backend.name)
        if before != self.backend.name:
            self.reporter.warn(
                f"{self.folder} was run on {before}, this is {self.backend.name}: descriptors are reduced again, and "
                f"their last bits may differ; --device {before} makes them the same"
            )
        self.loader = open_loader(self.config, self.memory)
        self.keeper = DataKeeper(
            loader=self.loader, cache=self.folder / "cache", reporter=self.reporter, device=self.backend
        )
        self.fingerprints = {name: self.keeper.cache.fingerprint(self.loader.open(name).path) for name in self.names}
        if changed := [name for name in self.names if self.fingerprints[name] != self.record["inputs"].get(name)]:
            raise InputError(
                f"descriptor {changed[0]} is not the file that {self.folder} was made from: its content has changed; "
                f"restore {self.loader.open(changed[0]).path}, or run again"
            )
        self.store = Store(self.folder / "models")
        self._forests = Forests(self.keeper.cache.folder, self.memory, self.reporter, self.backend)
        self._reduced: dict[Sample, Reduced] = {}
        self._held: tuple[Any, np.ndarray] | None = None
        self.tables, self.models = self._replay()
        chosen = finalists(self.tables[self.config.stages[-1].name], self.config.best)
        self.finalists = [self.models[model] for model in chosen["model"]]

    @property
    def names(self) -> tuple[str, ...]:
        """The descriptors."""
        return self.loader.names

    @property
    def n_rows(self) -> int:
        """Rows of each descriptor file."""
        return self.loader.n_rows

    @cached_property
    def image_paths(self) -> np.ndarray:  # noqa: D102 (see the class)
        paths = self.loader.image_paths
        return np.arange(self.n_rows).astype(str) if paths is None else paths

    def _replay(self) -> tuple[dict[str, pd.DataFrame], dict[str, Model]]:
        """Plan the stages again from the scores that are there."""
        tables: dict[str, pd.DataFrame] = {}
        models: dict[str, Model] = {}
        cells: list[Cell] = []
        before = None
        for stage in self.config.stages:
            cells = cells_of(stage, self.config, self.names, cells=cells, before=before)
            ids = [cell.model_id(self.fingerprints[cell.sample.descriptor], self.config) for cell in cells]
            errors = self._errors(stage.name)
            rows = [
                self.store.row_of(cell, one) | {"error": errors.get(one)} for cell, one in zip(cells, ids, strict=True)
            ]
            before = tables[stage.name] = score_table(rows)
            if lost := [one for one in ids if one not in self.store.rows and one not in errors]:
                raise InputError(
                    f"{len(lost)} of {len(ids)} models of stage {stage.name} in {self.folder} are missing or damaged; "
                    f"`toolkit run` with the same configuration fits them again"
                )
            found = {
                one: Model(one, model_name(table_row), stage.name, cell, dict(table_row))
                for one, cell, (_, table_row) in zip(ids, cells, before.iterrows(), strict=True)
                if one in self.store.rows
            }
            models = found | {one: model for one, model in models.items() if one not in found}
        return tables, models

    def _errors(self, stage: str) -> dict[str, str]:
        """Return the errors of a stage's failed models, which only the CSV has."""
        try:
            table = pd.read_csv(self.folder / f"{stage}_scores.csv", usecols=["model", "error"], dtype=str)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder / f'{stage}_scores.csv'} cannot be read: {error}; run again") from error
        return dict(table.dropna().itertuples(index=False))

    def model(self, name: str | None = None) -> Model:
        """Return a model by its id (or how it begins) or its name; the best of all without one.

        Raises
        ------
        InputError
            If there is none of that name, naming some that there are.
        """
        if name is None:
            if not self.finalists:
                raise InputError(f"no model in {self.folder} meets the constraints of best; name a model")
            return self.finalists[0]
        found = [model for model in self.models.values() if model.name == name]
        found = found or [model for model in self.models.values() if len(name) >= 6 and model.id.startswith(name)]
        if found:
            return found[0]
        known = ", ".join(dict.fromkeys(model.name for model in (*self.finalists, *self.models.values())))
        raise InputError(f"unknown model {name!r}; known: {known[:600]} (and the column model of the score tables)")

    # What a model was fitted on, and what it says
    def reduced(self, model: Model) -> Reduced:
        """Return the reduced descriptor that the model was fitted on; its `rows` say which rows these are."""
        sample = model.cell.sample
        if sample not in self._reduced:  # opening checks the digest of the whole matrix: once is enough
            self._reduced[sample] = self.keeper.reduce(sample)
        return self._reduced[sample]

    def matrix(self, model: Model) -> np.ndarray:
        """Return the scaled matrix that the model was fitted on, (n_fitted, n_components) float32; the last is held."""
        key = (model.cell.sample, model.cell.scaler)
        if self._held is None or self._held[0] != key:
            self._held = None
            self._held = (key, self.keeper.scale(*key))
        return self._held[1]

    def matrix_key(self, model: Model) -> str:
        """Return what the model's matrix is kept under: everything that decides it, hashed."""
        sample = model.cell.sample
        return forest_key(self.fingerprints[sample.descriptor], sample, model.cell.scaler, self.backend)

    def labels(self, model: Model) -> np.ndarray:
        """Return the labels of the rows that the model was fitted on, (n_fitted,) of a signed integer type."""
        return self.store.labels(model.id)

    def all_labels(self, model: Model) -> np.ndarray:
        """Return the label of every row of the run, (n_rows,) int32; -1 is noise, -2 a row the model has not seen."""
        labels = np.full(self.n_rows, UNSEEN, np.int32)
        labels[self.reduced(model).rows] = self.labels(model)
        return labels

    def centres(self, model: Model) -> np.ndarray | None:
        """Return the centres of a KMeans model, (n_clusters, n_components) float64; None of the others."""
        return self.store.centres(model.id)

    def forest(
        self, model: Model, min_samples: list[int], *, advance: Callable[[float], None] = lambda _: None
    ) -> DensityForest:
        """Return the density forest of the model's matrix for these `min_samples`."""
        return self._forests.get(self.matrix_key(model), self.matrix(model), sorted(min_samples), advance=advance)


def _seen_from_here(config: Config, record: dict[str, Any]) -> Config:
    """Let relative paths start where the run was started; the images, which decide no result, are recorded apart.

    The descriptors are those of the run, whatever the folder holds by now.
    """
    asked, folder = config.descriptors, Path(record.get("working_folder", "."))
    paths: dict[str, Any] = {"folder": folder / asked.folder, "names": list(record["inputs"])}
    if asked.image_paths is not None:
        paths["image_paths"] = folder / asked.image_paths
    if record.get("images") is not None:
        paths["images"] = folder / record["images"]
    return config.model_copy(update={"descriptors": asked.model_copy(update=paths)})
