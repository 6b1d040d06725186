"""PCA and both scalers of a pickle larger than the memory budget, against scikit-learn with everything in memory.

    python -m benchmarks.reduction [n_rows n_features n_components]

Time: both sides in this process, alternating, medians; ours starts from the file and an empty cache (hashing, two
reads, writing the cache), scikit-learn's from the matrix in memory. Memory: ours again, alone in a fresh process
under --memory 1GiB. Accuracy: against scikit-learn's full SVD.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from benchmarks.machine import describe
from toolkit.descriptors.keeper import DataKeeper, Sample
from toolkit.descriptors.loader import DataLoader
from toolkit.memory import format_size, parse_size, peak_bytes, resident_bytes

LIMIT = "1GiB"
REPEATS = 3


def make_matrix(n_rows: int, n_features: int) -> np.ndarray:
    """Return float32 rows like a network's: a falling spectrum, an offset, noise in every direction."""
    rng = np.random.default_rng(0)
    rank = min(300, n_features)
    directions = rng.standard_normal((rank, n_features)) * np.geomspace(10, 0.1, rank)[:, None]
    matrix = np.empty((n_rows, n_features), np.float32)
    for start in range(0, n_rows, 20_000):
        rows = matrix[start : start + 20_000]
        rows[:] = rng.standard_normal((len(rows), rank), dtype=np.float32) @ directions.astype(np.float32)
        rows += 0.05 * rng.standard_normal(rows.shape, dtype=np.float32) + 3
    return matrix


def ours(folder: str, cache: str, n_components: int, *, memory: int = parse_size(LIMIT)) -> DataKeeper:
    """Reduce and scale both ways, as a run does: one scaled matrix in memory at a time."""
    loader = DataLoader(descriptor_folder=folder, memory=memory)
    keeper = DataKeeper({"x": n_components}, loader=loader, cache=cache)
    sample = Sample("x", n_components=n_components)
    for scaler in ("norm", "std"):
        keeper.scale(sample, scaler)
    return keeper


def theirs(matrix: np.ndarray, n_components: int) -> PCA:
    """Reduce and scale with scikit-learn."""
    pca = PCA(n_components, svd_solver="covariance_eigh")
    reduced = pca.fit_transform(matrix)
    MinMaxScaler().fit_transform(reduced)
    StandardScaler().fit_transform(reduced)
    return pca


def main(n_rows: int = 400_000, n_features: int = 1024, n_components: int = 150) -> None:
    """Print a Markdown report."""
    print("# Reduction: a pickle larger than the memory budget\n\n" + describe())
    matrix = make_matrix(n_rows, n_features)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        with (Path(folder) / "in" / "x.pickle").open("wb") as file:
            pickle.dump(matrix, file, protocol=4)
        source = str(Path(folder) / "in")
        alone = f"import benchmarks.reduction as b; b.peak({source!r}, {str(Path(folder) / 'alone')!r}, {n_components})"
        peak = int(subprocess.run([sys.executable, "-c", alone], check=True, capture_output=True, text=True).stdout)
        memory = parse_size(LIMIT) + resident_bytes()  # scikit-learn's matrix lies in this process too
        seconds: dict[str, list[float]] = {"ours": [], "scikit-learn": []}
        for repeat in range(REPEATS):
            start = time.perf_counter()
            found = ours(source, str(Path(folder) / f"cache{repeat}"), n_components, memory=memory)
            seconds["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            theirs(matrix, n_components)
            seconds["scikit-learn"].append(time.perf_counter() - start)
        projection = found.reduce(Sample("x", n_components=n_components)).projection
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["scikit-learn"], strict=True)]
    size = format_size(matrix.nbytes)
    print(f"\n{n_rows:,} x {n_features:,} float32 ({size}) to {n_components} components, norm and std\n")
    print("| | ours (from the file) | scikit-learn (in memory, covariance_eigh) | ratio |\n|---|---|---|---|")
    print(
        f"| seconds, median of {REPEATS} | {medians['ours']:.2f} | {medians['scikit-learn']:.2f} "
        f"| {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )
    print(
        f"| peak resident memory | {format_size(peak)} under --memory {LIMIT} | more than {size} "
        f"| {peak / parse_size(LIMIT):.2f} of the budget |"
    )
    oracle = PCA(n_components, svd_solver="full").fit(matrix[: min(n_rows, 100_000)].astype(np.float64))
    part = matrix[: min(n_rows, 100_000)]
    accuracy(part, oracle, n_components)
    explained = projection.explained_variance_ratio.sum()
    print(f"\nComponents kept: {len(projection.components)}, variance explained {explained:.4f}")


def accuracy(part: np.ndarray, oracle: PCA, n_components: int) -> None:
    """Compare the streamed components with scikit-learn's full SVD in float64 on the same rows."""
    from toolkit.descriptors.reduce import measure, principal_components

    blocks = (part[i : i + 2048] for i in range(0, len(part), 2048))
    found = principal_components(measure(blocks, covariance=True, workers=2), n_components)
    cosine = np.abs((found.components * oracle.components_).sum(axis=1))
    variance = np.abs(found.explained_variance / oracle.explained_variance_ - 1)
    print(
        f"\nAgainst the full SVD in float64 ({len(part):,} rows): largest 1 - |cosine| {(1 - cosine).max():.1e}, "
        f"largest relative error of explained variance {variance.max():.1e}"
    )


def peak(folder: str, cache: str, n_components: int) -> None:
    """Print the peak resident bytes of this process after doing our side."""
    ours(folder, cache, n_components)
    print(peak_bytes())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
