"""DataKeeper: the reduced and scaled matrix of a descriptor, computed once and kept while it is in use."""

from __future__ import annotations

import secrets
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backend.arrays import to_array
from toolkit.backend.cpu import ordered_map
from toolkit.backend.device import get_backend
from toolkit.descriptors.cache import Cache, digest, load_arrays, save_arrays, write_npy_header
from toolkit.descriptors.formats import RawFile, open_npy
from toolkit.descriptors.loader import DataLoader
from toolkit.descriptors.reduce import (
    Moments,
    Projection,
    check_components,
    measure,
    principal_components,
    working_dtype,
)
from toolkit.descriptors.scale import SCALERS, ColumnStatistics
from toolkit.errors import InputError, unknown
from toolkit.memory import n_threads
from toolkit.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.backend.base import Backend
    from toolkit.memory import MemoryBudget

_BLOCK_VALUES = 3 << 20  # float64: 24 MiB, enough for BLAS and below what malloc gives back to the system
_SCALED_VALUES = 1 << 19  # of a block that is scaled
_ALL_EXPLAINED = 1e-9  # share of the variance; what is left out of less is rounding
_VERSION = 1  # of what the cached results mean; raise it when their computation changes


@dataclass(frozen=True)
class Sample:
    """Which rows of which descriptor, in which reduction: what a reduced matrix is computed from.

    Attributes
    ----------
    descriptor : str
    fraction : float
        Share of the rows, chosen at random by `seed`.
    seed : int
        Unused where `fraction` is 1.
    n_components : int, float or None
        As in `principal_components`.
    """

    descriptor: str
    fraction: float = 1.0
    seed: int = 0
    n_components: int | float | None = None

    def identity(self) -> list[Any]:
        """Return what decides the reduced matrix beside the file's content: the rows and the reduction."""
        return ["all" if self.fraction == 1 else [self.fraction, self.seed], self.n_components]


@dataclass(frozen=True)
class Reduced:
    """A reduced descriptor on disk.

    Attributes
    ----------
    matrix : RawFile
        (n_rows, n_components) float32; without reduction float64 where float32 does not hold the file's dtype.
    rows : ndarray (n_rows,) int64
        The row of the descriptor file that each row of the matrix is.
    bad_rows : ndarray int64
        Rows of the descriptor file that were left out because they hold NaN or inf.
    projection : Projection
    statistics : ColumnStatistics
        Of the matrix.
    """

    matrix: RawFile
    rows: np.ndarray
    bad_rows: np.ndarray
    projection: Projection
    statistics: ColumnStatistics


