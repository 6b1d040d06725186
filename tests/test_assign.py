"""New rows in finished models: brute-force oracles, and the fit's own labels whatever file its rows come in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hard_data import KINDS, data, lattice, normal, offset
from scipy.sparse.csgraph import connected_components
from test_run import execute

import toolkit
from toolkit import cli
from toolkit.assign import assign_rows, predictor_of
from toolkit.cluster.predict import NearestCentre, make_predictor
from toolkit.descriptors.formats import open_descriptor
from toolkit.descriptors.new_rows import NewRows, project, row_digests
from toolkit.descriptors.reduce import Projection
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.grid.finished import FinishedRun
from toolkit.grid.labelling import row_keys
from toolkit.memory import MemoryBudget

STAGE = {
    "name": "s",
    "n_components": {"a": 5, "b": None},
    "scalers": ["norm", "l2", "none", "std"],
    "grid": {
        "KMeans": {"n_clusters": [4]},
        "DBSCAN": {"eps": [0.05, 0.3], "min_samples": [4]},
        "HDBSCAN": {"min_cluster_size": [8], "cluster_selection_method": ["eom", "leaf"]},
    },
}
BAD = [7, 300]  # rows of a that hold NaN or inf


def new_rows(X, seed=1):
    """Rows of X, rows between them, near them, and far away; all float32."""
    rng = np.random.default_rng(seed)
    i, j = rng.integers(0, len(X), (2, 30))
    near = X[i] + rng.normal(size=(30, X.shape[1])) * X.std() * 0.1
    far = np.array([[1e4], [-1e20], [1e30]]) * np.ones(X.shape[1])
    return np.concatenate([X[:20], (X[i] + X[j]) / 2, near, X.mean(axis=0)[None], far]).astype(np.float32)


def squares(A, B):
    """Squared distances as float64 differences, (len(A), len(B))."""
    return np.stack([((B.astype(np.float64) - a) ** 2).sum(axis=1) for a in A.astype(np.float64)])


def predictor(family, X, forest=None, **params):
    forest = forest or toolkit.DensityForest([params.get("min_samples") or params["min_cluster_size"]]).fit(X)
    labels = forest.dbscan(**params) if family == "DBSCAN" else forest.hdbscan(**params)
    return make_predictor(family, params, centres=None, X=lambda: X, labels=labels, forest=lambda _: forest), labels


# The predictors, on arrays
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d", "k"), [(1, 3, 1), (260, 3, 7), (150, 150, 20)])
def test_the_nearest_centre(kind, n, d, k):
    X = data(kind, n, d)
    centres = X[:k].astype(np.float64)
    new = new_rows(X)
    found = NearestCentre(centres).predict(new)
    expected = squares(new, centres)
    chosen = expected[np.arange(len(new)), found.labels]
    assert (chosen <= expected.min(axis=1) * (1 + 1e-13)).all()
    clear = np.partition(expected, min(1, k - 1), axis=1)[:, min(1, k - 1)] > expected.min(axis=1) * (1 + 1e-13)
    assert (found.labels == expected.argmin(axis=1))[clear].all()
    np.testing.assert_allclose(found.measure, np.sqrt(chosen), rtol=1e-12)


def test_equally_near_centres_go_to_the_lower_number():
    centres = np.array([[0, 0], [2, 0], [0, 2], [2, 2]], dtype=float)
    assert NearestCentre(centres).predict(np.float32([[1, 1], [1, 2], [2, 1]])).labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d", "m"), [(1, 3, 1), (7, 2, 3), (260, 3, 4), (120, 40, 5)])
def test_dbscan_by_brute_force(kind, n, d, m):
    """Core rows are counted, and new rows looked up, by loops over all distances."""
    X = data(kind, n, d)
    within = squares(X, X)
    new = new_rows(X)
    apart = squares(new, X)
    scale = np.sqrt(np.median(within[within > 0])) if (within > 0).any() else 1.0
    on_a_distance = float(np.sqrt(within[within > 0].min())) if (within > 0).any() else 1.0
    for eps in (0.3 * scale, scale, on_a_distance, 1e30):
        rule, labels = predictor("DBSCAN", X, eps=eps, min_samples=m)
        core = (within <= eps**2).sum(axis=1) >= m
        found = rule.predict(new)
        for i in range(len(new)):
            reached = labels[core & (apart[i] <= eps**2)]
            assert found.labels[i] == (reached.min() if len(reached) else -1)
            nearest = np.sqrt(apart[i][core].min()) if core.any() else np.inf
            assert found.measure[i] == pytest.approx(nearest, rel=1e-12)
        assert (rule.predict(X).labels == labels).all()


def test_dbscan_reaches_as_far_as_eps_and_no_farther():
    """A lattice and a border row of two clusters; all distances are whole numbers."""
    X = np.float32([[0, 0], [1, 0], [2, 0], [9, 0], [8, 0], [7, 0]])
    rule, labels = predictor("DBSCAN", X, eps=2.0, min_samples=3)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    new = np.float32([[4, 0], [np.nextafter(np.float32(4), np.float32(9)), 0], [5, 0], [4.5, 0], [2, 2], [2, 2.01]])
    assert rule.predict(new).labels.tolist() == [0, -1, 1, -1, 0, -1]
    rule, labels = predictor("DBSCAN", X, eps=3.0, min_samples=3)
    assert rule.predict(np.float32([[4.5, 0]])).labels.tolist() == [0]  # both reach it


def test_dbscan_without_a_core_row():
    X = data(normal, 150, 1)
    for eps, m in ((1e-9, 5), (1.0, 1000)):
        rule, labels = predictor("DBSCAN", X, forest=toolkit.DensityForest([m]).fit(X), eps=eps, min_samples=m)
        assert (labels == -1).all()
        found = rule.predict(new_rows(X))
        assert (found.labels == -1).all()
        assert np.isinf(found.measure).all()


def join(X, core, own_counted, new):
    """Return which row each new row joins and at which mutual reachability, by loops."""
    rows, at = [], []
    for x in new:
        d = np.sqrt(squares(x[None], X)[0])
        if (d == 0).any():
            rows, at = [*rows, int(np.flatnonzero(d == 0)[0])], [*at, 0.0]
            continue
        own = np.sort(d)[own_counted - 2] if own_counted > 1 else 0.0
        reach = np.maximum(np.maximum(core, d), own)
        best = int(np.lexsort((np.arange(len(X)), d, reach))[0])
        rows, at = [*rows, best], [*at, reach[best]]
    return rows, at


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d", "size", "m"), [(260, 3, 8, 8), (150, 3, 5, 1), (150, 17, 6, 3), (7, 2, 2, 7)])
def test_hdbscan_by_brute_force(kind, n, d, size, m):
    """The cluster of all rows that hang together at the distance at which the new one joins, if they have one."""
    X = data(kind, n, d)
    forest = toolkit.DensityForest([m]).fit(X)
    core = forest.core_distances(min_samples=m)
    mutual = np.maximum(np.maximum(core[:, None], core), np.sqrt(squares(X, X)))
    new = new_rows(X)
    rows, distances = join(X, core, m, new)
    for method in ("eom", "leaf"):
        rule, labels = predictor(
            "HDBSCAN", X, forest=forest, min_cluster_size=size, min_samples=m, cluster_selection_method=method
        )
        probabilities = forest.hdbscan(size, m, method, probabilities=True)[1]
        found = rule.predict(new)
        for i, (row, distance) in enumerate(zip(rows, distances, strict=True)):
            if distance == 0:
                assert (found.labels[i], found.measure[i]) == (labels[row], probabilities[row])
                continue
            component = connected_components(mutual <= distance * (1 + 1e-13))[1]
            inside = set(labels[component == component[row]].tolist())
            assert found.labels[i] == (inside.pop() if len(inside) == 1 else -1)
            assert 0 <= found.measure[i] <= probabilities[row] * (found.labels[i] >= 0) + 1e-12
        again = rule.predict(X)
        assert (again.labels == labels).all()
        assert (again.measure == probabilities).all()


def test_the_strength_is_lambda_over_the_largest_of_the_cluster(blobs):
    X = blobs[0]
    forest = toolkit.DensityForest([5]).fit(X)
    rule, labels = predictor("HDBSCAN", X, forest=forest, min_cluster_size=30, min_samples=5)
    tree = forest.condensed_tree(30, 5)
    new = (X[:100] + 0.3).astype(np.float32)
    rows, distances = join(X, forest.core_distances(min_samples=5), 5, new)
    found = rule.predict(new)
    assert (found.labels >= 0).sum() > 50
    for i in np.flatnonzero(found.labels >= 0):
        of_cluster = tree.row_lambda[labels == found.labels[i]]
        value = min(1 / distances[i], tree.row_lambda[rows[i]])
        assert found.measure[i] == pytest.approx(min(value, of_cluster.max()) / of_cluster.max(), rel=1e-9)


def test_a_single_cluster_keeps_its_sparse_rows_out():
    X = data(normal, 260, 3)
    params = {"min_cluster_size": 100, "min_samples": 5, "allow_single_cluster": True}
    rule, labels = predictor("HDBSCAN", X, **params)
    assert set(labels.tolist()) == {0, -1}
    assert (rule.predict(X).labels == labels).all()
    assert rule.predict(np.float32([[50, 50, 50]])).labels.tolist() == [-1]


@pytest.mark.parametrize("kind", [lattice, offset, normal])
def test_rows_are_labelled_alone_as_among_others(kind):
    """More rows than one part holds, each also alone and in another order."""
    X, new = data(kind, 260, 3), np.concatenate([data(kind, 700, 3, seed=s) for s in (1, 2)])
    forest = toolkit.DensityForest([4]).fit(X)
    rules = [
        NearestCentre(X[:9].astype(np.float64)),
        predictor("DBSCAN", X, forest=forest, eps=0.7, min_samples=4)[0],
        predictor("HDBSCAN", X, forest=forest, min_cluster_size=6, min_samples=4)[0],
    ]
    order = np.random.default_rng(3).permutation(len(new))
    for rule in rules:
        whole, shuffled = rule.predict(new), rule.predict(np.ascontiguousarray(new[order]))
        alone = [rule.predict(new[i : i + 1]) for i in range(0, len(new), 61)]
        for part in range(2):
            assert (shuffled[part] == whole[part][order]).all()
            assert [one[part][0] for one in alone] == whole[part][::61].tolist()
            assert rule.predict(new[:0])[part].shape == (0,)


# The way into a model's space
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("kind", [normal, offset, lattice])
def test_a_row_is_projected_alone_as_among_others(kind, dtype, rng):
    X = (50 * data(kind, 400, 40)).astype(dtype)
    components = np.linalg.qr(rng.normal(size=(40, 9)))[0].T
    components[8] = 0
    projection = Projection(X.mean(axis=0, dtype=np.float64), components, np.ones(9), 9.0)
    whole = project(projection, X)
    for size in (1, 3, 64):
        parts = [project(projection, X[start : start + size]) for start in range(0, len(X), size)]
        assert np.array_equal(np.concatenate(parts), whole)
    exact = (X.astype(np.longdouble) - projection.mean) @ components.T.astype(np.longdouble)
    rounding = 1e-5 * np.abs(X - projection.mean).max() + 40 * 2.0**-24 * np.abs(X).max()  # of the mean, too
    assert np.abs(whole - exact).max() <= rounding
    np.testing.assert_allclose(projection.apply(X), whole, rtol=0, atol=1e-5 * np.abs(X - projection.mean).max())


def test_a_sum_that_rounds_either_way_has_one_order():
    """Cancelling sums: in float64 their order shows in the last float32 digit; rows of a block in any order agree."""
    rng = np.random.default_rng(0)
    big = rng.normal(size=(200, 16)) * 2.0 ** rng.integers(0, 40, (200, 16))
    X = np.concatenate([big, -big * (1 + 2.0**-50)], axis=1)
    projection = Projection(np.zeros(32), np.ones((2, 32)) / np.sqrt(32), np.ones(2), 2.0)
    whole = project(projection, X)
    for start in range(len(X)):
        assert np.array_equal(project(projection, X[start : start + 1])[0], whole[start])


def test_equal_numbers_have_equal_digests():
    X = np.array([[0.0, 1.5], [-0.0, 1.5], [2.0, 1.5]])
    a, b, c = row_digests(X)
    assert (a == b).all()
    assert not (a == c).any()
    assert (row_digests(X.astype(np.float32)) == row_digests(X)).all()


# Finished runs
def make(folder, blobs, stage, n_bad=2):
    descriptors = folder / "descriptors"
    descriptors.mkdir()
    a = blobs[0].copy()
    a[BAD[0]], a[BAD[1]] = np.nan, np.inf
    a[11] = a[10]
    np.save(descriptors / "a.npy", a if n_bad else blobs[0])
    np.save(descriptors / "b.npy", blobs[0][:, :4].astype(np.float64) + 1000 + 1e-9)
    (descriptors / "images_paths.csv").write_text("path\n" + "".join(f"{i}.jpg\n" for i in range(600)))
    content = {
        "descriptors": {"folder": str(descriptors)},
        "stages": [stage],
        "best": {"by": "silhouette_score", "min_coverage": 0},
    }
    execute(content, folder / "out")
    return folder


@pytest.fixture(scope="module")
def module_blobs():
    rng = np.random.default_rng(20_26)
    truth = rng.integers(0, 4, 600)
    return (rng.normal(size=(4, 12))[truth] * 2 + rng.normal(size=(600, 12))).astype(np.float32), truth


@pytest.fixture(scope="module")
def finished(tmp_path_factory, module_blobs):
    return make(tmp_path_factory.mktemp("finished"), module_blobs, STAGE)


@pytest.fixture
def place(finished, tmp_path):
    """A copy of the run, with the descriptors where they were."""
    shutil.copytree(finished / "out", tmp_path / "out")
    return tmp_path


@pytest.fixture(scope="module")
def halved(tmp_path_factory, module_blobs):
    return make(tmp_path_factory.mktemp("halved"), module_blobs, {**STAGE, "fraction": 0.5, "scalers": ["std"]})


def matrix_of(finished, name):
    return np.load(finished / "descriptors" / f"{name}.npy")


@pytest.mark.parametrize("where", ["finished", "halved"])
def test_every_model_finds_the_rows_of_its_fit(where, request, tmp_path):
    """The very file, a shuffled part of it, rows alone, and another format: the labels of the fit, all of them."""
    folder = request.getfixturevalue(where)
    run = FinishedRun(folder / "out", memory="4GiB", device="cpu")
    rng = np.random.default_rng(5)
    files = {}
    for name in ("a", "b"):
        X = matrix_of(folder, name)
        chosen = rng.permutation(600)[:333]
        np.save(tmp_path / f"{name}.npy", X[chosen])
        pd.DataFrame(X[chosen[:1]]).to_parquet(tmp_path / f"{name}.parquet")
        numbers = [np.arange(600), chosen, chosen[:1]]
        paths = [folder / "descriptors" / f"{name}.npy", tmp_path / f"{name}.npy", tmp_path / f"{name}.parquet"]
        files[name] = [(open_descriptor(path, run.memory), rows) for path, rows in zip(paths, numbers, strict=True)]
    checked = set()
    for model in run.models.values():
        expected = run.all_labels(model)
        for file, rows in files[model.cell.sample.descriptor]:
            found = assign_rows(run, model, file)
            seen = expected[rows] > -2
            assert (found.labels[seen] == expected[rows][seen]).all(), model.name
            if model.cell.sample.descriptor == "a" and len(rows) == 600:
                assert np.flatnonzero(found.reason).tolist() == BAD
            else:
                assert not (found.reason[seen]).any()
        checked.add((model.cell.cluster_class, model.cell.scaler))
    assert len(checked) == 3 * len({model.cell.scaler for model in run.models.values()})


def test_new_rows_by_hand(finished, tmp_path, module_blobs):
    """From the file on: scikit-learn's PCA and scaler in float64, then brute force."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    run = FinishedRun(finished / "out", memory="4GiB", device="cpu")
    X = np.delete(matrix_of(finished, "a"), BAD, axis=0).astype(np.float64)
    new = module_blobs[0][::-1][:200] + np.float32(0.25)
    np.save(tmp_path / "a.npy", new)
    pca = PCA(5, svd_solver="full").fit(X)
    scaler = StandardScaler().fit(pca.transform(X))
    fitted, rows = (scaler.transform(pca.transform(one)) for one in (X, new.astype(np.float64)))
    for name, model in {model.name: model for model in run.models.values()}.items():
        if model.cell.scaler != "std" or model.cell.sample.descriptor != "a":
            continue
        found = assign_rows(run, model, open_descriptor(tmp_path / "a.npy", run.memory))
        params, labels = dict(model.cell.params), run.labels(model)
        if model.cell.cluster_class == "KMeans":
            means = np.stack([fitted[labels == k].mean(axis=0) for k in range(params["n_clusters"])])
            distances = np.sqrt(squares(rows, run.centres(model)))
            assert (found.labels == distances.argmin(axis=1)).mean() > 0.99, name
            np.testing.assert_allclose(means, run.centres(model), atol=1e-4)
            np.testing.assert_allclose(found.values, distances.min(axis=1), rtol=1e-3, atol=1e-5)
        elif model.cell.cluster_class == "DBSCAN":
            core = (squares(fitted, fitted) <= params["eps"] ** 2).sum(axis=1) >= params["min_samples"]
            near = squares(rows, fitted)[:, core] <= params["eps"] ** 2
            expected = [labels[core][one].min() if one.any() else -1 for one in near]
            assert (found.labels == expected).mean() > 0.99, name


