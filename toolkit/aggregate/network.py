"""A conditional variational autoencoder of square images (Kingma and Welling 2014; Sohn, Lee and Yan 2015).

The class is fed in beside the latent vector, which lets it draw, and decides a scale and a shift of every feature map
(Perez et al. 2018, "FiLM"). Features are normalised within each image (Wu and He 2018), so a small batch trains as well
and a network in use is the one that was trained; the decoder enlarges before it convolves, because transposed
convolutions leave checkerboards (Odena, Dumoulin and Olah 2016).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from toolkit.errors import InputError

LEAST_SIZE, MOST_SIZE, SIZE_STEP = 16, 512, 32
_LEAST_SIDE = 8  # of feature maps that are halved
_MOST_WIDENING = 8  # times the width of the first layer
_GROUPS = 8
_LOG_VARIANCES = (-12.0, 8.0)  # of the posterior: beyond, exp() overflows before the loss says anything


class Posterior(NamedTuple):
    """The distribution of the latent vector of images: mean and logarithm of the variance, (n, latent_dim) each."""

    mean: torch.Tensor
    log_variance: torch.Tensor

    def sample(self, generator: torch.Generator | None) -> torch.Tensor:
        """Draw one latent vector each."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + noise * (0.5 * self.log_variance).exp()


class ConditionalVAE(nn.Module):  # type: ignore[misc]
    """Images of a class to latent vectors and back.

    Parameters
    ----------
    image_size : int
        Pixels of a side: 16, or a multiple of 32 up to 512. It decides how many layers there are.
    num_classes : int
    latent_dim : int
    width : int
        Feature maps of the layer next to the image, a multiple of 8; they double from layer to layer, up to 8 times.

    Raises
    ------
    InputError
        If a number is not one of these.
    """

    def __init__(self, image_size: int, num_classes: int, *, latent_dim: int = 128, width: int = 32) -> None:
        super().__init__()
        _check(image_size, num_classes, latent_dim, width)
        self.image_size, self.num_classes = image_size, num_classes
        self.latent_dim, self.width = latent_dim, width
        sides, channels = _layers(image_size, width)
        self.inner = (channels[-1], sides[-1], sides[-1])
        n_inner = channels[-1] * sides[-1] ** 2
        self.encoder = nn.ModuleList(
            _Conditioned(inside, outside, num_classes, stride=2)
            for inside, outside in zip((3, *channels[:-1]), channels, strict=True)
        )
        self.to_posterior = nn.Linear(n_inner, 2 * latent_dim)
        self.from_latent = nn.Linear(latent_dim + num_classes, n_inner)
        outwards = (*channels[::-1], width)
        self.decoder = nn.ModuleList(
            _Conditioned(inside, outside, num_classes) for inside, outside in pairwise(outwards)
        )
        self.to_image = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def config(self) -> dict[str, int]:
        """The arguments that make this network again."""
        return {
            "image_size": self.image_size,
            "num_classes": self.num_classes,
            "latent_dim": self.latent_dim,
            "width": self.width,
        }

    def encode(self, images: torch.Tensor, classes: torch.Tensor) -> Posterior:
        """Return the posterior of images.

        Parameters
        ----------
        images : Tensor (n, 3, image_size, image_size)
            From 0 to 1.
        classes : Tensor (n, num_classes)
            One-hot rows, see `one_hot`.
        """
        features = 2 * images - 1
        for layer in self.encoder:
            features = layer(features, classes)
        mean, log_variance = self.to_posterior(features.flatten(1)).float().chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(*_LOG_VARIANCES))

    def decode(self, latent: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return images, (n, 3, image_size, image_size) float32 from 0 to 1.

        Parameters
        ----------
        latent : Tensor (n, latent_dim)
        classes : Tensor (n, num_classes)
            One-hot rows, or mixtures of them: rows that sum to 1.
        """
        features = self.from_latent(torch.cat([latent, classes], 1)).unflatten(1, self.inner)
        for layer in self.decoder:
            features = layer(functional.interpolate(features, scale_factor=2, mode="nearest"), classes)
        return torch.sigmoid(self.to_image(features).float())

    def one_hot(self, classes: torch.Tensor) -> torch.Tensor:
        """Return class numbers (n,) as the rows that `encode` and `decode` take."""
        return functional.one_hot(classes.long(), self.num_classes).float()


class _Conditioned(nn.Module):  # type: ignore[misc]
    """Convolution, normalisation of groups, scale and shift by the class, SiLU."""

    def __init__(self, inside: int, outside: int, num_classes: int, *, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inside, outside, 3, stride=stride, padding=1)
        self.normalisation = nn.GroupNorm(_GROUPS, outside)
        self.condition = nn.Linear(num_classes, 2 * outside, bias=False)
        nn.init.normal_(self.condition.weight, std=0.1)  # classes begin nearly alike

    def forward(self, features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        scale, shift = self.condition(classes)[:, :, None, None].chunk(2, dim=1)
        return functional.silu(self.normalisation(self.convolution(features)) * (1 + scale) + shift)


def activation_values(image_size: int, width: int) -> int:
    """Return about how many numbers one image leaves for the backward pass: what each layer takes in and gives out."""
    sides, channels = _layers(image_size, width)
    encoder = sum(count * side**2 for side, count in zip(sides, channels, strict=True))
    outwards = zip((image_size, *sides[:-1]), (width, *channels[:-1]), strict=True)
    decoder = sum(count * side**2 for side, count in outwards)
    enlarged = sum(count * (2 * side) ** 2 for side, count in zip(sides, channels, strict=True))
    return 4 * (encoder + decoder) + enlarged + 9 * image_size**2


def _layers(image_size: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the sides and the numbers of the feature maps of the encoder, from the image inwards."""
    sides = [image_size]
    while sides[-1] % 2 == 0 and sides[-1] >= _LEAST_SIDE:
        sides.append(sides[-1] // 2)
    channels = (min(2**depth, _MOST_WIDENING) * width for depth in range(len(sides) - 1))
    return tuple(sides[1:]), tuple(channels)


def _check(image_size: int, num_classes: int, latent_dim: int, width: int) -> None:
    if image_size != LEAST_SIZE and (image_size % SIZE_STEP or not SIZE_STEP <= image_size <= MOST_SIZE):
        raise InputError(
            f"image_size is {image_size}; allowed: {LEAST_SIZE}, or a multiple of {SIZE_STEP} from {SIZE_STEP} to "
            f"{MOST_SIZE}, for instance 64, 128 or 224"
        )
    if width < _GROUPS or width % _GROUPS:
        raise InputError(f"width is {width}; allowed: a multiple of {_GROUPS}")
    for name, value in (("num_classes", num_classes), ("latent_dim", latent_dim)):
        if value < 1:
            raise InputError(f"{name} is {value}; allowed: 1 or more")
