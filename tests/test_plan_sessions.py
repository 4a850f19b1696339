"""A plan at work with a launcher whose tasks outlive the command: what errors, refusals and Ctrl-C do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from test_local_launcher import plan_of

from uss_bench import progress
from uss_bench.errors import RunError, UsageError
from uss_bench.launch import start as starting
from uss_bench.launch.launcher import State, Task
from uss_bench.launch.session import Session
from uss_bench.launch.stored import PlanFolder
from uss_bench.launch.view import View
from uss_bench.launch.work import Start
from uss_bench.specs import Resources


class Scripted:
    """A launcher whose tasks go through given stages, one at each look; the last one stays."""

    interval = 0.0

    def __init__(self, script: Mapping[str, str], *, refuses: Sequence[int] = ()) -> None:
        self.script = {name: stages.split() for name, stages in script.items()}
        self.refuses = refuses
        self.orders: list[list[str]] = []
        self.cancelled: list[str] = []
        self.known: set[str] = set()

    def submit(self, tasks: Sequence[Task]) -> None:
        self.orders.append([task.id for task in tasks])
        if len(self.orders) in self.refuses:
            raise RunError("SLURM did not take the jobs: too many.")
        self.known |= {task.id for task in tasks}
        for task in tasks:
            if self.script[task.id][0] == "lost":
                del self.script[task.id][0]

    def poll(self, tasks: Sequence[Task]) -> dict[str, State]:
        found = {}
        for task in tasks:
            if task.id not in self.known:
                continue
            stages = self.script[task.id]
            stage = stages.pop(0) if len(stages) > 1 and stages[0] != "lost" else stages[0]
            if stage == "boom":
                raise OSError(28, "No space left on device")
            if stage == "ctrl-c":
                raise KeyboardInterrupt
            found[task.id] = State(stage, "the node went down" if stage == "lost" else "")
        return found

    def cancel(self, tasks: Sequence[Task]) -> None:
        self.cancelled += [task.id for task in tasks]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> PlanFolder:
    monkeypatch.setattr(progress, "_quiet", False)
    return PlanFolder.of(tmp_path, "test", ["cell"])


def run(folder: PlanFolder, launcher: Scripted, *, name: str = "cluster") -> dict[str, str]:
    tasks = [make_task(folder.path, one) for one in launcher.script]
    plan = plan_of(*tasks, launcher=name)
    states = Session(folder, plan, launcher, View(tasks), retries=1).run()
    return {one: f"{state.stage} {state.reason}".strip() for one, state in states.items()}


def make_task(folder: Path, name: str, kind: str = "cell") -> Task:
    return Task(id=name, label=name, kind=kind, file=str(folder / f"{name}.task"), resources=Resources())


def test_an_error_of_the_command_leaves_the_tasks_of_a_cluster_at_work(folder, capsys):
    launcher = Scripted({"a": "running boom", "b": "running running"})
    with pytest.raises(OSError, match="No space"):
        run(folder, launcher)
    assert launcher.cancelled == []
    said = capsys.readouterr().err
    assert "2 tasks go on without this command" in said
    assert re.search(r"uss-bench status test-\w+ --cancel --out", said)


def test_an_error_of_the_command_ends_what_would_end_with_it(folder):
    launcher = Scripted({"a": "running boom", "b": "running running"})
    with pytest.raises(OSError, match="No space"):
        run(folder, launcher, name="local")
    assert launcher.cancelled == ["a", "b"]


def test_ctrl_c_ends_the_tasks_that_have_not_ended(folder):
    launcher = Scripted({"a": "running ctrl-c", "b": "done"})
    with pytest.raises(KeyboardInterrupt):
        run(folder, launcher)
    assert launcher.cancelled == ["a"]
    states = folder.read_states()
    assert {name: one.state.stage for name, one in states.items()} == {"a": "cancelled", "b": "done"}


def test_ctrl_c_while_the_launcher_is_first_asked_ends_what_an_earlier_command_left(folder):
    launcher = Scripted({"a": "ctrl-c", "b": "running"})
    launcher.known = {"a", "b"}
    with pytest.raises(KeyboardInterrupt):
        run(folder, launcher)
    assert launcher.cancelled == ["a", "b"]
    assert launcher.orders == []


def test_a_task_that_is_not_taken_again_is_tried_while_others_are_at_work(folder, capsys):
    launcher = Scripted(
        {"a": "running lost done", "b": "running running running running running running done"},
        refuses=[2, 3],
    )
    assert run(folder, launcher) == {"a": "done", "b": "done"}
    assert launcher.orders == [["a", "b"], ["a"], ["a"], ["a"]]
    assert launcher.cancelled == []
    said = capsys.readouterr().err
    assert said.count("the node went down; it is started again") == 1
    assert said.count("It is tried again while other tasks are at work") == 1


def test_a_task_that_is_not_taken_again_is_given_up_when_no_other_is_at_work(folder):
    launcher = Scripted({"a": "running lost done", "b": "running done"}, refuses=range(2, 99))
    states = run(folder, launcher)
    assert states["b"] == "done"
    assert states["a"] == (
        "lost the node went down; it was not taken again: SLURM did not take the jobs: too many."
    )


def test_tasks_that_are_refused_at_first_end_the_command_and_leave_none_of_them(folder):
    launcher = Scripted({"old": "running running", "new": "running"}, refuses=[1])
    launcher.known = {"old"}
    with pytest.raises(RunError, match="too many"):
        run(folder, launcher)
    assert launcher.cancelled == ["new"]


def test_tasks_that_another_launcher_still_has_are_not_started_a_second_time(folder, monkeypatch):
    """The same cells, asked for again without the cluster, while its jobs run and nobody watches."""
    launcher = Scripted({"cell": "running running", "extract-x-1of4": "queued queued"})
    launcher.known = set(launcher.script)
    cell, extraction = make_task(folder.path, "cell"), make_task(folder.path, "extract-x-1of4", "extraction")
    monkeypatch.setattr(starting, "launcher_of", lambda folder, plan: launcher)
    assert starting._left_at_work(folder, Start("cluster"), {"cell"}) == [], "there was no plan"
    folder.write(plan_of(cell, extraction, launcher="cluster"))
    with pytest.raises(UsageError, match="2 tasks of an earlier command are still queued or running"):
        starting._left_at_work(folder, Start(), {"cell"})
    assert starting._left_at_work(folder, Start("cluster"), {"cell"}) == [cell, extraction]
    assert starting._left_at_work(folder, Start(), {"other"}) == [cell, extraction], "its record is there"
