"""How far the plans of a results folder are, for anybody who can read the folder."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uss_bench.errors import DataError, UssBenchError
from uss_bench.files.locks import is_locked
from uss_bench.launch.launcher import OPEN, Launcher, State, Task
from uss_bench.launch.launchers import find_launcher
from uss_bench.launch.stored import PlanFolder, PlannedTask, Progress, StoredPlan, read_now
from uss_bench.results.files import is_done, read_record, work_folder
from uss_bench.runtime.formatting import duration

CellStage = Literal["planned", "queued", "running", "done", "failed"]
STAGES: tuple[CellStage, ...] = ("done", "running", "queued", "planned", "failed")


@dataclass(frozen=True)
class CellStatus:
    """How far a cell is, or an extraction."""

    label: str
    stage: CellStage
    detail: str = ""
    """How far the cell is, or why it failed or waits."""
    log: Path | None = None
    """The output of its process, if the file exists."""


@dataclass(frozen=True)
class PlanStatus:
    """How far a plan is."""

    folder: PlanFolder
    plan: StoredPlan
    at_work: bool
    """Whether a command of this machine runs it now."""
    extractions: list[CellStatus]
    cells: list[CellStatus]
    unknown: str = ""
    """Why the launcher could not be asked."""

    @property
    def counts(self) -> Counter[CellStage]:
        """How many cells there are in each stage."""
        return Counter(cell.stage for cell in self.cells)

    @property
    def finished(self) -> bool:
        return self.counts["done"] == len(self.cells)


def plan_status(folder: PlanFolder) -> PlanStatus:
    """Return how far a plan is.

    Raises:
        DataError: when the plan cannot be read.
    """
    plan = folder.read()
    at_work = folder.is_at_work
    states = folder.read_states()
    polled, unknown = _poll(folder, plan)
    extractions = [_of_extraction(task, at_work, states, polled) for task in plan.extractions]
    cells = [_of_cell(cell, folder, plan.rerun_token, at_work, states, polled) for cell in plan.cells]
    return PlanStatus(folder, plan, at_work, extractions, cells, unknown)


def launcher_of(folder: PlanFolder, plan: StoredPlan) -> Launcher | None:
    """Return a plan's launcher; None where tasks end with the command that started them.

    Raises:
        UsageError: when the launcher, or something that it needs, is not installed any more.
    """
    if plan.launcher in ("", "local"):
        return None
    return find_launcher(plan.launcher).make(folder.path, plan.jobs, plan.options)


def _poll(folder: PlanFolder, plan: StoredPlan) -> tuple[Mapping[str, State], str]:
    """Return what a plan's launcher says of its tasks, and why it could not be asked."""
    try:
        launcher = launcher_of(folder, plan)
        return (launcher.poll(plan.tasks) if launcher is not None else {}), ""
    except UssBenchError as error:
        return {}, error.what


def _of_extraction(
    task: Task, at_work: bool, states: Mapping[str, Progress], polled: Mapping[str, State]
) -> CellStatus:
    state = polled.get(task.id) or (states[task.id].state if task.id in states else None)
    ended = task.ended()
    if ended is not None:
        state = ended
    if state is None or (state.stage in OPEN and not at_work and task.id not in polled):
        return CellStatus(task.label, "planned")
    return _from_state(task.label, state, task)


def _of_cell(
    cell: PlannedTask,
    folder: PlanFolder,
    rerun_token: str,
    at_work: bool,
    states: Mapping[str, Progress],
    polled: Mapping[str, State],
) -> CellStatus:
    record = folder.out / cell.record
    file = folder.path / f"{record.stem}.task"
    if is_done(record, rerun_token):
        return CellStatus(cell.label, "done")
    if is_locked(work_folder(record) / "lock"):
        return CellStatus(cell.label, "running", _how_far(file), _log(file))
    asked = polled.get(file.stem)
    known = states[file.stem].state if file.stem in states else None
    for state in (asked, known if at_work else None):
        if state is not None and state.stage in OPEN:
            return _from_state(cell.label, state, cell.task)
    if reason := _recorded_reason(record.with_suffix(".failed.json"), folder, at_work):
        return CellStatus(cell.label, "failed", reason, _log(file))
    for state in (known, asked):
        if state is not None and state.stage in ("failed", "lost", "cancelled"):
            return _from_state(cell.label, state, cell.task)
    return CellStatus(cell.label, "queued" if at_work else "planned")


def _from_state(label: str, state: State, task: Task | None) -> CellStatus:
    file = Path(task.file) if task is not None else None
    if state.stage == "running":
        detail = " · ".join(filter(None, [_how_far(file) if file else "", state.place, state.reason]))
        return CellStatus(label, "running", detail, _log(file))
    if state.stage in ("failed", "lost"):
        return CellStatus(label, "failed", state.reason, _log(file))
    if state.stage == "cancelled":
        return CellStatus(label, "planned", state.reason)
    return CellStatus(label, "done" if state.stage == "done" else "queued", state.reason)


def _how_far(file: Path) -> str:
    now = read_now(file)
    return f"{now} · {duration(time.time() - now.started)}" if now else ""


def _log(file: Path | None) -> Path | None:
    log = file.with_suffix(".log") if file is not None else None
    return log if log is not None and log.exists() else None


def _recorded_reason(path: Path, folder: PlanFolder, at_work: bool) -> str:
    """Return the reason in a cell's failed record; '' for none, or one older than the plan at work."""
    with contextlib.suppress(OSError, DataError):
        if not at_work or path.stat().st_mtime >= (folder.path / "plan").stat().st_mtime:
            return read_record(path).reason
    return ""
