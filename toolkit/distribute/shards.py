"""Shards of a stage: the cells that share work, dealt to tasks that may run on any machine that sees the folder.

A shard keeps its models in the folder of the run as a whole run does; only such a file, whose name is the digest of
its content, means that a model is finished.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from toolkit.atomic import write_text
from toolkit.config import Config, load_config
from toolkit.descriptors.cache import digest
from toolkit.distribute.supervisor import AGAIN
from toolkit.errors import InputError, ToolkitError, one_line, unknown
from toolkit.grid.fit import warm_up
from toolkit.grid.fitter import Fitter
from toolkit.grid.folder import shared_lock
from toolkit.grid.plan import Cell, Group, group_cells
from toolkit.grid.predict import CostModel
from toolkit.grid.refine import cells_of
from toolkit.grid.table import score_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from toolkit.backend.base import Backend
    from toolkit.descriptors.loader import DataLoader
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

SHARDS, CONFIG = "shards", "config.yaml"
_SECONDS_PER_OPERATION = 1e-10  # of every machine: shards are dealt by it, so all must agree
_AGAIN_SECONDS = 2.0  # between reminders to stop
_SPARE_SECONDS = 15.0  # of the time between the signal and the end, to stop in
_MOST_ATTEMPTS = 2  # in a row that finish nothing


class StoppedError(ToolkitError):
    """A shard has been told to stop; what it finished is kept, and the same task goes on."""

    exit_code = AGAIN


class _Told(BaseException):
    """Raised where a signal comes; no `Exception`, or the engines would take it for the failure of a model."""


class ShardError(ToolkitError):
    """A shard cannot go on, and trying again would not help."""


@dataclass(frozen=True)
class Shard:
    """One task of a stage.

    Attributes
    ----------
    stage : str
    task, n_tasks : int
        Which of how many, from 0.
    """

    stage: str
    task: int
    n_tasks: int

    def record_path(self, folder: Path) -> Path:
        """Return where the shard says how far it is."""
        return folder / SHARDS / f"{self.stage}-{self.task}.json"


def units_of(cells: list[Cell], config: Config) -> list[Group]:
    """Return the smallest groups of cells that share nothing with each other: of one matrix, computed by one engine."""
    costs = CostModel(config, seconds_per_operation=_SECONDS_PER_OPERATION)
    return [replace(group, cells=part) for group in group_cells(cells) for part in costs.parts(group.cells).values()]


def deal(units: list[Group], n_tasks: int, config: Config, loader: DataLoader) -> list[list[Group]]:
    """Deal units to tasks so that all are busy for about as long: the longest first, each to the least busy task.

    The result depends on nothing but the arguments, so every machine deals alike.
    """
    costs = CostModel(config, seconds_per_operation=_SECONDS_PER_OPERATION)

    def seconds(unit: Group) -> float:
        n_rows = loader.n_sampled(unit.sample.fraction)
        return costs.group(unit, n_rows, loader.open(unit.sample.descriptor).n_features).seconds

    dealt: list[list[Group]] = [[] for _ in range(n_tasks)]
    busy = [0.0] * n_tasks
    for unit in sorted(units, key=lambda unit: -seconds(unit)):  # stable: equal ones in the order of the stage
        task = busy.index(min(busy))
        dealt[task].append(unit)
        busy[task] += seconds(unit)
    return dealt


def stage_plan(fitter: Fitter, stage_name: str, failed: dict[str, str]) -> list[Cell]:
    """Return the cells of a stage, from the scores of those before it.

    Parameters
    ----------
    fitter : Fitter
        Opened.
    stage_name : str
    failed : dict of str to str
        Model -> why it could not be fitted.

    Raises
    ------
    InputError
        If there is no such stage, or one before is not finished.
    """
    names = [stage.name for stage in fitter.config.stages]
    if stage_name not in names:
        raise unknown("stage", stage_name, names)
    cells: list[Cell] = []
    before = None
    for stage in fitter.config.stages[: names.index(stage_name) + 1]:
        cells = cells_of(stage, fitter.config, fitter.loader.names, cells=cells, before=before)
        if stage.name == stage_name:
            break
        models = [fitter.model_id(cell) for cell in cells]
        if missing := [model for model in models if model not in fitter.store.rows and model not in failed]:
            raise InputError(
                f"stage {stage_name} needs stage {stage.name}, of which {len(missing)} of {len(models)} models are "
                f"missing; finish it first"
            )
        before = score_table(
            [
                fitter.store.row_of(cell, model) | {"error": failed.get(model)}
                for cell, model in zip(cells, models, strict=True)
            ]
        )
    return cells


def run_shard(
    folder: Path,
    shard: Shard,
    *,
    memory: MemoryBudget,
    backend: Backend,
    reporter: Reporter,
    grace: float = 0.0,
    strict: bool = False,
) -> str:
    """Fit the cells of a shard that are not finished.

    Parameters
    ----------
    folder : Path
        Of the run; it holds `CONFIG` in ``slurm``.
    shard : Shard
    memory, backend, reporter, strict
        As in `Run`.
    grace : float
        Seconds between the signal USR1 and the end of the task. Until shortly before it, models that are being
        fitted are finished.

    Returns
    -------
    str
        What was done, for a person.

    Raises
    ------
    StoppedError
        If it was told to stop (USR1, TERM).
    ShardError
        If it was stopped for the second time in a row without having finished a model.
    """
    started = time.monotonic()
    path = shard.record_path(folder)
    path.parent.mkdir(exist_ok=True)
    before = read_record(path)
    record: dict[str, Any] = {
        "host": socket.gethostname(),
        "attempts": before.get("attempts", 0) + 1,
        "n_fitted": before.get("n_fitted", 0),
        "n_idle": before.get("n_idle", 0),
        "errors": {},
        "state": "running",
    }
    write_record(path, record)
    fitter = Fitter(
        load_config(folder / "slurm" / CONFIG), folder, memory=memory, backend=backend, reporter=reporter, strict=strict
    )
    stop = _Stop(grace)
    try:
        with shared_lock(folder), _stoppable(stop):
            record["models"] = _fit(fitter, folder, shard, stop)
        record["state"] = "done"
    except _Told as error:
        reason = "its time is over" if stop.by_time else "it was told to end"
        record |= {"state": "stopped", "reason": reason}
        if fitter.n_fitted:
            record["n_idle"] = 0
        elif stop.by_time:
            record["n_idle"] += 1
        if record["n_idle"] >= _MOST_ATTEMPTS:
            record["state"] = "failed"
            record["reason"] = (
                f"{_MOST_ATTEMPTS} attempts in a row ended at the time limit before any model was finished; submit "
                f"with a longer --time, once {folder / 'slurm'} is removed"
            )
            record["n_idle"] = 0  # whoever submits it again has changed something
            raise ShardError(record["reason"]) from error
        raise StoppedError(reason) from error
    except BaseException as error:
        record |= {"state": "failed", "reason": one_line(error)}
        raise
    finally:
        record["n_fitted"] += fitter.n_fitted
        record["errors"] = fitter.errors
        record["seconds"] = round(before.get("seconds", 0.0) + time.monotonic() - started, 3)
        write_record(path, record)
    return f"shard {shard.task} of {shard.n_tasks} of stage {shard.stage}: {fitter.n_fitted} models fitted"


def _fit(fitter: Fitter, folder: Path, shard: Shard, stop: _Stop) -> list[str]:
    """Fit what is missing of a shard; return all its models."""
    if fitter.config.engine == "shared":
        warm_up()
    fitter.open()
    (folder / "models").mkdir(exist_ok=True)
    cells = stage_plan(fitter, shard.stage, failed_models(folder))
    mine = deal(units_of(cells, fitter.config), shard.n_tasks, fitter.config, fitter.loader)[shard.task]
    left = [replace(unit, cells=tuple(pending)) for unit in mine if (pending := fitter.pending(unit.cells))]
    n_cells = sum(len(unit.cells) for unit in mine)
    fitter.reporter.say(f"{n_cells} models, {n_cells - sum(len(unit.cells) for unit in left)} already finished")
    seconds = [fitter.cost(unit).seconds for unit in left]
    with fitter.reporter.track(f"{shard.stage} {shard.task}", sum(seconds)) as task:
        for unit in left:
            fitter.fit(unit, task, between=stop.check)
    return [fitter.model_id(cell) for unit in mine for cell in unit.cells]


# Stopping
class _Stop:
    """Whether the process has been told to stop."""

    def __init__(self, grace: float) -> None:
        self.grace, self.by_time, self.is_told = grace, False, False

    def soon(self, *_: object) -> None:
        """Stop after what is being fitted, or when the time has nearly gone."""
        if not self.is_told:
            self.by_time = self.is_told = True
            first = max(self.grace - _SPARE_SECONDS, 1e-3)
            signal.setitimer(signal.ITIMER_REAL, first, _AGAIN_SECONDS)  # again, should a library swallow it

    def now(self, *_: object) -> None:
        """Stop."""
        self.is_told = True
        raise _Told

    def check(self) -> None:
        """Stop if it was told to."""
        if self.is_told:
            raise _Told


@contextlib.contextmanager
def _stoppable(stop: _Stop) -> Iterator[None]:
    handlers = {signal.SIGUSR1: stop.soon, signal.SIGALRM: stop.now, signal.SIGTERM: stop.now}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


# Records
def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write what a shard says of itself, with a digest."""
    write_text(path, json.dumps({"record": record, "digest": digest(record)}, indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Return what a shard said of itself; empty if it said nothing, or the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        record = content["record"]
        return dict(record) if content["digest"] == digest(record) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def failed_models(folder: Path) -> dict[str, str]:
    """Return model -> why it failed, of all shards that are through."""
    found: dict[str, str] = {}
    for path in sorted((folder / SHARDS).glob("*.json")):
        record = read_record(path)
        if record.get("state") == "done":
            found |= record["errors"]
    return found
