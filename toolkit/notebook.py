"""A grid search from a notebook."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit.backend.device import choose_backend
from toolkit.config import check_grid
from toolkit.descriptors.scale import SCALERS
from toolkit.errors import InputError, unknown
from toolkit.grid.fit import ENGINES, Fitted, Settings, fit_and_score
from toolkit.grid.plan import expand
from toolkit.score.partition import NOISE

if TYPE_CHECKING:
    from toolkit.descriptors.keeper import DataKeeper


_SCORES = ("n_clusters", "calinski_harabasz_score", "davies_bouldin_score", "silhouette_score")
_SHOWN = ("scaler", "cluster_class", "cluster_class_params", *_SCORES, "n_noise", "coverage", "largest_share")


def conduct_grid_search(
    selected_params: dict[str, dict[Any, dict[str, list[Any]]]],
    get_mesh: bool = True,  # noqa: FBT001, FBT002 (the signature that notebooks use)
    scaler: str = "norm",
    data_keeper: DataKeeper | None = None,
    data_fraction: float = 1.0,
    random_state: int | None = 0,
    *,
    engine: str = "shared",
    noise: str = "exclude",
    silhouette_rows: int = 10_000,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Fit and score a grid of models on scaled descriptors.

    Parameters
    ----------
    selected_params : dict
        Descriptor -> estimator -> parameter -> list of values. The estimator is ``"KMeans"``, ``"DBSCAN"``,
        ``"HDBSCAN"`` or a class of that name.
    get_mesh : bool
        True: all combinations of the values. False: the lists are of equal length and taken together, value by value.
    scaler : {"norm", "std", "l2", "none"}
    data_keeper : DataKeeper, optional
        By default one over the folder ``descriptors``, without reduction.
    data_fraction : float
        Share of the rows, chosen at random.
    random_state : int, optional
        For the rows and for KMeans.
    engine : {"shared", "reference", "cuml"}
        All models from one sweep and one density forest, or each alone by scikit-learn or by cuML.
    noise : {"exclude", "as_cluster"}
        Whether noise is left out of the scores, or counted as one more cluster.
    silhouette_rows : int
        Rows up to which the silhouette is exact; 0 leaves it out.
    device : {"auto", "cpu", "cuda"}
        Where the shared engine runs; "auto" is a GPU where one can be used.

    Returns
    -------
    list of dict
        One per model, with the scores and facts of the score tables, and which rows it has seen; ``labels`` is the
        whole array, (n_rows,) int. A model that could not be fitted has labels None and ``error``.

    Raises
    ------
    ValueError
        For an estimator, parameter or value that does not exist or is not allowed.
    """
    from toolkit.descriptors.keeper import DataKeeper

    keeper = data_keeper or DataKeeper()
    seed = secrets.randbits(32) if random_state is None else random_state
    if scaler not in SCALERS:
        raise unknown("scaler", scaler, SCALERS)
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if noise not in NOISE:
        raise unknown("noise", noise, NOISE)
    grids = {keeper.sample(name, data_fraction, seed): _named(grid) for name, grid in selected_params.items()}
    settings = Settings(
        engine=engine,
        noise=noise,
        silhouette_rows=silhouette_rows,
        seed=seed,
        memory=keeper.memory,
        backend=choose_backend(device, engine=engine)[0],
    )
    results = []
    for sample, grid in grids.items():
        X = keeper.scale(sample, scaler)
        cells = expand(grid) if get_mesh else _zip(grid)
        title = f"{sample.descriptor} {scaler}"
        models = [(family, dict(params)) for family, params in cells]
        fitted_models: dict[int, Fitted] = {}
        for batch in keeper.reporter.watch(title, fit_and_score(models, X, settings), len, len(models)):
            fitted_models |= batch
        for position, (family, params) in enumerate(models):
            fitted = fitted_models[position]
            if fitted.labels is None:
                keeper.reporter.warn(f"{title} {family} {params} failed: {fitted.row['error']}")
            what: dict[str, Any] = {"descriptor": sample.descriptor, "scaler": scaler, "cluster_class": family}
            what |= {"cluster_class_params": params, "labels": fitted.labels}
            scores = dict.fromkeys(_SCORES) | fitted.row
            results.append(what | scores | {"data_fraction": data_fraction, "random_state": seed})
        keeper.del_PCA()
    return results


def _named(grid: dict[Any, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
    """Replace estimator classes by their names and check the grid."""
    named = {
        family if isinstance(family, str) else family.__name__: {
            name: list(np.atleast_1d(np.asarray(values, dtype=object))) for name, values in parameters.items()
        }
        for family, parameters in grid.items()
    }
    return check_grid({f: {n: [_plain(v) for v in vs] for n, vs in ps.items()} for f, ps in named.items()})


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _zip(grid: dict[str, dict[str, list[Any]]]) -> list[tuple[str, tuple[tuple[str, Any], ...]]]:
    """Take the value lists of each estimator together, value by value."""
    cells = []
    for family, parameters in grid.items():
        lengths = {name: len(values) for name, values in parameters.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"get_mesh=False takes lists of equal length; {family} has {lengths}")
        cells += [
            (family, tuple(zip(parameters, values, strict=True))) for values in zip(*parameters.values(), strict=True)
        ]
    return cells


def display_models(cluster_df: pd.DataFrame | list[dict[str, Any]], head_rows: int = 5) -> pd.DataFrame:
    """Show the best models of each descriptor.

    Parameters
    ----------
    cluster_df : DataFrame or list of dict
        What `conduct_grid_search` returned, or a score table.
    head_rows : int
        How many models of each descriptor and estimator, so that every estimator is seen.

    Returns
    -------
    DataFrame
        Per descriptor: sorted by estimator, Calinski-Harabasz descending, Davies-Bouldin ascending. In a notebook it
        is displayed too, descriptor by descriptor; elsewhere it is printed.
    """
    models = pd.DataFrame(cluster_df)
    if models.empty:
        raise InputError("there is no model to display")
    ordered = models.sort_values(
        ["descriptor", "cluster_class", "calinski_harabasz_score", "davies_bouldin_score"],
        ascending=[True, True, False, True],
        kind="stable",
    )
    best = ordered.groupby(["descriptor", "cluster_class"], sort=False).head(head_rows)
    for descriptor, table in best.groupby("descriptor"):
        _show(str(descriptor), table[[column for column in _SHOWN if column in table]])
    return best


def _show(title: str, table: pd.DataFrame) -> None:
    print(title)
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        get_ipython = None
    if get_ipython and get_ipython():
        display(table)
    else:
        print(table.to_string(index=False))
