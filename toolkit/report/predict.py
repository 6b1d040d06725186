"""What a report will cost, said before it starts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from toolkit.grid.plan import Cell, Group
from toolkit.grid.predict import Cost, CostModel
from toolkit.memory import format_size
from toolkit.progress import format_seconds
from toolkit.report.maps import LIBRARY_BYTES, METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from toolkit.grid.finished import Model
    from toolkit.memory import MemoryBudget
    from toolkit.report.study import Study

_LOADING_SECONDS = 20.0  # of what draws and maps, compilation included (measured)
_DRAWING_SECONDS = 8.0  # of the pictures of a descriptor that are no maps
_ROW_SECONDS = 5e-5  # of everything that reads all rows: refits, members, labels, agreement
_MAPS = (("umap", 2), ("tsne", 1), ("pca", 2))  # how many of each are drawn


def predict_report(study: Study) -> Cost:
    """Predict a whole report whose maps and forests are all made anew; calibrated on 2 processors, for the CPU."""
    costs = CostModel(study.run.config)
    seconds, n_bytes = _LOADING_SECONDS, 0
    for name in study.run.names:
        model = study.best(name)
        if model is None:
            continue
        reduced = study.run.reduced(model)
        n_rows, n_features = reduced.matrix.n_rows, reduced.matrix.n_features
        forest = predict_forest(study, model, study.min_samples(model)[-1], costs)
        mapped = {method: min(n_rows, study.maps.most_rows or METHODS[method].most) for method, _ in _MAPS}
        seconds += forest.seconds + _DRAWING_SECONDS + _ROW_SECONDS * n_rows
        seconds += sum(number * METHODS[method].row_seconds * mapped[method] for method, number in _MAPS)
        mapping = max(rows * (METHODS[method].row_bytes + 8 * n_features) for method, rows in mapped.items())
        n_bytes = max(n_bytes, 4 * n_rows * n_features + max(forest.worst_bytes, mapping))
    return Cost(seconds, n_bytes + LIBRARY_BYTES, n_bytes + LIBRARY_BYTES)


def predict_forest(study: Study, model: Model, largest: int, costs: CostModel) -> Cost:
    """Predict the density forest of a model's matrix for `min_samples` up to the largest, its matrix included."""
    reduced, cell = study.run.reduced(model), model.cell
    params = (("min_cluster_size", max(largest, 2)), ("min_samples", largest))
    sample = replace(cell.sample, n_components=reduced.matrix.n_features)
    group = Group(sample, cell.scaler, (Cell(sample, cell.scaler, "HDBSCAN", params),))
    return costs.group(group, reduced.matrix.n_rows, reduced.matrix.n_features)


def predict_forests(study: Study, models: Iterable[Model], largest: Callable[[Model], int]) -> Cost:
    """Predict the forests of several models' matrices, one after the other, for `min_samples` up to the largest."""
    costs = CostModel(study.run.config)
    found = [predict_forest(study, model, largest(model), costs) for model in models]
    n_bytes = max((cost.worst_bytes for cost in found), default=0)
    return Cost(sum(cost.seconds for cost in found), n_bytes, n_bytes)


def cost_text(cost: Cost, memory: MemoryBudget) -> str:
    """Say in a few words what something will take."""
    took = f"about {format_seconds(cost.seconds)}, {format_size(cost.n_bytes)} of memory beside the program itself"
    return f"{took} (budget {format_size(memory.limit)}, {memory.source})"


def predicted_text(study: Study) -> str:
    """Say in one line what a report will take."""
    run = study.run
    return f"report: {len(run.names)} x {run.n_rows:,} rows, {cost_text(predict_report(study), run.memory)}"
