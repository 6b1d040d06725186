"""Why a model was chosen, in words, and the table of finalists."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit.atomic import atomic_file
from toolkit.score import METRICS

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.grid.finished import Model
    from toolkit.report.study import Study

_STABLE, _UNSTABLE = 0.8, 0.5  # mean ARI; Jaccard of a cluster (Hennig 2007: above 0.75 valid, below 0.5 dissolved)
_SMALL_SHARE = 0.01


def why(study: Study, model: Model) -> str:
    """Say why a model is a finalist: constraints, metric, rivals, Pareto front, stability, agreement."""
    return " ".join([_place(study, model), _front(study, model), _stability(study, model), *_agreements(study, model)])


def _constraints(study: Study) -> str:
    best = study.run.config.best
    clusters = f"at least {best.min_clusters} clusters"
    if best.max_clusters is not None:
        clusters = f"{best.min_clusters} to {best.max_clusters} clusters"
    return (
        f"{best.min_coverage:.0%} of the rows in clusters, no cluster with more than {best.max_largest_share:.0%} of "
        f"them, {clusters}"
    )


def _place(study: Study, model: Model) -> str:
    best = study.run.config.best
    group = _group(model, best.per)
    rivals = [other for other in study.ranked if _group(other, best.per) == group]
    place = rivals.index(model) + 1
    metric = best.metrics[0]
    words = {name: name.removesuffix("_score").replace("_", " ") for name in METRICS}
    by = (
        words[metric]
        if len(best.metrics) == 1
        else f"the mean of its ranks in {', '.join(words[m] for m in best.metrics)}"
    )
    numbers = ", ".join(f"{words[name]} {model.scores[name]:.4g}" for name in best.metrics)
    text = (
        f"{'Best' if place == 1 else f'Number {place}'} of {len(rivals)} models of {group} in stage {study.last_stage} "
        f"that meet the constraints ({_constraints(study)}), by {by}: {numbers}."
    )
    if place == 1 and len(rivals) > 1:
        runner_up = rivals[1]
        text += f" Next is {runner_up.name} with {runner_up.scores[metric]:.4g}."
    return text


def _group(model: Model, per: str) -> str:
    return {
        "descriptor": model.cell.sample.descriptor,
        "scaler": model.cell.scaler,
        "cluster_class": model.cell.cluster_class,
    }[per]


def _front(study: Study, model: Model) -> str:
    if model.id in study.front:
        return "None of them is better in one of the metrics or the coverage without being worse in another."
    return "Another one of its descriptor is at least as good in all metrics and the coverage, and better in some."


def _stability(study: Study, model: Model) -> str:
    found = study.stability[model.id]
    if not found.ari:
        return f"Its stability could not be measured: {found.reason}."
    mean = float(np.mean(found.ari))
    word = "Stable" if mean >= _STABLE else "Unstable" if mean < _UNSTABLE else "Fairly stable"
    text = (
        f"{word}: refits on {len(found.ari)} random samples of {found.n_rows:,} rows agree with it with ARI {mean:.2f} "
        f"(lowest {min(found.ari):.2f})"
    )
    if found.clusters:
        weakest = min(found.clusters, key=lambda label: found.clusters[label])
        text += f"; its least stable cluster is {weakest} (Jaccard {found.clusters[weakest]:.2f})"
    return text + "."


def _agreements(study: Study, model: Model) -> list[str]:
    others = [
        (other, study.agreements.get((model.id, other.id)) or study.agreements.get((other.id, model.id)))
        for other in study.run.finalists
        if other.cell.sample.descriptor != model.cell.sample.descriptor
    ]
    texts = [f"{other.name} (AMI {found.ami:.2f}, ARI {found.ari:.2f})" for other, found in others if found]
    return [f"It agrees with finalists of other descriptors: {'; '.join(texts)}."] if texts else []


def finalists_table(study: Study) -> pd.DataFrame:
    """Return one row per finalist, the best first: parameters, scores, Pareto front, stability, agreement, why."""
    rows: list[dict[str, Any]] = []
    for place, model in enumerate(study.run.finalists, start=1):
        stability = study.stability[model.id]
        amis = [
            found.ami
            for pair, found in study.agreements.items()
            if model.id in pair and _other_descriptor(study, pair) and all(one in _finalist_ids(study) for one in pair)
        ]
        kept = ("n_clusters", *METRICS, "coverage", "largest_share")
        rows.append(
            {
                "rank": place,
                "descriptor": model.cell.sample.descriptor,
                "scaler": model.cell.scaler,
                "cluster_class": model.cell.cluster_class,
                "cluster_class_params": str(dict(model.cell.params)),
                **{name: model.scores[name] for name in kept},
                "pareto": model.id in study.front,
                "stability": np.mean(stability.ari) if stability.ari else math.nan,
                "stability_lowest": min(stability.ari, default=math.nan),
                "stability_rows": stability.n_rows,
                "agreement": np.mean(amis) if amis else math.nan,
                "model": model.id,
                "why": why(study, model),
            }
        )
    return pd.DataFrame(rows)


def _finalist_ids(study: Study) -> set[str]:
    return {model.id for model in study.run.finalists}


def _other_descriptor(study: Study, pair: tuple[str, str]) -> bool:
    one, other = (study.run.models[model].cell.sample.descriptor for model in pair)
    return one != other


def write_finalists(study: Study, path: Path) -> None:
    """Write `finalists_table` as CSV."""
    with atomic_file(path) as file:
        finalists_table(study).to_csv(file, index=False, lineterminator="\n")
