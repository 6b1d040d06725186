"""Detectors against other libraries, how scores are combined and cut, and outliers of whole runs."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

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
from toolkit.outliers.detectors import (
    DETECTORS,
    NotMeasurableError,
    centre_distances,
    find_detectors,
    measure,
    noise_shares,
)
from toolkit.outliers.evidence import dbscan_cells, plain
from toolkit.progress import Reporter
from toolkit.report.study import Study

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


def evidence(X, min_samples=(4, 16), **others):
    X = np.asarray(X, np.float32)
    values = sorted({min(value, len(X)) for value in min_samples})
    facts = {"noise_shares": None, "centre_distances": None, "residuals": None, "seed": 0}
    facts |= {"memory": MemoryBudget(1 << 40), "X": X, "forest": DensityForest(values).fit(X), "min_samples": values}
    return SimpleNamespace(**facts | others)


def measured(seen, detectors):
    """Return detector -> measures, and detector -> why not."""
    found, missing = {}, {}
    for name, detector in detectors.items():
        try:
            found[name] = measure(name, detector, seen)
        except NotMeasurableError as error:
            missing[name] = str(error)
    return found, missing


# Detectors
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [shape for shape in SHAPES if shape[0] > 1])
def test_every_detector_measures_everything(kind, n, d):
    rng = np.random.default_rng(0)
    others = {name: rng.random(n) for name in ("noise_shares", "centre_distances", "residuals")}
    measures, missing = measured(evidence(data(kind, n, d), **others), DETECTORS)
    assert missing == {}
    assert list(measures) == list(DETECTORS)
    for of in measures.values():
        for one in of.values():
            assert one.shape == (n,)
            assert one.dtype == np.float64
            assert np.isfinite(one).all()
    combined = combine({"x": {name: DETECTORS[name].score(of) for name, of in measures.items()}})
    assert np.isfinite(combined.score).all()
    if kind is identical:
        assert next(iter(measures["k_distance"].values())).max() == 0


def test_measures_are_what_they_are_called():
    rng = np.random.default_rng(1)
    X = np.vstack([rng.normal(size=(200, 5)), rng.normal(size=(9, 5)) + 6]).astype(np.float32)
    wide = X.astype(np.float64)
    seen = evidence(X, seed=3)
    measures, _ = measured(seen, DETECTORS)
    D = np.sort(cdist(wide, wide), axis=1)
    np.testing.assert_allclose(measures["k_distance"]["_16"], D[:, 15])
    np.testing.assert_allclose(DETECTORS["k_distance"].score(measures["k_distance"]), D[:, [3, 15]].mean(axis=1))
    lofs = [-LocalOutlierFactor(k).fit(wide).negative_outlier_factor_ for k in (3, 15)]
    np.testing.assert_allclose([measures["lof"]["_3"], measures["lof"]["_15"]], lofs, rtol=1e-5)
    smoothed = [seen.forest.local_outlier_factor(n_neighbors=k, least_reachability=0.5) for k in (3, 15)]
    np.testing.assert_array_equal(DETECTORS["lof"].score(measures["lof"]), np.max(smoothed, axis=0))
    np.testing.assert_array_equal(measures["glosh"]["_4"], seen.forest.outlier_scores(min_samples=4))
    theirs = -IsolationForest(random_state=3).fit(X).score_samples(X)
    np.testing.assert_array_equal(measures["isolation_forest"][""], theirs)


def test_noise_shares_are_those_of_dbscan():
    X = data(KINDS[0], 200, 3)
    cells = [(eps, m) for eps in (0.3, 0.7, 1.5, 9.0) for m in (3, 10, 300)]
    noise = [DBSCAN(eps=eps, min_samples=m).fit_predict(X.astype(np.float64)) < 0 for eps, m in cells]
    np.testing.assert_array_equal(noise_shares(DensityForest([3, 10]).fit(X), cells), np.mean(noise, axis=0))


def test_centre_distances(monkeypatch):
    rng = np.random.default_rng(0)
    X = data(KINDS[0], 200, 17)
    partitions = [(labels, rng.normal(size=(4, 17))) for labels in rng.integers(0, 4, (3, 200))]
    away = [np.linalg.norm(X.astype(np.float64) - centres[labels], axis=1) for labels, centres in partitions]
    whole = centre_distances(X, partitions)
    np.testing.assert_allclose(whole, np.mean(away, axis=0))
    monkeypatch.setattr("toolkit.outliers.detectors._BLOCK_VALUES", 60)
    np.testing.assert_array_equal(centre_distances(X, partitions), whole)


@pytest.mark.parametrize("apart", [0.0, 2e-7, 1e-2])
def test_copies_do_not_make_what_is_beside_them_an_outlier(apart):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 16))
    X[:12] = X[0] + apart * rng.normal(size=(12, 16))
    X[-10:] *= 4
    measures, _ = measured(evidence(X, min_samples=(8, 32)), find_detectors(["lof", "k_distance"]))
    combined = combine({"x": {name: DETECTORS[name].score(of) for name, of in measures.items()}})
    assert set(np.argsort(-combined.score)[:10]) == set(range(990, 1000))
    assert Cut().n_outliers(combined.score) >= 9
    if apart < 1e-3:
        assert measures["lof"]["_7"].max() > 1e4  # scikit-learn's number, as it is


def test_what_cannot_be_measured_is_said():
    measures, missing = measured(evidence(data(KINDS[0], 60, 3)), DETECTORS)
    assert missing == {
        "dbscan_noise": "the grid has no DBSCAN for it",
        "kmeans_distance": "no KMeans was fitted on all its rows with this scaler",
        "pca_residual": "its reduction leaves nothing out",
    }
    assert set(measures) == {"k_distance", "lof", "glosh", "isolation_forest"}


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
    assert list(find_detectors(["pyod.ECOD", "all"])) == ["pyod.ECOD", *DETECTORS]
    with pytest.raises(InputError, match=r"unknown PyOD detector 'NOPE'; known: ABOD, .*AutoEncoder, .*ECOD"):
        find_detectors(["pyod.NOPE"])


def test_pyod():
    from pyod.models.ecod import ECOD
    from pyod.models.iforest import IForest

    X = data(KINDS[0], 200, 17)
    measures, _ = measured(evidence(X, seed=5), find_detectors(["pyod.ECOD", "pyod.IForest"]))
    np.testing.assert_array_equal(measures["pyod.ECOD"][""], ECOD().fit(X).decision_scores_)
    np.testing.assert_array_equal(measures["pyod.IForest"][""], IForest(random_state=5).fit(X).decision_scores_)


def test_pyod_that_fails_costs_itself(monkeypatch):
    from pyod.models.ecod import ECOD

    seen = evidence(data(KINDS[0], 60, 3))
    chosen = find_detectors(["pyod.ECOD", "lof"])
    monkeypatch.setattr(ECOD, "fit", lambda *_: (_ for _ in ()).throw(ValueError("too\nodd")))
    assert measured(seen, chosen)[1] == {"pyod.ECOD": "ValueError: too odd"}
    monkeypatch.setattr(ECOD, "fit", lambda self, X: setattr(self, "decision_scores_", X[:, 0] * np.nan) or self)
    assert measured(seen, chosen)[1] == {"pyod.ECOD": "it gives no number for 60 rows"}


def test_pyod_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
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
    far = normalised(np.append(measure, [1e300, 1e6, np.inf]))
    assert 10 < far[-2] < 30 < far[-3] <= far[-1] < 1000
    steps = normalised(np.append(measure, np.linspace(0, 100, 50)))[-50:]
    assert (np.diff(steps) > 0).all()


def test_a_measure_of_few_values_says_no_more_than_how_few_rows_have_them():
    measure = np.repeat([0.0, 0.5, 1.0], [950, 40, 10])
    found = normalised(measure)
    np.testing.assert_allclose(
        found[[0, 950, 990]], [0, np.log(0.5 / 0.05) / np.log(5), np.log(0.5 / 0.01) / np.log(5)]
    )
    more = normalised(np.repeat([0.0, 0.5, 1.0], [870, 120, 10]))  # no jump where the percentile is another value
    np.testing.assert_allclose(more[-1], found[-1])
    rounded = normalised(np.append(1 + 1e-16 * np.arange(300), 1 + 1e-7))
    assert rounded[-1] < 10
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
    assert Cut(number=100).n_outliers(score) == 99  # never the lowest
    with pytest.raises(InputError, match="number is 101; allowed: at most the rows that have a score, 100"):
        Cut(number=101).n_outliers(score)
    equal = np.repeat([5.0, 4.0, 1.0], [3, 4, 20])
    assert [Cut(number=n).n_outliers(equal) for n in (1, 3, 4, 7, 8)] == [3, 3, 7, 7, 7]
    assert Cut().n_outliers(equal) == 7
    assert Cut(threshold=4).n_outliers(score) == 4
    assert Cut(threshold=10).n_outliers(score) == 0
    assert Cut().n_outliers(score) == 5
    assert Cut().n_outliers(np.repeat([2.0, 0.0], [1, 49])) == 1
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
        assert knee(curve) == away.argmin()
    assert knee(np.linspace(1, 0, 50) ** 0.5) == 0  # bends the other way
    assert knee(np.array([3.0, 1.0])) == 0


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"contamination": 0}, "contamination is 0; allowed: above 0, at most 0.5"),
        ({"contamination": 0.6}, "contamination is 0.6; allowed"),
        ({"contamination": np.nan}, "contamination is nan; allowed"),
        ({"number": 0}, "number is 0; allowed: a whole number of at least 1"),
        ({"number": 2.5}, "number is 2.5; allowed: a whole number of at least 1"),
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
    about = json.loads((run.folder / "outliers.json").read_text())
    assert about["n_outliers"] == 10
    assert about["measured"] == {"a": "6 components, not scaled", "b": "6 components, not scaled"}
    for name in ("a", "b"):
        assert table[f"{name}_is_outlier"].sum() == 10
        assert (
            table.loc[table[f"{name}_is_outlier"], f"{name}_score"].min() >= table[f"{name}_score"].nlargest(10).min()
        )
    assert any(note == "a: 1 rows are not measured, 1 hold NaN or inf" for note in found.notes)
    measures = pd.read_csv(run.folder / "outlier_measures.csv")
    model = next(model for model in run.models.values() if model.cell.sample.descriptor == "b")
    X = run.matrix(plain(model)).astype(np.float64)
    assert plain(model).cell.scaler == "none"
    k = [int(c.removeprefix("b_lof_")) for c in measures if c.startswith("b_lof_") and c[-1].isdigit()]
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


def test_sheets_show_the_highest(run, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        "toolkit.outliers.pictures.save_sheet",
        lambda path, title, lines, sections: shown.update({path.name: sections}),
    )
    write_outliers(run, cut=Cut(number=10), top=24)
    table = pd.read_csv(run.folder / "outliers.csv")
    paths = [one.path for one in shown["outliers.png"][0].images]
    readable = [path for path in table["image_path"] if path != "033.png"]
    assert paths == readable[:24]
    assert shown["outliers.png"][0].images[0].note == f"{table['score'][0]:.1f}"
    lof = next(section for section in shown["b_outliers.png"] if section.title.startswith("lof"))
    best = table.sort_values(["b_lof", "row"], ascending=[False, True])["image_path"]
    assert [one.path for one in lof.images] == [path for path in best if path != "033.png"][:16]


def test_the_second_time_is_the_same_and_measures_nothing(run, monkeypatch):
    write_outliers(run)
    first = {name: (run.folder / name).read_bytes() for name in ("outliers.csv", "outlier_measures.csv")}
    monkeypatch.setattr("toolkit.outliers.build.measure", lambda *_: pytest.fail("measured again"))
    write_outliers(run)
    assert first == {name: (run.folder / name).read_bytes() for name in first}
    write_outliers(run, detectors=["lof"])
    run.config = run.config.model_copy(update={"seed": 5})
    with pytest.raises(pytest.fail.Exception):
        write_outliers(run, detectors=["isolation_forest"])


def test_a_detector_that_failed_is_tried_again(run, monkeypatch):
    from pyod.models.ecod import ECOD

    with monkeypatch.context() as patched:
        patched.setattr(ECOD, "fit", lambda *_: (_ for _ in ()).throw(ValueError("once")))
        found = write_outliers(run, detectors=["lof", "pyod.HBOS"])
        assert set(found.combined.detectors["a"]) == {"lof", "pyod.HBOS"}
        with pytest.raises(InputError, match=r"pyod\.ECOD cannot be used in any descriptor .* ValueError: once"):
            write_outliers(run, detectors=["lof", "pyod.ECOD"])
    assert "pyod.ECOD" in write_outliers(run, detectors=["lof", "pyod.ECOD"]).combined.detectors["a"]


def test_images_that_failed_or_changed_are_looked_at_again(run, made):
    images = made.parent / "in" / "images"
    before = write_outliers(run).quality
    assert before["is_failed"].sum() == 1
    good, bad = (images / "034.png").read_bytes(), (images / "033.png").read_bytes()
    try:
        (images / "033.png").write_bytes(good)
        Image.fromarray(np.zeros((20, 20), np.uint8)).save(images / "035.png")
        after = write_outliers(run).quality
        assert not after["is_failed"].any()
        assert after.loc[35, "is_blank"]
        assert after["width"].tolist() == [20] * 300
    finally:
        (images / "033.png").write_bytes(bad)


def test_cells_and_partitions_are_of_the_same_matrix(tmp_path):
    """Other scalers, reductions and samples have other distances."""
    np.save(tmp_path / "a.npy", data(KINDS[0], 200, 8))
    stages = [
        {"name": "first", "fraction": 0.5, "n_components": 2, "scalers": ["norm"], "grid": GRID},
        {
            "name": "half",
            "fraction": 0.5,
            "n_components": 5,
            "scalers": ["std"],
            "grid": {"DBSCAN": {"eps": [7], "min_samples": [3]}},
        },
        {
            "name": "last",
            "n_components": 5,
            "scalers": ["norm", "std"],
            "grid": {"KMeans": {"n_clusters": [2]}, "DBSCAN": {"eps": [2], "min_samples": [5]}},
        },
    ]
    execute({"descriptors": {"folder": str(tmp_path)}, "stages": stages}, tmp_path / "out")
    run = FinishedRun(tmp_path / "out", memory="4GiB", reporter=Heard())
    models = [m for m in run.models.values() if m.stage == "last" and m.cell.cluster_class == "KMeans"]
    cells = {m.cell.scaler: dbscan_cells(run, m) for m in models}
    assert cells == {"norm": [(2.0, 5)], "std": [(2.0, 5), (7.0, 3)]}
    best = Study(run).best_matrix("a")
    write_outliers(run)
    mine = next(m for m in models if m.cell.scaler == best.cell.scaler)
    away = np.linalg.norm(run.matrix(mine) - run.centres(mine)[run.labels(mine)], axis=1)
    measures = pd.read_csv(run.folder / "outlier_measures.csv")
    np.testing.assert_allclose(measures["a_kmeans_distance"], away, rtol=1e-5)


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
    assert pd.read_csv(run.folder / "outliers.csv")["image_problem"].isna().all()
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


def test_one_forest_where_rows_are_not_reduced(tmp_path, monkeypatch):
    """In whatever order detectors ask for its parts."""
    np.save(tmp_path / "a.npy", data(KINDS[0], 300, 5))
    grid = {"DBSCAN": {"eps": [1, 2], "min_samples": [4, 128]}, "KMeans": {"n_clusters": [2]}}
    execute({"descriptors": {"folder": str(tmp_path)}, "stages": [{"name": "s", "grid": grid}]}, tmp_path / "out")
    run = FinishedRun(tmp_path / "out", memory="4GiB", reporter=Heard())
    fitted = []
    fit = DensityForest.fit
    monkeypatch.setattr(DensityForest, "fit", lambda self, *a, **k: fitted.append(1) or fit(self, *a, **k))
    found = find_outliers(run, find_detectors(["lof", "dbscan_noise", "glosh"]), Cut(), named=True)
    assert list(found.combined.detectors["a"]) == ["lof", "dbscan_noise", "glosh"]
    assert len(fitted) == 1


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
