"""The engine of single cuML models: what it hands to cuML (here a stand-in), and what a missing or broken one says."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import torch
from hard_data import data, two_scales

from benchmarks import gpu_peers
from toolkit.backend.cpu import CpuBackend
from toolkit.backend.cuda import CudaBackend
from toolkit.backend.device import choose_backend
from toolkit.errors import DeviceError, InputError, MissingPackageError
from toolkit.grid.fit import Settings, fit_and_score
from toolkit.memory import MemoryBudget
from toolkit.report.maps import umap_map

calls: list[tuple[str, dict[str, Any], np.dtype[Any]]] = []


def estimator(name: str) -> Any:
    """Return a class with cuML's signature that fits by scikit-learn."""

    class Estimator:
        def __init__(self, *, output_type: str, **params: Any) -> None:
            assert output_type == "numpy"
            self.params = params

        def fit(self, X: np.ndarray) -> Any:
            calls.append((name, self.params, X.dtype))
            params = dict(self.params)
            if name == "HDBSCAN":
                params["min_samples"] += 1  # cuML does not count the row itself
            fitted = getattr(sklearn.cluster, name)(**params).fit(X)
            centres = getattr(fitted, "cluster_centers_", None)
            return SimpleNamespace(labels_=fitted.labels_.astype(np.int32), cluster_centers_=centres)

    return Estimator


@pytest.fixture
def cuml(monkeypatch: pytest.MonkeyPatch) -> None:
    module, cluster = ModuleType("cuml"), ModuleType("cuml.cluster")
    for name in ("KMeans", "DBSCAN", "HDBSCAN"):
        setattr(cluster, name, estimator(name))
    module.cluster = cluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuml", module)
    monkeypatch.setitem(sys.modules, "cuml.cluster", cluster)
    calls.clear()


@pytest.mark.usefixtures("cuml")
def test_min_samples_counts_the_row_itself() -> None:
    X = data(two_scales, 300, 4)
    models: list[Any] = [
        ("KMeans", {"n_clusters": 3}),
        ("DBSCAN", {"eps": 0.2, "min_samples": 5}),
        ("HDBSCAN", {"min_cluster_size": 8, "min_samples": None}),
        ("HDBSCAN", {"min_cluster_size": 8, "min_samples": 4, "max_cluster_size": 200}),
        ("HDBSCAN", {"min_cluster_size": 8, "min_samples": 1}),
    ]
    found = []
    for engine in ("cuml", "reference"):
        settings = Settings(engine, "exclude", 300, 0, MemoryBudget.resolve("8GiB"), CpuBackend())
        found.append({at: one for batch in fit_and_score(models, X, settings) for at, one in batch.items()})
    assert [call[1].get("min_samples") for call in calls] == [None, 5, 7, 3]
    assert calls[0][1] == {"n_clusters": 3, "n_init": 10, "init": "k-means++", "random_state": 0}
    assert all(call[2] == np.float32 for call in calls)
    for at in range(1, 4):
        np.testing.assert_array_equal(found[0][at].labels, found[1][at].labels)
        assert found[0][at].row["engine"] == "cuml"
    for engine in found:
        assert engine[0].centres.shape == (3, 4)
        assert engine[1].centres is None
    assert "not certified" in found[0][2].row["exactness"]
    assert "min_samples is 1; allowed with engine 'cuml': at least 2" in found[0][4].row["error"]


def test_a_missing_or_broken_cuml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaBackend, "__init__", lambda self, **_: None)
    monkeypatch.setitem(sys.modules, "cuml", None)
    with pytest.raises(MissingPackageError, match=r"engine 'cuml' needs the package .*cuml.*, which is missing"):
        choose_backend("auto", engine="cuml")
    with pytest.raises(InputError, match="engine 'cuml' runs on a GPU only; use --device auto or cuda"):
        choose_backend("cpu", engine="cuml")

    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.startswith("cuml"):
                raise OSError("libcuml++.so: cannot open\nshared object")

    monkeypatch.delitem(sys.modules, "cuml")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(DeviceError, match=r"cuML does not load \(OSError: libcuml\+\+.so: cannot open shared object\)"):
        choose_backend("cuda", engine="cuml")


