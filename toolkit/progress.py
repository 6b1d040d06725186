"""Progress with predicted time left: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from toolkit.errors import InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from rich.progress import Progress as Bar

T = TypeVar("T")

_LINE_SECONDS = 10.0
_NOTE_CHARACTERS = 45  # beside the bar, on a terminal of 80
_SHORT_SECONDS = 1.0  # work below this is not worth a line


def format_seconds(seconds: float) -> str:
    """Write a duration for a person: ``0.4 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"


@contextmanager
def resumable() -> Iterator[None]:
    """Say of what the user stops that it can go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedRunError("stopped; the same command goes on where it stopped") from error


class Reporter:
    """Where a run says what it does; everything goes to standard error.

    Parameters
    ----------
    quiet : bool
        Say nothing but warnings.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        """Print a line."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print a line that is worth reading even when quiet."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def track(self, title: str, predicted: float) -> Task:
        """Follow work of a predicted size, in seconds or any other unit; use as a context manager."""
        return Task(title, predicted, self)

    def watch(self, title: str, blocks: Iterable[T], sizes: Callable[[T], float], total: float) -> Iterator[T]:
        """Yield the blocks of a stream while following how far it is, by the size of each block."""
        with self.track(title, total) as task:
            for block in blocks:
                size = sizes(block)
                yield block
                task.advance(size)


class Task:
    """Work under way. `advance` takes the prediction of what was just finished.

    The time left is what is predicted for the rest, corrected by how the finished part compared with its prediction.
    """

    def __init__(self, title: str, predicted: float, reporter: Reporter) -> None:
        self.title, self.predicted, self.reporter = title, max(predicted, 1e-9), reporter
        self.done = 0.0
        self.bar: Bar | None = None

    def __enter__(self) -> Task:
        self.start = self.last_line = time.monotonic()
        if sys.stderr.isatty() and not self.reporter.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            console = Console(stderr=True)
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=10),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self.bar = Progress(*columns, console=console, transient=True)
            self.bar.start()
            self.bar.add_task(self.title, total=self.predicted, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        seconds = time.monotonic() - self.start
        if kind is None and seconds >= _SHORT_SECONDS:
            self.reporter.say(f"{self.title}: done in {format_seconds(seconds)}")

    def advance(self, predicted: float, note: str = "") -> None:
        """Count a finished part, by what was predicted for it."""
        self.done = min(self.done + predicted, self.predicted)
        now = time.monotonic()
        left = (now - self.start) * (self.predicted - self.done) / max(self.done, 1e-9)
        text = f"about {format_seconds(left)} left" + (f", {note}" if note else "")
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=self.done, note=text[:_NOTE_CHARACTERS])
        elif now - self.last_line >= _LINE_SECONDS:
            self.last_line = now
            self.reporter.say(f"{self.title}: {100 * self.done / self.predicted:.0f} %, {text}")
