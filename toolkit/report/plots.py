"""Plots for notebooks: how large clusters are, and where they lie."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from toolkit.errors import InputError
from toolkit.report.drawing import draw_counts, draw_map, params_text, wrapped
from toolkit.report.maps import umap_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.descriptors.keeper import DataKeeper, Sample

_MAX_COLUMNS = 4
_TITLE_CHARACTERS = 11  # per inch


def countplot_clusters(cluster_df: pd.DataFrame | list[dict[str, Any]], sidesize: float = 4) -> np.ndarray:
    """Draw how many rows each cluster of each model has.

    Parameters
    ----------
    cluster_df : DataFrame or list of dict
        Models with whole label arrays, as `conduct_grid_search` returns them.
    sidesize : float
        Inches of the side of one plot.

    Returns
    -------
    ndarray of matplotlib Axes
        One per model, titled descriptor / estimator / parameters; noise is grey.
    """
    models = _with_labels(cluster_df)
    axes = _grid_of_axes(len(models), sidesize)
    for (_, model), ax in zip(models.iterrows(), axes, strict=True):
        draw_counts(ax, model["labels"])
        _title(ax, model)
    return axes


def get_cluster_visualization(
    cluster_df: pd.DataFrame | list[dict[str, Any]],
    data_keeper: DataKeeper,
    n_components: int = 2,
    thresh: Sequence[tuple[float, float]] | None = None,
    sidesize: float = 6,
    *,
    random_state: int = 0,
    device: str = "auto",
) -> np.ndarray:
    """Draw the rows as a UMAP scatter, coloured by cluster, one plot per model.

    The map is computed once for each descriptor and scaler and shared by its models.

    Parameters
    ----------
    cluster_df : DataFrame or list of dict
        Models with whole label arrays, as `conduct_grid_search` returns them.
    data_keeper : DataKeeper
        The one that the models were fitted with.
    n_components : {2, 3}
        Dimensions of the map.
    thresh : sequence of (low, high), optional
        One range per dimension of the map; only points inside all of them are drawn.
    sidesize : float
        Inches of the side of one plot.
    random_state : int
        Of UMAP (McInnes, Healy & Melville 2018).
    device : {"auto", "cpu", "cuda"}
        Where the map is made; see `toolkit.report.maps.umap_map`.

    Returns
    -------
    ndarray of matplotlib Axes
        Noise is grey.
    """
    if n_components not in (2, 3):
        raise InputError(f"n_components is {n_components}; a map has 2 or 3 dimensions")
    ranges = _check_ranges(thresh, n_components)
    models = _with_labels(cluster_df)
    maps: dict[tuple[Sample, str], np.ndarray] = {}
    axes = _grid_of_axes(len(models), sidesize, projection="3d" if n_components == 3 else None)
    for (_, model), ax in zip(models.iterrows(), axes, strict=True):
        rows = float(model.get("data_fraction", 1.0)), int(model.get("random_state", 0))
        sample = data_keeper.sample(str(model["descriptor"]), *rows)
        key = (sample, str(model["scaler"]))
        if key not in maps:
            maps[key] = umap_map(data_keeper.scale(*key), n_components, random_state, device=device)
        if len(maps[key]) != len(model["labels"]):
            raise InputError(
                f"the model has {len(model['labels']):,} labels, data_keeper gives {len(maps[key]):,} rows of "
                f"{sample.descriptor}; use the data_keeper that the model was fitted with"
            )
        draw_map(ax, maps[key], np.asarray(model["labels"]), ranges=ranges)
        _title(ax, model)
    return axes


def _check_ranges(thresh: Any, n_components: int) -> list[tuple[float, float]]:
    """Return one (low, high) per dimension; none means everything."""
    if thresh is None:
        return [(-np.inf, np.inf)] * n_components
    try:
        ranges = [(float(low), float(high)) for low, high in thresh]
    except (TypeError, ValueError):
        ranges = []
    if len(ranges) == n_components:
        return ranges
    raise InputError(
        f"thresh is {thresh!r:.60}; allowed: one (low, high) for each of {n_components} dimensions, or None"
    )


def _with_labels(cluster_df: pd.DataFrame | list[dict[str, Any]]) -> pd.DataFrame:
    models = pd.DataFrame(cluster_df)
    if models.empty:
        raise InputError("there is no model to draw")
    models = models[models["labels"].notna()]  # a model that could not be fitted has none
    for labels in models["labels"]:
        if not isinstance(labels, np.ndarray):
            raise InputError(
                f"labels are {type(labels).__name__}, not an array (a CSV holds them shortened); pass what "
                f"conduct_grid_search returned"
            )
    return models


def _grid_of_axes(n_axes: int, sidesize: float, projection: str | None = None) -> np.ndarray:
    columns = min(n_axes, _MAX_COLUMNS)
    rows = math.ceil(n_axes / columns)
    figure = plt.figure(figsize=(sidesize * columns, sidesize * rows), layout="constrained")
    return np.array([figure.add_subplot(rows, columns, i + 1, projection=projection) for i in range(n_axes)])


def _title(ax: Any, model: pd.Series) -> None:
    width = int(ax.figure.get_size_inches()[0] / max(_columns(ax), 1) * _TITLE_CHARACTERS)
    params = wrapped(params_text(model["cluster_class_params"]), width)
    ax.set_title(f"{model['descriptor']} / {model['cluster_class']}\n{params}", fontsize=10)


def _columns(ax: Any) -> int:
    return int(ax.get_subplotspec().get_gridspec().ncols)
