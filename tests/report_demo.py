"""A made-up report page: blobs, labellings of several kinds, thumbnails, hostile names."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from toolkit.report.html.data import Cluster, Cut, Figure, Map, Page, ReportedModel, WhatIf

if TYPE_CHECKING:
    from pathlib import Path

# Each sets window.hacked if it is run; the first rows of every demo have them.
HOSTILE = [
    "<img src=x onerror=window.hacked=1>.jpg",
    "</script><script>window.hacked=2</script>.jpg",
    "\"><svg onload='window.hacked=3'>.jpg",
    "javascript:window.hacked=4",
    "übergröße 猫 100% #1?.jpg",
    "broken \udcff name.jpg",
    'comma, "quote"\nand line.jpg',
    "<!--<script>.jpg",
]
EPS = [round(0.2 * step, 1) for step in range(1, 13)]
MIN_SAMPLES = [4, 8, 16, 32, 64]
NAMES = {0: "people <i>walking</i>", 3: "night", 5: "a name that is far too long for " + "any list " * 12, 7: "night"}
START = 33  # the cut with which the sliders start: eps 1.4, min_samples 32


def demo_page(n: int = 1500, *, n_models: int = 60, n_labelled: int = 12, seed: int = 0) -> Page:
    """Return a page of `n` rows with two maps, 60 cuts and `n_labelled` of `n_models` models that have labels."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 24, n)
    centres = rng.uniform(-10, 10, (24, 2))
    points = (centres[truth] + rng.normal(size=(n, 2)) * rng.uniform(0.25, 0.9, 24)[truth, None]).astype(np.float32)
    turned = np.column_stack([points[:, 1] - points[:, 0] / 3, points[:, 0] ** 2 / 8]).astype(np.float32)
    some = np.flatnonzero(rng.random(n) < 0.8)
    hostile = min(n, len(HOSTILE))
    paths = HOSTILE[:hostile] + [f"market/{truth[i]:04d}_c{i % 6}s1_{i:06d}_00.jpg" for i in range(hostile, n)]
    shown = rng.permutation(n)[: min(n // 3, 600)]
    models = demo_models(rng, truth, points, n_models, n_labelled, set(shown.tolist()))
    finalists = [model for model in models if model.is_finalist]
    return Page(
        title="Clusters of 416,314 images <demo>",
        facts=[
            ("Rows", "416,314"), ("Descriptors", "osnet, vdc_color"), ("Seed", "0"), ("Device", "cpu, 2 threads"),
            ("Time", "43 min"), ("Models", "60 in 1 stages"), ("Finished", "2026-03-05T09:07:08+0000"),
            ("Versions", "toolkit 0.1.0, scikit-learn 1.8.0"),
        ],
        notes=[f"The page shows {n:,} of 416,314 rows, a random sample."],
        n_rows=416_314,
        rows=np.sort(rng.choice(416_314, n, replace=False)),
        paths=paths,
        image_urls=[f"images/{path}" for path in paths],
        thumbnails={int(position): thumbnail(int(truth[position]), int(position)) for position in shown},
        maps=[
            Map("osnet", "norm", "UMAP", points, np.arange(n), f"UMAP fitted on 50,000 of 416,314 rows, {n:,} shown"),
            Map("vdc_color", "std", "t-SNE", turned[some], some, f"t-SNE of {len(some):,} rows, perplexity 30"),
        ],
        models=models,
        what_ifs=[demo_cuts(rng, truth, points)],
        figures=[Figure("osnet", "Explained variance", "150 components.", picture(1)),
                 Figure("osnet", "Distances", "k-th neighbour, sorted.", picture(2)),
                 Figure("", "Times", "Seconds of each stage.", picture(3))],
        metrics={"calinski_harabasz_score": True, "davies_bouldin_score": False, "silhouette_score": True},
        agreement=[(a.id, b.id, float(rng.random()), float(rng.random()))
                   for a, b in itertools.combinations(finalists, 2)],
    )  # fmt: skip


def demo_models(
    rng: np.random.Generator,
    truth: np.ndarray,
    points: np.ndarray,
    n_models: int,
    n_labelled: int,
    shown: set[int],
) -> list[ReportedModel]:
    models = []
    for i in range(n_models):
        labels = None if i >= n_labelled else demo_labels(rng, truth, points, i)
        algorithm = ["KMeans", "HDBSCAN", "DBSCAN"][i % 3]
        descriptor, scaler = ["osnet", "vdc_color"][i // 3 % 2], ["norm", "std"][i // 6 % 2]
        params: dict[str, Any] = {
            "KMeans": {"n_clusters": 2 + i},
            "HDBSCAN": {"min_cluster_size": 8 + i, "min_samples": 8},
            "DBSCAN": {"eps": round(0.1 + i / 90, 3), "min_samples": 16},
        }[algorithm]
        models.append(
            ReportedModel(
                id=f"m{i:04d}",
                name=f"{descriptor}_{scaler}_{algorithm}_" + "_".join(f"{k}={v}" for k, v in params.items()),
                stage=["clusterization", "refined", "prefinal"][i % 7 % 3],
                descriptor=descriptor,
                scaler=scaler,
                cluster_class=algorithm,
                params=params,
                scores=demo_scores(rng, labels, failed=i == n_models - 1),
                labels=labels,
                clusters=() if labels is None else demo_clusters(rng, labels, shown, with_members=i < 4),
                is_finalist=i < 4,
                is_pareto=i % 11 == 0,
                is_eligible=i < 4 or i % 5 != 4,
                why="Best Calinski-Harabasz score of its descriptor among the models that cover at least 50 %. "
                "Next is osnet_norm_HDBSCAN_min_cluster_size=9_min_samples=8_cluster_selection_method=leaf." * (i < 4),
            )
        )
    return models


def demo_labels(rng: np.random.Generator, truth: np.ndarray, points: np.ndarray, i: int) -> np.ndarray:
    """Return coarser or finer groups of the truth; some rows are noise, some not seen, model 2 has 300 clusters."""
    labels = truth % (3 + i) if i != 2 else truth + 24 * rng.integers(0, 13, len(truth))
    labels = np.where(rng.random(len(truth)) < 0.04, rng.integers(0, 3, len(truth)), labels)
    if i % 3:
        labels[np.linalg.norm(points, axis=1) > 11] = -1
        labels[rng.random(len(truth)) < 0.1] = -1
    if i % 4 == 3:
        labels[rng.random(len(truth)) < 0.3] = -2
    return labels.astype(np.int32)


def demo_scores(rng: np.random.Generator, labels: np.ndarray | None, *, failed: bool) -> dict[str, Any]:
    if failed:
        return {
            "n_clusters": None,
            "silhouette_score": None,
            "error": "ValueError: eps must be > 0 & < 1, got <b>0</b>",
        }
    n_clusters = int(rng.integers(2, 400)) if labels is None else len(np.unique(labels[labels >= 0]))
    return {
        "n_clusters": n_clusters,
        "calinski_harabasz_score": float(rng.gamma(2, 9000) / n_clusters),
        "davies_bouldin_score": float(rng.uniform(0.5, 4)),
        "silhouette_score": np.float64(np.nan) if n_clusters > 380 else float(rng.normal(0.2, 0.1)),
        "silhouette_rows": 10_000,
        "n_noise": int(rng.integers(0, 90_000)),
        "coverage": float(rng.beta(6, 1)),
        "largest_share": float(rng.beta(2, 5)),
        "stability": float(rng.random()) if labels is not None else None,
        "warning": None,
    }


def demo_clusters(
    rng: np.random.Generator, labels: np.ndarray, shown: set[int], *, with_members: bool
) -> tuple[Cluster, ...]:
    clusters = []
    for label in np.unique(labels[labels >= -1]):
        rows = np.flatnonzero(labels == label)
        in_page = [int(row) for row in rows if int(row) in shown]
        members = {
            kind: in_page[at : at + 6] for at, kind in zip((0, 6, 12), ("central", "random", "border"), strict=True)
        }
        clusters.append(
            Cluster(
                label=int(label),
                n_rows=len(rows) * 7,
                name=NAMES.get(int(label), ""),
                stability=float(rng.random()) if label >= 0 else None,
                sheet=f"sheets/cluster {label}.png" if with_members else None,
                aggregates={"Eigen<i>faces": f"aggregates/eigenfaces_{label}.png"} if with_members else {},
                members=members if with_members else {},
            )
        )
    return tuple(clusters)


def demo_cuts(rng: np.random.Generator, truth: np.ndarray, points: np.ndarray) -> WhatIf:
    cuts = []
    for eps, min_samples in itertools.product(EPS, MIN_SAMPLES):
        labels = truth % max(2, int(24 - 8 * eps)) if eps < 2 else np.zeros_like(truth)
        labels = np.where(rng.random(len(truth)) < min_samples / 100 / eps, -1, labels).astype(np.int32)
        cuts.append(
            Cut(
                settings={"eps": eps, "min_samples": min_samples},
                n_clusters=len(np.unique(labels[labels >= 0])),
                coverage=float((labels >= 0).mean()),
                labels=labels,
                largest_share=float(
                    np.unique(labels[labels >= 0], return_counts=True)[1].max(initial=0) / max(1, (labels >= 0).sum())
                ),
            )
        )
    sliders = {"eps": EPS, "min_samples": [float(value) for value in MIN_SAMPLES]}
    return WhatIf("osnet", "norm", "DBSCAN", sliders, cuts, "60 cuts of one density forest of 416,314 rows.", START)


def thumbnail(group: int, position: int) -> bytes:
    """Return a JPEG whose colour tells the group."""
    image = Image.new("RGB", (48, 64), tuple((53 * group + 90 * channel) % 200 + 40 for channel in range(3)))
    draw = ImageDraw.Draw(image)
    draw.ellipse((10 + position % 9, 8, 34, 32), fill="white")
    draw.text((12, 46), str(position % 1000), fill="black")
    return _encoded(image, "JPEG")


def picture(seed: int) -> bytes:
    image = Image.new("RGB", (640, 400), "white")
    heights = np.random.default_rng(seed).integers(40, 380, 12)
    for bar, height in enumerate(heights):
        ImageDraw.Draw(image).rectangle((20 + 50 * bar, 400 - height, 60 + 50 * bar, 399), fill=(60, 90, 200))
    return _encoded(image, "PNG")


def write_images(page: Page, folder: Path) -> None:
    """Write an image where each address of the page leads, for those that are plain files."""
    (folder / "images" / "market").mkdir(parents=True, exist_ok=True)
    for position, path in enumerate(page.paths):
        if path.startswith("market/"):
            (folder / "images" / path).write_bytes(thumbnail(0, position))


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()
