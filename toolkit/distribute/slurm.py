"""What Slurm is told and asked: the text of a batch script, and its commands as functions."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GRACE = 120  # seconds before the end of its time at which a task is told
_COMMAND_SECONDS = 60.0
MOST_TASKS = 1001  # of an array: MaxArraySize of Slurm where nothing else is said

_CHECKS = """\
if [ "$(cat {probe} 2>/dev/null)" != {token} ]; then
  echo "error: $(hostname)" {unseen} >&2
  exit 1
fi
if ! {python} -c "import toolkit" 2>/dev/null; then
  echo "error: $(hostname)" {missing} >&2
  exit 1
fi"""


@dataclass(frozen=True)
class Resources:
    """What a job asks of Slurm; None: what the cluster gives by default.

    Attributes
    ----------
    partition, gres, time, mem, account, qos : str or None
        As sbatch takes them.
    cpus : int or None
        Processors of each task.
    more : tuple of str
        Further options of sbatch, such as ``--constraint=a100``.
    """

    partition: str | None = None
    gres: str | None = None
    time: str | None = None
    mem: str | None = None
    cpus: int | None = None
    account: str | None = None
    qos: str | None = None
    more: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """Return the options of sbatch."""
        named = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time,
            "cpus-per-task": self.cpus,
            "mem": self.mem,
            "gres": self.gres,
        }
        return [f"--{name}={value}" for name, value in named.items() if value is not None] + list(self.more)


@dataclass(frozen=True)
class Probe:
    """How a task finds out whether its node can work for a run.

    Attributes
    ----------
    folder : Path
        Of the run; every node must see it.
    path : Path
        A file in it.
    token : str
        What the file holds.
    python : str
        Interpreter that has the toolkit.
    """

    folder: Path
    path: Path
    token: str
    python: str


def script(
    *,
    name: str,
    log: Path,
    work: Path,
    probe: Probe,
    command: Sequence[str],
    mark: Path,
    memory: str | None,
    resources: Resources,
    array: str | None = None,
    offset: int = 0,
) -> str:
    """Return the text of a batch script.

    Parameters
    ----------
    name : str
        Of the job.
    log : Path
        Where its output goes, with Slurm's ``%A`` and ``%a``.
    work : Path
        Where it runs: paths of the configuration are as seen from there.
    probe : Probe
        What is looked at before the command is run.
    command, mark, memory : sequence of str, Path, str or None
        See `toolkit.distribute.supervisor`, which runs the command.
    resources : Resources
    array : str, optional
        Its tasks: ``0-3``, ``0,2``.
    offset : int
        Of the number of a task to that in the array.
    """
    options = [
        f"--job-name={name}",
        f"--output={log}",
        "--open-mode=append",
        f"--chdir={work}",
        "--requeue",
        f"--signal=B:USR1@{GRACE}",
        *([] if array is None else [f"--array={array}"]),
        *resources.options(),
    ]
    words = {
        "probe": probe.path,
        "token": probe.token,
        "python": probe.python,
        "unseen": f"does not see the files of {probe.folder}; give --out a folder that all nodes share",
        "missing": (
            f"cannot import toolkit with {probe.python}; install it there, or submit from an environment that all "
            f"nodes share"
        ),
    }
    checks = _CHECKS.format_map({name: shlex.quote(str(word)) for name, word in words.items()})
    lines = ["#!/bin/bash", *(f"#SBATCH {_quoted(option)}" for option in options), checks]
    supervisor = [probe.python, "-m", "toolkit.distribute.supervisor", f"--mark={mark}", f"--offset={offset}"]
    supervisor += [] if memory is None else [f"--memory={memory}"]
    return "\n".join([*lines, f"exec {shlex.join([*supervisor, '--', *command])}", ""])


def _quoted(option: str) -> str:
    """Write an option as sbatch reads it from a script: quotes around a value with blanks."""
    name, equals, value = option.partition("=")
    return f'{name}{equals}"{value}"' if re.search(r"\s", value) else option


# Commands
class Queued(NamedTuple):
    """A task that Slurm has in its queue: what state it is in, and why it waits."""

    state: str
    reason: str


def submit(path: Path, *, after: Sequence[str] = (), dependency: str | None = None) -> str:
    """Submit a script and return the number of its job.

    Parameters
    ----------
    path : Path
    after : sequence of str
        Jobs that must have succeeded; if one of them has failed, Slurm takes the new job off the queue.
    dependency : str, optional
        A further one, as sbatch takes it.

    Raises
    ------
    InputError
        If there is no Slurm, or it refuses.
    """
    all_of = ([f"afterok:{':'.join(after)}"] if after else []) + ([dependency] if dependency else [])
    options = [f"--dependency={','.join(all_of)}", "--kill-on-invalid-dep=yes"] if all_of else []
    return _ask("sbatch", "--parsable", *options, str(path)).strip().split(";")[0]


def queued(jobs: Sequence[str]) -> dict[tuple[str, int | None], Queued]:
    """Return (job, number in its array, or None) -> state, of the tasks that wait or run."""
    if not jobs:
        return {}
    try:
        text = _ask("squeue", "--noheader", "--array", f"--jobs={','.join(jobs)}", "--format=%F|%K|%T|%r")
    except InputError as error:
        if "Invalid job id" in str(error):  # all of them are gone for long
            return {}
        raise
    found: dict[tuple[str, int | None], Queued] = {}
    for line in text.splitlines():
        job, number, state, reason = line.strip().split("|", 3)
        found[job, int(number) if number.isdigit() else None] = Queued(state, reason)
    return found


def ended(jobs: Sequence[str]) -> dict[tuple[str, int | None], str]:
    """Return (job, number in its array, or None) -> last state, of tasks that Slurm still knows.

    The accounting knows most; without it, the controller knows for some minutes.
    """
    found: dict[tuple[str, int | None], str] = {}
    for job in jobs:
        try:
            text = _ask("scontrol", "--oneliner", "show", "job", job)
        except InputError:
            continue
        for line in text.splitlines():
            facts = dict(re.findall(r"(\w+)=(\S*)", line))
            number = facts.get("ArrayTaskId", "")
            found[job, int(number) if number.isdigit() else None] = facts.get("JobState", "UNKNOWN")
    try:
        text = _ask(
            "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(jobs)}", "--format=JobID,State"
        )
    except InputError:
        return found
    for line in text.splitlines():
        job, _, number = (name := line.split("|"))[0].partition("_")
        if not number or number.isdigit():
            found[job, int(number) if number else None] = name[1].split()[0]
    return found


def cancel(jobs: Sequence[str]) -> None:
    """Take jobs off the queue, and end those that run."""
    if jobs:
        _ask("scancel", *jobs)


def largest_array() -> int:
    """Return how many tasks an array can have."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE)
    return int(match[1]) if match else MOST_TASKS


def require_slurm() -> None:
    """Refuse to go on without Slurm.

    Raises
    ------
    InputError
        If its commands are not on the path.
    """
    if missing := [name for name in ("sbatch", "squeue", "scontrol", "scancel") if shutil.which(name) is None]:
        raise InputError(
            f"{missing[0]} is not on the path, so there is no Slurm here; submit from a login node of the cluster, or "
            f"use `toolkit run` on this machine"
        )


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 (a list, without a shell)
            command, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS
        )
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not on the path; submit from a login node of the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{command[0]} does not answer for {_COMMAND_SECONDS:.0f} s; is the controller up?") from error
    if done.returncode:
        raise InputError(f"{command[0]} refused: {_reason(done.stderr or done.stdout)}")
    return done.stdout


def _reason(text: str) -> str:
    """Return what a command of Slurm complains of, without its name."""
    return " ".join(re.sub(r"^\w+: error: ", "", line.strip()) for line in text.strip().splitlines())[:300]
