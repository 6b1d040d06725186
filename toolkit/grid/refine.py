"""A finer grid around the best models of a stage."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from toolkit.config import PARAMETERS
from toolkit.errors import InputError
from toolkit.grid.plan import Cell, stage_cells
from toolkit.grid.selection import rank

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from toolkit.config import Best, Config, Stage


def cells_of(
    stage: Stage, config: Config, names: tuple[str, ...], *, cells: list[Cell], before: pd.DataFrame | None
) -> list[Cell]:
    """Return the cells of a stage; `cells` and `before` are those of the stage before and their scores, if any."""
    if stage.refine is None:
        return stage_cells(stage, names, config.seed)
    if before is None:
        raise InputError(f"stage {stage.name} is the first: there is nothing to refine")
    return refine(cells, before, top=stage.refine.top, best=config.best, fraction=stage.fraction)


def refine(cells: list[Cell], models: pd.DataFrame, *, top: int, best: Best, fraction: float) -> list[Cell]:
    """Return the best cells of a stage and their neighbours half a step away in every numeric parameter.

    Parameters
    ----------
    cells : list of Cell
        The stage's cells.
    models : DataFrame
        Their scores, row by row.
    top : int
        How many models are refined for each descriptor and estimator.
    best : Best
        What "best" means.
    fraction : float
        Share of rows of the new cells.
    """
    ranked = rank(models, best)
    chosen = ranked.groupby(["descriptor", "cluster_class"], sort=False).head(top).index
    found: dict[Cell, None] = {}
    for position in sorted(chosen):
        cell = cells[position]
        alike = [
            dict(other.params)
            for other in cells
            if (other.sample, other.scaler, other.cluster_class) == (cell.sample, cell.scaler, cell.cluster_class)
        ]
        sample = replace(cell.sample, fraction=fraction)
        for params in _around(cell.cluster_class, dict(cell.params), alike):
            found[Cell(sample, cell.scaler, cell.cluster_class, params)] = None
    return _in_order(found, cells)


def _in_order(found: Iterable[Cell], cells: list[Cell]) -> list[Cell]:
    """Order refined cells as the stage before: descriptor, scaler, estimator, then parameters."""
    first: dict[tuple[str, str, str], int] = {}
    for position, cell in enumerate(cells):
        first.setdefault((cell.sample.descriptor, cell.scaler, cell.cluster_class), position)

    def order(cell: Cell) -> tuple[Any, ...]:
        values = [(value is None, isinstance(value, str), value) for _, value in cell.params]
        return first[cell.sample.descriptor, cell.scaler, cell.cluster_class], values

    return sorted(found, key=order)


def _around(family: str, params: dict[str, Any], alike: list[dict[str, Any]]) -> list[tuple[tuple[str, Any], ...]]:
    axes = []
    for name, value in params.items():
        tried = {other[name] for other in alike if other.get(name) is not None}
        whole = PARAMETERS[family][name].kind == "integer"
        is_axis = PARAMETERS[family][name].refined and value is not None
        axes.append(_half_steps(value, sorted(tried), whole=whole) if is_axis else [value])
    combinations = [dict(zip(params, values, strict=True)) for values in itertools.product(*axes)]
    return [
        tuple(combination.items())
        for combination in combinations
        if not any(PARAMETERS[family][name].problem(value) for name, value in combination.items())
    ]


def _half_steps(value: float, tried: list[float], *, whole: bool) -> list[float]:
    """Return the value and the points halfway to the next tried ones.

    Beyond the ends the inner step is mirrored, but not below half the value. Halves of whole numbers are rounded
    outwards, so that a step of 1 reaches the next number.
    """
    position = tried.index(value)
    if len(tried) == 1:
        return [value]
    inner = value - tried[position - 1] if position else tried[1] - value
    below = tried[position - 1] if position else max(value - inner, 0.0)
    above = tried[position + 1] if position + 1 < len(tried) else value + inner
    low, high = (below + value) / 2, (value + above) / 2
    return [math.floor(low), value, math.ceil(high)] if whole else [_short(low), value, _short(high)]


def _short(value: float) -> float:
    """Return 0.15 for 0.15000000000000002."""
    return float(f"{value:.12g}")
