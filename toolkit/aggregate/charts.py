"""Charts of attributes: how often each occurs in a cluster, and all clusters at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter

from toolkit.aggregate.occurrence import CONFIDENCE
from toolkit.aggregate.texts import LONGEST, plain_text
from toolkit.report.drawing import BAR_COLOUR, NOISE_COLOUR

if TYPE_CHECKING:
    import pandas as pd

MOST_ATTRIBUTES = 30  # of a chart
MOST_CLUSTERS = 60  # of the overview
OVERVIEW = "Attributes by cluster"
_NUMBER_WIDTH = 0.07  # of a chart
_WIDEST = 3.0  # powers of two that are coloured
_WHOLE, _LIFTED = "0.25", "#b2362c"
_TICKS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32, 64)
_MAP_COLOURS = "RdBu_r"


def occurrence_chart(of_cluster: pd.DataFrame, title: str) -> tuple[Figure, str]:
    """Draw how often the attributes of a cluster occur, and their lift, each with its interval; return the caption too.

    Parameters
    ----------
    of_cluster : DataFrame
        The lines of one cluster, see `occurrence`. Drawn are the 30 with the clearest differences.
    title : str
    """
    known = of_cluster[of_cluster["lift"].notna() & of_cluster["share"].notna()]
    shown = _clearest(known).sort_values("lift", ascending=True, kind="stable")
    figure = Figure(figsize=(10, 1.6 + 0.27 * max(len(shown), 3)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    at = np.arange(len(shown))
    noisy = shown["is_noisy"].to_numpy()
    _draw_shares(left, shown, at, noisy)
    _draw_lifts(right, shown, at, noisy)
    left.set_yticks(at, [safe_text(name) for name in shown["attribute"]], fontsize=8)
    left.set_ylim(-0.7, max(len(shown), 1) - 0.3)
    handles = [
        Patch(color=BAR_COLOUR, label="in the cluster"),
        Patch(facecolor=NOISE_COLOUR, hatch="////", edgecolor="white", label="in the cluster, noisy"),
        left.scatter([], [], marker="|", color=_WHOLE, s=90, linewidths=2, label="in the whole set"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(safe_text(title, 90), fontsize=12, x=0.01, ha="left")
    most = f"The {len(shown)} clearest of {len(of_cluster):,} attributes" if len(shown) < len(of_cluster) else "All"
    return figure, (
        f"{most}, by lift: the share in the cluster divided by that in the whole set. Lines are 95 % intervals "
        f"(Wilson; Koopman). Noisy: fewer than 5 images expected with or without the attribute."
    )


def _draw_shares(ax: Any, shown: pd.DataFrame, at: np.ndarray, noisy: np.ndarray) -> None:
    share, low, high = (100 * shown[name].to_numpy() for name in ("share", "share_low", "share_high"))
    for which, look in (
        (~noisy, {"color": BAR_COLOUR}),
        (noisy, {"color": NOISE_COLOUR, "hatch": "////", "edgecolor": "white"}),
    ):
        ax.barh(at[which], share[which], height=0.7, **look)
    ax.hlines(at, low, high, color="0.35", linewidth=1)
    ax.scatter(100 * shown["share_of_all"], at, marker="|", color=_WHOLE, s=90, linewidths=2, zorder=3)
    edge = max(float(high.max(initial=0)), float(100 * shown["share_of_all"].max() if len(shown) else 0), 1e-3)
    for y, count, end, of_all in zip(at, shown["count"], high, 100 * shown["share_of_all"], strict=True):
        end = of_all if 0 < of_all - end < _NUMBER_WIDTH * edge else end  # else the mark goes through the number
        ax.text(end + 0.01 * edge, y, f" {count:,}", va="center", fontsize=7, color="0.35")
    ax.set(xlabel="% of the images (and how many)", xlim=(0, 1.12 * edge))
    ax.grid(axis="x", alpha=0.25)


def _draw_lifts(ax: Any, shown: pd.DataFrame, at: np.ndarray, noisy: np.ndarray) -> None:
    lift, low, high = (shown[name].to_numpy() for name in ("lift", "lift_low", "lift_high"))
    within = np.concatenate([lift[lift > 0], low[low > 0], high[np.isfinite(high)], [0.8, 1.25]])
    first, last = max(within.min() / 1.15, 1 / 100), min(within.max() * 1.15, 100.0)
    ax.axvline(1, color="0.5", linewidth=1)
    for which, colour in ((~noisy, _LIFTED), (noisy, "0.6")):
        ax.hlines(at[which], np.clip(low[which], first, last), np.clip(high[which], first, last), color=colour)
        drawn = which & (lift >= first) & (lift <= last)
        ax.scatter(lift[drawn], at[drawn], s=22, color=colour, zorder=3)
        outside = which & (lift < first)  # the attribute does not occur: an arrow to 0
        ax.scatter(np.full(outside.sum(), first), at[outside], s=26, marker="<", color=colour, zorder=3, clip_on=False)
    ax.set(xscale="log", xlim=(first, last), xlabel="lift")
    ticks = [tick for tick in _TICKS if first <= tick <= last]
    if len(ticks) < 3:
        ticks = [tick for tick in (0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 5) if first <= tick <= last]
    ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _ratio(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.minorticks_off()
    ax.grid(axis="x", alpha=0.25)
    ax.tick_params(axis="y", length=0)


def overview(table: pd.DataFrame, names: dict[int, str]) -> tuple[Figure, str]:
    """Draw the lift of all attributes in all clusters as colours; noisy ones are hatched; return the caption too.

    Parameters
    ----------
    table : DataFrame
        See `occurrence`. Drawn are the 60 largest clusters, and the 30 attributes with the clearest differences.
    names : dict of int to str
        What a cluster is called.
    """
    sizes = table.groupby("cluster")["n"].max()
    largest = sizes.sort_values(ascending=False, kind="stable").index[:MOST_CLUSTERS]
    clusters = sorted(largest.tolist())
    inside = table[table["cluster"].isin(clusters)]
    best = inside.assign(order=_clarity(inside)).groupby("attribute", sort=False)["order"].max()
    chosen = set(best.sort_values(ascending=False, kind="stable").index[:MOST_ATTRIBUTES])
    attributes = [name for name in dict.fromkeys(table["attribute"]) if name in chosen]
    grid = inside.pivot(index="cluster", columns="attribute", values=["lift", "is_noisy", "p_adjusted"])
    lift = grid["lift"].loc[clusters, attributes].to_numpy(float)
    noisy = grid["is_noisy"].loc[clusters, attributes].to_numpy(bool)
    clear = ~noisy & (grid["p_adjusted"].loc[clusters, attributes].to_numpy(float) < 1 - CONFIDENCE)
    size = (3.2 + 0.36 * len(attributes), 2.6 + 0.26 * len(clusters))
    figure = Figure(figsize=(max(size[0], 6.5), max(size[1], 3.6)), layout="constrained")
    ax: Any = figure.subplots()
    with np.errstate(divide="ignore"):
        powers = np.clip(np.log2(lift), -_WIDEST, _WIDEST)
    image = ax.imshow(powers, cmap=_MAP_COLOURS, norm=TwoSlopeNorm(0, -_WIDEST, _WIDEST), aspect="auto")
    _hatch(ax, noisy | np.isnan(lift))
    rows, columns = np.nonzero(clear)
    ax.scatter(columns, rows, s=7, color="black", edgecolors="white", linewidths=0.6)
    ax.set_xticks(np.arange(len(attributes)), [safe_text(name) for name in attributes], rotation=90, fontsize=8)
    labels = [f"{safe_text(names.get(one, str(one)))} ({sizes[one]:,})" for one in clusters]
    ax.set_yticks(np.arange(len(clusters)), labels, fontsize=8)
    bar = figure.colorbar(image, ax=ax, shrink=min(1.0, 3.0 / figure.get_size_inches()[1]), label="lift")
    ticks = np.arange(-_WIDEST, _WIDEST + 1)
    bar.set_ticks(ticks.tolist(), labels=[_ratio(2.0**power) for power in ticks])
    ax.set_title(OVERVIEW, loc="left", fontsize=12)
    n_clusters, n_attributes = table["cluster"].nunique(), table["attribute"].nunique()
    is_noise = bool(table["is_noisy"].all())
    all_noisy = " Everything is noisy: no difference is to be trusted; it takes more images." if is_noise else ""
    largest_of = f" The {len(clusters)} largest of {n_clusters:,} clusters." if len(clusters) < n_clusters else ""
    clearest = (
        f" The {len(attributes)} clearest of {n_attributes:,} attributes." if len(attributes) < n_attributes else ""
    )
    return figure, (
        f"Lift: the share of an attribute in the cluster divided by that in the whole set. A dot: it differs, "
        f"p_adjusted is below 0.05. Hatched: noisy, fewer than 5 images expected with or without the attribute."
        f"{all_noisy}{largest_of}{clearest} All are in occurrence.csv."
    )


def _hatch(ax: Any, which: np.ndarray) -> None:
    for row, column in np.argwhere(which):
        box = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="0.88", edgecolor="0.65", hatch="////", linewidth=0)
        ax.add_patch(box)


# What is drawn
def _clarity(lines: pd.DataFrame) -> pd.Series[float]:
    """Return how clear a difference is: none noisy first, then the least p, then the lift farthest from 1."""
    with np.errstate(divide="ignore"):
        far = np.abs(np.log2(lines["lift"])).fillna(0).clip(upper=60)
        least = -np.log10(lines["p"]).clip(upper=300)
    clarity: pd.Series[float] = least + 1e-6 * far + 1000.0 * ~lines["is_noisy"]
    return clarity


def _clearest(lines: pd.DataFrame) -> pd.DataFrame:
    order = np.argsort(-_clarity(lines).to_numpy(), kind="stable")
    return lines.iloc[order[:MOST_ATTRIBUTES]]


def _ratio(value: float) -> str:
    return f"1/{round(1 / value)}" if value < 1 and abs(1 / value - round(1 / value)) < 1e-6 else f"{value:g}"


def safe_text(text: str, most: int = LONGEST) -> str:
    """Return a text as one printable line of at most so many characters, with nothing that is drawn as mathematics."""
    return plain_text(text, most).replace("$", r"\$")
