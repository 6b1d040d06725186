"""Detectors against other libraries, how scores are combined and cut, and outliers of whole runs."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from sklearn.cluster import DBSCAN
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor

from tests.hard_data import KINDS, SHAPES, data, identical
from tests.test_run import execute
from toolkit.cluster.density import DensityForest
from toolkit.descriptors.keeper import DataKeeper, Sample
from toolkit.descriptors.loader import DataLoader
from toolkit.errors import InputError, MissingPackageError
from toolkit.grid.finished import FinishedRun
from toolkit.memory import MemoryBudget
from toolkit.outliers.build import find_outliers, outliers_text, write_outliers
from toolkit.outliers.combine import Cut, among_first, combine, knee, normalised, ranks
from toolkit.outliers.detectors import DETECTORS, Evidence, find_detectors, measure_rows
from toolkit.progress import Reporter

GRID = {
    "KMeans": {"n_clusters": [2, 4]},
    "DBSCAN": {"eps": [1, 3, 5, 9], "min_samples": [4, 16]},
    "HDBSCAN": {"min_cluster_size": [8]},
}


class Heard(Reporter):
    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def say(self, text):
        self.said.append(text)

    warn = say


def evidence(X, min_samples=(4, 16), cells=((1.0, 4), (3.0, 16)), **others):
    X = np.asarray(X, np.float32)
    values = sorted({min(value, len(X)) for value in min_samples})
    forest = DensityForest([*values, *(m for _, m in cells)]).fit(X)
    facts = {"partitions": [], "residuals": None, "seed": 0, "memory": MemoryBudget(1 << 40)} | others
    return Evidence(X, forest, values, list(cells), **facts)


# Detectors
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [shape for shape in SHAPES if shape[0] > 1])
def test_every_detector_measures_everything(kind, n, d):
    X = data(kind, n, d)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, d))
    partition = (cdist(X, centres).argmin(axis=1), centres)
    seen = evidence(X, partitions=[partition], residuals=rng.random(n))
    measures, missing = measure_rows(seen, DETECTORS)
    assert missing == {}
    assert list(measures) == list(DETECTORS)
    for of in measures.values():
        for one in of.values():
            assert one.shape == (n,)
            assert one.dtype == np.float64
            assert np.isfinite(one).all()
    combined = combine({"x": {name: DETECTORS[name].over(list(of.values()), axis=0) for name, of in measures.items()}})
    assert np.isfinite(combined.score).all()
    if kind is identical:
        assert next(iter(measures["k_distance"].values())).max() == 0


def test_measures_are_what_they_are_called():
    rng = np.random.default_rng(1)
    X = np.vstack([rng.normal(size=(200, 5)), rng.normal(size=(9, 5)) + 6]).astype(np.float32)
    wide = X.astype(np.float64)
    partitions = [(labels, rng.normal(size=(4, 5))) for labels in rng.integers(0, 4, (3, len(X)))]
    cells = [(eps, m) for eps in (0.7, 1.5, 2.5, 9.0) for m in (3, 10, 300)]
    seen = evidence(X, cells=cells, partitions=partitions, seed=3)
    measures, missing = measure_rows(seen, DETECTORS)
    assert missing == {"pca_residual": "its reduction leaves nothing out"}
    D = np.sort(cdist(wide, wide), axis=1)
    np.testing.assert_allclose(measures["k_distance"]["_16"], D[:, 15])
    lof = -LocalOutlierFactor(15).fit(wide).negative_outlier_factor_
    np.testing.assert_allclose(measures["lof"]["_15"], lof, rtol=1e-5)
    np.testing.assert_array_equal(measures["glosh"]["_4"], seen.forest.outlier_scores(min_samples=4))
    noise = [DBSCAN(eps=eps, min_samples=m).fit_predict(wide) < 0 for eps, m in cells]
    np.testing.assert_array_equal(measures["dbscan_noise"][""], np.mean(noise, axis=0))
    away = [np.linalg.norm(wide - centres[labels], axis=1) for labels, centres in partitions]
    np.testing.assert_allclose(measures["kmeans_distance"][""], np.mean(away, axis=0))
    theirs = -IsolationForest(random_state=3).fit(X).score_samples(X)
    np.testing.assert_array_equal(measures["isolation_forest"][""], theirs)


def test_what_cannot_be_measured_is_said():
    measures, missing = measure_rows(evidence(data(KINDS[0], 60, 3), cells=()), DETECTORS)
    assert missing == {
        "dbscan_noise": "the grid has no DBSCAN for it",
        "kmeans_distance": "no KMeans was fitted on all its rows with this scaler",
        "pca_residual": "its reduction leaves nothing out",
    }
    assert set(measures) == {"k_distance", "lof", "glosh", "isolation_forest"}


def test_kmeans_distance_does_not_depend_on_blocks(monkeypatch):
    X, centres = data(KINDS[0], 200, 17), np.random.default_rng(0).normal(size=(3, 17))
    seen = evidence(X, partitions=[(np.arange(200) % 3, centres)])
    whole = measure_rows(seen, find_detectors(["kmeans_distance"]))
    monkeypatch.setattr("toolkit.outliers.detectors._BLOCK_VALUES", 60)
    parts = measure_rows(seen, find_detectors(["kmeans_distance"]))
    np.testing.assert_array_equal(whole[0]["kmeans_distance"][""], parts[0]["kmeans_distance"][""])


@pytest.mark.parametrize("fraction", [1.0, 0.4])
@pytest.mark.parametrize("n_components", [3, 0.7])
def test_residuals_are_those_of_scikit_learn(tmp_path, fraction, n_components):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(900, 12)) * np.arange(1, 13) + 1000).astype(np.float32)
    X[[5, 700]] = np.nan
    np.save(tmp_path / "a.npy", X)
    keeper = DataKeeper(loader=DataLoader(["a"], tmp_path), cache=tmp_path / "cache")
    sample = Sample("a", fraction, 0, n_components)
    found, rows = keeper.residuals(sample), keeper.reduce(sample).rows
    wide = X[rows].astype(np.float64)
    pca = PCA(n_components, svd_solver="full").fit(wide)
    expected = np.linalg.norm(wide - pca.inverse_transform(pca.transform(wide)), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    again = DataKeeper(loader=DataLoader(["a"], tmp_path), cache=tmp_path / "cache").residuals(sample)
    np.testing.assert_array_equal(found, again)
    for everything in (None, 12):
        assert keeper.residuals(Sample("a", fraction, 0, everything)) is None


def test_names_of_detectors():
    assert list(find_detectors(["lof", "glosh"])) == ["lof", "glosh"]
    assert find_detectors() == DETECTORS
    with pytest.raises(InputError, match=r"unknown detector 'lov'; known: .*, glosh, .*, lof, .*pyod\.ECOD"):
        find_detectors(["lov"])
    with pytest.raises(InputError, match="'lof' is there twice"):
        find_detectors(["lof", "lof"])
    with pytest.raises(InputError, match=r"unknown PyOD detector 'NOPE'; known: ABOD, .*ECOD"):
        find_detectors(["pyod.NOPE"])
    with pytest.raises(InputError, match=r"no class 'ecod' in pyod\.models\.ecod; look at its capitals"):
        find_detectors(["pyod.ecod"])


def test_pyod():
    from pyod.models.ecod import ECOD
    from pyod.models.iforest import IForest

    X = data(KINDS[0], 200, 17)
    measures, _ = measure_rows(evidence(X, seed=5), find_detectors(["pyod.ECOD", "pyod.IForest"]))
    np.testing.assert_array_equal(measures["pyod.ECOD"][""], ECOD().fit(X).decision_scores_)
    np.testing.assert_array_equal(measures["pyod.IForest"][""], IForest(random_state=5).fit(X).decision_scores_)


def test_pyod_that_fails_costs_itself(monkeypatch):
    from pyod.models.ecod import ECOD

    seen = evidence(data(KINDS[0], 60, 3))
    chosen = find_detectors(["pyod.ECOD", "lof"])
    monkeypatch.setattr(ECOD, "fit", lambda *_: (_ for _ in ()).throw(ValueError("too\nodd")))
    assert measure_rows(seen, chosen)[1] == {"pyod.ECOD": "ValueError: too odd"}
    monkeypatch.setattr(ECOD, "fit", lambda self, X: setattr(self, "decision_scores_", X[:, 0] * np.nan) or self)
    assert measure_rows(seen, chosen)[1] == {"pyod.ECOD": "it gives no number for 60 rows"}


def test_pyod_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyod", None)
    monkeypatch.setitem(sys.modules, "pyod.models", None)
    with pytest.raises(MissingPackageError, match=r"detector pyod\.ECOD needs PyOD; pip install pyod"):
        find_detectors(["pyod.ECOD"])


# Combination
def test_normalised():
    rng = np.random.default_rng(0)
    measure = rng.standard_t(2, 1001)
    found = normalised(measure)
    assert np.median(found) == 0
    assert np.quantile(found, 0.9, method="inverted_cdf") == 1
    np.testing.assert_allclose(normalised(1e6 * measure + 50), found, atol=1e-6)
    np.testing.assert_array_equal(rankdata(found), rankdata(measure))
    far = normalised(np.append(measure, 1e300))
    assert far[-1] == 1e6


def test_a_measure_of_few_values_says_no_more_than_how_few_rows_have_them():
    measure = np.repeat([0.0, 0.5, 1.0], [950, 40, 10])
    found = normalised(measure)
    np.testing.assert_allclose(
        found[[0, 950, 990]], [0, np.log(0.5 / 0.05) / np.log(5), np.log(0.5 / 0.01) / np.log(5)]
    )
    np.testing.assert_array_equal(normalised(np.full(7, 3.0)), 0)
    assert normalised(np.array([4.0])).tolist() == [0]
    below = normalised(np.repeat([-1.0, 0.0], [100, 900]))
    np.testing.assert_array_equal(below, 0)


def test_combine():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 500))
    a[0], c[1] = 30.0, 40.0
    for lost in (a, b):
        lost[2:4] = np.nan
    c[3] = np.nan
    combined = combine({"one": {"k": a, "m": b}, "two": {"k": c}})
    there = ~np.isnan(a)
    highest = np.maximum(normalised(a[there]), normalised(b[there]))
    np.testing.assert_array_equal(combined.by_descriptor["one"][there], highest)
    assert combined.score[2] == combined.by_descriptor["two"][2]
    assert np.isnan(combined.score[3])
    np.testing.assert_allclose(
        combined.score[0], (combined.by_descriptor["one"][0] + combined.by_descriptor["two"][0]) / 2
    )
    assert combined.strongest[:4].tolist() == ["one k", "two k", "two k", ""]
    votes, voters = combined.votes(1)
    assert votes[:4].tolist() == [1, 1, 0, 0]
    assert voters[:4].tolist() == [3, 3, 1, 0]
    order = rng.permutation(500)
    shuffled = combine({"one": {"k": a[order], "m": b[order]}, "two": {"k": c[order]}})
    np.testing.assert_array_equal(shuffled.score, combined.score[order])


def test_ranks_and_among_first():
    score = np.array([2.0, np.nan, 5.0, 2.0, -1.0])
    assert ranks(score).tolist() == [2, 5, 1, 3, 4]
    assert among_first(score, 1).tolist() == [False, False, True, False, False]
    assert among_first(score, 2).tolist() == [False, False, True, False, False]  # 2 and 3 cannot be told apart
    assert among_first(score, 4).tolist() == [True, False, True, True, False]


def test_cuts():
    score = np.concatenate([np.linspace(-1, 1, 95), [3, 4, 5, 6, 9.0], [np.nan] * 20])
    assert Cut(contamination=0.03).n_outliers(score) == 3
    assert Cut(number=7).n_outliers(score) == 7
    assert Cut(number=7000).n_outliers(score) == np.count_nonzero(score > 0)
    assert Cut(threshold=4).n_outliers(score) == 4
    assert Cut(threshold=10).n_outliers(score) == 0
    assert Cut().n_outliers(score) == 6
    for flat in (np.zeros(50), np.full(50, np.nan), np.array([1.0]), np.array([])):
        assert Cut().n_outliers(flat) == 0
        assert Cut(contamination=0.5).n_outliers(flat) == 0 if len(flat) != 1 else 1


def test_knee_is_the_farthest_from_the_chord():
    rng = np.random.default_rng(0)
    for _ in range(20):
        curve = np.sort(rng.exponential(size=rng.integers(3, 60)))[::-1]
        ends = np.array([[0, curve[0]], [len(curve) - 1, curve[-1]]], float)
        scale = np.array([len(curve) - 1, curve[0] - curve[-1]])
        points = np.stack([np.arange(len(curve)), curve], axis=1) / scale
        one, other = ends / scale
        away = (other - one)[0] * (points - one)[:, 1] - (other - one)[1] * (points - one)[:, 0]
        assert knee(curve) == away.argmin() + 1
    assert knee(np.linspace(1, 0, 50) ** 0.5) == 0  # bends the other way
    assert knee(np.array([3.0, 1.0])) == 0


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"contamination": 0}, "contamination is 0; allowed: above 0, at most 0.5"),
        ({"contamination": 0.6}, "contamination is 0.6; allowed"),
        ({"contamination": np.nan}, "contamination is nan; allowed"),
        ({"number": 0}, "number is 0; allowed: a whole number of at least 1"),
        ({"threshold": 0}, "threshold is 0; allowed: a score above 0"),
        ({"threshold": np.inf}, "threshold is inf; allowed"),
        ({"number": 3, "threshold": 2}, "number and threshold are given; at most one rule"),
    ],
)
def test_cuts_that_are_not_allowed(rule, text):
    with pytest.raises(InputError, match=text):
        Cut(**rule)


# Whole runs
@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of two descriptors, 300 rows, rows 290 to 299 far off in both; row 7 is NaN in one."""
    folder = tmp_path_factory.mktemp("outliers")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 12)) * 8
    X = (centres[rng.integers(0, 4, 300)] + rng.normal(size=(300, 12))).astype(np.float32)
    X[290:] += rng.normal(size=(10, 12)).astype(np.float32) * 15
    (folder / "in" / "images").mkdir(parents=True)
    np.save(folder / "in" / "b.npy", X[:, ::-1])
    X[7] = np.nan
    np.save(folder / "in" / "a.npy", X)
    paths = [f"{i:03}.png" for i in range(300)]
    for i, path in enumerate(paths):
        grey = np.full((20, 20), 90) if i == 12 else rng.integers(0, 256, (20, 20))
        Image.fromarray(grey.astype(np.uint8)).save(folder / "in" / "images" / path)
    (folder / "in" / "images" / "033.png").write_bytes(b"damaged")
    (folder / "in" / "images_paths.csv").write_text("path\n" + "\n".join(paths) + "\n")
    content = {
        "descriptors": {
            "folder": str(folder / "in"),
            "image_paths": str(folder / "in" / "images_paths.csv"),
            "images": str(folder / "in" / "images"),
        },
        "stages": [{"name": "s", "n_components": 6, "scalers": ["std"], "grid": GRID}],
    }
    execute(content, folder / "out")
    return folder / "out"


