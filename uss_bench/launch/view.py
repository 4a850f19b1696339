"""What a person sees while a plan runs: a table that is drawn again, or lines where there is no terminal."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from uss_bench import progress
from uss_bench.launch.launcher import Stage, Task
from uss_bench.launch.reporting import duration, read_now
from uss_bench.launch.stored import Progress
from uss_bench.text import first_line

_REFRESH_S = 0.5
_COLOURS: Mapping[str, str] = {
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
        self._heard_of: set[str] = set()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def draw(self, known: Mapping[str, Progress]) -> None:
        """Show the states: a line for each that has ended, above a table of the rest."""
        self._say_changes(known)
        if self._live and time.monotonic() - self._drawn >= _REFRESH_S:
            self._clear()
            lines = self._table(known)
            click.echo("\n".join(lines), err=True)
            self._lines, self._drawn = len(lines), time.monotonic()

    def _say_changes(self, known: Mapping[str, Progress]) -> None:
        for task in self._tasks:
            if task.id not in known:
                continue
            state = known[task.id].state
            before = self._seen.get(task.id)
            if state.stage == before:
                continue
            self._seen[task.id] = state.stage
            took = time.monotonic() - self._since.get(task.id, self._started)
            self._since[task.id] = time.monotonic()
            message = ""
            if state.stage == "running" and not self._live:
                message = f"{task.label}: started{on(state.place)}"
            elif state.stage == "done":
                message = f"{task.label}: done in {duration(took)}"
            elif state.stage in ("failed", "lost"):
                message = f"{task.label}: failed. {first_line(state.reason)} (log: {short(task.log)})"
            elif state.stage == "cancelled":
                message = f"{task.label}: {state.reason}"
            if message:
                self._clear()
                progress.log(message)

    def _table(self, known: Mapping[str, Progress]) -> list[str]:
        width, height = shutil.get_terminal_size()
        counts = Counter(
            known[task.id].state.stage for task in self._tasks if task.id in known and task.kind == "cell"
        )
        done = counts["done"] + self._done_before
        cells = sum(task.kind == "cell" for task in self._tasks) + self._done_before
        failed = counts["failed"] + counts["lost"] + counts["cancelled"]
        parts = [
            click.style(f"{done} done", fg="green"),
            click.style(f"{counts['running']} running", fg="cyan"),
            f"{counts['queued']} queued",
            *([click.style(f"{failed} failed", fg="red")] if failed else []),
        ]
        elapsed = duration(time.monotonic() - self._started)
        lines = ["", f"{cells} cells: {', '.join(parts)} · {elapsed}"]
        running = [task for task in self._tasks if self._seen.get(task.id) == "running"]
        room = max(1, height - 5)
        label_width = max((len(task.label) for task in running), default=0)
        for task in running[:room]:
            now = read_now(Path(task.file))
            if now is not None:
                self._heard_of.add(task.id)
            attempt = known[task.id].attempts
            facts = [
                str(now) if now else "ending" if task.id in self._heard_of else "starting",
                duration(time.monotonic() - self._since[task.id]),
                *([f"attempt {attempt}"] if attempt > 1 else []),
            ]
            text = f"  {task.label:<{label_width}}  {' · '.join(facts)}"
            lines.append(text[: width - 1])
        if len(running) > room:
            lines.append(f"  and {len(running) - room} more")
        return lines

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
    """Return a stage in its colour."""
    return click.style(stage, fg=_COLOURS.get(stage))
