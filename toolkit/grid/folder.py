"""The folder of a run: whose it is, who works in it, and its ``run.json``."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import toolkit
from toolkit.atomic import remove_unfinished, write_text
from toolkit.errors import InputError

if TYPE_CHECKING:
    from types import TracebackType

_PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "h5py")
_LOCK = ".lock"


def read_run(folder: Path) -> dict[str, Any]:
    """Return the ``run.json`` of a folder.

    Raises
    ------
    InputError
        If there is none, or it cannot be read.
    """
    path = Path(folder) / "run.json"
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no run (there is no {path})") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; delete the folder, or restore the file") from error


def is_locked(folder: Path) -> bool:
    """Tell whether a process works in the folder."""
    try:
        with (Path(folder) / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


class RunFolder:
    """A context manager that holds the folder for one process and keeps its ``run.json``.

    Parameters
    ----------
    path : Path
        Made if it is missing. The lock goes away with the process, however it ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = {}
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> RunFolder:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file; give a folder")
        self._refuse_strangers()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / _LOCK).open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise InputError(
                f"another process is running in {self.path}; wait for it, or give another --out"
            ) from error
        remove_unfinished(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock:
            self._lock.close()

    def _refuse_strangers(self) -> None:
        if not self.path.is_dir() or (self.path / "run.json").exists():
            return
        ours = {_LOCK, "cache"}
        strangers = [
            p.name for p in self.path.iterdir() if p.name not in ours and not p.name.startswith(".unfinished-")
        ]
        if strangers:
            raise InputError(
                f"--out {self.path} holds files but no run (for instance {sorted(strangers)[0]}); give an empty folder"
            )

    def claim(self, identity: dict[str, Any], inputs: dict[str, str]) -> None:
        """Start or resume the run with this configuration and these input files (name -> content digest).

        Raises
        ------
        InputError
            If the folder holds results of another configuration or of other files.
        """
        has_results = any(self.path.glob("models/*.parquet")) or any(self.path.glob("*_scores.csv"))
        if has_results and (self.path / "run.json").exists():
            self.record = read_run(self.path)
            difference = _difference(self.record.get("config"), identity) or _difference(
                self.record.get("inputs"), inputs
            )
            if difference:
                raise InputError(
                    f"--out {self.path} holds a run of another configuration or other data: {difference}; "
                    f"give another --out, or delete the folder"
                )
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        self.record |= {
            "toolkit": toolkit.__version__,
            "versions": {"python": platform.python_version()} | versions,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
            "config": identity,
            "inputs": inputs,
            "seed": identity["seed"],
            "precision": "reduction: float64 sums, float32 matrix; scores: float64",
            "state": "running",
            "started": _now(),
            "stages": {},
        }
        self._save()

    def describe(self, **facts: Any) -> None:
        """Record facts about this process."""
        self.record |= facts
        self._save()

    def add_stage(self, name: str, **facts: Any) -> None:
        """Record a finished stage."""
        self.record["stages"][name] = facts
        self._save()

    def finish(self) -> None:
        """Record that everything is written."""
        self.record |= {"state": "complete", "finished": _now()}
        self._save()

    def _save(self) -> None:
        write_text(self.path / "run.json", json.dumps(self.record, indent=1) + "\n")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _difference(old: Any, new: Any, where: str = "") -> str | None:
    """Say where two nested values differ first, or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if found := _difference(old.get(key), new.get(key), f"{where}.{key}" if where else str(key)):
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            if found := _difference(a, b, f"{where}.{i}"):
                return found
        return None
    return None if old == new else f"{where} was {str(old)[:60]}, is {str(new)[:60]}"
