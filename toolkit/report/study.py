"""What the parts of a report share: which models are shown, and what is known of them; each computed once, if asked."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit.descriptors.cache import digest
from toolkit.errors import InputError
from toolkit.grid.selection import contenders, eligible, pareto, rank
from toolkit.naming import all_names
from toolkit.report.maps import Maps
from toolkit.score.agreement import Agreement, agreement
from toolkit.score.stability import Stability, stabilities

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.cluster.density import DensityForest
    from toolkit.grid.finished import FinishedRun, Model
    from toolkit.naming import ClusterNames

_PER_ESTIMATOR = 2  # models of each descriptor and estimator that are shown beside the finalists
_MOST_VALUES = 3  # of min_samples that are shown
_LARGEST_SHOWN = 64  # min_samples; a forest for more takes more disk than a picture is worth
_USUAL_VALUES = (8, 32)
_MOST_COMPARED = 16  # models, that still can be read on one picture
_NO_CONSTRAINTS = {"min_coverage": 0.0, "max_largest_share": 1.0, "min_clusters": 2, "max_clusters": None}
_STABILITY_VERSION = 1


class Study:
    """A run, looked at.

    Parameters
    ----------
    run : FinishedRun
    map_rows : int, optional
        See `Maps`.
    """

    def __init__(self, run: FinishedRun, *, map_rows: int | None = None) -> None:
        self.run = run
        self.maps = Maps(run, map_rows)

    # Which models
    @cached_property
    def last_stage(self) -> str:
        """The stage whose models are shown."""
        return self.run.config.stages[-1].name

    @cached_property
    def contenders(self) -> list[Model]:
        """The eligible models of the last stage, the best first, one for each labelling."""
        ids = contenders(self.run.tables[self.last_stage], self.run.config.best)["model"]
        return [self.run.models[model] for model in ids]

    @cached_property
    def ranked(self) -> list[Model]:
        """The eligible models of the last stage, the best first."""
        ids = rank(self.run.tables[self.last_stage], self.run.config.best)["model"]
        return [self.run.models[model] for model in ids]

    def best(self, descriptor: str) -> Model | None:
        """Return the best model of a descriptor; where none meets the constraints, the best regardless of them."""
        of_it = [model for model in (*self.run.finalists, *self.ranked) if model.cell.sample.descriptor == descriptor]
        if of_it:
            return of_it[0]
        free = self.run.config.best.model_copy(update=_NO_CONSTRAINTS)
        for stage in reversed(self.run.config.stages):
            table = self.run.tables[stage.name]
            ids = rank(table[table["descriptor"] == descriptor], free)["model"]
            if len(ids):
                return self.run.models[ids.iloc[0]]
        return None

    def best_matrix(self, descriptor: str) -> Model | None:
        """Return a model of a descriptor's best matrix: its best one, or the first where none has two clusters."""
        of_it = (model for model in self.run.models.values() if model.cell.sample.descriptor == descriptor)
        return self.best(descriptor) or next(of_it, None)

    def shortlist(self, descriptor: str) -> list[Model]:
        """Return the models of a descriptor that are shown: its finalists, then the two best of each estimator."""
        chosen = [model for model in self.run.finalists if model.cell.sample.descriptor == descriptor]
        shown: dict[str, int] = {}
        for model in self.contenders:
            family = model.cell.cluster_class
            if model.cell.sample.descriptor == descriptor and model not in chosen:
                shown[family] = shown.get(family, 0) + 1
                chosen += [model] if shown[family] <= _PER_ESTIMATOR else []
        best = self.best(descriptor)
        return chosen or ([best] if best else [])

    @cached_property
    def eligible(self) -> set[str]:
        """Ids of the models of all stages that meet the constraints of ``best``."""
        return {one for table in self.run.tables.values() for one in eligible(table, self.run.config.best)["model"]}

    @cached_property
    def front(self) -> set[str]:
        """Ids of the eligible models of the last stage that are on the Pareto front of their descriptor."""
        table = eligible(self.run.tables[self.last_stage], self.run.config.best)
        return set(table["model"][pareto(table)])

    @cached_property
    def names(self) -> dict[str, ClusterNames]:
        """Model id -> what names.csv says of it; nothing if it cannot be used, which is a warning."""
        try:
            return {model.id: names for model, names in all_names(self.run).items()}
        except InputError as error:
            self.run.reporter.warn(f"names are left out: {error}")
            return {}

    def names_of(self, model: Model) -> dict[int, str]:
        """Return label -> name of a model's clusters that have one."""
        return self.names[model.id].names if model.id in self.names else {}

    def has_splits(self, model: Model) -> bool:
        """Return whether names.csv divides clusters of a model."""
        return model.id in self.names and bool(self.names[model.id].split)

    # What is known of them
    @cached_property
    def stability(self) -> dict[str, Stability]:
        """Model id -> stability, of every eligible model of the last stage and every one that is shown."""
        shown = [model for name in self.run.names for model in self.shortlist(name)]
        by_matrix: dict[Any, list[Model]] = {}
        for model in dict.fromkeys([*shown, *self.ranked]):
            by_matrix.setdefault((model.cell.sample, model.cell.scaler), []).append(model)
        found: dict[str, Stability] = {}
        with self.run.reporter.track("stability: refits on random halves", len(by_matrix)) as task:
            for models in by_matrix.values():
                found |= self._stability_of(models, task.advance)
        return found

    def _stability_of(self, models: list[Model], advance: Any) -> dict[str, Stability]:
        """Return the stabilities of the models of one matrix, from the cache if they are there."""
        run = self.run

        def make(_: Path) -> dict[str, Any]:
            results = stabilities(
                run.matrix(models[0]),
                [(model.cell.cluster_class, dict(model.cell.params)) for model in models],
                [run.labels(model) for model in models],
                seed=run.config.seed,
                memory=run.memory,
                backend=run.backend,
                advance=advance,
            )
            return {model.id: result._asdict() for model, result in zip(models, results, strict=True)}

        key = digest(_STABILITY_VERSION, [model.id for model in models])
        _, content = run.keeper.cache.get("stability", key, make)
        return {
            model: Stability(
                tuple(kept["ari"]),
                {int(label): j for label, j in kept["clusters"].items()},
                kept["n_rows"],
                kept["reason"],
            )
            for model, kept in content.items()
        }

    @cached_property
    def compared(self) -> list[Model]:
        """The models whose agreement is shown, at most 16: finalists, the best of each descriptor and estimator."""
        chosen = list(self.run.finalists)
        for name in self.run.names:
            families: dict[str, Model] = {}
            for model in self.shortlist(name):
                families.setdefault(model.cell.cluster_class, model)
            chosen += families.values()
        return list(dict.fromkeys(chosen))[:_MOST_COMPARED]

    @cached_property
    def agreements(self) -> dict[tuple[str, str], Agreement]:
        """Agreement of every two of `compared`, by their ids in that order."""
        labels = [self.run.all_labels(model) for model in self.compared]
        return {
            (one.id, other.id): agreement(labels[i], labels[j])
            for i, one in enumerate(self.compared)
            for j, other in enumerate(self.compared)
            if i < j
        }

    # Density
    def density_values(self, model: Model, parameter: str) -> list[float]:
        """Return the values of a parameter that were tried on the model's matrix, else with its scaler, ascending."""
        tables = pd.concat(self.run.tables.values())
        alike = (tables["descriptor"] == model.cell.sample.descriptor) & (tables["scaler"] == model.cell.scaler)
        same = tables[[self._shares_matrix(one, model) for one in tables["model"]]]
        for table in (same, tables[alike]):
            values = {p[parameter] for p in table["cluster_class_params"] if p.get(parameter) is not None}
            if values:
                return sorted(values)
        return []

    def _shares_matrix(self, one: str, model: Model) -> bool:
        other = self.run.models.get(one)
        return other is not None and (other.cell.sample, other.cell.scaler) == (model.cell.sample, model.cell.scaler)

    def min_samples(self, model: Model, *, largest: int | None = _LARGEST_SHOWN) -> list[int]:
        """Return up to three values of `min_samples`, from 2 on, that were tried for a model's matrix, ascending.

        Parameters
        ----------
        model : Model
        largest : int, optional
            By default what is shown; None is the number of rows.
        """
        n_rows = len(self.run.reduced(model).rows)
        most = n_rows if largest is None else min(n_rows, largest)
        tried = self.density_values(model, "min_samples") or self.density_values(model, "min_cluster_size")
        values = [int(value) for value in tried if 2 <= value <= most]
        values = values or [min(value, n_rows) for value in _USUAL_VALUES]
        spread = np.linspace(0, len(values) - 1, min(_MOST_VALUES, len(values))).round().astype(int)
        return sorted({values[i] for i in spread})

    def forest(self, model: Model) -> DensityForest:
        """Return the density forest of a model's matrix for `min_samples(model)`; the last one is held."""
        key = self.run.matrix_key(model)
        if getattr(self, "_forest", (None,))[0] != key:
            self._forest: tuple[Any, ...] = (None,)
            values = self.min_samples(model)
            with self.run.reporter.track(
                f"{model.cell.sample.descriptor} {model.cell.scaler}: density forest", 1.0
            ) as task:
                self._forest = (key, self.run.forest(model, values, advance=task.advance))
        return self._forest[1]  # type: ignore[no-any-return]