def test_the_memory_budget_changes_no_bit(finished, tmp_path, module_blobs):
    run = FinishedRun(finished / "out", memory="4GiB", device="cpu")
    np.save(tmp_path / "a.npy", module_blobs[0] * np.float32(1.01))
    file = open_descriptor(tmp_path / "a.npy", run.memory)
    for model in run.finalists:
        if model.cell.sample.descriptor == "a":
            whole = assign_rows(run, model, file)
            parts = [
                assign_rows(run, model, file, rows=np.arange(start, min(start + 70, 600)))
                for start in range(0, 600, 70)
            ]
            assert (np.concatenate([part.labels for part in parts]) == whole.labels).all()
            assert (np.concatenate([part.values for part in parts]) == whole.values).all()
            run.memory = MemoryBudget(1 << 20)
            with pytest.raises(MemoryBudgetError, match="memory budget of 1 MiB"):
                assign_rows(run, model, file)
            return
    pytest.fail("no finalist of a")


def test_values_that_leave_float32_have_no_place(finished):
    run = FinishedRun(finished / "out", memory="4GiB", device="cpu")
    model = next(model for model in run.models.values() if model.cell.sample.descriptor == "b")
    space = NewRows(run.reduced(model), "none", None)
    placed = space.place(np.array([[1.0] * 4, [np.nan] * 4, [1e300] * 4, [2.0] * 4]), np.arange(4))
    assert placed.reason.tolist() == [0, 1, 2, 0]
    assert placed.rows.tolist() == [[1.0] * 4, [2.0] * 4]


