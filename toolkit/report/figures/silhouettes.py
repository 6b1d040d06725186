"""Silhouettes: of six algorithms against the number of clusters, and of each row of the best labelling."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from toolkit.cluster.density import DensityForest
from toolkit.cluster.estimators import kmeans_sweep
from toolkit.report.drawing import cluster_colours
from toolkit.score.partition import score_labellings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.report.study import Study

_COMPARED_ROWS = 2000
_PROFILE_ROWS = 5000
_MOST_PROFILES = 40
_CLUSTERS = tuple(range(2, 16))
_EPS_PERCENTILES = (5, 10, 20, 30, 40, 50, 60, 70, 80)
_SIZES = (5, 10, 20, 40, 80)
_BY_NUMBER = ("KMeans", "agglomerative", "Birch")  # algorithms that are told the number of clusters
_SCORED = ("n_clusters", "coverage", "silhouette_score")


@dataclass(frozen=True)
class _Try:
    algorithm: str
    labels: np.ndarray


def algorithms(study: Study, descriptor: str) -> tuple[Figure, str] | None:
    """Draw the silhouette against the number of clusters for six algorithms, on a stated sample of the best matrix."""
    best = study.best(descriptor)
    if best is None:
        return None
    n_rows = len(study.run.reduced(best).rows)
    X = study.run.matrix(best)[study.maps.sample(study.run.reduced(best).rows, _COMPARED_ROWS)]
    if len(X) < 2 * _CLUSTERS[0]:
        return None
    with threadpool_limits(1), warnings.catch_warnings():  # thousands of small products: threads would wait
        warnings.simplefilter("ignore")  # fewer distinct rows than clusters: the picture shows how many were found
        tries = list(_tries(X.astype(np.float64), study.run.config.seed))
    scores = score_labellings(
        X, [one.labels for one in tries], silhouette_rows=len(X), seed=study.run.config.seed, memory=study.run.memory
    )
    figure = Figure(figsize=(9, 5), layout="constrained")
    ax = figure.subplots()
    for colour, name in zip(sns.color_palette("bright"), dict.fromkeys(one.algorithm for one in tries), strict=False):
        points = [
            [score[key] for key in _SCORED] for one, score in zip(tries, scores, strict=True) if one.algorithm == name
        ]
        found = np.array([point for point in points if point[-1] is not None], float).reshape(-1, 3)
        if name in _BY_NUMBER:
            ax.plot(found[:, 0], found[:, 2], "o-", ms=4, color=colour, label=name)
        else:
            ax.scatter(
                found[:, 0], found[:, 2], s=10 + 120 * found[:, 1], color=colour, alpha=0.55, linewidths=0, label=name
            )
    if max((score["n_clusters"] for score in scores), default=0) > 3 * _CLUSTERS[-1]:
        ax.set_xscale("log")
    ax.set(xlabel="clusters", ylabel="silhouette of the clustered rows")
    ax.grid(alpha=0.25)
    ax.legend(fontsize=9, markerscale=0.8)
    ax.set_title(f"{descriptor} {best.cell.scaler}: silhouette of six algorithms", fontsize=11)
    of = f"{len(X):,} rows" if len(X) == n_rows else f"{len(X):,} random of {n_rows:,} rows"
    caption = (
        f"Fitted and scored exactly on {of}: 2 to 15 clusters; DBSCAN, HDBSCAN, OPTICS with min_samples "
        f"{', '.join(map(str, _sizes(len(X))))} and eps over the distances to such neighbours. These leave noise out: "
        "the larger the dot, the more rows are in clusters."
    )
    return figure, caption


def _tries(X: np.ndarray, seed: int) -> Iterator[_Try]:
    """Yield labellings of a small matrix by each algorithm, over its own range of parameters."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from sklearn.cluster import OPTICS, Birch

    numbers = [k for k in _CLUSTERS if k < len(X)]
    for model in kmeans_sweep(X, numbers, n_init=3, random_state=seed).values():
        yield _Try("KMeans", model.labels_)
    tree = linkage(X, "ward")
    for k in numbers:
        yield _Try("agglomerative", fcluster(tree, k, "maxclust") - 1)
    sizes = _sizes(len(X))
    forest = DensityForest(sizes).fit(X)
    nearest = forest.core_distances(min_samples=min(2, sizes[-1]))
    birch = Birch(threshold=max(float(np.median(nearest)) / 2, 1e-9), n_clusters=None).fit(X)
    for k in numbers:
        if k <= len(birch.subcluster_centers_):
            birch.set_params(n_clusters=k).partial_fit()  # groups the same subclusters again
            yield _Try("Birch", birch.predict(X))
    for size in sizes:
        radii = np.unique(np.percentile(forest.core_distances(min_samples=size), _EPS_PERCENTILES))
        for labels in forest.dbscan_many(radii[radii > 0].tolist(), size):
            yield _Try("DBSCAN", labels)
        yield _Try("HDBSCAN", forest.hdbscan(max(size, 2), size))
        with np.errstate(divide="ignore", invalid="ignore"):  # its ratios of reachabilities, where rows are equal
            yield _Try("OPTICS", OPTICS(min_samples=max(size, 2)).fit(X).labels_)


