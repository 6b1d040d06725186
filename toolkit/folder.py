"""The folder of the results of a job: held by one process at a time, and with a record of what was done."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import re
from typing import TYPE_CHECKING, Any

import toolkit
from toolkit.atomic import remove_unfinished, write_text
from toolkit.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from toolkit.progress import Reporter

_VERSIONED = (
    "dlib-bin", "dlib", "opencv-python-headless", "pillow", "torch", "onnxruntime", "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
)  # fmt: skip
_DIGEST = r"[0-9a-f]{32,}"
_SEVERAL = ("data", "weights")  # keys of a digest that are plural


@contextlib.contextmanager
def held(out: Path, what: str, *, lock: str, waits: bool = False, reporter: Reporter) -> Iterator[None]:
    """Hold a folder, made if it is missing, for what this process does; a lock ends with the process, however it does.

    Parameters
    ----------
    out : Path
    what : str
        This process does, for the error of another: "finding faces".
    lock : str
        Name of a file in it, hidden, which stays. Jobs with different ones may work in the folder at the same time.
    waits : bool
        Until another process has finished, rather than refusing: for what takes a moment.
    reporter : Reporter
        Is told where a file system has no locks.

    Raises
    ------
    InputError
        If another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / lock).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InputError(f"another process is {what} in {out}; wait for it, or use another folder") from error
        except OSError as error:
            reporter.warn(f"{out} cannot be locked ({one_line(error)}): start no second job with it meanwhile")
        remove_unfinished(out)
        yield


class Record:
    """A JSON file that says what a job is, and, once it is finished, what it made.

    Parameters
    ----------
    path : Path
    holds : str
        What the folder holds then, for errors: "faces".
    made : str
        What must go so that another job can begin, for errors.
    has_work : callable
        Whether something is there that an unfinished job made; without, a record of another one is replaced.
    """

    def __init__(self, path: Path, *, holds: str, made: str, has_work: Callable[[], bool]) -> None:
        self.path, self.holds, self.made, self.has_work = path, holds, made, has_work

    def claim(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """Begin a job, or go on with it.

        Parameters
        ----------
        identity : dict
            What decides the results, ready for JSON.

        Returns
        -------
        dict or None
            Of the job, if it is finished, what `finish` was given.

        Raises
        ------
        InputError
            If the record is damaged, or of another job that is finished or has begun; it says what has changed.
        """
        if not self.path.exists():
            self._write(identity, None, {})
            return None
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            before, finished = dict(record["job"]), record["finished"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} is damaged: {one_line(error)}; restore it, or remove {self.made}") from error
        changed = [key for key, value in identity.items() if before.get(key) != value]
        if changed and finished is None and not self.has_work():  # a start that failed
            self._write(identity, None, {})
            return None
        if changed:
            told = [_difference(key, before.get(key), identity[key]) for key in changed]
            raise InputError(
                f"{self.path.parent} holds {self.holds} of other images or options ({', '.join(told)}); give another "
                f"folder, or remove {self.made}"
            )
        return None if finished is None else dict(finished)

    def finish(self, identity: dict[str, Any], finished: dict[str, Any], **more: Any) -> None:
        """Write what the job made, with whatever more is to be known, and the versions of the packages."""
        self._write(identity, finished, more | {"versions": _versions()})

    def _write(self, identity: dict[str, Any], finished: dict[str, Any] | None, more: dict[str, Any]) -> None:
        write_text(self.path, json.dumps({"job": identity, "finished": finished} | more, indent=1) + "\n")


def _difference(key: str, before: Any, now: Any) -> str:
    """Say what has changed; digests tell a person nothing."""
    if key == "images":
        return key
    if _is_digest(before) or _is_digest(now):
        return f"{key} are other ones" if key in _SEVERAL else f"{key} is another one"
    return f"{key} was {before}, is {now}"


def _is_digest(value: Any) -> bool:
    """Whether it is a digest, or a list of some."""
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(one, str) and re.fullmatch(_DIGEST, one) for one in values)


def _versions() -> dict[str, str]:
    found = {"toolkit": toolkit.__version__}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
