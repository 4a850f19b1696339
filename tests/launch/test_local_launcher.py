"""The local launcher and the session around it, with processes that do nothing but end in a chosen way."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from uss_bench.errors import UsageError
from uss_bench.launch.launcher import Task
from uss_bench.launch.launchers import find_launcher
from uss_bench.launch.local import Local
from uss_bench.launch.logs import LIMIT, shorten
from uss_bench.launch.session import Session
from uss_bench.launch.stored import PlanFolder, PlannedTask, StoredPlan
from uss_bench.launch.view import View
from uss_bench.plugins.specs import Resources

LAUNCHERS_PAGE = Path(__file__).parents[2] / "docs" / "launchers.md"
SAY = "import pathlib, sys; "
END = 'pathlib.Path(sys.argv[1]).with_suffix(\'.end\').write_text(\'{"stage": "%s", "reason": "%s"}\')'
DONE = SAY + END % ("done", "")


class Scripted(Task, frozen=True, kw_only=True):
    """A task whose process runs some code."""

    code: str

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.code, self.file]


@pytest.fixture
def folder(tmp_path) -> PlanFolder:
    return PlanFolder.of(tmp_path, "test", ["cell"])


@pytest.fixture
def task(folder) -> Callable[..., Scripted]:
    def task(name: str, code: str = DONE, after: list[str] | None = None, kind: str = "cell") -> Scripted:
        file = str(folder.path / f"{name}.task")
        return Scripted(
            id=name, label=name, kind=kind, file=file, resources=Resources(), after=after or [], code=code
        )

    return task


def plan_of(*tasks: Task, launcher: str = "local") -> StoredPlan:
    cells = [PlannedTask(label=one.label, record=f"d/{one.id}.json", task=one) for one in tasks]
    return StoredPlan(name="test", command="", folder="", created="", launcher=launcher, jobs=2, cells=cells)


def finish(folder: PlanFolder, *tasks: Task, jobs: int = 2, retries: int = 0) -> dict[str, str]:
    local = Local(folder.path, jobs)
    local.interval = 0.02
    states = Session(folder, plan_of(*tasks), local, View(tasks), retries=retries).run()
    return {name: f"{state.stage} {state.reason}".strip() for name, state in states.items()}


def note(path: Path, word: str) -> str:
    return f"open({str(path)!r}, 'a').write({word!r} + ' '); "


def test_processes_that_end_well_badly_and_without_a_word(folder, task):
    assert finish(
        folder,
        task("good"),
        task("bad", SAY + END % ("failed", "no dog") + "; sys.exit(1)"),
        task("dead", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        task("mute", "import sys; sys.exit(3)"),
    ) == {
        "good": "done",
        "bad": "failed no dog",
        "dead": "lost the process was killed by SIGKILL, as the system does when memory runs out",
        "mute": "lost the process exited with code 3 and said nothing",
    }


def test_so_many_run_at_a_time_and_no_more(folder, task, tmp_path):
    """Each adds a letter when it starts and one when it ends."""
    trace = tmp_path / "trace"
    code = "import time; " + note(trace, "+") + "time.sleep(0.3); " + note(trace, "-") + DONE
    assert set(finish(folder, *(task(f"t{n}", code) for n in range(5))).values()) == {"done"}
    running = most = 0
    for sign in trace.read_text().split():
        running += 1 if sign == "+" else -1
        most = max(most, running)
    assert most == 2


def test_a_task_waits_for_those_that_it_comes_after_however_they_end(folder, task, tmp_path):
    trace = tmp_path / "trace"
    first = "import time; time.sleep(0.3); " + note(trace, "first") + "raise SystemExit(3)"
    second = note(trace, "second") + DONE
    states = finish(folder, task("a", first), task("b", second, after=["a"]), jobs=2)
    assert states["b"] == "done"
    assert trace.read_text().split() == ["first", "second"]


def test_a_cell_whose_features_are_there_starts_before_further_features(folder, task, tmp_path):
    trace = tmp_path / "trace"
    tasks = [task(f"features{n}", note(trace, f"features{n}") + DONE, kind="extraction") for n in range(2)]
    tasks += [task(f"cell{n}", note(trace, f"cell{n}") + DONE, after=[f"features{n}"]) for n in range(2)]
    finish(folder, *tasks, jobs=1)
    assert trace.read_text().split() == ["features0", "cell0", "features1", "cell1"]


def test_one_that_dies_is_started_again_before_those_that_wait_for_it(folder, task, tmp_path):
    trace = tmp_path / "trace"
    once = (
        note(trace, "a") + f"import os; n = len(open({str(trace)!r}).read()); n > 2 or os._exit(9); " + DONE
    )
    states = finish(folder, task("a", once), task("b", note(trace, "b") + DONE, after=["a"]), retries=1)
    assert states == {"a": "done", "b": "done"}
    assert trace.read_text().split() == ["a", "a", "b"]


def test_one_that_always_dies_is_given_up(folder, task, tmp_path, capsys):
    trace = tmp_path / "trace"
    dying = task("a", note(trace, "a") + "import os; os._exit(9)")
    assert finish(folder, dying, retries=2)["a"].startswith("lost")
    assert trace.read_text().split() == ["a", "a", "a"]
    assert folder.read_states()["a"].attempts == 3
    assert capsys.readouterr().err.count("starting it again") == 2


def test_what_an_earlier_start_said_is_not_taken_for_the_end_of_this_one(folder, task):
    silent = task("a", "import sys; sys.exit(4)")
    silent.end_file.write_text('{"stage": "done"}')
    assert finish(folder, silent)["a"].startswith("lost")


def test_ctrl_c_ends_processes_and_what_they_started(folder, task, tmp_path):
    pids = tmp_path / "pids"
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(60)"
    )
    local = Local(folder.path, 1)
    polls = local.poll

    def interrupted(tasks):
        if pids.exists() and len(pids.read_text().split()) == 2:
            raise KeyboardInterrupt
        return polls(tasks)

    local.poll = interrupted
    waiting = task("b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uss_bench.launch.local.GRACE_S", 0.2)  # it does not listen
        with pytest.raises(KeyboardInterrupt):
            Session(folder, plan_of(task("a", code), waiting), local, View([]), retries=2).run()
    for pid in map(int, pids.read_text().split()):
        assert not alive(pid)
    assert not waiting.end_file.exists()
    assert {state.state.reason for state in folder.read_states().values()} == {"interrupted by the user"}


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped by its new parent does not."""
    with contextlib.suppress(FileNotFoundError):
        for _ in range(50):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
            time.sleep(0.02)
        return True
    return False


