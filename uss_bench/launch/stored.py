"""Plans on disk: what a command started, kept under the results so that others can look at it.

``OUT/.plans/<name>-<digest>/`` holds the plan, its states, and for each task its file, its log and what
its process says. The digest is that of the cells, so the same command comes back to the same folder.
No file ends in ``.json``, so none is taken for a record.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import filelock
import msgspec

from uss_bench.errors import DataError
from uss_bench.json_files import JSON_ERRORS, read_json
from uss_bench.launch.launcher import State, Task
from uss_bench.locking import is_locked
from uss_bench.paths import atomic_write
from uss_bench.records import Cell, stem

FOLDER = ".plans"


class PlannedTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cell of a stored plan."""

    label: str
    record: str
    """Path of its record below the results folder."""
    task: Task | None = None
    """None for one that had a record, and for those that run in the command's own process."""


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
    order: str = ""
    """By which records that were there are made again (`record_files.new_order`)."""
    extractions: list[Task] = []
    cells: list[PlannedTask] = []

    @property
    def tasks(self) -> list[Task]:
        """All tasks, in the order in which they should start."""
        return [*self.extractions, *(cell.task for cell in self.cells if cell.task is not None)]


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the command that runs a plan knows of a task."""

    state: State
    attempts: int = 0
    """How often it was submitted."""


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
        """Return where the process of a cell says how far it is."""
        return self.path / f"{stem(cell)}.now"

    def write(self, plan: StoredPlan) -> None:
        atomic_write(self.path / "plan", msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")

    def read(self) -> StoredPlan:
        """Raise `DataError` when the plan is missing or malformed."""
        return read_json(self.path / "plan", StoredPlan, "plan")

    def write_states(self, states: Mapping[str, Progress]) -> None:
        atomic_write(self.path / "states", msgspec.json.encode(states))

    def read_states(self) -> dict[str, Progress]:
        """Return what is known of the tasks by their ids; nothing when there is no such file."""
        try:
            states: dict[str, Progress] = msgspec.json.decode(
                (self.path / "states").read_bytes(), type=dict[str, Progress]
            )
        except (OSError, *JSON_ERRORS):
            return {}
        return states

    @contextlib.contextmanager
    def at_work(self) -> Iterator[bool]:
        """Hold the plan for this process; False when another one has it."""
        lock = filelock.FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

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
