"""What a run will cost: seconds and bytes for each group of cells, before anything starts."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.cluster.forest_plan import ForestPlan
from toolkit.cluster.reference import LIST_BYTES
from toolkit.cluster.shared import SHARED_BY, largest_min_samples
from toolkit.config import PARAMETERS
from toolkit.descriptors.keeper import Sample, block_rows
from toolkit.descriptors.reduce import working_dtype
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.grid.fit import warm_up
from toolkit.grid.plan import Cell, Group, group_cells, stage_cells
from toolkit.memory import MemoryBudget, format_size

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.config import Config, Stage
    from toolkit.descriptors.loader import DataLoader

    Model = tuple[str, dict[str, Any]]  # estimator, parameters

_KERNEL_BYTES = 120 << 20  # of compiled code, until it is loaded
_SEEDING = 8  # rows that are tried for k-means++, for each cluster: 4 for each of two prototypes
_SCORING_BYTES = 24 << 20  # of tiles and sums, for each thread


@dataclass(frozen=True)
class Cost:
    """A prediction.

    Attributes
    ----------
    seconds : float
    n_bytes : int
        What is certainly needed beside what the process holds already.
    worst_bytes : int
        What may be needed: all pairs of rows within the largest eps, a share of variance that takes all components.
    fits : dict of str to float
        The seconds of each kind of fit (see `CostModel.parts`); what is left of `seconds` is scoring.
    """

    seconds: float
    n_bytes: int
    worst_bytes: int
    fits: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """The cost of one part of a run.

    Attributes
    ----------
    stage, part : str
        A part is the reduction of a descriptor, or the cells of one matrix and estimator.
    n_cells : int
        Models; in a refined stage, whose models depend on scores, at most so many.
    n_rows : int
    cost : Cost
    disk_bytes, least_disk_bytes : int
        What the reduced descriptor takes in the cache, at most and at least.
    refined : bool
    """

    stage: str
    part: str
    n_cells: int
    n_rows: int
    cost: Cost
    disk_bytes: int = 0
    least_disk_bytes: int = 0
    refined: bool = False


class CostModel:
    """Predicts seconds and bytes from sizes; the constants were measured, the machine's speed is measured now.

    The constants (benchmarks/predictions.py) are in multiples of what a float32 matrix product of the same number of
    operations takes here. They hold within a factor of about 2.

    Parameters
    ----------
    config : Config
    seconds_per_operation : float, optional
        Of a float32 matrix product; by default it is measured.
    """

    _ITERATIONS = 30
    _FACTORS = {  # noqa: RUF012
        "KMeans": 4.0, "DBSCAN": 4.0, "HDBSCAN": 80.0, "covariance": 3.0,
        "sweep": 0.7, "pairs": 0.9, "lists": 60.0, "silhouette": 10.0, "variance": 10.0,
    }  # fmt: skip
    _CELL_SECONDS = 0.02

    def __init__(self, config: Config, *, seconds_per_operation: float | None = None) -> None:
        self.config = config
        self.seconds_per_operation = _measure_product() if seconds_per_operation is None else seconds_per_operation

    def parts(self, cells: tuple[Cell, ...]) -> dict[str, tuple[Cell, ...]]:
        """Group the cells of one matrix by what computes them, under a name for it."""
        found: dict[str, list[Cell]] = {}
        for cell in cells:
            name = SHARED_BY[cell.cluster_class] if self.config.engine == "shared" else cell.cluster_class
            found.setdefault(name, []).append(cell)
        return {name: tuple(members) for name, members in found.items()}

    def reduction(self, n_rows: int, n_features: int, itemsize: int, n_components: int | float | None) -> Cost:
        """Predict the moments and the projection of one sample."""
        kept = self.columns(n_features, n_components)
        width = n_features if n_components is not None else 1
        seconds = self._FACTORS["covariance"] * self.seconds_per_operation * n_rows * n_features * (width + kept)
        block = min(block_rows(n_features), n_rows) * n_features * (2 * itemsize + 8)
        n_bytes = block + 3 * 8 * n_features * width
        return Cost(seconds, n_bytes, n_bytes)

    def group(self, group: Group, n_rows: int, n_features: int) -> Cost:
        """Predict fitting and scoring the cells of a group."""
        columns = self.columns(n_features, group.sample.n_components)
        fewest = self.columns(n_features, group.sample.n_components, least=True)
        fit = self._fit_shared if self.config.engine == "shared" else self._fit_alone
        parts = {
            name: fit(name, [(cell.cluster_class, dict(cell.params)) for cell in cells], n_rows, fewest, columns)
            for name, cells in self.parts(group.cells).items()
        }
        sample = min(n_rows, self.config.silhouette_rows)
        scoring = 2 * _SCORING_BYTES + 8 * sample * columns
        own = 0 if self.config.engine != "shared" or warm_up.cache_info().currsize else _KERNEL_BYTES
        return Cost(
            sum(part.seconds for part in parts.values()) + self._score_seconds(len(group.cells), n_rows, columns),
            own + 4 * n_rows * fewest + max(part.n_bytes for part in parts.values()),
            own + 4 * n_rows * columns + max(scoring, *(part.worst_bytes for part in parts.values())),
            {name: part.seconds for name, part in parts.items()},
        )

    @staticmethod
    def columns(n_features: int, n_components: int | float | None, *, least: bool = False) -> int:
        """Return the columns after reduction; for a share of variance, the most (or the least) that it can be."""
        if isinstance(n_components, float):
            return 1 if least else n_features
        return n_features if n_components is None else n_components

    def _fit_shared(self, name: str, models: list[Model], n_rows: int, fewest: int, columns: int) -> Cost:
        """Predict one sweep, or one forest and its cuts."""
        if name == "KMeans":
            centres = sum(params.get("n_init", 10) * params.get("n_clusters", 8) for _, params in models)
            most = max(params.get("n_clusters", 8) * params.get("n_init", 10) for _, params in models)
            operations = n_rows * columns * (self._FACTORS["sweep"] * centres * self._ITERATIONS + _SEEDING * most)
            largest = max(params.get("n_clusters", 8) for _, params in models)
            certain, worst = (n_rows * (4 * width + 64) + largest * (60 * width + 64) for width in (fewest, columns))
            return Cost(self.seconds_per_operation * operations, certain, worst)
        largest = largest_min_samples([params for _, params in models], n_rows)
        labels = 4 * n_rows * len(models)
        if not largest:
            return Cost(self._CELL_SECONDS * len(models), labels, labels)
        least, most = (ForestPlan.of(n_rows, width, largest, 0) for width in (fewest, columns))
        held = ForestPlan.of(n_rows, columns, largest, 1 << 62)
        pairs = self._FACTORS["pairs"] * n_rows * n_rows * columns
        lists = self._FACTORS["lists"] * n_rows * held.passing.n_neighbors * columns
        seconds = self.seconds_per_operation * (pairs + lists) + self._CELL_SECONDS * len(models)
        return Cost(seconds, least.n_bytes + labels, max(most.n_bytes, held.n_bytes) + labels)

    def _fit_alone(self, name: str, models: list[Model], n_rows: int, fewest: int, columns: int) -> Cost:
        """Predict fits of one estimator by scikit-learn, one after the other."""
        seconds, certain, worst = 0.0, 0, 0
        for _, params in models:
            operations: int = {
                "KMeans": params.get("n_init", 10) * self._ITERATIONS * params.get("n_clusters", 8) * columns,
                "DBSCAN": n_rows * columns,
                "HDBSCAN": n_rows * columns,
            }[name] * n_rows
            seconds += self._CELL_SECONDS + self._FACTORS[name] * self.seconds_per_operation * operations
            certain = max(certain, self._bytes_alone(name, params, n_rows, fewest)[0])
            worst = max(worst, self._bytes_alone(name, params, n_rows, columns)[1])
        return Cost(seconds, certain, worst)

    def _score_seconds(self, n_models: int, n_rows: int, columns: int) -> float:
        """Predict scoring: the distances of the silhouettes once for all models that are scored together."""
        sample = min(n_rows, self.config.silhouette_rows)
        together = 1 if self.config.engine == "shared" else n_models
        silhouettes = sample**2 * (together * columns + 3 * n_models)
        variance = self._FACTORS["variance"] * n_models * n_rows * columns
        return self.seconds_per_operation * (self._FACTORS["silhouette"] * silhouettes + variance)

    @staticmethod
    def _bytes_alone(family: str, params: dict[str, Any], n_rows: int, columns: int) -> tuple[int, int]:
        """Return what a fit certainly needs and what it may need, beside the matrix."""
        copy = 4 * n_rows * columns
        if family == "KMeans":
            return copy + 32 * n_rows, copy + 32 * n_rows
        if family == "DBSCAN":
            return LIST_BYTES * n_rows, LIST_BYTES * n_rows**2
        neighbours = min(params.get("min_samples") or params["min_cluster_size"], n_rows)
        needed = copy + n_rows * (32 * neighbours + 200)
        return needed, needed


def _measure_product() -> float:
    """Return the seconds that one multiply-add of a float32 matrix product takes on this machine."""
    size = 1024
    a = np.ones((size, size), np.float32)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return min(seconds) / size**3


def predict(config: Config, loader: DataLoader) -> list[Prediction]:
    """Predict a run, part by part.

    A refined stage depends on scores that are not there yet: it is predicted with as many of the dearest cells of the
    grid it refines as it can have.
    """
    costs = CostModel(config)
    parts: list[Prediction] = []
    reduced: set[Sample] = set()
    grid: list[Cell] = []
    for stage in config.stages:
        if stage.refine:
            groups = _refined_groups(costs, stage, stage.refine.top, grid, loader)
        else:
            grid = stage_cells(stage, loader.names, config.seed)
            groups = group_cells(grid)
        for group in groups:
            file = loader.open(group.sample.descriptor)
            n_rows = loader.n_sampled(group.sample.fraction)
            if group.sample not in reduced:
                reduced.add(group.sample)
                parts.append(_reduction(costs, stage, group.sample, loader))
            for part, cells in costs.parts(group.cells).items():
                alike = Group(group.sample, group.scaler, cells)
                name = " ".join(filter(None, (group.sample.descriptor, group.scaler, part)))
                cost = costs.group(alike, n_rows, file.n_features)
                parts.append(Prediction(stage.name, name, len(alike.cells), n_rows, cost, refined=bool(stage.refine)))
    return parts


def _reduction(costs: CostModel, stage: Stage, sample: Sample, loader: DataLoader) -> Prediction:
    file, n_rows = loader.open(sample.descriptor), loader.n_sampled(sample.fraction)
    itemsize = np.dtype(working_dtype(file.dtype) if sample.n_components is None else np.float32).itemsize
    most, least = (costs.columns(file.n_features, sample.n_components, least=least) for least in (False, True))
    return Prediction(
        stage.name,
        f"{sample.descriptor} reduction",
        0,
        n_rows,
        costs.reduction(n_rows, file.n_features, file.dtype.itemsize, sample.n_components),
        disk_bytes=itemsize * n_rows * most,
        least_disk_bytes=itemsize * n_rows * least,
        refined=bool(stage.refine),
    )


def _refined_groups(costs: CostModel, stage: Stage, top: int, grid: list[Cell], loader: DataLoader) -> list[Group]:
    """Return, for each descriptor, as many of the dearest cells of each estimator as a refined stage can have."""
    groups = []
    for name in loader.names:
        cells = [cell for cell in grid if cell.sample.descriptor == name]
        sample = Sample(name, stage.fraction, cells[0].sample.seed, cells[0].sample.n_components)
        n_rows, n_features = loader.n_sampled(stage.fraction), loader.open(name).n_features
        dearest: list[Cell] = []
        for family in dict.fromkeys(cell.cluster_class for cell in cells):
            members = [cell for cell in cells if cell.cluster_class == family]
            most = max(members, key=lambda cell: costs.group(Group(sample, "", (cell,)), n_rows, n_features).seconds)
            axes = sum(PARAMETERS[family][parameter].refined for parameter, _ in most.params)
            dearest += [most] * min(top * 3**axes, len(members) * 3**axes)
        groups.append(Group(sample, "", tuple(dearest)))
    return groups


def check_memory(parts: list[Prediction], memory: MemoryBudget) -> None:
    """Refuse what certainly cannot fit into memory.

    Raises
    ------
    MemoryBudgetError
        Naming the part and the numbers.
    """
    for part in sorted(parts, key=lambda part: part.cost.n_bytes, reverse=True)[:1]:
        try:
            memory.require(part.cost.n_bytes, f"{part.stage}: {part.part} ({part.n_rows:,} rows)")
        except MemoryBudgetError as error:
            raise MemoryBudgetError(f"the plan does not fit: {error}, or lower fraction or n_components") from error


def check_disk(parts: list[Prediction], folder: Path) -> None:
    """Refuse what certainly cannot fit onto the disk of a folder.

    Raises
    ------
    InputError
        Naming the numbers.
    """
    free, needed = shutil.disk_usage(folder).free, sum(part.least_disk_bytes for part in parts)
    if needed > free:
        raise InputError(
            f"the plan does not fit: the reduced descriptors need at least {format_size(needed)} on the disk of "
            f"{folder}, {format_size(free)} are free; free some space, or lower n_components or fraction"
        )
