"""What a run will compute: its cells, grouped by the matrix they share, and what they will cost."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.cluster.reference import LIST_BYTES
from toolkit.descriptors.cache import digest
from toolkit.descriptors.keeper import Sample
from toolkit.errors import InputError

if TYPE_CHECKING:
    from toolkit.config import Config, Grid, Stage
    from toolkit.descriptors.loader import DataLoader


@dataclass(frozen=True)
class Cell:
    """One model of a grid: a matrix, an estimator and its parameters."""

    sample: Sample
    scaler: str
    cluster_class: str
    params: tuple[tuple[str, Any], ...]

    def model_id(self, fingerprint: str, config: Config) -> str:
        """Return the name under which the result is kept: everything that decides it, hashed.

        The stage is not part of it, so a model that two stages share is fitted once.
        """
        rows = "all" if self.sample.fraction == 1 else [self.sample.fraction, self.sample.seed]
        what = [rows, self.sample.n_components, self.scaler, self.cluster_class, sorted(self.params)]
        return digest(fingerprint, what, config.engine, config.noise, config.silhouette_rows, config.seed)


@dataclass(frozen=True)
class Group:
    """The cells of one stage that share a matrix (descriptor, rows, reduction, scaler)."""

    sample: Sample
    scaler: str
    cells: tuple[Cell, ...]


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


def expand(grid: Grid) -> list[tuple[str, tuple[tuple[str, Any], ...]]]:
    """Return (estimator, parameters) for every combination of a grid, in its order and without repetitions."""
    found: dict[tuple[str, tuple[tuple[str, Any], ...]], None] = {}
    for family, parameters in grid.items():
        for values in itertools.product(*parameters.values()):
            found[family, tuple(zip(parameters, values, strict=True))] = None
    return list(found)


def stage_cells(stage: Stage, names: tuple[str, ...], seed: int) -> list[Cell]:
    """Return the cells of a stage that states its grid."""
    return [
        Cell(Sample(name, stage.fraction, seed, stage.components_of(name)), scaler, family, params)
        for name in names
        for scaler in stage.scalers
        for family, params in expand(stage.grid_of(name))
    ]


def group_cells(cells: list[Cell]) -> list[Group]:
    """Put the cells that share a matrix together, keeping their order."""
    groups: dict[tuple[Sample, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.sample, cell.scaler), []).append(cell)
    return [Group(sample, scaler, tuple(members)) for (sample, scaler), members in groups.items()]


def check_descriptors(config: Config, loader: DataLoader) -> None:
    """Check what the configuration says about descriptors against those that are there.

    Raises
    ------
    InputError
        For a descriptor that does not exist or a number of components that it cannot have.
    """
    for stage in config.stages:
        named = set(stage.grid_per_descriptor) | set(stage.n_components if isinstance(stage.n_components, dict) else ())
        if strangers := sorted(named - set(loader.names)):
            raise InputError(
                f"stage {stage.name} names descriptor {strangers[0]!r}; known: {', '.join(loader.names)}"
            )
        n_rows = math.ceil(stage.fraction * loader.n_rows)
        for name in loader.names:
            n_components, n_features = stage.components_of(name), loader.open(name).n_features
            if isinstance(n_components, int) and n_components > min(n_rows, n_features):
                raise InputError(
                    f"stage {stage.name}: n_components of {name} is {n_components}; allowed: at most "
                    f"{min(n_rows, n_features)} ({n_rows:,} rows, {n_features} features)"
                )


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

    def reduction(self, n_rows: int, n_features: int, itemsize: int, n_components: float | None) -> Cost:
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
        matrix = 4 * n_rows * columns
        seconds, n_bytes, worst = 0.0, 0, 0
        for cell in group.cells:
            params = dict(cell.params)
            seconds += self._fit_seconds(cell.cluster_class, params, n_rows, columns) + self._score_seconds(n_rows, columns)
            certain, possible = self._fit_bytes(cell.cluster_class, params, n_rows, matrix)
            n_bytes, worst = max(n_bytes, certain), max(worst, possible)
        sample = min(n_rows, self.config.silhouette_rows)
        scoring = 2 * 8 * sample * columns + (256 << 20 if sample else 0)
        return Cost(seconds, matrix + max(n_bytes, scoring), matrix + max(worst, scoring))

    @staticmethod
    def columns(n_features: int, n_components: float | None) -> int:
        """Return the columns after reduction; for a share of variance, the most that it can be."""
        return n_components if isinstance(n_components, int) else n_features

    def _fit_seconds(self, family: str, params: dict[str, Any], n_rows: int, columns: int) -> float:
        operations = {
            "KMeans": params.get("n_init", 10) * self._KMEANS_ITERATIONS * params.get("n_clusters", 8) * columns,
            "DBSCAN": n_rows * columns,
            "HDBSCAN": n_rows * columns,
        }[family] * n_rows
        return self._CELL_SECONDS + self._FACTORS[family] * self.seconds_per_operation * operations

    def _score_seconds(self, n_rows: int, columns: int) -> float:
        sample = min(n_rows, self.config.silhouette_rows)
        return self._FACTORS["silhouette"] * self.seconds_per_operation * (sample**2 + 20 * n_rows) * columns

    @staticmethod
    def _fit_bytes(family: str, params: dict[str, Any], n_rows: int, matrix: int) -> tuple[int, int]:
        """Return what a fit certainly needs and what it may need."""
        if family == "KMeans":
            return matrix + 32 * n_rows, matrix + 32 * n_rows
        if family == "DBSCAN":
            least = LIST_BYTES * n_rows
            return least, LIST_BYTES * n_rows**2
        neighbours = params.get("min_samples") or params["min_cluster_size"]
        needed = matrix + n_rows * (16 * neighbours + 200)
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
