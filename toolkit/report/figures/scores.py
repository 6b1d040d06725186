"""Scores of all models against their number of clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from toolkit.score import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from toolkit.report.study import Study

_LOG_FROM = 60  # clusters


def scores_by_n_clusters(study: Study, descriptor: str) -> tuple[Figure, str] | None:
    """Draw every metric against the number of clusters: a row of plots per scaler, a colour per estimator."""
    tables = [table.assign(stage=_stage_name(study, stage)) for stage, table in study.run.tables.items()]
    models = pd.concat(tables).drop_duplicates("model")
    models = models.rename(columns={"cluster_class": "algorithm"})
    models = models[(models["descriptor"] == descriptor) & models[list(METRICS)].notna().any(axis=1)]
    if models.empty:
        return None
    scalers = list(dict.fromkeys(models["scaler"]))
    figure = Figure(figsize=(4.6 * len(METRICS), 0.4 + 3.3 * len(scalers)), layout="constrained")
    axes = figure.subplots(len(scalers), len(METRICS), squeeze=False)
    chosen = {model.id for model in study.run.finalists}
    families = list(dict.fromkeys(models["algorithm"]))
    for row, scaler in zip(axes, scalers, strict=True):
        of_scaler = models[models["scaler"] == scaler]
        for ax, metric in zip(row, METRICS.values(), strict=True):
            shown = of_scaler[of_scaler[metric.name].notna()].astype({"n_clusters": float})
            sns.scatterplot(
                shown, x="n_clusters", y=metric.name, hue="algorithm", hue_order=families, style="stage",
                style_order=[_stage_name(study, stage) for stage in study.run.tables],
                size="coverage", sizes=(6, 70), size_norm=(0, 1), alpha=0.7, linewidth=0, ax=ax,
            )  # fmt: skip
            best = shown[shown["model"].isin(chosen)]
            ax.scatter(best["n_clusters"], best[metric.name], s=190, marker="*", c="none", edgecolors="black", zorder=3)
            _scale(ax, float(models["n_clusters"].max()))
            better = "higher" if metric.greater_is_better else "lower"
            ax.set_title(
                f"{scaler}: {metric.name.removesuffix('_score').replace('_', ' ')} ({better} is better)", fontsize=10
            )
            ax.set(xlabel="clusters", ylabel="")
            ax.grid(alpha=0.25)
    for ax in axes.flat:
        handles, texts = ax.get_legend_handles_labels()
        if (legend := ax.get_legend()) is not None:  # one for all is enough
            legend.remove()
            star = Line2D([], [], marker="*", color="none", markeredgecolor="black", markersize=13)
            shared = [*handles, star], [*texts, "finalist"]
    figure.legend(*shared, loc="outside right upper", fontsize=9)
    figure.suptitle(f"{descriptor}: scores of {len(models)} models", fontsize=12)
    noise = "Scores leave noise out: a small dot is the score of few rows"
    if study.run.config.noise == "as_cluster":
        noise = "Noise counts as a cluster in the scores"
    return figure, (
        f"Every model that has scores. {noise}. Calinski-Harabasz grows with the rows: compare it within a stage only."
    )


def _stage_name(study: Study, stage: str) -> str:
    fraction = next(one.fraction for one in study.run.config.stages if one.name == stage)
    return stage if fraction == 1 else f"{stage} ({fraction:.0%} of rows)"


def _scale(ax: Axes, most: float) -> None:
    """Let the axis of clusters have whole numbers, and be logarithmic where there are many."""
    if most > _LOG_FROM:
        ax.set_xscale("log")
        ax.set_xlim(1.7, 1.15 * most)
        ticks = [tick for tick in (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000) if tick <= most]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
