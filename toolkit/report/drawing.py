"""What several pictures are drawn with: colours of clusters, points of a map, bars of sizes."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib import colors, patheffects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

NOISE_COLOUR = "0.75"
BAR_COLOUR = "#4878a8"
_GREY = 0.05  # a colour whose channels differ by less is taken for noise
_GOLDEN = 0.618033988749895  # of the colour circle, from one hue to the next: neighbours in number are far in colour
_SHADES = ((0.85, 0.50), (0.65, 0.70), (0.95, 0.36))  # (saturation, lightness), taken in turn
_MAX_TICKS = 30
_LEGEND_CLUSTERS = 20
_NAMED_ON_MAP = 80
_SMALL_POINTS = 20_000  # points of a map share this area


def cluster_colours(n_clusters: int) -> list[Any]:
    """Return one colour per cluster, none of them grey: named ones for a few, far apart in hue and shade for many."""
    named = [colour for colour in sns.color_palette("tab20") if np.ptp(colour) > _GREY]
    few = named[::2] + named[1::2]
    if n_clusters <= len(few):
        return few[:n_clusters]
    hues = (np.arange(n_clusters) * _GOLDEN) % 1
    shades = [_SHADES[i % len(_SHADES)] for i in range(n_clusters)]
    return [sns.husl_palette(1, h=hue, s=s, l=light)[0] for hue, (s, light) in zip(hues, shades, strict=True)]


def draw_counts(ax: Axes, labels: np.ndarray) -> None:
    """Draw how many rows each cluster has; noise (-1) is grey."""
    names, counts = np.unique(labels, return_counts=True)
    bar_colours = [NOISE_COLOUR if name == -1 else BAR_COLOUR for name in names]
    if len(names) <= _MAX_TICKS:
        ticks = ["noise" if name == -1 else str(name) for name in names]
        ax.bar(ticks, counts, color=bar_colours)
        ax.tick_params(axis="x", labelsize=8 if len(names) <= 15 else 6)
    else:
        ax.bar(names, counts, width=0.8, color=bar_colours)
    ax.set(xlabel="cluster", ylabel="rows")


def draw_map(
    ax: Any,
    points: np.ndarray,
    labels: np.ndarray,
    *,
    method: str = "UMAP",
    ranges: Sequence[tuple[float, float]] | None = None,
    numbered: bool = False,
) -> None:
    """Draw rows as points, coloured by cluster, noise (-1) grey and below the clusters.

    Parameters
    ----------
    ax : Axes
        With a third dimension if the map has one.
    points : ndarray (n_rows, 2 or 3)
    labels : ndarray (n_rows,) int
    method : str
        For the names of the axes.
    ranges : sequence of (low, high), optional
        One per dimension; only points inside all of them are drawn.
    numbered : bool
        Write the number of each cluster at the member nearest to its median, instead of a legend.
    """
    inside = np.ones(len(points), bool)
    for axis, (low, high) in enumerate(ranges or ()):
        inside &= (points[:, axis] >= low) & (points[:, axis] <= high)
    points, labels = points[inside], labels[inside]
    names, dense = np.unique(labels, return_inverse=True)
    clusters = names[names != -1]
    palette = [NOISE_COLOUR] * (len(names) - len(clusters)) + cluster_colours(len(clusters))
    size = float(np.clip(_SMALL_POINTS / max(len(points), 1), 0.3, 12))
    order = np.argsort(labels != -1, kind="stable")
    of_point = np.array([colors.to_rgb(colour) for colour in palette]).reshape(-1, 3)[dense[order]]
    ax.scatter(*points[order].T, s=size, c=of_point, linewidths=0, rasterized=True)
    numbered = numbered and 0 < len(clusters) <= _NAMED_ON_MAP
    if not numbered and 0 < len(clusters) <= _LEGEND_CLUSTERS:
        for name, colour in zip(names, palette, strict=True):
            ax.scatter(*[[]] * points.shape[1], color=colour, label="noise" if name == -1 else str(name), s=20)
        ax.legend(fontsize=7, loc="best", framealpha=0.8)
    if numbered:
        _number_clusters(ax, points, labels, clusters)
    ax.set(xlabel=f"{method} 1", ylabel=f"{method} 2")
    if points.shape[1] == 3:
        ax.set_zlabel(f"{method} 3")
        ax.set_box_aspect(None, zoom=0.85)  # else the label is cut


def _number_clusters(ax: Any, points: np.ndarray, labels: np.ndarray, clusters: np.ndarray) -> None:
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    for name in clusters:
        members = points[labels == name]
        middle = members[((members - np.median(members, axis=0)) ** 2).sum(axis=1).argmin()]
        ax.text(*middle, str(name), fontsize=9, weight="bold", ha="center", va="center", path_effects=halo)


def params_text(params: dict[str, Any] | str) -> str:
    """Write parameters for people: ``eps=1, min_samples=16``."""
    return params if isinstance(params, str) else ", ".join(f"{name}={value}" for name, value in params.items())


def wrapped(text: str, width: int) -> str:
    """Break a title into lines of at most so many characters."""
    return "\n".join(textwrap.wrap(text, max(width, 8)))
