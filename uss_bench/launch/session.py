"""A plan at work: its tasks submitted, watched, submitted again when they die, and ended on Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from uss_bench import progress
from uss_bench.errors import UsageError
from uss_bench.launch.launcher import Launcher, State, Task
from uss_bench.launch.stored import PlanFolder, Progress, StoredPlan
from uss_bench.launch.view import View

_OPEN = ("queued", "running")


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
        self._known: dict[str, Progress] = {}

    def run(self) -> dict[str, State]:
        """Run all tasks and return what became of each, by its id.

        Tasks that the launcher already has, of an earlier command that did not end, are watched and not
        submitted again.

        Raises:
            UsageError: when another process is at it.
            KeyboardInterrupt: after all tasks were ended.
        """
        with self._folder.at_work() as ours:
            if not ours:
                raise taken(self._folder)
            try:
                with self._view:
                    self._submit_new()
                    while self._waiting():
                        time.sleep(self._launcher.interval)
                        self._look()
            except BaseException:  # Ctrl-C, and whatever else ends the command: no task outlives it
                self._end_all()
                raise
        return {name: one.state for name, one in self._known.items()}

    def _submit_new(self) -> None:
        there = self._launcher.poll(self._tasks)
        kept = {name: state for name, state in there.items() if state.stage in _OPEN}
        self._known = {name: Progress(state, 1) for name, state in kept.items()}
        over: set[str] = set()
        if kept:
            progress.log(f"{len(kept)} tasks of an earlier command are still at work; they are watched")
            # The extractions that these have waited for are not done again.
            over = {
                task.id
                for task in self._tasks
                if task.kind == "extraction" and task.id in there and there[task.id].stage == "done"
            }
        self._submit([task for task in self._tasks if task.id not in kept and task.id not in over])
        self._tell()

    def _submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.end_file.unlink(missing_ok=True)
            attempts = self._known[task.id].attempts if task.id in self._known else 0
            self._known[task.id] = Progress(State("queued"), attempts + 1)
        self._launcher.submit(tasks)

    def _look(self) -> None:
        waiting = self._waiting()
        found = self._launcher.poll(waiting)
        again = []
        changed = False
        for task in waiting:
            before = self._known[task.id]
            state = found.get(task.id, State("lost", "the launcher does not know of it any more"))
            if state == before.state:
                continue
            changed = True
            if state.stage == "lost" and before.attempts <= self._retries:
                progress.log(f"{task.label}: {state.reason}; it is started again ({task.log})")
                again.append(task)
            else:
                self._known[task.id] = Progress(state, before.attempts)
        if again:
            self._submit(again)
        if changed:
            self._tell()
        self._view.draw(self._known)

    def _tell(self) -> None:
        with contextlib.suppress(OSError):  # a full disk ends tasks, with their reasons, and not the watch
            self._folder.write_states(self._known)
        self._view.draw(self._known)

    def _end_all(self) -> None:
        waiting = self._waiting()
        if waiting:
            progress.log(f"Ending {len(waiting)} tasks that are queued or running")
            self._launcher.cancel(waiting)
        for task in waiting:
            attempts = self._known[task.id].attempts
            self._known[task.id] = Progress(State("lost", "interrupted by the user"), attempts)
        with contextlib.suppress(OSError):
            self._folder.write_states(self._known)

    def _waiting(self) -> list[Task]:
        """Return the tasks that were submitted and have not ended."""
        known = (task for task in self._tasks if task.id in self._known)
        return [task for task in known if self._known[task.id].state.stage in _OPEN]


def taken(folder: PlanFolder) -> UsageError:
    """Return the error of a command whose plan another one is at work on."""
    return UsageError(
        f"Another process runs this plan ({folder.path}).",
        hint=f"Look at it: uss-bench status --out {folder.out}",
    )
