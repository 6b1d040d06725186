"""Scores and moments of the device code on CPU tensors against the host's."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hard_data import KINDS, data, duplicates, heavy_tails, lattice, normal, offset

from toolkit.backend.cuda import CudaBackend
from toolkit.backend.cuda import scores as device_scores
from toolkit.backend.cuda.device import Device
from toolkit.backend.cuda.sums import ExactSums
from toolkit.descriptors.keeper import DataKeeper
from toolkit.descriptors.loader import DataLoader
from toolkit.descriptors.reduce import measure
from toolkit.score.partition import score_labellings


@pytest.fixture(scope="module")
def backend() -> CudaBackend:
    return CudaBackend("cpu")


def labellings(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    found = [rng.integers(-1, k, n) for k in (1, 2, 3, 10, 40)]
    found += [np.where(rng.random(n) < 0.8, -1, rng.integers(0, 3, n)), np.arange(n), np.full(n, -1)]
    return [*found, np.arange(n) // 2, found[3] * 7 + 100]


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name, value in b.items():
            assert a[name] == (None if value is None else pytest.approx(value, rel=1e-11, abs=1e-12)), name


@pytest.mark.parametrize("noise", ["exclude", "as_cluster"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(3, 1), (700, 3), (260, 40)])
def test_scores_are_those_of_the_host(kind: Any, n: int, d: int, noise: str, backend: CudaBackend) -> None:
    X = data(kind, n, d)
    how: dict[str, Any] = {"noise": noise, "silhouette_rows": 300}
    shares: list[float] = []
    ours = score_labellings(X, labellings(n), backend=backend, progress=shares.append, **how)
    assert_close(ours, score_labellings(X, labellings(n), **how))
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_small_pieces_change_nothing(backend: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    X = data(heavy_tails, 700, 5)
    theirs = score_labellings(X, labellings(700))
    monkeypatch.setattr(Device, "free", 100_000)
    assert_close(score_labellings(X, labellings(700), backend=backend), theirs)
    distances, calls = device_scores._distances, []

    def fails(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("full\nvery")
        return distances(*args)

    monkeypatch.setattr(device_scores, "_distances", fails)
    assert_close(score_labellings(X, labellings(700), backend=backend), theirs)


@pytest.mark.parametrize("kind", [normal, lattice, offset, heavy_tails, duplicates])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e100])
def test_sums_are_exact(kind: Any, scale: float, backend: CudaBackend) -> None:
    X = data(kind, 300, 3).astype(float) * scale
    values, places = torch.from_numpy(X), torch.from_numpy(np.arange(300) % 7)
    cutter = ExactSums.of(backend.device, [values], 300)
    sums = torch.zeros((cutter.n_pieces, 7, 3), dtype=torch.int64)
    cutter.add(sums, values, [(places, 1)])
    cutter.add(sums, values[:50], [(places[:50], -1)])
    high, rest = cutter.join(sums)
    for place in range(7):
        for column in range(3):
            exact = sum(map(Fraction, X[50:][np.arange(50, 300) % 7 == place, column].tolist()))
            assert float(high[place, column]) + float(rest[place, column]) == float(exact)


@pytest.mark.parametrize("kind", [normal, lattice, offset, heavy_tails])
def test_moments_are_those_of_the_host(kind: Any, backend: CudaBackend) -> None:
    X = data(kind, 700, 20).copy()
    X[[3, 400]] = np.nan
    found, expected = (
        measure((X[i : i + 100] for i in range(0, 700, 100)), covariance=True, workers=2, gram=gram)
        for gram in (backend.gram(20), None)
    )
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.bad_rows, [3, 400])
    np.testing.assert_allclose(
        found.covariance, expected.covariance, rtol=1e-12, atol=1e-13 * expected.covariance.max()
    )


def test_reduced_descriptors_of_devices_are_kept_apart(backend: CudaBackend, tmp_path: Any) -> None:
    np.save(tmp_path / "a.npy", data(normal, 300, 12))
    loader = DataLoader(["a"], tmp_path)
    keepers = [
        DataKeeper({"a": 5}, loader=loader, cache=tmp_path / "cache", device=where) for where in (backend, "cpu")
    ]
    sample = keepers[0].sample("a", 1.0, 0)
    ours, theirs = (keeper.scale(sample, "std") for keeper in keepers)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert len(list((tmp_path / "cache").glob("moments*"))) == 2
