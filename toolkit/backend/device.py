"""Which device a run uses, and why."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from toolkit.backend.cpu import CpuBackend
from toolkit.errors import InputError, ToolkitError, unknown
from toolkit.memory import parse_size

if TYPE_CHECKING:
    from toolkit.backend.base import Backend

DEVICES = ("auto", "cpu", "cuda")
_DRIVERS = ("libcuda.so.1", "nvcuda.dll")


def get_backend(device: str | Backend, memory: str | int | None = None) -> Backend:
    """Return the backend of a device.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"} or Backend
        "auto" is a GPU where one can be used, and the CPU otherwise; a backend is returned as it is.
    memory : str, int or None
        Bytes of the GPU that may be taken; None is what is free.

    Raises
    ------
    InputError
        For another name.
    ToolkitError
        If a GPU is asked for and cannot be used: the CPU never stands in silently.
    """
    return choose_backend(device, memory=memory)[0] if isinstance(device, str) else device


def choose_backend(device: str, *, engine: str = "shared", memory: str | int | None = None) -> tuple[Backend, str]:
    """Return the backend of a device, see `get_backend`, and the reason for it, for the record of a run.

    Parameters
    ----------
    device, memory
        As in `get_backend`.
    engine : str
        The engine that will fit the models: ``"reference"`` runs on the CPU only, ``"cuml"`` on a GPU only.
    """
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    if engine == "cuml":
        from toolkit.backend.cuda import CudaBackend
        from toolkit.backend.cuda.cuml import limit_memory, open_cuml

        if device == "cpu":
            raise InputError("--device cpu: engine 'cuml' runs on a GPU only; use --device auto or cuda")
        backend = CudaBackend(memory=memory)
        open_cuml()
        if memory is not None:
            limit_memory(parse_size(str(memory)))
        return backend, "engine 'cuml' runs on a GPU only"
    if device == "cpu":
        return CpuBackend(), "asked for"
    if engine != "shared":
        if device == "cuda":
            raise InputError(f"--device cuda: engine {engine!r} runs on the CPU only; use --device auto or cpu")
        return CpuBackend(), f"auto: engine {engine!r} runs on the CPU"
    if device == "auto" and not _has_driver():  # without importing torch, which takes seconds
        return CpuBackend(), "auto: no NVIDIA driver"
    from toolkit.backend.cuda import CudaBackend

    try:
        return CudaBackend(memory=memory), "asked for" if device == "cuda" else "auto: a GPU can be used"
    except ToolkitError as error:
        if device == "cuda":
            raise
        return CpuBackend(), f"auto: {str(error).removeprefix('--device cuda').lstrip(': ')}"


def _has_driver() -> bool:
    for name in _DRIVERS:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False