def _sizes(n_rows: int) -> list[int]:
    return [size for size in _SIZES if size <= n_rows // 4] or [2]


def profile(study: Study, descriptor: str) -> tuple[Figure, str] | None:
    """Draw the silhouette of each row of the best labelling, cluster by cluster (Rousseeuw 1987)."""
    from sklearn.metrics import silhouette_samples

    best = study.best(descriptor)
    if best is None:
        return None
    labels = study.run.labels(best)
    rows = study.run.reduced(best).rows
    clustered = np.flatnonzero(labels >= 0)
    sampled = clustered[study.maps.sample(rows[clustered], _PROFILE_ROWS)]
    found = labels[sampled]
    names, sizes = np.unique(found, return_counts=True)
    if not 2 <= len(names) < len(sampled):
        return None
    values = silhouette_samples(study.run.matrix(best)[sampled].astype(np.float64), found)
    shown = np.sort(names[np.argsort(-sizes, kind="stable")[:_MOST_PROFILES]])
    figure = Figure(figsize=(8, float(np.clip(1.5 + 0.42 * len(shown), 4, 14))), layout="constrained")
    ax = figure.subplots()
    top = 0
    for colour, name in zip(cluster_colours(len(shown)), shown, strict=True):
        bars = np.sort(values[found == name])
        ax.fill_betweenx(np.arange(top, top + len(bars)), 0, bars, color=colour, linewidth=0, step="mid")
        ax.text(
            -0.02,
            top + len(bars) / 2,
            f"{name}",
            ha="right",
            va="center",
            fontsize=8,
            transform=ax.get_yaxis_transform(),
        )
        top += len(bars) + max(3, len(sampled) // 200)
    ax.axvline(values.mean(), color="0.3", linestyle="--", linewidth=1)
    ax.text(values.mean(), -len(sampled) // 100, f" mean {values.mean():.3f}", fontsize=8, va="bottom")
    ax.set(yticks=[], xlabel="silhouette", xlim=(min(-0.05, 1.05 * float(values.min())), 1.05 * float(values.max())))
    ax.set_ylabel("cluster", labelpad=24)
    ax.invert_yaxis()
    ax.set_title(f"{best.name}: silhouette of each row", fontsize=10)
    of = f"{len(sampled):,} clustered rows" if len(sampled) == len(clustered) else (
        f"{len(sampled):,} random of {len(clustered):,} clustered rows"
    )  # fmt: skip
    more = f"; the {len(shown)} largest of {len(names)} clusters" if len(shown) < len(names) else ""
    return figure, f"{of}{more}. Rows below 0 are nearer to another cluster."
