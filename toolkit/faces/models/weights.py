"""Weights that are given: read without running what they say, and compared with the network."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from toolkit.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from toolkit.faces.models.keras_file import Layers

_SHOWN = 3  # keys of each kind that differ
_UNUSED = "num_batches_tracked"  # of batch normalisation: counts the training, and old state dicts lack it
_IN_KERAS = {"weight": "kernel", "bias": "bias"}
_NORMALISATION_IN_KERAS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


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

    state = read_tensors(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"weights {path} hold no state dict, but {type(state).__name__}; save network.state_dict()")
    given = {key: value for key, value in state.items() if not (left_out and key.startswith(left_out))}
    _compare(given, network.state_dict(), path, what)
    network.load_state_dict(given, strict=False)  # compared above


def read_tensors(path: Path) -> Any:
    """Read what PyTorch saved, if that is tensors and plain values; nothing that the file says is run.

    Raises
    ------
    InputError
        If it is none of that.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused anyhow
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"weights {path} cannot be read: {one_line(error)}; give another file") from error
    except Exception as error:  # on damaged data it raises nearly anything; what it says advises to run the code
        raise InputError(
            f"weights {path} is not a PyTorch file of tensors, or holds code, which is not run; save it with "
            f"torch.save(network.state_dict(), path)"
        ) from error


def load_layers(
    network: Any,
    layers: Layers,
    names: Mapping[str, str],
    *,
    path: Path,
    what: str,
    left_out: tuple[str, ...] = (),
) -> None:
    """Put the weights of a Keras file into a network of PyTorch.

    Parameters
    ----------
    network : torch.nn.Module
    layers : dict of str to dict of str to ndarray
        See `toolkit.faces.models.keras_file.read_layers`.
    names : mapping of str to str
        The layers of the file, and the modules of the network that they are: convolutions, products, normalisations.
    path : Path
        The file, for the error.
    what : str
        The network, for the error.
    left_out : tuple of str
        Layers that are not wanted, for instance a classifier.

    Raises
    ------
    InputError
        If layers, arrays or shapes are not those of the network.

    Notes
    -----
    A normalisation of the file without ``gamma`` multiplies by 1, as it does in Keras.
    """
    import torch

    given = {
        f"{layer}/{role}": array
        for layer, roles in layers.items()
        if layer not in left_out
        for role, array in roles.items()
    }
    wanted: dict[str, Any] = {}
    for layer, name in names.items():
        wanted |= _as_keras(layer, network.get_submodule(name), has_gamma="gamma" in layers.get(layer, ("gamma",)))
    _compare(given, wanted, path, what)
    for key, value in wanted.items():
        value.copy_(torch.from_numpy(given[key]))


def _as_keras(layer: str, module: Any, *, has_gamma: bool) -> dict[str, Any]:
    """Return the arrays of a module, which Keras names otherwise, and whose axes it has in another order."""
    state = module.state_dict()
    roles = _NORMALISATION_IN_KERAS if "running_mean" in state else _IN_KERAS
    found = {f"{layer}/{role}": state[name] for name, role in roles.items() if name in state}
    if not has_gamma:
        found.pop(f"{layer}/gamma", None)
    return {
        key: value.permute(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value for key, value in found.items()
    }


def _compare(given: dict[str, Any], wanted: dict[str, Any], path: Path, what: str) -> None:
    if differences := _differences(given, wanted):
        raise InputError(f"weights {path} are not those of {what}: {differences}; give those of this network")


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
