"""What the density forest shows: k-distance curves with a suggestion for eps, and the condensed tree of HDBSCAN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from toolkit.cluster.trees import select_clusters
from toolkit.report.cuts import radii, suggest_eps
from toolkit.report.drawing import cluster_colours

if TYPE_CHECKING:
    from toolkit.cluster.trees import CondensedTree
    from toolkit.grid.finished import Model
    from toolkit.report.study import Study

_CURVE_POINTS = 2000
_SMALLEST_SHARE = 0.002  # of the rows; smaller clusters would be lines
_STEPS = 200  # of the outline of a cluster


def k_distance(study: Study, descriptor: str) -> tuple[Figure, str] | None:
    """Draw the sorted distance of every row to its k-th neighbour, the grid's eps, and an eps to start with."""
    best = study.best(descriptor)
    if best is None:
        return None
    forest = study.forest(best)
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    ax = figure.subplots()
    highest = 0.0
    values = study.min_samples(best)
    for colour, k in zip(sns.color_palette("viridis", len(values)), values, strict=True):
        curve = np.sort(forest.core_distances(min_samples=k))
        found = suggest_eps(study, best, k)
        label = f"min_samples {k}: no eps meets the constraints"
        if found:
            label = (
                f"min_samples {k}: eps {found.eps:g} gives {found.n_clusters} clusters, {found.coverage:.0%} coverage"
            )
            ax.plot(100 * np.searchsorted(curve, found.eps, side="right") / len(curve), found.eps, "o", color=colour)
        at = np.unique(np.linspace(0, len(curve) - 1, _CURVE_POINTS).astype(int))
        ax.plot(100 * (at + 1) / len(curve), curve[at], color=colour, label=label)
        highest = max(highest, float(curve[-1]))
    tried = study.density_values(best, "eps")
    for eps in tried:
        if eps <= highest:
            ax.axhline(eps, color="0.6", linewidth=0.7, linestyle=":")
            ax.text(0.3, eps, f"{eps:g}", fontsize=7, color="0.35", va="bottom")
    ax.set(xlabel="rows, sorted (%)", ylabel="distance to the k-th nearest row", xlim=(0, 100))
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(0.06, 1))
    ax.set_title(f"{descriptor} {best.cell.scaler}: distance to the k-th neighbour", fontsize=11)
    beyond = [eps for eps in tried if eps > highest]
    above = f" ({len(beyond)} above {highest:.3g} are not shown)" if beyond else ""
    marked = f"Dotted: the grid's eps{above}. " if tried else ""
    caption = (
        f"All {forest.n_samples:,} rows, the row itself counted. {marked}Dot: suggested eps, of "
        f"{len(radii(study, best))} tried the one that gives the most clusters of at least 1 % of the rows within the "
        "constraints of best."
    )
    return figure, caption


