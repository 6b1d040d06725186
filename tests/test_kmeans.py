"""KMeans and its sweep against scikit-learn, brute force in float64, and themselves under other conditions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.base import clone
from sklearn.cluster import KMeans as Reference
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from toolkit.cluster import kmeans, kmeans_kernels, kmeans_merge, kmeans_seeds
from toolkit.cluster.estimators import KMeans, kmeans_sweep
from toolkit.cluster.kmeans_matrix import Matrix
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.memory import MemoryBudget, resident_bytes

Make = Callable[[np.random.Generator], np.ndarray]

HARD: dict[str, Make] = {
    "blobs": lambda rng: rng.normal(size=(6, 20))[rng.integers(0, 6, 700)] * 3 + rng.normal(size=(700, 20)),
    "uniform": lambda rng: rng.random((1500, 30)),
    "duplicates": lambda rng: rng.normal(size=(40, 7))[rng.integers(0, 40, 1200)],
    "lattice": lambda rng: rng.integers(0, 3, (1100, 4)).astype(float),
    "fine lattice": lambda rng: rng.integers(-50, 50, (1100, 9)) / 64,
    "constant columns": lambda rng: np.hstack([np.full((600, 3), 7.25), rng.normal(size=(600, 2)), np.zeros((600, 1))]),
    "offset": lambda rng: 1e3 + rng.normal(size=(900, 12)),
    "far tight pair": lambda rng: np.where(rng.random((800, 1)) < 0.5, 1e4, -1e4) + 1e-3 * rng.normal(size=(800, 6)),
    "heavy tails": lambda rng: rng.standard_t(1.1, (1200, 15)),
    "wide": lambda rng: rng.standard_t(3, (400, 300)) * np.geomspace(1, 1e-3, 300),
    "one column": lambda rng: rng.normal(size=(2500, 1)) ** 3,
    "tiny values": lambda rng: 1e-30 * rng.normal(size=(500, 5)),
    "large values": lambda rng: 1e30 * rng.normal(size=(500, 5)),
}


def make(name: str) -> np.ndarray:
    """Data that are the same in float32 and float64."""
    return HARD[name](np.random.default_rng(3)).astype(np.float32).astype(np.float64)


def squared_distances(X: np.ndarray, centres: np.ndarray) -> np.ndarray:
    X = X.astype(np.float64)
    return np.stack([((X - centre) ** 2).sum(axis=1) for centre in centres], axis=1)


def assert_nearest(X: np.ndarray, model: KMeans, labels: np.ndarray) -> None:
    """Every row is at its nearest centre; where float64 tells distances apart there is but one such label."""
    distances = squared_distances(X, model.cluster_centers_)
    smallest = distances.min(axis=1)
    own = distances[np.arange(len(X)), labels]
    rounding = 1e-14 * (distances.max(axis=1) + np.finfo(float).tiny)
    assert (own <= smallest + np.minimum(rounding, 1e-12 * smallest)).all()
    exact = (distances == smallest[:, None]).argmax(axis=1)
    unclear = (
        np.sort(distances, axis=1)[:, 1] - smallest <= 1e-12 * smallest if distances.shape[1] > 1 else smallest < 0
    )
    np.testing.assert_array_equal(labels[~unclear], exact[~unclear])


def assert_same(a: KMeans, b: KMeans) -> None:
    """Equal to the last bit."""
    np.testing.assert_array_equal(a.cluster_centers_, b.cluster_centers_)
    np.testing.assert_array_equal(a.labels_, b.labels_)
    assert (a.inertia_, a.n_iter_) == (b.inertia_, b.n_iter_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", HARD)
def test_labels_are_exact(name: str, dtype: type) -> None:
    X = make(name).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = kmeans_sweep(X, [1, 2, 5, 17, 60], n_init=3, max_iter=25)
    for k, model in models.items():
        assert model.cluster_centers_.shape == (k, X.shape[1])
        assert_nearest(X, model, model.labels_)
        np.testing.assert_array_equal(model.predict(X), model.labels_)
        own = squared_distances(X, model.cluster_centers_)[np.arange(len(X)), model.labels_]
        assert model.inertia_ == pytest.approx(own.sum(), rel=1e-12, abs=1e-300)
        assert -model.score(X) == model.inertia_


@pytest.mark.parametrize("name", ["lattice", "duplicates"])
def test_smallest_index_wins_ties(name: str) -> None:
    X = make(name)
    centres = np.concatenate([X[:5], X[3:9], X[:5] + 1, X[:5] - 1])  # some of them twice
    labels = kmeans.assign(X, np.ascontiguousarray(centres)).labels
    np.testing.assert_array_equal(labels, squared_distances(X, centres).argmin(axis=1))  # whole numbers: no rounding


def test_centres_closer_than_float32_resolves(rng: np.random.Generator) -> None:
    X = 100 + rng.normal(size=(3000, 40))
    centre = X.mean(axis=0)
    centres = np.stack([centre + 1e-9 * rng.normal(size=40) for _ in range(6)] + [X[0], X[0] + 1e-9])
    labels = kmeans.assign(X, centres).labels
    np.testing.assert_array_equal(labels, squared_distances(X, centres).argmin(axis=1))


@pytest.mark.parametrize("k", [2, 6, 25])
@pytest.mark.parametrize("name", ["blobs", "uniform", "offset", "heavy tails", "wide", "constant columns"])
def test_equals_scikit_learn_from_the_same_centres(name: str, k: int) -> None:
    X = make(name)
    start = X[np.random.default_rng(k).choice(len(X), k, replace=False)]
    theirs = Reference(k, init=start, n_init=1).fit(X)
    ours = KMeans(k, init=start).fit(X)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-9, atol=1e-9 * np.abs(X).max())
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-9)
    assert ours.n_iter_ == theirs.n_iter_


@pytest.mark.parametrize(("max_iter", "tol"), [(1, 1e-4), (3, 0.0), (300, 0.0), (300, 0.05)])
def test_stops_where_scikit_learn_stops(max_iter: int, tol: float) -> None:
    X = make("uniform")
    theirs = Reference(7, init=X[:7], n_init=1, max_iter=max_iter, tol=tol).fit(X)
    ours = KMeans(7, init=X[:7], max_iter=max_iter, tol=tol).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-10)


@pytest.mark.parametrize("n_empty", [1, 3])
def test_empty_clusters_move_to_the_farthest_rows(n_empty: int) -> None:
    X = np.concatenate([make("blobs"), [[500.0] * 20, [-400.0] * 20, [300.0] * 20]])
    start = np.concatenate([X[:4], np.full((n_empty, 20), 1e4) * np.arange(1, n_empty + 1)[:, None]])
    theirs = Reference(len(start), init=start, n_init=1, max_iter=300).fit(X)
    ours = KMeans(len(start), init=start).fit(X)
    order_ours = np.lexsort(ours.cluster_centers_.T)  # scikit-learn leaves open which of several takes which row
    order_theirs = np.lexsort(theirs.cluster_centers_.T)
    np.testing.assert_allclose(ours.cluster_centers_[order_ours], theirs.cluster_centers_[order_theirs], rtol=1e-9)
    assert len(np.unique(ours.labels_)) == len(start)
    assert ours.inertia_ == pytest.approx(theirs.inertia_)


def test_fewer_different_rows_than_clusters() -> None:
    X = np.repeat([[0.0, 1.0], [5.0, 5.0], [9.0, -2.0]], 10, axis=0)
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(3\) found smaller than n_clusters \(5\)"):
        model = KMeans(5, n_init=4, random_state=0).fit(X)
    assert model.inertia_ == 0
    assert len(np.unique(model.labels_)) == 3
    with pytest.warns(ConvergenceWarning):
        Reference(5, n_init=4, random_state=0).fit(X)


def test_extreme_sizes() -> None:
    one = KMeans(1).fit([[3.0, 4.0]])
    np.testing.assert_array_equal(one.cluster_centers_, [[3.0, 4.0]])
    assert (one.labels_.tolist(), one.inertia_) == ([0], 0.0)
    X = make("uniform")[:40]
    every = KMeans(40, random_state=0).fit(X)
    assert every.inertia_ == 0
    assert sorted(every.labels_) == list(range(40))
    many = KMeans(300, random_state=0).fit(make("uniform"))  # more than the centres of one product
    assert_nearest(make("uniform"), many, many.labels_)


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("name", ["uniform", "duplicates", "heavy tails"])
def test_a_model_does_not_depend_on_the_others(name: str, init: str) -> None:
    X = make(name)
    together = kmeans_sweep(X, [30, 2, 9, 3], n_init=5, random_state=1, init=init)
    assert list(together) == [30, 2, 9, 3]
    for k, model in together.items():
        assert_same(model, kmeans_sweep(X, [k], n_init=5, random_state=1, init=init)[k])
        assert_same(model, clone(model).fit(X))


def test_threads_memory_and_dtype_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.concatenate([make("uniform")] * 3) + np.random.default_rng(0).normal(size=(4500, 30)).astype(np.float32)
    X = X.astype(np.float32)
    ks = [2, 5, 12]
    wanted = kmeans_sweep(X, ks, n_init=4)
    monkeypatch.setattr(kmeans, "_SMALL_WORK", 0)
    for workers in (1, 2, 5):
        monkeypatch.setattr(kmeans, "n_threads", lambda workers=workers: workers)
        for k, model in kmeans_sweep(X, ks, n_init=4).items():
            assert_same(model, wanted[k])
    for k, model in kmeans_sweep(X.astype(np.float64), ks, n_init=4).items():
        assert_same(model, wanted[k])
    seen = []
    monkeypatch.setattr(kmeans.HostFitter, "room", lambda *_: seen.append(1) or 1)
    monkeypatch.setattr(kmeans_seeds, "seeding_bytes", lambda n, d, ks, n_init, _: 0 if len(ks) == 1 else 2**60)
    for k, model in kmeans_sweep(X, ks, n_init=4).items():
        assert_same(model, wanted[k])
    assert len(seen) == 12


def test_budget_decides_how_many_models_run_together() -> None:
    fitter = kmeans.HostFitter(SimpleNamespace(X=np.empty((10**5, 150), np.float32)))
    few, many = (fitter.room([3] * 10 + [15] * 10, 2, MemoryBudget(resident_bytes() + size)) for size in (2**24, 2**33))
    assert 1 <= few < 20
    assert many == 20


def test_memory_that_cannot_hold_one_model() -> None:
    with pytest.raises(MemoryBudgetError, match=r"KMeans.* needs .* memory budget of 100 KiB"):
        kmeans_sweep(make("uniform"), [2], memory="100KiB")


@pytest.mark.parametrize("name", ["uniform", "heavy tails", "duplicates"])
def test_work_left_out_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X = make(name)
    lazy = kmeans_sweep(X, [2, 6, 11], n_init=3, tol=0)
    place = kmeans.HostModels.place

    def place_and_open(self: kmeans.HostModels, models: np.ndarray, new: np.ndarray) -> None:
        place(self, models, new)
        if hasattr(self, "until"):
            self.until[:] = -1  # every row is looked at again

    monkeypatch.setattr(kmeans.HostModels, "place", place_and_open)
    for k, model in kmeans_sweep(X, [2, 6, 11], n_init=3, tol=0).items():
        assert_same(model, lazy[k])


def test_sums_forget_rows_that_left() -> None:
    X = np.array([[1e17], [1.1], [2.3], [4.7], [1.6e17]])
    model = KMeans(2, init=[[3e16], [2e17]], tol=0).fit(X)  # the first row starts among the small ones, then leaves
    assert model.labels_.tolist() == [1, 0, 0, 0, 1]
    np.testing.assert_allclose(model.cluster_centers_, [[2.7], [1.3e17]], rtol=1e-15)


def test_starts_have_streams_of_their_own() -> None:
    X = make("uniform")
    first = [[stream.random() for stream in kmeans_seeds.generators(0, n)] for n in (3, 5)]
    assert first[0] == first[1][:3]
    assert len(set(first[1])) == 5
    inertias = [KMeans(6, n_init=n, random_state=4).fit(X).inertia_ for n in (1, 2, 5, 20)]
    assert inertias == sorted(inertias, reverse=True)  # more starts only add
    assert len({KMeans(6, random_state=seed).fit(X).inertia_ for seed in range(6)}) > 1
    state = np.random.RandomState(0)
    assert KMeans(6, random_state=state).fit(X).inertia_ != KMeans(6, random_state=state).fit(X).inertia_
    again = [KMeans(6, random_state=np.random.RandomState(0)).fit(X) for _ in range(2)]
    assert_same(*again)


def test_not_worse_than_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    scales = np.geomspace(1, 0.1, 20)
    centres = rng.normal(size=(12, 20)) * 4 * scales
    tangled = rng.standard_t(4, (2000, 20)) * scales + centres[rng.integers(0, 12, 2000)]
    ratios = []
    with threadpool_limits(1):  # small fits: threads only wait for each other
        for X in (tangled, make("blobs"), make("heavy tails"), make("fine lattice")):
            for seed in range(2):
                for k, model in kmeans_sweep(X, range(2, 16), n_init=10, random_state=seed).items():
                    ratios.append(model.inertia_ / Reference(k, n_init=10, random_state=seed).fit(X).inertia_)
    assert np.mean(ratios) <= 1
    assert np.mean(np.array(ratios) > 1.001) <= 0.1  # rows without clusters have many minima: some luck is left


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e148])
def test_values_at_the_ends_of_float64(scale: float) -> None:
    X = scale * make("blobs")
    model = KMeans(3, random_state=0).fit(X)
    assert np.isfinite(model.cluster_centers_).all()
    with pytest.raises(InputError, match="values reach 1e\\+304, whose squares overflow"):
        KMeans(3).fit(np.full((2000, 3), 1e304))


def test_many_equal_costs_of_merging_take_no_longer() -> None:
    """Every pair of rows costs the same to merge; looked at anew after each merge, this would take a minute."""
    models = kmeans_sweep(np.eye(1000, dtype=np.float32), [500], n_init=1)
    assert models[500].inertia_ == pytest.approx(500, rel=0.01)


def sum_of_squares(points: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> float:
    """Return the weighted sum of squared distances to the means of clusters."""
    total = 0.0
    for j in np.unique(labels):
        mine = labels == j
        mean = np.average(points[mine], axis=0, weights=weights[mine])
        total += (weights[mine] * ((points[mine] - mean) ** 2).sum(axis=1)).sum()
    return total


@pytest.mark.parametrize("k", [1, 2, 5, 23, 24])
def test_prototypes_merge_as_ward_says(rng: np.random.Generator, k: int) -> None:
    points, weights = rng.normal(size=(24, 3)), rng.integers(1, 5, 24)
    labels = kmeans_merge._ward(points, weights.astype(float), k)
    each = np.repeat(np.arange(24), weights)  # scipy knows no weights: equal points merge first
    oracle = fcluster(linkage(points[each], "ward"), k, "maxclust")
    assert adjusted_rand_score(labels[each], oracle) == 1
    assert sorted(set(labels)) == list(range(k))


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("lattice", [False, True])
def test_no_single_move_of_a_prototype_is_left(rng: np.random.Generator, k: int, lattice: bool) -> None:
    points = rng.integers(0, 3, (40, 2)).astype(float) if lattice else rng.normal(size=(40, 5))
    weights = rng.integers(1, 100, 40).astype(float)
    labels = kmeans_merge.merge(points, weights, k)
    reached = sum_of_squares(points, weights, labels)
    assert reached <= sum_of_squares(points, weights, kmeans_merge._ward(points, weights, k)) * (1 + 1e-12)
    assert len(set(labels)) == k
    for i in range(40):
        for j in range(k):
            other = labels.copy()
            other[i] = j
            if len(set(other)) == k:
                assert sum_of_squares(points, weights, other) >= reached * (1 - 1e-9)


def test_initial_centres_are_means_of_rows() -> None:
    X = make("blobs").astype(np.float32)
    with kmeans.threads(2) as share:
        data = Matrix.of(X, share)
        starts = kmeans_seeds.plus_plus(data, [1, 3, 40], kmeans_seeds.generators(0, 18), share)
    assert {k: centres.shape for k, centres in starts.items()} == {k: (18, k, X.shape[1]) for k in (1, 3, 40)}
    np.testing.assert_allclose(starts[1], np.broadcast_to(X.mean(axis=0, dtype=float), starts[1].shape), rtol=1e-9)
    fits = [Reference(40, init=centres, n_init=1).fit(X).n_iter_ for centres in starts[40]]
    assert np.mean(fits) < np.mean([Reference(40, n_init=1, random_state=s).fit(X).n_iter_ for s in range(18)])


@parametrize_with_checks([KMeans()])
def test_is_a_scikit_learn_estimator(estimator: KMeans, check: Callable[[KMeans], None]) -> None:
    check(estimator)


def test_methods_agree_with_scikit_learn() -> None:
    import pandas as pd

    X = make("blobs")
    theirs = Reference(5, init=X[:5], n_init=1).fit(X)
    ours = KMeans(5, init=X[:5])
    np.testing.assert_allclose(ours.fit_transform(X), theirs.transform(X), rtol=1e-9)
    np.testing.assert_array_equal(ours.fit_predict(X), ours.labels_)
    assert ours.score(X[:50]) == pytest.approx(theirs.score(X[:50]))
    assert ours.get_feature_names_out().tolist() == [f"kmeans{i}" for i in range(5)]
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(20)])
    assert list(kmeans_sweep(frame, [2, 3], n_init=1)[3].feature_names_in_) == list(frame.columns)


BAD: list[tuple[dict[str, object], str]] = [
    ({"n_clusters": [3, 0]}, "n_clusters is 0; allowed: a whole number of at least 1"),
    ({"n_clusters": [2.5]}, "n_clusters is 2.5; allowed"),
    ({"n_clusters": 3}, r"n_clusters is 3; allowed: a list"),
    ({"n_clusters": []}, "n_clusters is empty"),
    ({"n_clusters": [701]}, "n_samples=700 should be >= n_clusters=701"),
    ({"n_init": 0}, "n_init is 0; allowed"),
    ({"n_init": "many"}, "n_init is 'many', which is not supported; allowed: 'auto'"),
    ({"max_iter": 0}, "max_iter is 0; allowed"),
    ({"tol": -1.0}, "tol is -1.0; allowed"),
    ({"tol": np.nan}, "tol is nan; allowed"),
    ({"random_state": -1}, "random_state is -1; allowed"),
    ({"init": "pca"}, r"init is 'pca', which is not supported; allowed: 'k-means\+\+', 'random'"),
    ({"init": len}, r"init is <built-in function len>, which is not supported; allowed"),
    ({"init": np.zeros((2, 3))}, r"init has shape \(2, 3\); allowed: .* \(2, 20\)"),
    ({"memory": "lots"}, "memory 'lots' is not a size"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_parameters(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kmeans_sweep(make("blobs"), **({"n_clusters": [2], "n_init": 1} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "elkan"}, "algorithm is 'elkan', which is not supported; allowed: 'lloyd'"),
        ({"copy_x": "no"}, "copy_x is 'no', which is not supported; allowed: True, False"),
        ({"verbose": 2}, "verbose is 2, which is not supported; allowed: 0"),
    ],
)
def test_parameters_that_are_not_supported(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        KMeans(2, **options).fit(make("blobs"))


def test_arguments_that_are_not_supported() -> None:
    X = make("blobs")
    with pytest.raises(InputError, match="fit got sample_weight"):
        KMeans(2).fit(X, sample_weight=np.ones(len(X)))
    with pytest.raises(InputError, match="score got sample_weight"):
        KMeans(2).fit(X, sample_weight=None).score(X, sample_weight=np.ones(len(X)))


def test_data_that_cannot_be_used() -> None:
    X = make("blobs")
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        kmeans_sweep(X, [2])
    with pytest.raises(ValueError, match="Expected 2D array"):
        kmeans_sweep(np.arange(4.0), [2])
    with pytest.raises(ValueError, match="features"):
        KMeans(2).fit(make("blobs")).predict(np.zeros((3, 2)))
    with pytest.raises(InputError, match="whose squares overflow float64"):
        kmeans_sweep([[1e200], [0.0], [3.0]], [2])
    with pytest.warns(RuntimeWarning, match="one start instead of n_init=3"):
        KMeans(2, init=make("blobs")[:2], n_init=3).fit(make("blobs"))


def test_input_is_not_changed() -> None:
    X = make("offset").astype(np.float32)
    before = X.copy()
    for copy_x in (True, False):
        KMeans(4, copy_x=copy_x).fit(X).predict(X)
    np.testing.assert_array_equal(X, before)


def test_float32_bounds_hold(rng: np.random.Generator) -> None:
    """What a product may be off by, against the same in float64: on values that round badly, and of many lengths."""
    for d in (1, 16, 150, 700):
        X = rng.standard_t(2, (500, d)) + 1 / 3
        centres = rng.standard_t(1.5, (40, d)) * np.geomspace(1e-6, 1e3, 40)[:, None]
        with kmeans.threads(1) as share:
            data = Matrix.of(X, share)
            models = kmeans.HostModels(data, [centres])
        z, c = (X - data.mean) * data.scale, (centres - data.mean) * data.scale
        true = (c.astype(np.longdouble) ** 2).sum(axis=1) - 2 * (z.astype(np.longdouble) @ c.T.astype(np.longdouble))
        found = models.base + data.Z @ models.doubled.T - data.length[:, None] * models.slope
        assert (found <= true).all()
        assert (found + 2 * (data.length[:, None].astype(float) * models.slope + models.offset) >= true).all()


def test_assignment_of_a_row_does_not_depend_on_the_rows_beside_it(rng: np.random.Generator) -> None:
    X = np.concatenate([make("fine lattice"), make("fine lattice") + 1 / 128])
    centres = X[rng.choice(len(X), 30)] + rng.integers(-1, 2, (30, 9)) / 64  # many ties
    whole = kmeans.assign(X, centres).labels
    order = rng.permutation(len(X))
    np.testing.assert_array_equal(kmeans.assign(np.ascontiguousarray(X[order]), centres).labels, whole[order])
    for size in (1, 7, 1000):
        parts = [kmeans.assign(X[i : i + size], centres).labels for i in range(0, 2 * size + 1, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[: 3 * size][: sum(map(len, parts))])


def test_block_of_rows_is_not_the_data(rng: np.random.Generator) -> None:
    """More rows than a block, the last one short: sums, seeds and labels run over all of it."""
    X = rng.normal(size=(2 * kmeans_kernels.BLOCK + 5, 3))
    model = KMeans(4, random_state=0, tol=0).fit(X)
    assert_nearest(X, model, model.labels_)
    for j in range(4):
        np.testing.assert_allclose(model.cluster_centers_[j], X[model.labels_ == j].mean(axis=0), rtol=1e-12)
