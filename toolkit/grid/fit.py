"""Fit and score one model; whatever goes wrong with it is its own row's error."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.cluster.reference import fit_labels
from toolkit.score.partition import DISTANCE_BYTES, score_labels

if TYPE_CHECKING:
    import numpy as np

    from toolkit.memory import MemoryBudget

_FACTS = {"exactness": "exact", "precision": "float32", "tie_rule": "scikit-learn", "device": "cpu"}


@dataclass(frozen=True)
class Settings:
    """What all models of a grid are fitted and scored with; see `Config` for the meanings."""

    engine: str
    noise: str
    silhouette_rows: int
    seed: int
    memory: MemoryBudget


@dataclass(frozen=True)
class Fitted:
    """A model.

    Attributes
    ----------
    row : dict
        Scores and facts, under the names of the score tables' columns; only ``error`` if the fit failed.
    labels : ndarray (n_rows,) int or None
    """

    row: dict[str, Any]
    labels: np.ndarray | None


def fit_and_score(cluster_class: str, params: dict[str, Any], X: np.ndarray, settings: Settings) -> Fitted:
    """Fit one model to X, (n_rows, n_components) float32, and score its labels."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            labels = fit_labels(cluster_class, params, X, seed=settings.seed, memory=settings.memory)
            fitted = time.perf_counter()
            row = score_labels(
                X,
                labels,
                noise=settings.noise,
                silhouette_rows=settings.silhouette_rows,
                seed=settings.seed,
                max_bytes=max(1 << 20, min(DISTANCE_BYTES, settings.memory.free // 4)),
            )
        except OSError:
            raise  # the disk, not the model
        except Exception as error:  # a library's bug in one cell must not cost the others
            return Fitted({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}, None)
    row |= {"n_rows": len(X), "n_components": X.shape[1], "engine": settings.engine} | _FACTS
    row["warning"] = "; ".join(sorted({" ".join(str(warning.message).split()) for warning in caught})) or None
    row |= {"fit_seconds": round(fitted - start, 6), "score_seconds": round(time.perf_counter() - fitted, 6)}
    return Fitted(row, labels)
