"""What a run will cost: seconds and bytes for each group of cells, before anything starts."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.cluster.reference import LIST_BYTES
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.grid.plan import Group, group_cells, stage_cells
from toolkit.memory import MemoryBudget, format_size
from toolkit.score.partition import SILHOUETTE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.config import Config
    from toolkit.descriptors.keeper import Sample
    from toolkit.descriptors.loader import DataLoader


@dataclass(frozen=True)
class Cost:
    """A prediction for one group of cells.

    Attributes
    ----------
    seconds : float
    n_bytes : int
        What is certainly needed beside what the process holds already.
    worst_bytes : int
        What may be needed: all pairs of rows within the largest eps.
    """

    seconds: float
    n_bytes: int
    worst_bytes: int


class CostModel:
    """Predicts seconds and bytes from sizes; the constants were measured, the machine's speed is measured now.

    Constants (benchmarks/results/reference_costs.md) are in multiples of what a float32 matrix product of the same
    number of operations takes here.
    """

    _KMEANS_ITERATIONS = 30
    _FACTORS = {"KMeans": 4.0, "DBSCAN": 4.0, "HDBSCAN": 80.0, "silhouette": 20.0, "covariance": 3.0}  # noqa: RUF012
    _CELL_SECONDS = 0.01

    def __init__(self, config: Config) -> None:
        self.config = config
        self.seconds_per_operation = _measure_product()

    def reduction(self, n_rows: int, n_features: int, itemsize: int, n_components: int | float | None) -> Cost:
        """Predict the moments and the projection of one sample."""
        kept = self.columns(n_features, n_components)
        covariance = n_rows * n_features**2 if n_components is not None else n_rows * n_features
        seconds = self._FACTORS["covariance"] * self.seconds_per_operation * (covariance + n_rows * n_features * kept)
        block = 2048 * n_features * (2 * itemsize + 8)
        n_bytes = 3 * block + (6 * 8 * n_features**2 if n_components is not None else 0)
        return Cost(seconds, n_bytes, n_bytes)

    def group(self, group: Group, n_rows: int, n_features: int) -> Cost:
        """Predict fitting and scoring the cells of a group."""
        columns = self.columns(n_features, group.sample.n_components)
        fewest = self.columns(n_features, group.sample.n_components, least=True)
        seconds, n_bytes, worst = 0.0, 0, 0
        for cell in group.cells:
            params = dict(cell.params)
            seconds += self._fit_seconds(cell.cluster_class, params, n_rows, columns) + self._score_seconds(
                n_rows, columns
            )
            family = cell.cluster_class
            n_bytes = max(n_bytes, self._fit_bytes(family, params, n_rows, fewest)[0])
            worst = max(worst, self._fit_bytes(family, params, n_rows, columns)[1])
        sample = min(n_rows, self.config.silhouette_rows)
        distances = 3 * min(8 * sample**2, SILHOUETTE_BYTES)
        return Cost(
            seconds,
            4 * n_rows * fewest + max(n_bytes, 16 * sample * fewest + distances),
            4 * n_rows * columns + max(worst, 16 * sample * columns + distances),
        )

    @staticmethod
    def columns(n_features: int, n_components: int | float | None, *, least: bool = False) -> int:
        """Return the columns after reduction; for a share of variance, the most (or the least) that it can be."""
        if isinstance(n_components, float):
            return 1 if least else n_features
        return n_features if n_components is None else n_components

    def _fit_seconds(self, family: str, params: dict[str, Any], n_rows: int, columns: int) -> float:
        operations: int = {
            "KMeans": params.get("n_init", 10) * self._KMEANS_ITERATIONS * params.get("n_clusters", 8) * columns,
            "DBSCAN": n_rows * columns,
            "HDBSCAN": n_rows * columns,
        }[family] * n_rows
        return self._CELL_SECONDS + self._FACTORS[family] * self.seconds_per_operation * operations

    def _score_seconds(self, n_rows: int, columns: int) -> float:
        sample = min(n_rows, self.config.silhouette_rows)
        return self._FACTORS["silhouette"] * self.seconds_per_operation * (sample**2 + 20 * n_rows) * columns

    @staticmethod
    def _fit_bytes(family: str, params: dict[str, Any], n_rows: int, columns: int) -> tuple[int, int]:
        """Return what a fit certainly needs and what it may need, beside the matrix."""
        copy = 4 * n_rows * columns
        if family == "KMeans":
            return copy + 32 * n_rows, copy + 32 * n_rows
        if family == "DBSCAN":
            return LIST_BYTES * n_rows, LIST_BYTES * n_rows**2
        neighbours = params.get("min_samples") or params["min_cluster_size"]
        needed = copy + n_rows * (16 * neighbours + 200)
        return needed, needed


def _measure_product() -> float:
    """Return the seconds that one multiply-add of a float32 matrix product takes on this machine."""
    size = 1024
    a = np.ones((size, size), np.float32)
    a @ a
    start = time.perf_counter()
    for _ in range(3):
        a @ a
    return (time.perf_counter() - start) / 3 / size**3


def stage_costs(config: Config, loader: DataLoader) -> list[dict[str, Any]]:
    """Predict a run, group of cells by group: one dict per group, with its name, rows, bytes, seconds.

    A refined stage depends on scores that are not there yet, so it is listed with the number of models that it has at
    most and without a prediction.
    """
    costs = CostModel(config)
    listed: list[dict[str, Any]] = []
    reduced: set[Sample] = set()
    for stage in config.stages:
        if stage.refine:
            listed.append({"stage": stage.name, "group": f"finer grid around the top {stage.refine.top}"})
            continue
        for group in group_cells(stage_cells(stage, loader.names, config.seed)):
            file = loader.open(group.sample.descriptor)
            rows = loader.rows(group.sample.fraction, group.sample.seed)
            n_rows = loader.n_rows if rows is None else len(rows)
            where = {"stage": stage.name, "rows": n_rows, "disk": 0}
            if group.sample not in reduced:
                reduced.add(group.sample)
                cost = costs.reduction(n_rows, file.n_features, file.dtype.itemsize, group.sample.n_components)
                columns = costs.columns(file.n_features, group.sample.n_components)
                listed.append(
                    where
                    | {"group": f"{group.sample.descriptor} reduction", "cells": 0, "disk": 4 * n_rows * columns}
                    | asdict(cost)
                )
            for family in dict.fromkeys(cell.cluster_class for cell in group.cells):
                part = Group(group.sample, group.scaler, tuple(c for c in group.cells if c.cluster_class == family))
                name = f"{group.sample.descriptor} {group.scaler} {family}"
                cost = costs.group(part, n_rows, file.n_features)
                listed.append(where | {"group": name, "cells": len(part.cells)} | asdict(cost))
    return listed


def check_fits(costs: list[dict[str, Any]], memory: MemoryBudget, out: Path | None = None) -> None:
    """Refuse a run that certainly cannot fit into memory, or (with `out`) onto the disk.

    Raises
    ------
    InputError
        Naming the group and the numbers.
    """
    known = [cost for cost in costs if "n_bytes" in cost]
    if not known:
        return
    largest = max(known, key=lambda cost: int(cost["n_bytes"]))
    try:
        memory.require(largest["n_bytes"], f"{largest['stage']}: {largest['group']} ({largest['rows']:,} rows)")
    except MemoryBudgetError as error:
        raise MemoryBudgetError(f"the plan does not fit: {error}") from error
    if out is None:
        return
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free, needed = shutil.disk_usage(there).free, sum(cost["disk"] for cost in known)
    if needed > free:
        raise InputError(
            f"the plan does not fit: the reduced descriptors need up to {format_size(needed)} on the disk of {out}, "
            f"{format_size(free)} are free; free some space, or lower n_components or fraction"
        )
