"""How odd each row of a matrix is, measured in several ways, most of them from work that a run has done anyway.

A detector gives one measure, or one for each `min_samples`, the larger the odder, in its own units.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from toolkit.errors import InputError, MissingPackageError, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from toolkit.cluster.density import DensityForest
    from toolkit.memory import MemoryBudget

    Measures = dict[str, np.ndarray]  # what is behind the detector's name in a column -> (n_rows,) float64

PYOD = "pyod."  # before the name of a class of PyOD
_BLOCK_VALUES = 1 << 20  # of rows whose distances to centres are taken at a time
_FOREST_BYTES = 40  # of a row in an isolation forest
_SMOOTHED, _LEAST_REACHABILITY = "_smoothed", 0.5


class Evidence(Protocol):
    """What the detectors look at, made when it is asked for: a matrix, and what a run's models say of its rows.

    Attributes
    ----------
    X : ndarray (n_rows, n_features) float32
        Reduced.
    forest : DensityForest
        Of X, for every `min_samples`.
    min_samples : list of int
        From 2 to n_rows, ascending.
    noise_shares : ndarray (n_rows,) float64 or None
        See `noise_shares`; None without DBSCAN models.
    centre_distances : ndarray (n_rows,) float64 or None
        See `centre_distances`; None without KMeans models of all its rows.
    residuals : ndarray (n_rows,) float64 or None
        What the reduction has left out of each row; None if nothing.
    seed : int
    memory : MemoryBudget
    """

    @property
    def X(self) -> np.ndarray: ...  # noqa: D102, N802
    @property
    def forest(self) -> DensityForest: ...  # noqa: D102
    @property
    def min_samples(self) -> list[int]: ...  # noqa: D102
    @property
    def noise_shares(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def centre_distances(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def residuals(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def memory(self) -> MemoryBudget: ...  # noqa: D102


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
    scored : str
        How the names of the measures end that count; the others are shown beside them.
    """

    title: str
    measure: Callable[[Evidence], Measures]
    over: Callable[..., Any] = np.mean
    scored: str = ""

    def score(self, measures: Measures) -> np.ndarray:
        """Return what counts, (n_rows,) float64."""
        return np.asarray(self.over([one for name, one in measures.items() if name.endswith(self.scored)], axis=0))


def noise_shares(forest: DensityForest, cells: list[tuple[float, int]]) -> np.ndarray:
    """Return in which share of DBSCAN models each row is noise, (n_rows,) float64.

    Parameters
    ----------
    forest : DensityForest
        For every `min_samples` of the cells that is at most the number of rows.
    cells : list of (float, int)
        eps and min_samples of each model, at least one.
    """
    n_noise = np.zeros(forest.n_samples)
    for min_samples in sorted({value for _, value in cells}):
        eps = np.sort([radius for radius, value in cells if value == min_samples])
        if min_samples > forest.n_samples:
            n_noise += len(eps)
        else:
            n_noise += np.searchsorted(eps, forest.noise_radius(min_samples=min_samples), side="left")
    return np.asarray(n_noise / len(cells))


