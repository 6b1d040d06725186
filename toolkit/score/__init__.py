"""Scores of a labelling: one file per family, and the registry of all of them.

An entry of `METRICS` is a column of every table, a key of what `score_labellings` returns, and a case of every
property that tests/test_score.py demands of a metric (an oracle; no change under renaming, shuffling, moving, turning
and scaling; noise like removed rows; nothing where there are no two clusters).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A score of a labelling.

    Attributes
    ----------
    name : str
        Its column in every table.
    greater_is_better : bool
    meaning : str
        One line for people.
    """

    name: str
    greater_is_better: bool
    meaning: str


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "calinski_harabasz_score",
            greater_is_better=True,
            meaning="between- over within-cluster variance (Calinski & Harabasz 1974)",
        ),
        Metric(
            "davies_bouldin_score",
            greater_is_better=False,
            meaning="mean similarity of a cluster to its most similar one (Davies & Bouldin 1979)",
        ),
        Metric(
            "silhouette_score",
            greater_is_better=True,
            meaning="mean silhouette (Rousseeuw 1987), on the silhouette_rows rows of the same table row",
        ),
    )
}
