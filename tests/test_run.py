"""The main job: right results, resumable at any moment, the same bytes every time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.cluster import DBSCAN, HDBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import MinMaxScaler

from toolkit.backend.cpu import CpuBackend
from toolkit.config import parse_config
from toolkit.errors import InputError
from toolkit.grid.run import Run
from toolkit.grid.store import Store
from toolkit.memory import MemoryBudget
from toolkit.progress import Reporter

ROOT = Path(__file__).parent.parent
TIMINGS = ["fit_seconds", "score_seconds"]
STAGES = [
    {
        "name": "clusterization",
        "fraction": 0.5,
        "n_components": {"a": 5, "b": 0.9},
        "scalers": ["norm", "std"],
        "grid": {
            "KMeans": {"n_clusters": [2, 3, 4, 5]},
            "DBSCAN": {"eps": [0.1, 0.3, 1], "min_samples": [4, 16]},
            "HDBSCAN": {"min_cluster_size": [8, 32]},
        },
    },
    {"name": "refined", "refine": {"top": 2}},
    {"name": "prefinal", "refine": {"top": 1}},
]


@pytest.fixture
def content(tmp_path, blobs, rng):
    folder = tmp_path / "descriptors"
    folder.mkdir()
    np.save(folder / "a.npy", blobs[0])
    np.savez(folder / "b.npz", blobs[0][:, ::2] + rng.normal(size=(600, 6)) * 3)
    lines = ["path", *(f"images/{i}.jpg" for i in range(600))]
    (folder / "images_paths.csv").write_text("\n".join(lines) + "\n")
    return {
        "descriptors": {"folder": str(folder)},
        "stages": STAGES,
        "best": {"by": "silhouette_score", "min_coverage": 0.99},
    }


def execute(content, out, **options):
    run = Run(
        parse_config(content),
        out,
        memory=MemoryBudget.resolve("4GiB"),
        backend=CpuBackend(),
        reason="test",
        reporter=Reporter(quiet=True),
        **options,
    )
    return run.execute()


def tables(out):
    """Return every CSV of a run as text, timing columns apart."""
    found = {}
    for path in sorted(out.glob("*.csv")):
        table = pd.read_csv(path, dtype=str)
        found[path.name] = table.drop(columns=TIMINGS, errors="ignore").to_csv()
    return found


def test_end_to_end(content, tmp_path, blobs):
    outcome = execute(content, tmp_path / "out")
    truth = blobs[1]
    table = pd.read_csv(tmp_path / "out" / "clusterization_scores.csv")
    seed_columns = (ROOT / "tests" / "data" / "seed_columns.txt").read_text().split()
    assert table.columns[: len(seed_columns)].tolist() == seed_columns
    assert len(table) == 2 * 2 * (4 + 6 + 2)
    assert table["error"].isna().all()
    labels = pd.read_csv(tmp_path / "out" / "best_clusterization.csv")
    assert labels.columns[0] == "image_path"
    assert labels["image_path"].tolist() == [f"images/{i}.jpg" for i in range(600)]
    assert len(labels.columns) == 3
    assert adjusted_rand_score(truth, labels.iloc[:, 1]) > 0.95
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["state"] == "complete"
    assert set(record["stages"]) == {"clusterization", "refined", "prefinal"}
    assert all(stage["peak_bytes"] > 0 for stage in record["stages"].values())
    assert all(stage["device_peak_bytes"] is None for stage in record["stages"].values())  # the host's is all there is
    assert all(stage["device_shrunk"] == [] for stage in record["stages"].values())
    assert record["device"] == {"name": "cpu", "reason": "test"}
    assert outcome.n_fitted == len(Store(tmp_path / "out" / "models").rows)


def test_labels_are_those_of_scikit_learn(content, tmp_path, blobs):
    """Every model of the last stages, refitted by hand from the descriptor file on."""
    outcome = execute(content, tmp_path / "out")
    store = Store(tmp_path / "out" / "models")
    X = PCA(5, svd_solver="full").fit_transform(blobs[0].astype(np.float64))
    X = MinMaxScaler().fit_transform(X).astype(np.float32)
    checked = set()
    for _, model in pd.concat(outcome.models.values()).iterrows():
        if (model["descriptor"], model["scaler"], model["n_rows"]) != ("a", "norm", 600):
            continue
        params = model["cluster_class_params"]
        labels = store.labels(model["model"])
        if model["cluster_class"] == "KMeans":  # another local minimum is as good if its inertia is
            expected = KMeans(**params, n_init=10, random_state=0).fit(X).inertia_
            means = np.stack([X[labels == k].mean(axis=0) for k in range(params["n_clusters"])])
            assert ((X - means[labels]) ** 2).sum() <= 1.01 * expected
        else:
            expected = {"DBSCAN": DBSCAN, "HDBSCAN": HDBSCAN}[model["cluster_class"]](**params).fit_predict(X)
            assert adjusted_rand_score(expected, labels) == 1.0
        checked.add(model["cluster_class"])
    assert checked == {"KMeans", "DBSCAN", "HDBSCAN"}


def test_two_runs_are_byte_identical(content, tmp_path):
    execute(content, tmp_path / "one")
    execute(content, tmp_path / "two")
    assert tables(tmp_path / "one") == tables(tmp_path / "two")


def test_a_finished_run_fits_nothing_again(content, tmp_path):
    first = execute(content, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.csv")}
    again = execute(content, tmp_path / "out")
    assert (first.n_fitted > 0, again.n_fitted) == (True, 0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.csv")} == before


def test_a_model_that_two_stages_share_is_fitted_once(content, tmp_path):
    stage = {**STAGES[0], "fraction": 1.0}
    content["stages"] = [stage, {**stage, "name": "again"}]
    outcome = execute(content, tmp_path / "out")
    assert outcome.n_fitted == len(outcome.models["again"])


def start(config, out):
    command = [sys.executable, "-m", "toolkit", "run", str(config), "--out", str(out), "--quiet", "--no-report"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=config.parent)


def test_killed_and_resumed_equals_uninterrupted(content, tmp_path):
    """SIGKILL after every few commits, and between: during start, reduction, export."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    outcome = execute(content, tmp_path / "whole")
    total, out, seen, kills = outcome.n_fitted, tmp_path / "killed", 0, 0
    written: dict[str, int] = {}
    while True:
        process = start(config, out)
        target = seen + 2
        while process.poll() is None and len(list(out.glob("models/*.parquet"))) < target:
            time.sleep(0.005)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        files = {path.name: path.stat().st_ino for path in out.glob("models/*.parquet")}
        assert all(files[name] == inode for name, inode in written.items())  # nothing fitted twice
        written, seen = files, len(files)
    assert kills >= 3
    assert len(Store(out / "models").rows) == total
    assert tables(out) == tables(tmp_path / "whole")
    assert not list(out.rglob(".unfinished-*"))


