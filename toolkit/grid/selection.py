"""Which models are worth looking at: constraints, then one metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.score import METRICS

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.config import Best


def eligible(models: pd.DataFrame, best: Best) -> pd.DataFrame:
    """Return the models that have the metric and cover enough rows without one cluster holding nearly all."""
    return models[
        models[best.by].notna()
        & (models["coverage"] >= best.min_coverage)
        & (models["largest_share"] <= best.max_largest_share)
    ]


def rank(models: pd.DataFrame, best: Best) -> pd.DataFrame:
    """Return the eligible models, the best by the metric first; ties keep the order of the table."""
    return eligible(models, best).sort_values(best.by, ascending=not METRICS[best.by].greater_is_better, kind="stable")


def finalists(models: pd.DataFrame, best: Best) -> pd.DataFrame:
    """Return the best model of each descriptor (or whatever `best.per` says), the best of all first."""
    return rank(models, best).drop_duplicates(best.per)
