"""The engine ``cuml``: every cell of a grid fitted alone by RAPIDS cuML, to compare with.

cuML computes in float32. Its DBSCAN counts the row itself in `min_samples`, as scikit-learn does; its HDBSCAN does not,
and its spanning tree is not certified.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.cluster.labelling import Labelling
from toolkit.errors import DeviceError, InputError, MissingPackageError

if TYPE_CHECKING:
    from toolkit.memory import MemoryBudget

_NEEDED_BY = {"cuml.cluster": "engine 'cuml'", "cuml.manifold": "a map with device 'cuda'"}
_INSTEAD_OF = {"cuml.cluster": "engine: shared", "cuml.manifold": "device 'cpu'"}
FACTS = {
    "KMeans": {"exactness": "cuML's", "precision": "float32", "tie_rule": "cuML's"},
    "DBSCAN": {"exactness": "cuML's", "precision": "float32", "tie_rule": "cuML's"},
    "HDBSCAN": {"exactness": "approximate: spanning tree not certified", "precision": "float32", "tie_rule": "cuML's"},
}


def open_cuml(name: str = "cuml.cluster") -> Any:
    """Return a module of cuML.

    Raises
    ------
    MissingPackageError, DeviceError
        If it is not installed, or does not load.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{_NEEDED_BY[name]} needs the package {error.name}, which is missing: install RAPIDS cuML "
            f"(environment.yml), or use {_INSTEAD_OF[name]}"
        ) from error
    except Exception as error:  # libraries of another CUDA version, no card
        reason = " ".join(str(error).split())
        raise DeviceError(
            f"{_NEEDED_BY[name]}: cuML does not load ({type(error).__name__}: {reason:.300}); repair the installation "
            f"(environment.yml), or use {_INSTEAD_OF[name]}"
        ) from error


def limit_memory(n_bytes: int) -> None:
    """Let cuML, through RMM, take at most so many bytes of the card."""
    try:
        import rmm.mr
    except ImportError:
        return  # cuML does not load without it, and says so
    below = rmm.mr.get_current_device_resource()
    rmm.mr.set_current_device_resource(rmm.mr.LimitingResourceAdaptor(below, allocation_limit=n_bytes))


def umap(X: np.ndarray, **options: Any) -> np.ndarray:
    """Return cuML's UMAP embedding, (n_rows, n_components) float32; see `toolkit.report.maps`."""
    estimator = open_cuml("cuml.manifold").UMAP(**options, output_type="numpy")
    return np.asarray(estimator.fit_transform(np.ascontiguousarray(X, np.float32)))


def fit_model(
    cluster_class: str,
    params: dict[str, Any],
    X: np.ndarray,
    *,
    seed: int,
    memory: MemoryBudget,
) -> Labelling:
    """Fit one model; see `toolkit.cluster.reference.fit_model`."""
    given: dict[str, Any] = {name: value for name, value in params.items() if value is not None}
    if cluster_class == "KMeans":
        given = {"n_init": 10, "init": "k-means++"} | given | {"random_state": seed}
    if cluster_class == "HDBSCAN":
        min_samples = given["min_samples"] if "min_samples" in given else given["min_cluster_size"]
        if min_samples < 2:
            raise InputError(
                f"min_samples is {min_samples}; allowed with engine 'cuml': at least 2, the row itself counted"
            )
        given = given | {"min_samples": min_samples - 1}
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # cuML takes memory by itself: what torch only keeps is in its way
    estimator = getattr(open_cuml(), cluster_class)(**given, output_type="numpy")
    fitted = estimator.fit(np.ascontiguousarray(X, np.float32))
    centres = np.asarray(fitted.cluster_centers_, np.float64) if cluster_class == "KMeans" else None
    return Labelling(np.asarray(fitted.labels_).astype(np.int64), centres)
