"""A plan at work with a launcher whose tasks outlive the command: what errors, refusals and Ctrl-C do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from running import PLUGINS, SMALL
from test_local_launcher import plan_of

from uss_bench.errors import RunError, UsageError
from uss_bench.experiment.cells import CellSpec, Execution, Start
from uss_bench.experiment.plan_file import Asked
from uss_bench.launch import start as starting
from uss_bench.launch.launcher import State, Task
from uss_bench.launch.planning import Planned, plan_cells
from uss_bench.launch.session import Session
from uss_bench.launch.stored import PlanFolder
from uss_bench.launch.view import View
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import Resources
from uss_bench.results.files import new_rerun_token
from uss_bench.results.record import stem
from uss_bench.runtime import progress


class Scripted:
    """A launcher whose tasks go through given stages, one at each look; the last one stays."""

    interval = 0.0

    def __init__(self, script: Mapping[str, str], *, refuses: Sequence[int] = (), takes: int = 0) -> None:
        self.script = {name: stages.split() for name, stages in script.items()}
        self.refuses = refuses
        self.takes = takes
        """How many tasks of an order that is refused are taken all the same: the first array of two."""
        self.orders: list[list[str]] = []
        self.cancelled: list[str] = []
        self.known: set[str] = set()

    def submit(self, tasks: Sequence[Task]) -> None:
        self.orders.append([task.id for task in tasks])
        refused = len(self.orders) in self.refuses
        taken = tasks[: self.takes] if refused else tasks
        self.known |= {task.id for task in taken}
        for task in taken:
            if self.script[task.id][0] == "lost":
                del self.script[task.id][0]
        if refused:
            raise RunError("SLURM did not take the jobs: too many.")

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
    assert said.count("the node went down; starting it again") == 1
    assert said.count("The next attempt follows while other tasks are at work") == 1


def test_a_task_that_is_not_taken_again_is_given_up_when_no_other_is_at_work(folder):
    launcher = Scripted({"a": "running lost done", "b": "running done"}, refuses=range(2, 99))
    states = run(folder, launcher)
    assert states["b"] == "done"
    assert states["a"] == (
        "lost the node went down; it could not be started again: SLURM did not take the jobs: too many."
    )


def test_of_two_tasks_that_are_lost_together_the_one_that_is_taken_again_is_watched_to_its_end(folder):
    launcher = Scripted(
        {"a": "running lost running running running done", "b": "running lost done"}, refuses=[2], takes=1
    )
    assert run(folder, launcher) == {"a": "done", "b": "done"}
    assert launcher.orders == [["a", "b"], ["a", "b"], ["b"]]


def test_a_launcher_that_fails_otherwise_leaves_nothing_of_what_it_was_given(folder, capsys):
    launcher = Scripted({"a": "running"})
    launcher.submit = lambda tasks: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(folder, launcher)
    assert launcher.cancelled == ["a"]
    assert "go on without this command" not in capsys.readouterr().err
    assert folder.read_states()["a"].state == State("cancelled", "an error ended the command")


def test_tasks_that_are_refused_at_first_end_the_command_and_leave_none_of_them(folder):
    launcher = Scripted({"old": "running running", "new": "running"}, refuses=[1])
    launcher.known = {"old"}
    with pytest.raises(RunError, match="too many"):
        run(folder, launcher)
    assert launcher.cancelled == ["new"]
    assert folder.read_states()["new"].state.reason == "SLURM did not take the jobs: too many."


# --- The same command, given again ---------------------------------------------------------------


@pytest.fixture
def planned(tmp_path) -> Planned:
    """A cell as a plan has it."""
    spec = CellSpec(method="constant", dataset="tiny", protocol=SMALL)
    (one,) = plan_cells([Asked(spec)], Registry([PLUGINS]))
    return one


def test_what_another_launcher_still_has_is_not_started_a_second_time(tmp_path, monkeypatch, planned):
    """The same cells, asked for again without the cluster, while its jobs run and nobody watches."""
    order, execution = new_rerun_token(), Execution(out=str(tmp_path))
    folder, left, _ = starting._resume_plan("test", [planned], execution, Start("cluster"))
    assert left == [], "there was no plan"
    names = [stem(planned.cell), "extract-x-1of4"]
    cell, extraction = make_task(folder.path, names[0]), make_task(folder.path, names[1], "extraction")
    launcher = Scripted(dict.fromkeys(names, "running"))
    launcher.known = set(names)
    monkeypatch.setattr(starting, "launcher_of", lambda folder, plan: launcher)
    folder.write(replace(plan_of(cell, extraction, launcher="cluster"), rerun_token=order))

    with pytest.raises(UsageError, match="2 tasks of an earlier command are still queued or running"):
        starting._resume_plan("test", [planned], execution, Start())
    _, left, same = starting._resume_plan("test", [planned], execution, Start("cluster"))
    assert (left, same) == ([cell, extraction], execution)
    forced = replace(execution, force=new_rerun_token())
    _, _, taken_up = starting._resume_plan("test", [planned], forced, Start("cluster"))
    assert taken_up.force == order, "what runs goes on under the order that it began under"
    starting._store_plan(folder, left, "test", [planned], execution, Start("cluster"), [planned])
    assert extraction in folder.read().tasks, "it is watched, and ended with the others"
    planned.record(tmp_path).parent.mkdir(parents=True)
    planned.record(tmp_path).touch()
    _, left, _ = starting._resume_plan("test", [planned], execution, Start())
    assert {one.kind for one in left} == {"cell", "extraction"}, "no cell of them is to run now"
