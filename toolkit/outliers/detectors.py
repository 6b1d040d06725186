"""How odd each row of a matrix is, measured in several ways, most of them from work that a run has done anyway.

A detector gives one measure, or one for each `min_samples`, the larger the odder, in its own units.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import InputError, MissingPackageError, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from toolkit.cluster.density import DensityForest
    from toolkit.memory import MemoryBudget

    Measures = dict[str, np.ndarray]  # what is behind the detector's name in a column -> (n_rows,) float64

PYOD = "pyod."  # before the name of a class of PyOD
_BLOCK_VALUES = 1 << 20  # of rows whose distances to centres are taken at a time
_FOREST_BYTES = 200  # of a row in an isolation forest


@dataclass(frozen=True)
class Evidence:
    """What the detectors look at: a matrix, and what a run knows of it.

    Attributes
    ----------
    X : ndarray (n_rows, n_features) float32
        Reduced and scaled.
    forest : DensityForest
        Of X, for every `min_samples` here and in the cells.
    min_samples : list of int
        From 2 to n_rows, ascending.
    cells : list of (float, int)
        The DBSCAN models of the grid: eps, min_samples.
    partitions : list of (ndarray (n_rows,) int, ndarray (n_clusters, n_features) float64)
        Labels and centres of its KMeans models.
    residuals : ndarray (n_rows,) float64 or None
        What the reduction has left out of each row.
    seed : int
    memory : MemoryBudget
    """

    X: np.ndarray
    forest: DensityForest
    min_samples: list[int]
    cells: list[tuple[float, int]]
    partitions: list[tuple[np.ndarray, np.ndarray]]
    residuals: np.ndarray | None
    seed: int
    memory: MemoryBudget


class NotMeasurableError(InputError):
    """A detector needs something that the run has not got; the text is the reason."""


@dataclass(frozen=True)
class Detector:
    """A way to measure.

    Attributes
    ----------
    title : str
        What it measures, in words.
    measure : callable
        Raises `NotMeasurableError`.
    over : callable
        Makes one measure of those for several `min_samples`.
    """

    title: str
    measure: Callable[[Evidence], Measures]
    over: Callable[..., Any] = np.mean


def _k_distance(seen: Evidence) -> Measures:
    return {f"_{k}": seen.forest.core_distances(min_samples=k) for k in seen.min_samples}


def _lof(seen: Evidence) -> Measures:
    return {f"_{k - 1}": seen.forest.local_outlier_factor(n_neighbors=k - 1) for k in seen.min_samples}


def _glosh(seen: Evidence) -> Measures:
    return {f"_{k}": seen.forest.outlier_scores(min_samples=k) for k in seen.min_samples}


def _dbscan_noise(seen: Evidence) -> Measures:
    """Return the share of the grid's DBSCAN cells in which each row is noise."""
    if not seen.cells:
        raise NotMeasurableError("the grid has no DBSCAN for it")
    n_noise = np.zeros(len(seen.X))
    for min_samples in sorted({value for _, value in seen.cells}):
        eps = np.sort([radius for radius, value in seen.cells if value == min_samples])
        if min_samples > len(seen.X):
            n_noise += len(eps)
        else:
            n_noise += np.searchsorted(eps, seen.forest.noise_radius(min_samples=min_samples), side="left")
    return {"": n_noise / len(seen.cells)}


