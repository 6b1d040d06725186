"""What a training is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from toolkit.errors import InputError

MOST_AT_ONCE = 65_536  # images of a step


@dataclass(frozen=True)
class Plan:
    """What decides the weights, beside the images and their classes.

    Attributes
    ----------
    image_size, latent_dim, width : int
        See `toolkit.aggregate.network.ConditionalVAE`.
    batch_size : int
    learning_rate : float
        Of Adam.
    detail, free_nats : float
        See `toolkit.aggregate.objective`.
    warm_up : int
        Epochs until the divergence has its full weight.
    validation : float
        Share of the images that is kept for validation.
    seed : int
    """

    image_size: int = 224
    latent_dim: int = 128
    width: int = 32
    batch_size: int = 32
    learning_rate: float = 1e-3
    detail: float = 400.0
    free_nats: float = 0.01
    warm_up: int = 5
    validation: float = 0.1
    seed: int = 0

    def check(self) -> None:
        """Refuse numbers that make no sense; those of the network it checks itself.

        Raises
        ------
        InputError
        """
        bounds: tuple[tuple[str, float, bool, str], ...] = (
            ("batch_size", self.batch_size, 1 <= self.batch_size <= MOST_AT_ONCE, f"1 to {MOST_AT_ONCE:,}"),
            ("learning_rate", self.learning_rate, 0 < self.learning_rate <= 1, "more than 0, at most 1"),
            ("detail", self.detail, 0 < self.detail < math.inf, "more than 0"),
            ("free_nats", self.free_nats, 0 <= self.free_nats < math.inf, "0 or more"),
            ("warm_up", self.warm_up, self.warm_up >= 0, "0 or more"),
            ("validation", self.validation, 0 < self.validation < 1, "between 0 and 1"),
            ("seed", self.seed, self.seed >= 0, "0 or more"),
        )
        for name, value, is_allowed, allowed in bounds:
            if not is_allowed:
                raise InputError(f"{name} is {value}; allowed: {allowed}")
