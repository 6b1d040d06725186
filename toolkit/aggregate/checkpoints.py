"""Weights of the autoencoder on disk: with everything that makes the network again; nothing in them is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from toolkit.aggregate.network import ConditionalVAE
from toolkit.atomic import atomic_file
from toolkit.errors import InputError, one_line

if TYPE_CHECKING:
    from pathlib import Path

_FORMAT = "toolkit cvae 1"
_CONFIG = ("image_size", "num_classes", "latent_dim", "width")
_LISTED = 3  # keys that an error names


@dataclass(frozen=True)
class Trained:
    """A network that was trained, on the CPU.

    Attributes
    ----------
    network : ConditionalVAE
    class_names : tuple of str
    class_sizes : tuple of int
        Images of each class that there were, those for validation included.
    facts : dict
        What else is known of it: epoch, errors, what it was trained with.
    """

    network: ConditionalVAE
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    facts: dict[str, Any]


def save(path: Path, network: ConditionalVAE, **more: Any) -> None:
    """Write a network with what belongs to it (numbers, texts, lists, dicts, tensors), whole or not at all."""
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    with atomic_file(path) as file:
        torch.save({"format": _FORMAT, "config": network.config, "state_dict": state, **more}, file)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, without running anything that it says.

    Raises
    ------
    InputError
        If it is damaged, or not of this autoencoder.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"weights {path} do not exist; `toolkit cvae train` writes weights/best.pt") from error
    except Exception as error:  # on damaged data it raises nearly anything, and then advises to trust the file
        raise InputError(
            f"weights {path} are damaged, or hold code beside numbers, which is not run ({type(error).__name__}); give "
            f"the best.pt of `toolkit cvae train`"
        ) from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        keys = ", ".join(sorted(map(str, found))[:6]) if isinstance(found, dict) else type(found).__name__
        raise InputError(
            f"weights {path} hold {keys}, not a network of `toolkit cvae train`; weights of another architecture (as "
            f"of the seed's train_cvae.py) cannot be used, train again"
        )
    return found


def open_trained(path: Path) -> Trained:
    """Open a network to be used.

    Raises
    ------
    InputError
        If the file is none, or its weights are not of the shape that it says.
    """
    found = load(path)
    if "facts" not in found:
        raise InputError(f"weights {path} are those with which a training goes on; give the best.pt beside them")
    try:
        config = {name: int(found["config"][name]) for name in _CONFIG}
        network = ConditionalVAE(**config)
        names, sizes, facts = tuple(found["class_names"]), tuple(found["class_sizes"]), dict(found["facts"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"weights {path} do not say how their network is made ({one_line(error)}); they are damaged, train again"
        ) from error
    if not len(names) == len(sizes) == network.num_classes:
        raise InputError(
            f"weights {path} have {network.num_classes} classes, {len(names)} names and {len(sizes)} sizes of them; "
            f"they are damaged, train again"
        )
    put(network, found.get("state_dict", {}), path)
    network.eval().requires_grad_(requires_grad=False)
    return Trained(network, names, sizes, facts)


def put(network: ConditionalVAE, state: dict[str, torch.Tensor], path: Path) -> None:
    """Put a state dict into a network, which may be on a GPU.

    Raises
    ------
    InputError
        If its keys or shapes are others.
    """
    own = network.state_dict()
    shapes = {key: list(getattr(value, "shape", ())) for key, value in state.items()}
    wrong = [f"{key} is missing" for key in own if key not in shapes]
    wrong += [f"{key} is strange" for key in shapes if key not in own]
    wrong += [
        f"{key} is {shapes[key]}, not {list(own[key].shape)}"
        for key in own
        if key in shapes and shapes[key] != list(own[key].shape)
    ]
    if wrong:
        what = f"{', '.join(wrong[:_LISTED])}{f' and {len(wrong) - _LISTED} more' if len(wrong) > _LISTED else ''}"
        raise InputError(f"weights {path} are of another shape: {what}; train again, or give others")
    network.load_state_dict(state)
