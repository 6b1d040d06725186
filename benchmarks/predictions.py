"""What `toolkit plan` predicts against what the engines then take.

    python -m benchmarks.predictions

One group of cells per size and part of an engine; time, and memory as growth of the process beside the matrix.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from toolkit.config import parse_config
from toolkit.descriptors.loader import DataLoader
from toolkit.grid.fit import Settings, fit_and_score, warm_up
from toolkit.grid.plan import group_cells, stage_cells
from toolkit.grid.predict import CostModel
from toolkit.memory import MemoryBudget, format_size, peak_bytes, reset_peak, resident_bytes

SIZES = {"shared": ((5000, 64), (20_000, 64), (20_000, 150), (60_000, 100)), "reference": ((2000, 30), (20_000, 64))}
GRIDS = {
    "shared": (
        {"KMeans": {"n_clusters": [2, 8, 15]}},
        {
            "DBSCAN": {"eps": [0.5, 1, 2], "min_samples": [8, 64]},
            "HDBSCAN": {"min_cluster_size": [8, 64]},
        },
    ),
    "reference": (
        {"KMeans": {"n_clusters": [2, 8, 15]}},
        {"DBSCAN": {"eps": [0.5, 1], "min_samples": [8]}},
        {"HDBSCAN": {"min_cluster_size": [8]}},
    ),
}


def main() -> None:
    """Print a Markdown table."""
    print("# Predictions\n\n" + describe() + "\n")
    print("| engine | rows x columns | estimators | predicted s | measured s | ratio | predicted memory | measured |")
    print("|---|---|---|---|---|---|---|---|")
    warm_up()  # what importing and compiling takes is not the engine's cost
    rng = np.random.default_rng(0)
    for engine, sizes in SIZES.items():
        for n_rows, n_columns in sizes:
            centres = rng.random((20, n_columns))
            X = (centres[rng.integers(0, 20, n_rows)] + 0.1 * rng.normal(size=(n_rows, n_columns))).astype(np.float32)
            for grid in GRIDS[engine]:
                line(X, engine, grid)


def line(X: np.ndarray, engine: str, grid: dict[str, dict[str, list[float]]]) -> None:
    """Predict and measure one group of cells."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", X)
        stage = {"name": "s", "scalers": ["none"], "grid": grid}
        config = parse_config({"descriptors": {"folder": folder}, "stages": [stage], "engine": engine})
        group = group_cells(stage_cells(config.stages[0], DataLoader(None, folder).names, 0))[0]
        cost = CostModel(config).group(group, *X.shape)
    before = resident_bytes() - X.nbytes
    reset_peak()
    start = time.perf_counter()
    models = [(cell.cluster_class, dict(cell.params)) for cell in group.cells]
    for _ in fit_and_score(models, X, Settings(engine, "exclude", 10_000, 0, MemoryBudget(1 << 40))):
        pass
    seconds = time.perf_counter() - start
    print(
        f"| {engine} | {len(X):,} x {X.shape[1]} | {', '.join(grid)} | {cost.seconds:.2f} | {seconds:.2f} | "
        f"{cost.seconds / seconds:.2f} | {format_size(cost.n_bytes)} to {format_size(cost.worst_bytes)} | "
        f"{format_size(peak_bytes() - before)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
