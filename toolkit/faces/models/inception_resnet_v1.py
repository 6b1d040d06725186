"""Inception-ResNet-v1 (Szegedy et al. 2016) as in facenet (Sandberg 2018), of which it takes scales and head.

The modules carry the names of the state dicts of facenet-pytorch, which can be loaded; so can the weights that others
converted to Keras. Those with 128 numbers were trained on images that were standardised one by one (facenet's model
20170512-110547), those with 512 on images that all were scaled alike (20180402-114759, 20180408-102900).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from toolkit.faces.models.keras_file import is_keras_file, read_layers
from toolkit.faces.models.preprocessing import PREPROCESSINGS, Preprocessing
from toolkit.faces.models.torch_network import TorchEmbedder
from toolkit.faces.models.weights import load_layers, load_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.faces.models import Choice

_PREPROCESSING = Preprocessing((127.5,) * 3, (128.0,) * 3)
_EPSILON = 1e-3
_CLASSIFIER = "logits."  # of the identities of the training
_OLD_DIMENSIONS, _KERAS_HEAD = 128, "Bottleneck"


def open_inception_resnet_v1(choice: Choice) -> TorchEmbedder:
    """Load the network with given weights; see `toolkit.faces.models.Choice.open`."""
    card, weights = choice.card, choice.weights
    assert weights is not None  # noqa: S101 (for the type checker: `choose_model` has checked it)
    dimensions = int(card.dimensions or 0)
    if is_keras_file(weights):
        layers = read_layers(weights)
        if layers.get(_KERAS_HEAD, {}).get("kernel", np.empty(0)).shape[-1] == _OLD_DIMENSIONS:
            dimensions = _OLD_DIMENSIONS
        network = InceptionResnetV1(dimensions)
        load_layers(network, layers, dict(_keras_names(network)), path=weights, what=card.name)
    else:
        network = InceptionResnetV1(dimensions)
        load_state(network, weights, what=card.name, left_out=(_CLASSIFIER,))
    is_old, side = dimensions == _OLD_DIMENSIONS, int(card.input_size or 0)
    return TorchEmbedder(
        nn.Sequential(_Standardised(), network) if is_old else network,
        choice,
        dimensions=dimensions,
        size=(side, side),
        preprocessing=PREPROCESSINGS["none"] if is_old else _PREPROCESSING,
    )


class InceptionResnetV1(nn.Module):  # type: ignore[misc]
    """From images (n, 3, 160, 160) to descriptors of unit length (n, dimensions)."""

    def __init__(self, dimensions: int = 512) -> None:
        super().__init__()
        self.conv2d_1a = _Conv(3, 32, 3, stride=2)
        self.conv2d_2a = _Conv(32, 32, 3)
        self.conv2d_2b = _Conv(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = _Conv(64, 80, 1)
        self.conv2d_4a = _Conv(80, 192, 3)
        self.conv2d_4b = _Conv(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = _mixed_6a()
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = _mixed_7a()
        self.repeat_3 = nn.Sequential(*(_block8(0.2) for _ in range(5)))
        self.block8 = _block8(1.0, rectified=False)
        self.last_linear = nn.Linear(1792, dimensions, bias=False)
        self.last_bn = nn.BatchNorm1d(dimensions, eps=_EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the descriptors."""
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))
        x = self.block8(self.repeat_3(self.mixed_7a(x)))
        return functional.normalize(self.last_bn(self.last_linear(x.mean((2, 3)))))


class _Standardised(nn.Module):  # type: ignore[misc]
    """Each image has mean 0 and deviation 1, all its channels together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        smallest = x[0].numel() ** -0.5  # of an image of one colour
        deviation = x.std((1, 2, 3), correction=0, keepdim=True).clamp(min=smallest)
        return (x - x.mean((1, 2, 3), keepdim=True)) / deviation


class _Conv(nn.Module):  # type: ignore[misc]
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=_EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.bn(self.conv(x)))


class _Branches(nn.Module):  # type: ignore[misc]
    """Several ways through, one after the other along the channels of the result: branch0, branch1, ..."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.n_branches = len(branches)
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([getattr(self, f"branch{i}")(x) for i in range(self.n_branches)], 1)


