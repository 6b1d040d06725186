"""A PyTorch network as an embedder, on the CPU or a GPU."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from toolkit.faces.models.embedder import WholeImageEmbedder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from toolkit.faces.models import Choice
    from toolkit.faces.models.preprocessing import Preprocessing


class TorchEmbedder(WholeImageEmbedder):
    """A PyTorch network that sees the whole image.

    Parameters
    ----------
    network : torch.nn.Module
        From float32 (n_images, 3, height, width) to (n_images, dimensions).
    choice : Choice
        Its batch and device.
    dimensions : int
    size : tuple of int
        Height and width of the input.
    preprocessing : Preprocessing
    resample : PIL.Image.Resampling

    Notes
    -----
    On a CPU each process has one thread: a descriptor then does not depend on the number of processors, and several
    processes are faster than several threads. On a GPU products are of float32, not TF32.
    """

    def __init__(
        self,
        network: Any,
        choice: Choice,
        *,
        dimensions: int,
        size: tuple[int, int],
        preprocessing: Preprocessing,
        resample: Image.Resampling = Image.Resampling.BILINEAR,
    ) -> None:
        super().__init__(dimensions, choice.batch, size, resample)
        self.device = torch.device(choice.device)
        self.network = network.eval().to(self.device, memory_format=torch.channels_last)
        self.mean, self.deviation = (
            torch.tensor(values, dtype=torch.float32, device=self.device).view(1, 3, 1, 1) for values in preprocessing
        )

    def _stacked(self, inputs: Sequence[Any]) -> Any:
        if all(isinstance(one, np.ndarray) for one in inputs):
            return super()._stacked(inputs)
        return torch.stack([torch.as_tensor(one).to(self.device) for one in inputs])

    def _forward(self, inputs: Any) -> np.ndarray:
        # Images lie with their channels last, which is what the convolutions prefer; only the names are permuted.
        images = torch.as_tensor(inputs).to(self.device).permute(0, 3, 1, 2).float()
        with torch.inference_mode(), exact_products(is_cuda=self.device.type == "cuda"):
            found = self.network((images - self.mean) / self.deviation)
        return np.asarray(found.float().cpu().numpy())


@contextlib.contextmanager
def exact_products(*, is_cuda: bool) -> Iterator[None]:
    """Compute with float32 products, on one thread of the CPU, and leave everything as it was."""
    n_threads = torch.get_num_threads()
    if not is_cuda:
        torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_num_threads(n_threads)
