"""What runs inside a SLURM job: the task's process, and what is done when SLURM wants the node back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from uss_bench.files.atomic import atomic_write
from uss_bench.launch.launcher import CORES, State

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

_GRACE_S = 20.0
"""How long the task's process may take to end by itself when time is up."""


class JobStart:
    """The function that submitit runs: it starts the task's process and waits for it.

    The task has a process of its own because submitit's warning arrives as an exception wherever the
    code happens to be; here that is always the wait. SLURM requeues the job when a node fails or a more
    urgent job takes its place, submitit when time is up; each start goes on from the last snapshot. SLURM
    counts the starts, and after too many the task is said to have failed.

    Args:
        command: of the task.
        end_file: where a task's end is said.
        requeues: how often the job may be started again.
        minutes: time limit of one start, for messages.
    """

    def __init__(self, command: list[str], end_file: Path, requeues: int, minutes: int) -> None:
        self.command = command
        self.end_file = end_file
        self.requeues = requeues
        self.minutes = minutes
        self._pid: int | None = None

    def __call__(self) -> None:
        restarts = _restarts()
        if restarts > self.requeues:
            self._give_up(f"was requeued {restarts} times, by SLURM, and did not finish")
            sys.exit(1)
        print(f"start {restarts + 1} of at most {self.requeues + 1}", flush=True)
        process = subprocess.Popen(
            self.command,
            env={**os.environ, CORES: os.environ.get("SLURM_CPUS_PER_TASK", "")},
            start_new_session=True,
            preexec_fn=_ignore_warning,
        )
        self._pid = process.pid
        code = process.wait()
        self._pid = None
        print(f"the task's process ended with exit code {code}", flush=True)
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> DelayedSubmission | None:
        """End the process, and say what is to run when the job starts again; submitit requeues it then.

        It is called inside the handler of submitit's warning signal, while `__call__` waits.
        """
        self._end_process()
        if _restarts() >= self.requeues:
            self._give_up(
                f"did not finish in {_restarts() + 1} starts of {self.minutes} minutes each; "
                "the same command goes on from where it was, and 'minutes' or 'requeues' may be raised"
            )
            return None
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(JobStart(self.command, self.end_file, self.requeues, self.minutes))

    def _end_process(self) -> None:
        if self._pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        # Not Popen.wait: the interrupted one holds its lock.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)  # also workers that outlived their master

    def _give_up(self, reason: str) -> None:
        print(reason, flush=True)
        atomic_write(self.end_file, msgspec.json.encode(State("failed", f"The job {reason}.")))


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _ignore_warning() -> None:
    """Let the warning pass by the task's process: SLURM sends it to every process of the job."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
