"""LOF, GLOSH and noise radii of a forest, against scikit-learn, hdbscan, and definitions."""

from __future__ import annotations

import warnings

import hdbscan
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.neighbors import LocalOutlierFactor

from tests.hard_data import KINDS, SHAPES, data, duplicates, far_blobs, heavy_tails, lattice, normal, offset, two_scales
from toolkit.cluster.density import DensityForest
from toolkit.cluster.local_outliers import square_roots
from toolkit.errors import InputError

LARGEST = 64


def sklearn_lof(X, k):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more neighbours than rows; duplicates
        return -LocalOutlierFactor(k, algorithm="kd_tree").fit(X.astype(np.float64)).negative_outlier_factor_


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not lattice])
@pytest.mark.parametrize(("n", "d"), [shape for shape in SHAPES if shape[0] > 1])
def test_lof_is_that_of_scikit_learn(kind, n, d):
    X = data(kind, n, d)
    forest = DensityForest(LARGEST).fit(X)
    for k in (1, 4, 20, 63):
        if kind is offset and d == 1:  # whole multiples of the last bit: rows on both sides are equally far
            continue
        theirs = sklearn_lof(X, k)
        np.testing.assert_allclose(forest.local_outlier_factor(n_neighbors=k), theirs, rtol=1e-6)


def naive_lof(X, k):
    """By definition, of equally far rows equal ones first, then the lower."""
    D = cdist(X, X)
    n = len(X)
    first = np.array([np.flatnonzero((row == X).all(axis=1))[0] for row in X])
    near = [[j for j in sorted(range(n), key=lambda j: (D[i, j], first[j], j)) if j != i][:k] for i in range(n)]
    core = np.array([D[i, near[i][-1]] for i in range(n)])
    density = np.array([1 / (np.mean([max(core[j], D[i, j]) for j in near[i]]) + 1e-10) for i in range(n)])
    return np.array([density[near[i]].mean() / density[i] for i in range(n)])


@pytest.mark.parametrize("kind", [lattice, duplicates])
def test_lof_where_rows_are_equally_far(kind):
    X = data(kind, 150, 2)
    forest = DensityForest(LARGEST).fit(X)
    for k in (3, 11, 40):
        np.testing.assert_allclose(forest.local_outlier_factor(n_neighbors=k), naive_lof(X, k), rtol=1e-9)


def test_least_reachability_is_a_floor():
    X = data(normal, 200, 3)
    forest = DensityForest(LARGEST).fit(X)
    D = np.sort(cdist(X, X), axis=1)
    near = np.argsort(cdist(X, X), axis=1)[:, 1:11]
    floor = 0.8 * np.median(D[:, 10])
    reach = np.maximum(np.maximum(D[near, 10], D[:, 1:11]), floor)
    density = 1 / (reach.mean(axis=1) + 1e-10)
    expected = density[near].mean(axis=1) / density
    np.testing.assert_allclose(forest.local_outlier_factor(n_neighbors=10, least_reachability=0.8), expected, rtol=1e-9)


def test_lof_with_fewer_rows_than_neighbours():
    X = data(normal, 10, 3)
    forest = DensityForest(LARGEST).fit(X)
    np.testing.assert_allclose(forest.local_outlier_factor(n_neighbors=20), sklearn_lof(X, 20), rtol=1e-9)
    with pytest.raises(InputError, match="requires more than one sample"):
        DensityForest(2).fit(X[:1]).local_outlier_factor(n_neighbors=1)
    with pytest.raises(InputError, match="n_neighbors is 0; allowed: a whole number of at least 1"):
        forest.local_outlier_factor(n_neighbors=0)
    with pytest.raises(InputError, match="not fitted"):
        DensityForest(2).local_outlier_factor(n_neighbors=1)
    with pytest.raises(InputError, match="min_samples is 101; allowed: at most 64"):
        DensityForest(LARGEST).fit(data(normal, 150, 3)).local_outlier_factor(n_neighbors=100)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_noise_radius_is_where_dbscan_stops_calling_a_row_noise(kind, n, d):
    """To the last bit: at the radius it is in a cluster, at the next smaller number it is noise."""
    forest = DensityForest(LARGEST).fit(data(kind, n, d))
    for m in (1, 2, 5, 30):
        radius = forest.noise_radius(min_samples=m)
        if m > n:
            assert np.isinf(radius).all()
            continue
        eps = np.unique(np.concatenate([radius, np.nextafter(radius, 0.0)]))
        eps = eps[eps > 0][:: max(1, len(eps) // 40)]
        for one, labels in zip(eps, forest.dbscan_many(eps, m), strict=True):
            np.testing.assert_array_equal(labels < 0, one < radius)


def test_square_roots_are_the_smallest_that_reach():
    rng = np.random.default_rng(0)
    squared = np.concatenate([rng.random(20_000), rng.integers(0, 500, 500), 10.0 ** rng.uniform(-300, 300, 2000), [0]])
    roots = square_roots(squared)
    assert (roots * roots >= squared).all()
    below = np.nextafter(roots[roots > 0], 0.0)
    assert (below * below < squared[roots > 0]).all()
    assert square_roots(np.array([np.inf, 1e308, 0.0])).tolist() == [np.inf, 1e154, 0.0]


@pytest.mark.parametrize("kind", [normal, far_blobs, heavy_tails, two_scales, offset])
def test_glosh_is_that_of_hdbscan(kind):
    """hdbscan does not count the row itself. Where no weights tie (min_samples 2: they are distances), it is equal."""
    X = data(kind, 1000, 6).astype(np.float64)
    forest = DensityForest(LARGEST).fit(X)
    for m, size in ((2, 5), (2, 15), (16, 16), (32, 20)):
        theirs = hdbscan.HDBSCAN(min_cluster_size=size, min_samples=m - 1, approx_min_span_tree=False).fit(X)
        ours = forest.outlier_scores(min_samples=m, min_cluster_size=size)
        if m == 2:
            np.testing.assert_allclose(ours, theirs.outlier_scores_, atol=1e-9)
        else:  # edges that weigh one core distance tie; which hdbscan merges first depends on the order of the rows
            assert np.mean(np.abs(ours - theirs.outlier_scores_) < 1e-9) > 0.99
            assert spearmanr(ours, theirs.outlier_scores_)[0] > 0.999


def test_lists_on_disk_give_the_same(tmp_path):
    X = data(duplicates, 3000, 5)
    held = DensityForest([8, LARGEST]).fit(X)
    held.save(tmp_path / "forest")
    spilled = DensityForest.load(tmp_path / "forest", memory=1)
    assert spilled._lists.folder is not None
    for one in ("local_outlier_factor", "noise_radius"):
        name = {"local_outlier_factor": "n_neighbors", "noise_radius": "min_samples"}[one]
        for value in (4, 30):
            np.testing.assert_array_equal(getattr(held, one)(**{name: value}), getattr(spilled, one)(**{name: value}))
