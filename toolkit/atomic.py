"""Files and folders that exist whole or not at all."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARK = ".unfinished-"


def _prefix() -> str:
    """Start a temporary name that tells whose it is."""
    return f"{_MARK}{platform.node()}-{os.getpid()}-"


def is_unfinished(path: Path) -> bool:
    """Whether a file or folder is what a process, perhaps killed, was writing."""
    return path.name.startswith(_MARK)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under `path` only when the block ends without an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix())
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all (UTF-8)."""
    with atomic_file(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a folder that appears under `path` only when the block ends without an error."""
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix()))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.replace(path)
        except OSError:
            if not path.is_dir():  # else another process has made the same meanwhile
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def scratch_folder(parent: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder that goes when the object does, or, if the process is killed, by `remove_unfinished`."""
    return tempfile.TemporaryDirectory(dir=parent, prefix=_prefix(), ignore_cleanup_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes of this machine that are gone left behind directly inside `folder`."""
    ours = re.compile(re.escape(f"{_MARK}{platform.node()}-") + r"(\d+)-[a-z0-9_]+")  # not of a node NAME-1
    for left in folder.glob(f"{_MARK}*"):
        owner = ours.fullmatch(left.name)
        if owner is None or psutil.pid_exists(int(owner[1])):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
