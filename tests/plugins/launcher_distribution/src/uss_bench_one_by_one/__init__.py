"""A launcher that runs one task after another, each to its end: the shortest that keeps the contract."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from uss_bench.launch.launcher import CORES, State, Task


class OneByOne:
    interval = 0.1

    def __init__(self, folder: Path, jobs: int | None, *, cores: int = 1, ledger: str = "started") -> None:
        self.ledger = folder / ledger
        self.environment = {**os.environ, CORES: str(cores)}
        self.states: dict[str, State] = {}
        self.queue: list[Task] = []

    def submit(self, tasks: Sequence[Task]) -> None:
        self.queue += tasks
        self.states |= {task.id: State("queued") for task in tasks}

    def poll(self, tasks: Sequence[Task]) -> Mapping[str, State]:
        if self.queue:
            task = self.queue.pop(0)
            with self.ledger.open("a") as file:
                file.write(f"{task.id}\n")
            code = subprocess.run(task.command, env=self.environment, check=False).returncode
            self.states[task.id] = task.ended() or State("lost", f"exit code {code}")
        return {task.id: self.states[task.id] for task in tasks if task.id in self.states}

    def cancel(self, tasks: Sequence[Task]) -> None:
        self.queue = [task for task in self.queue if task not in tasks]
