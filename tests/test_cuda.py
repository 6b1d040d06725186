"""The device code on CPU tensors: the bits of the host, whatever memory there is; and what a missing GPU says."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hard_data import KINDS, data, duplicates, far_blobs, heavy_tails, lattice, normal, two_scales

from benchmarks import gpu_check
from toolkit.backend import device as device_choice
from toolkit.backend.cpu import CpuBackend
from toolkit.backend.cuda import CudaBackend
from toolkit.backend.cuda import device as device_module
from toolkit.backend.cuda import lists as device_lists
from toolkit.backend.cuda import neighbors as device_neighbors
from toolkit.backend.cuda.device import Device, Rows
from toolkit.backend.cuda.points import DeviceProducts, squared_distances
from toolkit.backend.device import choose_backend
from toolkit.cluster import mst
from toolkit.cluster.density import DensityForest
from toolkit.cluster.estimators import kmeans_sweep
from toolkit.cluster.forest_plan import list_neighbors
from toolkit.cluster.lists import NeighborLists
from toolkit.cluster.points import Points, measure
from toolkit.errors import DeviceError, InputError, MemoryBudgetError, MissingPackageError
from toolkit.grid.fit import Settings, fit_and_score
from toolkit.memory import MemoryBudget
from toolkit.score.partition import score_labellings


@pytest.fixture(params=[False, True], ids=["float32", "tensor cores"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CudaBackend:
    monkeypatch.setattr(Device, "has_tensor_cores", request.param)
    return CudaBackend("cpu")


def host_lists(X: np.ndarray, min_samples: int) -> NeighborLists:
    return list_neighbors(X, min_samples, memory=MemoryBudget.resolve("8GiB"), folder=None)


def both(lists: Any) -> tuple[np.ndarray, np.ndarray]:
    squared, indices = (np.concatenate(parts) for parts in list(zip(*lists.blocks(), strict=True))[1:])
    return squared, indices


# Neighbours
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 15, 16, 17, 32, 150])
def test_distances_have_the_bits_of_the_host(d: int, dtype: type) -> None:
    X = (np.random.default_rng(d).standard_t(2, (200, d)) + 100).astype(dtype)
    i, j = np.arange(200), np.random.default_rng(0).integers(0, 200, (200, 7))
    found = squared_distances(
        Rows(CudaBackend("cpu").device, torch.from_numpy(X)), *map(torch.from_numpy, (i, j))
    ).numpy()
    expected = measure(X, np.repeat(i, 7), j.ravel()).reshape(200, 7)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 3, 40])
def test_products_bound_distances(kind: Any, d: int, backend: CudaBackend) -> None:
    X = Points.of(data(kind, 300, d)).X
    device = backend.device
    made = DeviceProducts.of(device, Rows(device, device.put(X)), np.arange(len(X)), is_short=device.has_tensor_cores)
    squared = ((X[:, None].astype(float) - X[None]) ** 2).sum(-1) * made.scale**2
    lower = -2 * made.tile(device, slice(None), slice(None)).double().numpy()
    margins = made.margins.numpy()
    assert (lower <= squared).all()
    assert (squared <= lower + margins[:, None] + margins).all()
    tight = 4e-3 if device.has_tensor_cores else 1e-4
    assert (margins <= tight * np.abs(lower).max() + 1e-30).all()


@pytest.mark.parametrize("tile", [128, 8192])
@pytest.mark.parametrize(("n", "d", "m"), [(1, 3, 1), (7, 2, 7), (2500, 20, 90)])
@pytest.mark.parametrize("kind", [normal, lattice, heavy_tails, far_blobs, two_scales])
def test_lists_are_those_of_the_host(
    kind: Any, n: int, d: int, m: int, tile: int, backend: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_neighbors, "_LARGEST_TILE", tile)
    X = Points.of(data(kind, n, d)).X
    found = backend.list_neighbors(X, m, memory=MemoryBudget.resolve("8GiB"), folder=None)
    for ours, theirs in zip(both(found), both(host_lists(X, m)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.n_bytes == len(X) * found.n_neighbors * 12


@pytest.mark.parametrize("plan", [{"rank": 1}, {"rank": 1, "capacity": 96}, {"capacity": 96}, {"panel": 3072}])
@pytest.mark.parametrize("kind", [normal, lattice, far_blobs])
def test_tight_thresholds_short_room_and_panels_change_no_neighbour(
    kind: Any, plan: dict[str, int], backend: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = Points.of(data(kind, 3500, 3)).X
    expected = both(host_lists(X, 64))
    planned(monkeypatch, lambda _: plan if len(X) > 2048 else {})
    monkeypatch.setattr(device_neighbors, "_LARGEST_TILE", 512)
    monkeypatch.setattr(device_neighbors, "_MOST", 0)  # short products, however loose
    shares: list[float] = []
    found = backend.list_neighbors(X, 64, memory=MemoryBudget.resolve("8GiB"), folder=None, advance=shares.append)
    for ours, theirs in zip(both(found), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sum(shares) == pytest.approx(1, abs=0.3)


def planned(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Change the plans of passes."""
    made = device_neighbors.PassPlan.of

    def of(*args: int) -> Any:
        plan = made(*args)
        return type(plan)(**(plan.__dict__ | change(plan)))

    monkeypatch.setattr(device_neighbors, "PassPlan", SimpleNamespace(of=of))


