"""What ``status`` says of plans in every state, and of those that cannot be read."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import msgspec
import pytest

from uss_bench.files.locks import locked
from uss_bench.launch.launcher import State, Task
from uss_bench.launch.stored import PlanFolder, PlannedTask, Progress, Reporter, StoredPlan, read_now
from uss_bench.launch.view import View
from uss_bench.plugins.specs import Resources
from uss_bench.results.files import WORK, new_rerun_token, record_files
from uss_bench.runtime.progress import bar

NAMES = ["done", "held", "queued", "failed", "lost", "new"]


@pytest.fixture
def folder(tmp_path) -> PlanFolder:
    """A plan with a cell in every state, as a command that runs it has left it."""
    folder = PlanFolder.of(tmp_path, "mine", NAMES)
    cells = [
        PlannedTask(label=f"cell {name}", record=f"tiny/{name}.json", task=task(folder.path, name))
        for name in NAMES
    ]
    folder.write(
        StoredPlan(
            name="mine",
            command="uss-bench run --plan mine.toml",
            folder="",
            created="2026-11-26T10:00:00+00:00",
            launcher="local",
            jobs=2,
            extractions=[task(folder.path, "extract-tiny")],
            cells=cells,
        )
    )
    folder.write_states(
        {
            "extract-tiny": Progress(State("running", place="here"), 1),
            "queued": Progress(State("queued"), 1),
            "failed": Progress(State("failed", "no dog\nTry another."), 1),
            "lost": Progress(State("lost", "the process was killed by SIGKILL"), 3),
        }
    )
    (folder.path / "failed.log").write_text("woof")
    (tmp_path / "tiny" / WORK / "held").mkdir(parents=True)
    (tmp_path / "tiny" / "done.json").write_text("{}")
    return folder


def task(folder: Path, name: str) -> Task:
    kind = "extraction" if name.startswith("extract") else "cell"
    return Task(id=name, label=name, kind=kind, file=str(folder / f"{name}.task"), resources=Resources())


def stages(text: str) -> dict[str, str]:
    return dict(re.findall(r"^cell (\w+) +(\w+)", text, flags=re.MULTILINE))


def test_cells_of_a_plan_at_work(command, folder, tmp_path):
    lock = tmp_path / "tiny" / WORK / "held" / "lock"
    with folder.at_work(), locked(lock, print, "runs"), Reporter(folder.path / "held.now"):
        with bar(total=100, label="training") as drawn:
            drawn.update(100)
        said = command("status", "--out", tmp_path)
    assert said.code == 0
    assert stages(said.out) == {
        "done": "done",
        "held": "running",
        "queued": "queued",
        "failed": "failed",
        "lost": "failed",
        "new": "queued",
    }
    assert re.search(r"extract-tiny +running", said.out)
    assert re.search(r"cell failed +failed +no dog\n +log: \S+/failed\.log\n", said.out), (
        "the log that is there"
    )
    assert re.search(r"cell lost +failed +the process was killed by SIGKILL\n", said.out)
    assert "6 cells: 1 done, 1 running, 2 queued, 2 failed" in said.out


def test_cells_of_a_plan_that_nobody_works_on_are_planned(command, folder, tmp_path):
    said = command("status", "mine", "--out", tmp_path)
    assert stages(said.out)["queued"] == stages(said.out)["new"] == stages(said.out)["held"] == "planned"
    assert re.search(r"extract-tiny +planned", said.out)
    assert "no command of this machine is at it" in said.out


def test_how_far_a_task_is_can_be_read_while_it_runs_and_not_after(tmp_path):
    file = tmp_path / "a.task"
    with Reporter(file.with_suffix(".now")), bar(total=4, label="training") as drawn:
        assert str(read_now(file)) == "start"
        drawn.update(4)
        found = read_now(file)
        assert found is not None
    assert read_now(file) is None
    assert found.phase in ("start", "training")


def test_a_finished_plan_is_two_lines_unless_it_is_asked_for(command, folder, tmp_path):
    for name in NAMES:
        (tmp_path / "tiny" / f"{name}.json").write_text("{}")
    assert len(command("status", "--out", tmp_path).out.splitlines()) == 2
    for more in (["--all"], ["mine"]):
        assert len(stages(command("status", "--out", tmp_path, *more).out)) == len(NAMES)


def test_a_plan_that_cannot_be_read_is_passed_over(command, folder, tmp_path):
    (folder.path / "plan").write_text('{"schema": 1, "name": 3}')
    said = command("status", "--out", tmp_path)
    assert said.code == 0
    assert re.search(r"skipped.*plan is not a plan: .* at `\$\.name`", said.err)


def test_a_wrong_plan_is_answered_with_the_closest_one(command, folder, tmp_path):
    said = command("status", "mime", "--out", tmp_path)
    assert said.code == 2
    assert "Did you mean 'mine'" in said.err
    assert "No plans in" in command("status", "--out", tmp_path / "empty").out


def test_what_ends_with_its_command_cannot_be_cancelled_from_elsewhere(command, folder, tmp_path):
    said = command("status", "mine", "--cancel", "--out", tmp_path)
    assert (said.code, "Press Ctrl-C where it runs" in said.err) == (2, True)


def test_what_was_interrupted_is_planned_and_says_so(command, folder, tmp_path):
    folder.write_states({"lost": Progress(State("cancelled", "interrupted by the user"), 1)})
    said = command("status", "mine", "--out", tmp_path)
    assert re.search(r"cell lost +planned +interrupted by the user\n", said.out)


def test_a_record_that_is_to_be_made_again_is_not_done_before_it_is(command, folder, tmp_path):
    folder.write(msgspec.structs.replace(folder.read(), rerun_token=new_rerun_token()))
    record = tmp_path / "tiny" / "done.json"
    for seconds, stage in ((-60, "planned"), (60, "done")):
        os.utime(record, (time.time() + seconds, time.time() + seconds))
        assert stages(command("status", "mine", "--out", tmp_path).out)["done"] == stage


def test_what_a_command_of_this_machine_watches_is_cancelled_by_its_ctrl_c(command, folder, tmp_path):
    folder.write(msgspec.structs.replace(folder.read(), launcher="slurm"))
    with folder.at_work():
        said = command("status", "mine", "--cancel", "--out", tmp_path)
    assert (said.code, "would start the tasks again" in said.err) == (2, True)


def test_no_file_of_a_plan_is_taken_for_a_record(folder, tmp_path):
    assert [path.name for path in record_files(tmp_path)] == ["done.json"]


def test_the_table_on_a_terminal_is_drawn_over_itself(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("uss_bench.launch.view._REFRESH_S", 0.0)
    tasks = folder.read().tasks
    states = {one.id: Progress(State("queued"), 1) for one in tasks}
    with View(tasks, done_before=1) as view:
        view.draw(states)
        states["held"] = Progress(State("running"), 2)
        view.draw(states)
        states["held"] = Progress(State("failed", "no dog"), 2)
        view.draw(states)
    text = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().err)
    assert "7 cells: 1 done, 0 running, 6 queued" in text
    assert re.search(r"held  starting · 0\.\d s · attempt 2", text)
    assert re.search(r"held: failed\. no dog \(log: \S+held\.log\)", text)
    assert text.count("\x1b[J") == 3, "drawn three times, and taken away every time"
