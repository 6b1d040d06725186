"""100 labellings of one matrix scored together, against scikit-learn's metrics called for one after another.

    python -m benchmarks.scoring [n_silhouette_rows n_variance_rows n_features n_labellings]

Both sides in this process on the same data, alternating, minima of the rounds. scikit-learn is timed on a few of the
labellings, spread over the range of clusters, and scaled to all of them. A first small call on both sides keeps
loading and compiling out of the times.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

from benchmarks.machine import describe
from toolkit.memory import MemoryBudget
from toolkit.score import silhouette
from toolkit.score.labellings import distinct
from toolkit.score.partition import host_silhouettes, score_labellings
from toolkit.score.variance import column_origin

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 3
TIMED = 5  # labellings that scikit-learn is timed on, each round


def make_matrix(n_rows: int, n_features: int) -> np.ndarray:
    """Return float32 rows around 40 centres, not well apart, of sizes that differ."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, n_features), scale=0.6)
    rows = rng.standard_normal((n_rows, n_features), dtype=np.float32)
    rows += centres[np.minimum(rng.geometric(0.07, n_rows) - 1, 39)].astype(np.float32)
    return rows


def make_labellings(X: np.ndarray, count: int) -> list[np.ndarray]:
    """Return labellings of 2 to 60 clusters: by nearest centres, and skewed ones with up to half the rows as noise."""
    rng = np.random.default_rng(1)
    found = []
    for i, k in enumerate(np.linspace(2, 60, count).astype(int)):
        centres = X[rng.choice(len(X), k, replace=False)]
        labels = np.argmin((centres**2).sum(axis=1) - 2 * X @ centres.T, axis=1)
        if i % 2:  # one cluster has most rows, the others few, as DBSCAN's
            labels = np.where(rng.random(len(X)) < 0.8, labels.min(), labels)
            labels[rng.random(len(X)) < 0.5 * i / count] = -1
        found.append(labels)
    return found


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def silhouettes_only(X: np.ndarray, labellings: list[np.ndarray]) -> dict[int, tuple[float, int]]:
    """Return the exact silhouettes of all labellings, and nothing else."""
    partitions, _ = distinct(labellings, n_samples=len(X), noise="exclude")
    groups = silhouette.sample_rows(partitions, len(X), max_rows=len(X), seed=0)
    found: dict[int, tuple[float, int]] = {}
    for group in groups:
        free = MemoryBudget.resolve().free
        found |= host_silhouettes(X, column_origin(X), group, room=lambda *_, free=free: free, advance=lambda _: None)
    return found


def compare(
    what: str,
    X: np.ndarray,
    labellings: list[np.ndarray],
    ours: Callable[[], object],
    theirs: list[Callable[[np.ndarray, np.ndarray], float]],
) -> None:
    """Print one row of the table."""
    timed = np.linspace(0, len(labellings) - 1, TIMED).astype(int)
    used = [(X[labellings[i] != -1], labellings[i][labellings[i] != -1]) for i in timed]
    best, one_by_one = np.inf, np.full(TIMED, np.inf)
    for _ in range(ROUNDS):
        best = min(best, seconds(ours))
        for i, (rows, labels) in enumerate(used):
            one_by_one[i] = min(one_by_one[i], sum(seconds(lambda m=m: m(rows, labels)) for m in theirs))  # noqa: B023
    scaled = one_by_one.mean() * len(labellings)
    each = ", ".join(f"{value:.2f}" for value in one_by_one)
    print(f"| {what}, {len(X):,} rows | {best:.2f} | {scaled:.0f} (timed: {each}) | {scaled / best:.0f}x |", flush=True)


def main(n_silhouette: int = 20_000, n_variance: int = 100_000, n_features: int = 150, count: int = 100) -> None:
    """Print a Markdown report."""
    print("# Scoring many labellings of one matrix\n\n" + describe())
    X = make_matrix(max(n_silhouette, n_variance), n_features)
    few = X[:n_silhouette]
    small = make_labellings(X[:3000], 4)
    score_labellings(X[:3000], small)
    silhouette_score(X[:3000], small[0])
    print(f"\n{count} labellings of 2 to 60 clusters, {n_features} features, float32; seconds, minima of {ROUNDS}\n")
    print(f"| | all together | scikit-learn one by one: {TIMED} timed and scaled to {count} | ratio |")
    print("|---|---|---|---|", flush=True)
    several = make_labellings(few, count)
    compare("exact silhouette", few, several, lambda: silhouettes_only(few, several), [silhouette_score])
    many = make_labellings(X[:n_variance], count)
    compare(
        "Calinski-Harabasz, Davies-Bouldin, sizes",
        X[:n_variance],
        many,
        lambda: score_labellings(X[:n_variance], many, silhouette_rows=0),
        [calinski_harabasz_score, davies_bouldin_score],
    )
    together = seconds(lambda: score_labellings(X[:n_variance], many))
    print(
        f"\nAll metrics of the {count} labellings at {n_variance:,} rows, silhouette on 10,000 rows: {together:.1f} s"
    )
    largest = 0.0
    found = silhouettes_only(few, several)
    for i in np.linspace(0, count - 1, TIMED).astype(int):
        used = several[i] != -1
        expected = silhouette_score(few[used].astype(np.float64), several[i][used])
        largest = max(largest, abs(found[int(i)][0] - expected))
    print(f"Largest difference from scikit-learn's silhouette in float64: {largest:.1e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
