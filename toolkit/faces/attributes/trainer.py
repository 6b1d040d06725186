"""The epochs of a training, and what is kept of each."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from toolkit.atomic import atomic_file
from toolkit.errors import InputError, ToolkitError, one_line
from toolkit.faces.attributes.accuracy import Counts, accuracy_table, write_table
from toolkit.faces.attributes.batches import Batch, Batches, inputs
from toolkit.faces.attributes.celeba import PARTS
from toolkit.faces.attributes.network import CONVENTIONS, AttributeNetwork, Design
from toolkit.faces.attributes.train import ACCURACY, BEST, CHECKPOINT, HISTORY
from toolkit.faces.attributes.weights import contents, load_backbone, load_network, save_network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from toolkit.faces.attributes.celeba import Attributes
    from toolkit.faces.attributes.train import Options
    from toolkit.images.pixels import PixelFile
    from toolkit.progress import Reporter

_LOOKED_AT = 16  # steps whose losses are fetched together: a GPU would wait at each


class TrainingDivergedError(ToolkitError):
    """The loss is no longer a number."""


class Epoch(NamedTuple):
    """A line of ``history.csv``: losses are binary cross-entropy (natural logarithm) per label."""

    epoch: int
    loss: float
    val_loss: float
    val_accuracy: float


class Trainer:
    """A network in training.

    Parameters
    ----------
    out : Path
    attributes : Attributes
    options : Options
    backbone : Path or None
    reporter : Reporter
    """

    def __init__(
        self, out: Path, attributes: Attributes, options: Options, backbone: Path | None, reporter: Reporter
    ) -> None:
        self.out, self.attributes, self.options, self.reporter = out, attributes, options, reporter
        self.device = torch.device(options.device)
        self.is_cuda = options.device == "cuda"
        design = Design(attributes.names, options.image_size)
        self.preprocessing = CONVENTIONS[design.convention].preprocessing
        with self._seeded(0):
            self.network = AttributeNetwork(design)
        if backbone is not None:
            load_backbone(self.network, backbone)
        self.network.to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=options.learning_rate)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.is_cuda)
        self.history: list[Epoch] = []
        self.seconds = self.waited = 0.0

    def train(self, pixels: PixelFile, rows: list[np.ndarray]) -> dict[str, Any]:
        """Train the epochs that are missing, and measure the best network.

        Parameters
        ----------
        pixels : PixelFile
        rows : list of ndarray
            Of each part.

        Returns
        -------
        dict
            ``best_epoch``, ``accuracy``, ``data_share``, for the record.

        Raises
        ------
        TrainingDivergedError
            If the loss becomes NaN or infinite.
        """
        self._resume()
        batches = Batches(pixels, self.attributes.labels, self.options.batch, self.options.seed)
        for epoch in range(len(self.history) + 1, self.options.epochs + 1):
            started, waited = time.monotonic(), batches.waited
            loss = self._epoch(batches, rows[0], epoch)
            val_loss, counts = self._measure(batches, rows[1])
            if not math.isfinite(val_loss):
                self._stop(epoch)
            self.seconds += time.monotonic() - started
            self.waited += batches.waited - waited
            self._keep(Epoch(epoch, loss, val_loss, counts.accuracy))
        return self._finish(batches, rows)

    # An epoch
    def _epoch(self, batches: Batches, rows: np.ndarray, epoch: int) -> float:
        """Return the mean loss of a label."""
        self.network.train()
        n_steps, total, n_labels = batches.n_batches(rows), 0.0, 0
        pending: list[tuple[Batch, torch.Tensor]] = []
        title = f"epoch {epoch} of {self.options.epochs}"
        with self.reporter.track(title, len(rows)) as task, self._seeded(epoch):
            for step, batch in enumerate(batches.training(rows, epoch), 1):
                self._set_rate((epoch - 1 + (step - 1) / n_steps) / self.options.epochs)
                pending.append((batch, self._step(batch)))
                if len(pending) < _LOOKED_AT and step < n_steps:
                    continue
                losses = torch.stack([loss for _, loss in pending]).tolist()
                if not np.isfinite(losses).all():
                    self._stop(epoch)
                for (seen, _), loss in zip(pending, losses, strict=True):
                    n_known = int(np.count_nonzero(seen.labels))
                    total, n_labels = total + n_known * loss, n_labels + n_known
                task.advance(sum(len(seen.labels) for seen, _ in pending), f"loss {losses[-1]:.4f}")
                pending.clear()
        return total / max(n_labels, 1)

    def _step(self, batch: Batch) -> torch.Tensor:
        labels = torch.from_numpy(batch.labels).to(self.device)
        x = inputs(batch, self.preprocessing, self.device)
        self.optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16, enabled=self.is_cuda):
            logits = self.network(x)
        loss = _loss_sum(logits, labels) / (labels != 0).sum().clamp(min=1)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _set_rate(self, done: float) -> None:
        """Set the learning rate where a share of the training is done (Loshchilov and Hutter 2017, no restarts)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _measure(self, batches: Batches, rows: np.ndarray) -> tuple[float, Counts]:
        """Return the loss and the counts of a part."""
        self.network.eval()
        counts, total = Counts(len(self.attributes.names)), 0.0
        with torch.inference_mode():
            for batch in batches.plain(rows):
                logits = self.network(inputs(batch, self.preprocessing, self.device))
                total += _loss_sum(logits, torch.from_numpy(batch.labels).to(self.device)).item()
                counts.add(batch.labels, (logits > 0).cpu().numpy())
        return total / max(int(counts.table.sum()), 1), counts

    def _stop(self, epoch: int) -> None:
        kept = f"epoch {len(self.history)} is kept in {self.out}" if self.history else "no epoch is finished"
        raise TrainingDivergedError(
            f"the loss is no longer a number in epoch {epoch}; {kept}; train into another folder with a smaller "
            f"learning rate, for instance {self.options.learning_rate / 10:g}"
        )

    @contextlib.contextmanager
    def _seeded(self, epoch: int) -> Iterator[None]:
        """Let what is random in PyTorch (weights, dropout) depend on seed and epoch alone; leave it as it was."""
        with torch.random.fork_rng([torch.cuda.current_device()] if self.is_cuda else []):
            torch.manual_seed(int(np.random.SeedSequence([self.options.seed, epoch]).generate_state(1)[0]))
            yield

    # What is kept
    def _keep(self, done: Epoch) -> None:
        """Write the files of an epoch; the checkpoint last but one, so that it never is ahead of ``best.pt``."""
        is_best = all(done.val_accuracy > earlier.val_accuracy for earlier in self.history)
        self.history.append(done)
        if is_best:
            save_network(self.network, self.out / BEST)
        with atomic_file(self.out / CHECKPOINT) as file:
            torch.save(
                {
                    **contents(self.network),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "history": [tuple(epoch) for epoch in self.history],
                    "seconds": (self.seconds, self.waited),
                },
                file,
            )
        self._write_history()
        self.reporter.say(
            f"epoch {done.epoch}: loss {done.loss:.4f}, validation loss {done.val_loss:.4f}, validation accuracy "
            f"{done.val_accuracy:.4f}{' (best)' if is_best else ''}"
        )

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        if not path.exists():
            return
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            self.network.load_state_dict(saved["state_dict"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            self.history = [Epoch(*epoch) for epoch in saved["history"]]
            self.seconds, self.waited = saved["seconds"]
        except Exception as error:  # on damaged data torch raises nearly anything
            raise InputError(f"{path} is damaged: {one_line(error)}; remove {self.out} and train again") from error
        self._write_history()
        self.reporter.say(f"goes on after epoch {len(self.history)}, see {path}")

    def _write_history(self) -> None:
        write_table(pd.DataFrame(self.history, columns=Epoch._fields), self.out / HISTORY)

    def _finish(self, batches: Batches, rows: list[np.ndarray]) -> dict[str, Any]:
        best = max(self.history, key=lambda epoch: epoch.val_accuracy)  # the first of several
        self.network = load_network(self.out / BEST).to(self.device, memory_format=torch.channels_last)
        tables = [
            accuracy_table(part, self.attributes.names, self._measure(batches, of_part)[1])
            for part, of_part in zip(PARTS, rows, strict=True)
            if part != PARTS[0] and len(of_part)
        ]
        write_table(pd.concat(tables, ignore_index=True), self.out / ACCURACY)
        share = self.waited / self.seconds if self.seconds else 0.0
        return {"best_epoch": best.epoch, "accuracy": best.val_accuracy, "data_share": share}


def _loss_sum(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the sum of the binary cross-entropies of the labels that are known."""
    each = functional.binary_cross_entropy_with_logits(logits.float(), (labels > 0).float(), reduction="none")
    return (each * (labels != 0)).sum()