def test_a_broken_bound_is_found(backend: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceProducts, "tile", lambda self, _, i, j: 0.9 * (self.left[i] @ self.right[j].T))
    with pytest.raises(DeviceError, match="less exact than their bound"):
        backend.list_neighbors(data(normal, 500, 5), 64, memory=MemoryBudget.resolve("8GiB"), folder=None)


# Memory
def test_out_of_memory_is_tried_in_smaller_pieces(backend: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    X = data(normal, 2000, 5)
    expected = both(host_lists(X, 64))
    keep, calls = device_neighbors._Pass.keep, []

    def fails_twice(self: Any, *args: Any, **options: Any) -> None:
        calls.append(self.side)
        if len(calls) in (2, 5):
            raise torch.OutOfMemoryError("tried to allocate 1 GiB\nmore")
        keep(self, *args, **options)

    monkeypatch.setattr(device_neighbors._Pass, "keep", fails_twice)
    monkeypatch.setattr(Device, "free", 256 << 20)
    done: list[float] = []
    found = backend.list_neighbors(X, 64, memory=MemoryBudget.resolve("8GiB"), folder=None, advance=done.append)
    for ours, theirs in zip(both(found), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(backend.shrunk()) == 2
    assert all("the neighbour pass over 2,000 rows: pieces of" in text for text in backend.shrunk())
    backend.reset_peak()
    assert backend.shrunk() == []
    assert calls[0] > calls[-1]
    assert sum(done) == pytest.approx(1, abs=0.2)


def test_memory_that_is_not_there(backend: CudaBackend) -> None:
    def never(_: int) -> None:
        raise torch.OutOfMemoryError("tried to allocate 1 GiB\nmore")

    with pytest.raises(MemoryBudgetError, match=r"the pass does not fit on the device, even in pieces of .*use --dev"):
        backend.device.with_less("the pass", never)


def test_lists_larger_than_the_device_go_to_the_host(
    backend: CudaBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    X = data(normal, 3000, 5)
    expected = both(host_lists(X, 64))
    monkeypatch.setattr(Device, "free", 11 << 19)
    memory = MemoryBudget.resolve("8GiB")
    found = backend.list_neighbors(X, 64, memory=memory, folder=tmp_path)
    assert isinstance(found, NeighborLists)
    assert found.folder is None
    for ours, theirs in zip(both(found), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    monkeypatch.setattr(MemoryBudget, "free", 1 << 20)
    found = backend.list_neighbors(X, 64, memory=memory, folder=tmp_path)
    assert found.folder is not None  # type: ignore[attr-defined]
    for ours, theirs in zip(both(found), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    monkeypatch.setattr(Device, "free", 1 << 20)
    with pytest.raises(MemoryBudgetError, match=r"needs .* of the device at least"):
        backend.list_neighbors(X, 64, memory=memory, folder=tmp_path)


# The forest
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "d", "table_bytes"), [(2, 1, 3000), (7, 2, 3000), (260, 3, 3000), (900, 2, 3000), (900, 20, mst.TABLE_BYTES)]
)
def test_forest_is_that_of_the_host(
    kind: Any, n: int, d: int, table_bytes: int, backend: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for grow in (mst.largest_spanning_tree, mst.smaller_spanning_tree):
        monkeypatch.setitem(grow.__kwdefaults__, "table_bytes", table_bytes)
    X = data(kind, n, d)
    values = [m for m in (1, 2, 5, 30) if m <= n]
    ours, theirs = (DensityForest(values, device=device).fit(X) for device in (backend, "cpu"))
    for m in values:
        np.testing.assert_array_equal(ours.core_distances(min_samples=m), theirs.core_distances(min_samples=m))
        tree, other = ours.mst(min_samples=m), theirs.mst(min_samples=m)
        np.testing.assert_array_equal(tree.distance, other.distance)
        for eps in np.quantile(other.distance, [0.01, 0.3, 0.9]) if n > 1 else [1.0]:
            if eps > 0:
                np.testing.assert_array_equal(ours.dbscan(eps, m), theirs.dbscan(eps, m))
        np.testing.assert_array_equal(ours.noise_radius(min_samples=m), theirs.noise_radius(min_samples=m))
        if m >= 2:
            lof, other_lof = (forest.local_outlier_factor(n_neighbors=m - 1) for forest in (ours, theirs))
            np.testing.assert_array_equal(lof, other_lof)
            np.testing.assert_array_equal(ours.hdbscan(m), theirs.hdbscan(m))
            np.testing.assert_array_equal(ours.outlier_scores(min_samples=m), theirs.outlier_scores(min_samples=m))


@pytest.mark.parametrize("far", [1e21, 1e24, 1e30])
def test_one_row_far_beyond_all_others(far: float, backend: CudaBackend) -> None:
    X = np.concatenate([data(normal, 600, 8), np.full((1, 8), far, np.float32)])
    ours, theirs = (DensityForest([5, 64], device=device).fit(X) for device in (backend, "cpu"))
    np.testing.assert_array_equal(ours.dbscan(2.0, 5), theirs.dbscan(2.0, 5))
    np.testing.assert_array_equal(ours.mst(min_samples=64).distance, theirs.mst(min_samples=64).distance)


def test_few_pairs_between_distant_clusters_are_measured(backend: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(3000, 10)) + 60 * rng.normal(size=(12, 10))[rng.integers(0, 12, 3000)]).astype(np.float32)
    distances, measured = device_lists.squared_distances, []
    monkeypatch.setattr(
        device_lists, "squared_distances", lambda X, i, j: measured.append(len(i)) or distances(X, i, j)
    )
    ours, theirs = (DensityForest([64], device=device).fit(X) for device in (backend, "cpu"))
    np.testing.assert_array_equal(ours.mst(min_samples=64).distance, theirs.mst(min_samples=64).distance)
    assert 0 < sum(measured) < 1000  # of 4 million


def test_forest_with_few_listed_neighbours(backend: CudaBackend) -> None:
    """Blobs far apart, each larger than the lists: edges between them are in no list."""
    rng = np.random.default_rng(1)
    X = (rng.normal(size=(1200, 30)) + 60 * rng.integers(0, 9, (1200, 1))).astype(np.float32)
    ours, theirs = (DensityForest([2, 5], device=device).fit(X) for device in (backend, "cpu"))
    for m in (2, 5):
        np.testing.assert_array_equal(ours.mst(min_samples=m).distance, theirs.mst(min_samples=m).distance)


def test_saved_forest_of_a_device(backend: CudaBackend, tmp_path: Any) -> None:
    X = data(duplicates, 700, 4)
    forest = DensityForest([5, 20], device=backend).fit(X)
    forest.save(tmp_path / "forest")
    opened = DensityForest.load(tmp_path / "forest")
    np.testing.assert_array_equal(opened.dbscan(0.7, 11), forest.dbscan(0.7, 11))


@pytest.mark.parametrize("kind", [normal, lattice, heavy_tails, duplicates])
@pytest.mark.parametrize("d", [3, 20])
def test_matrices_larger_than_the_device_are_read_from_the_host(
    kind: Any, d: int, backend: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = data(kind, 1300, d)
    monkeypatch.setattr(device_module, "_RESIDENT_SHARE", 0)
    ours, theirs = (DensityForest([2, 30], device=device).fit(X) for device in (backend, "cpu"))
    for m in (2, 30):
        np.testing.assert_array_equal(ours.mst(min_samples=m).distance, theirs.mst(min_samples=m).distance)
        np.testing.assert_array_equal(ours.dbscan(0.5, m), theirs.dbscan(0.5, m))
    models, others = (kmeans_sweep(X, [2, 9], n_init=2, device=device) for device in (backend, "cpu"))
    scores = [score_labellings(X, [models[k].labels_ for k in (2, 9)], backend=where) for where in (backend, None)]
    for k in (2, 9):
        np.testing.assert_array_equal(models[k].labels_, others[k].labels_)
        np.testing.assert_array_equal(models[k].cluster_centers_, others[k].cluster_centers_)
    for a, b in zip(*scores, strict=True):
        assert a["davies_bouldin_score"] == pytest.approx(b["davies_bouldin_score"], rel=1e-11)


# Which device
def test_what_a_missing_gpu_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def message(error: type[Exception]) -> str:
        with pytest.raises(error) as caught:
            choose_backend("cuda")
        text = str(caught.value)
        assert "\n" not in text
        assert "--device cpu" in text
        backend, reason = choose_backend("auto")
        assert backend.name == "cpu"
        assert reason.startswith("auto: ")
        return text

    monkeypatch.setattr(device_choice, "_has_driver", lambda: True)

    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without CUDA" in message(DeviceError)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\n(found version 11040).")

    monkeypatch.setattr(torch.cuda, "init", too_old)
    assert "too old (found version 11040)" in message(DeviceError)

    def no_image(*_: Any) -> None:
        raise DeviceError("--device cuda: no kernel image; or use --device cpu")

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "torch sees no GPU" in message(DeviceError)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device_module, "_check_kernels", no_image)
    assert "no kernel image" in message(DeviceError)
    monkeypatch.setattr(device_module, "_check_kernels", lambda *_: None)
    for name, value in {"mem_get_info": (10 << 20, 80 << 30), "memory_allocated": 0, "memory_reserved": 0}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    assert "10 MiB of the card's memory are free" in message(MemoryBudgetError)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (60 << 30, 80 << 30))
    backend, reason = choose_backend("auto")
    assert (backend.name, reason) == ("cuda", "auto: a GPU can be used")
    assert backend.device.free == 60 << 30  # type: ignore[attr-defined]
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 << 30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: shares.append(share))
    assert CudaBackend(memory="8GiB").device.free == 8 << 30
    assert shares == [0.1]
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        choose_backend("gpu")


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"needs the package torch, which is missing: pip install torch"):
        device_module.Device()