class _Residual(_Branches):
    """Branches whose result, scaled, is added to what comes in."""

    def __init__(self, wide: int, channels: int, scale: float, *branches: nn.Module, rectified: bool = True) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(wide, channels, 1)
        self.scale, self.rectified = scale, rectified

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2d(super().forward(x)) * self.scale + x
        return functional.relu(y) if self.rectified else y


def _block35() -> _Residual:
    return _Residual(
        96,
        256,
        0.17,
        _Conv(256, 32, 1),
        nn.Sequential(_Conv(256, 32, 1), _Conv(32, 32, 3, padding=1)),
        nn.Sequential(_Conv(256, 32, 1), _Conv(32, 32, 3, padding=1), _Conv(32, 32, 3, padding=1)),
    )


def _block17() -> _Residual:
    narrow = (_Conv(896, 128, 1), _Conv(128, 128, (1, 7), padding=(0, 3)), _Conv(128, 128, (7, 1), padding=(3, 0)))
    return _Residual(256, 896, 0.1, _Conv(896, 128, 1), nn.Sequential(*narrow))


def _block8(scale: float, *, rectified: bool = True) -> _Residual:
    narrow = (_Conv(1792, 192, 1), _Conv(192, 192, (1, 3), padding=(0, 1)), _Conv(192, 192, (3, 1), padding=(1, 0)))
    return _Residual(384, 1792, scale, _Conv(1792, 192, 1), nn.Sequential(*narrow), rectified=rectified)


def _mixed_6a() -> _Branches:
    return _Branches(
        _Conv(256, 384, 3, stride=2),
        nn.Sequential(_Conv(256, 192, 1), _Conv(192, 192, 3, padding=1), _Conv(192, 256, 3, stride=2)),
        nn.MaxPool2d(3, stride=2),
    )


def _mixed_7a() -> _Branches:
    return _Branches(
        nn.Sequential(_Conv(896, 256, 1), _Conv(256, 384, 3, stride=2)),
        nn.Sequential(_Conv(896, 256, 1), _Conv(256, 256, 3, stride=2)),
        nn.Sequential(_Conv(896, 256, 1), _Conv(256, 256, 3, padding=1), _Conv(256, 256, 3, stride=2)),
        nn.MaxPool2d(3, stride=2),
    )


_IN_KERAS = {"repeat_1": "Block35", "repeat_2": "Block17", "repeat_3": "Block8"}


def _keras_names(network: InceptionResnetV1) -> Iterator[tuple[str, str]]:
    """Yield (layer of the Keras conversions, module) of all that have weights."""
    yield from ((_KERAS_HEAD, "last_linear"), (f"{_KERAS_HEAD}_BatchNorm", "last_bn"))
    for path, module in network.named_modules():
        if isinstance(module, _Residual):
            yield f"{_block_in_keras(path)}_Conv2d_1x1", f"{path}.conv2d"
        if isinstance(module, _Conv):
            name = _conv_in_keras(path, module.conv)
            yield from ((name, f"{path}.conv"), (f"{name}_BatchNorm", f"{path}.bn"))


def _conv_in_keras(path: str, conv: nn.Conv2d) -> str:
    """Return ``Conv2d_1a_3x3`` for conv2d_1a, ``Block35_1_Branch_1_Conv2d_0b_3x3`` for repeat_1.0.branch1.1."""
    block, is_inside, branch = path.partition(".branch")
    size = "x".join(map(str, conv.kernel_size))
    if not is_inside:
        return f"{path.capitalize()}_{size}"
    number, is_one_of, step = branch.partition(".")
    place = "1a_" if conv.stride == (2, 2) else f"0{'abc'[int(step)]}_" if is_one_of else ""
    return f"{_block_in_keras(block)}_Branch_{number}_Conv2d_{place}{size}"


def _block_in_keras(path: str) -> str:
    """Return ``Block35_1`` for repeat_1.0, ``Mixed_6a`` for mixed_6a, ``Block8_6`` for block8, which is the last."""
    stage, is_one_of, number = path.partition(".")
    if is_one_of:
        return f"{_IN_KERAS[stage]}_{int(number) + 1}"
    return "Block8_6" if stage == "block8" else stage.capitalize()
