"""The record of a training: a line per epoch, as CSV always and for TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from toolkit.atomic import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from toolkit.progress import Reporter

HISTORY, TENSORBOARD = "history.csv", "tensorboard"


@dataclass(frozen=True)
class Epoch:
    """An epoch. Errors are mean squared ones of pixels from 0 to 1; losses and divergences are nats of an image.

    Attributes
    ----------
    epoch : int
        From 1.
    weight : float
        Of the divergence.
    training_loss, training_error, training_divergence : float
        Means over the batches, while the weights changed.
    validation_loss : float
        At weight 1, with the latent vectors drawn.
    validation_error : float
        With the mean latent vectors: of the reconstructions.
    validation_divergence : float
    active_units : int
        Latent units whose posterior means vary over the validation images (by more than 0.01).
    mean_image_error, class_mean_error : float
        Of the validation images, if the mean training image, of all or of the class, stands for each of them.
    seconds, waiting : float
        Of the epoch, and the share of its training for which it waited for pixels.
    resident_bytes : int
        Of the process, at its end.
    """

    epoch: int
    weight: float
    training_loss: float
    training_error: float
    training_divergence: float
    validation_loss: float
    validation_error: float
    validation_divergence: float
    active_units: int
    mean_image_error: float
    class_mean_error: float
    seconds: float
    waiting: float
    resident_bytes: int

    @property
    def text(self) -> str:
        """For a person, one line."""
        return (
            f"epoch {self.epoch}: error {self.training_error:.5f}, divergence {self.training_divergence:.1f} nats (x "
            f"{self.weight:.2f}); validation loss {self.validation_loss:.2f}, error {self.validation_error:.5f} (mean "
            f"image {self.mean_image_error:.5f}, class means {self.class_mean_error:.5f}), {self.active_units} active "
            f"units"
        )


def write_history(path: Path, epochs: Sequence[Epoch]) -> None:
    """Write the CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(epoch) for epoch in epochs)
    write_text(path, text.getvalue())


class Board:
    """The log for TensorBoard; without the package, nothing.

    Parameters
    ----------
    folder : Path
    n_done : int
        Epochs that were finished before; what is there of later ones, of a process that was killed, is hidden.
    reporter : Reporter
    """

    def __init__(self, folder: Path, n_done: int, reporter: Reporter) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            reporter.say(f"no log for TensorBoard, only {HISTORY}: pip install tensorboard")
            return
        self._writer = SummaryWriter(folder, purge_step=n_done + 1 if n_done else None)

    def add(self, epoch: Epoch, aggregates: np.ndarray) -> None:
        """Log an epoch, with the images of the zero vector side by side, (side, n_classes * side, 3) uint8."""
        if self._writer is None:
            return
        for name, value in asdict(epoch).items():
            if name != "epoch":
                self._writer.add_scalar(name.replace("_", "/", 1), value, epoch.epoch)
        self._writer.add_image("aggregates", aggregates, epoch.epoch, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Close the log."""
        if self._writer is not None:
            self._writer.close()
