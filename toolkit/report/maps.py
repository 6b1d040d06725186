"""Maps: the rows of a matrix in two or three dimensions, to be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from toolkit.backend.device import choose_backend
from toolkit.errors import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Callable

_NEIGHBORS = 15  # umap-learn's default


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

    return np.asarray(umap.UMAP(n_jobs=1, **options).fit_transform(X))
