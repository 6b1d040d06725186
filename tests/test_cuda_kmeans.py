"""KMeans of the device code on CPU tensors against the host's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hard_data import KINDS, data, heavy_tails, normal

from toolkit.backend.cuda import CudaBackend
from toolkit.backend.cuda import kmeans as device_kmeans
from toolkit.backend.cuda.device import Device, Rows
from toolkit.backend.cuda.kmeans import DeviceFitter, _squared_distances
from toolkit.cluster import kmeans, kmeans_kernels
from toolkit.cluster.estimators import kmeans_sweep
from toolkit.cluster.kmeans_matrix import Matrix


@pytest.fixture(scope="module")
def backend() -> CudaBackend:
    return CudaBackend("cpu")


def fitter(backend: CudaBackend, X: np.ndarray) -> DeviceFitter:
    with kmeans.threads(1) as share:
        return DeviceFitter(backend.device, Matrix.of(X, share))


def assert_same(ours: dict[int, Any], theirs: dict[int, Any]) -> None:
    for k, model in theirs.items():
        np.testing.assert_array_equal(ours[k].labels_, model.labels_)
        np.testing.assert_array_equal(ours[k].cluster_centers_, model.cluster_centers_)
        assert (ours[k].inertia_, ours[k].n_iter_) == (model.inertia_, model.n_iter_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(15, 2), (1500, 3), (900, 40), (3000, 1)])
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_models_are_those_of_the_host(kind: Any, n: int, d: int, dtype: type, backend: CudaBackend) -> None:
    X = data(kind, n, d).astype(dtype)
    ks = [1, 2, 3, 7, 15]
    assert_same(
        kmeans_sweep(X, ks, n_init=3, random_state=1, device=backend), kmeans_sweep(X, ks, n_init=3, random_state=1)
    )


@pytest.mark.parametrize("scale", [1e-120, 1e-30, 1e30, 1e120])
def test_extreme_sizes(scale: float, backend: CudaBackend) -> None:
    X = scale * data(normal, 400, 5).astype(float)
    assert_same(kmeans_sweep(X, [3, 6], n_init=2, device=backend), kmeans_sweep(X, [3, 6], n_init=2))


def test_empty_clusters_move(backend: CudaBackend) -> None:
    X = data(normal, 500, 4)
    centres = np.concatenate([X[:3].astype(float), np.full((3, 4), 1e3)])
    ours, theirs = (kmeans_sweep(X, [6], init=centres, n_init=1, device=device) for device in (backend, "cpu"))
    assert_same(ours, theirs)


@pytest.mark.parametrize("d", [1, 7, 8, 9, 150])
def test_distances_have_the_bits_of_the_host(d: int, backend: CudaBackend) -> None:
    rng = np.random.default_rng(d)
    X, C = rng.standard_t(2, (50, d)).astype(np.float32), rng.standard_t(2, (9, d))
    i, j = torch.arange(50), torch.arange(9).expand(50, 9)
    found = _squared_distances(Rows(backend.device, torch.from_numpy(X)), i, torch.from_numpy(C), j).numpy()
    expected = [[kmeans_kernels.squared_distance(X, a, C, b) for b in range(9)] for a in range(50)]
    np.testing.assert_array_equal(found, expected)


def test_out_of_memory_is_tried_in_smaller_pieces(backend: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    X = data(heavy_tails, 2000, 6)
    theirs = kmeans_sweep(X, [2, 5], n_init=2)
    nearest, calls = device_kmeans._nearest, []

    def fails(*args: Any) -> Any:
        calls.append(len(args[1]))
        if len(calls) in (3, 7, 8):
            raise torch.OutOfMemoryError("full\nvery")
        return nearest(*args)

    monkeypatch.setattr(device_kmeans, "_nearest", fails)
    monkeypatch.setattr(Device, "free", 1 << 20)
    backend.device.shrunk.clear()
    assert_same(kmeans_sweep(X, [2, 5], n_init=2, device=backend), theirs)
    assert len(backend.device.shrunk) == 3


def test_few_models_at_a_time_change_nothing(backend: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    X = data(normal, 1000, 6)
    theirs = kmeans_sweep(X, [2, 5, 9], n_init=3)
    monkeypatch.setattr(device_kmeans, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(Device, "free", 200_000)
    made = fitter(backend, X)
    assert made.room([2] * 3 + [5] * 3 + [9] * 3, 1, None) < 9  # type: ignore[arg-type]
    assert_same(kmeans_sweep(X, [2, 5, 9], n_init=3, device=backend), theirs)
