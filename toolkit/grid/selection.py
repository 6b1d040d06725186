"""Which models are worth looking at: constraints, then one metric, or the ranks in several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from toolkit.score import METRICS

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.config import Best


def eligible(models: pd.DataFrame, best: Best) -> pd.DataFrame:
    """Return the models that have the metrics and meet the constraints of `best`."""
    most = np.inf if best.max_clusters is None else best.max_clusters
    return models[
        models[list(best.metrics)].notna().all(axis=1)
        & (models["coverage"] >= best.min_coverage)
        & (models["largest_share"] <= best.max_largest_share)
        & ~(models["n_clusters"] < best.min_clusters).fillna(value=False)
        & ~(models["n_clusters"] > most).fillna(value=False)
    ]


def rank(models: pd.DataFrame, best: Best) -> pd.DataFrame:
    """Return the eligible models, the best first; ties keep the order of the table.

    The best by one metric; or by the mean of their ranks in several (Borda's count), each the share of the eligible
    models of the same descriptor that are better, since scores of different descriptors do not compare.
    """
    chosen = eligible(models, best)
    if len(best.metrics) == 1:
        ascending = not METRICS[best.metrics[0]].greater_is_better
        return chosen.sort_values(best.metrics[0], ascending=ascending, kind="stable")
    of_descriptor = chosen.groupby("descriptor")
    n_models = of_descriptor[best.metrics[0]].transform("size")
    better = [of_descriptor[name].rank(ascending=not METRICS[name].greater_is_better) - 1 for name in best.metrics]
    return chosen.iloc[np.argsort(np.mean([one / n_models for one in better], axis=0), kind="stable")]


def contenders(models: pd.DataFrame, best: Best) -> pd.DataFrame:
    """Return `rank`, but one model for each labelling that models of a group (see `best.per`) and matrix share.

    They are told by their scores: all the same to the last bit, in one matrix, is one labelling.
    """
    same = list(dict.fromkeys([best.per, "descriptor", "scaler", "n_clusters", "coverage", *METRICS]))
    return rank(models, best).drop_duplicates(same)


def finalists(models: pd.DataFrame, best: Best) -> pd.DataFrame:
    """Return the `best.top` best labellings of each descriptor (or whatever `best.per` says), the best of all first."""
    return contenders(models, best).groupby(best.per, sort=False).head(best.top)


def pareto(models: pd.DataFrame) -> np.ndarray:
    """Return which models are on the Pareto front of their descriptor: no other is better, or as good, in everything.

    Compared are the coverage and all metrics that any model has; scores in spaces of different descriptors do not
    compare. A model without one of them is on no front.

    Parameters
    ----------
    models : DataFrame
        A score table.

    Returns
    -------
    ndarray (n_models,) bool
    """
    signs = {name: 1.0 if metric.greater_is_better else -1.0 for name, metric in METRICS.items()} | {"coverage": 1.0}
    signs = {name: sign for name, sign in signs.items() if models[name].notna().any()}
    if not signs:
        return np.zeros(len(models), bool)
    values = np.column_stack([sign * models[name].to_numpy(float) for name, sign in signs.items()])
    front = np.asarray(np.isfinite(values).all(axis=1))
    descriptors = models["descriptor"].to_numpy(str)
    for i in np.flatnonzero(front):
        rivals = values[(descriptors == descriptors[i])]
        front[i] = not ((rivals >= values[i]).all(axis=1) & (rivals > values[i]).any(axis=1)).any()
    return front
