"""What detectors look at in a finished run: its rows as the PCA gives them, and what its models say of them."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from toolkit.outliers.detectors import PYOD, centre_distances, noise_shares

if TYPE_CHECKING:
    import numpy as np

    from toolkit.cluster.density import DensityForest
    from toolkit.grid.finished import FinishedRun, Model
    from toolkit.report.study import Study


class RunEvidence:
    """What a run has of a descriptor; see `toolkit.outliers.detectors.Evidence`.

    Distances are taken between rows as the PCA gives them: a scaler would blow small components up to the size of large
    ones, and noise with them. What models say is of the matrix that they were fitted on.

    Parameters
    ----------
    study : Study
    model : Model
        Of the matrix that is measured; see `Study.best_matrix`.
    """

    def __init__(self, study: Study, model: Model) -> None:
        self.study, self.run, self.model = study, study.run, model
        self.plain = plain(model)
        self.min_samples = study.min_samples(model)
        self.cells = dbscan_cells(self.run, model)
        self.partitions = [other for other in self.run.models.values() if _is_partition(other, model)]
        self.seed, self.memory = self.run.config.seed, self.run.memory
        self._forest: tuple[str, DensityForest] | None = None

    def identity(self, detector: str) -> list[Any]:
        """Return what decides a measure."""
        models = [other.id for other in self.partitions]
        keys = self.run.matrix_key(self.plain), self.run.matrix_key(self.model)
        return [*keys, self.min_samples, self.cells, sorted(models), self.seed, _package(detector)]

    @cached_property
    def X(self) -> np.ndarray:  # noqa: D102, N802
        return self.run.matrix(self.plain)

    @property
    def forest(self) -> DensityForest:  # noqa: D102
        return self._forest_of(self.plain, self.min_samples)

    @cached_property
    def noise_shares(self) -> np.ndarray | None:  # noqa: D102
        return noise_shares(self._forest_of(self.model, self._cell_values), self.cells) if self.cells else None

    @cached_property
    def _cell_values(self) -> list[int]:
        """The `min_samples` of the cells that rows can have at all; at least one."""
        n_rows = len(self.run.reduced(self.model).rows)
        return sorted({value for _, value in self.cells if value <= n_rows}) or [1]

    @cached_property
    def centre_distances(self) -> np.ndarray | None:  # noqa: D102
        fitted = [(self.run.labels(one), self.run.centres(one)) for one in self.partitions]
        kept = [(labels, centres) for labels, centres in fitted if centres is not None]
        return centre_distances(self.run.matrix(self.model), kept) if kept else None

    @cached_property
    def residuals(self) -> np.ndarray | None:  # noqa: D102
        return self.run.keeper.residuals(self.model.cell.sample)

    def _forest_of(self, model: Model, values: list[int]) -> DensityForest:
        """Return a forest of a model's matrix; one is held, for all that is asked of it."""
        key = self.run.matrix_key(model)
        if self._forest is None or self._forest[0] != key:
            self._forest = None
            if self.run.matrix_key(self.plain) == self.run.matrix_key(self.model):
                values = sorted({*self.min_samples, *self._cell_values})
            title = f"{model.cell.sample.descriptor}, scaler {model.cell.scaler}: density forest"
            with self.run.reporter.track(title, 1.0) as task:
                self._forest = key, self.run.forest(model, values, advance=task.advance)
        return self._forest[1]


def plain(model: Model) -> Model:
    """Return a model of the same rows as the PCA gives them; without PCA the model itself."""
    if model.cell.sample.n_components is None:
        return model
    return replace(model, cell=replace(model.cell, scaler="none"))


def _package(detector: str) -> str:
    """Return the version of the package that a detector is from, if it is not ours."""
    package = {"isolation_forest": "scikit-learn"}.get(detector, "pyod" if detector.startswith(PYOD) else None)
    return "" if package is None else importlib.metadata.version(package)


def space_of(run: FinishedRun, model: Model) -> str:
    """Say in which space rows were measured."""
    cell = plain(model).cell
    reduced = "as it is" if cell.sample.n_components is None else f"{run.reduced(model).matrix.n_features} components"
    return f"{reduced}, {'not scaled' if cell.scaler == 'none' else f'scaler {cell.scaler}'}"


def dbscan_cells(run: FinishedRun, model: Model) -> list[tuple[float, int]]:
    """Return eps and min_samples of every DBSCAN of a run in the model's reduction and scaling, sorted."""
    found = set()
    for other in run.models.values():
        cell, mine = other.cell, model.cell
        is_alike = (cell.sample.descriptor, cell.scaler) == (mine.sample.descriptor, mine.scaler)
        if is_alike and cell.cluster_class == "DBSCAN" and cell.sample.n_components == mine.sample.n_components:
            params = dict(cell.params)
            found.add((float(params["eps"]), int(params["min_samples"])))
    return sorted(found)


def _is_partition(other: Model, model: Model) -> bool:
    """Return whether a model is a KMeans of another's matrix."""
    same = (other.cell.sample, other.cell.scaler) == (model.cell.sample, model.cell.scaler)
    return same and other.cell.cluster_class == "KMeans"
