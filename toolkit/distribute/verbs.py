"""The command line of Slurm: every verb is one call into the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli_options import ConfigFile, Debug, Device, Memory, Quiet, Seed, Strict

Submitted = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run that was submitted.")]


def submit(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="Folder for the results; all nodes must see it.")],
    device: Device = "auto",
    memory: Memory = None,
    seed: Seed = None,
    partition: Annotated[str | None, typer.Option(help="As sbatch takes it.")] = None,
    gres: Annotated[str | None, typer.Option(help="As sbatch takes it: gpu:1.")] = None,
    time: Annotated[str | None, typer.Option(help="Limit for each task, as sbatch takes it: 02:00:00.")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory of each task, as sbatch takes it: 64G.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Processors of each task.", min=1)] = None,
    account: Annotated[str | None, typer.Option(help="As sbatch takes it.")] = None,
    qos: Annotated[str | None, typer.Option(help="As sbatch takes it.")] = None,
    array_size: Annotated[
        int | None, typer.Option(help="Tasks of a stage, at most; by default one per matrix and kind of model.")
    ] = None,
    dependency: Annotated[str | None, typer.Option(help="Of the first jobs, as sbatch takes it.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="Further option of sbatch, may be given again: --constraint=a100.")
    ] = None,
    *,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit to Slurm, the only queue there is so far.")] = False,
    strict: Strict = False,
    report: Annotated[bool, typer.Option(help="Draw the plots and write report.html at the end.")] = True,
    print_script: Annotated[
        bool, typer.Option("--print-script", help="Print the batch scripts, and submit nothing.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run CONFIG as jobs of Slurm: an array of tasks for each stage, then one job for tables and report.

    For instance: toolkit submit grid.yaml --out results/grid --slurm --partition gpu --gres gpu:1 --time 04:00:00
    """
    from toolkit.config import load_config, seeded
    from toolkit.distribute.slurm import Resources, largest_array
    from toolkit.distribute.submit import plan_submission, scripts_text, submit_run
    from toolkit.errors import InputError
    from toolkit.progress import Reporter

    if not slurm:
        raise InputError("submit where? add --slurm; to run on this machine use `toolkit run`")
    loaded = seeded(load_config(config), seed)
    submission = plan_submission(
        loaded,
        out,
        resources=Resources(partition, gres, time, mem, cpus, account, qos, tuple(sbatch or ())),
        device=device,
        memory=memory,
        array_size=array_size,
        report=report,
        strict=strict,
        **({} if print_script else {"most_tasks": largest_array()}),
    )
    if print_script:
        print(scripts_text(submission), end="")
        return
    submit_run(submission, loaded, dependency=dependency, reporter=Reporter(quiet=quiet))
    if not quiet:
        tasks = ", ".join(f"{stage} {number}" for stage, number in submission.n_tasks.items())
        print(f"submitted  jobs {' '.join(submission.jobs)}: tasks of {tasks}, then the report")
        print(f"status     toolkit status {out}")


def resume(folder: Submitted, *, quiet: Quiet = False, debug: Debug = False) -> None:
    """Submit again what is neither finished nor in the queue."""
    from toolkit.distribute.submit import resume_run

    submission, n_missing = resume_run(folder)
    if not quiet:
        print(f"{n_missing} tasks submitted again; jobs {' '.join(submission.jobs)}")


def cancel(folder: Submitted, *, quiet: Quiet = False, debug: Debug = False) -> None:
    """Take the jobs of a run off the queue; what is finished is kept."""
    from toolkit.distribute.submit import cancel_run

    n_cancelled = cancel_run(folder)
    if not quiet:
        print(f"{n_cancelled} tasks cancelled; `toolkit resume {folder}` goes on")


def shard(
    folder: Submitted,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="Name of a stage.")],
    task: Annotated[int, typer.Option(help="Which shard, from 0.", min=0)],
    tasks: Annotated[int, typer.Option(help="Of how many.", min=1)],
    grace: Annotated[float, typer.Option(help="Seconds between the signal USR1 and the end.", min=0)] = 0.0,
    device: Device = "auto",
    memory: Memory = None,
    *,
    strict: Strict = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fit the models of one task of a stage; jobs of Slurm run this."""
    from toolkit.backend.device import choose_backend
    from toolkit.config import load_config
    from toolkit.distribute.shards import CONFIG, Shard, run_shard
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

    engine = load_config(folder / "slurm" / CONFIG).engine
    done = run_shard(
        folder,
        Shard(stage, task, tasks),
        memory=MemoryBudget.resolve(memory),
        backend=choose_backend(device, engine=engine, memory=memory)[0],
        reporter=Reporter(quiet=quiet),
        grace=grace,
        strict=strict,
    )
    if not quiet:
        print(done)
