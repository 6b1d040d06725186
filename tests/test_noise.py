"""The noise of a model: brute-force oracles for where it belongs, planted clusters for what is in it."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from hard_data import KINDS, data, lattice
from scipy.spatial.distance import cdist
from test_run import execute

from toolkit.cluster import nearest_clusters as module
from toolkit.cluster import predict_kernels
from toolkit.cluster.nearest_clusters import nearest_clusters
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.grid.finished import FinishedRun
from toolkit.grid.folder import RunFolder
from toolkit.grid.predict import Cost, CostModel
from toolkit.grid.table import COLUMNS
from toolkit.memory import MemoryBudget, resident_bytes
from toolkit.outliers.noise import default_grid, reassign, recluster
from toolkit.progress import Reporter

BAD = [3, 200]  # rows that hold NaN
PLANTED = (450, 475, 500)  # where the small clusters begin and end


# The two nearest clusters, on arrays
def by_brute_force(X, labels, rows):
    """Return the squared distance of rows to the clusters that have rows, (n, n_clusters), and their numbers."""
    numbers = np.unique(labels[labels >= 0])
    X = X.astype(np.float64)
    distances = [cdist(X[rows], X[labels == number], "sqeuclidean").min(axis=1) for number in numbers]
    return np.stack(distances, axis=1), numbers


def check(found, X, labels, rows):
    apart, numbers = by_brute_force(X, labels, rows)
    nearest = apart.min(axis=1)
    second = np.partition(apart, 1, axis=1)[:, 1] if len(numbers) > 1 else np.full(len(rows), np.inf)
    as_near = apart <= nearest[:, None] * (1 + 1e-13)
    assert found.label.tolist() == numbers[as_near.argmax(axis=1)].tolist()
    np.testing.assert_allclose(found.nearest, nearest, rtol=1e-13)
    np.testing.assert_allclose(found.second, second, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "d", "k"), [(2, 3, 1), (7, 2, 2), (260, 3, 1), (260, 17, 5), (150, 150, 40), (3000, 4, 9)]
)
def test_the_two_nearest_clusters_by_brute_force(kind, n, d, k, memory, rng):
    """Clusters of random rows, so that shapes say nothing; some rows are noise, and not all of it is asked for."""
    X, labels = data(kind, n, d), rng.integers(-2, k, n).clip(-1)
    labels[:2] = -1, k - 1
    noise = np.flatnonzero(labels < 0)
    for rows in (noise, noise[::-3]):
        check(nearest_clusters(X, labels, rows, memory=memory), X, labels, rows)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_equally_near_clusters_go_to_the_lower_number(order, memory):
    X = np.float32([[0, 0], [3, 4], [-5, 0], [0, 5], [0, 5], [6, 0]])
    labels = np.array([-1, *order, order[0], 7])
    found = nearest_clusters(X, labels, np.array([0]), memory=memory)
    assert [values.tolist() for values in found] == [[0], [25.0], [25.0]]


def test_what_a_far_cluster_holds_is_no_second_cluster(memory):
    """Many rows of the nearest cluster, all nearer than the next one."""
    X = np.float32([[0, 0], *([[1, i / 100] for i in range(200)]), [9, 0]])
    labels = np.array([-1, *[4] * 200, 1])
    found = nearest_clusters(X, labels, np.array([0]), memory=memory)
    assert [values.tolist() for values in found] == [[4], [1.0], [81.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_threads_memory_and_blocks_change_no_bit(kind, memory, rng, monkeypatch):
    X, labels = data(kind, 3000, 20), rng.integers(-5, 6, 3000).clip(-1)
    rows = np.flatnonzero(labels < 0)
    whole = nearest_clusters(X, labels, rows, memory=memory)
    for threads, part, columns in ((1, 512, 2048), (3, 100, 64), (2, 2000, 7)):
        monkeypatch.setattr(module, "n_threads", lambda threads=threads: threads)
        monkeypatch.setattr(predict_kernels, "PART_ROWS", part)
        monkeypatch.setattr(predict_kernels, "tile_columns", lambda _, columns=columns: columns)
        shares = []
        found = nearest_clusters(X, labels, rows, memory=memory, advance=shares.append)
        assert all(np.array_equal(one, other) for one, other in zip(found, whole, strict=True))
        assert sum(shares) == pytest.approx(1)


def test_a_small_budget_holds_one_tile_and_changes_no_bit(memory, rng, monkeypatch):
    X, labels = rng.normal(size=(20_000, 150)).astype(np.float32), rng.integers(-1, 6, 20_000)
    rows = np.flatnonzero(labels < 0)
    rooms = []
    room = module._room
    monkeypatch.setattr(module, "_room", lambda *arguments: rooms.append(room(*arguments)) or rooms[-1])
    whole = nearest_clusters(X, labels, rows, memory=memory)
    needed = predict_kernels.tile_bytes(150) + 2048 * 700
    shares = []
    tight = MemoryBudget(resident_bytes() + needed + (1 << 20))
    tight = nearest_clusters(X, labels, rows, memory=tight, advance=shares.append)
    assert sum(shares) == pytest.approx(1)
    assert all(np.array_equal(one, other) for one, other in zip(whole, tight, strict=True))
    assert rooms[0][1] >= 9  # tiles, all of them
    assert rooms[1] == (0, 1)
    with pytest.raises(MemoryBudgetError, match=r"nearest clusters of [\d,]+ rows needs"):
        nearest_clusters(X, labels, rows, memory=MemoryBudget(resident_bytes() + (1 << 20)))


# Finished runs
def make(folder, X, grid, best=None, **stage):
    (folder / "d").mkdir(parents=True)
    np.save(folder / "d" / "a.npy", X)
    (folder / "d" / "images_paths.csv").write_text("path\n" + "".join(f"{i}.jpg\n" for i in range(len(X))))
    content = {
        "descriptors": {"folder": str(folder / "d")},
        "stages": [{"name": "s", "scalers": ["none"], "grid": grid, **stage}],
        "best": {"by": "silhouette_score", "min_coverage": 0.3, **(best or {})},
    }
    execute(content, folder / "out")
    return folder / "out"


def with_planted_clusters():
    """Three large clusters, two small ones (`PLANTED`) and 30 rows anywhere, float32, two rows of NaN."""
    rng = np.random.default_rng(4)
    large = 4 * np.eye(3, 6)[np.repeat(range(3), 150)] + rng.normal(size=(450, 6)) * 0.2
    small = 4 * np.eye(6)[np.repeat([4, 5], 25)] + rng.normal(size=(50, 6)) * 0.1
    X = np.concatenate([large, small, rng.uniform(-3, 7, (30, 6))]).astype(np.float32)
    X[BAD] = np.nan
    return X


GRID = {
    "DBSCAN": {"eps": [1.0, 1e-6], "min_samples": [40]},
    "HDBSCAN": {"min_cluster_size": [40]},
    "KMeans": {"n_clusters": [3]},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make(tmp_path_factory.mktemp("noise"), with_planted_clusters(), GRID)


@pytest.fixture
def out(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def open_run(out):
    return FinishedRun(out, memory="4GiB", device="cpu")


def model_of(out, family, **params):
    models = open_run(out).models.values()
    return next(m for m in models if m.cell.cluster_class == family and params.items() <= dict(m.cell.params).items())


def files(out):
    """Return the content of every file of a run that is no cache."""
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and "cache" not in path.parts}


def refused(out, call, *words, new=()):
    """Check that a call is an error of one line that holds the words, and that it writes nothing but `new`."""
    before = files(out)
    with pytest.raises(InputError) as raised:
        call()
    text = str(raised.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    after = files(out)
    assert {path.name for path in after.keys() ^ before.keys()} == set(new)
    assert all(after[path] == content for path, content in before.items())


def read(out, name):
    return pd.read_csv(out / name, dtype={"image_path": str})


@pytest.mark.parametrize("how", [{}, {"min_confidence": 0.3}, {"min_confidence": 1.0}])
@pytest.mark.parametrize("family", ["DBSCAN", "HDBSCAN"])
def test_every_noise_row_goes_to_its_nearest_cluster(out, family, how):
    """From the file on: the space is that of the descriptor itself."""
    params = {"eps": 1.0} if family == "DBSCAN" else {}
    model = model_of(out, family, **params)
    name = model.name
    before = files(out)
    done = reassign(out, model=name, device="cpu", **how)
    assert all(path.read_bytes() == content for path, content in before.items())
    table = read(out, "reassigned.csv")
    assert table.columns.tolist() == [
        "image_path",
        name,
        *(f"{name}:{x}" for x in ("reassigned", "distance", "confidence")),
    ]
    assert table["image_path"].tolist() == [f"{i}.jpg" for i in range(530)]
    X, labels = with_planted_clusters(), open_run(out).all_labels(model)
    noise = np.flatnonzero(labels == -1)
    assert len(noise) > 30
    apart, numbers = by_brute_force(X, labels, noise)
    near, second = np.sqrt(np.sort(apart, axis=1)[:, :2].T)
    confidence = 1 - near / second
    rows = table.iloc[noise]
    np.testing.assert_allclose(rows[f"{name}:distance"], near, rtol=1e-12)
    np.testing.assert_allclose(rows[f"{name}:confidence"], confidence, rtol=1e-9, atol=1e-12)
    expected = np.where(confidence >= how.get("min_confidence", 0), numbers[apart.argmin(axis=1)], -1)
    assert rows[f"{name}:reassigned"].tolist() == expected.tolist()
    others = table.drop(noise)
    assert others.loc[BAD].iloc[:, 1:].isna().all(axis=None)
    clustered = others.drop(BAD)
    assert clustered[name].tolist() == clustered[f"{name}:reassigned"].tolist() == labels[labels >= 0].tolist()
    assert others.iloc[:, 3:].isna().all(axis=None)
    assert f"{(expected >= 0).sum()} of {len(noise)} noise rows of {name}" in done.text
    assert ("stay noise" in done.text) == (expected < 0).any()


def test_the_default_is_the_best_finalist_that_has_noise(out):
    best = open_run(out).finalists[0]
    assert best.cell.cluster_class in ("DBSCAN", "HDBSCAN")
    reassign(out, device="cpu")
    assert best.name in read(out, "reassigned.csv").columns
    recluster(out, device="cpu")
    assert best.name in read(out, "reclustered.csv").columns


def test_a_finalist_without_noise_is_passed_over(tmp_path):
    grid = {"KMeans": {"n_clusters": [3]}, "DBSCAN": {"eps": [0.3], "min_samples": [5]}}
    out = make(tmp_path, with_planted_clusters()[:450], grid, best={"per": "cluster_class"})
    first, second = open_run(out).finalists
    assert (first.cell.cluster_class, second.cell.cluster_class) == ("KMeans", "DBSCAN")
    reassign(out, device="cpu")
    assert second.name in read(out, "reassigned.csv").columns


def test_rows_that_the_model_has_not_seen_are_empty(tmp_path):
    """A model of half of the rows, in a reduced and scaled space."""
    out = make(
        tmp_path,
        with_planted_clusters(),
        {"HDBSCAN": {"min_cluster_size": [30]}},
        fraction=0.5,
        n_components=4,
        scalers=["std"],
    )
    run = open_run(out)
    model = run.finalists[0]
    labels = run.all_labels(model)
    reassign(out, device="cpu")
    recluster(out, device="cpu")
    one, two = read(out, "reassigned.csv"), read(out, "reclustered.csv")
    assert 200 < (labels == -2).sum() < 300
    for table in (one, two):
        assert table.iloc[:, 1:][labels == -2].isna().all(axis=None)
        assert table[model.name][labels > -2].tolist() == labels[labels > -2].tolist()
    X, fitted = run.matrix(model), run.labels(model)
    apart, numbers = by_brute_force(X, fitted, np.flatnonzero(fitted < 0))
    noise = one[labels == -1]
    assert noise[f"{model.name}:reassigned"].tolist() == numbers[apart.argmin(axis=1)].tolist()
    np.testing.assert_allclose(noise[f"{model.name}:distance"], np.sqrt(apart.min(axis=1)), rtol=1e-12)


def test_one_noise_row_between_two_clusters_on_a_lattice(tmp_path):
    """As near to both: the lower number, confidence 0, which min_confidence 0 lets through and more does not."""
    X = np.float32([[9, 0], [8, 0], [8, 1], [4, 0], [0, 0], [0, 1], [-1, 0]])
    out = make(tmp_path, X, {"DBSCAN": {"eps": [1.0], "min_samples": [2]}})
    name = model_of(out, "DBSCAN").name
    reassign(out, model=name, device="cpu")
    table = read(out, "reassigned.csv")
    assert table[f"{name}:reassigned"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert table.iloc[3, 3:].tolist() == [4.0, 0.0]
    reassign(out, model=name, min_confidence=1e-9, device="cpu")
    assert read(out, "reassigned.csv")[f"{name}:reassigned"].tolist() == [0, 0, 0, -1, 1, 1, 1]
    refused(out, lambda: recluster(out, model=name, device="cpu"), "has 1 noise rows", "at least 3")


def test_without_another_cluster_the_confidence_is_one(tmp_path):
    X = np.float32([[0, 0], [0, 1], [1, 0], [30, 40], [1, 1]])
    out = make(tmp_path, X, {"DBSCAN": {"eps": [1.5], "min_samples": [3]}})
    name = model_of(out, "DBSCAN").name
    done = reassign(out, model=name, min_confidence=1.0, device="cpu")
    assert read(out, "reassigned.csv").iloc[3, 1:].tolist() == [-1, 0, pytest.approx(np.hypot(29, 39)), 1.0]
    assert "1 of 1 noise rows" in done.text
    with pytest.raises(InputError, match="no finalist of") as raised:
        reassign(out, device="cpu")
    assert f"has noise: there is none; give --model, for instance {name}" in str(raised.value)


def test_a_row_that_equals_rows_of_two_clusters_is_of_neither(tmp_path, monkeypatch):
    """No fit makes such labels, but other engines break ties otherwise."""
    X = data(lattice, 60, 2)
    out = make(tmp_path, X, {"DBSCAN": {"eps": [0.5], "min_samples": [30]}})
    labels = np.arange(60) % 3 - 1
    monkeypatch.setattr(FinishedRun, "labels", lambda *_: labels)
    name = model_of(out, "DBSCAN").name
    reassign(out, model=name, device="cpu")
    table = read(out, "reassigned.csv")[labels < 0]
    near, second = np.sort(by_brute_force(X, labels, np.flatnonzero(labels < 0))[0], axis=1).T
    assert ((second == 0) & (near == 0)).any()
    assert (table[f"{name}:confidence"][second == 0] == 0).all()


def test_the_memory_budget_changes_no_byte(out, monkeypatch):
    found = []
    for memory in ("4GiB", MemoryBudget(resident_bytes() + (60 << 20))):
        reassign(out, memory=memory, device="cpu")
        recluster(out, memory=memory, device="cpu")
        scores = read(out, "recluster_scores.csv").drop(columns=["fit_seconds", "score_seconds"])
        found.append([(out / "reassigned.csv").read_bytes(), (out / "reclustered.csv").read_bytes(), scores.to_csv()])
    assert found[0] == found[1]
    before = files(out)
    for verb in (reassign, recluster):
        with pytest.raises(MemoryBudgetError):
            verb(out, memory="1MiB", device="cpu")
    monkeypatch.setattr(CostModel, "group", lambda *_: Cost(1.0, 1 << 50, 1 << 50))
    with pytest.raises(MemoryBudgetError, match=r"reclustering [\d,]+ noise rows needs"):
        recluster(out, memory="4GiB", device="cpu")
    assert files(out) == before


# Reclustering
def write_grid(out, content):
    path = out.parent / "grid.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("own_grid", [False, True])
def test_planted_clusters_are_found_in_the_noise(out, own_grid, capsys):
    name = model_of(out, "DBSCAN", eps=1.0).name
    labels = open_run(out).all_labels(model_of(out, "DBSCAN", eps=1.0))
    content = {"grid": {"DBSCAN": {"eps": [0.9, 1000.0], "min_samples": 5}, "KMeans": {"n_clusters": [500]}}}
    grid = write_grid(out, content) if own_grid else None
    before = files(out)
    done = recluster(out, grid, model=name, device="cpu", reporter=Reporter())
    said = capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in before.items())
    table = read(out, "reclustered.csv")
    assert table.columns.tolist() == ["image_path", name, f"{name}:reclustered"]
    assert table["image_path"].tolist() == [f"{i}.jpg" for i in range(530)]
    assert table.loc[BAD].iloc[:, 1:].isna().all(axis=None)
    seen = table.drop(BAD)
    assert seen[name].tolist() == labels[labels > -2].tolist()
    kept = seen[seen[name] >= 0]
    assert kept[name].tolist() == kept[f"{name}:reclustered"].tolist()
    new = table[f"{name}:reclustered"]
    assert set(kept[name]) == {0, 1, 2}
    first, middle, last = PLANTED
    assert (new[first:middle] == 3).all()
    assert (new[middle:last] == 4).all()
    assert (new[last:] == -1).mean() > 0.7
    assert set(new.dropna()) == {-1, 0, 1, 2, 3, 4}
    assert "2 clusters, numbered from 3, among the" in done.text
    scores = read(out, "recluster_scores.csv")
    assert scores.columns.tolist() == list(COLUMNS)
    assert (scores["n_rows"].dropna() == (labels == -1).sum()).all()
    assert scores["model"].is_unique
    assert scores["labels"].notna().tolist() == scores["error"].isna().tolist()
    assert not set(scores["model"]) & set(open_run(out).models)
    if own_grid:
        assert scores["cluster_class"].tolist() == ["DBSCAN", "DBSCAN", "KMeans"]
        assert "at most the number of rows" in scores["error"][2]
        assert scores["error"][:2].isna().all()
        assert "KMeans n_clusters=500 failed: InputError" in said
    else:
        assert "(HDBSCAN min_cluster_size 5, 8 min_samples 5): about" in said


def test_the_chosen_model_is_that_of_the_rules(out):
    """The metric, the constraints, and those of the run where the file gives none."""
    name = model_of(out, "DBSCAN", eps=1.0).name
    grid = {"KMeans": {"n_clusters": [2, 3, 5, 12, 30]}}
    for best in ({}, {"by": "calinski_harabasz_score"}, {"min_clusters": 5}, {"max_clusters": 2}):
        recluster(out, write_grid(out, {"grid": grid, "best": best}), model=name, device="cpu")
        scores = read(out, "recluster_scores.csv")
        allowed = scores[scores["n_clusters"].between(best.get("min_clusters", 2), best.get("max_clusters", 99))]
        expected = allowed.sort_values(best.get("by", "silhouette_score")).iloc[-1]["n_clusters"]
        assert read(out, "reclustered.csv")[f"{name}:reclustered"].max() == 2 + expected


def test_a_model_of_noise_alone(out):
    """Nothing to go to, but all of it can be clustered, and labels begin with 0."""
    name = model_of(out, "DBSCAN", eps=1e-6).name
    refused(out, lambda: reassign(out, model=name, device="cpu"), name, "has no clusters", "528 rows are noise")
    recluster(out, write_grid(out, {"grid": {"KMeans": {"n_clusters": 3}}}), model=name, device="cpu")
    table = read(out, "reclustered.csv").drop(BAD)
    assert (table[name] == -1).all()
    assert set(table[f"{name}:reclustered"]) == {0, 1, 2}


def test_no_model_of_the_grid_meets_the_constraints(out):
    name = model_of(out, "DBSCAN", eps=1.0).name
    own = {"HDBSCAN": {"min_cluster_size": [20, 24]}, "DBSCAN": {"eps": [0.3], "min_samples": [8]}}
    grid = write_grid(out, {"grid": own, "best": {"min_coverage": 0.99}})
    before = files(out)
    refused(
        out,
        lambda: recluster(out, grid, model=name, device="cpu"),
        "none of 3 models", "min_coverage 0.99", "with 2 clusters", "loosen them under best:", "recluster_scores.csv",
        new=["recluster_scores.csv"],
    )  # fmt: skip
    scores = read(out, "recluster_scores.csv")
    assert scores["n_clusters"].tolist() == [2, 2, 2]
    assert scores["coverage"].nunique() > 1
    with pytest.raises(InputError, match=f"the most coverage is {scores['coverage'].max():.3g}"):
        recluster(out, grid, model=name, device="cpu")
    (out / "recluster_scores.csv").unlink()
    assert files(out) == before
    grid = write_grid(out, {"grid": {"DBSCAN": {"eps": 1e-9, "min_samples": 5}}})
    refused(
        out,
        lambda: recluster(out, grid, model=name, device="cpu"),
        "two clusters are needed",
        new=["recluster_scores.csv"],
    )


def test_all_models_of_the_grid_fail(out):
    name = model_of(out, "DBSCAN", eps=1.0).name
    grid = write_grid(out, {"grid": {"KMeans": {"n_clusters": [400, 500]}}})
    words = "all 2 models of the grid failed, the first with InputError", "at most the number of rows"
    refused(out, lambda: recluster(out, grid, model=name, device="cpu"), *words, new=["recluster_scores.csv"])
    assert read(out, "recluster_scores.csv")["error"].notna().all()


def test_grids_that_cannot_be_used(out):
    name = model_of(out, "DBSCAN", eps=1.0).name
    cases = [
        ({"grid": {"KMeans": {"n_clusters": 2}}, "bets": {}}, "unknown key bets; known here: grid, best"),
        ({"best": {"min_cover": 0.1}}, "unknown key best.min_cover; known here: by, per"),
        ({"best": {"min_coverage": 2}}, "best.min_coverage is 2"),
        ({"best": None}, "best is None"),
        ({"grid": {"Kmeans": {"n_clusters": 2}}}, "unknown estimator 'Kmeans'; known: KMeans, DBSCAN, HDBSCAN"),
        ({"grid": {"KMeans": {"n_clusters": 1}}}, "KMeans.n_clusters is 1; allowed: a whole number of at least 2"),
        ({"grid": {}}, "the grid is empty"),
        ({"grid": 5}, "grid is 5"),
        ("- grid\n", "holds list; expected keys: grid, best"),
        ("grid: {\n", "is not readable YAML"),
        ("best: {}\nbest: {}\n", "key 'best' is there twice"),
    ]
    for content, words in cases:
        grid = write_grid(out, content)
        refused(out, lambda grid=grid: recluster(out, grid, model=name, device="cpu"), str(grid), words)
    missing = out.parent / "none.yaml"
    refused(out, lambda: recluster(out, missing, model=name, device="cpu"), "none.yaml does not exist")


def test_any_coverage_will_do_unless_best_says_more(tmp_path):
    """The constraints alone, without a grid: what is in no cluster at first may well be in none again."""
    out = make(tmp_path, with_planted_clusters(), GRID, best={"min_coverage": 0.95})
    name = model_of(out, "DBSCAN", eps=1.0).name
    as_in_the_run = write_grid(out, {"best": {"min_coverage": 0.95}})
    refused(out, lambda: recluster(out, as_in_the_run, model=name), "min_coverage 0.95", new=["recluster_scores.csv"])
    recluster(out, model=name, device="cpu")
    assert set(read(out, "recluster_scores.csv")["cluster_class"]) == {"HDBSCAN"}


@pytest.mark.parametrize("verb", [reassign, recluster])
def test_models_stand_beside_each_other(out, verb):
    """The columns of one model are replaced by those of the same, and those of others stay as they are."""
    one, other = model_of(out, "DBSCAN", eps=1.0).name, model_of(out, "HDBSCAN").name
    path = verb(out, model=one, device="cpu").path
    alone = read(out, path.name)
    verb(out, model=other, device="cpu")
    both = read(out, path.name)
    assert [name for name in both if name.startswith(one)] == [name for name in alone if name.startswith(one)]
    pd.testing.assert_frame_equal(both[alone.columns], alone)
    assert both.columns[1] == other
    text = path.read_bytes()
    verb(out, model=other, device="cpu")
    assert path.read_bytes() == text
    path.write_text("something,else\n1,2\n")
    verb(out, model=one, device="cpu")
    pd.testing.assert_frame_equal(read(out, path.name), alone)


def test_a_reclustering_that_finds_nothing_removes_its_columns_only(out):
    one, other = model_of(out, "DBSCAN", eps=1.0).name, model_of(out, "HDBSCAN").name
    recluster(out, model=one, device="cpu")
    alone = read(out, "reclustered.csv")
    recluster(out, model=other, device="cpu")
    impossible = write_grid(out, {"best": {"min_clusters": 400}})
    with pytest.raises(InputError, match="none of"):
        recluster(out, impossible, model=other, device="cpu")
    pd.testing.assert_frame_equal(read(out, "reclustered.csv"), alone)
    with pytest.raises(InputError, match="none of"):
        recluster(out, impossible, model=one, device="cpu")
    assert not (out / "reclustered.csv").exists()


def test_the_default_grid():
    assert default_grid(30_000) == {
        "HDBSCAN": {"min_cluster_size": [30, 60, 150, 300, 600, 1500, 3000], "min_samples": [5]}
    }
    assert default_grid(10)["HDBSCAN"]["min_cluster_size"] == [5]
    assert default_grid(100)["HDBSCAN"]["min_cluster_size"] == [5, 10]
    with pytest.raises(
        InputError,
        match="9 noise rows are too few for two clusters of 5, the smallest by default; give a grid",
    ):
        default_grid(9)


# What cannot be done
def test_models_without_noise(out, finished, tmp_path):
    name = model_of(out, "KMeans").name
    noisy = model_of(out, "HDBSCAN").name
    for verb in (reassign, recluster):
        refused(out, lambda verb=verb: verb(out, model=name, device="cpu"), f"{name} (3 clusters) has no noise", noisy)
        refused(out, lambda verb=verb: verb(out, model="nothing", device="cpu"), "unknown model 'nothing'")
    only = make(tmp_path / "only", with_planted_clusters()[:190], {"KMeans": {"n_clusters": [2]}})
    for verb in (reassign, recluster):
        refused(
            only, lambda verb=verb: verb(only, device="cpu"), "no finalist of", "KMeans", "no model of the run has some"
        )


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_confidence_is_from_0_to_1(out, value):
    refused(out, lambda: reassign(out, min_confidence=value, device="cpu"), f"min_confidence is {value}; allowed")


def test_the_folder_is_locked_meanwhile(out):
    for verb in (reassign, recluster):
        with RunFolder(out), pytest.raises(InputError, match="another process is running"):
            verb(out, device="cpu")
    with pytest.raises(InputError, match="holds no run"):
        reassign(out.parent, device="cpu")
    assert not (out / "reassigned.csv").exists()
    assert not (out / "recluster_scores.csv").exists()


def test_the_time_is_said_before(out, capsys):
    reassign(out, device="cpu", reporter=Reporter())
    said = capsys.readouterr().err
    assert "noise rows, by" in said
    assert "clusters: about" in said
