"""A run submitted to Slurm, submitted again where tasks were lost, and cancelled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from toolkit.atomic import write_text
from toolkit.descriptors.cache import Cache
from toolkit.distribute import slurm
from toolkit.distribute.shards import CONFIG, SHARDS, units_of
from toolkit.distribute.states import finish_state, shard_states
from toolkit.distribute.submission import FINISH, SUBMISSION, Array, Submission, read_submission
from toolkit.distribute.supervisor import SHARE
from toolkit.errors import InputError
from toolkit.grid.fitter import open_loader
from toolkit.grid.folder import RunFolder
from toolkit.grid.plan import stage_cells
from toolkit.grid.predict import check_disk, check_memory, predict
from toolkit.memory import MemoryBudget, parse_size
from toolkit.report.tables import plan_summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from toolkit.config import Config, Stage
    from toolkit.descriptors.loader import DataLoader
    from toolkit.progress import Reporter

_MOST_TASKS = 64  # of a stage, where nothing is said


def plan_submission(
    config: Config,
    out: Path,
    *,
    resources: slurm.Resources,
    device: str,
    memory: str | None,
    array_size: int | None = None,
    report: bool = True,
    strict: bool = False,
    most_tasks: int = slurm.MOST_TASKS,
) -> Submission:
    """Cut a run into tasks; nothing is written or submitted.

    Parameters
    ----------
    config : Config
    out : Path
    resources : Resources
    device, memory, report, strict
        Of the tasks, as in `toolkit run`.
    array_size : int, optional
        Tasks of a stage, at most; by default one for each matrix and kind of computation (KMeans, density).
    most_tasks : int
        That an array of this cluster can have.
    """
    if array_size is not None and array_size < 1:
        raise InputError(f"array size {array_size}; allowed: from 1 task")
    if any(stage.name == FINISH for stage in config.stages):
        raise InputError(f"a stage that is submitted cannot be called {FINISH!r}, as the last job is; rename it")
    loader = open_loader(config, MemoryBudget.resolve())
    n_tasks: dict[str, int] = {}
    stated: Stage | None = None
    for stage in config.stages:
        stated = stated if stage.refine and stated is not None else stage
        n_units = len(units_of(stage_cells(stated, loader.names, config.seed), config))
        n_tasks[stage.name] = min(n_units, array_size or _MOST_TASKS)
    return Submission(
        folder=Path(out).resolve(),
        work=Path.cwd(),
        n_tasks=n_tasks,
        resources=resources,
        device=device,
        memory=memory,
        report=report,
        strict=strict,
        most_tasks=most_tasks,
    )


def scripts_text(submission: Submission) -> str:
    """Return all scripts of a submission, one after the other."""
    texts = [
        submission.shards_script(stage, range(len(tasks)), tasks.start)
        for stage, n_tasks in submission.n_tasks.items()
        for tasks in _arrays(range(n_tasks), submission.most_tasks)
    ]
    return "\n".join([*texts, submission.finish_script()])


def submit_run(
    submission: Submission, config: Config, *, dependency: str | None = None, reporter: Reporter
) -> Submission:
    """Write what the jobs need into the folder of the run, and submit them.

    Parameters
    ----------
    submission : Submission
    config : Config
    dependency : str, optional
        Of the first jobs, as sbatch takes it.
    reporter : Reporter

    Raises
    ------
    InputError
        If there is no Slurm, it refuses, the run cannot be planned, or the folder is taken.
    """
    slurm.require_slurm()
    folder = submission.folder
    if (known := folder / "slurm" / SUBMISSION).exists():
        raise InputError(
            f"{folder} has been submitted ({known}); `toolkit status` says how far it is, `toolkit resume` goes on"
        )
    loader = open_loader(config, MemoryBudget.resolve())
    with RunFolder(folder) as held:
        held.check(config.identity())
        parts = predict(config, loader)
        if (budget := _of_task(submission)) is not None:
            check_memory(parts, budget)
            reporter.say(plan_summary(parts, budget))
        check_disk(parts, folder)
        held.claim(config.identity(), _fingerprints(folder, loader, reporter))
        held.describe(state="submitted")
        _prepare(submission, config)
    _submit(submission, {stage: range(n) for stage, n in submission.n_tasks.items()}, dependency)
    return submission


def resume_run(folder: Path) -> tuple[Submission, int]:
    """Submit again what is neither finished nor in the queue; return the submission and how many tasks that are."""
    slurm.require_slurm()
    submission = read_submission(folder)
    states = shard_states(submission)
    missing = {
        stage: [state.shard.task for state in states if state.shard.stage == stage and state.is_lost]
        for stage in submission.n_tasks
    }
    n_missing = sum(map(len, missing.values()))
    finish = finish_state(submission)
    if n_missing or finish.is_lost:
        if not finish.is_lost:
            slurm.cancel([submission.arrays[FINISH][-1].job])  # it waits for jobs that will never succeed
        for state in states:
            if state.is_lost and state.state == "OUT_OF_MEMORY":
                (submission.folder / SHARDS / f"{state.shard.stage}-{state.shard.task}.killed").touch()
        _submit(submission, missing, None)
    return submission, n_missing


def cancel_run(folder: Path) -> int:
    """Take the jobs of a run off the queue; return how many tasks that are."""
    slurm.require_slurm()
    submission = read_submission(folder)
    waiting = slurm.queued(submission.jobs)
    slurm.cancel(sorted({job for job, _ in waiting}))
    return len(waiting)


# Submitting
def _of_task(submission: Submission) -> MemoryBudget | None:
    """Return the budget of a task; None if it is not known here: that of this machine says nothing of the nodes."""
    if submission.memory is not None:
        return MemoryBudget.resolve(submission.memory)
    mem = submission.resources.mem
    if mem is None or mem == "0":
        return None
    return MemoryBudget(int(SHARE * parse_size(f"{mem}M" if mem.isdigit() else mem)), "of --mem")


def _prepare(submission: Submission, config: Config) -> None:
    """Write what the jobs read."""
    (submission.inside / "logs").mkdir(parents=True, exist_ok=True)
    (submission.folder / SHARDS).mkdir(exist_ok=True)
    content = config.identity()
    if config.descriptors.images is not None:
        content["descriptors"]["images"] = str(config.descriptors.images)
    write_text(submission.inside / CONFIG, yaml.safe_dump(content, sort_keys=False))
    write_text(submission.inside / "probe", submission.token + "\n")


def _fingerprints(folder: Path, loader: DataLoader, reporter: Reporter) -> dict[str, str]:
    cache = Cache(folder / "cache", reporter)
    return {name: cache.fingerprint(loader.open(name).path) for name in loader.names}


def _submit(submission: Submission, tasks: Mapping[str, Sequence[int]], dependency: str | None) -> None:
    """Submit tasks of stages, each stage after the one before, and the last job; what is submitted is kept at once."""
    waiting = {job for job, _ in slurm.queued(submission.jobs)}
    after: list[str] = []
    for stage, some in tasks.items():
        after_stage = [array.job for array in submission.arrays.get(stage, []) if array.job in waiting]
        for chunk in _arrays(some, submission.most_tasks):
            numbers = [task - chunk.start for task in some if task in chunk]
            path = submission.inside / f"{stage}-{chunk.start}.sh"
            write_text(path, submission.shards_script(stage, numbers, chunk.start))
            job = slurm.submit(path, after=after, dependency=dependency if not after else None)
            submission.arrays.setdefault(stage, []).append(Array(job, chunk.start))
            submission.save()
            after_stage.append(job)
        after = after_stage or after
    path = submission.inside / f"{FINISH}.sh"
    write_text(path, submission.finish_script())
    job = slurm.submit(path, after=after, dependency=dependency if not after else None)
    submission.arrays.setdefault(FINISH, []).append(Array(job, 0))
    submission.save()


def _arrays(tasks: Sequence[int], size: int) -> list[range]:
    """Return the ranges of numbers, each of one array, in which there are tasks."""
    starts = sorted({task // size * size for task in tasks})
    return [range(start, min(start + size, max(tasks) + 1)) for start in starts]
