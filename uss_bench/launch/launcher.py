"""The contract of launchers: they start tasks, report their states, and cancel them.

A task is one process that runs one cell, or one extraction of features. It is all in one file, so any
machine that sees the same folders can run it: ``python -m uss_bench.launch.task FILE``. A launcher
decides where and when that process starts, and nothing else: what is run, what is run again and what a
person sees is the same for all of them (`uss_bench.launch.session`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from uss_bench.files.json_file import try_read_json
from uss_bench.plugins.specs import Resources

CORES = "USS_BENCH_CORES"
"""An environment variable that a launcher should set for a task's process: how many cores it has.

The process uses that many threads and workers unless the user has chosen; without it, all cores that it sees.
"""

Stage = Literal["queued", "running", "done", "failed", "lost", "cancelled"]
"""``failed``: the process said so itself, with a reason; ``lost``: it died, and may be started again;
``cancelled``: it was ended by `Launcher.cancel`, and is not started again behind the user's back."""

OPEN: tuple[Stage, ...] = ("queued", "running")
"""The stages of a task that may still do its work."""


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a task."""

    stage: Stage
    reason: str = ""
    """Why it did not end well, for a person: ``killed by signal 9``, ``the node went down``."""
    place: str = ""
    """Where it is or was: a machine, a job's number."""


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One process to start."""

    id: str
    """Names the task's files; letters, digits, ``-``, ``_`` and ``.`` only."""
    label: str
    """For tables and messages."""
    kind: Literal["extraction", "cell"]
    file: str
    """Absolute path of the file that describes the work."""
    resources: Resources
    after: list[str] = []
    """Ids of tasks, never submitted later than this, that should have ended before it starts, however they
    ended: a cell whose features are not there extracts them itself, and says why if it cannot."""

    @property
    def command(self) -> list[str]:
        """The command that runs the task, in any folder and environment; its exit code is 0 when done."""
        return [sys.executable, "-m", "uss_bench.launch.task", self.file]

    @property
    def log(self) -> Path:
        """Where the process itself writes its output; of bounded size."""
        return Path(self.file).with_suffix(".log")

    @property
    def end_file(self) -> Path:
        """Written by a process that ends by itself; a process that dies leaves no such file."""
        return Path(self.file).with_suffix(".end")

    def ended(self) -> State | None:
        """Return what the process said at its end: ``done``, or ``failed`` with its reason.

        None while it runs, and for one that died: a launcher whose process is gone without a word
        says ``lost``.
        """
        return try_read_json(self.end_file, State)


def still_open(launcher: Launcher, tasks: Sequence[Task]) -> list[Task]:
    """Ask a launcher which of the tasks are queued or running."""
    states = launcher.poll(tasks)
    return [task for task in tasks if task.id in states and states[task.id].stage in OPEN]


class Launcher(Protocol):
    """Starts tasks as processes, somewhere.

    All but ``local`` are taken to keep tasks at work when the process that submitted them ends: a command
    that ends by an error leaves them, and only Ctrl-C and ``uss-bench status --cancel`` end them.

    The entry point (group ``uss_bench.launchers``) names a class, or a function, that is called as
    ``entry(folder, jobs, **options)``:

    - `folder` (`pathlib.Path`): the plan's own folder, which exists; the launcher may keep files there
      (with any suffix but ``.json``). One that is made again on the same folder must know what an earlier
      one has submitted, if that outlives the process that submitted it: ``uss-bench status`` and a command
      that is given again ask it.
    - `jobs` (int, or None for no limit): how many tasks may run at a time.
    - `options`: keyword arguments with annotations and defaults; they are set by ``--launcher-set`` and
      ``--launcher-config``, and checked against the signature.
    """

    interval: float
    """Seconds to wait between two calls of `poll`."""

    def submit(self, tasks: Sequence[Task]) -> None:
        """Take tasks, in the order in which they should start, and return soon.

        A task that was ``lost`` may be submitted again, a bounded number of times.

        Raises:
            UssBenchError: when they cannot be taken, in words for the user.
        """

    def poll(self, tasks: Sequence[Task]) -> Mapping[str, State]:
        """Return the state of each task by its id; those that were never submitted are left out."""

    def cancel(self, tasks: Sequence[Task]) -> None:
        """End those of the tasks that are queued or running, and return when their processes are gone."""
