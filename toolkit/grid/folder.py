"""The folder of a run: whose it is, who works in it, and its ``run.json``."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import toolkit
from toolkit.atomic import is_unfinished, remove_unfinished, write_text
from toolkit.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "h5py")
_LOCK = ".lock"
_KEYS = {"toolkit", "config", "inputs", "state", "stages", "started"}


def read_run(folder: Path) -> dict[str, Any]:
    """Return the ``run.json`` of a folder.

    Raises
    ------
    InputError
        If there is none, or it is not one of ours.
    """
    path = Path(folder) / "run.json"
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no run (there is no {path}); give the --out of a `toolkit run`") from error
    except NotADirectoryError as error:
        raise InputError(f"{folder} is a file; give the folder of a run") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; delete the folder, or restore the file") from error
    if not isinstance(record, dict) or not set(record) >= _KEYS:
        raise InputError(f"{path} is not the record of a run of this toolkit; give another folder")
    return record


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


@contextlib.contextmanager
def shared_lock(folder: Path) -> Iterator[None]:
    """Hold a folder together with other shards of its run; a whole run then waits outside.

    Raises
    ------
    InputError
        If a whole run works in it.
    """
    with (Path(folder) / _LOCK).open("a+b") as file:  # NFS shares only what is open for reading
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"a whole run works in {folder}; wait for it") from error
        except OSError as error:
            raise InputError(
                f"{folder} lies on a file system without locks ({one_line(error)}); give --out on another"
            ) from error
        yield


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
        self._ours: list[Path] = []

    def __enter__(self) -> RunFolder:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file; give a folder")
        is_new = self._refuse_strangers()
        self._ours = [self.path / name for name in ("cache", "models", "run.json", _LOCK)]
        self._ours = [path for path in (*self._ours, self.path) if is_new and not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / _LOCK).open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise InputError(
                f"another process is running in {self.path}; wait for it, or use another folder"
            ) from error
        remove_unfinished(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_kept = self._has_results() or any(self.path.glob("cache/reduced-*/entry.json"))
        if isinstance(error, InputError) and not is_kept:
            self._remove()
        elif error is not None and self.record:
            self.record |= {"state": "stopped", "error": f"{type(error).__name__}: {error}".strip(": ")}
            with contextlib.suppress(OSError):
                self._save()
        if self._lock:
            self._lock.close()

    def _refuse_strangers(self) -> bool:
        """Refuse a folder that holds anything but a run; return whether it holds nothing."""
        if not self.path.is_dir():
            return True
        if (self.path / "run.json").exists():
            read_run(self.path)
            return False
        own = (_LOCK, "cache")
        strangers = [path.name for path in self.path.iterdir() if path.name not in own and not is_unfinished(path)]
        if strangers:
            raise InputError(
                f"--out {self.path} holds files but no run (for instance {sorted(strangers)[0]}); give an empty folder"
            )
        return True

    def _has_results(self) -> bool:
        return any(self.path.glob("models/*.parquet")) or any(self.path.glob("*_scores.csv"))

    def _remove(self) -> None:
        """Take back what this process made, and nothing else: an input that cannot be used leaves nothing behind."""
        for path in self._ours:
            if path.name == "cache":
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir():
                with contextlib.suppress(OSError):  # not empty: somebody's
                    path.rmdir()
            else:
                path.unlink(missing_ok=True)

    def check(self, identity: dict[str, Any]) -> None:
        """Refuse a folder that holds results of another configuration."""
        self._compare("config", identity)

    def claim(self, identity: dict[str, Any], inputs: dict[str, str]) -> list[str]:
        """Start or resume the run with this configuration and these input files (name -> content digest).

        Returns
        -------
        list of str
            Packages whose version differs from that of the results which are there.

        Raises
        ------
        InputError
            If the folder holds results of another configuration or of other files.
        """
        self._compare("config", identity)
        self._compare_inputs(inputs)
        if self._has_results() and (self.path / "run.json").exists():
            self.record = read_run(self.path)
        before = self.record.get("versions", {})
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        changed = [f"{name} {before[name]} -> {now}" for name, now in versions.items() if before.get(name, now) != now]
        self.record = {"stages": {}, "started": _now()} | self.record | {
            "toolkit": toolkit.__version__,
            "versions": {"python": platform.python_version()} | versions,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
            "working_folder": str(Path.cwd()),
            "config": identity,
            "inputs": inputs,
            "seed": identity["seed"],
            "precision": "reduction: float64 sums, float32 matrix; scores: float64",
            "state": "running",
        }  # fmt: skip
        self.record.pop("error", None)
        self._save()
        return changed

    def _compare(self, key: str, now: dict[str, Any]) -> None:
        if not (self._has_results() and (self.path / "run.json").exists()):
            return
        if difference := _difference(read_run(self.path)[key], now):
            raise InputError(
                f"--out {self.path} holds a run of another configuration or other data: {difference}; "
                f"give another --out, or delete the folder"
            )

    def _compare_inputs(self, now: dict[str, str]) -> None:
        """Refuse other descriptor files; of those that were not there before it is said that they are new."""
        if not (self._has_results() and (self.path / "run.json").exists()):
            return
        before = read_run(self.path)["inputs"]
        if new := [name for name in now if name not in before]:
            raise InputError(
                f"descriptor {new[0]} is new: {self.path} was begun with {', '.join(before)}; give another --out, or "
                f"move the file of {new[0]} out of the folder to go on"
            )
        self._compare("inputs", now)

    def describe(self, **facts: Any) -> None:
        """Record facts about this process."""
        self.record |= facts
        self._save()

    def add_stage(self, name: str, *, fitted_now: int, seconds: float, **facts: Any) -> None:
        """Record a finished stage; seconds add up over the processes that worked on it."""
        before = self.record["stages"].get(name)
        if before is None or fitted_now:
            seconds += before["seconds"] if before else 0.0
            self.record["stages"][name] = {"seconds": round(seconds, 3)} | facts
        self._save()

    def annotate(self, **facts: Any) -> None:
        """Add facts to the record of a finished run, which keeps its state whatever goes wrong here."""
        write_text(self.path / "run.json", json.dumps(read_run(self.path) | facts, indent=1) + "\n")

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
