"""The KMeans sweep against loops of scikit-learn's and scikit-learn-intelex's KMeans, on the same data in one process.

    python -m benchmarks.kmeans [n_rows ...]

k = 2 to 15, 10 starts each. The data look like principal components of descriptors under MinMaxScaler: heavy tails, low
effective rank, with clusters or (the hard case, many iterations) without. The others are timed on fewer starts and
scaled; theirs and ours alternate and the smallest times count. Quality: everyone with the same number of starts, over
several seeds, because the local minimum of one seed is luck.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
import warnings
from typing import Any

import numpy as np
import sklearn.cluster

import toolkit.cluster.estimators as ours
from benchmarks.machine import describe

KS = range(2, 16)
N_INIT = 10
N_FEATURES = 150
TIMED_STARTS = 2  # of the others; their time is proportional to their starts
REPEATS = 2
SEEDS = 10  # the local minimum that one seed ends in is luck
QUALITY_ROWS = 4_000
ROWS = (20_000, 100_000)


def make_matrix(n_rows: int, *, n_clusters: int) -> np.ndarray:
    """Return float32 rows with Student tails and falling scales, in [0, 1] by column; 0 clusters: none."""
    rng = np.random.default_rng(0)
    scales = np.geomspace(1, 0.02, N_FEATURES)
    matrix = rng.standard_t(4, (n_rows, N_FEATURES)) * scales
    if n_clusters:
        matrix += (rng.standard_normal((n_clusters, N_FEATURES)) * scales * 4)[rng.integers(0, n_clusters, n_rows)]
    matrix -= matrix.min(axis=0)
    matrix /= matrix.max(axis=0)
    return matrix.astype(np.float32)


def others() -> dict[str, Any]:
    """Return the estimators to compare with: those that are installed."""
    found: dict[str, Any] = {"scikit-learn": sklearn.cluster.KMeans}
    try:
        from sklearnex.cluster import KMeans
    except ImportError:
        return found
    return found | {"scikit-learn-intelex": KMeans}


def timed(function: Any) -> tuple[float, Any]:
    """Return the seconds that a call took, and what it returned."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def speed(X: np.ndarray) -> dict[str, float]:
    """Return the smallest seconds of each side for the whole sweep, theirs scaled to `N_INIT` starts."""
    seconds: dict[str, float] = {}
    for repeat in range(REPEATS):
        taken, _ = timed(lambda: ours.kmeans_sweep(X, KS, n_init=N_INIT, random_state=0))
        seconds["ours"] = min(seconds.get("ours", np.inf), taken)
        for name, estimator in others().items():
            starts = TIMED_STARTS if repeat == 0 else 1
            taken = sum(timed(lambda k=k, e=estimator, n=starts: e(k, n_init=n, random_state=0).fit(X))[0] for k in KS)
            seconds[name] = min(seconds.get(name, np.inf), taken * N_INIT / starts)
    return seconds


def quality(X: np.ndarray, n_init: int) -> None:
    """Print how far each side ends above the best inertia that any found, over k and several seeds, in percent."""
    found: dict[str, list[list[float]]] = {"ours": []}
    for seed in range(SEEDS):
        models = ours.kmeans_sweep(X, KS, n_init=n_init, random_state=seed)
        found["ours"].append([models[k].inertia_ for k in KS])
        for name, estimator in others().items():
            centres = [estimator(k, n_init=n_init, random_state=seed).fit(X).cluster_centers_ for k in KS]
            found.setdefault(name, []).append(
                [ours.kmeans.assign(X, np.ascontiguousarray(c, np.float64)).inertia for c in centres]
            )
    best = np.min([np.min(values, axis=0) for values in found.values()], axis=0)
    for name, values in found.items():
        excess = 100 * (np.array(values) / best - 1)
        ratio = np.array(found["ours"]) / np.array(values)
        print(
            f"| {n_init} | {name} | {excess.mean():.3f} | {excess.max():.2f} | {np.mean(excess < 0.1):.2f} "
            f"| {ratio.max():.4f} |",
            flush=True,
        )


def main(*rows: int) -> None:
    """Print a Markdown report."""
    warnings.simplefilter("ignore")
    print("# KMeans: k = 2 to 15, 10 starts each, in one sweep\n\n" + describe())
    if "scikit-learn-intelex" in others():
        print(f"scikit-learn-intelex {importlib.metadata.version('scikit-learn-intelex')}")
    ours.kmeans_sweep(make_matrix(2_000, n_clusters=3), [2], n_init=1)  # compiles
    names = ["ours", *others()]
    print(
        f"\nSeconds, smallest of {REPEATS}; the others timed on {TIMED_STARTS} (or 1) starts, scaled to {N_INIT}.\n\n"
        f"| data | {' | '.join(names)} | {' | '.join(name + ' / ours' for name in names[1:])} |\n"
        f"|---|{'---|' * (2 * len(names) - 1)}"
    )
    for n_rows in rows or ROWS:
        for label, n_clusters in (("12 clusters", 12), ("no clusters", 0)):
            seconds = speed(make_matrix(n_rows, n_clusters=n_clusters))
            cells = [f"{seconds[name]:.2f}" for name in names]
            cells += [f"{seconds[name] / seconds['ours']:.1f}" for name in names[1:]]
            print(f"| {n_rows:,} x {N_FEATURES}, {label} | {' | '.join(cells)} |", flush=True)
    for label, n_clusters in (("12 clusters", 12), ("no clusters", 0)):
        print(
            f"\nInertia above the best that any found, percent; {label}, {QUALITY_ROWS:,} rows, {SEEDS} seeds, all k; "
            f"computed anew in float64 from the centres\n\n| starts | | mean | worst | within 0.1 % "
            "| ours / it, same seed, worst |\n|---|---|---|---|---|---|"
        )
        for n_init in (N_INIT, 1):
            quality(make_matrix(QUALITY_ROWS, n_clusters=n_clusters), n_init)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
