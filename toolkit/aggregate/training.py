"""The epochs of a training: what is computed, kept and continued; on the CPU the same weights however often it stopped.

All random numbers of an epoch follow from the seed and its number, so a checkpoint after each epoch is the whole state.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from toolkit.aggregate.checkpoints import load, put, save
from toolkit.aggregate.history import HISTORY, TENSORBOARD, Board, Epoch, write_history
from toolkit.aggregate.network import ConditionalVAE, activation_values
from toolkit.aggregate.objective import ACTIVE, divergences, negative_log_likelihood, terms
from toolkit.aggregate.samples import Batches, balanced_order
from toolkit.errors import InputError, MemoryBudgetError, ToolkitError
from toolkit.memory import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from toolkit.aggregate.plan import Plan
    from toolkit.aggregate.samples import Baselines, Split
    from toolkit.images.pixels import PixelFile
    from toolkit.progress import Reporter, Task

LAST, BEST = "last.pt", "best.pt"
_STEEPEST = 1.0  # norm of the gradient of the loss of one value
_NOISE, _CHECK = 2, 3  # what random numbers are for, beside those of `toolkit.aggregate.samples`
_COPIES = 4  # of the weights: themselves, their gradients, two moments of Adam
_NUMBER = 4  # bytes
_BESIDE = 1.5  # times what is left for the backward pass: its own gradients, and batches that wait


class DivergedError(ToolkitError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Data:
    """What is learnt from.

    Attributes
    ----------
    pixels : PixelFile
    class_of : ndarray (n_pixel_rows,) int64
        The class of each row of the pixels; -1 where there is none.
    class_names : tuple of str
    class_sizes : tuple of int
    source, run : str
        What the labels are, for people, and the folder of the run from which they come, or nothing.
    split : Split
    baselines : Baselines
    key : str
        Stands for the plan, the pixels and the classes.
    """

    pixels: PixelFile
    class_of: np.ndarray
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    source: str
    run: str
    split: Split
    baselines: Baselines
    key: str


class _Checked(NamedTuple):
    """What the validation images say; see `toolkit.aggregate.history.Epoch`."""

    loss: float
    error: float
    divergence: float
    active_units: int


class Training:
    """A training in a folder, from its beginning or from its last checkpoint.

    Parameters
    ----------
    folder : Path
        Of the results; the weights are in ``weights/`` there.
    plan : Plan
    data : Data
    device : {"cpu", "cuda"}
    reporter : Reporter

    Attributes
    ----------
    epochs : list of Epoch
        That are finished.
    best : int
        Number of the one with the least validation loss, 0 before any is finished.

    Raises
    ------
    InputError
        If the folder holds weights of other images or options.
    """

    def __init__(self, folder: Path, plan: Plan, data: Data, device: str, reporter: Reporter) -> None:
        self.folder, self.plan, self.data, self.device, self.reporter = folder, plan, data, device, reporter
        self.weights = folder / "weights"
        self.network = make_network(plan, len(data.class_names)).to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=plan.learning_rate)
        self.epochs: list[Epoch] = []
        self.n_threads = torch.get_num_threads()
        self.weights.mkdir(parents=True, exist_ok=True)
        if (self.weights / LAST).exists():
            self._continue(load(self.weights / LAST))

    @property
    def best(self) -> int:  # noqa: D102 (see the class)
        return min(self.epochs, key=lambda epoch: epoch.validation_loss).epoch if self.epochs else 0

    def is_over(self, num_epochs: int, patience: int) -> bool:
        """Whether there is nothing left to do: all epochs are done, or none of the last ones was better."""
        waited_from = max(self.best, self.plan.warm_up)  # before, the divergence cannot have settled
        return len(self.epochs) >= num_epochs or len(self.epochs) - waited_from >= patience

    def run(self, num_epochs: int, patience: int) -> None:
        """Do the epochs that are left.

        Raises
        ------
        DivergedError
            If the loss is no number; the checkpoints before stay.
        """
        n_left = max(num_epochs - len(self.epochs), 0)
        n_steps = -(-len(self.data.split.training) // self.plan.batch_size)
        board = Board(self.folder / TENSORBOARD, len(self.epochs), self.reporter)
        try:
            with self.reporter.track("training", n_left * n_steps) as task, _threads(self.n_threads):
                while not self.is_over(num_epochs, patience):
                    epoch = self._epoch_that_fits(len(self.epochs) + 1, num_epochs, task)
                    self._keep(epoch)
                    board.add(epoch, np.concatenate(list(zero_images(self.network)), axis=1))
                    is_best = ", the best so far" if self.best == epoch.epoch else ""
                    self.reporter.say(f"{epoch.text}{is_best}")
        finally:
            board.close()

    # One epoch
    def _epoch_that_fits(self, number: int, num_epochs: int, task: Task) -> Epoch:
        try:
            return self._epoch(number, num_epochs, task)
        except torch.OutOfMemoryError as error:
            raise MemoryBudgetError(
                f"the GPU has too little memory for batches of {self.plan.batch_size} images of "
                f"{self.plan.image_size} pixels; try another --out with a lower --batch_size, --image_size or --width"
            ) from error

    def _epoch(self, number: int, num_epochs: int, task: Task) -> Epoch:
        started = time.perf_counter()
        weight = min(1.0, number / (self.plan.warm_up + 1))
        (loss, error, divergence), waiting = self._train(number, weight, f"epoch {number}/{num_epochs}", task)
        checked = self._validate()
        if not math.isfinite(checked.loss):  # the last step did it
            raise DivergedError(self._diverged(f"the validation of epoch {number}"))
        return Epoch(
            epoch=number,
            weight=weight,
            training_loss=loss,
            training_error=error,
            training_divergence=divergence,
            validation_loss=checked.loss,
            validation_error=checked.error,
            validation_divergence=checked.divergence,
            active_units=checked.active_units,
            mean_image_error=self.data.baselines.mean,
            class_mean_error=self.data.baselines.class_mean,
            seconds=time.perf_counter() - started,
            waiting=waiting,
            resident_bytes=resident_bytes(),
        )

    def _train(self, number: int, weight: float, title: str, task: Task) -> tuple[tuple[float, float, float], float]:
        """Return the mean loss, error and divergence, and the share of the time that was spent waiting for pixels."""
        rows, plan, started = self.data.split.training, self.plan, time.perf_counter()
        order = rows[balanced_order(self.data.class_of[rows], seed=plan.seed, epoch=number)]
        parts = np.array_split(order, -(-len(order) // plan.batch_size))
        generator = self._generator(_NOISE, number)
        batches = Batches(self.data.pixels)
        sums = np.zeros(3)
        self.network.train()
        for step, (part, pixels) in enumerate(zip(parts, batches.read(parts), strict=True), 1):
            found = self._step(part, pixels, weight, generator)
            if not math.isfinite(found[0]):
                raise DivergedError(self._diverged(f"epoch {number}, step {step}"))
            sums += len(part) * np.array(found)
            task.advance(1, f"{title} error {found[1]:.4f} KL {found[2]:.0f}")
        loss, error, divergence = (sums / len(order)).tolist()
        return (loss, error, divergence), batches.waited / (time.perf_counter() - started)

    def _step(
        self, part: np.ndarray, pixels: np.ndarray, weight: float, generator: torch.Generator
    ) -> tuple[float, float, float]:
        images, classes = self._on_device(part, pixels)
        with self._mixed():
            posterior = self.network.encode(images, classes)
            decoded = self.network.decode(posterior.sample(generator), classes)
        plan = self.plan
        found = terms(images, decoded, posterior, detail=plan.detail, weight=weight, free_nats=plan.free_nats)
        self.optimizer.zero_grad()
        (found.loss / plan.detail).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _STEEPEST)
        self.optimizer.step()
        return float(found.loss.detach()), float(found.squared_error.detach()), float(found.divergence.detach())

    def _validate(self) -> _Checked:
        rows, plan = self.data.split.validation, self.plan
        parts = np.array_split(rows, -(-len(rows) // plan.batch_size))
        generator = self._generator(_CHECK, 0)  # the same noise after each epoch: only the weights differ
        drawn = error = divergence = 0.0
        means = []
        self.network.eval()
        with torch.no_grad(), self._mixed():
            for part, pixels in zip(parts, Batches(self.data.pixels).read(parts), strict=True):
                images, classes = self._on_device(part, pixels)
                posterior = self.network.encode(images, classes)
                of_draw = self.network.decode(posterior.sample(generator), classes)
                of_mean = self.network.decode(posterior.mean, classes)
                drawn += float((images - of_draw).square().mean()) * len(part) / len(rows)
                error += float((images - of_mean).square().mean()) * len(part) / len(rows)
                divergence += float(divergences(posterior).sum()) / len(rows)
                means.append(posterior.mean.cpu())
        n_active = int((torch.cat(means).var(0, correction=0) > ACTIVE).sum())
        likelihood = negative_log_likelihood(torch.tensor(drawn, dtype=torch.float64), plan.detail)
        return _Checked(float(likelihood) + divergence, error, divergence, n_active)

    def _on_device(self, part: np.ndarray, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (n, 3, side, side) from 0 to 1, and one-hot classes."""
        images = torch.from_numpy(pixels).to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        classes = torch.from_numpy(self.data.class_of[part]).to(self.device)
        return images, self.network.one_hot(classes)

    def _mixed(self) -> contextlib.AbstractContextManager[Any]:
        """Compute in bfloat16 where that keeps enough digits, on a GPU; float32 on the CPU."""
        mixed: contextlib.AbstractContextManager[Any] = torch.autocast(
            "cuda", dtype=torch.bfloat16, enabled=self.device == "cuda"
        )
        return mixed

    def _generator(self, purpose: int, epoch: int) -> torch.Generator:
        seed = int(np.random.SeedSequence([self.plan.seed, purpose, epoch]).generate_state(1, np.uint64)[0] >> 1)
        return torch.Generator(self.device).manual_seed(seed)

    def _diverged(self, where: str) -> str:
        kept = f"{self.weights / BEST} keeps epoch {self.best}" if self.best else "no epoch was finished"
        return (
            f"the loss is not a number any more, in {where}; {kept}; try another --out with a "
            f"--learning_rate below {self.plan.learning_rate:g}, a longer --warm_up, or a larger --batch_size"
        )

    # Checkpoints
    def _keep(self, epoch: Epoch) -> None:
        """Write the weights; the last ones at last, so that what is killed in between does this epoch again."""
        self.epochs.append(epoch)
        if self.best == epoch.epoch:
            names = {"class_names": list(self.data.class_names), "class_sizes": list(self.data.class_sizes)}
            facts = {key: value for key, value in asdict(epoch).items() if key not in _OF_THE_PROCESS}
            facts |= asdict(self.plan) | {"device": self.device, "labels": self.data.source, "run": self.data.run}
            save(self.weights / BEST, self.network, **names, facts=facts)
        write_history(self.folder / HISTORY, self.epochs)
        save(
            self.weights / LAST,
            self.network,
            optimizer=self.optimizer.state_dict(),
            epochs=[asdict(one) for one in self.epochs],
            key=self.data.key,
            device=self.device,
            n_threads=self.n_threads,
        )

    def _continue(self, found: dict[str, Any]) -> None:
        if found["key"] != self.data.key:
            raise InputError(
                f"{self.folder} holds weights of other images, labels or options (all but num_epochs and patience must "
                f"be the same); give another --out, or remove {self.weights}"
            )
        if found["device"] != self.device:
            self.reporter.warn(f"begun on {found['device']}, goes on on {self.device}: the last bits will differ")
        put(self.network, found["state_dict"], self.weights / LAST)
        self.optimizer.load_state_dict(found["optimizer"])
        self.epochs = [Epoch(**one) for one in found["epochs"]]
        self.n_threads = found["n_threads"]


