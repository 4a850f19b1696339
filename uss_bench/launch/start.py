"""Running planned cells: in this process, or as tasks that a launcher starts."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

import msgspec

from uss_bench import progress
from uss_bench.cores import whole_cores
from uss_bench.errors import DataError, RunError, UsageError, UssBenchError
from uss_bench.launch.launcher import OPEN, State, Task
from uss_bench.launch.launchers import find_launcher
from uss_bench.launch.planning import Planned, make_tasks
from uss_bench.launch.reporting import Reporter
from uss_bench.launch.running import CellRunner
from uss_bench.launch.session import Session, taken
from uss_bench.launch.status import launcher_of
from uss_bench.launch.stored import PlanFolder, PlannedTask, StoredPlan, now
from uss_bench.launch.view import View, first_line, short
from uss_bench.launch.work import LOCAL, Execution, Start
from uss_bench.pictures import draw_missing
from uss_bench.record_files import read_record
from uss_bench.records import stem
from uss_bench.runner import Outcome


def run_cells(
    cells: Sequence[Planned], execution: Execution, start: Start, name: str
) -> list[Outcome | Exception]:
    """Run the cells that have no record, and return what became of each, in the order of `cells`.

    A cell that fails stops no other.

    Args:
        name: of the plan, for ``uss-bench status``.

    Raises:
        UsageError: for a wrong launcher or option of it.
        KeyboardInterrupt: after everything that was started has ended.
    """
    if start.name is None:
        return _run_here(cells, execution, name)
    return _run_elsewhere(cells, execution, start, start.name, name)


def pending(cells: Sequence[Planned], execution: Execution) -> list[Planned]:
    """Return the cells that have no record, or all with ``--force``; one that is there twice, once."""
    once = {one.cell.id: one for one in reversed(cells)}
    return [
        one
        for one in cells
        if once[one.cell.id] is one and (execution.force or not one.record(Path(execution.out)).exists())
    ]


def _run_here(cells: Sequence[Planned], execution: Execution, name: str) -> list[Outcome | Exception]:
    if execution.threads is not None:
        import torch

        torch.set_num_threads(execution.threads)
    folder = _keep(name, cells, execution, Start()) if len(cells) > 1 else None
    results: dict[str, Outcome | Exception] = {}
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(folder.at_work())
        runner = stack.enter_context(CellRunner(execution))
        for one in cells:
            if one.cell.id in results:
                continue
            try:
                with _reported(folder, one):
                    results[one.cell.id] = runner.run(one.setup, one.spec, one.label)
            except Exception as error:
                what = error.what if isinstance(error, UssBenchError) else error
                progress.log(f"{one.label} failed: {what}")
                results[one.cell.id] = error
    return [results[one.cell.id] for one in cells]


@contextlib.contextmanager
def _reported(folder: PlanFolder | None, one: Planned) -> Iterator[None]:
    """Tell ``uss-bench status`` how far a cell of this process is."""
    if folder is None:
        yield
        return
    with Reporter(folder.now_file(one.cell)):
        yield


def _run_elsewhere(
    cells: Sequence[Planned], execution: Execution, start: Start, launcher: str, name: str
) -> list[Outcome | Exception]:
    found = find_launcher(launcher)
    found.check(start.options)
    todo = pending(cells, execution)
    for one in cells:
        if one not in todo and (path := one.record(Path(execution.out))).exists():
            progress.log(f"{one.label}: done before, see {path}")
            draw_missing(path, one.setup)
    states: Mapping[str, State] = {}
    if launcher == LOCAL:
        execution = _share_of_this_machine(execution, min(start.jobs or 1, max(1, len(todo))))
    folder = _keep(name, cells, execution, start, todo)
    if todo:
        plan = folder.read()
        view = View(plan.tasks, done_before=len(cells) - len(todo))
        made = found.make(folder.path, start.jobs, start.options)
        states = Session(folder, plan, made, view, retries=start.retries).run()
    return [_outcome(one, execution, states, folder) for one in cells]


def _share_of_this_machine(execution: Execution, jobs: int) -> Execution:
    """Give each of so many processes its share of the cores, where the user has not said how many."""
    share = max(1, whole_cores() // jobs)
    return msgspec.structs.replace(
        execution, threads=execution.threads or share, workers=execution.workers or share
    )


def _keep(
    name: str,
    cells: Sequence[Planned],
    execution: Execution,
    start: Start,
    todo: Sequence[Planned] = (),
) -> PlanFolder:
    """Write a plan where ``uss-bench status`` finds it, with tasks for the cells of `todo`.

    Raises:
        UsageError: when another process is at work on it, and these cells would be its tasks; when they are
            tasks of another launcher.
    """
    folder = PlanFolder.of(Path(execution.out), name, [one.cell.id for one in cells])
    if folder.is_at_work:
        if todo:
            raise taken(folder)
        return folder  # whose plan is the other's; cells of this process wait for those of the other
    left = _left_at_work(folder, start, {stem(one.cell) for one in pending(cells, execution)})
    extractions, tasks = make_tasks(todo, execution, folder.path, start.jobs)
    planned = {task.id for task in extractions}
    others = [task for task in left if task.kind == "extraction" and task.id not in planned]
    task_of = dict(zip((one.cell.id for one in todo), tasks, strict=True))
    folder.write(
        StoredPlan(
            name=name,
            command=shlex.join(["uss-bench", *sys.argv[1:]]),
            folder=execution.folder,
            created=now(),
            launcher=start.name or "",
            options=dict(start.options),
            jobs=start.jobs,
            forced=bool(execution.force),
            extractions=[*others, *extractions],
            cells=[
                PlannedTask(label=one.label, record=str(one.record(Path())), task=task_of.get(one.cell.id))
                for one in cells
            ],
        )
    )
    folder.write_states({})  # those of an earlier command are not of this one
    return folder


def _left_at_work(folder: PlanFolder, start: Start, pending: Set[str]) -> list[Task]:
    """Return the tasks of an earlier command that its launcher still has at work.

    Args:
        pending: ids of cells that are to run now.

    Raises:
        UsageError: when some of these are among them, and another launcher is to start them now.
    """
    try:
        plan = folder.read()
        launcher = launcher_of(folder, plan)
        states = launcher.poll(plan.tasks) if launcher is not None else {}
    except UssBenchError:  # no plan before this one, or on a machine that cannot ask
        return []
    left = [task for task in plan.tasks if task.id in states and states[task.id].stage in OPEN]
    if plan.launcher != start.name and any(task.id in pending for task in left):
        raise UsageError(
            f"{len(left)} tasks of an earlier command are still queued or running on '{plan.launcher}'.",
            hint=f"Watch them with --launcher {plan.launcher}, or end them first: "
            f"uss-bench status {folder.path.name} --cancel --out {folder.out}",
        )
    return left


def _outcome(
    one: Planned, execution: Execution, states: Mapping[str, State], folder: PlanFolder
) -> Outcome | Exception:
    """Return what a cell left: its record, or why there is none."""
    path = one.record(Path(execution.out))
    state = states.get(stem(one.cell), State("done"))
    log = folder.log_file(one.cell)
    if state.stage != "done":
        return RunError(f"{first_line(state.reason)} (log: {short(log)})")
    try:
        return Outcome(path, read_record(path))
    except DataError as error:
        return RunError(f"It ended without a record that can be read: {error.what} (log: {short(log)})")
