"""What the autoencoder minimises: the error of its images, and how much its latent vectors say.

Pixels are Gaussian around the decoder's, and their variance is the mean squared error itself, which maximises the
likelihood (Rybkin, Daniilidis and Levine 2021, "sigma-VAE"): contrast weighs nothing. But neighbouring pixels err
together. If each counted as independent, an image of 64 x 64 would outweigh the divergence so far that the latent
vector says everything and the class nothing, and the image of the zero vector would be of no class. So an image counts
as `detail` independent values, whatever its size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from toolkit.aggregate.network import Posterior

_LEAST_VARIANCE = (0.5 / 255) ** 2  # half a grey level: finer is the rounding of the pixels
ACTIVE = 0.01  # variance of the posterior means from which a latent unit is active (Burda et al. 2016)


class Terms(NamedTuple):
    """The terms of a batch, each a number.

    Attributes
    ----------
    loss : Tensor
        Nats of an image.
    squared_error : Tensor
        Mean over images and pixels, which are from 0 to 1.
    divergence : Tensor
        Kullback-Leibler, of the latent vector of an image, in nats.
    """

    loss: torch.Tensor
    squared_error: torch.Tensor
    divergence: torch.Tensor


def negative_log_likelihood(squared_error: torch.Tensor, detail: float) -> torch.Tensor:
    """Return minus the log density of `detail` independent values at the best variance, in nats."""
    variance = squared_error.clamp_min(_LEAST_VARIANCE)
    return 0.5 * detail * (math.log(2 * math.pi) + variance.log() + squared_error / variance)


def divergences(posterior: Posterior) -> torch.Tensor:
    """Return the Kullback-Leibler divergence from the standard normal, of each image and latent unit, in nats."""
    mean, log_variance = posterior
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def terms(
    images: torch.Tensor,
    decoded: torch.Tensor,
    posterior: Posterior,
    *,
    detail: float,
    weight: float = 1.0,
    free_nats: float = 0.0,
) -> Terms:
    """Return the terms of a batch.

    Parameters
    ----------
    images, decoded : Tensor (n, 3, side, side)
        From 0 to 1.
    posterior : Posterior
    detail : float
        Independent values of an image.
    weight : float
        Of the divergence, from 0 to 1 while it warms up (Bowman et al. 2016).
    free_nats : float
        Mean divergence of a latent unit that costs nothing (Kingma et al. 2016), lest the decoder ignores it.
    """
    squared_error = (images - decoded).square().mean()
    of_units = divergences(posterior).mean(0)
    loss = negative_log_likelihood(squared_error, detail) + weight * of_units.clamp_min(free_nats).sum()
    return Terms(loss, squared_error, of_units.sum())