def test_a_grid_has_the_labels_of_the_host(backend: CudaBackend) -> None:
    X = data(two_scales, 900, 12)
    models: list[Any] = [("KMeans", {"n_clusters": k}) for k in (2, 5, 9)]
    models += [("DBSCAN", {"eps": eps, "min_samples": m}) for eps in (0.1, 1.0, 3.0, 5.0) for m in (4, 16)]
    models += [("HDBSCAN", {"min_cluster_size": size}) for size in (4, 16)]
    found = []
    for device in (backend, CpuBackend()):
        settings = Settings("shared", "exclude", 500, 0, MemoryBudget.resolve("8GiB"), device)
        found.append({at: one for batch in fit_and_score(models, X, settings) for at, one in batch.items()})
    assert len(found[0]) == len(models)
    assert backend.describe()["torch"] == torch.__version__
    for at, theirs in found[1].items():
        ours = found[0][at]
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert (ours.row["device"], theirs.row["device"]) == ("cuda", "cpu")
        for name in ("calinski_harabasz_score", "davies_bouldin_score", "silhouette_score"):
            assert ours.row[name] == (None if theirs.row[name] is None else pytest.approx(theirs.row[name], rel=1e-11))


def test_the_check_of_a_gpu_machine_runs(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "SEED_GRID", gpu_check.SEED_GRID[::9])
    monkeypatch.setattr(gpu_check, "N_CLUSTERS", [2, 3])
    assert gpu_check.main(["--device", "cpu", "--rows", "600", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert len(report["checks"]) > 15
    assert all(check["passed"] for check in report["checks"])
    assert {timing["rows"] for timing in report["timings"]} == {600}
    assert " models, labels and scores | 600 |" in (tmp_path / "gpu_check.md").read_text()
    assert "checks passed" in capsys.readouterr().out


def test_the_check_of_a_gpu_machine_fails(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "hard_data", lambda n: {"a": data(normal, n, 3)})
    monkeypatch.setattr(gpu_check, "check_grid", lambda *_: 1 / 0)
    monkeypatch.setattr(gpu_check, "check_forest", lambda *_: gpu_check.require(False, "differs"))
    monkeypatch.setattr(gpu_check, "time_parts", lambda *_: "")
    monkeypatch.setattr(gpu_check, "time_grid", lambda *_: "")
    assert gpu_check.main(["--device", "cpu", "--rows", "600", "--out", str(tmp_path)]) == 1
    assert "| FAILED | AssertionError: differs |" in (tmp_path / "gpu_check.md").read_text()


class OnACard:
    """Looks like a CuPy array."""

    __cuda_array_interface__: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, X: np.ndarray) -> None:
        self.X = X

    def get(self) -> np.ndarray:
        return self.X


def test_arrays_of_other_libraries() -> None:
    X = data(normal, 150, 4)
    forest, models = DensityForest([5]).fit(X), kmeans_sweep(X, [3], n_init=1)
    tensor = torch.from_numpy(X)
    np.testing.assert_array_equal(DensityForest([5]).fit(tensor).hdbscan(5), forest.hdbscan(5))
    np.testing.assert_array_equal(kmeans_sweep(tensor, [3], n_init=1)[3].labels_, models[3].labels_)
    if not torch.cuda.is_available():  # the device is that of the array, and never silently another
        with pytest.raises(DeviceError, match="--device cuda"):
            DensityForest([5]).fit(OnACard(X))
        with pytest.raises(DeviceError, match="--device cuda"):
            kmeans_sweep(OnACard(X), [3])
    np.testing.assert_array_equal(DensityForest([5], device="cpu").fit(OnACard(X)).hdbscan(5), forest.hdbscan(5))


def test_a_card_that_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: no kernel image is available\nfor execution")

    device_module._check_kernels(torch, torch.device("cpu"))
    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(
        DeviceError, match=r"does not run torch's kernels \(CUDA error: no kernel image is available for"
    ):
        device_module._check_kernels(torch, torch.device("cpu"))
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(16, 16))
    with pytest.raises(DeviceError, match="computes wrong results"):
        device_module._check_kernels(torch, torch.device("cpu"))


