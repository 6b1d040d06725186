"""Data on which clustering goes wrong easily."""

from __future__ import annotations

from functools import cache

import numpy as np


def normal(rng, n, d):
    return rng.normal(size=(n, d))


def lattice(rng, n, d):
    return rng.integers(0, 4, (n, d)).astype(float)


def duplicates(rng, n, d):
    return rng.normal(size=(max(n // 7, 1), d))[rng.integers(0, max(n // 7, 1), n)]


def constant_columns(rng, n, d):
    X = rng.normal(size=(n, d))
    X[:, ::2] = 7.25
    return X


def identical(rng, n, d):
    return np.full((n, d), 3.5)


def offset(rng, n, d):
    return rng.normal(size=(n, d)) + 1000


def two_scales(rng, n, d):
    dense = rng.random(n) < 0.5
    return np.where(dense[:, None], 0.05, 1.0) * rng.normal(size=(n, d)) + 4 * dense[:, None]


def heavy_tails(rng, n, d):
    return rng.standard_t(1, (n, d))


def far_blobs(rng, n, d):
    return rng.normal(size=(n, d)) + 40 * rng.integers(0, 6, (n, 1))


KINDS = (normal, lattice, duplicates, constant_columns, identical, offset, two_scales, heavy_tails, far_blobs)
SHAPES = ((1, 3), (2, 1), (7, 2), (150, 1), (260, 3), (200, 17), (150, 150), (120, 300))


@cache
def data(kind, n, d, seed=0):
    """float32 values, so that both precisions hold the same numbers."""
    return kind(np.random.default_rng([seed, n, d]), n, d).astype(np.float32)
