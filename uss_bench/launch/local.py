"""The built-in launcher ``local``: processes of this machine, so many at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uss_bench.launch.launcher import OPEN, State, Task

TIED = "USS_BENCH_TIED"
"""Set for processes that end when their standard input does, which is when this process is gone."""

GRACE_S = 10.0
"""How long a process may take to end by itself when it is told to."""


@dataclass
class _Started:
    task: Task
    process: subprocess.Popen[bytes]
    slot: int


class Local:
    """Runs tasks as processes of this machine.

    They are sessions of their own, so that Ctrl-C reaches them through `cancel` alone; and they end when
    this process does, however it ends. A cell whose features are there starts before further features are
    extracted, so a long plan shows its first records early.

    Args:
        folder: of the plan; nothing is kept in it, for nothing outlives this process.
        jobs: how many processes run at a time; None for one.
    """

    interval = 0.2

    def __init__(self, folder: Path, jobs: int | None) -> None:
        self._jobs = jobs or 1
        self._queue: list[Task] = []
        self._started: dict[str, _Started] = {}
        self._states: dict[str, State] = {}

    def submit(self, tasks: Sequence[Task]) -> None:
        again = [task for task in tasks if task.id in self._states]
        new = [task for task in tasks if task.id not in self._states]
        self._queue = [*again, *self._queue, *new]  # what was lost has waited for its turn already
        self._states |= {task.id: State("queued") for task in tasks}

    def poll(self, tasks: Sequence[Task]) -> Mapping[str, State]:
        # Processes are started before states are read, so that whoever polls can submit a lost task again
        # before those that wait for it are started.
        self._start()
        for name, started in list(self._started.items()):
            if started.process.poll() is not None:
                self._states[name] = _last_state(started)
                _end_group(started.process, signal.SIGKILL)  # workers that outlived their master
                _close(started.process)
                del self._started[name]
        return {task.id: self._states[task.id] for task in tasks if task.id in self._states}

    def cancel(self, tasks: Sequence[Task]) -> None:
        named = {task.id for task in tasks}
        self._queue = [task for task in self._queue if task.id not in named]
        ending = [self._started.pop(name) for name in named & self._started.keys()]
        try:
            for started in ending:
                _end_group(started.process, signal.SIGTERM, leader_only=True)
            deadline = time.monotonic() + GRACE_S
            for started in ending:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    started.process.wait(max(0.0, deadline - time.monotonic()))
        finally:  # also when the user has pressed Ctrl-C again
            for started in ending:
                _end_group(started.process, signal.SIGKILL)
                started.process.wait()
                _close(started.process)

    def _start(self) -> None:
        waiting = {name for name, state in self._states.items() if state.stage in OPEN}
        for task in sorted(self._queue, key=lambda one: one.kind == "extraction"):
            if len(self._started) >= self._jobs:
                return
            if waiting.isdisjoint(task.after):
                self._queue.remove(task)
                slot = min(set(range(self._jobs)) - {one.slot for one in self._started.values()})
                self._started[task.id] = _Started(task, _start(task, slot), slot)
                self._states[task.id] = State("running", place=socket.gethostname())


def _start(task: Task, slot: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, TIED: "1"}
    gpus = _visible_gpus() if task.resources.gpus else []
    if len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    # Until the task opens its log by itself, what Python says (a broken installation) goes there too.
    with task.log.open("ab") as log:
        return subprocess.Popen(
            task.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def _visible_gpus() -> list[str]:
    """Return the GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [one for one in chosen.split(",") if one]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _last_state(started: _Started) -> State:
    said = started.task.ended()
    place = socket.gethostname()
    if said is not None:
        return State(said.stage, said.reason, place)
    return State("lost", _how_it_died(started.process.returncode), place)


def _how_it_died(code: int) -> str:
    if code >= 0:
        return f"the process exited with code {code} and said nothing"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"the process was killed by {name}{memory}"


def _end_group(process: subprocess.Popen[bytes], number: int, *, leader_only: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if leader_only:
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
