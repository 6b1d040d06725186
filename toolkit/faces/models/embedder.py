"""What all networks have in common: images are prepared one by one, and embedded in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from toolkit.faces.models.preprocessing import resized

if TYPE_CHECKING:
    from collections.abc import Sequence


class Embedder(ABC):
    """Turns images into descriptors.

    Attributes
    ----------
    dimensions : int
        Numbers of a descriptor.
    batch : int
        Images that go through the network at once.
    """

    dimensions: int
    batch: int

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the descriptors of RGB images.

        Parameters
        ----------
        images : sequence of ndarray (height, width, 3) of uint8
            Of any sizes.

        Returns
        -------
        ndarray (n_images, dimensions) of float32

        Raises
        ------
        ImageError
            If the network needs a face and there is none in an image.
        """
        return self.embed([self.prepare(image) for image in images])

    @abstractmethod
    def prepare(self, image: np.ndarray, *, is_aligned: bool = False) -> np.ndarray:
        """Return what the network sees of an image.

        Parameters
        ----------
        image : ndarray (height, width, 3) of uint8
            RGB.
        is_aligned : bool
            Whether it is a face that was aligned before.

        Returns
        -------
        ndarray (input height, input width, 3) of uint8

        Raises
        ------
        ImageError
            As above.
        """

    def embed(self, inputs: Sequence[Any]) -> np.ndarray:
        """Return the descriptors of prepared images, float32 (n_images, dimensions).

        Parameters
        ----------
        inputs : sequence of ndarray or torch.Tensor (input height, input width, 3) of uint8
            Tensors may lie on a GPU.
        """
        found = np.empty((len(inputs), self.dimensions), np.float32)
        for start in range(0, len(inputs), self.batch):
            found[start : start + self.batch] = self._forward(self._stacked(inputs[start : start + self.batch]))
        return found

    def _stacked(self, inputs: Sequence[Any]) -> Any:
        """Return a batch as `_forward` takes it."""
        return np.stack([one if isinstance(one, np.ndarray) else one.cpu().numpy() for one in inputs])

    @abstractmethod
    def _forward(self, inputs: Any) -> np.ndarray:
        """Return the descriptors of a batch, uint8 (n_images, height, width, 3)."""


class WholeImageEmbedder(Embedder):
    """A network that sees the whole image at one size.

    Parameters
    ----------
    dimensions, batch : int
    size : tuple of int
        Height and width of its input.
    resample : PIL.Image.Resampling
    """

    def __init__(
        self,
        dimensions: int,
        batch: int,
        size: tuple[int, int],
        resample: Image.Resampling = Image.Resampling.BILINEAR,
    ) -> None:
        self.dimensions, self.batch, self.size, self.resample = dimensions, batch, size, resample

    def prepare(self, image: np.ndarray, *, is_aligned: bool = False) -> np.ndarray:  # noqa: D102
        return resized(image, self.size, self.resample)
