"""Outliers planted in real images: average precision; what all scores cost beside a neighbour pass; noise reassigned.

    python -m benchmarks.outliers [FOLDER_OF_FACE_CROPS]

Into the digits of scikit-learn (and the face crops, if a folder of them is given) outliers of four kinds are planted:
foreign images (crops of scikit-learn's two photographs), damaged copies of images of the set (a square of one colour
over a quarter, strong noise, the lower half grey, inverted), crops that show nothing (one grey, or noise), and mixtures
of two images. Descriptors are raw pixels and a histogram of oriented gradients. `toolkit run` and `toolkit outliers`
then know nothing of the truth. scikit-learn's detectors, with their defaults, have the same reduced matrices, and the
descriptors as they are.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import yaml
from PIL import Image
from skimage.feature import hog
from skimage.transform import resize
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits, load_sample_images
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from benchmarks.data import reduced_descriptors
from benchmarks.machine import describe
from toolkit.cluster.density import DensityForest
from toolkit.cluster.estimators import kmeans_sweep
from toolkit.cluster.forest_plan import list_neighbors
from toolkit.cluster.nearest_clusters import nearest_clusters
from toolkit.descriptors.keeper import DataKeeper, Sample
from toolkit.descriptors.loader import DataLoader
from toolkit.grid.finished import FinishedRun
from toolkit.memory import MemoryBudget
from toolkit.outliers.combine import combine
from toolkit.outliers.detectors import DETECTORS, centre_distances, measure, noise_shares
from toolkit.outliers.evidence import plain

KINDS = ("foreign", "damaged", "nothing", "mixture")
SEEDS = range(5)
PER_KIND = 20
GRID = {
    "KMeans": {"n_clusters": [2, 3, 4, 5, 6, 8, 10, 12, 15]},
    "DBSCAN": {"eps": [0.25, 0.5, 1, 2, 4, 8], "min_samples": [8, 16, 32, 64]},
    "HDBSCAN": {"min_cluster_size": [8, 16, 32, 64]},
}
MIN_SAMPLES = [8, 16, 32, 64, 128, 256, 512]
SHOWN = [8, 64, 512]
N_ROWS, N_FEATURES, N_RAW = 100_000, 150, 1024


# Planting
def digits() -> np.ndarray:
    """Return (1797, 8, 8) uint8."""
    return (load_digits().images / 16 * 255).astype(np.uint8)


def crops(folder: Path, side: int = 64) -> np.ndarray:
    """Return the images of a folder, grey, (n, side, side) uint8."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return np.stack([_small(Image.open(path).convert("L"), side) for path in files])


