"""One memory budget: what may be used, what is used, and what fits."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from toolkit.errors import InputError, MemoryBudgetError

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_AUTO_SHARE = 0.8  # of what is available: the rest is for the page cache and other programs
_SIZE = re.compile(r"\s*([0-9]{0,15}\.?[0-9]{1,15})\s*([KMGT]?)(i?B)?\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Turn ``"8GiB"``, ``"512M"`` or ``"1073741824"`` into bytes (units are powers of 1,024)."""
    match = _SIZE.fullmatch(text)
    if not match or float(match[1]) == 0:
        raise InputError(f"memory {text!r} is not a size; write for instance 8GiB, 512MiB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def format_size(n_bytes: float) -> str:
    """Write bytes for a person: ``1.5 GiB``, ``220 MiB``."""
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if abs(n_bytes) >= unit:
            value = n_bytes / unit
            return f"{value:.0f} {name}" if value >= 100 else f"{value:.3g} {name}"
    return f"{n_bytes:.0f} B"


def resident_bytes() -> int:
    """Return the resident memory of this process now, in bytes."""
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Let `peak_bytes` start again from now, where the kernel allows it (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """Return the peak resident memory of this process since the last `reset_peak`, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def _control_group_limit() -> int | None:
    """Return the lowest memory limit of this process's control groups in bytes, or None (containers, SLURM)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        root = Path("/sys/fs/cgroup/memory" if "memory" in controllers else "/sys/fs/cgroup")
        inner = root / group.lstrip("/")
        for folder in (inner, *inner.parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with contextlib.suppress(OSError):
                    limits.append((folder / name).read_text().strip())
            if folder == root:
                break
    return min((int(text) for text in limits if text.isdigit()), default=None)


@dataclass(frozen=True)
class MemoryBudget:
    """The memory that this process may use; everything large asks it first.

    Parameters
    ----------
    limit : int
        Bytes of resident memory for the whole process: the interpreter and its libraries included.
    source : str
        Where the limit comes from, for the log.
    """

    limit: int
    source: str = "given"

    @classmethod
    def resolve(cls, memory: str | int | MemoryBudget | None = None) -> MemoryBudget:
        """Make a budget from ``"8GiB"``, bytes, a budget, or (None) the memory that is available now."""
        if isinstance(memory, MemoryBudget):
            return memory
        if memory is not None:
            return cls(parse_size(str(memory)))
        available = psutil.virtual_memory().available + resident_bytes()
        limit = _control_group_limit()
        if limit is not None and limit < available:
            return cls(int(limit * _AUTO_SHARE), "80 % of the control group's limit")
        return cls(int(available * _AUTO_SHARE), "80 % of the available memory")

    @property
    def free(self) -> int:
        """Bytes of the budget that this process does not hold now."""
        return self.limit - resident_bytes()

    def require(self, n_bytes: int, what: str) -> None:
        """Refuse, with the numbers, what does not fit.

        Raises
        ------
        MemoryBudgetError
            If `n_bytes` more would exceed the limit.
        """
        if n_bytes > self.free:
            raise MemoryBudgetError(
                f"{what} needs {format_size(n_bytes)}, but {format_size(max(self.free, 0))} of the memory budget of "
                f"{format_size(self.limit)} ({self.source}) is free: the program itself holds "
                f"{format_size(resident_bytes())}; raise --memory"
            )

    def rows_that_fit(self, bytes_per_row: int, *, wanted: int, what: str) -> int:
        """Return how many rows, at most `wanted`, a block may have.

        Parameters
        ----------
        bytes_per_row : int
            Everything that one more row costs while its block is worked on, copies included.
        wanted : int
            The block size that is best for speed.
        what : str
            What the block is for, for the error.
        """
        self.require(bytes_per_row, f"{what} (one row at a time)")
        return max(1, min(wanted, self.free // bytes_per_row))


_granted: ContextVar[int | None] = ContextVar("granted", default=None)


@contextlib.contextmanager
def granted_threads(number: int) -> Iterator[None]:
    """Let `n_threads` say `number` to this thread: what one of several tasks on the same processors may use."""
    token = _granted.set(number)
    try:
        yield
    finally:
        _granted.reset(token)


def n_threads() -> int:
    """Return the number of processors that this process, or what `granted_threads` runs, may use."""
    if (granted := _granted.get()) is not None:
        return granted
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
