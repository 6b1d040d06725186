"""How far the tasks of a submitted run are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.distribute import slurm
from toolkit.distribute.shards import Shard, read_record
from toolkit.distribute.submission import FINISH, SUBMISSION, Submission, read_submission
from toolkit.grid.folder import read_run
from toolkit.grid.store import Store
from toolkit.report.tables import format_table

if TYPE_CHECKING:
    from collections.abc import Sequence

_DONE, _NOT_SUBMITTED = "done", "not submitted"


@dataclass(frozen=True)
class ShardState:
    """How far a shard is.

    Attributes
    ----------
    shard : Shard
    state : str
        ``done``; a state of Slurm's queue; or, of what is not in the queue, how it ended as far as Slurm or the shard
        know.
    reason : str
    n_fitted : int
    is_lost : bool
        Neither finished nor in the queue.
    """

    shard: Shard
    state: str
    reason: str
    n_fitted: int
    is_lost: bool


def shard_states(submission: Submission) -> list[ShardState]:
    """Return how far each shard is; done is only one whose models are all in the folder, whole."""
    waiting = slurm.queued(submission.jobs)  # before the records, and these before the models: tasks go on meanwhile
    over = slurm.ended(submission.jobs)
    shards = [Shard(stage, task, n) for stage, n in submission.n_tasks.items() for task in range(n)]
    records = [read_record(shard.record_path(submission.folder)) for shard in shards]
    store = Store(submission.folder / "models")
    return [
        _state_of(submission, shard, record, store, waiting, over)
        for shard, record in zip(shards, records, strict=True)
    ]


def _state_of(
    submission: Submission,
    shard: Shard,
    record: dict[str, Any],
    store: Store,
    waiting: dict[tuple[str, int | None], slurm.Queued],
    over: dict[tuple[str, int | None], str],
) -> ShardState:
    n_fitted = record.get("n_fitted", 0)
    if record.get("state") == "done" and all(one in store.rows or one in record["errors"] for one in record["models"]):
        return ShardState(shard, _DONE, _failures(record), n_fitted, is_lost=False)
    keys = [(array.job, shard.task - array.offset) for array in submission.arrays.get(shard.stage, [])]
    for key in reversed(keys):
        if key in waiting:
            found = waiting[key]
            return ShardState(shard, found.state.lower(), _waiting_for(found), n_fitted, is_lost=False)
    last = next((over[key] for key in reversed(keys) if key in over), "" if keys else _NOT_SUBMITTED)
    logs = [f"{shard.stage}-{job}_{number}" for job, number in reversed(keys)]
    reason = _last_words(submission, logs) or record.get("reason", "")
    if not record and not reason and last not in ("", _NOT_SUBMITTED, "CANCELLED"):
        reason = f"it left no trace; perhaps its node does not see {submission.folder}"
    return ShardState(shard, last or "gone", reason, n_fitted, is_lost=True)


def _failures(record: dict[str, Any]) -> str:
    return f"{len(record['errors'])} models failed" if record["errors"] else ""


def _waiting_for(task: slurm.Queued) -> str:
    return "" if task.reason == "None" else task.reason


def _last_words(submission: Submission, logs: Sequence[str]) -> str:
    """Return the last error in the first of some logs that is there."""
    for name in logs:
        path = submission.inside / "logs" / f"{name}.log"
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            words = [line for line in lines if line.startswith(("error: ", "slurmstepd: error: "))]
            return words[-1].partition("error: ")[2][:200] if words else ""
    return ""


def finish_state(submission: Submission) -> ShardState:
    """Return how far the last job is."""
    shard = Shard(FINISH, 0, 1)
    if read_run(submission.folder)["state"] == "complete":
        return ShardState(shard, _DONE, "", 0, is_lost=False)
    jobs = [array.job for array in submission.arrays.get(FINISH, [])]
    if not jobs:
        return ShardState(shard, _NOT_SUBMITTED, "", 0, is_lost=True)
    if found := slurm.queued(jobs[-1:]).get((jobs[-1], None)):
        return ShardState(shard, found.state.lower(), _waiting_for(found), 0, is_lost=False)
    last = slurm.ended(jobs[-1:]).get((jobs[-1], None), "gone")
    return ShardState(shard, last, _last_words(submission, [f"{FINISH}-{jobs[-1]}"]), 0, is_lost=True)


def submission_text(folder: Path) -> str:
    """Say how far each task of a run is; nothing if it was not submitted."""
    if not (Path(folder) / "slurm" / SUBMISSION).exists():
        return ""
    submission = read_submission(folder)
    states = [*shard_states(submission), finish_state(submission)]
    rows = [(state.shard.stage, state.shard.task, state.state, state.n_fitted or "-", state.reason) for state in states]
    table = format_table(("stage", "task", "state", "models", "reason"), rows)
    lost = sum(state.is_lost for state in states)
    more = f"\n{lost} of {len(states)} tasks are lost; `toolkit resume {folder}` submits them again" if lost else ""
    return f"{table}{more}"
