"""The terminal while a plan runs: a live table, or lines where there is no terminal."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from uss_bench.launch.launcher import Stage, Task
from uss_bench.launch.stored import Progress, read_now
from uss_bench.runtime import progress
from uss_bench.runtime.formatting import duration
from uss_bench.runtime.text import first_line

_REFRESH_S = 0.5
_LOGGED = 3
"""How many of the tasks at work a line of a log names."""
_COLORS: Mapping[str, str] = {
    "planned": "bright_black",
    "queued": "bright_black",
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "lost": "red",
}


class View:
    """Draws the states of tasks on standard error; a context manager.

    Args:
        tasks: in the order in which they are shown.
        done_before: how many cells of the plan had a record from the start.
    """

    def __init__(self, tasks: Sequence[Task], done_before: int = 0) -> None:
        self._tasks = tasks
        self._done_before = done_before
        self._live = sys.stderr.isatty() and not progress.is_quiet()
        self._lines = 0
        self._drawn = 0.0
        self._started = time.monotonic()
        self._seen: dict[str, Stage] = {}
        self._since: dict[str, float] = {}
        self._reported: set[str] = set()
        """Tasks whose processes have said how far they are."""

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def draw(self, known: Mapping[str, Progress]) -> None:
        """Show the states: a line for each task that has ended, above a table of the rest."""
        self._print_changes(known)
        if not self._live:
            progress.log_if_silent(
                lambda: click.unstyle("; ".join([self._counts(known), *self._running(known)[:_LOGGED]]))
            )
        elif time.monotonic() - self._drawn >= _REFRESH_S:
            self._clear()
            lines = self._table(known)
            click.echo("\n".join(lines), err=True)
            self._lines, self._drawn = len(lines), time.monotonic()

    def _print_changes(self, known: Mapping[str, Progress]) -> None:
        for task in self._tasks:
            if task.id not in known or known[task.id].state.stage == self._seen.get(task.id):
                continue
            state = known[task.id].state
            self._seen[task.id] = state.stage
            took = time.monotonic() - self._since.get(task.id, self._started)
            self._since[task.id] = time.monotonic()
            failed = f"failed. {first_line(state.reason)} (log: {short(task.log)})"
            message = {
                "running": "" if self._live else f"started{on(state.place)}",
                "done": f"done in {duration(took)}",
                "failed": failed,
                "lost": failed,
                "cancelled": state.reason,
            }.get(state.stage)
            if message:
                self._clear()
                progress.log(f"{task.label}: {message}")

    def _counts(self, known: Mapping[str, Progress]) -> str:
        """Return how many cells there are, and how many in each stage."""
        cells = [task.id for task in self._tasks if task.kind == "cell"]
        counts = Counter(known[name].state.stage for name in cells if name in known)
        failed = counts["failed"] + counts["lost"] + counts["cancelled"]
        parts = [
            click.style(f"{counts['done'] + self._done_before} done", fg="green"),
            click.style(f"{counts['running']} running", fg="cyan"),
            f"{counts['queued']} queued",
            *([click.style(f"{failed} failed", fg="red")] if failed else []),
        ]
        return f"{len(cells) + self._done_before} cells: {', '.join(parts)}"

    def _running(self, known: Mapping[str, Progress]) -> list[str]:
        """Return a line for each task at work: how far it is, and for how long it has run."""
        running = [task for task in self._tasks if self._seen.get(task.id) == "running"]
        width = max((len(task.label) for task in running), default=0) if self._live else 0
        lines = []
        for task in running:
            now = read_now(Path(task.file))
            if now is not None:
                self._reported.add(task.id)
            attempt = known[task.id].attempts
            facts = [
                str(now) if now else "ending" if task.id in self._reported else "starting",
                duration(time.monotonic() - self._since[task.id]),
                *([f"attempt {attempt}"] if attempt > 1 else []),
            ]
            lines.append(f"{task.label:<{width}}  {' · '.join(facts)}")
        return lines

    def _table(self, known: Mapping[str, Progress]) -> list[str]:
        width, height = shutil.get_terminal_size()
        running = self._running(known)
        room = max(1, height - 5)
        more = [f"  and {len(running) - room} more"] if len(running) > room else []
        title = f"{self._counts(known)} · {duration(time.monotonic() - self._started)}"
        return ["", title, *(f"  {line}"[: width - 1] for line in running[:room]), *more]

    def _clear(self) -> None:
        if self._lines:
            click.echo(f"\x1b[{self._lines}A\x1b[J", nl=False, err=True)
            self._lines = 0


def on(place: str) -> str:
    """Say where something runs, unless that is this machine."""
    return "" if place in ("", socket.gethostname()) else f" on {place}"


def short(path: Path) -> Path:
    """Return a path as a person in this folder would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def styled(stage: str) -> str:
    """Return a stage in its color."""
    return click.style(stage, fg=_COLORS.get(stage))
