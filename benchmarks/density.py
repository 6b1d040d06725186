"""The 84 DBSCAN and 7 HDBSCAN cells of the seed grid from one forest, against what else there is.

    python -m benchmarks.density [n_rows ...]

All sides in this process on the same float32 data, labels included. One `faiss.knn(X, X, 512)` is the yardstick: the
work that no exact method on these neighbour counts can avoid. The peers fit cell by cell: they are timed on some
cells, spread over the grid, and scaled to all of it.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import quitefastmst
import sklearn.cluster

from benchmarks.data import reduced_descriptors
from benchmarks.machine import describe
from toolkit.cluster.density import DensityForest
from toolkit.cluster.trees import build_hierarchy, condense, label_rows, select_clusters

if TYPE_CHECKING:
    from collections.abc import Callable

EPS = (0.25, 0.5, *(2.0**power for power in range(10)))
MIN_SAMPLES = (8, 16, 32, 64, 128, 256, 512)
ROWS = (20_000, 100_000)
PEER_ROWS = 20_000  # above, a cell of a peer takes minutes
TIMED_CELLS = ((0.5, 8), (1.0, 64), (2.0, 512), (64.0, 64))
TIMED_SIZES = (8, 512)
GROWTH = ((10_000, 150), (20_000, 150), (40_000, 150), (80_000, 150), (40_000, 50), (40_000, 300))


def seconds(work: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def grid(X: np.ndarray) -> dict[str, float]:
    """Return the seconds of the forest, of all DBSCAN cells and of all HDBSCAN cells."""
    start = time.perf_counter()
    forest = DensityForest(MIN_SAMPLES).fit(X)
    fitted = time.perf_counter()
    for min_samples in MIN_SAMPLES:
        forest.dbscan_many(EPS, min_samples)
    cut = time.perf_counter()
    for size in MIN_SAMPLES:
        forest.hdbscan(size)
    return {"forest": fitted - start, "DBSCAN": cut - fitted, "HDBSCAN": time.perf_counter() - cut}


def quitefast_hdbscan(X: np.ndarray, size: int) -> None:
    """Fit one HDBSCAN by the fastest exact spanning tree there is, and the toolkit's trees."""
    distance, pairs, *_ = quitefastmst.mst_euclid(X, size - 1)
    order = np.argsort(distance)
    pairs = pairs[order].astype(np.int32)
    tree = condense(build_hierarchy(pairs[:, 0].copy(), pairs[:, 1].copy(), distance[order]), size)
    options = {"epsilon": 0.0, "max_cluster_size": None, "allow_single_cluster": False}
    label_rows(tree, select_clusters(tree, method="eom", **options), epsilon=0.0)


def peers(X: np.ndarray, ours: float) -> None:
    """Print how much longer loops of other libraries take."""
    import sklearnex.cluster

    def dbscan(estimator: Any) -> float:
        taken = [seconds(lambda e=e, m=m: estimator(eps=e, min_samples=m).fit(X)) for e, m in TIMED_CELLS]
        return float(np.mean(taken))

    def hdbscan(fit: Callable[[int], Any]) -> float:
        return float(np.mean([seconds(lambda size=size: fit(size)) for size in TIMED_SIZES]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = {
            "scikit-learn": (
                dbscan(sklearn.cluster.DBSCAN),
                hdbscan(lambda size: sklearn.cluster.HDBSCAN(min_cluster_size=size, copy=True).fit(X)),
            ),
            "scikit-learn-intelex DBSCAN, quitefastmst HDBSCAN": (
                dbscan(sklearnex.cluster.DBSCAN),
                hdbscan(lambda size: quitefast_hdbscan(X, size)),
            ),
        }
    print("\n| peer, cell by cell | DBSCAN s per cell | HDBSCAN s per cell | all 91 cells s | ratio to ours |")
    print("|---|---|---|---|---|")
    for name, (one, other) in rows.items():
        total = 84 * one + 7 * other
        print(f"| {name} | {one:.2f} | {other:.1f} | {total:.0f} | {total / ours:.0f}x |", flush=True)


def main() -> None:
    """Print Markdown tables."""
    sizes = [int(size) for size in sys.argv[1:]] or ROWS
    print("# The density half of the seed grid\n\n" + describe("faiss-cpu", "scikit-learn-intelex", "quitefastmst"))
    grid(reduced_descriptors(2000))  # compiles
    print("\n| rows x columns | data | forest s | 84 DBSCAN s | 7 HDBSCAN s | all s | faiss.knn s | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    peer_data = None
    for n_rows in sizes:
        for n_clusters in (0, 30):
            X = reduced_descriptors(n_rows, n_clusters=n_clusters)
            rounds = 3 if n_rows <= PEER_ROWS else 2
            taken, yardstick = [], []
            for _ in range(rounds):
                taken.append(grid(X))
                yardstick.append(seconds(lambda X=X: faiss.knn(X, X, MIN_SAMPLES[-1])))
            parts = min(taken, key=lambda found: sum(found.values()))
            whole, knn = sum(parts.values()), min(yardstick)
            print(
                f"| {n_rows:,} x {X.shape[1]} | {f'{n_clusters} clusters' if n_clusters else 'unclustered'} | "
                f"{' | '.join(f'{part:.2f}' for part in parts.values())} | {whole:.2f} | {knn:.2f} | "
                f"{whole / knn:.2f}x |",
                flush=True,
            )
            if n_rows == PEER_ROWS and n_clusters:
                peer_data = X, whole
    if peer_data:
        peers(*peer_data)
    if not sys.argv[1:]:
        growth()


def growth() -> None:
    """Print how the parts grow."""
    print("\n| rows x columns | forest s | forest, ns per pair and column | 91 cells s | 91 cells, us per row |")
    print("|---|---|---|---|---|")
    for n_rows, n_columns in GROWTH:
        X = reduced_descriptors(n_rows, n_columns, n_clusters=30)
        parts = grid(X)
        cells = parts["DBSCAN"] + parts["HDBSCAN"]
        each = 1e9 * parts["forest"] / n_rows**2 / n_columns
        print(
            f"| {n_rows:,} x {n_columns} | {parts['forest']:.2f} | {each:.4f} | {cells:.2f} | "
            f"{1e6 * cells / n_rows:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