def _small(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


def planted(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the images with outliers behind them, and the kind of each, 0 being none."""
    side = images.shape[1]
    copies = images[rng.choice(len(images), PER_KIND, replace=False)]
    pairs = images[rng.choice(len(images), (2, PER_KIND), replace=False)].astype(np.float64)
    kinds = [
        np.stack([_foreign(side, rng) for _ in range(PER_KIND)]),
        np.stack([_damaged(image, rng) for image in copies]),
        np.stack([_nothing(side, rng) for _ in range(PER_KIND)]),
        pairs.mean(axis=0),
    ]
    every = np.concatenate([images, *(np.clip(kind, 0, 255).astype(np.uint8) for kind in kinds)])
    return every, np.repeat(np.arange(5), [len(images)] + [PER_KIND] * len(KINDS))


def _foreign(side: int, rng: np.random.Generator) -> np.ndarray:
    photograph = Image.fromarray(load_sample_images().images[rng.integers(2)]).convert("L")
    width = int(rng.integers(48, 240))
    x, y = (int(rng.integers(0, size - width)) for size in photograph.size)
    return _small(photograph.crop((x, y, x + width, y + width)), side)


def _damaged(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    found, side = image.astype(np.float64), len(image)
    damage = rng.integers(4)
    if damage == 0:
        y, x = rng.integers(0, side - side // 2 + 1, 2)
        found[y : y + side // 2, x : x + side // 2] = rng.choice([0, 255])
    elif damage == 1:
        found += rng.normal(0, 80, found.shape)
    elif damage == 2:
        found[side // 2 :] = 128
    else:
        found = 255 - found
    return found


def _nothing(side: int, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        return rng.integers(0, 256, (side, side)).astype(np.float64)
    return rng.integers(0, 256) + rng.normal(0, 2, (side, side))


def describe_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return both descriptors, float32."""
    pixels = images if images.shape[1] <= 24 else np.stack([_small(Image.fromarray(image), 24) for image in images])
    side = max(32, images.shape[1])
    gradients = [
        hog(
            resize(image / 255, (side, side), order=3) if len(image) < side else image / 255,
            orientations=9,
            pixels_per_cell=(side // 4, side // 4),
            cells_per_block=(2, 2),
        )
        for image in images
    ]
    return {"hog": np.float32(gradients), "pixels": np.float32(pixels.reshape(len(pixels), -1) / 255)}


# Average precision
def precisions(images: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """Return the average precision of each score: of all kinds, and of each kind alone."""
    every, kind = planted(images, np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for descriptor, X in describe_images(every).items():
            np.save(folder / "in" / f"{descriptor}.npy", X)
        stages = [
            {"name": "wide", "fraction": 0.5, "n_components": {"pixels": 0.9, "hog": 0.6}, "scalers": ["norm", "std"],
             "grid": GRID},
            {"name": "last", "refine": {"top": 2}},
        ]  # fmt: skip
        config = {
            "descriptors": {"folder": str(folder / "in")}, "stages": stages, "best": {"by": "silhouette_score"},
            "seed": seed,
        }  # fmt: skip
        (folder / "c.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        out = folder / "out"
        command = [sys.executable, "-m", "toolkit", "outliers", folder / "c.yaml", "--out", out, "--quiet"]
        subprocess.run(list(map(str, command)), check=True)
        table = pd.read_csv(out / "outliers.csv").sort_values("row")
        scores = {"combined": table["score"]}
        for detector in DETECTORS:
            for descriptor in ("hog", "pixels"):
                scores[f"{detector} ({descriptor})"] = table[f"{descriptor}_{detector}"]
        run = FinishedRun(out)
        for descriptor in run.names:
            X = run.matrix(plain(next(m for m in run.models.values() if m.cell.sample.descriptor == descriptor)))
            scores[f"scikit-learn IsolationForest ({descriptor})"] = (
                -IsolationForest(random_state=seed).fit(X).score_samples(X)
            )
            scores[f"scikit-learn LOF ({descriptor})"] = -LocalOutlierFactor().fit(X).negative_outlier_factor_
            raw = np.load(folder / "in" / f"{descriptor}.npy")
            scores[f"scikit-learn LOF ({descriptor}, not reduced)"] = (
                -LocalOutlierFactor().fit(raw).negative_outlier_factor_
            )
    return {name: _precision(np.asarray(score), kind) for name, score in scores.items()}


def _precision(score: np.ndarray, kind: np.ndarray) -> dict[str, float]:
    found = {"all": float(average_precision_score(kind > 0, score))}
    for number, name in enumerate(KINDS, start=1):
        here = (kind == 0) | (kind == number)
        found[name] = float(average_precision_score(kind[here] > 0, score[here]))
    return found


def print_precisions(name: str, images: np.ndarray) -> None:
    """Print a table of one set."""
    runs = [precisions(images, seed) for seed in SEEDS]
    means = pd.DataFrame({score: pd.DataFrame([run[score] for run in runs]).mean() for score in runs[0]}).T
    single = [score for score in means.index if score != "combined" and not score.startswith("scikit-learn")]
    theirs = [score for score in means.index if score.startswith("scikit-learn")]
    best = means.loc[single, "all"].idxmax()
    wins = sum(run["combined"]["all"] >= max(run[score]["all"] for score in single) for run in runs)
    print(
        f"\n## {name}\n\n{len(images):,} images and {PER_KIND} outliers of each kind; means of {len(runs)} plantings\n"
    )
    print("| average precision | all | " + " | ".join(KINDS) + " | combined / it |\n|---|---|" + "---|" * 5)
    order = ["combined", *sorted(single, key=lambda score: -means.loc[score, "all"]), *theirs]
    for score in order:
        row = means.loc[score]
        ratio = means.loc["combined", "all"] / row["all"]
        print(f"| {score} | " + " | ".join(f"{value:.3f}" for value in row) + f" | {ratio:.2f} |")
    print(
        f"\nThe combined score is at least the best single detector of the same planting, chosen with the truth, in "
        f"{wins} of {len(runs)} plantings; that of the means is {best}."
    )


# Cost
def print_cost() -> None:
    """Print the seconds of all scores and of a neighbour pass for the same neighbours."""
    X = reduced_descriptors(N_ROWS, N_FEATURES, n_clusters=30)
    memory = MemoryBudget.resolve(None)
    DensityForest(SHOWN, memory=memory).fit(X[:3000])  # compiled now
    start = time.perf_counter()
    list_neighbors(X, MIN_SAMPLES[-1], memory=memory, folder=None)
    passing = time.perf_counter() - start
    start = time.perf_counter()
    forest = DensityForest(SHOWN, memory=memory).fit(X)
    seconds = {"spanning trees for glosh": max(0.0, time.perf_counter() - start - passing)}
    sweep = kmeans_sweep(X, range(2, 16), n_init=1, random_state=0)
    partitions = [(model.labels_, model.cluster_centers_) for model in sweep.values()]
    cells = [(float(eps), m) for eps in (0.25, *2.0 ** np.arange(-1, 10)) for m in MIN_SAMPLES]
    seconds["pca_residual"], residuals = _residuals(memory)
    facts = {"X": X, "forest": forest, "min_samples": SHOWN, "residuals": residuals, "seed": 0, "memory": memory}
    for name, make in {
        "noise_shares": lambda: noise_shares(forest, cells),
        "centre_distances": lambda: centre_distances(X, partitions),
    }.items():
        start = time.perf_counter()
        facts[name] = make()
        seconds[name] = time.perf_counter() - start
    measures = {}
    for name, detector in DETECTORS.items():
        start = time.perf_counter()
        measures[name] = measure(name, detector, SimpleNamespace(**facts))
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    start = time.perf_counter()
    combine({"x": {name: detector.score(measures[name]) for name, detector in DETECTORS.items()}})
    seconds["combined"] = time.perf_counter() - start
    print(f"\n## Cost\n\n{N_ROWS:,} x {N_FEATURES} float32 in 30 clusters, min_samples {SHOWN}, ", end="")
    print(f"{len(cells)} DBSCAN cells, {len(partitions)} KMeans models; residuals of {N_RAW:,} features on disk\n")
    print("| | seconds | of the pass |\n|---|---|---|")
    print(f"| neighbour pass, {MIN_SAMPLES[-1]} neighbours | {passing:.1f} | 1 |")
    for name, took in seconds.items():
        print(f"| {name} | {took:.2f} | {took / passing:.3f} |")
    print(f"| all scores | {sum(seconds.values()):.1f} | {sum(seconds.values()) / passing:.2f} |")


def _residuals(memory: MemoryBudget) -> tuple[float, np.ndarray]:
    """Return the seconds for the residuals of a descriptor on disk, reduced before, and the residuals."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name) / "a.npy", rng.normal(size=(N_ROWS, N_RAW)).astype(np.float32))
        keeper = DataKeeper(loader=DataLoader(["a"], name, memory=memory), cache=Path(name) / "cache")
        sample = Sample("a", n_components=N_FEATURES)
        keeper.reduce(sample)
        start = time.perf_counter()
        residuals = keeper.residuals(sample)
        took = time.perf_counter() - start
    assert residuals is not None
    return took, residuals


def print_reassign() -> None:
    """Print the seconds of finding the nearest cluster of every noise row, and scikit-learn's for the same."""
    X = reduced_descriptors(N_ROWS, N_FEATURES, n_clusters=20)
    model = MiniBatchKMeans(20, random_state=0).fit(X)
    away = np.linalg.norm(X - model.cluster_centers_[model.labels_], axis=1)
    noise = np.flatnonzero(away > np.quantile(away, 0.7))
    labels = model.labels_.copy()
    labels[noise] = -1
    nearest_clusters(X[:3000], labels[:3000], noise[noise < 3000], memory=MemoryBudget.resolve(None))  # compiled now
    start = time.perf_counter()
    found = nearest_clusters(X, labels, noise, memory=MemoryBudget.resolve(None))
    ours = time.perf_counter() - start
    start = time.perf_counter()
    distances = [
        NearestNeighbors(n_neighbors=1, algorithm="brute").fit(X[labels == label]).kneighbors(X[noise])[0][:, 0]
        for label in np.unique(labels[labels >= 0])
    ]
    theirs = time.perf_counter() - start
    same = np.mean(found.label == np.argmin(distances, axis=0))
    print(
        f"\n## Reassigning noise\n\n{N_ROWS:,} x {N_FEATURES} float32, 20 clusters, {len(noise):,} noise rows: ", end=""
    )
    print(
        f"{ours:.1f} s; scikit-learn's brute force, cluster by cluster: {theirs:.1f} s; {theirs / ours:.1f}x; ", end=""
    )
    print(f"the same label for {100 * same:.2f} % of the rows")


def main(faces: str | None = None) -> None:
    """Print a Markdown report."""
    print("# Outliers\n\n" + describe("scikit-image"))
    print_precisions("Digits", digits())
    if faces is not None:
        print_precisions("Faces", crops(Path(faces)))
    print_cost()
    print_reassign()


if __name__ == "__main__":
    main(*sys.argv[1:])
