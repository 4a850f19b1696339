"""A real SLURM on one host: a munged, a slurmctld and two slurmd, in a folder of their own.

Nothing of the machine is touched: keys, sockets, ports, state and logs are the cluster's own, so it
runs beside a SLURM that is already there. It needs the programs of Debian's ``slurm-wlm`` and
``munge``, and root: jobs are started by root's slurmd.

Each node has one core, so at most two jobs run at once. A node is failed as a power cut would: its
slurmd, the slurmstepds and the jobs' processes are killed at once. ``slurmd`` alone would be no
failure, because its steps go on and finish.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("node1", "node2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
SYSTEM_PATH = os.pathsep.join(["/usr/sbin", "/sbin", "/usr/bin", "/bin"])

# cred_expire is also how long a requeued job is held back (default 120 s). MessageTimeout must stay below
# SlurmdTimeout, after which a silent node is down and its jobs are requeued.
_CONFIGURATION = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MessageTimeout=8
SlurmdTimeout=10
KillWait=5
MinJobAge=1800
JobRequeue=1
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=2:00:00 PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL MaxTime=2:00:00 PriorityTier=10 State=UP
"""


class Unavailable(Exception):
    """SLURM cannot be run here; the message says why."""


def why_not() -> str | None:
    """Say why no cluster can be started here, None if one can."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "a cluster of our own is started as root"
    return None


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), SYSTEM_PATH]))


@dataclass
class Cluster:
    """A running cluster."""

    folder: Path
    """Where everything of it lies."""
    environment: dict[str, str] = field(default_factory=dict)
    """What a process needs to see this cluster."""
    failures: int = 0
    """How many nodes were failed."""

    def slurm(self, *command: str) -> str:
        """Run one of SLURM's programs and return what it prints."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        return done.stdout

    def queue(self) -> dict[str, tuple[str, str]]:
        """Return state and node of every job that SLURM still knows, by id (``12_3`` in an array)."""
        lines = self.slurm("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N")
        rows = [line.strip().split("|") for line in lines.splitlines()]
        return {job: (state, node) for job, state, node in rows}

    def requeues(self) -> int:
        """Return how often jobs that SLURM still knows were requeued."""
        counts = self.slurm("squeue", "--noheader", "--array", "--states=all", "--Format=RestartCnt")
        return sum(map(int, counts.split()))

    def states(self) -> dict[str, str]:
        """Return the state of every node (``IDLE``, ``MIXED``, ``ALLOCATED``, ``DOWN*`` …)."""
        lines = self.slurm("sinfo", "--noheader", "--Node", "--format=%N|%T", "--partition=batch")
        return dict(line.strip().upper().replace("NODE", "node").split("|") for line in lines.splitlines())

    def fail_node(self, name: str) -> None:
        """Kill a node's slurmd, its slurmstepds and every process of their jobs, as if it lost power."""
        self.failures += 1
        daemon = _read_pid(self.folder / f"slurmd-{name}.pid")
        steps = [pid for pid, line in _processes() if "slurmstepd" in line and self._runs_on(pid, name)]
        victims = [one for root in steps for one in [root, *_descendants(root)]]
        _kill([*([daemon] if daemon else []), *victims])

    def _runs_on(self, pid: int, name: str) -> bool:
        """Whether a slurmstepd belongs to a node: it holds the log of the node's slurmd open."""
        log = self.folder / f"slurmd-{name}.log"
        with contextlib.suppress(OSError):
            return any(link.readlink() == log for link in Path(f"/proc/{pid}/fd").iterdir())
        return False

    def start_node(self, name: str) -> None:
        self.daemon("slurmd", "-N", name)

    def daemon(self, *command: str) -> None:
        """Start a program that goes to the background by itself.

        Raises:
            Unavailable: when it does not start, with what it said.
        """
        program = _program(command[0]) or command[0]
        done = subprocess.run(
            [program, *command[1:]],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise Unavailable(f"{command[0]} does not start: {(done.stderr or done.stdout).strip()}")

    def wait_until(self, ready: object, what: str, seconds: float = 60) -> None:
        """Wait for a condition, a function without arguments.

        Raises:
            Unavailable: when it does not come about in time.
        """
        assert callable(ready)
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise Unavailable(f"{what} did not come about within {seconds:.0f} s; queue: {self.queue()}")
            time.sleep(0.5)

    def stop(self) -> None:
        """Cancel what runs, stop the daemons by their pid files, and leave no process behind."""
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self.slurm("scancel", "--user=root")
        deadline = time.monotonic() + 15
        while any("slurmstepd" in line for pid, line in _processes() if self._is_ours(pid)):
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        daemons = list(filter(None, map(_read_pid, self.folder.glob("*.pid"))))
        for pid in daemons:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while any(self._is_ours(pid) for pid in daemons) and time.monotonic() < deadline:
            time.sleep(0.1)
        _kill([pid for pid, _ in _processes() if self._is_ours(pid)])

    def _is_ours(self, pid: int) -> bool:
        """Whether a process was started with this cluster's configuration: daemons, steps, jobs."""
        marker = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        with contextlib.suppress(OSError):
            return marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Bring up a cluster of two nodes, and take it down again whatever happens.

    Raises:
        Unavailable: when SLURM is not installed or a daemon does not start.
    """
    reason = why_not()
    if reason:
        raise Unavailable(reason)
    # Not in pytest's folder: munge insists that everyone may enter the folder of its socket.
    folder = Path(tempfile.mkdtemp(prefix="uss-bench-slurm-", dir="/tmp"))
    folder.chmod(0o755)
    cluster = Cluster(folder)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster goes as well
    try:
        _configure(cluster)
        _start(cluster)
        yield cluster
    finally:
        cluster.stop()
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(cluster: Cluster) -> None:
    folder = cluster.folder
    (folder / "state").mkdir()
    for name in NODES:
        (folder / f"spool-{name}").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    host = socket.gethostname()
    controller_port, *ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=8000"
        for name, port in zip(NODES, ports, strict=True)
    )
    path = folder / "slurm.conf"
    path.write_text(
        _CONFIGURATION.format(host=host, controller_port=controller_port, folder=folder, nodes=nodes)
    )
    search = os.pathsep.join([os.environ.get("PATH", ""), SYSTEM_PATH])
    cluster.environment = {"SLURM_CONF": str(path), "PATH": search}


def _start(cluster: Cluster) -> None:
    folder = cluster.folder
    files = {
        "socket": "munge.socket",
        "key-file": "munge.key",
        "pid-file": "munged.pid",
        "log-file": "munged.log",
        "seed-file": "munged.seed",
    }
    cluster.daemon("munged", *(f"--{option}={folder / name}" for option, name in files.items()))
    cluster.daemon("slurmctld")
    for name in NODES:
        cluster.start_node(name)
    cluster.wait_until(
        lambda: cluster.states() == dict.fromkeys(NODES, "IDLE"), "A cluster with two idle nodes"
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _processes() -> Iterator[tuple[int, str]]:
    """Yield every process with its command line."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def _descendants(root: int) -> list[int]:
    """Return all processes that a process has started, and theirs."""
    children: dict[int, list[int]] = {}
    for pid, _ in _processes():
        with contextlib.suppress(OSError, IndexError, ValueError):
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(after_name[1]), []).append(pid)
    found, todo = [], [root]
    while todo:
        todo = [child for pid in todo for child in children.get(pid, [])]
        found += todo
    return found


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
