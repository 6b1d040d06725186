"""Networks of attributes in files: ours, those of the predecessor (Keras), and backbones of torchvision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from toolkit.atomic import atomic_file
from toolkit.errors import InputError
from toolkit.faces.attributes.keras_layers import network_of_layers
from toolkit.faces.attributes.network import CONVENTIONS, AttributeNetwork, Design
from toolkit.faces.models.keras_file import is_keras_file, read_layers
from toolkit.faces.models.torch_network import TorchEmbedder
from toolkit.faces.models.weights import load_state, read_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.faces.models import Choice

_CLASSIFIER = "classifier."  # of ImageNet


def load_network(path: Path) -> AttributeNetwork:
    """Read a network: what `save_network` or a training wrote, or a Keras file of the predecessor.

    Parameters
    ----------
    path : Path
        Of Keras any of its formats, see `toolkit.faces.models.keras_file`: 37 outputs are `PREDECESSOR`, 40 `CELEBA`.

    Raises
    ------
    InputError
        If it is damaged or holds another network.
    """
    if not path.is_file():
        raise InputError(f"weights {path} {'is no file' if path.exists() else 'does not exist'}; give a file")
    if is_keras_file(path):
        return network_of_layers(read_layers(path), path)
    network = AttributeNetwork(read_design(path))
    load_state(network, path, what="the network of attributes")
    network.eval()
    return network


def read_design(path: Path) -> Design:
    """Read what the network in a file of `save_network` is.

    Raises
    ------
    InputError
        If the file is another one.
    """
    saved = read_tensors(path)
    try:
        design = saved["design"]
        found = Design(tuple(map(str, design["attributes"])), int(design["image_size"]), str(design["convention"]))
        known = found.convention in CONVENTIONS and bool(found.attributes)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:  # whatever another program saved
        raise InputError(
            f"weights {path} are none of a network of attributes; give best.pt of `faces train-attributes`, or a Keras "
            f"file (.h5, .hdf5, .keras)"
        ) from error
    if not known:
        raise InputError(f"weights {path} are of convention {found.convention!r}; known: {', '.join(CONVENTIONS)}")
    return found


def save_network(network: AttributeNetwork, path: Path) -> None:
    """Write a network whole or not at all."""
    with atomic_file(path) as file:
        torch.save(contents(network), file)


def contents(network: AttributeNetwork) -> dict[str, Any]:
    """Return what a file holds of a network."""
    design = network.design
    return {
        "design": {
            "attributes": list(design.attributes),
            "image_size": design.image_size,
            "convention": design.convention,
        },
        "state_dict": network.state_dict(),
    }


def load_backbone(network: AttributeNetwork, path: Path) -> None:
    """Put the state dict of torchvision's MobileNetV2 into the backbone.

    Raises
    ------
    InputError
        If it is another one.
    """
    load_state(network.backbone, path, what="torchvision's mobilenet_v2", left_out=(_CLASSIFIER,))


def open_attributes(choice: Choice) -> TorchEmbedder:
    """Load the network with given weights; see `toolkit.faces.models.Choice.open`."""
    assert choice.weights is not None  # noqa: S101 (for the type checker: `choose_model` has checked it)
    network = load_network(choice.weights)
    design = network.design
    return TorchEmbedder(
        nn.Sequential(network, nn.Sigmoid()),
        choice,
        dimensions=len(design.attributes),
        size=(design.image_size, design.image_size),
        preprocessing=CONVENTIONS[design.convention].preprocessing,
    )
