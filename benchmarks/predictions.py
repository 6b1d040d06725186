"""What `toolkit plan` predicts against what the reference engine then takes.

    python -m benchmarks.predictions

One group of cells per estimator and size; time and (as growth of the process) memory.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from toolkit.cluster.reference import fit_labels
from toolkit.config import parse_config
from toolkit.descriptors.loader import DataLoader
from toolkit.grid.plan import group_cells, stage_cells
from toolkit.grid.predict import CostModel
from toolkit.memory import MemoryBudget, format_size, peak_bytes, reset_peak, resident_bytes
from toolkit.score.partition import score_labels

SIZES = ((2000, 30), (5000, 64), (20_000, 64), (20_000, 150))
GRIDS = {
    "KMeans": {"n_clusters": [2, 8, 15]},
    "DBSCAN": {"eps": [0.5, 1], "min_samples": [8]},
    "HDBSCAN": {"min_cluster_size": [8]},
}


def main() -> None:
    """Print a Markdown table."""
    print("# Predictions of the reference engine\n\n" + describe() + "\n")
    print("| rows x columns | estimator | predicted s | measured s | ratio | predicted memory | measured memory |")
    print("|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for family, grid in GRIDS.items():  # what importing and compiling takes is not the engine's cost
        params = {name: values[0] for name, values in grid.items()}
        fit_labels(family, params, rng.random((100, 5), np.float32), seed=0, memory=MemoryBudget(1 << 40))
    for n_rows, n_columns in SIZES:
        centres = rng.random((20, n_columns))
        X = (centres[rng.integers(0, 20, n_rows)] + 0.1 * rng.normal(size=(n_rows, n_columns))).astype(np.float32)
        for family, grid in GRIDS.items():
            line(X, family, grid)


def line(X: np.ndarray, family: str, grid: dict[str, list[float]]) -> None:
    """Predict and measure one group of cells."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", X)
        stage = {"name": "s", "scalers": ["none"], "grid": {family: grid}}
        config = parse_config({"descriptors": {"folder": folder}, "stages": [stage]})
        group = group_cells(stage_cells(config.stages[0], DataLoader(None, folder).names, 0))[0]
        cost = CostModel(config).group(group, *X.shape)
    before = resident_bytes() - X.nbytes
    reset_peak()
    start = time.perf_counter()
    for cell in group.cells:
        labels = fit_labels(family, dict(cell.params), X, seed=0, memory=MemoryBudget(1 << 40))
        score_labels(X, labels)
    seconds = time.perf_counter() - start
    print(
        f"| {len(X):,} x {X.shape[1]} | {family} | {cost.seconds:.2f} | {seconds:.2f} | {cost.seconds / seconds:.2f} "
        f"| {format_size(cost.n_bytes)} to {format_size(cost.worst_bytes)} | {format_size(peak_bytes() - before)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
