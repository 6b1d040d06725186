"""Capacity: the seed grid with more rows on more devices, by a model of its parts, and by simulating its tasks.

    python -m benchmarks.scale

The model counts multiply-adds, bytes on disk and bytes over the network. What an operation takes is measured here at
two sizes, and checked at a third. What a GPU takes is assumed: the parts take as many times a plain float32 product
there as here, and the product goes at half of the peak of its data sheet. The tasks are those that the planner makes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks.data import reduced_descriptors
from benchmarks.machine import describe
from benchmarks.seed_grid import SCALERS, SEED_COLUMNS, SEED_KS
from toolkit.cluster.density import DensityForest
from toolkit.cluster.estimators import kmeans_sweep
from toolkit.grid.predict import _measure_product
from toolkit.memory import MemoryBudget, format_size

SIZES = (20_000, 50_000)
CHECKED = 100_000
COLUMNS = 150
NEIGHBORS = 512
STARTS, ITERATIONS = 10, 30
ROWS = (416_314, 10_000_000, 100_000_000, 1_000_000_000)
DEVICES = (1, 8, 64)
H100_PRODUCT = 1 / (0.5 * 67e12 / 2)  # seconds of a multiply-add: half of the peak in float32
DISK, MEMORY = 5e9, 50e9  # bytes a second, of a node's own disk and memory
HELD = 64 << 30  # bytes of lists that stay in memory
PAIRS = 1.12  # products of a pass in pairs of groups, thresholds included, for each of one in one piece
CANDIDATE_BYTES = 8 * 1.3 * NEIGHBORS  # of a row, which go through files where the pass is in pieces
NETWORK = 10e9  # bytes a second into a node
ROUNDS = 6  # reads of the lists for the trees of one min_samples
TREES = 7  # values of min_samples
DAY = 86_400.0


@dataclass(frozen=True)
class Matrix:
    """One matrix of the grid and its models."""

    n_rows: int
    n_columns: int
    centres: int  # of all KMeans models and starts

    @property
    def pairs(self) -> float:
        """Multiply-adds of one pass over all pairs, each once."""
        return self.n_rows**2 / 2 * self.n_columns

    @property
    def sweep(self) -> float:
        """Multiply-adds of Lloyd's iterations without what bounds save."""
        return float(self.n_rows * self.n_columns * self.centres * ITERATIONS)

    @property
    def n_bytes(self) -> float:
        """Of the float32 matrix."""
        return 4.0 * self.n_rows * self.n_columns

    @property
    def list_bytes(self) -> float:
        """Of the neighbour lists."""
        return 12.0 * self.n_rows * NEIGHBORS


def matrices(n_rows: int) -> list[Matrix]:
    """Return the matrices of the seed grid."""
    return [
        Matrix(n_rows, columns, STARTS * sum(ks)) for columns, ks in zip(SEED_COLUMNS, SEED_KS, strict=True)
    ] * SCALERS


def measured(n_rows: int) -> tuple[float, float]:
    """Return the seconds of the forest and of the sweep of one matrix here."""
    X = reduced_descriptors(n_rows, COLUMNS, n_clusters=30)
    budget = MemoryBudget(12 << 30)
    start = time.perf_counter()
    DensityForest([NEIGHBORS], memory=budget).fit(X)
    middle = time.perf_counter()
    kmeans_sweep(X, SEED_KS[1], memory=budget)
    return middle - start, time.perf_counter() - middle