@pytest.fixture
def run(made, tmp_path):
    return FinishedRun(shutil.copytree(made, tmp_path / "out"), memory="4GiB", reporter=Heard())


def test_a_whole_run(run):
    found = write_outliers(run, cut=Cut(number=10), top=24)
    table = pd.read_csv(run.folder / "outliers.csv")
    assert table["rank"].tolist() == list(range(1, 301))
    assert set(table["row"][:10]) == set(range(290, 300))
    assert table["is_outlier"].tolist() == [True] * 10 + [False] * 290
    assert (table["score"].diff()[1:] <= 0).all()
    assert table["image_path"].tolist() == [f"{row:03}.png" for row in table["row"]]
    detectors = [column.removeprefix("a_") for column in table if column.startswith("a_")]
    assert detectors == ["is_outlier", "score", *DETECTORS]
    by_row = table.set_index("row").sort_index()
    assert by_row.loc[7, "n_detectors"] == len(DETECTORS)
    assert by_row.drop(index=7)["n_detectors"].eq(2 * len(DETECTORS)).all()
    assert by_row.loc[7, ["a_score", "a_lof"]].isna().all()
    assert not by_row.loc[7, "a_is_outlier"]
    np.testing.assert_allclose(by_row["score"], by_row[["a_score", "b_score"]].mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(by_row["b_score"], by_row[[f"b_{name}" for name in DETECTORS]].max(axis=1), rtol=1e-4)
    assert by_row.loc[12, "image_problem"] == "blank"
    assert by_row.loc[33, "image_problem"] == "failed"
    assert by_row["image_problem"].notna().sum() == 2
    assert any(note == "a: 1 rows are not measured, 1 hold NaN or inf" for note in found.notes)
    measures = pd.read_csv(run.folder / "outlier_measures.csv")
    model = next(model for model in run.models.values() if model.cell.sample.descriptor == "b")
    X = run.matrix(model).astype(np.float64)
    k = [int(c.removeprefix("b_lof_")) for c in measures if c.startswith("b_lof_")]
    assert k == [3, 15]
    for one in k:
        lof = -LocalOutlierFactor(one).fit(X).negative_outlier_factor_
        np.testing.assert_allclose(measures[f"b_lof_{one}"], lof, rtol=1e-5)
    assert set(np.round(8 * measures["b_dbscan_noise"], 5)) <= set(range(9))
    sheets = {path.name for path in (run.folder / "plots").iterdir()}
    assert sheets == {
        "outliers.png", "a_outliers.png", "b_outliers.png", "image_problems.png", "outlier_scores.png",
        "outlier_agreement.png",
    }  # fmt: skip
    problems = pd.read_csv(run.folder / "image_problems.csv")
    assert problems["row"].tolist() == [12, 33]
    assert pd.read_csv(run.folder / "images_skipped.csv")["row"].tolist() == [33]
    text = outliers_text(run, found)
    assert "outliers   10 of 300 rows (3.3 %), by a number of 10: score " in text
    assert "300 looked at: failed 1, blank 1" in text
    assert run.reporter.said[0].startswith("outliers: 7 detectors on 2 x 300 rows, 300 images; about ")


def test_the_second_time_is_the_same_and_measures_nothing(run, monkeypatch):
    write_outliers(run)
    first = {name: (run.folder / name).read_bytes() for name in ("outliers.csv", "outlier_measures.csv")}
    monkeypatch.setattr("toolkit.outliers.build.measure_rows", lambda *_: pytest.fail("measured again"))
    write_outliers(run)
    assert first == {name: (run.folder / name).read_bytes() for name in first}
    with pytest.raises(pytest.fail.Exception):
        write_outliers(run, detectors=["lof"])


def test_without_images(run, tmp_path):
    write_outliers(run)
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    (tmp_path / "gone").mkdir()
    run.config = run.config.model_copy(
        update={"descriptors": run.config.descriptors.model_copy(update={"images": None})}
    )
    found = write_outliers(run)
    assert found.quality is None
    assert {path.name for path in (run.folder / "plots").iterdir()} == {"outlier_scores.png", "outlier_agreement.png"}
    assert not (run.folder / "image_problems.csv").exists()
    assert "image_problem" not in pd.read_csv(run.folder / "outliers.csv")
    assert any("no images are looked at: none was found" in text for text in run.reporter.said)


def test_named_detectors(run):
    found = find_outliers(run, find_detectors(["lof", "pyod.ECOD"]), Cut(), named=True)
    assert list(found.combined.detectors["a"]) == ["lof", "pyod.ECOD"]


def test_nothing_is_written_of_a_detector_that_does_not_exist(run):
    with pytest.raises(InputError, match="unknown detector 'lov'"):
        write_outliers(run, detectors=["lov"])
    assert not (run.folder / "outliers.csv").exists()


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"KMeans": {"n_clusters": [2]}}, "a dbscan_noise: left out, the grid has no DBSCAN for it"),
        ({"DBSCAN": {"eps": [3], "min_samples": [4]}}, "a kmeans_distance: left out, no KMeans was fitted on all its"),
    ],
)
def test_a_grid_of_one_estimator(tmp_path, grid, said):
    np.save(tmp_path / "a.npy", data(KINDS[0], 150, 5))
    execute({"descriptors": {"folder": str(tmp_path)}, "stages": [{"name": "s", "grid": grid}]}, tmp_path / "out")
    run = FinishedRun(tmp_path / "out", memory="4GiB", reporter=Heard())
    write_outliers(run)
    assert any(text.startswith(said) for text in run.reporter.said)
    with pytest.raises(InputError, match="pca_residual cannot be used in any descriptor of this run: a pca_residual: "):
        write_outliers(run, detectors=["pca_residual", "lof"])