def block_rows(n_features: int) -> int:
    """Return how many rows of so many features are worked on at a time.

    Whatever the memory budget, so that the budget changes no bit of a sum; it decides how many blocks are in flight.
    """
    return int(np.clip(_BLOCK_VALUES // n_features, 2048, 65_536))


class DataKeeper:
    """Reduce (PCA) and scale descriptors, streaming, exactly, and never the same thing twice.

    Parameters
    ----------
    n_components_dict : dict, optional
        Descriptor -> number of components, share of variance to exceed (below 1), or None for no reduction.
    loader_verbose : bool
        Print what is done.
    loader : DataLoader, optional
        By default every descriptor in the folder ``descriptors``.
    cache : path, optional
        Folder for the results, found again by content and parameters, so also in the next process. By default a
        temporary folder that goes away with this object.
    dtype : {"numpy", "cupy", "torch"}
        The array library of what is handed out.
    strict : bool
        Make rows with NaN or inf an error, instead of leaving them out and listing them.
    reporter : Reporter, optional
        Where progress is shown; by default on standard error if `loader_verbose`.
    device : {"cpu", "cuda", "auto"} or Backend
        Where the products for the covariance are added up; on another device they are rounded otherwise.

    Attributes
    ----------
    descriptors_scaled : dict
        Scaler name -> matrix that is held in memory now.
    """

    def __init__(
        self,
        n_components_dict: dict[str, int | float | None] | None = None,
        loader_verbose: bool = False,  # noqa: FBT001, FBT002 (the signature that notebooks use)
        *,
        loader: DataLoader | None = None,
        cache: str | Path | None = None,
        dtype: str = "numpy",
        strict: bool = False,
        reporter: Reporter | None = None,
        device: str | Backend = "cpu",
    ) -> None:
        self.loader = loader or DataLoader(verbose=loader_verbose)
        self.memory = self.loader.memory
        self.n_components = {name: check_components(value) for name, value in (n_components_dict or {}).items()}
        if strangers := sorted(set(self.n_components) - set(self.loader.names)):
            raise unknown("descriptor in n_components", strangers[0], self.loader.names)
        self.dtype = dtype
        self.backend = get_backend(device)
        self.strict = strict
        self.reporter = reporter or Reporter(quiet=not loader_verbose)
        self._temporary = tempfile.TemporaryDirectory(prefix="toolkit-cache-") if cache is None else None
        self.cache = Cache(Path(self._temporary.name if self._temporary else cache), self.reporter)  # type: ignore[arg-type]
        self._held: tuple[Sample, Reduced] | None = None
        self._current: Sample | None = None
        self.descriptors_scaled: dict[str, Any] = {}

    # The grid's way in
    def reduce(self, sample: Sample) -> Reduced:
        """Return the reduced descriptor: from the cache, or computed in two streaming reads of the file.

        Raises
        ------
        InputError
            If the descriptor cannot be reduced so (see `principal_components`), or (``strict``) rows are not finite.
        """
        if self._held is not None and self._held[0] == sample:
            return self._held[1]
        self._held = None
        moments_key = self._moments_key(sample)
        key = digest(_VERSION, moments_key, sample.n_components)
        try:
            moments = self._moments(sample, moments_key)
            folder, content = self.cache.get("reduced", key, lambda to: self._reduce(to, sample, moments))
        except InputError as error:
            raise type(error)(f"descriptor {sample.descriptor}: {error}") from error
        self._held = (sample, _open_reduced(folder, content, self.memory))
        return self._held[1]

    def scale(self, sample: Sample, scaler: str) -> np.ndarray:
        """Return the reduced and scaled matrix in memory, (n_rows, n_components) float32, C order."""
        if scaler not in SCALERS:
            raise unknown("scaler", scaler, SCALERS)
        reduced = self.reduce(sample)
        source = reduced.matrix
        self.memory.require(
            4 * source.n_rows * source.n_features,
            f"{sample.descriptor} scaled ({source.n_rows:,} x {source.n_features})",
        )
        apply = SCALERS[scaler](reduced.statistics)
        matrix = np.empty((source.n_rows, source.n_features), np.float32)
        size = max(1, _SCALED_VALUES // source.n_features)

        def fill(start: int) -> None:
            stop = min(start + size, source.n_rows)
            matrix[start:stop] = apply(source.read(start, stop))

        deque(ordered_map(fill, range(0, source.n_rows, size), workers=n_threads()), maxlen=0)
        return matrix

    def residuals(self, sample: Sample) -> np.ndarray | None:
        """Return the distance of each row to its projection, (n_rows,) float64, in the units of the file.

        What the reduction leaves out (the squared prediction error of Jackson, Mudholkar 1979, before its square), from
        the cache or by another read of the file; None where it leaves nothing out.
        """
        reduced = self.reduce(sample)
        projection = reduced.projection
        left_out = 1 - float(projection.explained_variance_ratio.sum()) if len(projection.components) else 0.0
        if left_out <= _ALL_EXPLAINED:
            return None

        def make(folder: Path) -> dict[str, Any]:
            blocks, workers = self._stream(sample, extra=0, what="what the reduction leaves out")
            rows = self.loader.rows(sample.fraction, sample.seed)
            bad = reduced.bad_rows if rows is None else np.searchsorted(rows, reduced.bad_rows)
            parts = ordered_map(lambda block: _residuals(projection, block), _drop_rows(blocks, bad), workers=workers)
            save_arrays(folder, residuals=np.concatenate(list(parts)))
            return {"n_rows": len(reduced.rows)}

        key = digest(_VERSION, self._moments_key(sample), sample.n_components)
        folder, _ = self.cache.get("residuals", key, make)
        return load_arrays(folder, "residuals")[0]

    # The notebooks' way in
    def load_descriptor_PCA(  # noqa: N802 (the name that notebooks use)
        self, name: str, data_fraction: float = 1.0, random_state: int | None = 0
    ) -> Any:
        """Reduce a descriptor, or a random part of its rows, and hold it as the current one.

        Returns
        -------
        array (n_rows, n_components) float32
            In the array library of this keeper.
        """
        self.del_data()
        self._current = self.sample(name, data_fraction, random_state)
        return to_array(self.scale(self._current, "none"), self.dtype)

    def sample(self, name: str, data_fraction: float = 1.0, random_state: int | None = 0) -> Sample:
        """Return which rows of a descriptor, in this keeper's reduction, are meant; without a seed, one is drawn."""
        self.loader.open(name)
        seed = secrets.randbits(32) if random_state is None else random_state
        return Sample(name, data_fraction, seed, self.n_components.get(name))

    def get_scaled_descriptor(self, scaler: str) -> Any:
        """Return the current descriptor scaled by ``norm``, ``std``, ``l2`` or ``none``; computed at the first call."""
        if self._current is None:
            raise InputError("no descriptor is loaded; call load_descriptor_PCA(name) before")
        if scaler not in self.descriptors_scaled:
            self.descriptors_scaled[scaler] = to_array(self.scale(self._current, scaler), self.dtype)
        return self.descriptors_scaled[scaler]

    def get_norm_scaled_descriptor(self) -> Any:
        """Return the current descriptor with every column in [0, 1] (MinMaxScaler)."""
        return self.get_scaled_descriptor("norm")

    def get_std_scaled_descriptor(self) -> Any:
        """Return the current descriptor with columns of mean 0 and variance 1 (StandardScaler)."""
        return self.get_scaled_descriptor("std")

    def del_PCA(self) -> None:  # noqa: N802
        """Let go of the reduced descriptor; the scaled ones stay."""
        self._held = None

    def del_data(self) -> None:
        """Let go of everything that is held in memory."""
        self.del_PCA()
        self._current = None
        self.descriptors_scaled.clear()

    # Streaming
    def _moments_key(self, sample: Sample) -> str:
        fingerprint = self.cache.fingerprint(self.loader.open(sample.descriptor).path)
        rows, n_components = sample.identity()
        rounded_by = () if n_components is None or self.backend.name == "cpu" else (self.backend.name,)
        return digest(_VERSION, fingerprint, rows, n_components is None, *rounded_by)

    def _stream(self, sample: Sample, *, extra: int, what: str) -> tuple[Iterator[np.ndarray], int]:
        """Return the sample's raw blocks and the number of threads that the memory budget allows.

        `extra` is what each block in flight needs beside the rows themselves and their float64 copy.
        """
        file = self.loader.open(sample.descriptor)
        size = min(block_rows(file.n_features), file.n_rows)
        block_bytes = size * file.n_features * (2 * file.dtype.itemsize + 8) + extra
        self.memory.require(block_bytes + 2 * extra, f"one block of {size:,} rows for the {what}")
        in_flight = (self.memory.free - 2 * extra) // block_bytes
        rows = self.loader.rows(sample.fraction, sample.seed)
        n_rows = file.n_rows if rows is None else len(rows)
        blocks = self.reporter.watch(f"{sample.descriptor}: {what}", file.blocks(size, rows), len, n_rows)
        return blocks, max(0, min(n_threads(), in_flight - 2))

    def _moments(self, sample: Sample, key: str) -> Moments:
        def make(folder: Path) -> dict[str, Any]:
            n_features = self.loader.open(sample.descriptor).n_features
            extra = 8 * n_features**2 if sample.n_components is not None else 8 * n_features
            blocks, workers = self._stream(sample, extra=extra, what=f"{n_features} x {n_features} covariance")
            gram = None if sample.n_components is None else self.backend.gram(n_features)
            moments = measure(blocks, covariance=gram is not None, workers=workers, gram=gram)
            save_arrays(folder, mean=moments.mean, covariance=moments.covariance, bad_rows=moments.bad_rows)
            return {"n_rows": moments.n_rows}

        folder, content = self.cache.get("moments", key, make)
        mean, covariance, bad_rows = load_arrays(folder, "mean", "covariance", "bad_rows")
        if self.strict and len(bad_rows):
            raise InputError(f"{len(bad_rows):,} rows hold NaN or inf, the first is row {bad_rows[0]}")
        return Moments(content["n_rows"], mean, covariance, bad_rows)

    def _reduce(self, folder: Path, sample: Sample, moments: Moments) -> dict[str, Any]:
        """Write the projected rows and what later steps need of them into `folder`."""
        projection = principal_components(moments, sample.n_components)
        blocks, workers = self._stream(sample, extra=0, what="projection")
        shape = (moments.n_rows, projection.n_features_out)
        raw = working_dtype(self.loader.open(sample.descriptor).dtype)
        dtype = np.dtype(raw if sample.n_components is None else np.float32)
        statistics: ColumnStatistics | None = None
        with (folder / "matrix.npy").open("wb") as file:
            write_npy_header(file, shape, dtype)

            def project(block: np.ndarray) -> tuple[np.ndarray, ColumnStatistics]:
                projected = np.ascontiguousarray(projection.apply(block))
                return projected, ColumnStatistics.of(projected)

            for block, part in ordered_map(project, _drop_rows(blocks, moments.bad_rows), workers=workers):
                file.write(block.data)
                statistics = statistics.merge(part) if statistics else part
        if statistics is None or (statistics.maximum == statistics.minimum).all():
            raise InputError(f"all {moments.n_rows:,} rows are the same: there is nothing to cluster; look at the file")
        if not np.abs([statistics.minimum, statistics.maximum]).max() < np.finfo(np.float32).max:
            raise InputError("the values are too large for float32, in which models are fitted; rescale them before")
        rank = np.count_nonzero(projection.explained_variance)
        if rank < len(projection.components):
            self.reporter.warn(
                f"descriptor {sample.descriptor}: only {rank} of {len(projection.components)} components carry "
                f"variance that float32 can show beside the largest; the others are zero"
            )
        n_sampled = moments.n_rows + len(moments.bad_rows)
        rows = self.loader.rows(sample.fraction, sample.seed)
        rows = np.arange(n_sampled) if rows is None else rows
        save_arrays(
            folder,
            rows=np.delete(rows, moments.bad_rows),
            bad_rows=rows[moments.bad_rows],
            mean=projection.mean,
            components=projection.components,
            explained_variance=projection.explained_variance,
            statistics=np.stack([statistics.minimum, statistics.maximum, statistics.mean, statistics.squares]),
        )
        return {"total_variance": projection.total_variance}


def _drop_rows(blocks: Iterator[np.ndarray], positions: np.ndarray) -> Iterator[np.ndarray]:
    """Yield consecutive blocks without the rows at the given (sorted) positions; empty blocks are left out."""
    start = 0
    for block in blocks:
        inside = slice(*np.searchsorted(positions, (start, start + len(block))))
        dropped = positions[inside] - start
        start += len(block)
        if len(dropped) < len(block):
            yield np.delete(block, dropped, axis=0) if len(dropped) else block


def _residuals(projection: Projection, block: np.ndarray) -> np.ndarray:
    """Return the distance of each row to its projection: by Pythagoras, in float64."""
    centred = block - projection.mean
    projected = centred @ projection.components.T
    squared = np.einsum("ij,ij->i", centred, centred) - np.einsum("ij,ij->i", projected, projected)
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def _open_reduced(folder: Path, content: dict[str, Any], memory: MemoryBudget) -> Reduced:
    rows, bad_rows, mean, components, variance, statistics = load_arrays(
        folder, "rows", "bad_rows", "mean", "components", "explained_variance", "statistics"
    )
    return Reduced(
        matrix=open_npy(folder / "matrix.npy", memory),
        rows=rows,
        bad_rows=bad_rows,
        projection=Projection(mean, components, variance, content["total_variance"]),
        statistics=ColumnStatistics(len(rows), *statistics),
    )
