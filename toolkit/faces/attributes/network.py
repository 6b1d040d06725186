"""MobileNetV2 (Sandler et al. 2018) that says which attributes a face has.

The modules of the backbone carry the names of torchvision's state dict.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from toolkit.faces.models.preprocessing import PREPROCESSINGS, Preprocessing

WIDTH = 1280  # numbers after the backbone
_HIDDEN, _DROPPED = 1536, 0.3  # of the predecessor
# Expansion, channels out, blocks, stride of the first block: table 2 of the paper.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass(frozen=True)
class Convention:
    """In what the MobileNetV2 of a library differs from that of another.

    Attributes
    ----------
    is_even : bool
        Whether convolutions with a stride are padded the same on all sides; else, of an even side, on the right and
        below only.
    epsilon : float
        Of batch normalisation.
    preprocessing : Preprocessing
    """

    is_even: bool
    epsilon: float
    preprocessing: Preprocessing


CONVENTIONS = {
    "torchvision": Convention(is_even=True, epsilon=1e-5, preprocessing=PREPROCESSINGS["imagenet"]),
    "keras": Convention(is_even=False, epsilon=1e-3, preprocessing=Preprocessing((0.0,) * 3, (255.0,) * 3)),
}


@dataclass(frozen=True)
class Design:
    """What a network is, beside its weights.

    Attributes
    ----------
    attributes : tuple of str
    image_size : int
        Pixels of a side of what it sees.
    convention : str
        Of `CONVENTIONS`.
    """

    attributes: tuple[str, ...]
    image_size: int = 224
    convention: str = "torchvision"


class AttributeNetwork(nn.Module):  # type: ignore[misc]
    """From images (n, 3, size, size), preprocessed, to a logit for each attribute (n, n_attributes).

    Parameters
    ----------
    design : Design
    """

    def __init__(self, design: Design) -> None:
        super().__init__()
        convention = CONVENTIONS[design.convention]
        self.design = design
        self.backbone = MobileNetV2(convention)
        self.dense = nn.Linear(WIDTH, _HIDDEN)
        self.normalization = nn.BatchNorm1d(_HIDDEN, eps=convention.epsilon)
        self.dropout = nn.Dropout(_DROPPED)
        self.output = nn.Linear(_HIDDEN, len(design.attributes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = functional.relu(self.dense(self.backbone(x)))
        return self.output(self.dropout(self.normalization(x)))


class MobileNetV2(nn.Module):  # type: ignore[misc]
    """From images (n, 3, height, width) to the means of the last feature map (n, 1280).

    Parameters
    ----------
    convention : Convention
    """

    def __init__(self, convention: Convention) -> None:
        super().__init__()
        layers = [_conv(3, 32, 3, convention, stride=2)]
        inside = 32
        for expansion, outside, n_blocks, stride in _STAGES:
            for i in range(n_blocks):
                layers.append(_Block(inside, outside, expansion, stride if i == 0 else 1, convention))
                inside = outside
        layers.append(_conv(inside, WIDTH, 1, convention))
        self.features = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # by what comes in: depthwise ones would begin near 0 else

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the descriptors."""
        return self.features(x).mean((2, 3))


class _Block(nn.Module):  # type: ignore[misc]
    """An inverted residual: expansion, depthwise convolution, projection without an activation."""

    def __init__(self, inside: int, outside: int, expansion: int, stride: int, convention: Convention) -> None:
        super().__init__()
        wide = inside * expansion
        self.adds = stride == 1 and inside == outside
        expand = [_conv(inside, wide, 1, convention)] if expansion != 1 else []
        depthwise = _conv(wide, wide, 3, convention, stride=stride, groups=wide)
        project = nn.Conv2d(wide, outside, 1, bias=False)
        self.conv = nn.Sequential(*expand, depthwise, project, nn.BatchNorm2d(outside, eps=convention.epsilon))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


def _conv(
    inside: int, outside: int, kernel: int, convention: Convention, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Make a convolution with batch normalisation and ReLU6."""
    kind = nn.Conv2d if stride == 1 or convention.is_even else _UnevenConv2d
    return nn.Sequential(
        kind(inside, outside, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside, eps=convention.epsilon),
        nn.ReLU6(inplace=True),
    )


class _UnevenConv2d(nn.Conv2d):  # type: ignore[misc]
    """A convolution of 3 x 3 with stride 2 as Keras pads it: an even side only at its end, an odd one at both."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high, wide = x.shape[2] % 2, x.shape[3] % 2
        padded = functional.pad(x, (wide, 1, high, 1))
        return functional.conv2d(padded, self.weight, stride=self.stride, groups=self.groups)