def test_precision_of_products_is_put_back(backend: CudaBackend) -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    with backend.device.fast_products():
        assert matmul.fp32_precision == "tf32"
        with backend.device.exact_products():
            assert matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == before
    old = SimpleNamespace(allow_tf32=False)  # torch before 2.9
    backend.device.torch = SimpleNamespace(backends=SimpleNamespace(cuda=SimpleNamespace(matmul=old)))
    with backend.device.fast_products():
        assert old.allow_tf32
    assert not old.allow_tf32


def test_libraries_that_run_out_of_memory(backend: CudaBackend) -> None:
    tried = []

    def work(n_bytes: int) -> int:
        tried.append(n_bytes)
        if len(tried) < 3:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
        return n_bytes

    assert backend.device.with_less("it", work) == tried[-1] < 0.3 * tried[0]
    with pytest.raises(RuntimeError, match="another"):
        backend.device.with_less("it", lambda _: (_ for _ in ()).throw(RuntimeError("another")))


def test_uploads_take_turns_with_two_stretches_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of a card's upload, with stand-ins for what only a card has."""
    device = CudaBackend("cpu").device
    log: list[str] = []

    class Event:
        def record(self, _: Any) -> None:
            log.append("record")

        def synchronize(self) -> None:
            log.append("wait for the copy")

    stream = SimpleNamespace(wait_event=lambda _: log.append("wait on the device"))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **how: log.append("pin") or empty(*size, **how))
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    device.is_cuda = True
    for turn, n in enumerate((5, 7, 4, 9)):
        X = data(normal, n, 3)
        np.testing.assert_array_equal(device.upload(X, turn).numpy(), X)
    copy = ["record", "wait on the device"]
    waiting = ["wait for the copy"]
    assert log == ["pin", *copy, "pin", *copy, *waiting, *copy, *waiting, "pin", *copy]
