"""The predecessor's Keras network (MobileNetV2 of keras.applications and its head), as ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from toolkit.errors import InputError
from toolkit.faces.attributes.celeba import CELEBA, PREDECESSOR
from toolkit.faces.attributes.network import AttributeNetwork, Design

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Layers = Mapping[str, Mapping[str, np.ndarray]]

_NAMES = {len(names): names for names in (PREDECESSOR, CELEBA)}  # Keras keeps no names of outputs
_BLOCKS = 17
_NORMALIZATION = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_KERNELS = {
    "conv2d": ("kernel", (3, 2, 0, 1)),
    "depthwise_conv2d": ("depthwise_kernel", (2, 3, 0, 1)),  # Keras': height, width, channels, 1
    "dense": ("kernel", (1, 0)),
}


class _Place(NamedTuple):
    """Where a layer of Keras goes: its name, its class (how Keras calls a layer without a name), and our module."""

    name: str
    kind: str
    module: str


def network_of_layers(layers: Layers, path: Path) -> AttributeNetwork:
    """Make our network of the layers of a Keras file.

    Parameters
    ----------
    layers : mapping of str to mapping of str to ndarray
        As `toolkit.faces.models.keras_file.read_layers` returns them.
    path : Path
        For the errors.

    Raises
    ------
    InputError
        If they are those of another network.
    """
    found = _by_module(layers, path)
    n_outputs = len(_array(found["output"], "bias", path, "the last dense layer"))
    if n_outputs not in _NAMES:
        raise InputError(
            f"weights {path} have {n_outputs} outputs, and Keras keeps no names of them; allowed: "
            f"{' or '.join(f'{n} (CelebA)' for n in sorted(_NAMES))}"
        )
    network = AttributeNetwork(Design(_NAMES[n_outputs], convention="keras"))
    state = network.state_dict()
    for place in _places():
        for key, value in _tensors(place, found[place.module], path).items():
            if state[key].shape != value.shape:
                raise InputError(
                    f"weights {path}: layer {place.name} is {tuple(value.shape)}, not {tuple(state[key].shape)}; give "
                    f"those of the predecessor's network (MobileNetV2, 1,536 hidden units)"
                )
            state[key].copy_(value)
    network.eval()
    return network


def _places() -> list[_Place]:
    """Return all layers with weights, in the order of the network."""
    places = _pair("Conv1", "bn_Conv1", "conv2d", "features.0")
    for i in range(_BLOCKS):
        name, module, first = ("expanded_conv", "features.1.conv", 0) if i == 0 else ("", "", 1)
        if i:
            name, module = f"block_{i}", f"features.{i + 1}.conv"
            places += _pair(f"{name}_expand", f"{name}_expand_BN", "conv2d", f"{module}.0")
        places += _pair(f"{name}_depthwise", f"{name}_depthwise_BN", "depthwise_conv2d", f"{module}.{first}")
        places.append(_Place(f"{name}_project", "conv2d", f"{module}.{first + 1}"))
        places.append(_Place(f"{name}_project_BN", "batch_normalization", f"{module}.{first + 2}"))
    places += _pair("Conv_1", "Conv_1_bn", "conv2d", f"features.{_BLOCKS + 1}")
    return [place._replace(module=f"backbone.{place.module}") for place in places] + [
        _Place("dense", "dense", "dense"),
        _Place("batch_normalization", "batch_normalization", "normalization"),
        _Place("dense_1", "dense", "output"),
    ]


def _pair(name: str, normalization: str, kind: str, module: str) -> list[_Place]:
    return [_Place(name, kind, f"{module}.0"), _Place(normalization, "batch_normalization", f"{module}.1")]


def _by_module(layers: Layers, path: Path) -> dict[str, Mapping[str, np.ndarray]]:
    """Return our module -> the layer of the file: by the names of the backbone, else by class and number.

    The numbers of the head's layers count all layers that a Python process had made before, so only their order
    means something. Files of weights alone in Keras 3's own form name all layers that way.
    """
    places = _places()
    known = {place.name: place for place in places[:-3]}
    named = {known[name].module: layer for name, layer in layers.items() if name in known}
    rest = {name: layer for name, layer in layers.items() if name not in known and layer}
    for kind in ("conv2d", "depthwise_conv2d", "batch_normalization", "dense"):
        wanted = [place for place in places if place.kind == kind and place.module not in named]
        generic = sorted((number, name) for name in rest if (number := _number(name, kind)) is not None)
        if len(generic) != len(wanted):
            raise InputError(
                f"weights {path} hold {_few([name for _, name in generic])} where {_few([w.name for w in wanted])} "
                f"should be; give those of the predecessor's network (MobileNetV2 and two dense layers)"
            )
        named |= {place.module: rest[name] for place, (_, name) in zip(wanted, generic, strict=True)}
    return named


def _number(name: str, kind: str) -> int | None:
    """Return the number of a layer that Keras named by its class; ``dense`` is 0, ``dense_3`` is 3."""
    found = re.fullmatch(rf"{kind}(?:_(\d+))?", name)
    return int(found[1] or 0) if found else None


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} layers ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "nothing"


def _tensors(place: _Place, layer: Mapping[str, np.ndarray], path: Path) -> dict[str, torch.Tensor]:
    """Return the arrays of a layer under our keys, in our order of axes."""
    if place.kind == "batch_normalization":
        arrays = {ours: _array(layer, theirs, path, place.name) for theirs, ours in _NORMALIZATION.items()}
    else:
        kernel, axes = _KERNELS[place.kind]
        array = _array(layer, kernel, path, place.name)
        if array.ndim != len(axes):
            raise InputError(f"weights {path}: {kernel} of layer {place.name} has {array.ndim} axes, not {len(axes)}")
        arrays = {"weight": array.transpose(axes)}
        if place.kind == "dense":
            arrays["bias"] = _array(layer, "bias", path, place.name)
    return {f"{place.module}.{name}": torch.from_numpy(np.array(array, np.float32)) for name, array in arrays.items()}


def _array(layer: Mapping[str, np.ndarray], name: str, path: Path, where: str) -> np.ndarray:
    if name not in layer:
        raise InputError(f"weights {path}: {where} has no {name}, but {', '.join(layer) or 'nothing'}; it is damaged")
    return layer[name]
