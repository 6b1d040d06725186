"""The pictures of a report: one function each, from a study and a descriptor to a figure and its caption.

An entry of `FIGURES` is a file ``plots/DESCRIPTOR_NAME.png`` and a picture in the HTML report. A function returns None
where there is nothing to draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.report.figures import density, labellings, maps, scores, silhouettes

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from toolkit.report.study import Study


@dataclass(frozen=True)
class Kind:
    """A picture that every descriptor has."""

    title: str
    draw: Callable[[Study, str], tuple[Figure, str] | None]


@dataclass(frozen=True)
class RunKind:
    """A picture that a run has once."""

    title: str
    draw: Callable[[Study], tuple[Figure, str] | None]


FIGURES = {
    "n_clusters_score": Kind("Scores against the number of clusters", scores.scores_by_n_clusters),
    "countplot": Kind("Cluster sizes", labellings.cluster_sizes),
    "umap_2": Kind("UMAP", maps.umap_2),
    "umap_2_dense": Kind("UMAP, dense part", maps.umap_2_dense),
    "umap_3": Kind("UMAP in three dimensions", maps.umap_3),
    "tsne_2": Kind("t-SNE", maps.tsne_2),
    "pca_2": Kind("Principal components", maps.pca_2),
    "pca_3": Kind("Principal components in three dimensions", maps.pca_3),
    "silhouette_n_clusters": Kind("Silhouette of six algorithms", silhouettes.algorithms),
    "silhouette_profile": Kind("Silhouette of each row", silhouettes.profile),
    "k_distance": Kind("Distance to the k-th neighbour", density.k_distance),
    "condensed_tree": Kind("Condensed tree", density.condensed_tree),
}
AGREEMENT = RunKind("Agreement between the best models", labellings.agreement_map)
