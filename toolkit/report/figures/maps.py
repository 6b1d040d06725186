"""The models that are shown, on maps of their matrices."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from toolkit.cluster.labelling import UNSEEN
from toolkit.report.drawing import draw_map, matched_colours
from toolkit.report.figures.labellings import COLUMNS, panel_title

if TYPE_CHECKING:
    from toolkit.report.study import Study

_SIDE = 5.0  # inches
_DENSE_SHARE = 0.8  # of the points
_DENSE_NEIGHBORS = 15


def _draw(study: Study, descriptor: str, *, method: str, n_components: int, dense: bool) -> tuple[Figure, str] | None:
    """Draw the models that are shown, all on the map of the best one's matrix, in colours that match."""
    models, best = study.shortlist(descriptor), study.best(descriptor)
    if best is None:
        return None
    places = study.maps.get(best, method, n_components)
    inside = _is_dense(places.points) if dense else np.ones(len(places.points), bool)
    labellings = [study.run.all_labels(model)[places.rows] for model in models]
    columns = min(len(models), COLUMNS)
    rows = math.ceil(len(models) / columns)
    figure = Figure(figsize=(_SIDE * columns, 0.6 + _SIDE * rows), layout="constrained")
    for i, (model, labels, colours) in enumerate(zip(models, labellings, matched_colours(labellings), strict=True)):
        seen = (labels != UNSEEN) & inside
        ax = figure.add_subplot(rows, columns, i + 1, projection="3d" if n_components == 3 else None)
        draw_map(ax, places.points[seen], labels[seen], method=places.method, numbered=True, colours=colours)
        ax.set_title(panel_title(model), fontsize=9)
    figure.suptitle(f"{descriptor}: {places.method}, coloured by cluster", fontsize=12)
    where = f"; only the {inside.mean():.0%} of them where the map is densest" if dense else ""
    return figure, (
        f"{places.note}{where}. Every model on this one map; clusters that share most rows with one of the first model "
        "have its colour; noise is grey."
    )


def _is_dense(points: np.ndarray) -> np.ndarray:
    """Return which points are among the four fifths with the nearest neighbours on the map."""
    from sklearn.neighbors import NearestNeighbors

    n_neighbors = min(_DENSE_NEIGHBORS, len(points))
    distances = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(points)[0][:, -1]
    return np.asarray(distances <= np.quantile(distances, _DENSE_SHARE))


umap_2 = partial(_draw, method="umap", n_components=2, dense=False)
umap_2_dense = partial(_draw, method="umap", n_components=2, dense=True)
umap_3 = partial(_draw, method="umap", n_components=3, dense=False)
tsne_2 = partial(_draw, method="tsne", n_components=2, dense=False)
pca_2 = partial(_draw, method="pca", n_components=2, dense=False)
pca_3 = partial(_draw, method="pca", n_components=3, dense=False)
