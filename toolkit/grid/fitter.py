"""What a whole run and a shard of it have in common: groups of cells, reduced, scaled, fitted, scored and kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from toolkit.descriptors.keeper import DataKeeper, Reduced, Sample
from toolkit.descriptors.loader import DataLoader
from toolkit.errors import InputError
from toolkit.grid.fit import Settings, fit_and_score
from toolkit.grid.forests import Forests, forest_key
from toolkit.grid.plan import Cell, Group, check_descriptors
from toolkit.grid.predict import Cost, CostModel
from toolkit.grid.store import Store
from toolkit.grid.table import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import numpy as np

    from toolkit.backend.base import Backend
    from toolkit.config import Config
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter, Task


class Fitter:
    """Fits groups of the cells of a configuration; what is finished is kept in a folder at once.

    Parameters
    ----------
    config : Config
    out : Path
        Holds ``cache`` and ``models``, which are made if they are missing. Several processes may work in it.
    memory : MemoryBudget
    backend : Backend
        The device.
    reporter : Reporter
    strict : bool
        Make rows with NaN or inf an error.

    Attributes
    ----------
    loader : DataLoader
    store : Store
        Of the models that are finished, as this process knows them.
    fingerprints : dict of str to str
        Descriptor -> digest of its file.
    errors : dict of str to str
        Model -> why it failed here.
    n_fitted : int
        Models that this process fitted.
    reductions : dict of Sample to Reduced
        What was reduced so far.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        *,
        memory: MemoryBudget,
        backend: Backend,
        reporter: Reporter,
        strict: bool = False,
    ) -> None:
        self.config, self.out, self.memory, self.backend, self.reporter = config, out, memory, backend, reporter
        self.strict = strict
        self.loader = open_loader(config, memory)
        self.costs = CostModel(config)
        self.settings = Settings(
            engine=config.engine,
            noise=config.noise,
            silhouette_rows=config.silhouette_rows,
            seed=config.seed,
            memory=memory,
            backend=backend,
        )
        self.errors: dict[str, str] = {}
        self.n_fitted = 0
        self.reductions: dict[Sample, Reduced] = {}

    def open(self) -> None:
        """Open the folder and look at the descriptor files; before anything else is called."""
        self.keeper = DataKeeper(
            loader=self.loader,
            cache=self.out / "cache",
            strict=self.strict,
            reporter=self.reporter,
            device=self.backend,
        )
        hash_of = self.keeper.cache.fingerprint
        self.fingerprints = {name: hash_of(self.loader.open(name).path) for name in self.loader.names}
        self.forests = Forests(self.keeper.cache.folder, self.memory, self.reporter, self.backend)
        self.store = Store(self.out / "models")

    def model_id(self, cell: Cell) -> str:
        """Return the name under which the result of a cell is kept."""
        return cell.model_id(self.fingerprints[cell.sample.descriptor], self.config)

    def pending(self, cells: Iterable[Cell]) -> list[Cell]:
        """Return the cells that are not finished."""
        return [cell for cell in cells if self.model_id(cell) not in self.store.rows]

    def reduced(self, sample: Sample) -> Reduced:
        """Return a reduced descriptor; rows that are left out are said once."""
        if sample not in self.reductions:
            reduced = self.reductions[sample] = self.keeper.reduce(sample)
            if len(reduced.bad_rows):
                self.reporter.warn(
                    f"descriptor {sample.descriptor}: {len(reduced.bad_rows):,} rows hold NaN or inf and are left "
                    f"out; they are listed in {self.out / 'quarantine.csv'}"
                )
        return self.reductions[sample]

    def scaled(self, cell: Cell) -> np.ndarray:
        """Return the matrix of a cell, (n_rows, n_components) float32."""
        return self.keeper.scale(cell.sample, cell.scaler)

    def cost(self, group: Group) -> Cost:
        """Predict a group with the number of components that it turned out to have."""
        reduced = self.reduced(group.sample)
        n_columns = reduced.matrix.n_features
        known = Group(replace(group.sample, n_components=n_columns), group.scaler, group.cells)
        return self.costs.group(known, len(reduced.rows), n_columns)

    def fit(self, group: Group, task: Task, between: Callable[[], None] = lambda: None) -> None:
        """Fit and score the cells of a group; whatever is finished is kept at once, what fails is in `errors`.

        `between` is called each time that something is kept; it may end all by an exception.
        """
        what = f"{group.sample.descriptor} {group.scaler} ({len(self.reduced(group.sample).rows):,} rows)"
        cost = self.cost(group)
        self.memory.require(cost.n_bytes, what)
        X = self.keeper.scale(group.sample, group.scaler)
        key = forest_key(self.fingerprints[group.sample.descriptor], group.sample, group.scaler, self.backend)
        models = [(cell.cluster_class, dict(cell.params)) for cell in group.cells]
        of_part = cost.fits | {"scores": cost.seconds - sum(cost.fits.values())}
        batches = fit_and_score(
            models,
            X,
            self.settings,
            forest_of=lambda min_samples, advance: self.forests.get(key, X, min_samples, advance=advance),
            advance=lambda part, share: task.advance(share * of_part[part], f"{what} {part}"),
        )
        for batch in batches:
            finished, centres = {}, {}
            for position, fitted in batch.items():
                cell = group.cells[position]
                name = f"{cell.sample.descriptor} {cell.scaler} {cell.cluster_class} {dict(cell.params)}"
                if fitted.labels is None:
                    self.errors[self.model_id(cell)] = fitted.row["error"]
                    self.reporter.warn(f"{name} failed: {fitted.row['error']}")
                else:
                    row = fitted.row | {"labels": shorten(fitted.labels)}
                    finished[self.model_id(cell)] = (row, fitted.labels)
                    self.errors.pop(self.model_id(cell), None)
                    if fitted.centres is not None:
                        centres[self.model_id(cell)] = fitted.centres
            if finished:
                self.store.commit(finished, centres)
            self.n_fitted += len(finished)
            between()


def open_loader(config: Config, memory: MemoryBudget) -> DataLoader:
    """Open the descriptors of a configuration and check what it says about them, image paths included."""
    asked = config.descriptors
    loader = DataLoader(asked.names, asked.folder, asked.image_paths, memory=memory)
    check_descriptors(config, loader)
    if loader.image_paths is None and asked.image_paths is not None:
        raise InputError(f"image paths {asked.image_paths} are empty")
    return loader
