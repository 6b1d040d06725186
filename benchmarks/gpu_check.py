"""Check the device code on a GPU machine: parity with the host and scikit-learn, memory limits, times, ceilings.

    python -m benchmarks.gpu_check [--device cuda] [--rows 416314] [--out benchmarks/results] [--minutes 8]

Needs torch, numba, scikit-learn, xxhash, psutil; no network, no installation. Writes gpu_check.json and gpu_check.md,
and ends with 1 if a check fails. With ``--device cpu --rows 3000`` the same checks run on CPU tensors.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.cluster import DBSCAN

from benchmarks.data import reduced_descriptors
from benchmarks.machine import describe
from toolkit.backend.cuda import CudaBackend
from toolkit.backend.cuda.device import Rows
from toolkit.backend.cuda.points import DeviceProducts, squared_distances
from toolkit.cluster.density import DensityForest
from toolkit.cluster.estimators import kmeans_sweep
from toolkit.cluster.forest_plan import list_neighbors
from toolkit.cluster.points import Points, measure
from toolkit.errors import MemoryBudgetError
from toolkit.grid.fit import Settings, fit_and_score
from toolkit.memory import MemoryBudget, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

N_CLUSTERS = range(2, 16)
SEED_GRID: list[tuple[str, dict[str, Any]]] = [
    *(("KMeans", {"n_clusters": k}) for k in N_CLUSTERS),
    *(("DBSCAN", {"eps": 2.0**e, "min_samples": 2**m}) for e in range(-2, 10) for m in range(3, 10)),
    *(("HDBSCAN", {"min_cluster_size": 2**m}) for m in range(3, 10)),
]
_PARITY_ROWS = 6000
_TIMED_ROWS = (20_000, 100_000, 416_314)
_REPEATS = 3


@dataclass
class Report:
    """What was found so far.

    Attributes
    ----------
    facts : dict
        The machine, the versions and the ceilings.
    checks : list of dict
        name, passed, detail.
    timings : list of dict
        what, rows, seconds, and what part of a ceiling that is.
    """

    minutes: float
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def check(self, name: str, work: Callable[[], str]) -> None:
        """Run a check, which returns a detail or raises."""
        start = time.monotonic()
        try:
            detail, passed = work(), True
        except Exception as error:
            traceback.print_exc()
            detail, passed = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", False
        seconds = round(time.monotonic() - start, 1)
        self.checks.append({"name": name, "passed": passed, "detail": detail, "seconds": seconds})
        print(f"{'ok    ' if passed else 'FAILED'} {name}: {detail} ({seconds} s)", flush=True)

    def time_left(self) -> float:
        """Seconds until the whole should be over."""
        return 60 * self.minutes - (time.monotonic() - self.started)

    def time(self, what: str, rows: int, seconds: float, note: str = "") -> None:
        """Keep a timing."""
        self.timings.append({"what": what, "rows": rows, "seconds": seconds, "note": note})
        print(f"       {what}, {rows:,} rows: {seconds:.3f} s {note}", flush=True)


def synchronised(backend: CudaBackend, work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call, the device's work included, and what it returned."""
    torch, is_cuda = backend.device.torch, backend.device.is_cuda
    if is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def typical(backend: CudaBackend, work: Callable[[], Any]) -> float:
    """Return the median seconds of a call after one that warms up."""
    work()
    return median(synchronised(backend, work)[0] for _ in range(_REPEATS))


