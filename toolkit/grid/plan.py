"""What a run will compute: its cells, grouped by the matrix they share."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.descriptors.cache import digest
from toolkit.descriptors.keeper import Sample
from toolkit.errors import InputError

if TYPE_CHECKING:
    from toolkit.config import Config, Grid, Stage
    from toolkit.descriptors.loader import DataLoader


_VERSION = 4  # of what a result means; raise it when its computation changes


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
        what = [*self.sample.identity(), self.scaler, self.cluster_class, sorted(self.params)]
        return digest(_VERSION, fingerprint, what, config.engine, config.noise, config.silhouette_rows, config.seed)


@dataclass(frozen=True)
class Group:
    """The cells of one stage that share a matrix (descriptor, rows, reduction, scaler)."""

    sample: Sample
    scaler: str
    cells: tuple[Cell, ...]


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
        per_descriptor = stage.n_components if isinstance(stage.n_components, dict) else dict.fromkeys(loader.names)
        named = set(stage.grid_per_descriptor) | set(per_descriptor)
        if strangers := sorted(named - set(loader.names)):
            raise InputError(f"stage {stage.name} names descriptor {strangers[0]!r}; known: {', '.join(loader.names)}")
        if missing := [name for name in loader.names if name not in per_descriptor]:
            raise InputError(f"stage {stage.name}: n_components says nothing of {missing[0]}; give it one, or null")
        n_rows = math.ceil(stage.fraction * loader.n_rows)
        for name in loader.names:
            n_components, n_features = stage.components_of(name), loader.open(name).n_features
            if isinstance(n_components, int) and n_components > min(n_rows, n_features):
                raise InputError(
                    f"stage {stage.name}: n_components of {name} is {n_components}; allowed: at most "
                    f"{min(n_rows, n_features)} ({n_rows:,} rows, {n_features} features)"
                )
