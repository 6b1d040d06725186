"""Runs on clusters of Dask with real processes, against one machine."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from distributed import LocalCluster
from distributed.client import Future
from hard_data import data, duplicates, far_blobs, heavy_tails, identical, lattice, normal

from toolkit.backend.cpu import CpuBackend
from toolkit.cli import _execute
from toolkit.cluster.density import DensityForest
from toolkit.cluster.estimators import kmeans_sweep
from toolkit.cluster.points import Points
from toolkit.distribute import cluster as clusters
from toolkit.distribute import dask_backend
from toolkit.distribute.cluster import Cluster, ClusterError, open_cluster
from toolkit.distribute.dask_backend import open_backend
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.grid.fit import Settings, fit_and_score
from toolkit.memory import MemoryBudget, granted_threads, n_threads
from toolkit.progress import Reporter
from toolkit.score.partition import score_labellings

MEMORY = MemoryBudget(6 << 30)
QUIET = Reporter(quiet=True)
CONFIG = {
    "descriptors": {"folder": "descriptors"},
    "stages": [
        {
            "name": "first",
            "n_components": 5,
            "scalers": ["norm", "std"],
            "grid": {
                "KMeans": {"n_clusters": [2, 3, 4, 7]},
                "DBSCAN": {"eps": [0.5, 1, 2], "min_samples": [4, 8]},
                "HDBSCAN": {"min_cluster_size": [8, 16]},
            },
        },
        {"name": "second", "refine": {"top": 1}},
    ],
    "best": {"by": "calinski_harabasz_score", "min_coverage": 0.0},
}


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    with open(tmp_path_factory.mktemp("run") / "out") as found:
        yield found


@pytest.fixture
def all_is_large(monkeypatch):
    """Everything is worth sending, and groups of a pass are single blocks."""
    monkeypatch.setattr(dask_backend, "_LEAST_WORK", 0)
    monkeypatch.setattr(dask_backend, "_LEAST_GROUP", dask_backend.BLOCK)


@contextlib.contextmanager
def open(out, where="local:2", **options):  # noqa: A001
    how = {"device": "cpu", "engine": "shared", "memory": MEMORY, "reporter": QUIET}
    with open_backend(where, out, **how | options) as (found, _):
        yield found


def error_of(out, where, **options) -> str:
    with pytest.raises(InputError) as caught, open(out, where, **options):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def neighbors(backend, X, min_samples, **options):
    """Return squared distances and indices of all lists."""
    lists = backend.list_neighbors(X, min_samples, memory=MEMORY, folder=None, **options)
    return [np.concatenate(arrays) for arrays in list(zip(*lists.blocks(), strict=True))[1:]]


def assert_same_neighbors(backend, X, min_samples, **options):
    for found, expected in zip(
        neighbors(backend, X, min_samples, **options), neighbors(CpuBackend(), X, min_samples), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


# The parts of the engine
@pytest.mark.parametrize("kind", [normal, lattice, duplicates, identical, heavy_tails, far_blobs])
@pytest.mark.usefixtures("all_is_large")
def test_neighbors(backend, kind):
    X = Points.of(data(kind, 6500, 4)).X
    assert_same_neighbors(backend, X, 70)


@pytest.mark.usefixtures("all_is_large")
def test_neighbors_in_float64_and_lists_on_disk(backend, tmp_path):
    X = np.random.default_rng(0).standard_t(2, size=(5000, 9))
    forest = DensityForest([5, 20], device=backend, memory=MEMORY, folder=tmp_path).fit(X)
    alone = DensityForest([5, 20], device="cpu", memory=MEMORY).fit(X)
    for ours, theirs in zip(forest.mst(min_samples=20), alone.mst(min_samples=20), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(forest.hdbscan(20), alone.hdbscan(20))


@pytest.mark.usefixtures("all_is_large")
def test_neighbors_where_thresholds_fail(backend):
    """Of very unequal scales float32 products say little, so that most rows are done again."""
    rng = np.random.default_rng(1)
    X = np.concatenate([rng.normal(size=(3000, 2)) * 1e-3, 10.0 ** rng.uniform(0, 4, size=(200, 2))]).astype("f4")
    assert_same_neighbors(backend, X, 70)


def test_progress_of_a_pass_adds_up(backend, all_is_large):
    told = []
    neighbors(backend, data(normal, 5000, 3), 8, advance=told.append)
    assert sum(told) == pytest.approx(1)
    assert len(told) > 10


@pytest.mark.usefixtures("all_is_large")
@pytest.mark.parametrize("kind", [normal, duplicates, far_blobs])
def test_kmeans(backend, kind):
    X = data(kind, 1500, 5)
    ours, theirs = (kmeans_sweep(X, [2, 5, 9, 3], n_init=3, random_state=4, device=d) for d in (backend, "cpu"))
    assert list(ours) == list(theirs)
    for k, model in ours.items():
        assert model.cluster_centers_.tobytes() == theirs[k].cluster_centers_.tobytes()
        np.testing.assert_array_equal(model.labels_, theirs[k].labels_)
        assert (model.inertia_, model.n_iter_) == (theirs[k].inertia_, theirs[k].n_iter_)


@pytest.mark.usefixtures("all_is_large")
@pytest.mark.parametrize("silhouette_rows", [200, 900, 5000])
def test_scores(backend, silhouette_rows):
    rng = np.random.default_rng(5)
    X = data(heavy_tails, 2100, 6)
    labellings = [rng.integers(-1, k, 2100) for k in (2, 3, 40)] + [
        np.where(np.arange(2100) < 150, np.arange(2100), -1) // 9
    ]
    labellings += [labellings[0] * 10**9, np.zeros(2100, int), rng.permutation(2100)]
    how = {"silhouette_rows": silhouette_rows, "memory": MEMORY}
    ours, theirs = (score_labellings(X, labellings, backend=where, **how) for where in (backend, CpuBackend()))
    assert ours == theirs
    assert sum(row["silhouette_score"] is not None for row in ours) >= 4


# Whole runs
@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("descriptors").mkdir()
    for name, kind in (("a", duplicates), ("b", far_blobs)):
        np.save(f"descriptors/{name}.npy", data(kind, 2600, 6))
    Path("grid.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return tmp_path


def execute(out: str, dask: str | None) -> None:
    _execute(Path("grid.yaml"), Path(out), "cpu", "16GiB", None, dask, strict=False, quiet=True)


@pytest.mark.usefixtures("work", "all_is_large")
def test_a_run_equals_one_machine():
    execute("alone", None)
    execute("out", "local:2")
    for name in ("first", "second"):
        one, other = (
            pd.read_csv(Path(where, f"{name}_scores.csv")).drop(columns=["fit_seconds", "score_seconds"])
            for where in ("out", "alone")
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    for name in ("best_clusterization.csv", "train_assignments.json", "cluster_centers.npy"):
        assert Path("out", name).read_bytes() == Path("alone", name).read_bytes()
    record = json.loads(Path("out/run.json").read_text())
    assert record["state"] == "complete"
    assert record["device"] | {"cluster": "local:2", "workers": "2", "name": "cpu"} == record["device"]
    assert not list(Path("out").rglob(".unfinished-*"))


@pytest.mark.usefixtures("all_is_large")
def test_nothing_large_is_sent(backend, monkeypatch):
    sent, submit = [], backend.cluster.client.submit

    def weigh(function, *arguments, **options):
        named = [[a.key for a in one] if isinstance(one, list) and one and isinstance(one[0], Future) else one
                 for one in arguments]  # fmt: skip
        sent.append(len(pickle.dumps((function, named))))
        return submit(function, *arguments, **options)

    monkeypatch.setattr(backend.cluster.client, "submit", weigh)
    X = data(normal, 4100, 40)
    labels = DensityForest([8], device=backend, memory=MEMORY).fit(X).dbscan(5.5, 8)
    labels = [model.labels_ for model in kmeans_sweep(X, [3, 8], device=backend).values()] + [labels]
    score_labellings(X, labels, backend=backend, memory=MEMORY)
    assert len(sent) > 20
    assert max(sent) < 5000 < X.nbytes / 100


# What goes wrong
@pytest.mark.usefixtures("all_is_large")
def test_a_worker_is_killed(backend):
    X = data(heavy_tails, 9000, 30)
    pids = backend.cluster.client.run(os.getpid)
    done, killed = [], []

    def kill_one(share):
        done.append(share)
        if not killed and sum(done) > 0.1:
            killed.append(min(pids.values()))
            os.kill(killed[0], signal.SIGKILL)

    assert_same_neighbors(backend, X, 90, advance=kill_one)
    assert killed
    assert killed[0] not in backend.cluster.client.run(os.getpid).values()
    assert sum(done) == pytest.approx(1)


def start_worker(address: str, cwd: Path, *more: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dask", "worker", address, "--no-nanny", "--no-dashboard", "--nthreads", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, *more], cwd=cwd, env=os.environ | environment, **quiet)


@pytest.fixture
def scheduler():
    with LocalCluster(
        n_workers=0, processes=False, host="127.0.0.1", protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as made:
        yield made.scheduler_address


@contextlib.contextmanager
def worker(address, cwd, *more, **environment):
    process = start_worker(address, cwd, *more, **environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("all_is_large")
def test_a_cluster_that_runs_and_loses_its_workers(scheduler, tmp_path, monkeypatch):
    X = data(normal, 5000, 5)
    monkeypatch.setattr(clusters, "_WITHOUT_SECONDS", 1)
    with worker(scheduler, tmp_path, "--memory-limit", "2GiB") as process, open(tmp_path / "out", scheduler) as backend:
        assert backend.cluster.slots() == 1
        assert_same_neighbors(backend, X, 8)
        process.kill()
        for model in (("DBSCAN", {"eps": 1.0, "min_samples": 8}), ("KMeans", {"n_clusters": 3})):  # no error of theirs
            with pytest.raises(ClusterError, match="there has been no worker for 1 s"):
                list(fit_and_score([model], X, Settings("shared", "exclude", 100, 0, MEMORY, backend)))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("all_is_large")
def test_workers_that_die_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "_DEATHS", 0)
    with open(tmp_path / "out", "local:2") as backend:
        pids = list(backend.cluster.client.run(os.getpid).values())

        def kill_all(_):
            while pids:
                os.kill(pids.pop(), signal.SIGKILL)

        with pytest.raises(ClusterError, match="1 workers died one after the other at the same work"):
            neighbors(backend, data(heavy_tails, 9000, 30), 90, advance=kill_all)


@pytest.mark.usefixtures("all_is_large")
def test_a_scheduler_that_ends(tmp_path):
    command = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--scheduler-file", str(file)], **quiet)
    try:
        end = time.monotonic() + 30
        while not (file.exists() and file.read_text().endswith("}")) and time.monotonic() < end:
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        with worker(address, tmp_path), worker(address, tmp_path), open(tmp_path / "out", address) as backend:
            backend.cluster.client.wait_for_workers(2, timeout=20)
            with pytest.raises(ClusterError, match="the scheduler is gone; start it again"):
                neighbors(backend, data(heavy_tails, 9000, 30), 90, advance=lambda _: process.kill())
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("all_is_large")
def test_workers_that_come_later(scheduler, tmp_path):
    with worker(scheduler, tmp_path), open(tmp_path / "out", scheduler) as backend:
        assert backend.cluster.slots() == 1
        with worker(scheduler, tmp_path):
            backend.cluster.client.wait_for_workers(2, timeout=20)
            assert backend.cluster.slots() == 2
            assert list(backend.cluster.share.slots.values()) == [2]
            assert_same_neighbors(backend, data(normal, 5000, 5), 8)
        (tmp_path / "toolkit.py").write_text("raise ImportError('not here')")
        with worker(scheduler, tmp_path, PYTHONPATH=str(tmp_path)):
            backend.cluster.client.wait_for_workers(2, timeout=20)
            with pytest.raises(ClusterError, match="not here"):
                backend.cluster.slots()


def test_a_worker_without_the_package(scheduler, tmp_path):
    (tmp_path / "toolkit.py").write_text("raise ImportError('not here')")
    with worker(scheduler, tmp_path, PYTHONPATH=str(tmp_path)):
        message = error_of(tmp_path / "out", scheduler)
    assert "has toolkit: none (not here)" in message
    assert "worker tcp://127.0.0.1:" in message
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_shared(scheduler, tmp_path, monkeypatch):
    """Below /proc/self/cwd every process sees its own folder."""
    for name in ("here", "there"):
        (tmp_path / name / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    seen = Path("/proc/self/cwd/run")
    with worker(scheduler, tmp_path / "there"):
        with (
            pytest.raises(InputError, match="does not see the files of /proc/self/cwd"),
            open_cluster(scheduler, seen, memory=MEMORY, reporter=QUIET),
        ):
            pass
        with open_cluster(scheduler, tmp_path, memory=MEMORY, reporter=QUIET) as found:
            assert isinstance(found, Cluster)


def test_no_workers(scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "_ANSWER_SECONDS", 1)
    assert "has no worker; start `dask worker tcp://127.0.0.1:" in error_of(tmp_path / "out", scheduler)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("local:0", "--dask local:0: the number of workers is 0; allowed: from 1"),
        ("local", "the number of workers is missing; allowed: from 1"),
        ("local:-2", "the number of workers is -2"),
        ("slurm:0", "the number of workers is 0"),
        ("somewhere", "--dask somewhere is no cluster; allowed: local:N"),
        ("tcp://127.0.0.1:1", "--dask tcp://127.0.0.1:1: no scheduler of Dask answers there"),
    ],
)
def test_clusters_that_cannot_be(tmp_path, monkeypatch, where, said):
    monkeypatch.setattr(clusters, "_ANSWER_SECONDS", 1)
    assert said in error_of(tmp_path / "new" / "out", where)
    assert not (tmp_path / "new").exists()


def test_what_is_not_distributed(tmp_path):
    assert "not cuda" in error_of(tmp_path / "out", "local:1", device="cuda")
    assert "engine 'reference' runs in one process" in error_of(tmp_path / "out", "local:1", engine="reference")
    (tmp_path / "file").touch()
    assert "file is a file" in error_of(tmp_path / "file", "local:1")


@pytest.mark.usefixtures("all_is_large")
def test_too_little_memory(backend, monkeypatch):
    monkeypatch.setattr(Cluster, "free", 1 << 20)
    with pytest.raises(MemoryBudgetError, match="a task of --dask local:2 may take 1 MiB; use fewer workers"):
        neighbors(backend, data(normal, 5000, 5), 8)


@pytest.mark.usefixtures("all_is_large")
def test_too_little_disk(backend, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(MemoryBudgetError, match=r"of the disk of .* but 1 MiB are free; free some space"):
        neighbors(backend, data(normal, 5000, 5), 8)


@pytest.mark.usefixtures("all_is_large")
def test_an_error_of_a_task_is_the_users(backend):
    X = np.full((2100, 3), 1e200)
    X[:, 0] = np.arange(2100)
    with pytest.raises(InputError, match="the matrix holds values up to 1e"):
        neighbors(backend, X, 8)


def test_stopping_cancels_what_is_left(backend, all_is_large):
    def stop(_):
        raise KeyboardInterrupt

    def n_tasks() -> int:
        return backend.cluster.client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))

    with pytest.raises(KeyboardInterrupt) as caught:  # whose traceback holds the futures
        neighbors(backend, data(normal, 9000, 30), 90, advance=stop)
    end = time.monotonic() + 10
    while n_tasks() and time.monotonic() < end:
        time.sleep(0.05)
    assert n_tasks() == 0, caught
    assert_same_neighbors(backend, data(normal, 3000, 3), 8)


def test_granted_threads_are_of_one_thread():
    seen = []
    with granted_threads(3):
        assert n_threads() == 3
        thread = threading.Thread(target=lambda: seen.append(n_threads()))
        thread.start()
        thread.join()
    assert seen == [n_threads()] == [len(os.sched_getaffinity(0))]
