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

_STABLE, _UNSTABLE = 0.8, 0.5  # mean ARI
_STRUCTURE = (
    (0.7, "strong structure"),
    (0.5, "reasonable structure"),
    (0.25, "weak structure, which may be artificial"),
    (-np.inf, "no substantial structure: the clusters overlap"),
)
_COLUMNS = (
    "rank", "descriptor", "scaler", "cluster_class", "cluster_class_params", "n_clusters", *METRICS, "coverage",
    "largest_share", "pareto", "stability", "stability_lowest", "stability_rows", "agreement", "model", "why",
)  # fmt: skip


def why(study: Study, model: Model) -> str:
    """Say why a model is a finalist: constraints, metric, rivals, Pareto front, stability, agreement."""
    parts = [_place(study, model), *_excluded(study, model), *_structure(model), _front(study, model)]
    return " ".join([*parts, _stability(study, model), *_agreements(study, model)])


def _constraints(study: Study) -> str:
    best = study.run.config.best
    clusters = f"at least {best.min_clusters} clusters"
    if best.max_clusters is not None:
        clusters = f"{best.min_clusters} to {best.max_clusters} clusters"
    return (
        f"at least {best.min_coverage:.0%} of the rows in clusters, no cluster with more than "
        f"{best.max_largest_share:.0%} of those, {clusters}"
    )


def _words(metric: str) -> str:
    return metric.removesuffix("_score").replace("_", " ")


def _numbers(study: Study, model: Model) -> str:
    return ", ".join(f"{_words(name)} {model.scores[name]:.4g}" for name in study.run.config.best.metrics)


def _place(study: Study, model: Model) -> str:
    best = study.run.config.best
    rivals = [other for other in study.contenders if _group(other, best.per) == _group(model, best.per)]
    place = rivals.index(model) + 1
    by = " and ".join(map(_words, best.metrics))
    by = by if len(best.metrics) == 1 else f"the mean of its ranks in {by}"
    text = (
        f"{'Best' if place == 1 else f'Number {place}'} by {by} ({_numbers(study, model)}) of the {len(rivals)} "
        f"labellings of {_group(model, best.per)} in stage {study.last_stage} that meet the constraints "
        f"({_constraints(study)})."
    )
    if place == 1 and len(rivals) > 1:
        text += f" Next is {rivals[1].name} ({_numbers(study, rivals[1])})."
    return text


def _excluded(study: Study, model: Model) -> list[str]:
    """Name the best model by the first metric that does not meet the constraints, if it is better than the finalist."""
    best = study.run.config.best
    metric = METRICS[best.metrics[0]]
    sign = 1 if metric.greater_is_better else -1
    rivals = [
        other
        for other in study.run.models.values()
        if other.stage == study.last_stage
        and _group(other, best.per) == _group(model, best.per)
        and other.id not in study.eligible
        and sign * other.scores[metric.name] > sign * model.scores[metric.name]
    ]
    if not rivals:
        return []
    first = max(rivals, key=lambda other: sign * float(other.scores[metric.name]))
    return [
        f"Better by {_words(metric.name)}, but outside the constraints: {len(rivals)}, the first {first.name} "
        f"({_words(metric.name)} {first.scores[metric.name]:.4g}, {first.scores['n_clusters']} clusters, coverage "
        f"{first.scores['coverage']:.0%}, largest cluster {first.scores['largest_share']:.0%})."
    ]


def _structure(model: Model) -> list[str]:
    """Say what its silhouette means (Kaufman & Rousseeuw 1990, table 4)."""
    value = model.scores["silhouette_score"]
    if np.isnan(value):
        return []
    words = next(words for least, words in _STRUCTURE if value > least)
    return [f"A silhouette of {value:.2f} is a sign of {words} (Kaufman & Rousseeuw 1990)."]


def _group(model: Model, per: str) -> str:
    return {
        "descriptor": f"descriptor {model.cell.sample.descriptor}",
        "scaler": f"scaler {model.cell.scaler}",
        "cluster_class": model.cell.cluster_class,
    }[per]


def _front(study: Study, model: Model) -> str:
    of = f"of descriptor {model.cell.sample.descriptor}"
    if model.id in study.front:
        return f"No eligible model {of} is better in a metric or the coverage without being worse in another."
    missing = [_words(name) for name in METRICS if np.isnan(model.scores[name])]
    if missing:
        return f"It has no {missing[0]}, so that it is not compared in all metrics with the other models {of}."
    return f"Another eligible model {of} is at least as good in all metrics and the coverage, and better in one."


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
    texts = [
        f"{other.name} AMI {found.ami:.2f}, ARI {found.ari:.2f}" if found.n_rows else f"{other.name}, no row in common"
        for other, found in others
        if found
    ]
    return [f"Agreement with finalists of other descriptors: {'; '.join(texts)}."] if texts else []


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
    return pd.DataFrame(rows, columns=_COLUMNS)


def _finalist_ids(study: Study) -> set[str]:
    return {model.id for model in study.run.finalists}


def _other_descriptor(study: Study, pair: tuple[str, str]) -> bool:
    one, other = (study.run.models[model].cell.sample.descriptor for model in pair)
    return one != other


def write_finalists(study: Study, path: Path) -> None:
    """Write `finalists_table` as CSV."""
    with atomic_file(path) as file:
        finalists_table(study).to_csv(file, index=False, lineterminator="\n")