SCRIPT = """
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_run import execute
from toolkit.assign import assign_rows, predictor_of
from toolkit.descriptors.formats import open_descriptor
from toolkit.grid.finished import FinishedRun
folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
X = rng.integers(0, 3, (3000, 30)).astype(np.float32)
(folder / "d").mkdir()
np.save(folder / "d" / "a.npy", X)
grid = {"KMeans": {"n_clusters": [40], "n_init": [1], "max_iter": [5]}, "DBSCAN": {"eps": [3.2], "min_samples": [4]}}
stage = {"name": "s", "n_components": 20, "grid": grid, "scalers": ["none"]}
execute({"descriptors": {"folder": str(folder / "d")}, "stages": [stage]}, folder / "out")
run = FinishedRun(folder / "out", memory="4GiB", device="cpu")
order = rng.permutation(3000)[:1000]
np.save(folder / "new.npy", X[order])
model = next(iter(run.models.values()))
rows = run.reduced(model).projection.apply(X[order])
print((rows != run.reduced(model).matrix.read(0, 3000)[order]).any(axis=1).sum(), "rows rounded otherwise")
for model in run.models.values():
    found = assign_rows(run, model, open_descriptor(folder / "new.npy", run.memory))
    assert (found.labels == run.labels(model)[order]).all(), model.name
"""


