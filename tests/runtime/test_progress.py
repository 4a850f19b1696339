"""Without a terminal, a line about every 30 seconds says how far a command is."""

from __future__ import annotations

import pytest

from uss_bench.launch.launcher import State, Task
from uss_bench.launch.stored import Progress
from uss_bench.launch.view import View
from uss_bench.plugins.specs import Resources
from uss_bench.runtime import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set; the command started at 1000."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    for name in ("_STARTED", "_last_line"):
        monkeypatch.setattr(progress, name, clock.now)
    monkeypatch.setattr(progress, "_quiet", False)
    monkeypatch.setattr("uss_bench.runtime.progress.time", clock)
    monkeypatch.setattr("uss_bench.launch.view.time", clock)
    return clock


def test_a_bar_that_is_not_drawn_prints_a_line_every_thirty_seconds(clock, capsys):
    for _ in progress.track(range(1000), total=1000, label="train"):
        clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 33
    assert lines[0] == "   30.0s  train: 30 of 1,000, about 16 min left"
    assert lines[-1] == "  990.0s  train: 990 of 1,000", "what is left is less than the pause between lines"


def test_a_step_of_minutes_and_nested_bars_print_no_more_than_one_line_each_time(clock, capsys):
    for _ in progress.track(range(3), total=3, label="outer"):
        for _ in progress.track(range(5), total=5, label="inner"):
            clock.now += 20
    lines = capsys.readouterr().err.splitlines()
    assert [float(line.partition("s")[0]) for line in lines] == [40, 80, 120, 160, 200, 240, 280]
    assert {line[10:15] for line in lines} == {"inner"}


def test_a_message_counts_as_a_line(clock, capsys):
    with progress.bar(total=2, label="predict") as bar:
        clock.now += 29
        progress.log("loaded")
        clock.now += 29
        bar.update()
        clock.now += 2
        bar.update()
    assert capsys.readouterr().err.splitlines() == ["   29.0s  loaded", "   60.0s  predict: 2 of 2"]


def test_quiet_means_quiet(clock, capsys):
    progress.set_quiet(True)
    for _ in progress.track(range(3), total=3, label="train"):
        clock.now += 100
    assert capsys.readouterr().err == ""


def test_an_observer_hears_of_bars_that_are_not_drawn(clock):
    seen = []
    progress.observe(lambda *advance: seen.append(advance))
    try:
        list(progress.track(range(2), total=2, label="train"))
    finally:
        progress.observe(None)
    assert seen == [("train", 1, 2), ("train", 2, 2)]


def test_a_plan_in_other_processes_says_how_far_it_is(clock, capsys, tmp_path):
    tasks = [
        Task(id=name, label=f"seed {name}", kind="cell", file=str(tmp_path / name), resources=Resources())
        for name in "01"
    ]
    known = {"0": Progress(State("running"), 1), "1": Progress(State("queued"), 1)}
    with View(tasks, done_before=2) as view:
        view.draw(known)
        for _ in range(4):
            clock.now += 16
            view.draw(known)
    assert capsys.readouterr().err.splitlines() == [
        "    0.0s  seed 0: started",
        "   32.0s  4 cells: 2 done, 1 running, 1 queued; seed 0  starting · 32 s",
        "   64.0s  4 cells: 2 done, 1 running, 1 queued; seed 0  starting · 64 s",
    ]
