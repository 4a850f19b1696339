"""Plans on disk: what a command started and how far it is, under the results so that others can look at it.

``OUT/.plans/<name>-<digest>/`` holds the plan, its states, and for each task its file, its log and a small
file in which its process reports. The digest is that of the cells, so the same command comes back to the
same folder. No file ends in ``.json``, so none is taken for a record.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from uss_bench.errors import DataError
from uss_bench.files.atomic import atomic_write
from uss_bench.files.json_file import read_json, try_read_json
from uss_bench.files.locks import held, is_locked
from uss_bench.launch.launcher import State, Task
from uss_bench.results.record import Cell, stem
from uss_bench.runtime import progress

FOLDER = ".plans"

_INTERVAL_S = 1.0
"""Between two reports of a task."""


class PlannedTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cell of a stored plan."""

    label: str
    record: str
    """Path of its record below the results folder."""
    task: Task | None = None
    """None for a cell that had a record, and for cells that run in the command's own process."""


class StoredPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a command started."""

    schema: Literal[1] = 1
    name: str
    command: str
    folder: str
    """The folder that the command was given in."""
    created: str
    launcher: str
    """Its name, or '' for cells that run in the command's own process."""
    options: dict[str, Any] = {}
    jobs: int | None = None
    rerun_token: str = msgspec.field(default="", name="order")
    """Of ``--force``: existing records are made again, see `uss_bench.results.files.new_rerun_token`."""
    extractions: list[Task] = []
    cells: list[PlannedTask] = []

    @property
    def tasks(self) -> list[Task]:
        """All tasks, in the order in which they should start."""
        return [*self.extractions, *(cell.task for cell in self.cells if cell.task is not None)]


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a task, as the command that runs its plan knows it."""

    state: State
    attempts: int = 0
    """How often the task was submitted."""


class PlanFolder:
    """One plan on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, out: Path, name: str, ids: Sequence[str]) -> PlanFolder:
        """Return the folder of a plan of these cells, and make it.

        Raises:
            DataError: when it cannot be made.
        """
        digest = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:8]
        path = out.absolute() / FOLDER / f"{re.sub(r'[^a-z0-9_.-]+', '-', name.lower())}-{digest}"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"The plan cannot be kept in {path}: {error.strerror}.", hint="Choose another: --out DIR."
            ) from None
        return cls(path)

    @property
    def out(self) -> Path:
        """The results folder."""
        return self.path.parent.parent

    def log_file(self, cell: Cell) -> Path:
        """Return where the task of a cell writes its log."""
        return self.path / f"{stem(cell)}.log"

    def now_file(self, cell: Cell) -> Path:
        """Return where the process of a cell reports how far it is."""
        return self.path / f"{stem(cell)}.now"

    def write(self, plan: StoredPlan) -> None:
        atomic_write(self.path / "plan", msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")

    def read(self) -> StoredPlan:
        """Raise `DataError` when the plan is missing or malformed."""
        return read_json(self.path / "plan", StoredPlan, "plan")

    def write_states(self, states: Mapping[str, Progress]) -> None:
        atomic_write(self.path / "states", msgspec.json.encode(states))

    def read_states(self) -> dict[str, Progress]:
        """Return the states of the tasks by their ids; none where they cannot be read."""
        return try_read_json(self.path / "states", dict[str, Progress]) or {}

    def at_work(self) -> contextlib.AbstractContextManager[bool]:
        """Hold the plan for this process; False when another one has it."""
        return held(self.path / "lock")

    @property
    def is_at_work(self) -> bool:
        """Whether a process of this machine runs the plan."""
        return is_locked(self.path / "lock")


def now() -> str:
    """Return the time as plans state it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def stored_plans(out: Path) -> list[PlanFolder]:
    """Return the plans that were started with a results folder, the oldest first."""
    found = [PlanFolder(path.parent) for path in out.absolute().glob(f"{FOLDER}/*/plan")]
    return sorted(found, key=lambda one: (one.path / "plan").stat().st_mtime)


class Now(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a task's process reports while it runs."""

    host: str
    pid: int
    started: float
    """Seconds since 1970."""
    phase: str = ""
    done: int = 0
    total: int = 0
    """Steps of the phase; 0 where they are not known."""

    def __str__(self) -> str:
        return f"{self.phase} {self.done:,} of {self.total:,}" if self.total else self.phase


class Reporter:
    """Keeps the file of a task while it runs; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0.0
        self._now = Now(host=socket.gethostname(), pid=os.getpid(), started=time.time(), phase="start")

    def __enter__(self) -> Reporter:
        self._write()
        progress.observe(self._advance)
        return self

    def __exit__(self, *_: object) -> None:
        progress.observe(None)
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _advance(self, label: str, done: int, total: int) -> None:
        # The end of a phase may be long before the next begins, so it does not wait for its turn.
        wait = _INTERVAL_S if done < total and label == self._now.phase else _INTERVAL_S / 5
        if time.monotonic() - self._written < wait:
            return
        self._now = msgspec.structs.replace(self._now, phase=label, done=done, total=total)
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk must not end a run for the sake of this
            atomic_write(self._path, msgspec.json.encode(self._now))


def read_now(path: Path) -> Now | None:
    """Return what the task whose file is at `path` reports; None when it does not run."""
    return try_read_json(path.with_suffix(".now"), Now)