def test_fewer_rows_than_neighbours(tmp_path):
    np.save(tmp_path / "a.npy", data(KINDS[0], 5, 3))
    grid = {"KMeans": {"n_clusters": [2]}, "DBSCAN": {"eps": [0.5], "min_samples": [64]}}
    execute({"descriptors": {"folder": str(tmp_path)}, "stages": [{"name": "s", "grid": grid}]}, tmp_path / "out")
    run = FinishedRun(tmp_path / "out", memory="4GiB", reporter=Heard())
    write_outliers(run)
    measures = pd.read_csv(tmp_path / "out" / "outlier_measures.csv")
    assert measures["a_dbscan_noise"].eq(1).all()
    assert "a_lof_4" in measures
    assert measures["a_k_distance_5"].notna().all()


def test_a_fraction_of_the_rows(tmp_path):
    np.save(tmp_path / "a.npy", data(KINDS[0], 200, 5))
    stage = {"name": "s", "fraction": 0.5, "grid": GRID}
    execute({"descriptors": {"folder": str(tmp_path)}, "stages": [stage]}, tmp_path / "out")
    run = FinishedRun(tmp_path / "out", memory="4GiB", reporter=Heard())
    found = write_outliers(run, cut=Cut(contamination=0.1))
    assert found.n_outliers == 10
    table = pd.read_csv(tmp_path / "out" / "outliers.csv")
    assert table["rank"].notna().tolist() == [True] * 100 + [False] * 100
    assert found.notes[-1] == "a: 100 rows are not measured, stage s has seen a fraction of 0.5"