@pytest.mark.usefixtures("cuml")
def test_with_cuml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaBackend, "__init__", lambda self, **_: None)
    backend, reason = choose_backend("auto", engine="cuml")
    assert (backend.name, reason) == ("cuda", "engine 'cuml' runs on a GPU only")
    choose_backend("auto", engine="cuml", memory="2GiB")  # without RMM there is nothing to limit
    rmm, mr = ModuleType("rmm"), ModuleType("rmm.mr")
    limits: list[Any] = []
    mr.get_current_device_resource = lambda: "below"  # type: ignore[attr-defined]
    mr.set_current_device_resource = limits.append  # type: ignore[attr-defined]
    mr.LimitingResourceAdaptor = lambda below, *, allocation_limit: (below, allocation_limit)  # type: ignore[attr-defined]
    rmm.mr = mr  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rmm", rmm)
    monkeypatch.setitem(sys.modules, "rmm.mr", mr)
    choose_backend("auto", engine="cuml", memory="2GiB")
    assert limits == [("below", 2 << 30)]


def test_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    X = data(two_scales, 40, 4)
    asked: list[dict[str, Any]] = []

    class UMAP:
        def __init__(self, *, output_type: str, **options: Any) -> None:
            asked.append(options)

        def fit_transform(self, X: np.ndarray) -> np.ndarray:
            return X[:, :2]

    monkeypatch.setattr("toolkit.report.maps.choose_backend", lambda _: (SimpleNamespace(name="cuda"), ""))
    monkeypatch.setattr("toolkit.report.maps._host_umap", lambda X, **_: X[:, 2:])
    np.testing.assert_array_equal(umap_map(X, 2, 0, device="auto"), X[:, 2:])  # a GPU, but no cuML
    with pytest.raises(MissingPackageError, match=r"a map with device 'cuda' needs the package cuml"):
        umap_map(X, 2, 0, device="cuda")
    module, manifold = ModuleType("cuml"), ModuleType("cuml.manifold")
    manifold.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuml", module)
    monkeypatch.setitem(sys.modules, "cuml.manifold", manifold)
    np.testing.assert_array_equal(umap_map(X, 2, 0, device="auto"), X[:, :2])
    assert asked == [{"n_components": 2, "n_neighbors": 15, "init": "spectral", "random_state": 0}]


def test_comparison_with_peers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cuml: None) -> None:
    flash = ModuleType("flash_kmeans")

    def batch_kmeans(rows: Any, *, n_clusters: int, tol: float) -> Any:
        labels = sklearn.cluster.KMeans(n_clusters, tol=tol, n_init=1).fit(rows[0].numpy()).labels_
        return torch.from_numpy(labels)[None], None, 1

    flash.batch_kmeans_Euclid = batch_kmeans  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_kmeans", flash)
    flashlib = ModuleType("flashlib")

    class Broken:
        def __init__(self, **_: Any) -> None:
            raise RuntimeError("no kernel")

    flashlib.DBSCAN = Broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flashlib", flashlib)
    monkeypatch.setattr(
        gpu_peers, "SEED_GRID", [cell for cell in gpu_peers.SEED_GRID if 512 not in cell[1].values()][::12]
    )
    assert gpu_peers.main(["--device", "cpu", "--rows", "400", "--cells", "2"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 7
    assert "| cuML ? | DBSCAN | 2 of" in rows[1]
    assert rows[1].endswith("| 1.000 |")
    assert "flash-kmeans" in rows[3]
    assert "not run" in rows[4]
    assert "failed: RuntimeError: no kernel" in rows[5]
