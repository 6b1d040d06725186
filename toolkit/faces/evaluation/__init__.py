"""How good descriptors, or clusters of them, are where the identity of every image is known.

Identities are the folders that images lie in, or a CSV of paths and identities. Descriptors are judged by the
distances of pairs of rows, clusters by their contingency table with the identities.
"""

from toolkit.faces.evaluation.descriptors import METRICS, DescriptorEvaluation, evaluate_descriptors
from toolkit.faces.evaluation.identities import match_paths
from toolkit.faces.evaluation.labels import LabelEvaluation, evaluate_labels
from toolkit.faces.evaluation.write import write_evaluation

__all__ = [
    "METRICS",
    "DescriptorEvaluation",
    "LabelEvaluation",
    "evaluate_descriptors",
    "evaluate_labels",
    "match_paths",
    "write_evaluation",
]
