"""The products for principal components on the device; see `toolkit.descriptors.reduce`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from toolkit.backend.cuda.device import Device


class DeviceGram:
    """Adds up ``V.T @ V`` in float64 on the device, while the next block is read and copied; see `Gram`."""

    def __init__(self, device: Device, n_features: int) -> None:
        torch, shape = device.torch, (n_features, n_features)
        self.device, self.turn = device, 0
        self.sum = device.with_less(
            "the covariance", lambda _: torch.zeros(shape, dtype=torch.float64, device=device.device)
        )

    def begin(self, values: np.ndarray) -> np.ndarray:  # noqa: D102
        return values

    def add(self, part: np.ndarray) -> None:  # noqa: D102
        values = self.device.upload(part, self.turn)
        self.turn += 1
        self.sum.addmm_(values.T, values)

    def total(self) -> np.ndarray:  # noqa: D102
        return self.device.get(self.sum)
