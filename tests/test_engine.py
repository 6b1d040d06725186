"""The shared engine of a grid: what its cells share, and that one cell's trouble stays its own."""

import numpy as np
import pytest
import sklearn.cluster

from toolkit.backend.cpu import CpuBackend
from toolkit.cluster.density import DensityForest
from toolkit.errors import MemoryBudgetError
from toolkit.grid import fit
from toolkit.grid.fit import Settings, fit_and_score
from toolkit.grid.forests import Forests
from toolkit.memory import MemoryBudget
from toolkit.progress import Reporter

SETTINGS = Settings("shared", "exclude", 1000, 0, MemoryBudget(1 << 40))


@pytest.fixture(name="X")
def three_groups():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(300, 4)) + 6 * rng.integers(0, 3, (300, 1))).astype(np.float32)


def fitted(models, X, settings=SETTINGS, **options):
    found = {}
    for batch in fit_and_score(models, X, settings, **options):
        found |= batch
    return [found[position] for position in range(len(models))]


MODELS = [
    ("KMeans", {"n_clusters": 3}),
    ("DBSCAN", {"eps": 1.5, "min_samples": 4}),
    ("HDBSCAN", {"min_cluster_size": 20}),
    ("KMeans", {"n_clusters": 2, "init": "random"}),
    ("DBSCAN", {"eps": 0.5, "min_samples": 9}),
    ("HDBSCAN", {"min_cluster_size": 10, "min_samples": 4, "cluster_selection_method": "leaf"}),
]


def test_a_model_does_not_depend_on_its_group(X):
    together = fitted(MODELS, X)
    for model, result in zip(MODELS, together, strict=True):
        (alone,) = fitted([model], X)
        np.testing.assert_array_equal(alone.labels, result.labels)
        timed = {"fit_seconds", "score_seconds"}
        assert {k: v for k, v in alone.row.items() if k not in timed} == {
            k: v for k, v in result.row.items() if k not in timed
        }
    expected = sklearn.cluster.DBSCAN(eps=1.5, min_samples=4).fit(X.astype(np.float64))
    np.testing.assert_array_equal(together[1].labels, expected.labels_)


def test_every_row_says_how_it_came_about(X):
    for result in fitted(MODELS, X):
        assert result.row["engine"] == "shared"
        assert all(result.row[name] for name in ("exactness", "precision", "tie_rule", "device"))


def test_progress_adds_up_for_each_part(X):
    shares = {}
    fitted(MODELS, X, advance=lambda part, share: shares.update({part: shares.get(part, 0) + share}))
    assert set(shares) == {"KMeans", "density", "scores"}
    assert all(share == pytest.approx(1, abs=0.06) for share in shares.values())


def test_more_min_samples_than_rows_need_no_forest(X):
    def no_forest(values, _):
        raise AssertionError(f"asked for {values}")

    models = [
        ("DBSCAN", {"eps": 1.0, "min_samples": 301}),
        ("HDBSCAN", {"min_cluster_size": 400}),
        ("KMeans", {"n_clusters": 301}),
    ]
    noise, tree, means = fitted(models, X, forest_of=no_forest)
    np.testing.assert_array_equal(noise.labels, np.full(300, -1))
    assert "min_samples (400) must be at most the number of samples (300)" in tree.row["error"]
    assert "n_clusters is 301; allowed: at most the number of rows, 300" in means.row["error"]


def test_cells_that_do_not_fit_leave_the_others(X, monkeypatch):
    asked = []

    def small_forest(values, advance):
        asked.append(values)
        if values[-1] > 10:
            raise MemoryBudgetError("too long")
        return DensityForest(values).fit(X, advance=advance)

    results = fitted(MODELS, X, forest_of=small_forest)
    assert asked == [[4, 9, 20], [4, 9]]
    assert [result.row.get("error") for result in results] == [None, None, "MemoryBudgetError: too long"] + [None] * 3

    def score(X, labellings, **options):
        if any(labels.max() == 1 for labels in labellings):
            raise MemoryBudgetError("two clusters are too many")
        return real(X, labellings, **options)

    real = fit.score_labellings
    monkeypatch.setattr(fit, "score_labellings", score)
    results = fitted(MODELS[:1] + MODELS[3:4] + [("KMeans", {"n_clusters": 4})], X)
    assert [result.labels is None for result in results] == [False, True, False]


def test_forests_are_kept_and_used_again(X, tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.grid.forests._WORTH_KEEPING", 0)
    forests = Forests(tmp_path, MemoryBudget(1 << 40), Reporter(quiet=True), CpuBackend())
    first = forests.get("k", X, [3, 9])
    (kept,) = tmp_path.iterdir()
    stamp = (kept / "squared.npy").stat().st_mtime_ns
    again = forests.get("k", X, [5])
    assert (kept / "squared.npy").stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again.dbscan(1.5, 5), first.dbscan(1.5, 5))
    assert forests.get("k", X, [20]).min_samples == [3, 9, 20]
    (kept / "indices.npy").write_bytes(b"damaged")
    assert forests.get("k", X, [4]).min_samples == [4]
    assert forests.get("k", X[:200], [4]).n_samples == 200  # another matrix under the same name
    monkeypatch.setattr(DensityForest, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "no space left")))
    assert forests.get("k", X, [30]).min_samples[-1] == 30  # keeping it is optional