def test_two_commands_do_not_run_one_plan(folder, task):
    with folder.at_work(), pytest.raises(UsageError, match="Another process runs this plan"):
        finish(folder, task("a"))


def test_a_process_ends_when_whoever_started_it_is_gone(tmp_path):
    code = (
        "import time; from uss_bench.launch import task;"
        "task.read_work = lambda path: print('at work', flush=True) or time.sleep(60); task.main()"
    )
    log = tmp_path / "a.log"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.task")],
        stdin=subprocess.PIPE,
        env={**os.environ, "USS_BENCH_TIED": "1"},
        start_new_session=True,
    ) as process:
        while not log.exists() or "at work" not in log.read_text():
            time.sleep(0.02)
        process.stdin.close()
        assert process.wait(20) == 130
    assert "Interrupted." in log.read_text()


def test_gpus_are_dealt_out_to_those_that_ask_for_one(folder, task, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    code = f"import os; open({str(tmp_path)!r} + '/' + os.environ['CUDA_VISIBLE_DEVICES'], 'w'); " + DONE
    tasks = [
        Scripted(**{**{f: getattr(one, f) for f in one.__struct_fields__}, "resources": Resources(gpus=1)})
        for one in (task("a", "import time; time.sleep(0.3); " + code), task("b", code))
    ]
    finish(folder, *tasks)
    assert {path.name for path in tmp_path.iterdir()} >= {"4", "7"}


def test_the_launcher_that_the_documents_show_keeps_the_contract(folder, task):
    [code] = re.findall(r"```python\n(.*?)```", LAUNCHERS_PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    shown: dict[str, type[Local]] = {}
    exec(code, shown)
    tasks = [task("good"), task("mute", "import sys; sys.exit(3)")]
    launcher = shown["OneByOne"](folder.path, None, greeting="hi")
    states = Session(folder, plan_of(*tasks), launcher, View(tasks), retries=1).run()
    assert [states[one.id].stage for one in tasks] == ["done", "lost"]


# --- Names and options ---------------------------------------------------------------------------


def test_a_wrong_launcher_is_answered_with_the_closest_one(command):
    said = command("run", "--method", "dino", "--dataset", "toy3", "--launcher", "locl")
    assert said.code == 2
    assert "There is no launcher 'locl'" in said.err
    assert "Did you mean 'local'" in said.err


def test_an_option_that_a_launcher_lacks_is_told(tmp_path):
    with pytest.raises(UsageError, match="Launcher 'local' has no option 'partition'"):
        find_launcher("local").make(tmp_path, 2, {"partition": "gpu"})


def test_options_without_a_launcher_are_refused(command):
    said = command("run", "--method", "dino", "--dataset", "toy3", "--launcher-set", "partition=gpu")
    assert (said.code, "need a --launcher" in said.err) == (2, True)


# --- Logs ----------------------------------------------------------------------------------------


def test_a_log_keeps_what_was_printed_also_by_a_process_that_dies(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from uss_bench.launch.logs import logging_to\n"
        "with logging_to(Path(sys.argv[1])): os.write(2, b'last words'); os._exit(1)"
    )
    path = tmp_path / "a.log"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert path.read_text().count("last words") == 2


def test_a_flood_leaves_the_beginning_and_the_end_of_a_log(tmp_path):
    code = """
import sys, time
from pathlib import Path
from uss_bench.launch.logs import logging_to
with logging_to(Path(sys.argv[1]), interval_s=0.05):
    print("the beginning", flush=True)
    for number in range(30):
        print("x" * 1_000_000, number, flush=True)
        time.sleep(0.01)
    print("the end", flush=True)
print("to the terminal again")
"""
    path = tmp_path / "a.log"
    command = [sys.executable, "-c", code, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout == "to the terminal again\n"
    assert path.stat().st_size < LIMIT
    first, _, rest = path.read_text().partition("x")
    assert "the beginning" in first
    assert rest.endswith("the end\n")
    assert rest.count("bytes are left out here") >= 1


def test_a_short_log_is_left_alone(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"short")
    shorten(path)
    assert path.read_bytes() == b"short"
