"""ResNet50 (He et al. 2016) and SE-ResNet50 (Hu et al. 2018) of VGGFace2 (Cao et al. 2018): 2,048 numbers.

They were trained in Caffe; two others have their weights, and compute a little differently with them (`FROM_PYTORCH`,
`FROM_KERAS`): cydonia999/VGGFace2-pytorch, of whose state dicts the modules carry the names, and rcmalli/keras-vggface.
In both a block has its stride in its first convolution, as in Caffe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from toolkit.faces.models.keras_file import is_keras_file, read_layers
from toolkit.faces.models.preprocessing import Preprocessing
from toolkit.faces.models.torch_network import TorchEmbedder
from toolkit.faces.models.weights import load_layers, load_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.faces.models import Choice

_PREPROCESSING = Preprocessing((131.0912, 103.8827, 91.4953), (1.0,) * 3)
_STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, channels inside a block, stride of the first
_WIDER, _SQUEEZED = 4, 16  # channels that leave a block, for each inside; and of these, for each squeezed one
_CLASSIFIER, _KERAS_CLASSIFIER = "fc.", "classifier"  # of the identities of the training


class Computed(NamedTuple):
    """What differs between the frameworks.

    Attributes
    ----------
    epsilon : float
        Of batch normalisation: added to the variance.
    padding : tuple of int
        Zeros before and behind the image, in the first convolution.
    beyond : bool
        Whether the first pooling goes beyond the right and lower edge.
    """

    epsilon: float
    padding: tuple[int, int]
    beyond: bool


FROM_PYTORCH = Computed(1e-5, (3, 3), beyond=True)
FROM_KERAS = {False: Computed(1e-3, (2, 3), beyond=False), True: Computed(1e-4, (2, 3), beyond=False)}  # squeezed?


def open_vggface(choice: Choice) -> TorchEmbedder:
    """Load one of the networks with given weights; see `toolkit.faces.models.Choice.open`."""
    card, weights = choice.card, choice.weights
    assert weights is not None  # noqa: S101 (for the type checker: `choose_model` has checked it)
    squeezed = card.name == "vggface_senet50"
    if is_keras_file(weights):
        network = VggFace(FROM_KERAS[squeezed], squeezed=squeezed)
        names = dict(_keras_names(network))
        load_layers(network, read_layers(weights), names, path=weights, what=card.name, left_out=(_KERAS_CLASSIFIER,))
    else:
        network = VggFace(FROM_PYTORCH, squeezed=squeezed)
        load_state(network, weights, what=card.name, left_out=(_CLASSIFIER,))
    side = int(card.input_size or 0)
    return TorchEmbedder(
        network, choice, dimensions=int(card.dimensions or 0), size=(side, side), preprocessing=_PREPROCESSING
    )


class VggFace(nn.Module):  # type: ignore[misc]
    """From RGB images (n, 3, 224, 224) to descriptors (n, 2048).

    Parameters
    ----------
    computed : Computed
    squeezed : bool
        Whether blocks have squeeze and excitation.
    """

    def __init__(self, computed: Computed, *, squeezed: bool) -> None:
        super().__init__()
        before, behind = computed.padding
        self.padding = (before, behind, before, behind)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(64, eps=computed.epsilon)
        self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=computed.beyond)
        inside = 64
        for i, (n_blocks, narrow, stride) in enumerate(_STAGES, 1):
            blocks = nn.Sequential()
            for j in range(n_blocks):
                blocks.append(_Block(inside, narrow, 1 if j else stride, computed.epsilon, squeezed=squeezed))
                inside = _WIDER * narrow
            self.add_module(f"layer{i}", blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the descriptors."""
        x = functional.pad(x.flip(1), self.padding)  # it was trained on BGR
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        for i in range(1, len(_STAGES) + 1):
            x = getattr(self, f"layer{i}")(x)
        return x.mean((2, 3))


class _Block(nn.Module):  # type: ignore[misc]
    """A bottleneck; squeezed: its channels are weighted by their means (conv4, conv5)."""

    def __init__(self, inside: int, narrow: int, stride: int, epsilon: float, *, squeezed: bool) -> None:
        super().__init__()
        wide = _WIDER * narrow
        self.conv1 = nn.Conv2d(inside, narrow, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow, eps=epsilon)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow, eps=epsilon)
        self.conv3 = nn.Conv2d(narrow, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide, eps=epsilon)
        self.squeezed = squeezed
        if squeezed:
            self.conv4 = nn.Conv2d(wide, wide // _SQUEEZED, 1)
            self.conv5 = nn.Conv2d(wide // _SQUEEZED, wide, 1)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inside, wide, 1, stride=stride, bias=False), nn.BatchNorm2d(wide, eps=epsilon))
            if inside != wide
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.squeezed:
            means = y.mean((2, 3), keepdim=True)
            y = y * torch.sigmoid(self.conv5(functional.relu(self.conv4(means))))
        return functional.relu(y + self.downsample(x))


_IN_KERAS = {  # the modules of a block
    "conv1": "1x1_reduce",
    "bn1": "1x1_reduce/bn",
    "conv2": "3x3",
    "bn2": "3x3/bn",
    "conv3": "1x1_increase",
    "bn3": "1x1_increase/bn",
    "conv4": "1x1_down",
    "conv5": "1x1_up",
    "downsample.0": "1x1_proj",
    "downsample.1": "1x1_proj/bn",
}


def _keras_names(network: VggFace) -> Iterator[tuple[str, str]]:
    """Yield (layer of keras-vggface, module) of all that have weights; ``conv2_1`` is the first block."""
    yield from (("conv1/7x7_s2", "conv1"), ("conv1/7x7_s2/bn", "bn1"))
    modules = dict(network.named_modules())
    for i, (n_blocks, *_) in enumerate(_STAGES, 1):
        for j in range(n_blocks):
            for part, name in _IN_KERAS.items():
                if f"layer{i}.{j}.{part}" in modules:
                    yield f"conv{i + 1}_{j + 1}_{name}", f"layer{i}.{j}.{part}"