def centre_distances(X: np.ndarray, partitions: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the mean, over KMeans models, of the distance to the row's centre, (n_rows,) float64.

    Parameters
    ----------
    X : ndarray (n_rows, n_features) float32
    partitions : list of (ndarray (n_rows,) int, ndarray (n_clusters, n_features) float64)
        Labels and centres, of at least one model.
    """
    total = np.zeros(len(X))
    size = max(1, _BLOCK_VALUES // X.shape[1])
    for labels, centres in partitions:
        for start in range(0, len(total), size):
            part = slice(start, start + size)
            away = X[part] - centres[labels[part]]
            total[part] += np.sqrt(np.einsum("ij,ij->i", away, away))
    return total / len(partitions)


def _dbscan_noise(seen: Evidence) -> Measures:
    if seen.noise_shares is None:
        raise NotMeasurableError("the grid has no DBSCAN for it")
    return {"": seen.noise_shares}


def _kmeans_distance(seen: Evidence) -> Measures:
    if seen.centre_distances is None:
        raise NotMeasurableError("no KMeans was fitted on all its rows with this scaler")
    return {"": seen.centre_distances}


def _pca_residual(seen: Evidence) -> Measures:
    if seen.residuals is None:
        raise NotMeasurableError("its reduction leaves nothing out")
    return {"": seen.residuals}


def _k_distance(seen: Evidence) -> Measures:
    return {f"_{k}": seen.forest.core_distances(min_samples=k) for k in seen.min_samples}


def _lof(seen: Evidence) -> Measures:
    """Return scikit-learn's factors, and those that count: among copies, as among rows that are not so close."""
    found = {}
    for k in seen.min_samples:
        found[f"_{k - 1}"] = seen.forest.local_outlier_factor(n_neighbors=k - 1)
        found[f"_{k - 1}{_SMOOTHED}"] = seen.forest.local_outlier_factor(
            n_neighbors=k - 1, least_reachability=_LEAST_REACHABILITY
        )
    return found


def _glosh(seen: Evidence) -> Measures:
    return {f"_{k}": seen.forest.outlier_scores(min_samples=k) for k in seen.min_samples}


def _isolation_forest(seen: Evidence) -> Measures:
    from sklearn.ensemble import IsolationForest

    seen.memory.require(_FOREST_BYTES * len(seen.X), f"an isolation forest of {len(seen.X):,} rows")
    # one thread: several add their trees' depths in the order in which they finish, which changes the last bits
    forest = IsolationForest(random_state=seen.seed).fit(seen.X)
    return {"": -forest.score_samples(seen.X)}


# Those that need another matrix first: so one of them is held at a time.
DETECTORS: dict[str, Detector] = {
    "dbscan_noise": Detector("share of the grid's DBSCAN models in which it is noise", _dbscan_noise),
    "kmeans_distance": Detector("distance to its KMeans centre, mean over the models", _kmeans_distance),
    "pca_residual": Detector("distance to its own projection: what the reduction leaves out", _pca_residual),
    "k_distance": Detector("distance to the min_samples-th nearest row, itself counted; mean", _k_distance),
    "lof": Detector("local outlier factor, smoothed among copies; largest", _lof, np.max, _SMOOTHED),
    "glosh": Detector("GLOSH: density against that of its cluster in the HDBSCAN hierarchy; mean", _glosh),
    "isolation_forest": Detector("isolation forest of 100 trees on 256 rows each", _isolation_forest),
}
ALL = "all"


def find_detectors(names: Iterable[str] = ()) -> dict[str, Detector]:
    """Return the detectors of these names, in this order; all of our own without names, or for ``all``.

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
        if name == ALL:
            found |= DETECTORS
        elif name.startswith(PYOD):
            found[name] = _pyod(name.removeprefix(PYOD))
        elif name in DETECTORS:
            found[name] = DETECTORS[name]
        else:
            raise unknown("detector", name, [ALL, *DETECTORS, f"{PYOD}NAME (for instance {PYOD}ECOD)"])
    return found or DETECTORS


def _pyod(name: str) -> Detector:
    spec = importlib.util.find_spec("pyod")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(f"detector {PYOD}{name} needs PyOD; pip install pyod")
    classes = _pyod_classes(Path(spec.submodule_search_locations[0]) / "models")
    if name not in classes:
        raise unknown("PyOD detector", name, classes)
    try:
        with _hushed():
            kind = getattr(importlib.import_module(f"pyod.models.{classes[name]}"), name)
    except ImportError as error:
        raise MissingPackageError(f"detector {PYOD}{name} needs more packages: {error}") from error

    def measure(seen: Evidence) -> Measures:
        seeded = {"random_state": seen.seed} if "random_state" in inspect.signature(kind).parameters else {}
        seen.memory.require(4 * seen.X.nbytes, f"PyOD's {name} on {len(seen.X):,} rows")
        with _hushed():
            return {"": np.asarray(kind(**seeded).fit(seen.X).decision_scores_, np.float64)}

    return Detector(f"PyOD's {name}", measure)


def _pyod_classes(folder: Path) -> dict[str, str]:
    """Return the module of each detector, from the sources: importing all of them would need all their packages."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("[!_]*.py")):
        if not path.stem.startswith("base"):
            text = path.read_text(encoding="utf-8", errors="replace")
            found |= dict.fromkeys(re.findall(r"^class (\w+)\(Base\w*Detector\)", text, re.MULTILINE), path.stem)
    return found


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep what somebody else's code prints and warns of off the terminal."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def measure(name: str, detector: Detector, seen: Evidence) -> Measures:
    """Measure the rows by a detector, (n_rows,) float64 each.

    Raises
    ------
    NotMeasurableError
        With the reason; whatever goes wrong in a detector of PyOD is one.
    """
    try:
        found = detector.measure(seen)
    except (InputError, OSError):
        raise
    except Exception as error:
        if not name.startswith(PYOD):
            raise
        raise NotMeasurableError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    if bad := sum(int(np.count_nonzero(~np.isfinite(one))) for one in found.values()):
        raise NotMeasurableError(f"it gives no number for {bad:,} rows")
    return found
