"""Which device a run uses, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.backend.cpu import CpuBackend
from toolkit.errors import ToolkitError, unknown

if TYPE_CHECKING:
    from toolkit.backend.base import Backend

DEVICES = ("auto", "cpu", "cuda")


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
    return choose_backend(device, memory)[0]


def choose_backend(device: str | Backend, memory: str | int | None = None) -> tuple[Backend, str]:
    """Return the backend of a device, see `get_backend`, and the reason for it, for the record of a run."""
    if not isinstance(device, str):
        return device, "asked for"
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    if device == "cpu":
        return CpuBackend(), "asked for"
    from toolkit.backend.cuda import CudaBackend

    try:
        return CudaBackend(memory=memory), "asked for" if device == "cuda" else "auto: a GPU can be used"
    except ToolkitError as error:
        if device == "cuda":
            raise
        reason = str(error).removeprefix("--device cuda: ").removeprefix("--device cuda ")
        return CpuBackend(), f"auto: no GPU ({reason})"
