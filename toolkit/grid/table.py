"""The score table: its columns, their order, and how they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit.atomic import atomic_file

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = {
    "descriptor": "string",
    "scaler": "string",
    "cluster_class": "string",
    "cluster_class_params": "object",
    "labels": "string",
    "n_clusters": "Int64",
    "calinski_harabasz_score": "float64",
    "davies_bouldin_score": "float64",
    "silhouette_score": "float64",
    "silhouette_rows": "Int64",
    "n_noise": "Int64",
    "coverage": "float64",
    "largest_share": "float64",
    "n_rows": "Int64",
    "n_components": "Int64",
    "exactness": "string",
    "precision": "string",
    "tie_rule": "string",
    "device": "string",
    "engine": "string",
    "model": "string",
    "error": "string",
    "warning": "string",
    "fit_seconds": "float64",
    "score_seconds": "float64",
}


def score_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Make the table of models: `labels` holds shortened text, `cluster_class_params` dicts."""
    table = pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in COLUMNS})
    return table.astype(COLUMNS)


def export_scores(table: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV."""
    with atomic_file(path) as file:
        texts = table.assign(cluster_class_params=table["cluster_class_params"].map(str))
        texts.to_csv(file, index=False, lineterminator="\n")


def shorten(labels: np.ndarray) -> str:
    """Write labels as NumPy prints a long array: the first and last three (the store has all)."""
    return np.array2string(labels, threshold=6, edgeitems=3, separator=" ", max_line_width=1000)


def model_name(model: pd.Series) -> str:
    """Name a model for people and for column headers: ``osnet_norm_DBSCAN_eps=1_min_samples=16``."""
    params = "_".join(f"{name}={value}" for name, value in model["cluster_class_params"].items())
    return f"{model['descriptor']}_{model['scaler']}_{model['cluster_class']}_{params}"