def _tree_model(study: Study, best: Model) -> tuple[dict[str, Any], str]:
    """Return the HDBSCAN parameters whose tree is drawn: of the best HDBSCAN that is shown, or usual ones."""
    for model in study.shortlist(best.cell.sample.descriptor):
        same = (model.cell.sample, model.cell.scaler) == (best.cell.sample, best.cell.scaler)
        params = dict(model.cell.params)
        wanted = params.get("min_samples") or params.get("min_cluster_size", 0)
        if model.cell.cluster_class == "HDBSCAN" and same and wanted <= study.forest(best).min_samples[-1]:
            return params, model.name
    n_rows = study.forest(best).n_samples
    params = {"min_cluster_size": max(5, n_rows // 100), "min_samples": study.min_samples(best)[0]}
    return params, ", ".join(f"{name}={value}" for name, value in params.items())


def condensed_tree(study: Study, descriptor: str) -> tuple[Figure, str] | None:
    """Draw how clusters split and lose rows as the distance falls, selected ones in colour (McInnes, Healy 2017)."""
    best = study.best(descriptor)
    if best is None or study.forest(best).n_samples < 2:
        return None
    params, title = _tree_model(study, best)
    tree = study.forest(best).condensed_tree(params["min_cluster_size"], params.get("min_samples"))
    selected = select_clusters(
        tree,
        method=params.get("cluster_selection_method", "eom"),
        epsilon=params.get("cluster_selection_epsilon", 0.0),
        max_cluster_size=params.get("max_cluster_size"),
        allow_single_cluster=params.get("allow_single_cluster", False),
    )
    shown = [int(c) for c in np.flatnonzero(tree.size >= max(2, _SMALLEST_SHARE * tree.size[0]))]
    figure = Figure(figsize=(9, 6), layout="constrained")
    ax = figure.subplots()
    centres = _layout(tree, shown)
    colours = iter(cluster_colours(int(selected[shown].sum())))
    numbers = _numbers(tree, selected)
    lambdas = np.concatenate([tree.row_lambda, tree.birth])
    finite = lambdas[np.isfinite(lambdas) & (lambdas > 0)]
    lowest = 1 / finite.max() if len(finite) else 0.0
    highest = 1.02 / finite.min() if len(finite) else 1.0
    for cluster in shown:
        distance, width = _outline(tree, cluster, lowest, highest)
        left, right = centres[cluster] - width / 2, centres[cluster] + width / 2
        corners = np.column_stack([np.concatenate([left, right[::-1]]), np.concatenate([distance, distance[::-1]])])
        colour = next(colours) if selected[cluster] else "0.8"
        if selected[cluster]:
            ax.text(centres[cluster], distance[0], str(numbers[cluster]), fontsize=8, ha="center", va="bottom")
        ax.add_patch(Polygon(corners, closed=True, facecolor=colour, edgecolor="0.35", linewidth=0.4))
    ax.set(xlim=(-0.02 * tree.size[0], 1.02 * tree.size[0]), ylim=(lowest * 0.98, highest * 1.01), xticks=[])
    ax.set(xlabel="width: rows in the cluster", ylabel="distance (mutual reachability)")
    ax.set_title(f"{descriptor} {best.cell.scaler}: condensed tree, {title}", fontsize=10)
    left_out = len(tree.size) - len(shown)
    more = f" {left_out} clusters of less than {_SMALLEST_SHARE:.1%} of the rows are not drawn." if left_out else ""
    caption = (
        f"From top to bottom the distance falls: clusters lose rows and split. Coloured: {int(selected[shown].sum())} "
        f"of the {int(selected.sum())} selected clusters, with their numbers.{more}"
    )
    return figure, caption


def _numbers(tree: CondensedTree, selected: np.ndarray) -> dict[int, int]:
    """Return the number that each selected cluster has in the labelling: that of its first row among the first rows."""
    inside = np.where(selected, np.arange(len(selected)), -1)
    for cluster in range(1, len(selected)):
        if inside[cluster] < 0:
            inside[cluster] = inside[tree.parent[cluster]]
    of_row = inside[tree.row_cluster]
    clusters, first = np.unique(of_row[of_row >= 0], return_index=True)
    return {int(cluster): number for number, cluster in enumerate(clusters[np.argsort(first)])}


def _layout(tree: CondensedTree, shown: list[int]) -> dict[int, float]:
    """Return the middle of each cluster: children share the place of their parent, in proportion to their rows."""
    span: dict[int, tuple[float, float]] = {0: (0.0, float(tree.size[0]))}
    for cluster in shown:
        children = [child for child in shown if tree.parent[child] == cluster]
        start, stop = span[cluster]
        per_row = (stop - start) / max(sum(float(tree.size[child]) for child in children), 1.0)
        for child in children:
            width = per_row * float(tree.size[child])
            span[child] = (start, start + width)
            start += width
    return {cluster: (low + high) / 2 for cluster, (low, high) in span.items()}


def _outline(tree: CondensedTree, cluster: int, lowest: float, highest: float) -> tuple[np.ndarray, np.ndarray]:
    """Return distances, falling, and how many rows the cluster has there."""
    left = np.sort(tree.row_lambda[tree.row_cluster == cluster])
    children = np.flatnonzero(tree.parent == cluster)
    end = tree.birth[children[0]] if len(children) else left[-1]
    birth = tree.birth[cluster]
    start = highest if birth == 0 else 1 / birth
    stop = lowest if not np.isfinite(end) else max(1 / end, lowest)
    distance = np.linspace(start, stop, _STEPS)
    with np.errstate(divide="ignore"):
        width = tree.size[cluster] - np.searchsorted(left, 1 / distance, side="left")
    return distance, width
