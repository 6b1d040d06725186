"""Inputs that several tests share."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.memory import MemoryBudget, resident_bytes


@pytest.fixture
def memory() -> MemoryBudget:
    return MemoryBudget(resident_bytes() + (4 << 30))  # whatever earlier tests have left in memory


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_26)


@pytest.fixture
def blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """600 rows in 4 well separated clusters of 12 features, float32, and the cluster of each row."""
    truth = rng.integers(0, 4, 600)
    centres = rng.normal(size=(4, 12)) * 8
    return (centres[truth] + rng.normal(size=(600, 12))).astype(np.float32), truth
