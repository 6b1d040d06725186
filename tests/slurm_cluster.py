"""A real Slurm on this machine, for the tests: munged, slurmctld and one slurmd per node, on the loopback only."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = (*DAEMONS, "sbatch", "squeue", "scontrol", "scancel", "sinfo")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

# No cgroups, so that it runs in a container; what a requeued job waits (cred_expire) is 120 s by default.
_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
MinJobAge=3600
KillWait=2
ReturnToService=2
MaxArraySize={array_size}
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=n[1-{n_nodes}] Default=YES MaxTime=INFINITE PriorityTier=2
PartitionName=low Nodes=n[1-{n_nodes}] MaxTime=INFINITE PriorityTier=1 GraceTime=2
"""


class Cluster:
    """A cluster of nodes n1, n2, ..., all of them this machine; stopped by `stop`.

    Parameters
    ----------
    n_nodes, cpus : int
        Nodes, and processors that each is said to have.
    array_size : int
        MaxArraySize.
    """

    def __init__(self, *, n_nodes: int = 2, cpus: int = 4, array_size: int = 1001) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: sockets lie below it
        for name in ("munge", "state", "log", *(f"spool/n{i + 1}" for i in range(n_nodes))):
            (self.folder / name).mkdir(parents=True)
        ports = _free_ports(n_nodes + 1)
        host = socket.gethostname().split(".")[0]
        nodes = [
            f"NodeName=n{i + 1} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=16000"
            for i, port in enumerate(ports[1:])
        ]
        self.conf = self.folder / "slurm.conf"
        self.conf.write_text(
            _CONF.format(
                host=host,
                port=ports[0],
                user=psutil.Process().username(),
                folder=self.folder,
                nodes="\n".join(nodes),
                n_nodes=n_nodes,
                array_size=array_size,
            )
        )
        self.environment = os.environ | {"SLURM_CONF": str(self.conf), "PATH": _PATH}
        self.n_nodes = n_nodes
        self._run("munged", "--force", f"--socket={self.folder}/munge/socket", f"--key-file={self._key()}",
                  f"--log-file={self.folder}/log/munged.log", f"--pid-file={self.folder}/munge/pid",
                  f"--seed-file={self.folder}/munge/seed")  # fmt: skip
        self.start_controller()
        for i in range(n_nodes):
            self._run("slurmd", "-f", str(self.conf), "-N", f"n{i + 1}")
        wait_for(lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split().count("idle") >= n_nodes, seconds=40)

    def ask(self, *command: str) -> str:
        """Run a command of Slurm."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def start_controller(self) -> None:
        """Start the controller, which goes on with the jobs that it knew."""
        self._run("slurmctld", "-f", str(self.conf))
        ping = ["scontrol", "ping"]
        wait_for(lambda: not subprocess.run(ping, env=self.environment, capture_output=True).returncode, seconds=30)

    def stop_controller(self) -> None:
        """End the controller, which keeps its state (killed within seconds of a submission it forgets jobs)."""
        process = psutil.Process(int((self.folder / "slurmctld.pid").read_text()))
        process.terminate()
        wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, seconds=20)

    def stop(self) -> None:
        """End all jobs and daemons, and remove the files."""
        for state in ("PENDING", "RUNNING"):
            subprocess.run(["scancel", f"--state={state}"], env=self.environment, capture_output=True, check=False)
        with contextlib.suppress(TimeoutError, subprocess.CalledProcessError):
            wait_for(lambda: not self.ask("squeue", "-h").strip(), seconds=20)
        ours = [p for p in psutil.process_iter(["cmdline"]) if str(self.folder) in " ".join(p.info["cmdline"] or ())]
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(ours, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _key(self) -> Path:
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        return key

    def _run(self, *command: str) -> None:
        log = self.folder / "log" / f"{command[0]}.out"
        with log.open("ab") as file:
            done = subprocess.run(command, env=self.environment, stdout=file, stderr=file, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} does not start: {log.read_text()[-500:]}")


def require_packages() -> None:
    """Skip a test where Slurm is not installed; fail where CI=true."""
    if missing := [name for name in COMMANDS if shutil.which(name, path=_PATH) is None]:
        text = f"no {missing[0]}: apt-get install slurmctld slurmd munge slurm-client"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)


def wait_for(condition, *, seconds: float) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {seconds:g} s")
        time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