@dataclass(frozen=True)
class Law:
    """Seconds: per pair and column, per row and column of the lists, per row, column and centre of the sweep."""

    pair: float
    entry: float
    step: float

    @classmethod
    def of(cls) -> Law:
        """Measure it at two sizes."""
        (forest, sweep), (larger, swept) = (measured(n) for n in SIZES)
        n, m = SIZES
        # forest = pair * n^2/2 * d + entry * n * k * d
        left = np.array(
            [[n * n / 2 * COLUMNS, n * NEIGHBORS * COLUMNS], [m * m / 2 * COLUMNS, m * NEIGHBORS * COLUMNS]]
        )
        pair, entry = np.linalg.solve(left, [forest, larger])
        step = (sweep + swept) / sum(Matrix(size, COLUMNS, STARTS * sum(SEED_KS[1])).sweep for size in SIZES)
        return cls(float(pair), max(float(entry), 0.0), step)

    def seconds(self, matrix: Matrix) -> tuple[float, float]:
        """Return the seconds of the forest and of the sweep of a matrix."""
        entries = matrix.n_rows * NEIGHBORS * matrix.n_columns
        return self.pair * matrix.pairs + self.entry * entries, self.step * matrix.sweep

    @staticmethod
    def moving(matrix: Matrix) -> float:
        """Return the seconds of reading the matrix, and of reading the lists for the trees."""
        speed = MEMORY if matrix.list_bytes <= HELD else DISK
        return matrix.n_bytes / NETWORK + TREES * ROUNDS * matrix.list_bytes / speed

    def scaled(self, factor: float) -> Law:
        """Return the law of a device that takes `factor` times as long for an operation."""
        return Law(self.pair * factor, self.entry * factor, self.step * factor)


def by_tasks(law: Law, n_rows: int, n_devices: int) -> float:
    """Simulate whole forests and sweeps dealt to devices, the longest first: what `toolkit submit` does."""
    units: list[float] = []
    for matrix in matrices(n_rows):
        forest, sweep = law.seconds(matrix)
        units += [forest + law.moving(matrix), sweep + matrix.n_bytes / NETWORK]
    busy = [0.0] * n_devices
    for unit in sorted(units, reverse=True):
        busy[busy.index(min(busy))] += unit
    return max(busy)


def by_pieces(law: Law, n_rows: int, n_devices: int) -> tuple[float, float]:
    """Simulate every matrix by all devices together, as `toolkit run --dask` does; return seconds and network bytes.

    Pairs of groups of rows are multiplied by whoever is free; candidates go through files; the trees are made by one.
    """
    seconds = network = 0.0
    for matrix in matrices(n_rows):
        forest, sweep = law.seconds(matrix)
        candidates = CANDIDATE_BYTES * matrix.n_rows if n_devices > 1 else 0.0
        seconds += (forest * (PAIRS if n_devices > 1 else 1) + sweep) / n_devices + law.moving(matrix)
        seconds += 2 * candidates / NETWORK / n_devices
        network += n_devices * matrix.n_bytes + 2 * candidates + matrix.list_bytes
    return seconds, network


def duration(seconds: float) -> str:
    """Write a duration with two digits."""
    for unit, name in ((365 * DAY, "years"), (DAY, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.2g} {name}" if seconds < 100 * unit else f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.2g} s"


def main() -> None:
    """Print the tables."""
    product = _measure_product()
    law = Law.of()
    print(f"# Capacity\n\n{describe()}\n")
    print(
        f"A multiply-add takes {product:.2e} s in a float32 product here; in the forest {law.pair:.2e} s for each pair "
        f"and column, {law.entry:.2e} s for each entry of a list and column, in the sweep {law.step:.2e} s for each "
        f"row, column and centre of each of {ITERATIONS} iterations.\n"
    )
    expected = sum(law.seconds(Matrix(CHECKED, COLUMNS, STARTS * sum(SEED_KS[1]))))
    found = sum(measured(CHECKED))
    ratio = expected / found
    print(f"Checked at {CHECKED:,} rows: {expected:.1f} s by the law, {found:.1f} s measured ({ratio:.2f}).\n")
    gpu = law.scaled(H100_PRODUCT / product)
    print("| rows | devices | whole forests and sweeps as tasks | each in pieces | network | lists of one matrix |")
    print("|---|---|---|---|---|---|")
    for n_rows in ROWS:
        print(f"| {n_rows:,} | this machine | {duration(by_tasks(law, n_rows, 1))} | | | |")
        for n_devices in DEVICES:
            seconds, network = by_pieces(gpu, n_rows, n_devices)
            whole, blocks = duration(by_tasks(gpu, n_rows, n_devices)), duration(seconds)
            sizes = f"{format_size(network)} | {format_size(12.0 * n_rows * NEIGHBORS)}"
            print(f"| {n_rows:,} | {n_devices} H100 (assumed) | {whole} | {blocks} | {sizes} |")


if __name__ == "__main__":
    main()