@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.2, 1.6])
def test_killed_at_a_time(content, tmp_path, seconds):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    process = start(config, tmp_path / "killed")
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    execute(content, tmp_path / "killed")
    execute(content, tmp_path / "whole")
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")


def test_killed_while_the_first_file_was_written(content, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".unfinished-elsewhere-1-x").touch()
    execute(content, tmp_path / "out")


def test_a_folder_of_another_run_is_refused(content, tmp_path, blobs):
    execute(content, tmp_path / "out")
    before = tables(tmp_path / "out")
    other = {**content, "seed": 1}
    with pytest.raises(InputError, match="another configuration or other data: seed was 0, is 1"):
        execute(other, tmp_path / "out")
    np.save(Path(content["descriptors"]["folder"]) / "a.npy", blobs[0] + 1)
    with pytest.raises(InputError, match=r"other data: a was"):
        execute(content, tmp_path / "out")
    assert tables(tmp_path / "out") == before


def test_other_folders_are_refused(content, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds files but no run \(for instance thesis.tex\)"):
        execute(content, tmp_path / "full")
    with pytest.raises(InputError, match="is a file"):
        execute(content, tmp_path / "full" / "thesis.tex")


def test_a_mistake_can_be_mended_in_the_same_folder(content, tmp_path):
    """As long as no model is finished, the folder belongs to nobody's results."""
    folder = Path(content["descriptors"]["folder"])
    good = np.load(folder / "a.npy")
    np.save(folder / "a.npy", np.ones_like(good))
    with pytest.raises(InputError, match="descriptor a: all 300 rows are the same"):
        execute(content, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.csv"))
    np.save(folder / "a.npy", good)
    execute(content, tmp_path / "out")


def test_what_is_not_ours_is_never_removed(content, tmp_path):
    """An input error takes back what the run made: not a folder, nor a cache, that was there before."""
    folder = Path(content["descriptors"]["folder"])
    np.save(folder / "a.npy", np.ones((600, 12), np.float32))
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "cache").mkdir(parents=True)
    (tmp_path / "other" / "cache" / "thesis.txt").write_text("precious")
    for name in ("empty", "other", "new"):
        with pytest.raises(InputError, match="all 300 rows are the same"):
            execute(content, tmp_path / name)
    assert not list((tmp_path / "empty").iterdir())
    assert (tmp_path / "other" / "cache" / "thesis.txt").read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_a_finished_reduction_is_kept(content, tmp_path, rng):
    """A second descriptor that cannot be used does not cost the work on the first."""
    folder = Path(content["descriptors"]["folder"])
    good = np.load(folder / "b.npz")["arr_0"]
    np.savez(folder / "b.npz", np.ones_like(good))
    with pytest.raises(InputError, match="descriptor b: all"):
        execute(content, tmp_path / "out")
    assert len(list((tmp_path / "out" / "cache").glob("reduced-*"))) == 1
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "stopped"
    np.savez(folder / "b.npz", good)
    execute(content, tmp_path / "out")


def test_two_processes_do_not_share_a_folder(content, tmp_path):
    from toolkit.grid.folder import RunFolder, is_locked

    with RunFolder(tmp_path / "out"):
        assert is_locked(tmp_path / "out")
        with pytest.raises(InputError, match="another process"):
            execute(content, tmp_path / "out")
    assert not is_locked(tmp_path / "out")
    execute(content, tmp_path / "out")


def test_rows_that_are_not_finite_are_listed_and_unlabelled(content, tmp_path, blobs):
    X = blobs[0].copy()
    X[[5, 77]] = np.inf
    np.save(Path(content["descriptors"]["folder"]) / "a.npy", X)
    content["stages"] = [{**STAGES[0], "fraction": 1.0}]
    execute(content, tmp_path / "out")
    listed = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert listed.to_dict("list") == {
        "descriptor": ["a", "a"],
        "row": [5, 77],
        "image_path": ["images/5.jpg", "images/77.jpg"],
        "reason": ["NaN or inf"] * 2,
    }
    labels = pd.read_csv(tmp_path / "out" / "best_clusterization.csv")
    column = next(name for name in labels if name.startswith("a_"))
    assert np.flatnonzero(labels[column].isna()).tolist() == [5, 77]
    assert labels.drop(columns=column).notna().all(axis=None)
    with pytest.raises(InputError, match="2 rows hold NaN or inf"):
        execute(content, tmp_path / "strict", strict=True)


def test_a_cell_that_cannot_be_fitted_costs_itself(content, tmp_path):
    grid = {"KMeans": {"n_clusters": [2, 400]}, "HDBSCAN": {"min_cluster_size": [8], "min_samples": [5, 301]}}
    content["stages"] = [{**STAGES[0], "grid": grid, "scalers": ["norm"]}]
    outcome = execute(content, tmp_path / "out")
    table = outcome.models["clusterization"]
    failed = table[table["error"].notna()]
    assert len(failed) == 4
    assert failed["n_clusters"].isna().all()
    assert "400" in failed["error"].iloc[0]
    assert table[table["error"].isna()]["n_clusters"].notna().all()
    assert execute(content, tmp_path / "out").n_fitted == 0


@pytest.mark.parametrize("place", ["head", "middle"])
def test_a_damaged_model_file_is_fitted_again(content, tmp_path, place):
    execute(content, tmp_path / "out")
    before = tables(tmp_path / "out")
    for path in (tmp_path / "out" / "models").glob("*.parquet"):
        damaged = bytearray(path.read_bytes())
        start = 4 if place == "head" else len(damaged) // 2
        damaged[start : start + 40] = b"\0" * 40
        path.write_bytes(damaged)
    assert execute(content, tmp_path / "out").n_fitted > 0
    assert tables(tmp_path / "out") == before


@pytest.mark.parametrize("engine", ["shared", "reference"])
def test_any_exception_in_a_cell_costs_that_cell(content, tmp_path, monkeypatch, engine):
    """With either engine; the next start tries the failed cells again."""
    from toolkit.cluster import reference
    from toolkit.cluster.density import DensityForest

    def broken(*_, **__):
        raise TypeError("a library's bug")

    monkeypatch.setitem(reference._FITS, "HDBSCAN", broken)
    monkeypatch.setattr(DensityForest, "hdbscan", broken)
    content["engine"] = engine
    outcome = execute(content, tmp_path / "out")
    table = outcome.models["clusterization"]
    assert table["error"].notna().sum() == 8
    assert set(table["error"].dropna()) == {"TypeError: a library's bug"}
    monkeypatch.undo()
    assert execute(content, tmp_path / "out").models["clusterization"]["error"].isna().all()


@pytest.mark.parametrize("limit", ["420MiB", "600MiB", "4GiB"])
def test_the_memory_budget_changes_no_byte(tmp_path, rng, limit):
    """Blocks are the same whatever the budget; only how many are in flight differs."""
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "a.npy", rng.normal(size=(20_000, 128)).astype(np.float32))
    stage = {"name": "s", "n_components": 100, "scalers": ["std"], "grid": {"KMeans": {"n_clusters": [3], "n_init": 1}}}
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"descriptors": {"folder": "d"}, "stages": [stage], "silhouette_rows": 500}))
    found = []
    for name, memory in (("one", limit), ("two", "8GiB")):
        command = [sys.executable, "-m", "toolkit", "run", str(config), "--out", name, "--memory", memory]
        subprocess.run([*command, "--quiet", "--no-report"], cwd=tmp_path, check=True)
        found.append(tables(tmp_path / name))
    assert found[0] == found[1]


