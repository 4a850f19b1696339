"""Running planned cells: in this process, or as tasks that a launcher starts."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from uss_bench.errors import DataError, RunError, UsageError, UssBenchError
from uss_bench.experiment.cells import LOCAL, Execution, Start
from uss_bench.launch.launcher import State, Task, still_open
from uss_bench.launch.launchers import find_launcher
from uss_bench.launch.planning import Planned, finished_cell, log_done, pending
from uss_bench.launch.running import CellRunner
from uss_bench.launch.session import Session, at_work_elsewhere
from uss_bench.launch.status import launcher_of
from uss_bench.launch.stored import PlanFolder, PlannedTask, Reporter, StoredPlan, now
from uss_bench.launch.tasks import make_tasks
from uss_bench.launch.view import View, short
from uss_bench.plots.beside_record import draw_missing
from uss_bench.results.collection import Entry
from uss_bench.results.files import apply_token, read_record
from uss_bench.results.record import stem
from uss_bench.runtime import progress
from uss_bench.runtime.cores import whole_cores
from uss_bench.runtime.text import first_line


def run_cells(
    cells: Sequence[Planned], execution: Execution, start: Start, name: str
) -> list[Entry | Exception]:
    """Run the cells that have no record, and return the record or the error of each, in the order of `cells`.

    A cell that fails does not stop the others.

    Args:
        name: of the plan, for ``uss-bench status``.

    Raises:
        UsageError: for a wrong launcher or option of it.
        KeyboardInterrupt: after everything that was started has ended.
    """
    if execution.force:
        for one in cells:
            apply_token(one.record(Path(execution.out)), execution.force)
    if start.name is None:
        return _run_here(cells, execution, name)
    return _run_elsewhere(cells, execution, start, start.name, name)


def _run_here(cells: Sequence[Planned], execution: Execution, name: str) -> list[Entry | Exception]:
    if execution.threads is not None:
        import torch

        torch.set_num_threads(execution.threads)
    folder = None
    if len(cells) > 1:
        folder, left, execution = _resume_plan(name, cells, execution, Start())
        _store_plan(folder, left, name, cells, execution, Start())
    results: dict[str, Entry | Exception] = {}
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(folder.at_work())
        runner = stack.enter_context(CellRunner(execution))
        for one in cells:
            if one.cell.id in results:
                continue
            if (entry := finished_cell(one, execution)) is not None:
                log_done(one, entry.path)
                results[one.cell.id] = entry
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
    """Report how far a cell of this process is, for ``uss-bench status``."""
    if folder is None:
        yield
        return
    with Reporter(folder.now_file(one.cell)):
        yield


def _run_elsewhere(
    cells: Sequence[Planned], execution: Execution, start: Start, launcher: str, name: str
) -> list[Entry | Exception]:
    found = find_launcher(launcher)
    found.check(start.options)
    folder, left, execution = _resume_plan(name, cells, execution, start)
    todo = pending(cells, execution)
    left_to_do = {one.cell.id for one in todo}
    for one in cells:
        if one.cell.id not in left_to_do and (path := one.record(Path(execution.out))).exists():
            log_done(one, path)
            if finished_cell(one, execution) is None:
                draw_missing(path, one.setup)
    states: Mapping[str, State] = {}
    if launcher == LOCAL:
        execution = _share_of_this_machine(execution, min(start.jobs or 1, max(1, len(todo))))
    _store_plan(folder, left, name, cells, execution, start, todo)
    if todo:
        plan = folder.read()
        view = View(plan.tasks, done_before=len(cells) - len(todo))
        made = found.make(folder.path, start.jobs, start.options)
        states = Session(folder, plan, made, view, retries=start.retries).run()
    return [_result(one, execution, states, folder) for one in cells]


def _share_of_this_machine(execution: Execution, jobs: int) -> Execution:
    """Give each of `jobs` processes its share of the cores, unless the user has chosen a number."""
    share = max(1, whole_cores() // jobs)
    return msgspec.structs.replace(
        execution, threads=execution.threads or share, workers=execution.workers or share
    )


def _resume_plan(
    name: str, cells: Sequence[Planned], execution: Execution, start: Start
) -> tuple[PlanFolder, list[Task], Execution]:
    """Return the folder of a plan, the tasks that an earlier command left at work, and how cells are run now.

    With ``--force`` those tasks continue under the rerun token that they began under.

    Raises:
        UsageError: when cells that are to run now are at work on another launcher.
    """
    folder = PlanFolder.of(Path(execution.out), name, [one.cell.id for one in cells])
    if folder.is_at_work:
        return folder, [], execution
    plan, left = _left_at_work(folder)
    if plan is None or not left:
        return folder, [], execution
    if execution.force and plan.rerun_token:
        execution = msgspec.structs.replace(execution, force=plan.rerun_token)
    wanted = {stem(one.cell) for one in pending(cells, execution)}
    if plan.launcher != start.name and any(task.id in wanted for task in left):
        raise UsageError(
            f"{len(left)} tasks of an earlier command are still queued or running on '{plan.launcher}'.",
            hint=f"Watch them with --launcher {plan.launcher}, or cancel them first: "
            f"uss-bench status {folder.path.name} --cancel --out {folder.out}",
        )
    return folder, left, execution


def _left_at_work(folder: PlanFolder) -> tuple[StoredPlan | None, list[Task]]:
    """Return the stored plan, and those of its tasks that are still queued or running."""
    try:
        plan = folder.read()
        launcher = launcher_of(folder, plan)
        return plan, still_open(launcher, plan.tasks) if launcher is not None else []
    except UssBenchError:  # there is no plan yet, or its launcher cannot be asked from this machine
        return None, []


def _store_plan(
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
        left: tasks that an earlier command left at work; extractions among them are watched and cancelled
            together with the plan's own.

    Raises:
        UsageError: when another process runs the plan, and `todo` is not empty.
    """
    if folder.is_at_work:
        if todo:
            raise at_work_elsewhere(folder)
        return  # the plan is the other process's; this one waits for the cells that the other runs
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
            rerun_token=execution.force,
            extractions=[*others, *extractions],
            cells=[
                PlannedTask(label=one.label, record=str(one.record(Path())), task=task_of.get(one.cell.id))
                for one in cells
            ],
        )
    )
    folder.write_states({})  # those of the earlier command are out of date


def _result(
    one: Planned, execution: Execution, states: Mapping[str, State], folder: PlanFolder
) -> Entry | Exception:
    """Return the record of a cell, or the error that says why there is none."""
    path = one.record(Path(execution.out))
    state = states.get(stem(one.cell), State("done"))
    log = folder.log_file(one.cell)
    if state.stage != "done":
        return RunError(f"{first_line(state.reason)} (log: {short(log)})")
    try:
        return Entry(path, read_record(path))
    except DataError as error:
        return RunError(f"It left no readable record: {error.what} (log: {short(log)})")
