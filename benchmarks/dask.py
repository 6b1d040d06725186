"""A grid of KMeans, DBSCAN and HDBSCAN of one matrix: one process, and the workers of a Dask cluster on this machine.

    python -m benchmarks.dask [n_rows [n_columns]]

All sides run in turn, three times, and the shortest time counts. The labels and scores must be equal to the bit.
Workers share the processors of one machine here, so two of them cannot be faster than one process: what is measured is
what distribution costs.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.data import reduced_descriptors
from benchmarks.machine import describe
from toolkit.backend.cpu import CpuBackend
from toolkit.distribute.dask_backend import open_backend
from toolkit.grid.fit import Settings, fit_and_score, warm_up
from toolkit.memory import MemoryBudget
from toolkit.progress import Reporter

if TYPE_CHECKING:
    import numpy as np

    from toolkit.backend.base import Backend
    from toolkit.grid.fit import Fitted, Model

SIDES = ("one process", "local:1", "local:2")
ROUNDS = 3
BUDGET = MemoryBudget(12 << 30)
MODELS: list[Model] = [
    *(("KMeans", {"n_clusters": k}) for k in range(2, 16)),
    *(("DBSCAN", {"eps": eps, "min_samples": m}) for m in (8, 64, 128) for eps in (0.5, 1.0, 1.5, 2.0)),
    *(("HDBSCAN", {"min_cluster_size": m}) for m in (8, 64, 128)),
]
SECONDS = {"fit_seconds", "score_seconds"}


def fit(X: np.ndarray, backend: Backend) -> tuple[dict[str, float], dict[int, Fitted]]:
    """Fit and score all models; return the seconds of each part and the results."""
    settings = Settings("shared", "exclude", 10_000, 0, BUDGET, backend)
    found: dict[int, Fitted] = {}
    start = time.perf_counter()
    for batch in fit_and_score(MODELS, X, settings):
        found |= batch
    parts = dict.fromkeys(("KMeans", "density", "scores"), 0.0)
    for at, fitted in found.items():
        parts["KMeans" if MODELS[at][0] == "KMeans" else "density"] += fitted.row["fit_seconds"]
        parts["scores"] += fitted.row["score_seconds"]
    return parts | {"all": time.perf_counter() - start}, found


def facts(found: dict[int, Fitted]) -> list[tuple[dict[str, Any], bytes]]:
    """Return what must be equal."""
    rows = ((found[at].row, found[at].labels) for at in range(len(MODELS)))
    return [({k: v for k, v in row.items() if k not in SECONDS}, labels.tobytes()) for row, labels in rows]


def opened_backend(where: str, stack: contextlib.ExitStack) -> tuple[Backend, float]:
    """Open one side, until the stack is closed; return also how long that took."""
    if where == "one process":
        return CpuBackend(), 0.0
    start = time.perf_counter()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    how: dict[str, Any] = {"device": "cpu", "engine": "shared", "reporter": Reporter(quiet=True)}
    backend, _ = stack.enter_context(open_backend(where, folder / "out", memory=BUDGET, **how))
    return backend, time.perf_counter() - start


def main(n_rows: int = 50_000, n_columns: int = 150) -> None:
    """Print a Markdown table."""
    print(f"# A Dask cluster of one machine\n\n{describe()}\n")
    X = reduced_descriptors(n_rows, n_columns, n_clusters=30)
    warm_up()
    times: dict[str, list[dict[str, float]]] = {where: [] for where in SIDES}
    expected = None
    with contextlib.ExitStack() as stack:
        opened = {where: opened_backend(where, stack) for where in SIDES}
        for where in SIDES * ROUNDS:
            seconds, found = fit(X, opened[where][0])
            times[where].append(seconds)
            expected = expected or facts(found)
            if facts(found) != expected:
                raise SystemExit(f"{where} differs from one process")
    sides = {where: min(some, key=lambda seconds: seconds["all"]) for where, some in times.items()}
    print(f"{len(MODELS)} models of {n_rows:,} x {n_columns} float32, labels and scores equal to the bit, seconds:\n")
    print("| where | KMeans | density | scores | all | ratio | opening the cluster |")
    print("|---|---|---|---|---|---|---|")
    for where, seconds in sides.items():
        parts = " | ".join(f"{seconds[part]:.1f}" for part in ("KMeans", "density", "scores", "all"))
        ratio = seconds["all"] / sides["one process"]["all"]
        print(f"| {where} | {parts} | {ratio:.2f} | {opened[where][1]:.1f} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