def measure_ceilings(backend: CudaBackend, report: Report, n: int) -> None:
    """Measure how fast the card multiplies and copies at best."""
    device, torch = backend.device, backend.device.torch
    A = torch.rand((n, n), dtype=torch.float32, device=device.device)
    with device.exact_products():
        report.facts["float32 TFLOP/s"] = 2 * n**3 / typical(backend, lambda: A @ A) / 1e12
    with device.fast_products():
        report.facts["TF32 TFLOP/s"] = 2 * n**3 / typical(backend, lambda: A @ A) / 1e12
    B = A[: n // 2, : n // 2].double()
    report.facts["float64 TFLOP/s"] = 2 * (n // 2) ** 3 / typical(backend, lambda: B @ B) / 1e12
    report.facts["copy GB/s"] = 2 * A.nbytes / typical(backend, A.clone) / 1e9
    host = A.cpu()
    report.facts["host to device GB/s"] = host.nbytes / typical(backend, lambda: host.to(device.device)) / 1e9
    for name in ("float32 TFLOP/s", "TF32 TFLOP/s", "float64 TFLOP/s", "copy GB/s", "host to device GB/s"):
        report.facts[name] = round(report.facts[name], 2)


def hard_data(n: int) -> dict[str, np.ndarray]:
    """Return data on which shortcuts go wrong: ties, duplicates, offsets, tails, scales."""
    rng = np.random.default_rng(7)
    dense = rng.random(n) < 0.5
    return {
        "descriptors": reduced_descriptors(n, 150, n_clusters=8),
        "lattice": rng.integers(0, 4, (n, 5)).astype(np.float32),
        "duplicates": rng.normal(size=(n // 7, 20))[rng.integers(0, n // 7, n)].astype(np.float32),
        "offset": (rng.normal(size=(n, 17)) + 1000).astype(np.float32),
        "two scales": (np.where(dense[:, None], 0.05, 1) * rng.normal(size=(n, 30)) + 4 * dense[:, None]),
        "heavy tails": rng.standard_t(1, (n, 40)).astype(np.float32),
        "one column": rng.normal(size=(n, 1)),
    }


def require(condition: Any, what: str) -> None:
    """Fail a check."""
    if not condition:
        raise AssertionError(what)


def check_distances(backend: CudaBackend, X: np.ndarray) -> str:
    """Compare the bits of distances with the host's, and distances with their bounds."""
    device, torch = backend.device, backend.device.torch
    X = Points.of(X).X
    rng = np.random.default_rng(0)
    i, j = np.arange(len(X)), rng.integers(0, len(X), (len(X), 16))
    tensor = device.put(X)
    found = device.get(squared_distances(Rows(device, tensor), device.put(i), device.put(j)))
    expected = measure(X, np.repeat(i, 16), j.ravel()).reshape(len(X), 16)
    require(np.array_equal(found, expected), f"{(found != expected).sum()} of {found.size} distances differ")
    margins = []
    for is_short in {False, device.has_tensor_cores}:
        made = DeviceProducts.of(device, Rows(device, tensor), np.arange(len(X)), is_short=is_short)
        for rows in torch.arange(len(X), device=device.device).split(512):
            lower = -2 * made.tile(device, rows, slice(None)).double()
            exact = torch.cdist(tensor[rows].double(), tensor.double(), compute_mode="donot_use_mm_for_euclid_dist")
            exact = (exact * made.scale) ** 2
            slack = 1e-13 * float(exact.max())  # of the oracle, which is rounded too
            upper = lower + made.margins[rows][:, None] + made.margins
            require((lower <= exact + slack).all(), f"a lower bound is {float((lower - exact).max()):.3g} too high")
            require((exact <= upper + slack).all(), f"an upper bound is {float((exact - upper).max()):.3g} too low")
            used = (exact - (lower + upper) / 2).abs() / ((upper - lower) / 2)
            margins.append(float(used.max()))
    return f"{found.size:,} distances bit for bit; products use at most {100 * max(margins):.1f} % of their bound"


def check_forest(backend: CudaBackend, X: np.ndarray) -> str:
    """Compare lists, trees and labels with those of the host and of scikit-learn."""
    memory = MemoryBudget.resolve()
    points = Points.of(X).X
    ours = backend.list_neighbors(points, 128, memory=memory, folder=None)
    theirs = list_neighbors(points, 128, memory=memory, folder=None)
    for (_, *a), (_, *b) in zip(_whole(ours), _whole(theirs), strict=True):
        require(all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)), "neighbour lists differ")
    values = [2, 8, 32, 128]
    on_device, on_host = (DensityForest(values, device=where).fit(X) for where in (backend, "cpu"))
    n_cells = 0
    for m in values:
        tree, other = (forest.mst(min_samples=m) for forest in (on_device, on_host))
        require(np.array_equal(tree.distance, other.distance), f"spanning tree for min_samples={m} differs")
        require(np.array_equal(on_device.hdbscan(m), on_host.hdbscan(m)), f"HDBSCAN({m}) differs")
        for eps in np.unique(np.quantile(other.distance, [0.02, 0.3, 0.8, 0.99])):
            if eps > 0:
                labels = on_device.dbscan(float(eps), m)
                require(np.array_equal(labels, on_host.dbscan(float(eps), m)), f"DBSCAN({eps}, {m}) differs")
                n_cells += 1
    eps = float(np.quantile(other.distance, 0.5)) * (1 - 1e-9) or 1.0
    exact = DBSCAN(eps=eps, min_samples=32, algorithm="brute").fit(X.astype(np.float64)).labels_
    require(np.array_equal(on_device.dbscan(eps, 32), exact), "DBSCAN differs from scikit-learn")
    return f"lists, 4 trees, {n_cells} DBSCAN, 4 HDBSCAN equal the host's; 1 DBSCAN equals scikit-learn's"


def _whole(lists: Any) -> list[tuple[Any, ...]]:
    parts = list(lists.blocks())
    return [(0, *(np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[1:]))]


def check_grid(backend: CudaBackend, X: np.ndarray) -> str:
    """Compare labels and scores of a whole grid with the host's."""
    found = []
    for where in (backend, None):
        options = {} if where is None else {"backend": where}
        settings = Settings("shared", "exclude", 2000, 0, MemoryBudget.resolve(), **options)
        found.append({at: one for batch in fit_and_score(SEED_GRID, X, settings) for at, one in batch.items()})
    worst = 0.0
    for at, model in enumerate(SEED_GRID):
        ours, theirs = (side[at] for side in found)
        require(("error" in ours.row) == ("error" in theirs.row), f"{model}: {ours.row.get('error')}")
        if theirs.labels is None:
            continue
        require(np.array_equal(ours.labels, theirs.labels), f"labels of {model} differ")
        for name in ("calinski_harabasz_score", "davies_bouldin_score", "silhouette_score"):
            a, b = ours.row[name], theirs.row[name]
            require((a is None) == (b is None), f"{name} of {model}")
            worst = max(worst, abs(a - b) / max(abs(b), 1e-300) if a is not None and abs(b) > 1e-6 else 0.0)
    require(worst < 1e-9, f"scores differ by {worst:.2g}")
    return f"labels of {len(SEED_GRID)} models equal; scores within {worst:.1g}"


def check_limit(backend: CudaBackend, X: np.ndarray) -> str:
    """Make a pass within a limit of memory, and compare what it finds with one without."""
    expected = DensityForest([64], device=backend).fit(X).dbscan(1.0, 64)
    limit = max(256 << 20, 40 * X.nbytes // 8) if backend.device.is_cuda else None
    limited = CudaBackend(str(backend.device.device), memory=limit)
    limited.reset_peak()
    labels = DensityForest([64], device=limited).fit(X).dbscan(1.0, 64)
    require(np.array_equal(labels, expected), "labels differ")
    peak = limited.peak_bytes()
    require(peak is None or limit is None or peak <= limit, f"peak {peak} above the limit {limit}")
    return f"peak {format_size(peak or 0)} of {format_size(limit or 0)} for {len(X):,} rows, 64 neighbours"


def check_full(backend: CudaBackend, X: np.ndarray) -> str:
    """Work on a card that is nearly full, in smaller pieces, and on one where even that is too much."""
    device, torch = backend.device, backend.device.torch
    if not device.is_cuda:
        return "only on a card"
    expected = kmeans_sweep(X, [5], n_init=2, device=backend)[5].labels_
    torch.cuda.empty_cache()
    held = torch.empty(max(0, device.free - (1 << 30)), dtype=torch.uint8, device=device.device)
    labels = kmeans_sweep(X, [5], n_init=2, device=backend)[5].labels_
    require(np.array_equal(labels, expected), "labels differ")
    forest = DensityForest([32], device=backend).fit(X)
    del held
    torch.cuda.empty_cache()
    require(
        np.array_equal(forest.dbscan(1.0, 32), DensityForest([32], device=backend).fit(X).dbscan(1.0, 32)), "DBSCAN"
    )
    held = torch.empty(max(0, device.free - (64 << 20)), dtype=torch.uint8, device=device.device)
    try:
        CudaBackend()
    except MemoryBudgetError as error:
        message = str(error)
        require("\n" not in message, message)
    else:
        raise AssertionError("a full card was not refused")
    finally:
        del held
        torch.cuda.empty_cache()
    return f"with 1 GiB free the same labels; with 64 MiB free: {message[:60]}..."


def time_parts(backend: CudaBackend, report: Report, X: np.ndarray) -> str:
    """Time the parts of the seed grid of one matrix."""
    n, d = X.shape
    products = n * n / 2 * 2 * d / 1e12
    points = Points.of(X).X
    memory = MemoryBudget.resolve()
    seconds, lists = synchronised(backend, lambda: backend.list_neighbors(points, 512, memory=memory, folder=None))
    ceilings = {name: report.facts[f"{name} TFLOP/s"] for name in ("float32", "TF32")}
    note = "; ".join(f"{100 * products / seconds / top:.0f} % of {name}" for name, top in ceilings.items())
    report.time("neighbour pass, k = 512", n, seconds, f"({products / seconds:.1f} TFLOP/s: {note})")
    del lists
    forest = DensityForest([2**m for m in range(3, 10)], device=backend)
    whole, _ = synchronised(backend, lambda: forest.fit(X))
    report.time("7 spanning trees", n, whole - seconds, "(a fit less the pass)")
    cuts = [(2.0**e, 2**m) for m in range(3, 10) for e in range(-2, 10)]
    report.time("84 DBSCAN", n, synchronised(backend, lambda: [forest.dbscan(*cell) for cell in cuts])[0])
    sizes = [2**m for m in range(3, 10)]
    report.time("7 HDBSCAN", n, synchronised(backend, lambda: [forest.hdbscan(size) for size in sizes])[0])
    sweep, models = synchronised(backend, lambda: kmeans_sweep(X, N_CLUSTERS, n_init=10, device=backend))
    report.time("KMeans k = 2..15, 10 starts", n, sweep, f"({max(m.n_iter_ for m in models.values())} iterations)")
    return "timed"


def time_grid(backend: CudaBackend, report: Report, X: np.ndarray) -> str:
    """Time all models of one matrix, scores included."""
    settings = Settings("shared", "exclude", 10_000, 0, MemoryBudget.resolve(), backend)
    backend.reset_peak()
    seconds, _ = synchronised(backend, lambda: list(fit_and_score(SEED_GRID, X, settings)))
    peak = format_size(backend.peak_bytes() or 0)
    report.time(f"{len(SEED_GRID)} models, labels and scores", len(X), seconds, f"(peak {peak} on the device)")
    return "timed"


def markdown(report: Report) -> str:
    """Return the report as tables."""
    lines = ["# The device code on a GPU", "", *(f"- {name}: {value}" for name, value in report.facts.items()), ""]
    lines += ["| check | | |", "|---|---|---|"]
    lines += [f"| {c['name']} | {'ok' if c['passed'] else 'FAILED'} | {c['detail']} |" for c in report.checks]
    lines += ["", "| what | rows | seconds | |", "|---|---|---|---|"]
    lines += [f"| {t['what']} | {t['rows']:,} | {t['seconds']:.3f} | {t['note']} |" for t in report.timings]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run everything; return 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rows", type=int, default=max(_TIMED_ROWS), help="rows of the largest timing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--minutes", type=float, default=8, help="no timing is begun that would end later")
    given = parser.parse_args(arguments)
    backend = CudaBackend(given.device)
    device, report = backend.device, Report(given.minutes)
    report.facts = {"device": device.name, "machine": describe("torch"), "CUDA": str(device.torch.version.cuda)}
    for package in ("cupy-cuda13x", "cupy-cuda12x", "cuml-cu13", "cuml-cu12", "faiss-gpu-cu12"):
        try:
            report.facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    measure_ceilings(backend, report, 8192 if device.is_cuda else 512)
    n_parity = min(_PARITY_ROWS, given.rows)
    for name, X in hard_data(n_parity).items():
        report.check(f"distances, {name}", lambda X=X: check_distances(backend, X))
        report.check(f"forest, {name}", lambda X=X: check_forest(backend, X))
        if name in ("descriptors", "duplicates", "heavy tails"):
            report.check(f"grid, {name}", lambda X=X: check_grid(backend, X))
    X = reduced_descriptors(given.rows)
    report.check("memory limit", lambda: check_limit(backend, X[:100_000]))
    report.check("full card", lambda: check_full(backend, X[:50_000]))
    synchronised(backend, lambda: kmeans_sweep(X[:2000], [3], n_init=2, device=backend))  # loads what is slow at first
    last, rows_before = 0.0, 1
    for rows in sorted({min(rows, given.rows) for rows in _TIMED_ROWS}):
        if last * (rows / rows_before) ** 2 > report.time_left():
            print(f"       no time left for {rows:,} rows", flush=True)
            break
        start = time.monotonic()
        for name, work in (("parts", time_parts), ("grid", time_grid)):
            report.check(f"{name} of {rows:,} rows", lambda rows=rows, work=work: work(backend, report, X[:rows]))
        last, rows_before = time.monotonic() - start, rows
    given.out.mkdir(parents=True, exist_ok=True)
    content = {name: value for name, value in asdict(report).items() if name not in ("started", "minutes")}
    (given.out / "gpu_check.json").write_text(json.dumps(content, indent=1) + "\n")
    (given.out / "gpu_check.md").write_text(markdown(report))
    failed = sum(not check["passed"] for check in report.checks)
    print(f"{len(report.checks) - failed} of {len(report.checks)} checks passed; {given.out / 'gpu_check.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
