"""A whole report of 416,314 rows under 6 GiB, its page in a browser, and stability against a loop of scikit-learn.

    python -m benchmarks.report [n_rows]

The run (three estimators on a tenth of the rows, the best refined on all) is made first and not counted. The report
starts with nothing but the reduced descriptor in the cache: maps, refits and the density forest are made. Beside it, a
second report with everything in the cache. The page is opened in headless Chromium, where it and Selenium are
installed. Stability: ten refits of 26 models, by one sweep and one forest for each half; of scikit-learn, which fits
model after model, the first refit is timed and counted ten times.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.cluster import DBSCAN, HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score

from benchmarks.data import reduced_descriptors
from benchmarks.machine import describe
from toolkit.backend.cpu import CpuBackend
from toolkit.cluster.density import DensityForest
from toolkit.cluster.estimators import kmeans_sweep
from toolkit.memory import MemoryBudget, format_size, parse_size
from toolkit.progress import format_seconds
from toolkit.score.stability import stabilities

LIMIT = "6GiB"
MINUTES = 20
STABILITY_ROWS = 10_000
GRID = {
    "KMeans": {"n_clusters": [2, 5, 10, 20, 30]},
    "DBSCAN": {"eps": [0.5, 1, 2, 4], "min_samples": [8, 64]},
    "HDBSCAN": {"min_cluster_size": [16, 64, 256]},
}


def toolkit(*arguments: str | Path) -> None:
    """Run the command line in a process of its own."""
    subprocess.run([sys.executable, "-m", "toolkit", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def make_run(folder: Path, n_rows: int) -> Path:
    """Make a finished run without a report."""
    (folder / "descriptors").mkdir()
    np.save(folder / "descriptors" / "x.npy", reduced_descriptors(n_rows, n_clusters=30))
    stages = [{"name": "wide", "fraction": 0.1, "grid": GRID}, {"name": "last", "refine": {"top": 1}}]
    content = {"descriptors": {"folder": str(folder / "descriptors")}, "stages": stages}
    (folder / "c.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    toolkit("run", folder / "c.yaml", "--out", folder / "out", "--no-report", "--memory", LIMIT)
    return folder / "out"


def report(run: Path) -> dict[str, Any]:
    """Make the report and return what it recorded of itself."""
    toolkit("report", run, "--memory", LIMIT)
    found: dict[str, Any] = json.loads((run / "run.json").read_text())["report"]
    return found


def seconds_to_first_map(page: Path, profile: Path) -> float | None:
    """Return the seconds from opening a report in headless Chromium to its first map, or None without one."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver"))))
    try:
        start = time.perf_counter()
        browser.get(page.as_uri())
        browser.execute_async_script(
            "const done = arguments[0]; window.report.ready.then(() => requestAnimationFrame(done))"
        )
        return time.perf_counter() - start
    finally:
        browser.quit()


def stability() -> tuple[float, float]:
    """Return the seconds of ten refits of 26 models: ours, and scikit-learn's from the first."""
    X = reduced_descriptors(2 * STABILITY_ROWS, n_clusters=30)
    models: list[tuple[str, dict[str, Any]]] = [("KMeans", {"n_clusters": k}) for k in range(2, 16)]
    models += [("DBSCAN", {"eps": eps, "min_samples": m}) for eps in (0.5, 1.0, 1.5) for m in (16, 64, 256)]
    models += [("HDBSCAN", {"min_cluster_size": m}) for m in (16, 64, 256)]
    forest = DensityForest([16, 64, 256]).fit(X)
    sweep = kmeans_sweep(X, range(2, 16))
    labels = [
        sweep[params["n_clusters"]].labels_
        if family == "KMeans"
        else (forest.dbscan if family == "DBSCAN" else forest.hdbscan)(**params)
        for family, params in models
    ]
    memory = MemoryBudget(parse_size(LIMIT))
    start = time.perf_counter()
    stabilities(X, models, labels, seed=0, memory=memory, backend=CpuBackend(), max_rows=STABILITY_ROWS)
    ours = time.perf_counter() - start
    rows = np.sort(np.random.default_rng(0).choice(len(X), STABILITY_ROWS, replace=False))
    half = {"min_samples": 0.5, "min_cluster_size": 0.5}
    kinds = {"KMeans": KMeans, "DBSCAN": DBSCAN, "HDBSCAN": HDBSCAN}
    start = time.perf_counter()
    for (family, params), whole in zip(models, labels, strict=True):
        scaled = {name: int(value * half[name]) if name in half else value for name, value in params.items()}
        options = {"KMeans": {"n_init": 10, "random_state": 0}, "HDBSCAN": {"copy": True}}.get(family, {})
        adjusted_rand_score(whole[rows], kinds[family](**scaled, **options).fit_predict(X[rows]))
    return ours, 10 * (time.perf_counter() - start)


def main(n_rows: int = 416_314) -> None:
    """Print a Markdown report."""
    print("# Report\n\n" + describe("umap-learn", "matplotlib"))
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), n_rows)
        first = report(run)
        page = run / "report.html"
        print(f"\n{n_rows:,} x 150 float32, one descriptor, no images, --memory {LIMIT}\n")
        print("| | report | of the limit |\n|---|---|---|")
        print(f"| everything made | {format_seconds(first['seconds'])} | {first['seconds'] / 60 / MINUTES:.2f} |")
        peak = first["peak_bytes"]
        print(f"| peak resident memory | {format_size(peak)} | {peak / parse_size(LIMIT):.2f} |")
        parts = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in first["parts"].items())
        print(f"| its parts | {parts} | |")
        print(f"| again, from the cache | {format_seconds(report(run)['seconds'])} | |")
        print(f"| report.html | {page.stat().st_size / 1e6:.1f} MB | {page.stat().st_size / 15e6:.2f} |")
        opened = seconds_to_first_map(page, Path(folder) / "profile")
        print(
            f"| opened, to the first map | {'no browser' if opened is None else f'{opened:.2f} s | {opened / 3:.2f}'} |"
        )
    ours, theirs = stability()
    print(
        f"\nStability of 26 models (14 KMeans with 10 starts, 9 DBSCAN, 3 HDBSCAN), 10 refits of {STABILITY_ROWS:,} x "
        f"150 rows: {ours:.0f} s; scikit-learn, model after model, from its first refit: {theirs:,.0f} s; "
        f"{theirs / ours:.0f}x"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
