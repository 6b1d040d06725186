"""The network of attributes as an embedder: a descriptor of probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from toolkit.faces.attributes.network import CONVENTIONS
from toolkit.faces.attributes.weights import load_network
from toolkit.faces.models.torch_network import TorchEmbedder

if TYPE_CHECKING:
    from toolkit.faces.models import Choice


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
