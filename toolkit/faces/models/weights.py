"""Optional packages, the weights that ship in them, and state dicts that are given."""

from __future__ import annotations

import hashlib
import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toolkit.errors import InputError, MissingPackageError

_SHOWN = 3  # keys of each kind that differ
_UNUSED = "num_batches_tracked"  # of batch normalisation: counts the training, and old state dicts lack it


def optional(module: str, *, pip: str, what: str) -> Any:
    """Import a module of an optional package.

    Raises
    ------
    MissingPackageError
        If it, or one that it needs, is not installed or does not fit the others.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        needs = "" if missing == module else f", which needs {missing}"
        raise MissingPackageError(
            f"{what} needs the package {module}{needs}, which is missing: pip install {pip if not needs else missing}"
        ) from error
    except Exception as error:  # libraries of other versions than it was built for
        raise MissingPackageError(
            f"{what} needs the package {module}, which cannot be imported: {_one_line(error)}; install it anew: pip "
            f"install --force-reinstall {pip}"
        ) from error


def packaged_file(package: str, file: str, *, sha256: str, what: str) -> Path:
    """Find a file that ships in a package, which is not imported.

    Raises
    ------
    MissingPackageError
        Without the package.
    InputError
        If the file is missing or not the one that is known.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(f"{what} needs the package {package}, which is missing: pip install {package}")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise InputError(f"{path} is missing; install it anew: pip install --force-reinstall {package}")
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256:
        raise InputError(
            f"{path} has SHA-256 {found[:16]}..., allowed: {sha256[:16]}...; it is damaged or of another version: pip "
            f"install --force-reinstall {package}"
        )
    return path


def load_state(network: Any, path: Path, *, what: str, left_out: tuple[str, ...] = ()) -> None:
    """Put a state dict of PyTorch into a network; nothing that the file says is run.

    Parameters
    ----------
    network : torch.nn.Module
    path : Path
        A state dict, or a checkpoint with one under ``state_dict``.
    what : str
        The network, for the error.
    left_out : tuple of str
        Keys that start with one of these are not wanted, for instance of a classifier.

    Raises
    ------
    InputError
        If the file is none, or its keys or shapes are not those of the network.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged data it raises nearly anything
        raise InputError(
            f"weights {path} cannot be read as a PyTorch state dict without running code of theirs: "
            f"{_one_line(error)}; save them with torch.save(network.state_dict(), path)"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"weights {path} hold no state dict, but {type(state).__name__}; save network.state_dict()")
    given = {key: value for key, value in state.items() if not (left_out and key.startswith(left_out))}
    if differences := _differences(given, network.state_dict()):
        raise InputError(f"weights {path} are not those of {what}: {differences}; give those of this network")
    network.load_state_dict(given, strict=False)  # compared above


def _differences(given: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Say how the keys and shapes of two state dicts differ; empty if they do not."""
    missing = [key for key in wanted if key not in given and not key.endswith(_UNUSED)]
    strange = [key for key in given if key not in wanted and not key.endswith(_UNUSED)]
    shapes = [
        f"{key} is {_shape(given[key])}, not {_shape(wanted[key])}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    kinds = (("missing", missing), ("unknown", strange), ("of another shape", shapes))
    return "; ".join(f"{_few(found)} {kind}" for kind, found in kinds if found)


def _few(found: list[str]) -> str:
    return f"{', '.join(found[:_SHOWN])}{f' and {len(found) - _SHOWN:,} more' if len(found) > _SHOWN else ''}"


def _shape(tensor: Any) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
