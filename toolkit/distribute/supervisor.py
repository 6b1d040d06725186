"""What a task of Slurm runs: it starts the command, passes signals on, and puts the task back into the queue.

Only this process knows in time that the command was killed, or that it stopped because its time was over.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from toolkit.memory import MemoryBudget, parse_size

AGAIN = 75  # exit status of a command that was told to stop and can go on: EX_TEMPFAIL of sysexits.h
TASK = "{task}"  # stands for the number of the task in the command and the mark
_REQUEUE_SECONDS = 90.0  # until Slurm must have ended this process
SHARE = 0.9  # of the memory that Slurm gives: the rest is for this process and the system's


def main(arguments: list[str] | None = None) -> int:
    """Run the command of a task.

    Returns
    -------
    int
        Its exit status, or that of its signal as a shell gives it.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offset", type=int, default=0, help="of the number of the task to that in its array")
    parser.add_argument("--mark", required=True, help="file that is there once the command has been killed")
    parser.add_argument("--memory", help="of the command; by default what Slurm gives the task")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    task = str(given.offset + int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")))
    mark = Path(given.mark.replace(TASK, task))
    command = [word.replace(TASK, task) for word in given.command]
    limit = _memory(given.memory)
    return _supervise([*command, "--memory", str(limit // 2 if mark.exists() else limit)], mark)


def _memory(given: str | None) -> int:
    if given is not None:
        return parse_size(given)
    per_cpu, cpus = (os.environ.get(f"SLURM_{name}") for name in ("MEM_PER_CPU", "CPUS_ON_NODE"))
    if per_node := os.environ.get("SLURM_MEM_PER_NODE") or (per_cpu and cpus and int(per_cpu) * int(cpus)):  # MiB
        return int(SHARE * int(per_node)) << 20
    return MemoryBudget.resolve().limit


def _supervise(command: list[str], mark: Path) -> int:
    told: list[int] = []
    child: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        told.append(number)
        for process in child:
            process.send_signal(number)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, pass_on)
    child.append(subprocess.Popen(command))  # noqa: S603 (a list, without a shell)
    for early in told:  # before there was a child
        child[0].send_signal(early)
    status = child[0].wait()
    if status == 0:
        mark.unlink(missing_ok=True)
        return 0
    if signal.SIGTERM in told:  # Slurm ends, or requeues, this task itself
        return 128 + signal.SIGTERM
    if status == AGAIN or (status == -signal.SIGUSR1):  # it was told before it could listen
        return _requeue("its time is over: it goes on after a requeue")
    if status == -signal.SIGKILL:
        if mark.exists():
            _say(
                "error: killed again, with half of the memory; submit with more --mem, once the folder slurm in that "
                "of the run is removed"
            )
            return 128 + signal.SIGKILL
        mark.touch()
        return _requeue("killed, perhaps for lack of memory: once more with half of it")
    return status if status >= 0 else 128 - status


def _requeue(why: str) -> int:
    number = os.environ.get("SLURM_ARRAY_TASK_ID")
    job = os.environ["SLURM_JOB_ID"] if number is None else f"{os.environ['SLURM_ARRAY_JOB_ID']}_{number}"
    _say(why)
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode:
        _say(f"error: Slurm did not requeue {job}: {' '.join(done.stderr.split())}; `toolkit resume` goes on")
        return AGAIN
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_REQUEUE_SECONDS)
    return AGAIN


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
