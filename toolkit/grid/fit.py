"""Fit and score the models of one matrix; whatever goes wrong with one is its own row's error."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.cluster import shared
from toolkit.cluster.density import DensityForest
from toolkit.cluster.reference import fit_labels
from toolkit.score.partition import score_labellings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from toolkit.cluster.shared import Result
    from toolkit.memory import MemoryBudget

Model = tuple[str, dict[str, Any]]  # estimator, parameters
_REFERENCE_FACTS = {"exactness": "exact", "precision": "float32", "tie_rule": "scikit-learn"}


@dataclass(frozen=True)
class Settings:
    """What all models of a grid are fitted and scored with; see `Config` for the meanings."""

    engine: str
    noise: str
    silhouette_rows: int
    seed: int
    memory: MemoryBudget


@dataclass(frozen=True)
class Fitted:
    """A model.

    Attributes
    ----------
    row : dict
        Scores and facts, under the names of the score tables' columns; only ``error`` if the fit failed.
    labels : ndarray (n_rows,) int or None
    """

    row: dict[str, Any]
    labels: np.ndarray | None


def fit_and_score(
    models: Sequence[Model],
    X: np.ndarray,
    settings: Settings,
    *,
    forest_of: Callable[[list[int]], DensityForest] | None = None,
) -> Iterator[dict[int, Fitted]]:
    """Fit models to X, (n_rows, n_components) float32, and score their labels.

    Parameters
    ----------
    models : sequence of (estimator, parameters)
    X : ndarray
    settings : Settings
    forest_of : callable, optional
        Returns a density forest of X for a list of `min_samples`; without it, one is made.

    Yields
    ------
    dict of int to Fitted
        By position in `models`, as soon as some are finished; each model once.
    """
    forests = forest_of or (lambda values: DensityForest(values, memory=settings.memory).fit(X))
    for batch in ENGINES[settings.engine](models, X, settings, forests):
        yield _score(batch, models, X, settings)


@dataclass(frozen=True)
class _Labels:
    """What an engine says of a model: labels or an error, warnings, its share of the seconds."""

    result: Result
    warning: str | None
    seconds: float


def _reference(
    models: Sequence[Model], X: np.ndarray, settings: Settings, _: Callable[[list[int]], DensityForest]
) -> Iterator[dict[int, _Labels]]:
    """Fit every model alone, by scikit-learn."""
    for position, (family, params) in enumerate(models):
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result: Result
            try:
                result = fit_labels(family, params, X, seed=settings.seed, memory=settings.memory)
            except OSError:
                raise  # the disk, not the model
            except Exception as error:  # a library's bug in one cell must not cost the others
                result = error
        texts = sorted({_one_line(warning.message) for warning in caught})
        yield {position: _Labels(result, "; ".join(texts) or None, time.perf_counter() - start)}


def _shared(
    models: Sequence[Model], X: np.ndarray, settings: Settings, forest_of: Callable[[list[int]], DensityForest]
) -> Iterator[dict[int, _Labels]]:
    """Fit the models by sweeps and a forest; each batch's seconds are shared evenly by its models."""
    sweep = [position for position, (family, _) in enumerate(models) if family == "KMeans"]
    density = [position for position, (family, _) in enumerate(models) if family != "KMeans"]
    parts: list[tuple[list[int], Iterator[dict[int, Result]]]] = []
    if sweep:
        cells = [models[position][1] for position in sweep]
        parts.append((sweep, shared.fit_sweep(cells, X, seed=settings.seed, memory=settings.memory)))
    if density:
        parts.append((density, shared.fit_density([models[p] for p in density], X, forest_of=forest_of)))
    for positions, batches in parts:
        start = time.perf_counter()
        for batch in batches:
            seconds = (time.perf_counter() - start) / len(batch)
            yield {
                positions[at]: _Labels(result, _warning(models[positions[at]], result), seconds)
                for at, result in batch.items()
            }
            start = time.perf_counter()


def _warning(model: Model, result: Result) -> str | None:
    """Say, as scikit-learn's KMeans does, that there are fewer distinct rows than clusters."""
    family, params = model
    if family != "KMeans" or isinstance(result, Exception):
        return None
    distinct, asked = len(np.unique(result)), params.get("n_clusters", 8)
    if distinct == asked:
        return None
    return f"Number of distinct clusters ({distinct}) found smaller than n_clusters ({asked}); duplicate rows in X"


ENGINES = {"shared": _shared, "reference": _reference}


def _score(batch: dict[int, _Labels], models: Sequence[Model], X: np.ndarray, settings: Settings) -> dict[int, Fitted]:
    start = time.perf_counter()
    done: dict[int, Fitted] = {}
    labels: dict[int, np.ndarray] = {}
    for at, fit in batch.items():
        if isinstance(fit.result, Exception):
            done[at] = Fitted({"error": f"{type(fit.result).__name__}: {_one_line(fit.result)}"}, None)
        else:
            labels[at] = fit.result
    scores = score_labellings(
        X,
        list(labels.values()),
        noise=settings.noise,
        silhouette_rows=settings.silhouette_rows,
        seed=settings.seed,
        memory=settings.memory,
    )
    seconds = (time.perf_counter() - start) / max(len(labels), 1)
    for at, row in zip(labels, scores, strict=True):
        facts = shared.FACTS[models[at][0]] if settings.engine == "shared" else _REFERENCE_FACTS
        row |= {"n_rows": len(X), "n_components": X.shape[1], "engine": settings.engine, "device": "cpu"} | facts
        row |= {"warning": batch[at].warning, "fit_seconds": round(batch[at].seconds, 6)}
        done[at] = Fitted(row | {"score_seconds": round(seconds, 6)}, labels[at])
    return done


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
