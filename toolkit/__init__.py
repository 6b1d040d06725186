"""Cluster image descriptors at scale: PCA, scaling, a grid of KMeans, DBSCAN and HDBSCAN, scores, the best labelling.

Names are imported when they are first used, so that importing the package is fast and touches no device.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "DataLoader": "toolkit.descriptors.loader",
    "DataKeeper": "toolkit.descriptors.keeper",
    "DensityForest": "toolkit.cluster.density",
    "KMeans": "toolkit.cluster.estimators",
    "DBSCAN": "toolkit.cluster.density_estimators",
    "HDBSCAN": "toolkit.cluster.density_estimators",
    "kmeans_sweep": "toolkit.cluster.estimators",
    "conduct_grid_search": "toolkit.notebook",
    "display_models": "toolkit.notebook",
    "countplot_clusters": "toolkit.report.plots",
    "get_cluster_visualization": "toolkit.report.plots",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}; it has: {', '.join(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