def test_kernels_that_round_by_position_change_no_label(tmp_path):
    """OpenBLAS's Haswell kernels round a row by its place in the block; elsewhere the variable does nothing."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(Path(__file__).parent)]
    environment = os.environ | {"OPENBLAS_CORETYPE": "Haswell"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rows rounded otherwise" in done.stdout


# What a run writes for it
def test_a_run_writes_centres_and_assignments(finished):
    run = FinishedRun(finished / "out", memory="4GiB", device="cpu")
    best = run.finalists[0]
    centres = np.load(finished / "out" / "cluster_centers.npy")
    X, labels = run.matrix(best).astype(np.float64), run.labels(best)
    expected = run.centres(best)
    if expected is None:
        expected = np.stack([X[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
    assert centres.dtype == np.float64
    np.testing.assert_allclose(centres, expected, rtol=1e-12, atol=1e-12)
    found = json.loads((finished / "out" / "train_assignments.json").read_text())
    rows = run.reduced(best).rows
    assert list(found.items()) == [(f"{row}.jpg", int(label)) for row, label in zip(rows, labels, strict=True)]


@pytest.mark.parametrize("family", ["KMeans", "DBSCAN", "HDBSCAN"])
def test_centres_of_every_family_and_none_without_a_finalist(family, tmp_path, module_blobs):
    (tmp_path / "d").mkdir()
    X = np.round(module_blobs[0][:200, :3] * 4)
    np.save(tmp_path / "d" / "a.npy", X.astype(np.float32))
    stage = {"name": "s", "scalers": ["none"], "grid": {family: STAGE["grid"][family]}}
    if family == "DBSCAN":
        stage["grid"] = {family: {"eps": [4.0, 6.0], "min_samples": [5]}}
    content = {"descriptors": {"folder": str(tmp_path / "d")}, "stages": [stage], "best": {"min_coverage": 0}}
    out = tmp_path / "out"
    execute(content, out)
    run = FinishedRun(out, memory="4GiB", device="cpu")
    labels = run.labels(run.finalists[0])
    means = np.stack([X[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
    np.testing.assert_allclose(np.load(out / "cluster_centers.npy"), means, rtol=1e-6)
    assert list(json.loads((out / "train_assignments.json").read_text())) == [str(i) for i in range(200)]
    shutil.rmtree(out / "models")
    (out / "s_scores.csv").unlink()
    execute({**content, "best": {"max_largest_share": 1e-9}}, out)
    assert not (out / "cluster_centers.npy").exists()
    assert not (out / "train_assignments.json").exists()


def test_keys_of_rows():
    assert row_keys(["a", "b", "a", "a#0", "c"]) == ["a#0#0", "b", "a#2", "a#0#3", "c"]
    assert row_keys(["0", "1"]) == ["0", "1"]


# The command
def command(capsys, monkeypatch, *arguments):
    """Run the command line in this process; return the exit code, its output and its error lines."""
    monkeypatch.setattr(sys, "argv", ["toolkit", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.fixture
def assign(capsys, monkeypatch, place):
    def call(*arguments):
        return command(capsys, monkeypatch, "assign", place / "out", *arguments, "--device", "cpu")

    return call


def refused(done, *words):
    code, _, errors = done
    assert code == 2, errors
    lines = errors.splitlines()
    assert lines[-1].startswith("error: ")
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    for word in words:
        assert word in lines[-1], lines[-1]


def test_a_folder_of_new_descriptors(finished, place, assign):
    code, out, errors = assign(finished / "descriptors")
    assert code == 0, errors
    assert "rows labelled" in out
    assert "2 of 600 rows get no label, the first is row 7 (NaN or inf)" in errors
    table = pd.read_csv(place / "out" / "test_assignments.csv", dtype={"reason": str}, keep_default_na=True)
    best = pd.read_csv(place / "out" / "best_clusterization.csv")
    names = best.columns[1:].tolist()
    measures = [f"{name}:{'strength' if '_HDBSCAN_' in name else 'distance'}" for name in names]
    expected = [column for pair in zip(names, measures, strict=True) for column in pair]
    assert table.columns.tolist() == ["image_path", *expected, "reason"]
    pd.testing.assert_frame_equal(table[best.columns], best)
    assert table["reason"].dropna().to_dict() == dict.fromkeys(BAD, "a: NaN or inf")
    run = FinishedRun(place / "out", memory="4GiB", device="cpu")
    written = json.loads((place / "out" / "test_assignments.json").read_text())
    assert written == json.loads((place / "out" / "train_assignments.json").read_text())
    assert run.finalists[0].name == names[0]


def test_a_single_file_into_another_folder(finished, place, assign):
    np.save(place / "a.npy", matrix_of(finished, "a")[20:25])
    pd.DataFrame({"path": ["u", "v", "u", "w", "x"]}).to_csv(place / "paths.csv", index=False)
    (place / "a.csv").write_text("not looked at")
    out = place / "deep" / "er"
    code, _, errors = assign(place / "a.npy", "--image-paths", place / "paths.csv", "--out", out, "--quiet")
    assert (code, errors) == (0, "")
    table = pd.read_csv(out / "test_assignments.csv")
    assert table["image_path"].tolist() == ["u", "v", "u", "w", "x"]
    assert list(json.loads((out / "test_assignments.json").read_text())) == ["u#0", "v", "u#2", "w", "x"]
    assert not (place / "out" / "test_assignments.csv").exists()
    named = [column for column in table.columns if column.startswith("b_")]
    assert not named


def test_a_model_by_its_name_takes_any_file(finished, place, assign):
    frame = pd.DataFrame(matrix_of(finished, "b")[::-1][:50])
    frame.insert(0, "filename", [f"n{i}.png" for i in range(50)])
    frame.to_csv(place / "new.csv", index=False)
    run = FinishedRun(place / "out", memory="4GiB", device="cpu")
    model = next(m for m in run.models.values() if (m.cell.cluster_class, m.cell.scaler) == ("DBSCAN", "l2"))
    model = next(m for m in run.models.values() if m.name == model.name.replace("a_", "b_", 1))
    code, _, errors = assign(place / "new.csv", "--model", model.id[:12])
    assert code == 0, errors
    table = pd.read_csv(place / "out" / "test_assignments.csv")
    assert table["image_path"].tolist() == [f"n{i}.png" for i in range(50)]
    assert table[model.name].tolist() == run.all_labels(model)[::-1][:50].tolist()


def test_names_stand_beside_the_labels(finished, place, assign):
    run = FinishedRun(place / "out", memory="4GiB", device="cpu")
    (place / "out" / "names.csv").write_text(f"model,cluster,name\n{run.finalists[0].id},0,=car\n")
    code, _, errors = assign(finished / "descriptors")
    assert code == 0, errors
    table = pd.read_csv(place / "out" / "test_assignments.csv", keep_default_na=False)
    name = run.finalists[0].name
    expected = np.where(table[name].astype(str) == "0", "'=car", "")
    assert (table[f"{name}:name"] == expected).all()
    assert (expected != "").any()


def test_refusals(finished, place, assign):
    new = place / "new"
    refused(assign(new), "new does not exist")
    new.mkdir()
    refused(assign(new), "holds no descriptor that is needed", "expects 12 features of a", "expects 4 features of b")
    np.save(new / "a.npy", np.ones((3, 9)))
    refused(assign(new), "expects 12 features of a", str(finished / "descriptors" / "a.npy"), "got 9 in")
    np.save(new / "other.npy", np.ones((3, 12)))
    refused(assign(new / "other.npy"), "is named as no descriptor of the run", "--model", "expects 4 features of b")
    np.save(new / "b.npy", np.ones((3, 4)))
    run = FinishedRun(place / "out", memory="4GiB", device="cpu")
    of_a = next(model for model in run.finalists if model.cell.sample.descriptor == "a")
    refused(assign(new / "b.npy", "--model", of_a.name), "not what is needed, by its name", "expects 12 features of a")
    refused(assign(new / "b.npy", "--model", "nothing"), "unknown model 'nothing'", of_a.name)
    refused(assign(new / "b.npy", "--out", new / "b.npy"), "is a file; give a folder")
    (new / "paths.csv").write_text("path\nx\n")
    refused(assign(new / "b.npy", "--image-paths", new / "paths.csv"), "1 image paths", "3 rows")
    refused(assign(new / "b.txt"), "does not exist")
    assert not list((place / "out").glob("test_assignments*"))


def test_a_missing_descriptor_is_a_warning(finished, place, assign):
    new = place / "new"
    new.mkdir()
    np.save(new / "b.npy", matrix_of(finished, "b")[:1])
    code, _, errors = assign(new)
    assert code == 0
    assert "holds no a: no labels of a_" in errors
    table = pd.read_csv(place / "out" / "test_assignments.csv")
    assert len(table) == 1
    assert table["image_path"].tolist() == [0]


def test_a_folder_that_is_no_finished_run(capsys, monkeypatch, tmp_path):
    refused(command(capsys, monkeypatch, "assign", tmp_path, tmp_path), "holds no run")


def test_a_run_of_other_data_is_refused(place, finished, monkeypatch):
    changed = place / "changed"
    shutil.copytree(finished / "descriptors", changed)
    np.save(changed / "a.npy", np.ones((600, 12)))
    record = json.loads((place / "out" / "run.json").read_text())
    record["config"]["descriptors"]["folder"] = str(changed)
    (place / "out" / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="its content has changed"):
        FinishedRun(place / "out", memory="4GiB", device="cpu")


def test_a_tree_of_another_engine_is_said_to_be_one(finished, capsys):
    run = FinishedRun(finished / "out", memory="4GiB", device="cpu")
    model = next(model for model in run.models.values() if model.cell.cluster_class == "HDBSCAN")
    predictor_of(run, model)
    assert capsys.readouterr().err == ""
    run.config = run.config.model_copy(update={"engine": "reference"})
    predictor_of(run, model)
    assert "fitted by engine reference: new rows go through the toolkit's own tree" in capsys.readouterr().err
