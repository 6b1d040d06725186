"""The whole seed grid: 8 matrices (4 descriptors, 2 scalers) of 416,314 rows, 870 models, labels and scores.

    python -m benchmarks.seed_grid [n_rows ...]

One matrix (150 columns, 14 KMeans with 10 starts, 84 DBSCAN, 7 HDBSCAN, all scored) is measured at growing sizes, in
the same process and memory budget. The rest follows from the law of each part: the forest grows with n^2 times the
columns, KMeans and the scores with n times the columns.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from benchmarks.data import reduced_descriptors
from benchmarks.density import EPS, MIN_SAMPLES
from benchmarks.machine import describe
from toolkit.cluster.density import DensityForest
from toolkit.cluster.estimators import kmeans_sweep
from toolkit.memory import MemoryBudget, format_size, peak_bytes, reset_peak
from toolkit.score.partition import score_labellings

ROWS = (50_000, 100_000, 416_314)
SEED_ROWS = 416_314
SEED_COLUMNS = (250, 150, 100, 150)
SEED_KS = (range(2, 16), range(2, 16), range(2, 31), range(2, 16))
SCALERS = 2
COLUMNS = 150
BUDGET = MemoryBudget(12 << 30)


def measure(n_rows: int) -> dict[str, float]:
    """Return the seconds of each part for one matrix, and print them with the peak memory."""
    X = reduced_descriptors(n_rows, COLUMNS, n_clusters=30)
    reset_peak()
    times = [time.perf_counter()]
    forest = DensityForest(MIN_SAMPLES, memory=BUDGET).fit(X)
    times.append(time.perf_counter())
    labellings = []
    for m in MIN_SAMPLES:
        labellings += [labels.astype(np.int32) for labels in forest.dbscan_many(EPS, m)]
        labellings.append(forest.hdbscan(m).astype(np.int32))
    del forest
    times.append(time.perf_counter())
    labellings += [model.labels_ for model in kmeans_sweep(X, SEED_KS[1], memory=BUDGET).values()]
    times.append(time.perf_counter())
    score_labellings(X, labellings, memory=BUDGET)
    times.append(time.perf_counter())
    parts = dict(zip(("forest", "cells", "sweep", "scores"), np.diff(times), strict=True))
    seconds = " | ".join(f"{part:.1f}" for part in parts.values())
    print(f"| {n_rows:,} | {seconds} | {sum(parts.values()):.1f} | {format_size(peak_bytes())} |", flush=True)
    return parts


def whole(parts: dict[str, float], n_rows: int) -> dict[str, float]:
    """Return the seconds of the seed grid by the law of each part."""
    rows = SEED_ROWS / n_rows
    columns = sum(SEED_COLUMNS) / COLUMNS
    centres = [sum(ks) for ks in SEED_KS]
    per_centre = sum(c * d for c, d in zip(centres, SEED_COLUMNS, strict=True)) / (centres[1] * COLUMNS)
    return {
        "forest": SCALERS * parts["forest"] * rows**2 * columns,
        "cells": SCALERS * parts["cells"] * rows * len(SEED_COLUMNS),
        "sweep": SCALERS * parts["sweep"] * rows * per_centre,
        "scores": SCALERS * parts["scores"] * rows * columns,
    }


def main() -> None:
    """Print Markdown tables."""
    print("# The seed grid\n\n" + describe())
    kmeans_sweep(reduced_descriptors(2000), [2, 3])  # compiles
    print("\nOne matrix of 150 columns, 105 models, seconds:\n")
    print("| rows | forest | 84 DBSCAN + 7 HDBSCAN | KMeans 2..15 | scores | all | peak memory |")
    print("|---|---|---|---|---|---|---|")
    measured = {n_rows: measure(n_rows) for n_rows in map(int, sys.argv[1:] or ROWS)}
    print(f"\nAll 8 matrices and 870 models at {SEED_ROWS:,} rows, by the laws of the parts, minutes:\n")
    print("| from | forests | cells | KMeans | scores | all |")
    print("|---|---|---|---|---|---|")
    for n_rows, parts in measured.items():
        minutes = [seconds / 60 for seconds in whole(parts, n_rows).values()]
        print(f"| {n_rows:,} | {' | '.join(f'{m:.1f}' for m in minutes)} | {sum(minutes):.1f} |")


if __name__ == "__main__":
    main()
