"""Maps: the rows of a matrix in two or three dimensions, to be looked at; made once per matrix, for all labellings."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from toolkit.backend.device import choose_backend
from toolkit.descriptors.cache import digest, load_arrays, save_arrays
from toolkit.descriptors.reduce import measure, principal_components
from toolkit.errors import InputError, MissingPackageError, unknown
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from toolkit.grid.finished import FinishedRun, Model

_NEIGHBORS = 15  # umap-learn's default
_PERPLEXITY = 30.0  # scikit-learn's default
_VERSION = 1  # of what a kept map means; raise it when its computation changes
_BLOCK_ROWS = 8192
_FEW_ROWS = 1000
_LEAST_ROWS = 20  # that a map is asked to show
LIBRARY_BYTES = 600 << 20  # of what umap-learn loads and compiles


def umap_map(X: np.ndarray, n_components: int, random_state: int, *, device: str = "auto") -> np.ndarray:
    """Return a UMAP embedding (McInnes, Healy & Melville 2018), (n_rows, n_components) float32.

    Parameters
    ----------
    X : ndarray (n_rows, n_features) float32
    n_components : int
    random_state : int
    device : {"auto", "cpu", "cuda"}
        "auto" is cuML's where a GPU can be used and cuML is installed, and umap-learn's otherwise; they differ.

    Raises
    ------
    ToolkitError
        If a GPU is asked for, and it or cuML cannot be used.
    """
    n_neighbors = max(2, min(_NEIGHBORS, len(X) - 1))
    init = "spectral" if len(X) > 10 * n_components else "random"
    return _umap(device)(X, n_components=n_components, n_neighbors=n_neighbors, init=init, random_state=random_state)


def _umap(device: str) -> Callable[..., np.ndarray]:
    if choose_backend(device)[0].name == "cuda":
        from toolkit.backend.cuda import cuml

        try:
            cuml.open_cuml("cuml.manifold")
        except MissingPackageError:
            if device == "cuda":
                raise
        else:
            return cuml.umap
    return _host_umap


def _host_umap(X: np.ndarray, **options: object) -> np.ndarray:
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its numba and scikit-learn, and of the spectral start on separate clusters
        return np.asarray(umap.UMAP(n_jobs=1, **options).fit_transform(X))


def tsne_map(X: np.ndarray, n_components: int, random_state: int, *, device: str = "auto") -> np.ndarray:
    """Return a t-SNE embedding (van der Maaten & Hinton 2008; Barnes-Hut 2014), (n_rows, n_components) float32.

    Parameters as in `umap_map`; always on the processors.
    """
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, max(1.0, (len(X) - 1) / 3))
    init = "pca" if min(X.shape) >= n_components else "random"
    embedding = TSNE(n_components, perplexity=perplexity, init=init, random_state=random_state, n_jobs=n_threads())
    with threadpool_limits(1 if len(X) < _FEW_ROWS else None):  # threads would wait for each other
        return np.asarray(embedding.fit_transform(X), np.float32)


def pca_map(X: np.ndarray, n_components: int, random_state: int, *, device: str = "auto") -> np.ndarray:
    """Return the first principal components of the rows, (n_rows, n_components) float32.

    Parameters as in `umap_map`; exact, so the seed and the device change nothing. Where there are fewer features than
    components, the last ones are 0.
    """
    blocks = (X[start : start + _BLOCK_ROWS] for start in range(0, len(X), _BLOCK_ROWS))
    moments = measure(blocks, covariance=True, workers=0)
    projection = principal_components(moments, min(n_components, *X.shape))
    points = np.zeros((len(X), n_components), np.float32)
    points[:, : projection.n_features_out] = projection.apply(X)
    return points


@dataclass(frozen=True)
class _Method:
    """A way of making maps: rows above which it takes minutes; bytes (beside the row) and seconds of each, measured."""

    title: str
    make: Callable[..., np.ndarray]
    most: int
    row_bytes: int
    row_seconds: float


METHODS = {
    "umap": _Method("UMAP", umap_map, 50_000, 6000, 4.5e-4),
    "tsne": _Method("t-SNE", tsne_map, 10_000, 4000, 2.6e-3),
    "pca": _Method("PCA", pca_map, 100_000, 64, 1e-5),
}


@dataclass(frozen=True)
class Places:
    """Where rows lie on a map.

    Attributes
    ----------
    rows : ndarray (n_placed,) int64
        Of the run, ascending.
    points : ndarray (n_placed, n_components) float32
    method : str
        ``UMAP``, ``t-SNE`` or ``PCA``.
    note : str
        What was mapped, in words.
    """

    rows: np.ndarray
    points: np.ndarray
    method: str
    note: str


class Maps:
    """The maps of a run, made when they are asked for and kept in its cache.

    All show the first rows of one random order of the run's rows, so that a smaller map's rows are on every larger one.

    Parameters
    ----------
    run : FinishedRun
    most_rows : int, optional
        Rows that are mapped; None is 50,000 (UMAP), 10,000 (t-SNE), 100,000 (PCA).
    """

    def __init__(self, run: FinishedRun, most_rows: int | None = None) -> None:
        if most_rows is not None and most_rows < _LEAST_ROWS:
            raise InputError(f"map rows are {most_rows}; allowed: a whole number of at least {_LEAST_ROWS}")
        self.run, self.most_rows = run, most_rows
        self.place_in_order = np.empty(run.n_rows, np.int64)
        self.place_in_order[np.random.default_rng(run.config.seed).permutation(run.n_rows)] = np.arange(run.n_rows)

    def sample(self, rows: np.ndarray, most: int) -> np.ndarray:
        """Return the positions, ascending, of at most so many of `rows`: those that come first in the random order."""
        if len(rows) <= most:
            return np.arange(len(rows))
        return np.sort(np.argpartition(self.place_in_order[rows], most)[:most])

    def get(self, model: Model, method: str, n_components: int = 2) -> Places:
        """Return the map of a model's matrix."""
        if method not in METHODS:
            raise unknown("map", method, METHODS)
        how = METHODS[method]
        rows = self.run.reduced(model).rows
        positions = self.sample(rows, self.most_rows or how.most)
        seed = self.run.config.seed
        sample, scaler = model.cell.sample, model.cell.scaler
        key = digest(_VERSION, self.run.matrix_key(model), method, n_components, len(positions), seed)

        def make(folder: Path) -> dict[str, Any]:
            title = f"{sample.descriptor} {scaler}: {how.title} {n_components}-d of {len(positions):,} rows"
            needed = len(positions) * (how.row_bytes + 8 * self.run.reduced(model).matrix.n_features)
            self.run.memory.require(needed + (LIBRARY_BYTES if method == "umap" else 0), title)
            with self.run.reporter.track(title, 1.0):
                X = self.run.matrix(model)[positions]
                save_arrays(folder, points=how.make(X, n_components, seed, device=self.run.device).astype(np.float32))
            return {}

        folder, _ = self.run.keeper.cache.get("map", key, make)
        (points,) = load_arrays(folder, "points")
        of = f"{len(positions):,}" if len(positions) == len(rows) else f"{len(positions):,} random of {len(rows):,}"
        return Places(rows[positions], points, how.title, f"{how.title} of {of} rows, {scaler}, seed {seed}")
