"""PCA and scaling against scikit-learn in float64 with the full SVD."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler, StandardScaler, normalize

from toolkit.descriptors.reduce import measure, principal_components
from toolkit.descriptors.scale import SCALERS, ColumnStatistics
from toolkit.errors import InputError


def spectrum(rng, n_rows, n_features, *, offset=0.0):
    """Return rows whose variances fall by 0.7 from component to component, in random directions, around an offset."""
    directions = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
    return rng.normal(size=(n_rows, n_features)) * 0.85 ** np.arange(n_features) * 3 @ directions.T + offset


def hard(kind, rng):
    if kind == "offset 1e3":
        return spectrum(rng, 700, 20, offset=1e3)
    if kind == "heavy tails":
        return spectrum(rng, 700, 20) * np.abs(rng.standard_cauchy((700, 1)))
    if kind == "constant columns":
        X = spectrum(rng, 300, 20)
        X[:, [0, 7]] = 1234.567
        return X
    if kind == "duplicates":
        return np.repeat(spectrum(rng, 30, 20), 20, axis=0)
    if kind == "fewer rows than columns":
        return spectrum(rng, 12, 40)
    if kind == "sorted":
        X = spectrum(rng, 700, 20)
        X[:, 0] += np.arange(700)
        return X
    return spectrum(rng, 700, 20)


KINDS = ["plain", "offset 1e3", "heavy tails", "constant columns", "duplicates", "fewer rows than columns", "sorted"]


def blocks(X, size):
    return (X[i : i + size] for i in range(0, len(X), size))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_components_are_those_of_the_full_svd(rng, kind, dtype):
    X = hard(kind, rng).astype(dtype)
    oracle = PCA(8, svd_solver="full").fit(X.astype(np.float64))
    found = principal_components(measure(blocks(X, 100), covariance=True, workers=2), 8)
    np.testing.assert_allclose(found.explained_variance, oracle.explained_variance_, rtol=1e-7)
    np.testing.assert_allclose(found.explained_variance_ratio, oracle.explained_variance_ratio_, rtol=1e-7)
    np.testing.assert_allclose(found.components, oracle.components_, atol=1e-6)  # signs included
    expected = oracle.transform(X.astype(np.float64))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.apply(X), expected, atol=(3e-7 if dtype == np.float64 else 3e-6) * scale)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["plain", "constant columns", "duplicates"])
def test_share_of_variance_is_exceeded_as_in_scikit_learn(rng, kind, share):
    X = hard(kind, rng)
    expected = PCA(share, svd_solver="full").fit(X).n_components_
    found = principal_components(measure(blocks(X, 64), covariance=True, workers=1), share)
    assert len(found.components) == expected
    assert found.explained_variance_ratio.sum() > share


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_change_no_bit(rng, workers):
    X = spectrum(rng, 1000, 30).astype(np.float32)
    one = measure(blocks(X, 128), covariance=True, workers=1)
    other = measure(blocks(X, 128), covariance=True, workers=workers)
    np.testing.assert_array_equal(one.covariance, other.covariance)
    np.testing.assert_array_equal(one.mean, other.mean)


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_chunked_equals_unchunked(rng, kind, size):
    X = hard(kind, rng)
    whole = measure(iter([X]), covariance=True, workers=1)
    found = measure(blocks(X, size), covariance=True, workers=2)
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(found.covariance, whole.covariance, atol=1e-12 * np.abs(whole.covariance).max())


@pytest.mark.parametrize("dtype", ["u1", "i4", "f2", ">f8", "?"])
def test_other_dtypes(rng, dtype):
    X = (rng.normal(size=(200, 6)) * 40 + 60).clip(0, 255).astype(dtype) if dtype != "?" else rng.random((200, 6)) > 0.5
    oracle = PCA(3, svd_solver="full").fit(X.astype(np.float64))
    found = principal_components(measure(blocks(X, 33), covariance=True, workers=1), 3)
    np.testing.assert_allclose(found.explained_variance, oracle.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(found.apply(X), oracle.transform(X.astype(np.float64)), atol=2e-4)


def test_rows_that_are_not_finite_are_left_out(rng):
    X = spectrum(rng, 400, 10)
    bad = [0, 1, 50, 51, 399]
    X[bad, [0, 3, 9, 0, 5]] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    found = measure(blocks(X, 50), covariance=True, workers=2)
    assert found.bad_rows.tolist() == bad
    assert found.n_rows == 395
    np.testing.assert_allclose(found.covariance, np.cov(np.delete(X, bad, axis=0).T), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("first", [np.nan, 0.0])
def test_a_first_block_that_is_not_like_the_others(rng, first):
    X = spectrum(rng, 600, 10, offset=1e6)
    X[:99] = np.nan
    X[99] = first
    found = principal_components(measure(blocks(X, 100), covariance=True, workers=1), 5)
    good = X[~np.isnan(X).any(axis=1)]
    expected = PCA(5, svd_solver="full").fit(good - good.mean(axis=0))
    np.testing.assert_allclose(found.explained_variance, expected.explained_variance_, rtol=1e-5)


def test_rank_deficient_components_are_zero_not_noise(rng):
    X = np.repeat(rng.normal(size=(100, 3)), 4, axis=1).astype(np.float32)
    found = principal_components(measure(blocks(X, 30), covariance=True, workers=1), 8)
    projected = found.apply(X)
    assert (np.linalg.norm(found.components, axis=1).round(6) == [1, 1, 1, 0, 0, 0, 0, 0]).all()
    assert not projected[:, 3:].any()
    assert not SCALERS["std"](ColumnStatistics.of(projected))(projected)[:, 3:].any()


@pytest.mark.parametrize(
    ("X", "n_components", "message"),
    [
        (np.full((9, 3), 7.3), 2, "all 9 rows are the same"),
        (np.ones((1, 3)), 1, "all 1 rows are the same"),
        (np.full((9, 3), np.nan), 2, "all 9 rows hold NaN"),
        (np.eye(5) * 1e200, 2, "overflow"),
        (np.eye(5), 6, "allowed: 1 to 5"),
        (np.eye(5)[:, :3], 4, "allowed: 1 to 3"),
    ],
)
def test_what_cannot_be_reduced(X, n_components, message):
    with pytest.raises(InputError, match=message):
        principal_components(measure(blocks(X, 4), covariance=True, workers=1), n_components)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaler", SCALERS)
def test_scalers_are_scikit_learns(rng, kind, scaler):
    X = hard(kind, rng)
    X[:, 5] = X[0, 5]
    oracle = {
        "norm": lambda X: MinMaxScaler().fit_transform(X),
        "std": lambda X: StandardScaler().fit_transform(X),
        "l2": normalize,
        "none": lambda X: X,
    }[scaler]
    statistics = ColumnStatistics.of(X[:1])
    for start in range(1, len(X), 13):
        statistics = statistics.merge(ColumnStatistics.of(X[start : start + 13]))
    expected = oracle(X)
    np.testing.assert_allclose(SCALERS[scaler](statistics)(X), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_unit_rows_leave_zero_rows_alone():
    X = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(SCALERS["l2"](ColumnStatistics.of(X))(X), [[0.6, 0.8], [0, 0]])
