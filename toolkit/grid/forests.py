"""The density forests of a run: one per matrix, kept on disk for further cells of it."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from toolkit.cluster.density import DensityForest
from toolkit.descriptors.cache import digest
from toolkit.errors import InputError
from toolkit.memory import format_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from toolkit.backend.base import Backend
    from toolkit.descriptors.keeper import Sample
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

_WORTH_KEEPING = 10.0  # seconds that a forest took
_DISK_SHARE = 0.5  # of the free disk that one may take


def forest_key(fingerprint: str, sample: Sample, scaler: str, backend: Backend) -> str:
    """Return the name of a matrix's forest: everything that decides the matrix, hashed."""
    where = () if backend.name == "cpu" else (backend.name,)  # whose covariance is rounded otherwise
    return digest(fingerprint, *sample.identity(), scaler, *where)


class Forests:
    """Makes forests and keeps those that were long in the making.

    Parameters
    ----------
    folder : Path
    memory : MemoryBudget
    reporter : Reporter
    backend : Backend
    """

    def __init__(self, folder: Path, memory: MemoryBudget, reporter: Reporter, backend: Backend) -> None:
        self.folder, self.memory, self.reporter, self.backend = folder, memory, reporter, backend

    def get(
        self, key: str, X: np.ndarray, min_samples: list[int], *, advance: Callable[[float], None] = lambda _: None
    ) -> DensityForest:
        """Return a forest of X for these `min_samples`, from the disk if one is there that reaches as far."""
        path = self.folder / f"forest-{key}"
        if path.exists():
            try:
                kept = DensityForest.load(path, memory=self.memory)
            except InputError as error:
                self.reporter.warn(f"{error} (done now)")
            else:
                if (kept.n_samples, kept.n_features) == X.shape:
                    if kept.min_samples[-1] >= min_samples[-1]:
                        advance(1.0)
                        return kept
                    min_samples = sorted({*min_samples, *kept.min_samples})
                del kept
            shutil.rmtree(path, ignore_errors=True)
        start = time.monotonic()
        forest = DensityForest(min_samples, memory=self.memory, folder=self.folder, device=self.backend)
        forest.fit(X, advance=advance)
        if time.monotonic() - start >= _WORTH_KEEPING:
            free = shutil.disk_usage(self.folder).free
            if forest.n_bytes <= _DISK_SHARE * free:
                try:
                    forest.save(path)
                except (OSError, InputError) as error:  # a further stage computes it again
                    self.reporter.warn(f"{path.name} could not be kept: {' '.join(str(error).split())}")
            else:
                self.reporter.say(
                    f"{path.name} takes {format_size(forest.n_bytes)} of {format_size(free)} free disk and is not "
                    "kept; further DBSCAN or HDBSCAN models of this matrix will compute it again"
                )
        return forest
