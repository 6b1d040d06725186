"""What several pictures are drawn with: colours of clusters, points of a map, bars of sizes."""

from __future__ import annotations

import io
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib import colors, patheffects

from toolkit.atomic import atomic_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

NOISE_COLOUR = "0.75"
BAR_COLOUR = "#4878a8"
_GREY = 0.05  # a colour whose channels differ by less is taken for noise
_GOLDEN = 0.618033988749895  # of the colour circle, from one hue to the next: neighbours in number are far in colour
_SHADES = ((0.85, 0.50), (0.65, 0.70), (0.95, 0.36))  # (saturation, lightness), taken in turn
_MAX_TICKS = 30
_LEGEND_CLUSTERS = 20
_NUMBERED = 60  # clusters on a map; the largest
_DPI = 110
_CAPTION_CHARACTERS, _LINE_INCHES = 16, 0.16  # per inch; of one line
_SMALL_POINTS = 20_000  # points of a map share this area


def cluster_colours(n_clusters: int) -> list[Any]:
    """Return one colour per cluster, none of them grey: named ones for a few, far apart in hue and shade for many."""
    named = [colour for colour in sns.color_palette("tab20") if np.ptp(colour) > _GREY]
    few = named[::2] + named[1::2]
    if n_clusters <= len(few):
        return few[:n_clusters]
    return _many_colours(n_clusters)


def _many_colours(n_colours: int) -> list[Any]:
    hues = (np.arange(n_colours) * _GOLDEN) % 1
    shades = [_SHADES[i % len(_SHADES)] for i in range(n_colours)]
    return [sns.husl_palette(1, h=hue, s=s, l=light)[0] for hue, (s, light) in zip(hues, shades, strict=True)]


def matched_colours(labellings: Sequence[np.ndarray]) -> list[dict[int, Any]]:
    """Return label -> colour for labellings of the same rows, so that what overlaps most looks alike.

    The clusters of the first have `cluster_colours`. One of another takes the colour of the cluster of the first with
    which it shares the most rows, if no other shares more with it; what is left takes further colours.

    Parameters
    ----------
    labellings : sequence of ndarray (n_rows,) int
        Below 0 is no cluster.
    """
    first = labellings[0]
    most = max((len(np.unique(labels[labels >= 0])) for labels in labellings), default=0)
    own = np.unique(first[first >= 0])
    found = [dict(zip(own.tolist(), cluster_colours(len(own)), strict=True))]
    for labels in labellings[1:]:
        both = (labels >= 0) & (first >= 0)
        pairs, counts = np.unique(np.stack([labels[both], first[both]]), axis=1, return_counts=True)
        colours: dict[int, Any] = {}
        taken: set[int] = set()
        for at in np.argsort(-counts, kind="stable"):
            name, other = (int(value) for value in pairs[:, at])
            if name not in colours and other not in taken:
                colours[name] = found[0][other]
                taken.add(other)
        further = iter(_many_colours(most))
        for name in np.unique(labels[labels >= 0]).tolist():
            if name not in colours:
                colours[name] = next(further)
        found.append(colours)
    return found


def with_caption(figure: Any, caption: str) -> None:
    """Write the caption below the pictures, so that it is there wherever the file goes."""
    width, height = figure.get_size_inches()
    lines = wrapped(caption, int(width * _CAPTION_CHARACTERS))
    figure.set_size_inches(width, height + _LINE_INCHES * (lines.count("\n") + 1))
    figure.supxlabel(lines, fontsize=8, color="0.3", parse_math=False)  # a $ in it is one


def save_figure(path: Path, figure: Any, *, title: str, caption: str, descriptor: str = "") -> None:
    """Write a picture with its caption as PNG, whole or not at all.

    What it is stands in the file as text too: from there the HTML page has it.
    """
    with_caption(figure, caption)
    content, about = io.BytesIO(), about_picture(title, caption, descriptor)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box is drawn in its place
        figure.savefig(content, format="png", dpi=_DPI, metadata=about | {"Software": None})
    with atomic_file(path) as file:
        file.write(content.getbuffer())


def about_picture(title: str, caption: str, descriptor: str = "") -> dict[str, str]:
    """Return the texts of a PNG that `toolkit.report.page` looks for; without a descriptor it is of the whole run."""
    return {"Descriptor": descriptor, "Title": title, "Description": caption}


def draw_counts(ax: Axes, labels: np.ndarray, colours: dict[int, Any] | None = None) -> None:
    """Draw how many rows each cluster has; noise (-1) is grey."""
    names, counts = np.unique(labels, return_counts=True)
    bar_colours = [NOISE_COLOUR if name == -1 else (colours or {}).get(int(name), BAR_COLOUR) for name in names]
    if len(names) <= _MAX_TICKS:
        ticks = ["noise" if name == -1 else str(name) for name in names]
        ax.bar(ticks, counts, color=bar_colours)
        ax.tick_params(axis="x", labelsize=8 if len(names) <= 15 else 6)
        if names[0] == -1:
            ax.get_xticklabels()[0].set_horizontalalignment("right")  # else it runs into the next
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
    colours: dict[int, Any] | None = None,
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
    colours : dict of int to colour, optional
        Label -> its colour; by default `cluster_colours` in the order of the labels.
    """
    inside = np.ones(len(points), bool)
    for axis, (low, high) in enumerate(ranges or ()):
        inside &= (points[:, axis] >= low) & (points[:, axis] <= high)
    points, labels = points[inside], labels[inside]
    names, dense = np.unique(labels, return_inverse=True)
    clusters = names[names != -1]
    if colours is None:
        colours = dict(zip(clusters.tolist(), cluster_colours(len(clusters)), strict=True))
    palette = [colours.get(name, NOISE_COLOUR) for name in names.tolist()]
    size = float(np.clip(_SMALL_POINTS / max(len(points), 1), 0.3, 12))
    order = np.argsort(labels != -1, kind="stable")
    of_point = np.array([colors.to_rgb(colour) for colour in palette]).reshape(-1, 3)[dense[order]]
    ax.scatter(*points[order].T, s=size, c=of_point, linewidths=0, rasterized=True)
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
    halo = [patheffects.withStroke(linewidth=2, foreground="white")]
    sizes = np.array([np.count_nonzero(labels == name) for name in clusters])
    size = 9 if len(clusters) <= 20 else 6.5
    for name in clusters[np.argsort(-sizes, kind="stable")[:_NUMBERED]]:
        members = points[labels == name]
        middle = members[((members - np.median(members, axis=0)) ** 2).sum(axis=1).argmin()]
        ax.text(*middle, str(name), fontsize=size, weight="bold", ha="center", va="center", path_effects=halo)


def params_text(params: dict[str, Any] | str) -> str:
    """Write parameters for people: ``eps=1, min_samples=16``."""
    return params if isinstance(params, str) else ", ".join(f"{name}={value}" for name, value in params.items())


def wrapped(text: str, width: int) -> str:
    """Break a title into lines of at most so many characters."""
    return "\n".join(textwrap.wrap(text, max(width, 8)))
