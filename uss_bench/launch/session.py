"""Running a plan: tasks are submitted, watched, submitted again when they die, and cancelled on Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence

from uss_bench.errors import UsageError, UssBenchError
from uss_bench.experiment.cells import LOCAL
from uss_bench.launch.launcher import OPEN, Launcher, Stage, State, Task, still_open
from uss_bench.launch.stored import PlanFolder, Progress, StoredPlan
from uss_bench.launch.view import View
from uss_bench.runtime import progress


class Session:
    """Runs a stored plan with a launcher.

    Args:
        retries: how often a task that dies is submitted again.
    """

    def __init__(
        self, folder: PlanFolder, plan: StoredPlan, launcher: Launcher, view: View, *, retries: int
    ) -> None:
        self._folder = folder
        self._launcher = launcher
        self._view = view
        self._retries = retries
        self._tasks = plan.tasks
        self._tied = plan.launcher == LOCAL
        """Whether tasks end with this process."""
        self._known: dict[str, Progress] = {}
        self._refused: set[str] = set()
        """Tasks that died, and that the launcher has not accepted again so far."""

    def run(self) -> dict[str, State]:
        """Run all tasks and return the last state of each, by its id.

        Tasks that an earlier command has submitted and that are still open are watched, and not submitted
        again.

        Raises:
            UsageError: when another process runs the plan.
            UssBenchError: when the launcher does not accept the tasks. None of them is left at work, unlike
                those of an earlier command.
            KeyboardInterrupt: after all tasks were cancelled.
        """
        with self._folder.at_work() as ours:
            if not ours:
                raise at_work_elsewhere(self._folder)
            try:
                with self._view:
                    self._submit_new()
                    while self._waiting():
                        time.sleep(self._launcher.interval)
                        self._poll()
            except BaseException as error:
                if self._tied or isinstance(error, KeyboardInterrupt):
                    self._cancel_all()
                else:
                    self._log_left()
                raise
        return {name: one.state for name, one in self._known.items()}

    def _submit_new(self) -> None:
        there = self._launcher.poll(self._tasks)
        kept = {name: state for name, state in there.items() if state.stage in OPEN}
        self._known = {name: Progress(state, 1) for name, state in kept.items()}
        over: set[str] = set()
        if kept:
            progress.log(f"Watching {len(kept)} tasks of an earlier command that are still queued or running")
            # The extractions that these wait for are not repeated.
            over = {
                task.id
                for task in self._tasks
                if task.kind == "extraction" and task.id in there and there[task.id].stage == "done"
            }
        new = [task for task in self._tasks if task.id not in kept and task.id not in over]
        try:
            self._submit(new)
        except Exception as error:
            self._cancel(
                new, error.what if isinstance(error, UssBenchError) else "an error ended the command"
            )
            raise
        self._store_states()

    def _submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.end_file.unlink(missing_ok=True)
            attempts = self._known[task.id].attempts if task.id in self._known else 0
            self._known[task.id] = Progress(State("queued"), attempts + 1)
        self._launcher.submit(tasks)

    def _poll(self) -> None:
        waiting = self._waiting()
        found = self._launcher.poll(waiting)
        again: dict[str, tuple[Task, State]] = {}
        changed = False
        for task in waiting:
            before = self._known[task.id]
            state = found.get(task.id, State("lost", "the launcher no longer knows the task"))
            if state == before.state:
                continue
            changed = True
            if state.stage == "lost" and before.attempts <= self._retries:
                again[task.id] = (task, state)
            else:
                self._known[task.id] = Progress(state, before.attempts)
        if again:
            self._submit_again(again)
        if changed:
            self._store_states()
        self._view.draw(self._known)

    def _submit_again(self, lost: Mapping[str, tuple[Task, State]]) -> None:
        """Submit tasks that died. A refused one is tried again as long as other tasks are at work."""
        attempts = {name: self._known[name].attempts for name in lost}
        for name in lost.keys() - self._refused:
            task, state = lost[name]
            progress.log(f"{task.label}: {state.reason}; starting it again ({task.log})")
        tasks = [task for task, _ in lost.values()]
        try:
            self._submit(tasks)
        except UssBenchError as error:
            refused = lost.keys() - {task.id for task in still_open(self._launcher, tasks)}
            others = any(task.id not in refused for task in self._waiting())
            stage: Stage = "queued" if others else "lost"
            for name in refused:
                reason = f"{lost[name][1].reason}; it could not be started again: {error.what}"
                self._known[name] = Progress(State(stage, reason), attempts[name])
            if others and not refused <= self._refused:
                progress.log(f"{error.what} The next attempt follows while other tasks are at work.")
            self._refused = (self._refused - lost.keys()) | refused
        else:
            self._refused -= lost.keys()

    def _store_states(self) -> None:
        with contextlib.suppress(OSError):  # a full disk may end tasks, but not the watch over them
            self._folder.write_states(self._known)
        self._view.draw(self._known)

    def _cancel_all(self) -> None:
        """Cancel everything that may be at work; before the launcher was first asked, that is every task."""
        open_ones = self._waiting() if self._known else self._tasks
        if open_ones:
            progress.log(f"Cancelling {len(open_ones)} tasks that are queued or running")
        self._cancel(open_ones, "interrupted by the user")

    def _cancel(self, tasks: Sequence[Task], reason: str) -> None:
        if tasks:
            self._launcher.cancel(tasks)
        for task in tasks:
            attempts = self._known[task.id].attempts if task.id in self._known else 0
            self._known[task.id] = Progress(State("cancelled", reason), attempts)
        with contextlib.suppress(OSError):
            self._folder.write_states(self._known)

    def _log_left(self) -> None:
        """Log that tasks continue after an error has ended the command that watched them."""
        if waiting := self._waiting():
            progress.log(
                f"{len(waiting)} tasks go on without this command. Give it again to watch them, or cancel "
                f"them: uss-bench status {self._folder.path.name} --cancel --out {self._folder.out}"
            )

    def _waiting(self) -> list[Task]:
        """Return the tasks that were submitted and have not ended."""
        known = (task for task in self._tasks if task.id in self._known)
        return [task for task in known if self._known[task.id].state.stage in OPEN]


def at_work_elsewhere(folder: PlanFolder) -> UsageError:
    """Return the error of a command whose plan another process runs."""
    return UsageError(
        f"Another process runs this plan ({folder.path}).",
        hint=f"Show how far it is: uss-bench status --out {folder.out}",
    )
