"""Cuts of the density forest of a matrix: which eps to start with, and the labellings that the what-if sliders show."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.cluster.labelling import UNSEEN
from toolkit.report.html.data import Cut, WhatIf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.grid.finished import Model
    from toolkit.report.study import Study

_RADII = 24  # values of eps beside the grid's own
_SPREAD = (1, 95)  # percentiles of the core distances between which they lie
_AT_ONCE = 4  # labellings of all rows that are held
_SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # of clusters
_MOST_SIZES = 8
_LARGE = 0.01  # share of the rows that a cluster has which counts


@dataclass(frozen=True)
class Suggestion:
    """The eps of those tried that a first DBSCAN may take, and what it gives; see `suggest_eps`."""

    eps: float
    n_clusters: int
    n_large: int
    coverage: float


def suggest_eps(study: Study, model: Model, min_samples: int) -> Suggestion | None:
    """Return the eps with the most clusters of at least 1 % of the rows, of equal ones that with the most rows in them.

    Of those that meet the constraints of ``best`` on coverage and the largest cluster; None if none of those tried does
    with two such clusters.
    """
    best, found = study.run.config.best, []
    for eps, labels in _dbscans(study, model, radii(study, model), min_samples):
        sizes = np.bincount(labels[labels >= 0]) if (labels >= 0).any() else np.zeros(1)
        coverage = sizes.sum() / len(labels)
        n_large = int(np.count_nonzero(sizes >= _LARGE * len(labels)))
        fits = coverage >= best.min_coverage and sizes.max() <= best.max_largest_share * sizes.sum()
        if fits and n_large >= 2:
            found.append(Suggestion(eps, len(sizes), n_large, float(coverage)))
    return max(found, key=lambda one: (one.n_large, one.coverage), default=None)


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
        clustered = labels[labels >= 0]
        largest = np.bincount(clustered).max() / len(clustered) if len(clustered) else 0.0
        return Cut(settings, int(labels.max() + 1), len(clustered) / len(labels), shown, float(largest))

    eps_values, sizes = radii(study, model), _sizes(study, model)
    with study.run.reporter.track(f"{model.cell.sample.descriptor}: what-if cuts", len(values)) as task:
        dbscan: dict[tuple[float, ...], Cut] = {}
        hdbscan: dict[tuple[float, ...], Cut] = {}
        for value in values:
            for eps, labels in _dbscans(study, model, eps_values, int(value)):
                dbscan[eps, value] = cut(labels, {"eps": eps, "min_samples": value})
            for size in sizes:
                labels = forest.hdbscan(int(size), int(value))
                hdbscan[size, value] = cut(labels, {"min_cluster_size": size, "min_samples": value})
            task.advance(1)
    what = f"Cuts of the density forest of all {forest.n_samples:,} rows, exact."
    descriptor, scaler = model.cell.sample.descriptor, model.cell.scaler
    suggested = suggest_eps(study, model, int(values[0]))
    found = []
    for family, name, first, cuts in (
        ("DBSCAN", "eps", eps_values, dbscan),
        ("HDBSCAN", "min_cluster_size", sizes, hdbscan),
    ):
        if first:
            settings = list(itertools.product(first, values))
            sliders = {name: first, "min_samples": values}
            listed = [cuts[setting] for setting in settings]
            begin = _start(listed, study.run.config.best.min_coverage)
            if family == "DBSCAN" and suggested:
                begin = settings.index((suggested.eps, values[0]))
            found.append(WhatIf(descriptor, scaler, family, sliders, listed, what, begin))
    return found


def _start(cuts: list[Cut], coverage: float) -> int:
    """Return the cut that shows something: of those with the most coverage up to what is asked for, the first."""
    return max(range(len(cuts)), key=lambda i: (min(cuts[i].coverage, coverage), cuts[i].n_clusters, -i))


def _dbscans(study: Study, model: Model, values: list[float], min_samples: int) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (eps, labels); a few at a time, so that not all labels of all rows are held at once."""
    for start in range(0, len(values), _AT_ONCE):
        some = values[start : start + _AT_ONCE]
        yield from zip(some, study.forest(model).dbscan_many(some, min_samples), strict=True)


def radii(study: Study, model: Model) -> list[float]:
    """Return values of eps, ascending: where core distances lie, and the grid's own as far as they cut something."""
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
