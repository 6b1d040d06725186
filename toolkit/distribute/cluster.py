"""Clusters of Dask: opened, checked, and watched while their workers do what they are told."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from collections import Counter
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import toolkit
from toolkit.atomic import write_text
from toolkit.distribute.tasks import DASK_SHARE, Share
from toolkit.errors import InputError, ToolkitError, one_line
from toolkit.memory import format_size
from toolkit.packages import import_package

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

_ALLOWED = (
    "allowed: local:N (processes of this machine), slurm:N (jobs) or the address of a scheduler, as tcp://host:8786"
)
_ADDRESS = re.compile(r"([a-z]+://)?([\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]+")
_ANSWER_SECONDS = 10  # until an address, and the workers behind it, must have answered
_WITHOUT_SECONDS = 60  # that a run may be without any worker
_POLL_SECONDS = 2.0
_DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # Ctrl-C is for this process, which ends them
_DEATHS = 10  # of workers that may happen to one task

Config = dict[str, Any]


class ClusterError(ToolkitError, ConnectionError):
    """A cluster is gone; what is finished is kept. An `OSError`: it is no model's own, and so ends the run."""


class Cluster:
    """A scheduler with workers that see the folder of the run.

    Parameters
    ----------
    client : distributed.Client
    where : str
        As the user gave it.
    folder : Path
        That all workers must see.
    memory : int or None
        Bytes that each worker may take; None is what Dask grants it.

    Raises
    ------
    InputError
        If a worker does not see the folder, or cannot import what it needs.
    """

    def __init__(self, client: Any, where: str, folder: Path, memory: int | None) -> None:
        self.client, self.where, self.memory = client, where, memory
        self._probe, self._token = folder / "probe", secrets.token_hex(16)
        self._answers: dict[str, dict[str, Any]] = {}
        write_text(self._probe, self._token)
        self._check(self._workers())

    def slots(self) -> int:
        """Return how many tasks run at the same time, once all workers that have come since are checked."""
        workers = self._workers()
        try:
            self._check(workers)
        except InputError as error:
            raise ClusterError(str(error)) from error
        return max(1, sum(workers.values()))

    @property
    def share(self) -> Share:
        """What a task may take."""
        slots = Counter[str]()
        for answer in self._answers.values():
            slots[answer["host"]] += answer["n_tasks"]
        return Share(dict(slots), self.memory)

    @property
    def free(self) -> int:
        """Bytes that a task may take on the worker that grants least."""
        free: int = min(
            ((answer["memory"] if self.memory is None else self.memory) - answer["resident"]) // answer["n_tasks"]
            for answer in self._answers.values()
        )
        return free

    def describe(self) -> dict[str, str]:
        """Return facts for the record of a run."""
        import distributed

        workers = self._workers()
        return {
            "cluster": self.where,
            "workers": str(len(workers)),
            "tasks_at_once": str(sum(workers.values())),
            "hosts": str(len(self.share.slots)),
            "memory_of_a_task": format_size(self.free),
            "distributed": str(distributed.__version__),
        }

    def submit(self, function: Any, *arguments: Any) -> Any:
        """Hand a task to the workers; futures among its arguments are tasks that come before."""
        return self.client.submit(function, *arguments, self.share, pure=False)

    def finished(self, futures: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
        """Yield the names and results of futures as they finish; all are let go in the end, done or not.

        Raises
        ------
        ClusterError
            If the scheduler or all workers are gone, or workers keep dying.
        """
        import distributed

        names, pending = {future.key: name for name, future in futures.items()}, set(futures.values())
        last_seen = time.monotonic()
        try:
            while pending:
                try:
                    done, pending = distributed.wait(pending, timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
                except TimeoutError:
                    last_seen = time.monotonic() if self._workers() else last_seen
                    if time.monotonic() - last_seen > _WITHOUT_SECONDS:
                        raise ClusterError(
                            f"--dask {self.where}: there has been no worker for {_WITHOUT_SECONDS} s; start some, and "
                            f"the same command goes on where it stopped"
                        ) from None
                    continue
                last_seen = time.monotonic()
                for future in done:
                    yield names[future.key], future.result()
        except distributed.KilledWorker as error:
            raise ClusterError(
                f"--dask {self.where}: {error.allowed_failures + 1} workers died one after the other at the same work "
                f"(memory?); see their logs; with less --memory or more workers the same command goes on"
            ) from error
        except (CancelledError, distributed.comm.CommClosedError) as error:
            raise self._gone() from error
        finally:
            with contextlib.suppress(Exception):  # of a connection that is lost
                self.client.cancel(list(futures.values()))

    def _workers(self) -> dict[str, int]:
        """Return worker -> tasks that it does at the same time."""
        try:
            return dict(self.client.nthreads())
        except (OSError, RuntimeError, CancelledError) as error:
            raise self._gone() from error

    def _check(self, workers: dict[str, int]) -> None:
        """Ask workers that are not known what they have, and refuse those that cannot work; forget those that left."""
        if new := [worker for worker in workers if worker not in self._answers]:
            self._check_python(new)
            answers = self.client.run(_question(), str(self._probe), workers=new, on_error="ignore")  # it may be gone
            for worker, answer in answers.items():
                self._refuse(worker, answer)
            self._answers |= answers
        self._answers = {worker: found for worker, found in self._answers.items() if worker in workers} or self._answers

    def _check_python(self, new: list[str]) -> None:
        """Refuse another version of Python: it cannot run what is sent to it."""
        versions = self.client.get_versions()
        own = versions["client"]["host"]["python"].split(".")[:2]
        for worker in new:
            python = versions["workers"].get(worker, versions["client"])["host"]["python"].split(".")[:2]
            if python != own:
                raise InputError(
                    f"--dask {self.where}: worker {worker} has Python {'.'.join(python)}, this is {'.'.join(own)}; "
                    f"start it from the same environment"
                )

    def _refuse(self, worker: str, answer: dict[str, Any]) -> None:
        """Refuse a worker without this version of the package, or without the folder."""
        who = f"--dask {self.where}: worker {worker} on {answer['host']}"
        if answer["toolkit"] != toolkit.__version__:
            raise InputError(
                f"{who} has toolkit: {answer['toolkit']}, this is {toolkit.__version__}; install it there, or start "
                f"the worker from the same environment"
            )
        if answer["probe"] != self._token:
            raise InputError(
                f"{who} does not see the files of {self._probe.parent.parent}; give --out a folder that all workers "
                f"share"
            )

    def _gone(self) -> ClusterError:
        return ClusterError(
            f"--dask {self.where}: the scheduler is gone; start it again, and the same command goes on where it stopped"
        )


@contextlib.contextmanager
def open_cluster(where: str, folder: Path, *, memory: MemoryBudget, reporter: Reporter) -> Iterator[Cluster]:
    """Open a cluster, and check that its workers can work.

    Parameters
    ----------
    where : str
        ``local:N``, ``slurm``, ``slurm:N`` or the address of a scheduler.
    folder : Path
        That all workers must see; a file is written into it to find out.
    memory : MemoryBudget
        Of this machine; of ``local:N``, this process and each of the others take one part of it.
    reporter : Reporter

    Raises
    ------
    InputError
        If `where` is none of these, nobody answers, or a worker does not see the folder or cannot import what it needs.
    MissingPackageError
        Without ``distributed``, or, for Slurm, ``dask_jobqueue``.
    """
    kind, number = _parse(where)
    distributed = import_package("distributed", pip="distributed", what=f"--dask {where}")
    import dask

    with contextlib.ExitStack() as stack:
        quiet: Config = {"distributed.scheduler.allowed-failures": _DEATHS, "logging": {"distributed": "critical"}}
        quiet["distributed.worker.profile.enabled"] = False
        stack.enter_context(dask.config.set(quiet if kind != "address" else {}))
        given = None
        if kind == "local":
            given = memory.limit // (number + 1)
            target = stack.enter_context(_local(distributed, number, folder))
        elif kind == "slurm":
            target = stack.enter_context(_slurm(where, number))
        else:
            target = where
        client = stack.enter_context(_connect(distributed, where, target))
        _wait_for_workers(client, where, kind, reporter)
        yield Cluster(client, where, folder, given)


def _parse(where: str) -> tuple[str, int]:
    """Return the kind of cluster and how many workers it is to have."""
    kind, _, number = where.partition(":")
    if kind == "slurm" and not number:
        return kind, 1
    if kind in ("local", "slurm"):
        if not number.isdecimal() or int(number) < 1:
            raise InputError(f"--dask {where}: the number of workers is {number or 'missing'}; allowed: from 1")
        return kind, int(number)
    if not _ADDRESS.fullmatch(where):
        raise InputError(f"--dask {where} is no cluster; {_ALLOWED}")
    return "address", 0


def _local(distributed: Any, number: int, folder: Path) -> Any:
    """Start processes of this machine, which only it can reach."""
    return distributed.LocalCluster(
        n_workers=number,
        threads_per_worker=1,  # a task at a time, which uses several itself
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,  # the tasks keep to theirs
        local_directory=str(folder),
        silence_logs=logging.CRITICAL,
        preload=[_DEAF],
    )


def _slurm(where: str, number: int) -> Any:
    """Submit jobs as the user's configuration of dask-jobqueue says."""
    jobqueue = import_package("dask_jobqueue", pip="dask-jobqueue", what=f"--dask {where}")
    try:
        cluster = jobqueue.SLURMCluster()
    except Exception as error:  # what is missing in the configuration is a TypeError, a ValueError or others
        raise InputError(
            f"--dask {where}: Dask cannot make jobs: {one_line(error)}; give jobqueue: slurm: cores and memory in "
            f"~/.config/dask/jobqueue.yaml"
        ) from error
    cluster.scale(jobs=number)
    return cluster


def _connect(distributed: Any, where: str, target: Any) -> Any:
    try:
        return distributed.Client(target, timeout=_ANSWER_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask {where}: no scheduler of Dask answers there ({one_line(error)[:80]}); start `dask scheduler`, or "
            f"give local:N"
        ) from error


def _wait_for_workers(client: Any, where: str, kind: str, reporter: Reporter) -> None:
    """Wait until there is a worker; jobs may be in the queue for long."""
    if kind == "slurm":
        reporter.say(f"--dask {where}: waiting for the first worker")
    try:
        client.wait_for_workers(1, timeout=None if kind == "slurm" else _ANSWER_SECONDS)
    except TimeoutError as error:
        raise InputError(f"--dask {where}: the scheduler has no worker; start `dask worker {where}`") from error


def _question() -> Any:
    """Return a function that is sent whole, and so runs where this package is missing."""
    share = DASK_SHARE

    def ask(probe: str, dask_worker: Any) -> dict[str, Any]:
        import pathlib
        import socket

        import psutil

        try:
            import toolkit

            version = str(toolkit.__version__)
        except Exception as error:  # whatever is wrong with what is installed there
            version = " ".join(f"none ({error})".split())[:120]
        try:
            content = pathlib.Path(probe).read_text()
        except OSError:
            content = ""
        granted = dask_worker.memory_manager.memory_limit
        return {
            "toolkit": version,
            "probe": content,
            "host": socket.gethostname(),
            "n_tasks": dask_worker.state.nthreads,
            "memory": int(share * granted) if granted else psutil.virtual_memory().available,
            "resident": psutil.Process().memory_info().rss,
        }

    return ask
