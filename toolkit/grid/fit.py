"""Fit and score the models of one matrix; whatever goes wrong with one is its own row's error."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backend.cpu import CpuBackend
from toolkit.backend.cuda import cuml
from toolkit.cluster import reference, shared
from toolkit.cluster.density import DensityForest
from toolkit.errors import InputError
from toolkit.memory import MemoryBudget
from toolkit.score.partition import score_labellings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from toolkit.backend.base import Backend
    from toolkit.cluster.labelling import Labelling, Result

    ForestOf = Callable[[list[int], Callable[[float], None]], DensityForest]

Model = tuple[str, dict[str, Any]]  # estimator, parameters


@dataclass(frozen=True)
class Settings:
    """What all models of a grid are fitted and scored with; see `Config` for the meanings."""

    engine: str
    noise: str
    silhouette_rows: int
    seed: int
    memory: MemoryBudget
    backend: Backend = field(default_factory=CpuBackend)


@dataclass(frozen=True)
class Fitted:
    """A model.

    Attributes
    ----------
    row : dict
        Scores and facts, under the names of the score tables' columns; only ``error`` if the fit failed.
    labels : ndarray (n_rows,) int or None
    centres : ndarray (n_clusters, n_components) float64 or None
        Of KMeans.
    """

    row: dict[str, Any]
    labels: np.ndarray | None
    centres: np.ndarray | None = None


def fit_and_score(
    models: Sequence[Model],
    X: np.ndarray,
    settings: Settings,
    *,
    forest_of: ForestOf | None = None,
    advance: Callable[[str, float], None] = lambda *_: None,
) -> Iterator[dict[int, Fitted]]:
    """Fit models to X, (n_rows, n_components) float32, and score their labels.

    Parameters
    ----------
    models : sequence of (estimator, parameters)
    X : ndarray
    settings : Settings
    forest_of : callable, optional
        Returns a density forest of X for a list of `min_samples`, telling a callable the share that is done; without
        it, one is made.
    advance : callable
        Told what was worked on (``"KMeans"``, ``"density"``, an estimator, ``"scores"``) and which share of all of it
        in these models was done.

    Yields
    ------
    dict of int to Fitted
        By position in `models`, as soon as some are finished; each model once.
    """

    def forest(values: list[int], told: Callable[[float], None]) -> DensityForest:
        return DensityForest(values, memory=settings.memory, device=settings.backend).fit(X, advance=told)

    forests = forest_of or forest
    for batch in ENGINES[settings.engine](models, X, settings, forests, advance):
        yield _score(batch, models, X, settings, advance)


@cache
def warm_up() -> None:
    """Load (on first use: compile) what the shared engine runs, so that it is held before memory is counted."""
    X = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    models: list[Model] = [("KMeans", {"n_clusters": 2, "n_init": 1}), ("HDBSCAN", {"min_cluster_size": 5})]
    models += [("DBSCAN", {"eps": 1.0, "min_samples": 5})]
    settings = Settings("shared", "exclude", 300, 0, MemoryBudget(1 << 40))
    for _ in fit_and_score(models, X, settings):
        pass


@dataclass(frozen=True)
class _Fit:
    """What an engine says of a model: a labelling or an error, warnings, its share of the seconds."""

    result: Result
    warning: str | None
    seconds: float


def _alone(
    fit_model: Callable[..., Labelling],
    models: Sequence[Model],
    X: np.ndarray,
    settings: Settings,
    _: ForestOf,
    advance: Callable[[str, float], None],
) -> Iterator[dict[int, _Fit]]:
    """Fit every model alone."""
    numbers = Counter(family for family, _ in models)
    for position, (family, params) in enumerate(models):
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result: Result
            try:
                result = fit_model(family, params, X, seed=settings.seed, memory=settings.memory)
            except OSError:
                raise  # the disk, not the model
            except Exception as error:  # a library's bug in one cell must not cost the others
                result = error
        advance(family, 1 / numbers[family])
        texts = sorted({_one_line(warning.message) for warning in caught})
        yield {position: _Fit(result, "; ".join(texts) or None, time.perf_counter() - start)}


def _shared(
    models: Sequence[Model],
    X: np.ndarray,
    settings: Settings,
    forest_of: ForestOf,
    advance: Callable[[str, float], None],
) -> Iterator[dict[int, _Fit]]:
    """Fit the models by sweeps and a forest; each batch's seconds are shared evenly by its models."""
    sweep = [position for position, (family, _) in enumerate(models) if family == "KMeans"]
    density = [position for position, (family, _) in enumerate(models) if family != "KMeans"]
    parts: list[tuple[list[int], Iterator[dict[int, Result]]]] = []
    if sweep:
        cells = [models[position][1] for position in sweep]
        told = partial(advance, "KMeans")
        how: dict[str, Any] = {"seed": settings.seed, "memory": settings.memory, "backend": settings.backend}
        parts.append((sweep, shared.fit_sweep(cells, X, advance=told, **how)))
    if density:
        told = partial(advance, "density")
        parts.append((density, shared.fit_density([models[p] for p in density], X, forest_of=forest_of, advance=told)))
    for positions, batches in parts:
        start = time.perf_counter()
        for batch in batches:
            seconds = (time.perf_counter() - start) / len(batch)
            yield {
                positions[at]: _Fit(result, _warning(models[positions[at]], result), seconds)
                for at, result in batch.items()
            }
            start = time.perf_counter()


