"""The shared engine: all cells of a matrix as one KMeans sweep and one density forest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from toolkit.cluster.density import DensityForest
    from toolkit.memory import MemoryBudget

Params = dict[str, Any]
Result = np.ndarray | Exception  # labels (n_samples,) int, or why there are none

# How the cells of an estimator get their labels; shown in every row of the tables.
FACTS = {
    "KMeans": {"exactness": "exact assignment", "precision": "float64", "tie_rule": "lowest-numbered centre"},
    "DBSCAN": {"exactness": "exact", "precision": "float64", "tie_rule": "lowest-numbered cluster"},
    "HDBSCAN": {"exactness": "exact", "precision": "float64", "tie_rule": "equal weights merge at once"},
}
SHARED_BY = {"KMeans": "KMeans", "DBSCAN": "density", "HDBSCAN": "density"}  # what computes an estimator's cells


def fit_sweep(cells: list[Params], X: np.ndarray, *, seed: int, memory: MemoryBudget) -> Iterator[dict[int, Result]]:
    """Fit KMeans cells, those with the same options together; yield labels by position in `cells`.

    Parameters
    ----------
    cells : list of dict
        scikit-learn's parameters; the best of 10 starts unless ``n_init`` says otherwise.
    X : ndarray (n_samples, n_features) float32 or float64
    seed : int
    memory : MemoryBudget
    """
    from toolkit.cluster.estimators import kmeans_sweep

    sweeps: dict[tuple[tuple[str, Any], ...], dict[int, int]] = {}
    for position, params in enumerate(cells):
        options = tuple(sorted(({"n_init": 10} | params).items()))
        rest = tuple(option for option in options if option[0] != "n_clusters")
        sweeps.setdefault(rest, {})[position] = params.get("n_clusters", 8)
    for rest, wanted in sweeps.items():
        results: dict[int, Result] = {
            position: InputError(f"n_clusters is {k}; allowed: at most the number of rows, {len(X):,}")
            for position, k in wanted.items()
            if k > len(X)
        }
        possible = {position: k for position, k in wanted.items() if position not in results}
        try:
            models = (
                kmeans_sweep(X, possible.values(), random_state=seed, memory=memory, **dict(rest)) if possible else {}
            )
            results |= {position: models[k].labels_ for position, k in possible.items()}
        except OSError:
            raise  # the disk, not the models
        except Exception as error:  # costs these models, not the run
            results |= dict.fromkeys(possible, error)
        yield results


def fit_density(
    cells: list[tuple[str, Params]], X: np.ndarray, *, forest_of: Callable[[list[int]], DensityForest]
) -> Iterator[dict[int, Result]]:
    """Cut DBSCAN and HDBSCAN cells from one forest; yield labels by position in `cells`.

    Parameters
    ----------
    cells : list of (estimator, parameters)
    X : ndarray (n_samples, n_features) float32 or float64
    forest_of : callable
        Returns a forest of X for these values of `min_samples`.
    """
    needed = [
        params["min_samples"] if params.get("min_samples") is not None else params["min_cluster_size"]
        for _, params in cells
    ]
    try:
        forest = forest_of(sorted({min(value, len(X)) for value in needed}))
    except OSError:
        raise
    except Exception as error:
        yield dict.fromkeys(range(len(cells)), error)
        return
    for min_samples in sorted(set(needed)):
        results: dict[int, Result] = {}
        here = [position for position, value in enumerate(needed) if value == min_samples]
        cuts = [position for position in here if cells[position][0] == "DBSCAN"]
        if cuts:
            radii = [cells[position][1]["eps"] for position in cuts]
            results |= dict(zip(cuts, forest.dbscan_many(radii, min_samples), strict=True))
        for position in sorted(set(here) - set(cuts)):
            try:
                results[position] = forest.hdbscan(**cells[position][1])
            except Exception as error:
                results[position] = error
        yield results
