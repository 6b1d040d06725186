"""What-if: labellings of a grid of cuts through the density forest of a matrix, made beforehand for the sliders."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from toolkit.report.html.data import UNSEEN, Cut, WhatIf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.grid.finished import Model
    from toolkit.report.study import Study

_RADII = 16  # values of eps beside the grid's own
_SPREAD = (2, 98)  # percentiles of the core distances between which they lie
_SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # of clusters
_MOST_SIZES = 8


def what_ifs(study: Study, model: Model, page_rows: np.ndarray) -> list[WhatIf]:
    """Cut the forest of a model's matrix for every position of the sliders.

    Parameters
    ----------
    study : Study
    model : Model
    page_rows : ndarray (n_page_rows,) int64
        Rows of the run whose labels are wanted; clusters and coverage are those of all rows.

    Returns
    -------
    list of WhatIf
        For DBSCAN (`eps`, `min_samples`) and for HDBSCAN (`min_cluster_size`, `min_samples`).
    """
    forest, rows = study.forest(model), study.run.reduced(model).rows
    values: list[float] = [value for value in study.min_samples(model) if value <= forest.n_samples]
    if not values or forest.n_samples < 2:
        return []
    where = np.clip(np.searchsorted(rows, page_rows), 0, len(rows) - 1)
    unseen = rows[where] != page_rows

    def cut(labels: np.ndarray, settings: dict[str, float]) -> Cut:
        shown = labels[where].astype(np.int32)
        shown[unseen] = UNSEEN
        return Cut(settings, int(labels.max() + 1), float((labels >= 0).mean()), shown)

    radii, sizes = _radii(study, model), _sizes(study, model)
    with study.run.reporter.track(f"{model.cell.sample.descriptor}: what-if cuts", len(values)) as task:
        dbscan: dict[tuple[float, ...], Cut] = {}
        hdbscan: dict[tuple[float, ...], Cut] = {}
        for value in values:
            for eps, labels in _dbscans(study, model, radii, int(value)):
                dbscan[eps, value] = cut(labels, {"eps": eps, "min_samples": value})
            for size in sizes:
                labels = forest.hdbscan(int(size), int(value))
                hdbscan[size, value] = cut(labels, {"min_cluster_size": size, "min_samples": value})
            task.advance(1)
    what = f"Cuts of the density forest of all {forest.n_samples:,} rows, exact."
    descriptor, scaler = model.cell.sample.descriptor, model.cell.scaler
    return [
        WhatIf(
            descriptor,
            scaler,
            family,
            {name: first, "min_samples": values},
            [cuts[setting] for setting in itertools.product(first, values)],
            what,
        )
        for family, name, first, cuts in (
            ("DBSCAN", "eps", radii, dbscan),
            ("HDBSCAN", "min_cluster_size", sizes, hdbscan),
        )
        if first
    ]


def _dbscans(study: Study, model: Model, radii: list[float], min_samples: int) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (eps, labels); a few at a time, so that not all labels of all rows are held at once."""
    for start in range(0, len(radii), 4):
        some = radii[start : start + 4]
        yield from zip(some, study.forest(model).dbscan_many(some, min_samples), strict=True)


def _radii(study: Study, model: Model) -> list[float]:
    """Return the values of eps: where core distances lie, and the grid's own as far as they cut something."""
    values = study.min_samples(model)
    forest = study.forest(model)
    low = np.percentile(forest.core_distances(min_samples=values[0]), _SPREAD[0])
    high = np.percentile(forest.core_distances(min_samples=values[-1]), _SPREAD[1])
    steps = np.linspace(low, high, _RADII) if np.isfinite(high) and high > low else np.array([high])
    short = {float(f"{value:.3g}") for value in steps if np.isfinite(value) and value > 0}
    own = {float(eps) for eps in study.density_values(model, "eps") if low / 2 <= eps <= 2 * high}
    return sorted(short | own)


def _sizes(study: Study, model: Model) -> list[float]:
    n_rows = study.forest(model).n_samples
    own = [int(value) for value in study.density_values(model, "min_cluster_size")]
    tried = sorted({value for value in (*own, *_SIZES) if 2 <= value <= max(2, n_rows // 4)})
    spread = np.linspace(0, len(tried) - 1, min(_MOST_SIZES, len(tried))).round().astype(int)
    return [float(tried[i]) for i in dict.fromkeys(spread.tolist())]
