"""Scores of a labelling: one file per family, and the registry of all of them."""

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
