"""Running planned cells: in this process, or as tasks that a launcher starts."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from uss_bench import progress
from uss_bench.cores import whole_cores
from uss_bench.errors import DataError, RunError, UsageError, UssBenchError
from uss_bench.launch.launcher import State, Task, still_open
from uss_bench.launch.launchers import find_launcher
from uss_bench.launch.planning import Planned, make_tasks
from uss_bench.launch.reporting import Reporter
from uss_bench.launch.running import CellRunner
from uss_bench.launch.session import Session, taken
from uss_bench.launch.status import launcher_of
from uss_bench.launch.stored import PlanFolder, PlannedTask, StoredPlan, now
from uss_bench.launch.view import View, short
from uss_bench.launch.work import LOCAL, Execution, Start
from uss_bench.pictures import draw_missing
from uss_bench.record_files import is_done, read_record
from uss_bench.records import stem
from uss_bench.runner import Outcome
from uss_bench.text import first_line


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
    """Return the cells without a record, or, with ``--force``, without a new one; each of them once."""
    once = {one.cell.id: one for one in reversed(cells)}
    out = Path(execution.out)
    return [
        one for one in cells if once[one.cell.id] is one and not is_done(one.record(out), execution.force)
    ]


def _run_here(cells: Sequence[Planned], execution: Execution, name: str) -> list[Outcome | Exception]:
    if execution.threads is not None:
        import torch

        torch.set_num_threads(execution.threads)
    folder = None
    if len(cells) > 1:
        folder, left, execution = _take_up(name, cells, execution, Start())
        _keep(folder, left, name, cells, execution, Start())
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
    folder, left, execution = _take_up(name, cells, execution, start)
    todo = pending(cells, execution)
    for one in cells:
        if one not in todo and (path := one.record(Path(execution.out))).exists():
            progress.log(f"{one.label}: done before, see {path}")
            draw_missing(path, one.setup)
    states: Mapping[str, State] = {}
    if launcher == LOCAL:
        execution = _share_of_this_machine(execution, min(start.jobs or 1, max(1, len(todo))))
    _keep(folder, left, name, cells, execution, start, todo)
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


def _take_up(
    name: str, cells: Sequence[Planned], execution: Execution, start: Start
) -> tuple[PlanFolder, list[Task], Execution]:
    """Return the folder of a plan, the tasks that an earlier command left at work, and how cells are run now.

    With ``--force`` the tasks that are left go on under the order that they began under.

    Raises:
        UsageError: when cells that are to run now are at work on another launcher.
    """
    folder = PlanFolder.of(Path(execution.out), name, [one.cell.id for one in cells])
    if folder.is_at_work:
        return folder, [], execution
    plan, left = _left_at_work(folder)
    if plan is None or not left:
        return folder, [], execution
    if execution.force and plan.order:
        execution = msgspec.structs.replace(execution, force=plan.order)
    wanted = {stem(one.cell) for one in pending(cells, execution)}
    if plan.launcher != start.name and any(task.id in wanted for task in left):
        raise UsageError(
            f"{len(left)} tasks of an earlier command are still queued or running on '{plan.launcher}'.",
            hint=f"Watch them with --launcher {plan.launcher}, or end them first: "
            f"uss-bench status {folder.path.name} --cancel --out {folder.out}",
        )
    return folder, left, execution


def _left_at_work(folder: PlanFolder) -> tuple[StoredPlan | None, list[Task]]:
    """Return the plan that is stored, and those of its tasks that its launcher still has at work."""
    try:
        plan = folder.read()
        launcher = launcher_of(folder, plan)
        return plan, still_open(launcher, plan.tasks) if launcher is not None else []
    except UssBenchError:  # no plan before this one, or on a machine that cannot ask
        return None, []


def _keep(
    folder: PlanFolder,
    left: Sequence[Task],
    name: str,
    cells: Sequence[Planned],
    execution: Execution,
    start: Start,
    todo: Sequence[Planned] = (),
) -> None:
    """Write a plan where ``uss-bench status`` finds it, with tasks for the cells of `todo`.

    Args:
        left: tasks that an earlier command left at work; extractions among them are watched and ended with
            the plan's own.

    Raises:
        UsageError: when another process is at work on it, and these cells would be its tasks.
    """
    if folder.is_at_work:
        if todo:
            raise taken(folder)
        return  # the plan is the other's; cells of this process wait for those of the other
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
            order=execution.force,
            extractions=[*others, *extractions],
            cells=[
                PlannedTask(label=one.label, record=str(one.record(Path())), task=task_of.get(one.cell.id))
                for one in cells
            ],
        )
    )
    folder.write_states({})  # those of an earlier command are not of this one


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
