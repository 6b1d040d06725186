"""The models that are shown, on maps of their matrices."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from toolkit.grid.finished import UNSEEN
from toolkit.report.drawing import draw_map
from toolkit.report.figures.labellings import COLUMNS, panel_title

if TYPE_CHECKING:
    from toolkit.report.study import Study

_SIDE = 5.0  # inches
_DENSE = (1, 99)  # percentiles between which the dense part lies, in each dimension


def _draw(study: Study, descriptor: str, *, method: str, n_components: int, dense: bool) -> tuple[Figure, str] | None:
    """Draw the models that are shown, all on the map of the best one's matrix."""
    models, best = study.shortlist(descriptor), study.best(descriptor)
    if best is None:
        return None
    places = study.maps.get(best, method, n_components)
    ranges = None
    if dense:
        low, high = np.percentile(places.points, _DENSE, axis=0)
        ranges = list(zip(low, high, strict=True))
    columns = min(len(models), COLUMNS)
    rows = math.ceil(len(models) / columns)
    figure = Figure(figsize=(_SIDE * columns, 0.6 + _SIDE * rows), layout="constrained")
    for i, model in enumerate(models):
        labels = study.run.all_labels(model)[places.rows]
        seen = labels != UNSEEN
        ax = figure.add_subplot(rows, columns, i + 1, projection="3d" if n_components == 3 else None)
        draw_map(ax, places.points[seen], labels[seen], method=places.method, ranges=ranges, numbered=n_components == 2)
        ax.set_title(panel_title(model), fontsize=9)
    figure.suptitle(f"{descriptor}: {places.method}, coloured by cluster", fontsize=12)
    where = f", within the {_DENSE[0]}st to {_DENSE[1]}th percentile of each axis" if dense else ""
    return figure, f"{places.note}{where}; every model on this one map. Noise is grey."


umap_2 = partial(_draw, method="umap", n_components=2, dense=False)
umap_2_dense = partial(_draw, method="umap", n_components=2, dense=True)
umap_3 = partial(_draw, method="umap", n_components=3, dense=False)
tsne_2 = partial(_draw, method="tsne", n_components=2, dense=False)
pca_2 = partial(_draw, method="pca", n_components=2, dense=False)
pca_3 = partial(_draw, method="pca", n_components=3, dense=False)
