"""Cluster sizes of the models that are shown, and how far these agree."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from toolkit.report.drawing import draw_counts, matched_colours, params_text, wrapped

if TYPE_CHECKING:
    from toolkit.grid.finished import Model
    from toolkit.report.study import Study

COLUMNS = 3
_SIDE = 4.2  # inches
_TITLE_CHARACTERS = 44


def panel_title(model: Model) -> str:
    """Return the title of a plot of one model."""
    params = wrapped(params_text(dict(model.cell.params)), _TITLE_CHARACTERS)
    return f"{model.cell.cluster_class}, {model.cell.scaler}\n{params}"


def cluster_sizes(study: Study, descriptor: str) -> tuple[Figure, str] | None:
    """Draw the rows of each cluster, for every model that is shown."""
    models = study.shortlist(descriptor)
    if not models:
        return None
    columns = min(len(models), COLUMNS)
    rows = math.ceil(len(models) / columns)
    figure = Figure(figsize=(_SIDE * columns, 0.5 + 3.2 * rows), layout="constrained")
    colours = matched_colours([study.run.all_labels(model) for model in models])
    for i, model in enumerate(models):
        ax = figure.add_subplot(rows, columns, i + 1)
        draw_counts(ax, study.run.labels(model), colours[i])
        ax.set_title(panel_title(model), fontsize=9)
    figure.suptitle(f"{descriptor}: rows of each cluster", fontsize=12)
    tried = dict.fromkeys(study.run.tables[study.last_stage]["cluster_class"])
    absent = [family for family in tried if family not in {model.cell.cluster_class for model in models}]
    without = f" No {' and no '.join(absent)} of this descriptor meets the constraints of best." if absent else ""
    return figure, (
        f"The finalists first, then the best two of each estimator.{without} Clusters that share most rows with one of "
        "the first model have its colour; noise is grey."
    )


def agreement_map(study: Study) -> tuple[Figure, str] | None:
    """Draw the agreement of every two of the models that are compared: ARI above the diagonal, AMI below it."""
    models = study.compared
    if len(models) < 2:
        return None
    values = np.eye(len(models))
    place = {model.id: i for i, model in enumerate(models)}
    for (one, other), found in study.agreements.items():
        values[place[one], place[other]] = found.ari
        values[place[other], place[one]] = found.ami
    names = [
        f"{model.cell.sample.descriptor} {model.cell.scaler} {model.cell.cluster_class}\n"
        + wrapped(params_text(dict(model.cell.params)), 28)
        for model in models
    ]
    figure = Figure(figsize=(4.6 + 0.95 * len(models), 2.6 + 0.72 * len(models)), layout="constrained")
    ax = figure.subplots()
    sns.heatmap(
        values, vmin=0, vmax=1, annot=True, fmt=".2f", cmap="crest", square=False, linewidths=0.5,
        xticklabels=names, yticklabels=names, cbar_kws={"shrink": 0.7}, annot_kws={"fontsize": 9}, ax=ax,
    )  # fmt: skip
    ax.tick_params(axis="x", rotation=40, labelsize=8)
    for label in ax.get_xticklabels():
        label.set_horizontalalignment("right")
    ax.tick_params(axis="y", rotation=0, labelsize=8)
    ax.set_title(
        "Agreement of the best models\nadjusted Rand index above, adjusted mutual information below", fontsize=10
    )
    return figure, "1 is the same partition, 0 is chance; on the rows that both have seen, noise counting as one group."