def test_noise_as_one_more_cluster(content, tmp_path):
    content["stages"] = [{**STAGES[0], "grid": {"DBSCAN": {"eps": [0.3], "min_samples": [16]}}, "scalers": ["std"]}]
    apart = execute(content, tmp_path / "apart").models["clusterization"].iloc[0]
    counted = execute({**content, "noise": "as_cluster"}, tmp_path / "counted").models["clusterization"].iloc[0]
    assert apart["n_noise"] == counted["n_noise"] > 0
    assert counted["n_clusters"] == apart["n_clusters"] + 1


def test_no_model_meets_the_constraints(content, tmp_path):
    content["best"] = {"by": "silhouette_score", "max_largest_share": 0.01}
    outcome = execute(content, tmp_path / "out")
    assert len(outcome.finalists) == 0
    assert pd.read_csv(tmp_path / "out" / "best_clusterization.csv").columns.tolist() == ["image_path"]
    assert len(pd.read_csv(tmp_path / "out" / "refined_scores.csv")) == 0


def test_the_digits_job(tmp_path):
    """What `make run` does: the labelling put first, without seeing the digits, is close to them."""
    for name in ("digits_descriptors.py", "digits_check.py", "digits.yaml"):
        (tmp_path / "jobs").mkdir(exist_ok=True)
        shutil.copy(ROOT / "jobs" / name, tmp_path / "jobs" / name)
    (tmp_path / "descriptors").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = ""
    for command in (
        ["jobs/digits_descriptors.py"],
        ["-m", "toolkit", "run", "jobs/digits.yaml", "--out", "results/digits"],
        ["jobs/digits_check.py", "results/digits"],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        )
        said = done.stdout if "toolkit" in command else said
    assert "report     results/digits/report.html" in said
    first = done.stdout.split("chance):")[1].split()[0]
    assert float(first) >= 0.7
    out = tmp_path / "results" / "digits"
    for name in ("n_clusters_score", "countplot", "umap_2", "umap_3", "cluster_0"):
        assert (out / "plots" / f"hog_{name}.png").stat().st_size > 5000
    assert (out / "report.html").stat().st_size < 15_000_000
    assert pd.read_csv(out / "finalists.csv")["stability"].min() > 0.5
    assert not any(json.loads((out / "run.json").read_text())["report"]["notes"].values())
