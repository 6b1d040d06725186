"""The shared engine: all cells of a matrix as one KMeans sweep and one density forest."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.cluster.labelling import Labelling, Result
from toolkit.errors import InputError, MemoryBudgetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from toolkit.backend.base import Backend
    from toolkit.cluster.density import DensityForest
    from toolkit.memory import MemoryBudget

Params = dict[str, Any]

# How the cells of an estimator get their labels; shown in every row of the tables.
FACTS = {
    "KMeans": {"exactness": "exact assignment", "precision": "float64", "tie_rule": "lowest-numbered centre"},
    "DBSCAN": {"exactness": "exact", "precision": "float64", "tie_rule": "lowest-numbered cluster"},
    "HDBSCAN": {"exactness": "exact", "precision": "float64", "tie_rule": "equal weights merge at once"},
}
SHARED_BY = {"KMeans": "KMeans", "DBSCAN": "density", "HDBSCAN": "density"}  # what computes an estimator's cells


def fit_sweep(
    cells: list[Params],
    X: np.ndarray,
    *,
    seed: int,
    memory: MemoryBudget,
    backend: Backend,
    advance: Callable[[float], None],
) -> Iterator[dict[int, Result]]:
    """Fit KMeans cells, those with the same options together; yield labels by position in `cells`.

    Parameters
    ----------
    cells : list of dict
        scikit-learn's parameters; the best of 10 starts unless ``n_init`` says otherwise.
    X : ndarray (n_samples, n_features) float32 or float64
    seed : int
    memory : MemoryBudget
    backend : Backend
    advance : callable
        Told the share of the work that was done.
    """
    from sklearn.exceptions import ConvergenceWarning

    from toolkit.cluster.estimators import kmeans_sweep

    sweeps: dict[str, tuple[Params, dict[int, int]]] = {}
    for position, params in enumerate(cells):
        options: Params = {name: value for name, value in ({"n_init": 10} | params).items() if name != "n_clusters"}
        sweeps.setdefault(repr(sorted(options.items())), (options, {}))[1][position] = params.get("n_clusters", 8)
    for options, wanted in sweeps.values():
        results: dict[int, Result] = {
            position: InputError(f"n_clusters is {k}; allowed: at most the number of rows, {len(X):,}")
            for position, k in wanted.items()
            if k > len(X)
        }
        told = partial(_scaled, advance, len(wanted) / len(cells))
        while possible := {position: k for position, k in wanted.items() if position not in results}:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)  # the tables say it
                    models = kmeans_sweep(
                        X,
                        possible.values(),
                        random_state=seed,
                        memory=memory,
                        device=backend,
                        advance=told,
                        **options,
                    )
            except OSError:
                raise  # the disk, not the models
            except MemoryBudgetError as error:  # the smaller ones may fit, and do not depend on the others
                results |= {position: error for position, k in possible.items() if k == max(possible.values())}
            except Exception as error:  # costs these models, not the run
                results |= dict.fromkeys(possible, error)
            else:
                results |= {
                    position: Labelling(models[k].labels_, models[k].cluster_centers_)
                    for position, k in possible.items()
                }
        yield results


def _scaled(advance: Callable[[float], None], factor: float, share: float) -> None:
    advance(factor * share)


def fit_density(
    cells: list[tuple[str, Params]],
    X: np.ndarray,
    *,
    forest_of: Callable[[list[int], Callable[[float], None]], DensityForest],
    advance: Callable[[float], None],
) -> Iterator[dict[int, Result]]:
    """Cut DBSCAN and HDBSCAN cells from one forest; yield labels by position in `cells`, all together.

    Parameters
    ----------
    cells : list of (estimator, parameters)
    X : ndarray (n_samples, n_features) float32 or float64
    forest_of : callable
        Returns a forest of X for these values of `min_samples`; it hands `advance` on.
    advance : callable
        Told the share of the work that was done.
    """
    needed = [_min_samples(params) for _, params in cells]
    results: dict[int, Result] = {}
    for position, (family, _) in enumerate(cells):
        if needed[position] > len(X):
            results[position] = (
                Labelling(np.full(len(X), -1, np.int32))
                if family == "DBSCAN"
                else InputError(f"min_samples ({needed[position]}) must be at most the number of samples ({len(X)})")
            )
    while left := sorted({value for position, value in enumerate(needed) if position not in results}):
        try:
            forest = forest_of(left, advance)
        except OSError:
            raise
        except MemoryBudgetError as error:  # shorter lists may fit
            results |= {position: error for position, value in enumerate(needed) if value == left[-1]}
            continue
        except Exception as error:
            results |= {position: error for position in range(len(cells)) if position not in results}
            break
        for min_samples in left:
            here = [p for p, value in enumerate(needed) if value == min_samples and p not in results]
            cuts = [position for position in here if cells[position][0] == "DBSCAN"]
            try:
                labels = forest.dbscan_many([cells[position][1]["eps"] for position in cuts], min_samples)
                results |= {p: Labelling(found.astype(np.int32)) for p, found in zip(cuts, labels, strict=True)}
            except Exception as error:
                results |= dict.fromkeys(cuts, error)
            for position in sorted(set(here) - set(cuts)):
                try:
                    results[position] = Labelling(forest.hdbscan(**cells[position][1]).astype(np.int32))
                except Exception as error:
                    results[position] = error
    yield results


def _min_samples(params: Params) -> int:
    value: int | None = params.get("min_samples")
    return int(params["min_cluster_size"]) if value is None else value


def largest_min_samples(cells: list[Params], n_rows: int) -> int:
    """Return the `min_samples` that a forest for density cells of a matrix needs; 0 if none of them needs one."""
    return max((value for value in map(_min_samples, cells) if value <= n_rows), default=0)