_OF_THE_PROCESS = ("seconds", "waiting", "resident_bytes")  # of an epoch: they differ each time, the weights do not


def make_network(plan: Plan, num_classes: int) -> ConditionalVAE:
    """Make the network as it is before any epoch; the seed alone decides its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        return ConditionalVAE(plan.image_size, num_classes, latent_dim=plan.latent_dim, width=plan.width)


def training_bytes(plan: Plan, network: ConditionalVAE, n_images: int) -> int:
    """Return about how many bytes a training takes beside the libraries: weights with Adam, and a batch in float32."""
    n_weights = sum(int(parameter.numel()) for parameter in network.parameters())
    of_image = int(_BESIDE * _NUMBER * activation_values(plan.image_size, plan.width))
    return _COPIES * _NUMBER * n_weights + min(plan.batch_size, n_images) * of_image


def zero_images(network: ConditionalVAE) -> np.ndarray:
    """Return the image of the zero vector of each class, uint8 (n_classes, side, side, 3)."""
    device = next(network.parameters()).device
    classes = torch.eye(network.num_classes, device=device)
    with torch.no_grad():
        latent = torch.zeros(1, network.latent_dim, device=device)
        images = torch.cat([network.decode(latent, one[None]) for one in classes])
    return as_pixels(images)


def as_pixels(images: torch.Tensor) -> np.ndarray:
    """Return decoded images as uint8 (n, side, side, 3)."""
    return np.asarray((images * 255).round().byte().permute(0, 2, 3, 1).cpu())


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with so many threads, on which the order of sums depends, and leave it as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
