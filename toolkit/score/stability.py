"""Stability of labellings: whether random halves of the rows show the same clusters (Hennig 2007)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from toolkit.cluster import shared
from toolkit.cluster.density import DensityForest
from toolkit.score.agreement import cluster_overlaps, rand_index

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from toolkit.backend.base import Backend
    from toolkit.cluster.labelling import Result
    from toolkit.memory import MemoryBudget

    Model = tuple[str, dict[str, Any]]  # estimator, parameters

_COUNTED = ("min_samples", "min_cluster_size", "max_cluster_size")  # parameters that are numbers of rows
_LEAST = {"min_samples": 2, "min_cluster_size": 2, "max_cluster_size": 1}


class Stability(NamedTuple):
    """Of one labelling.

    Attributes
    ----------
    ari : tuple of float
        Adjusted Rand index of each refit with the labelling on the same rows; noise counts as one group.
    clusters : dict of int to float
        Mean largest Jaccard index of each cluster with one of a refit, from 0 to 1.
    n_rows : int
        Rows of each refit.
    reason : str
        Why it could not be measured, where `ari` is empty.
    """

    ari: tuple[float, ...]
    clusters: dict[int, float]
    n_rows: int
    reason: str = ""


def stabilities(
    X: np.ndarray,
    models: Sequence[Model],
    labellings: Sequence[np.ndarray],
    *,
    seed: int,
    memory: MemoryBudget,
    backend: Backend,
    n_refits: int = 10,
    max_rows: int = 20_000,
    advance: Callable[[float], None] = lambda _: None,
) -> list[Stability]:
    """Refit models of one matrix on random halves of its rows, all models of a half from one sweep and one forest.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) float32
    models : sequence of (estimator, parameters)
        Parameters that count rows (`min_samples`, `min_cluster_size`, `max_cluster_size`) are scaled with the share of
        rows and rounded; a model of which one would fall below 2 is not measured.
    labellings : sequence of ndarray (n_samples,) int
        What each model says of all rows; -1 is noise.
    seed : int
        Of the halves and of KMeans.
    memory : MemoryBudget
    backend : Backend
    n_refits : int
    max_rows : int
        A half has at most so many rows.
    advance : callable
        Told the share of the work that was done.

    Returns
    -------
    list of Stability
        One per model.
    """
    n_rows = min(-(-len(X) // 2), max_rows)
    share = n_rows / len(X)
    asked: dict[int, Model] = {}
    reasons: dict[int, str] = {}
    for position, model in enumerate(models):
        scaled = _scaled(model, share)
        if isinstance(scaled, str):
            reasons[position] = f"{scaled} on {n_rows:,} of {len(X):,} rows"
        else:
            asked[position] = scaled
    aris: dict[int, list[float]] = {position: [] for position in asked}
    overlaps: dict[int, list[dict[int, float]]] = {position: [] for position in asked}
    generator = np.random.default_rng(seed)
    for _ in range(n_refits if asked else 0):
        rows = np.sort(generator.choice(len(X), n_rows, replace=False))
        refits = _refit(list(asked.values()), X[rows], seed=seed, memory=memory, backend=backend)
        for position, again in zip(list(asked), refits, strict=True):
            if isinstance(again, Exception):
                reasons[position] = " ".join(str(again).split())
                del asked[position]
                continue
            whole = labellings[position][rows]
            aris[position].append(rand_index(whole, again.labels))
            overlaps[position].append(cluster_overlaps(whole, again.labels))
        advance(1 / n_refits)
    return [
        Stability(tuple(aris[position]), _means(overlaps[position]), n_rows)
        if position in asked
        else Stability((), {}, n_rows, reasons[position])
        for position in range(len(models))
    ]


def _scaled(model: Model, share: float) -> Model | str:
    """Return the model for a share of the rows, or which parameter says too little there."""
    family, params = model
    scaled = dict(params)
    for name in _COUNTED:
        if scaled.get(name) is None:
            continue
        if params[name] >= _LEAST[name] > params[name] * share:
            return f"{name} {params[name]} would be {params[name] * share:.2g}"
        scaled[name] = max(1, round(params[name] * share))
    return family, scaled


def _refit(models: list[Model], X: np.ndarray, *, seed: int, memory: MemoryBudget, backend: Backend) -> list[Result]:
    results: dict[int, Result] = {}
    sweep = [position for position, (family, _) in enumerate(models) if family == "KMeans"]
    density = [position for position, (family, _) in enumerate(models) if family != "KMeans"]
    if sweep:
        cells = [models[position][1] for position in sweep]
        for batch in shared.fit_sweep(cells, X, seed=seed, memory=memory, backend=backend, advance=lambda _: None):
            results |= {sweep[at]: result for at, result in batch.items()}
    if density:

        def forest_of(min_samples: list[int], advance: Callable[[float], None]) -> DensityForest:
            return DensityForest(min_samples, memory=memory, device=backend).fit(X, advance=advance)

        cuts = [models[position] for position in density]
        for batch in shared.fit_density(cuts, X, forest_of=forest_of, advance=lambda _: None):
            results |= {density[at]: result for at, result in batch.items()}
    return [results[position] for position in range(len(models))]


def _means(overlaps: list[dict[int, float]]) -> dict[int, float]:
    """Average each cluster's overlap over the refits whose rows had some of it."""
    found: dict[int, list[float]] = {}
    for one in overlaps:
        for label, value in one.items():
            found.setdefault(label, []).append(value)
    return {label: float(np.mean(values)) for label, values in sorted(found.items())}
