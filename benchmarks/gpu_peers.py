"""The seed grid of one matrix on a GPU against other libraries, which fit its cells one by one, on the same card.

    python -m benchmarks.gpu_peers [--rows 100000] [--device cuda] [--cells 3]

Compared are those that are installed of: RAPIDS cuML, flash-kmeans, FlashLib. Of each estimator a few cells are timed,
spread over the grid, and scaled to all; the labels of these cells are compared with the engine's, which are exact.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import adjusted_rand_score

from benchmarks.data import reduced_descriptors
from benchmarks.gpu_check import SEED_GRID, synchronised
from benchmarks.machine import describe
from toolkit.backend.cuda import CudaBackend, cuml
from toolkit.errors import ToolkitError
from toolkit.grid.fit import Settings, fit_and_score
from toolkit.memory import MemoryBudget

if TYPE_CHECKING:
    from collections.abc import Callable

    Fit = Callable[[CudaBackend, np.ndarray, dict[str, Any]], np.ndarray]

_STARTS = 10  # of KMeans; a peer without starts of its own is called so many times


def _cuml(family: str) -> Fit:
    cuml.open_cuml()
    memory = MemoryBudget.resolve()
    return lambda _, X, params: cuml.fit_model(family, params, X, seed=0, memory=memory).labels


def _flash_kmeans(_: str) -> Fit:
    batch_kmeans = importlib.import_module("flash_kmeans").batch_kmeans_Euclid

    def fit(backend: CudaBackend, X: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        rows = backend.device.put(X)[None]
        for _ in range(_STARTS):
            labels = batch_kmeans(rows, n_clusters=params["n_clusters"], tol=1e-4)[0]
        return backend.device.get(labels)[0]

    return fit


def _flashlib(family: str) -> Fit:
    estimator = getattr(importlib.import_module("flashlib"), family)

    def fit(backend: CudaBackend, X: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        rows = backend.device.put(X)
        for _ in range(_STARTS if family == "KMeans" else 1):
            labels = estimator(**params).fit(rows).labels_
        return backend.device.get(labels) if hasattr(labels, "detach") else np.asarray(labels)

    return fit


PEERS: dict[str, tuple[tuple[str, ...], Callable[[str], Fit]]] = {
    "cuML": (("KMeans", "DBSCAN", "HDBSCAN"), _cuml),
    "flash-kmeans": (("KMeans",), _flash_kmeans),
    "FlashLib": (("KMeans", "DBSCAN", "HDBSCAN"), _flashlib),
}
_PACKAGES = {"cuML": ("cuml-cu13", "cuml-cu12"), "flash-kmeans": ("flash-kmeans",), "FlashLib": ("flashlib",)}


def version(peer: str) -> str:
    """Return the installed version of a peer's package."""
    for package in _PACKAGES[peer]:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "?"


def compare(backend: CudaBackend, X: np.ndarray, peer: str, family: str, ours: dict[int, Any], n_cells: int) -> str:
    """Return a row of the table: a peer's seconds for an estimator's cells, and how its labels agree with ours."""
    cells = [at for at, (name, _) in enumerate(SEED_GRID) if name == family]
    chosen = [cells[i] for i in np.unique(np.linspace(0, len(cells) - 1, n_cells).astype(int))]
    fit = PEERS[peer][1](family)
    fit(backend, X[:1000], SEED_GRID[chosen[0]][1])  # compiles
    seconds, agreement = 0.0, []
    for at in chosen:
        taken, labels = synchronised(backend, lambda at=at: fit(backend, X, SEED_GRID[at][1]))
        seconds += taken
        agreement.append(adjusted_rand_score(ours[at].labels, labels))
    scaled = seconds / len(chosen) * len(cells)
    return (
        f"| {peer} {version(peer)} | {family} | {len(chosen)} of {len(cells)} | {scaled:.1f} | {min(agreement):.3f} |"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print a Markdown report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--cells", type=int, default=3, help="of each estimator that are timed")
    given = parser.parse_args(arguments)
    backend = CudaBackend(given.device)
    X = reduced_descriptors(given.rows, n_clusters=12)
    settings = Settings("shared", "exclude", 0, 0, MemoryBudget.resolve(), backend)
    list(fit_and_score(SEED_GRID[:1], X[:1000], settings))  # loads what is slow at first
    seconds, batches = synchronised(backend, lambda: list(fit_and_score(SEED_GRID, X, settings)))
    ours = {at: one for batch in batches for at, one in batch.items()}
    print(f"# The seed grid on a GPU, {given.rows:,} x {X.shape[1]}\n\n{describe('torch')}; {backend.device.name}\n")
    print(f"All {len(SEED_GRID)} models by the shared engine, scores included: {seconds:.1f} s.\n")
    print(
        "| peer | estimator | cells timed | seconds, scaled to all | least ARI with the exact labels |\n"
        "|---|---|---|---|---|"
    )
    for peer, (families, _) in PEERS.items():
        for family in families:
            try:
                print(compare(backend, X, peer, family, ours, given.cells), flush=True)
            except (ImportError, AttributeError, ToolkitError) as error:
                print(f"| {peer} | {family} | not run: {' '.join(str(error).split())[:150]} | | |", flush=True)
            except Exception as error:  # a peer's failure is a result
                print(
                    f"| {peer} | {family} | failed: {type(error).__name__}: {' '.join(str(error).split())[:150]} | | |"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
