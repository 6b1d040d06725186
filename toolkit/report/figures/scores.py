"""Scores of all models against their number of clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from toolkit.score import METRICS

if TYPE_CHECKING:
    from toolkit.report.study import Study

_LOG_FROM = 60  # clusters


def scores_by_n_clusters(study: Study, descriptor: str) -> tuple[Figure, str] | None:
    """Draw every metric against the number of clusters: a row of plots per scaler, a colour per estimator."""
    tables = [table.assign(stage=stage) for stage, table in study.run.tables.items()]
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
                style_order=list(study.run.tables), s=34, alpha=0.75, linewidth=0, ax=ax,
            )  # fmt: skip
            best = shown[shown["model"].isin(chosen)]
            ax.scatter(best["n_clusters"], best[metric.name], s=190, marker="*", c="none", edgecolors="black", zorder=3)
            if len(shown) and shown["n_clusters"].max() > _LOG_FROM:
                ax.set_xscale("log")
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
            shared = handles, texts
    figure.legend(*shared, loc="outside right upper", fontsize=9)
    figure.suptitle(f"{descriptor}: scores of {len(models)} models", fontsize=12)
    caption = (
        "Every model that has scores; a star is a finalist. Scores leave noise out, so read them with the coverage."
    )
    if study.run.config.noise == "as_cluster":
        caption = "Every model that has scores; a star is a finalist. Noise counts as a cluster in the scores."
    return figure, caption
