"""Which device a run uses, and why."""

from __future__ import annotations

from toolkit.errors import InputError, unknown

DEVICES = ("auto", "cpu", "cuda")


def choose_device(asked: str, engine: str) -> dict[str, str]:
    """Return the device and the reason for it.

    Parameters
    ----------
    asked : {"auto", "cpu", "cuda"}
    engine : str
        The engine that will fit the models.

    Raises
    ------
    InputError
        If a GPU is asked for and the engine has no use for one: the CPU never stands in silently.
    """
    if asked not in DEVICES:
        raise unknown("device", asked, DEVICES)
    if asked == "cuda":
        raise InputError(f"--device cuda: engine {engine!r} runs on the CPU only; use --device auto or cpu")
    reason = "asked for" if asked == "cpu" else f"auto: engine {engine!r} runs on the CPU"
    return {"name": "cpu", "reason": reason}