def _kmeans_distance(seen: Evidence) -> Measures:
    """Return the mean, over the KMeans models, of the distance to the row's centre."""
    if not seen.partitions:
        raise NotMeasurableError("no KMeans was fitted on all its rows with this scaler")
    total = np.zeros(len(seen.X))
    size = max(1, _BLOCK_VALUES // seen.X.shape[1])
    for labels, centres in seen.partitions:
        for start in range(0, len(total), size):
            part = slice(start, start + size)
            away = seen.X[part] - centres[labels[part]]
            total[part] += np.sqrt(np.einsum("ij,ij->i", away, away))
    return {"": total / len(seen.partitions)}


def _isolation_forest(seen: Evidence) -> Measures:
    from sklearn.ensemble import IsolationForest

    seen.memory.require(_FOREST_BYTES * len(seen.X), f"an isolation forest of {len(seen.X):,} rows")
    # one thread: several add their trees' depths in the order in which they finish, which changes the last bits
    forest = IsolationForest(random_state=seen.seed).fit(seen.X)
    return {"": -forest.score_samples(seen.X)}


def _pca_residual(seen: Evidence) -> Measures:
    if seen.residuals is None:
        raise NotMeasurableError("its reduction leaves nothing out")
    return {"": seen.residuals}


DETECTORS: dict[str, Detector] = {
    "k_distance": Detector("distance to the min_samples-th nearest row, itself counted; mean", _k_distance),
    "lof": Detector("local outlier factor, n_neighbors = min_samples - 1; largest", _lof, np.max),
    "glosh": Detector("GLOSH: density against that of its cluster in the HDBSCAN hierarchy; mean", _glosh),
    "dbscan_noise": Detector("share of the grid's DBSCAN models in which it is noise", _dbscan_noise),
    "kmeans_distance": Detector("distance to its KMeans centre, mean over the models", _kmeans_distance),
    "isolation_forest": Detector("isolation forest of 100 trees on 256 rows each", _isolation_forest),
    "pca_residual": Detector("distance to its own projection: what the reduction leaves out", _pca_residual),
}


def find_detectors(names: Iterable[str] = ()) -> dict[str, Detector]:
    """Return the detectors of these names, in this order; all of our own without names.

    ``pyod.ECOD`` is the class of that name in PyOD, with its defaults and the run's seed.

    Raises
    ------
    InputError
        For a name that does not exist, listing those that do.
    MissingPackageError
        If PyOD, or what one of its detectors needs, is not installed.
    """
    found: dict[str, Detector] = {}
    for name in names:
        if name in found:
            raise InputError(f"detector {name!r} is there twice; name each once")
        if name.startswith(PYOD):
            found[name] = _pyod(name.removeprefix(PYOD))
        elif name in DETECTORS:
            found[name] = DETECTORS[name]
        else:
            raise unknown("detector", name, [*DETECTORS, f"{PYOD}NAME (for instance {PYOD}ECOD)"])
    return found or DETECTORS


def _pyod(name: str) -> Detector:
    try:
        import pyod.models
    except ImportError as error:
        raise MissingPackageError(f"detector {PYOD}{name} needs PyOD; pip install pyod") from error
    modules = {module.name for module in pkgutil.iter_modules(pyod.models.__path__)}
    if name.lower() not in modules:
        raise unknown("PyOD detector", name, (one.upper() for one in modules if not one.startswith("_")))
    try:
        kind = getattr(importlib.import_module(f"pyod.models.{name.lower()}"), name)
    except ImportError as error:
        raise MissingPackageError(f"detector {PYOD}{name} needs more packages: {error}") from error
    except AttributeError as error:
        raise InputError(f"PyOD has no class {name!r} in pyod.models.{name.lower()}; look at its capitals") from error

    def measure(seen: Evidence) -> Measures:
        seeded = {"random_state": seen.seed} if "random_state" in inspect.signature(kind).parameters else {}
        seen.memory.require(4 * seen.X.nbytes, f"PyOD's {name} on {len(seen.X):,} rows")
        return {"": np.asarray(kind(**seeded).fit(seen.X).decision_scores_, np.float64)}

    return Detector(f"PyOD's {name}", measure)


def measure_rows(seen: Evidence, detectors: dict[str, Detector]) -> tuple[dict[str, Measures], dict[str, str]]:
    """Measure the rows by each detector.

    Parameters
    ----------
    seen : Evidence
    detectors : dict of str to Detector

    Returns
    -------
    measures : dict of str to dict
        Detector -> its measures, (n_rows,) float64 each.
    missing : dict of str to str
        Detector -> why it could not be used.
    """
    measures: dict[str, Measures] = {}
    missing: dict[str, str] = {}
    for name, detector in detectors.items():
        try:
            found = detector.measure(seen)
        except NotMeasurableError as error:
            missing[name] = str(error)
            continue
        except (InputError, MissingPackageError):
            raise
        except Exception as error:
            if not name.startswith(PYOD):
                raise
            missing[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"  # of somebody else's
            continue
        if bad := sum(int(np.count_nonzero(~np.isfinite(one))) for one in found.values()):
            missing[name] = f"it gives no number for {bad:,} rows"
        else:
            measures[name] = found
    return measures, missing
