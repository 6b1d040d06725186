"""SE-ResNet50 (Hu et al. 2018) of VGGFace2 (Cao et al. 2018): 2,048 numbers after the mean of its last feature map.

The modules carry the names of the state dict that Caffe's was converted to (cydonia999/VGGFace2-pytorch). Two things
are Caffe's: a block has its stride in the first convolution, and the pooling goes beyond the right and lower edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from toolkit.faces.models.preprocessing import Preprocessing
from toolkit.faces.models.torch_network import TorchEmbedder
from toolkit.faces.models.weights import load_state

if TYPE_CHECKING:
    from toolkit.faces.models import Choice

_PREPROCESSING = Preprocessing((131.0912, 103.8827, 91.4953), (1.0,) * 3)
_STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, channels inside a block, stride of the first
_WIDER, _SQUEEZED = 4, 16  # channels that leave a block, for each inside; and of these, for each squeezed one
_CLASSIFIER = "fc."  # of the identities of the training


def open_vggface_resnet50(choice: Choice) -> TorchEmbedder:
    """Load the network with given weights; see `toolkit.faces.models.Choice.open`."""
    network, card = SeResNet50(), choice.card
    assert choice.weights is not None  # noqa: S101 (for the type checker: `choose_model` has checked it)
    load_state(network, choice.weights, what=card.name, left_out=(_CLASSIFIER,))
    side = int(card.input_size or 0)
    return TorchEmbedder(
        network, choice, dimensions=int(card.dimensions or 0), size=(side, side), preprocessing=_PREPROCESSING
    )


class SeResNet50(nn.Module):  # type: ignore[misc]
    """From RGB images (n, 3, 224, 224) to descriptors (n, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        inside = 64
        for i, (n_blocks, narrow, stride) in enumerate(_STAGES, 1):
            blocks = [_Block(inside, narrow, stride)] + [
                _Block(_WIDER * narrow, narrow, 1) for _ in range(n_blocks - 1)
            ]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            inside = _WIDER * narrow

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the descriptors."""
        x = x.flip(1)  # it was trained on BGR
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        for i in range(1, len(_STAGES) + 1):
            x = getattr(self, f"layer{i}")(x)
        return x.mean((2, 3))


class _Block(nn.Module):  # type: ignore[misc]
    """A bottleneck whose channels are weighted by their means (conv4, conv5: squeeze and excitation)."""

    def __init__(self, inside: int, narrow: int, stride: int) -> None:
        super().__init__()
        wide = _WIDER * narrow
        self.conv1 = nn.Conv2d(inside, narrow, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.conv4 = nn.Conv2d(wide, wide // _SQUEEZED, 1)
        self.conv5 = nn.Conv2d(wide // _SQUEEZED, wide, 1)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inside, wide, 1, stride=stride, bias=False), nn.BatchNorm2d(wide))
            if inside != wide
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        weight = torch.sigmoid(self.conv5(functional.relu(self.conv4(y.mean((2, 3), keepdim=True)))))
        return functional.relu(weight * y + self.downsample(x))
