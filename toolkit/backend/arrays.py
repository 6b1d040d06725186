"""Hand a NumPy matrix to the array library that the caller works with, and take what comes from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit.errors import MissingPackageError, ToolkitError, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


def _to_cupy(matrix: np.ndarray) -> Any:
    try:
        import cupy
    except ImportError as error:
        raise MissingPackageError(
            "dtype 'cupy' needs the package cupy, which is missing: pip install cupy-cuda13x, or use dtype='numpy'"
        ) from error
    try:
        return cupy.asarray(matrix)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise ToolkitError(f"dtype 'cupy' needs a usable GPU ({error}); use dtype='numpy'") from error


def _to_torch(matrix: np.ndarray) -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(
            "dtype 'torch' needs the package torch, which is missing: pip install torch, or use dtype='numpy'"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.from_numpy(matrix).to(device)


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda matrix: matrix,
    "cupy": _to_cupy,
    "torch": _to_torch,
}


def to_array(matrix: np.ndarray, dtype: str) -> Any:
    """Return `matrix` as a NumPy, CuPy or torch array (torch: on the GPU where there is one).

    Parameters
    ----------
    matrix : ndarray
        Any shape; shared without a copy where the library allows it.
    dtype : {"numpy", "cupy", "torch"}
        The array library.
    """
    if dtype not in ARRAYS:
        raise unknown("dtype", dtype, ARRAYS)
    return ARRAYS[dtype](matrix)


def from_array(given: Any) -> tuple[Any, str]:
    """Return what NumPy can take of an array of any library, and the device it was on: ``"cpu"`` or ``"cuda"``.

    Parameters
    ----------
    given : NumPy, CuPy or torch array, or whatever ``numpy.asarray`` takes
        A GPU's array is copied to the host; no other one is.
    """
    if type(given).__module__.split(".")[0] == "torch":
        return given.detach().cpu().numpy(), "cuda" if given.is_cuda else "cpu"
    if hasattr(given, "__cuda_array_interface__"):
        return given.get(), "cuda"
    return given, "cpu"