def _warning(model: Model, result: Result) -> str | None:
    """Say, as scikit-learn's KMeans does, that there are fewer distinct rows than clusters."""
    family, params = model
    if family != "KMeans" or isinstance(result, Exception):
        return None
    distinct, asked = len(np.unique(result.labels)), params.get("n_clusters", 8)
    if distinct == asked:
        return None
    return f"Number of distinct clusters ({distinct}) found smaller than n_clusters ({asked}); duplicate rows in X"


ENGINES: dict[str, Callable[..., Iterator[dict[int, _Fit]]]] = {
    "shared": _shared,
    "reference": partial(_alone, reference.fit_model),
    "cuml": partial(_alone, cuml.fit_model),
}
_FACTS = {"shared": shared.FACTS, "reference": reference.FACTS, "cuml": cuml.FACTS}


def _score(
    batch: dict[int, _Fit],
    models: Sequence[Model],
    X: np.ndarray,
    settings: Settings,
    advance: Callable[[str, float], None],
) -> dict[int, Fitted]:
    start = time.perf_counter()
    done: dict[int, Fitted] = {}
    found: dict[int, Labelling] = {}
    for at, fit in batch.items():
        if isinstance(fit.result, Exception):
            done[at] = Fitted({"error": f"{type(fit.result).__name__}: {_one_line(fit.result)}"}, None)
        else:
            found[at] = fit.result
    step = len(batch) / len(models)
    labels = {at: labelling.labels for at, labelling in found.items()}
    scores = _score_all(X, labels, settings, _Steps(lambda share: advance("scores", share * step)))
    seconds = (time.perf_counter() - start) / max(len(labels), 1)
    for at, row in scores.items():
        if isinstance(row, Exception):
            done[at] = Fitted({"error": f"{type(row).__name__}: {_one_line(row)}"}, None)
            continue
        facts = _FACTS[settings.engine][models[at][0]]
        row |= {"n_rows": len(X), "n_components": X.shape[1], "engine": settings.engine} | facts
        row["device"] = settings.backend.name
        row |= {"warning": batch[at].warning, "fit_seconds": round(batch[at].seconds, 6)}
        done[at] = Fitted(row | {"score_seconds": round(seconds, 6)}, *found[at])
    return done


def _score_all(
    X: np.ndarray, labels: dict[int, np.ndarray], settings: Settings, progress: Callable[[float], None]
) -> dict[int, dict[str, Any] | Exception]:
    """Score labellings together, or, where that fails, one by one: one that cannot be scored costs its own row."""
    how: dict[str, Any] = {"noise": settings.noise, "silhouette_rows": settings.silhouette_rows, "seed": settings.seed}
    try:
        found = score_labellings(
            X, list(labels.values()), memory=settings.memory, backend=settings.backend, progress=progress, **how
        )
    except InputError as error:
        if len(labels) == 1:
            return dict.fromkeys(labels, error)
        return {at: _score_all(X, {at: one}, settings, lambda _: None)[at] for at, one in labels.items()}
    return dict(zip(labels, found, strict=True))


class _Steps:
    """Turns how far something is into how much was added."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self.advance, self.reached = advance, 0.0

    def __call__(self, reached: float) -> None:
        self.advance(reached - self.reached)
        self.reached = reached


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
