"""What the launcher ``slurm`` makes of SLURM's answers; tests/slurm tries it on a real one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from uss_bench.errors import DataError, RunError, UsageError
from uss_bench.experiment.cells import CellSpec, CellWork, Execution
from uss_bench.launch import slurm
from uss_bench.launch.launcher import CORES, State, Task
from uss_bench.launch.slurm import JobList
from uss_bench.launch.slurm_job import JobStart
from uss_bench.launch.slurm_queue import (
    Job,
    cancel_jobs,
    largest_array,
    last_words,
    read_queue,
    remark,
    verdict,
)
from uss_bench.launch.task import in_share
from uss_bench.plugins.specs import Resources

# Recorded from SLURM 22.05: an array with a task cancelled, one requeued and one at work, and an ended job.
QUEUE = """\
5_0|PENDING|BeginTime||1|
5_1|CANCELLED|None|node2|0|
5_2|RUNNING|None|node1|2|
7|COMPLETED|None|node1|0|
"""
# Recorded as well: what a job's log holds after a preemption, and after scancel.
PREEMPTED = (
    "slurmstepd-node1: error: *** STEP 6.0 ON node1 CANCELLED AT 2026-11-26T05:58:30 DUE TO PREEMPTION ***\n"
)
CANCELLED = "slurmstepd-node2: error: *** STEP 5.0 ON node2 CANCELLED AT 2026-11-26T05:58:38 ***\n"
FORGOTTEN = "slurm_load_jobs error: Invalid job id specified"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put programs in place of SLURM's that print, or complain of, what a test says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def program(name: str, prints: str = "", complains: str = "") -> Path:
        path, said = folder / name, folder / f"{name}.asked"
        code = f"echo {complains!r} >&2; exit 1" if complains else "exit 0"
        path.write_text(f"#!/bin/sh\necho \"$@\" >> {said}\ncat <<'END'\n{prints}END\n{code}\n")
        path.chmod(0o755)
        return said

    return program


@pytest.fixture
def installed(monkeypatch, programs):
    for name in ("sbatch", "squeue", "scancel", "srun"):
        programs(name)
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: object())


def make_task(folder: Path, name: str = "a", after: tuple[str, ...] = ()) -> Task:
    return Task(
        id=name,
        label=name,
        kind="cell",
        file=str(folder / f"{name}.task"),
        resources=Resources(),
        after=[*after],
    )


# --- The queue -----------------------------------------------------------------------------------


def test_the_queue_is_asked_for_whole_arrays_and_read_task_by_task(programs):
    asked = programs("squeue", QUEUE)
    assert read_queue(["5_0", "5_1", "7"]) == {
        "5_0": Job("PENDING", "BeginTime", "", 1),
        "5_1": Job("CANCELLED", "", "node2", 0),
        "5_2": Job("RUNNING", "", "node1", 2),
        "7": Job("COMPLETED", "", "node1", 0),
    }
    assert "--jobs=5,7" in asked.read_text().split()


def test_jobs_that_slurm_has_forgotten_are_told_from_a_slurm_that_does_not_answer(programs):
    programs("squeue", complains=FORGOTTEN)
    assert read_queue(["5"]) == {}
    programs(
        "squeue", complains="slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    )
    assert read_queue(["5"]) is None


def test_cancelling_what_has_ended_is_no_error_and_a_refusal_is(programs):
    asked = programs("scancel", complains=FORGOTTEN)
    cancel_jobs({"5_1", "5_0"})
    assert asked.read_text() == "5_0 5_1\n"
    programs("scancel", complains="scancel: error: Kill job error on job id 5: Access/permission denied")
    with pytest.raises(RunError, match="permission denied"):
        cancel_jobs(["5"])


def test_the_largest_array_is_what_the_cluster_says(programs):
    programs("scontrol", "MaxArraySize            = 41\n")
    assert largest_array() == 40
    programs("scontrol", complains="no controller")
    assert largest_array() == 1000


# --- Verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "log", "stage", "reason"),
    [
        ("CANCELLED", PREEMPTED, "failed", "cancelled, by hand or by the administrator"),
        ("", PREEMPTED + CANCELLED, "failed", "cancelled, by hand or by the administrator"),
        ("", CANCELLED + PREEMPTED, "lost", "a more urgent job took its place"),
        ("NODE_FAIL", "", "lost", "the node went down"),
        ("TIMEOUT", "", "lost", "its time was up"),
        ("OUT_OF_MEMORY", "", "failed", "raise memory_gb"),
        ("FAILED", PREEMPTED, "lost", "died and said nothing"),  # the words are those of an earlier start
        ("", "", "lost", "died and said nothing"),
    ],
)
def test_a_job_that_ended_without_a_word_is_judged_by_what_slurm_says(tmp_path, state, log, stage, reason):
    path = tmp_path / "log"
    path.write_text(log)
    found = verdict(state, last_words(path), path, "job 5_1")
    assert (found.stage, found.place) == (stage, "job 5_1")
    assert reason in found.reason


def test_remarks_say_what_a_person_may_want_to_know():
    assert remark(Job("PENDING", "BeginTime", "", 1)) == "requeued, start 2"
    assert remark(Job("PENDING", "Dependency")) == "waits for its features"
    assert remark(Job("RUNNING", "", "node1", 2)) == "start 3"
    assert remark(Job("PENDING", "Resources")) == ""
    assert remark(Job("PENDING", "PartitionTimeLimit")) == "SLURM says PartitionTimeLimit"
    assert remark(Job("PENDING", "JobHoldMaxRequeue", "", 5)) == "SLURM says JobHoldMaxRequeue, start 6"


# --- The launcher --------------------------------------------------------------------------------


def test_what_is_missing_is_said_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs submitit") as error:
        slurm.Slurm(tmp_path, None)
    assert error.value.hint == "pip install 'uss-bench[slurm]'"
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="sbatch, squeue, scancel, srun cannot be found"):
        slurm.Slurm(tmp_path, None)


@pytest.mark.parametrize(
    "wrong", [{"minutes": 4}, {"cpus": 0}, {"gpus": -1}, {"memory_gb": 0.0}, {"requeues": -1}]
)
def test_values_that_make_no_sense_are_refused_by_name(tmp_path, installed, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        slurm.Slurm(tmp_path, None, **wrong)


def test_states_outlive_the_launcher_and_what_slurm_forgets(tmp_path, installed, programs):
    tasks = [make_task(tmp_path, name) for name in ("a", "b", "c", "d", "never")]
    JobList(tmp_path).add({task.id: f"5_{index}" for index, task in enumerate(tasks[:4])})
    tasks[3].end_file.write_bytes(msgspec.json.encode(State("done")))
    programs("squeue", QUEUE)
    assert slurm.Slurm(tmp_path, None).poll(tasks) == {
        "a": State("queued", "requeued, start 2", "job 5_0"),
        "b": State("failed", "Job 5_1 was cancelled, by hand or by the administrator.", "job 5_1"),
        "c": State("running", "start 3", "node1, job 5_2"),
        "d": State("done", "", "job 5_3"),
    }
    programs("squeue", complains=FORGOTTEN)
    later = slurm.Slurm(tmp_path, None).poll(tasks)
    assert later["b"].reason == "Job 5_1 was cancelled, by hand or by the administrator."
    assert later["a"].reason.startswith("Job 5_0 was cancelled before it started")


def test_a_slurm_that_does_not_answer_changes_no_state(tmp_path, installed, programs):
    task = make_task(tmp_path)
    JobList(tmp_path).add({"a": "5_2"})
    launcher = slurm.Slurm(tmp_path, None)
    programs("squeue", QUEUE)
    before = launcher.poll([task])
    programs("squeue", complains="Unable to contact slurm controller")
    assert launcher.poll([task]) == before
    assert slurm.Slurm(tmp_path, None).poll([task]) == {"a": State("queued")}


def test_the_result_of_a_job_that_has_ended_may_arrive_late(tmp_path, installed, programs):
    task = make_task(tmp_path)
    JobList(tmp_path).add({"a": "7"})
    programs("squeue", QUEUE)
    launcher = slurm.Slurm(tmp_path, None)
    assert launcher.poll([task])["a"].stage == "running"
    task.end_file.write_bytes(msgspec.json.encode(State("done")))
    assert launcher.poll([task])["a"].stage == "done"


def test_a_damaged_list_is_an_error_for_jobs_might_be_submitted_twice(tmp_path, installed):
    (tmp_path / "slurm-000000.jobs").write_text('{"a": 5}')
    with pytest.raises(DataError, match=r"slurm-000000\.jobs is not a list of jobs") as error:
        slurm.Slurm(tmp_path, None).poll([make_task(tmp_path)])
    assert "squeue --me" in error.value.hint


def test_what_is_found_out_late_replaces_no_newer_job(tmp_path, installed, programs, monkeypatch):
    """``status`` may wait a minute for squeue, while the command at work submits the task again."""
    task, jobs = make_task(tmp_path), JobList(tmp_path)
    jobs.add({"a": "7", "b": "8"})

    def read_queue_late(ids):
        jobs.add({"a": "9"})
        return {"7": Job("NODE_FAIL")}

    monkeypatch.setattr(slurm, "read_queue", read_queue_late)
    assert slurm.Slurm(tmp_path, None).poll([task])["a"].stage == "lost"
    assert jobs.read() == {"a": "9", "b": "8"}
    monkeypatch.setattr(slurm, "read_queue", lambda ids: {"9": Job("RUNNING")})
    assert slurm.Slurm(tmp_path, None).poll([task])["a"].stage == "running"


def test_states_are_told_where_nothing_can_be_written(tmp_path, installed, monkeypatch):
    JobList(tmp_path).add({"a": "7"})
    monkeypatch.setattr(slurm, "read_queue", lambda ids: {"7": Job("NODE_FAIL")})

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("uss_bench.launch.slurm.atomic_write", refused)
    assert slurm.Slurm(tmp_path, None).poll([make_task(tmp_path)])["a"].reason == "the node went down"


def test_what_was_cancelled_from_elsewhere_is_not_lost(tmp_path, installed, programs):
    tasks = [make_task(tmp_path, name) for name in ("a", "never")]
    JobList(tmp_path).add({"a": "5_1"})
    asked = programs("scancel")
    programs("squeue", QUEUE)
    slurm.Slurm(tmp_path, None).cancel(tasks)
    assert asked.read_text().split() == ["5_1"]
    assert slurm.Slurm(tmp_path, None).poll(tasks) == {
        "a": State("cancelled", "its job was cancelled with uss-bench", "job 5_1")
    }


def test_jobs_whose_numbers_cannot_be_noted_down_are_cancelled(tmp_path, installed, programs, monkeypatch):
    class Executor:
        def __init__(self, *_, **__):
            pass

        update_parameters = __init__

        def submit_array(self, starts):
            return [SimpleNamespace(job_id=f"8_{index}") for index in range(len(starts))]

    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(SlurmExecutor=Executor))
    launcher, asked = slurm.Slurm(tmp_path, None), programs("scancel")
    with monkeypatch.context() as full:

        def no_space(*_):
            raise OSError(28, "No space left on device")

        full.setattr("uss_bench.launch.slurm.atomic_write", no_space)
        with pytest.raises(RunError, match="could not be noted down"):
            launcher.submit([make_task(tmp_path, name) for name in "ab"])
    assert asked.read_text().split() == ["8_0", "8_1"]
    launcher.submit([make_task(tmp_path, "a")])
    assert JobList(tmp_path).read() == {"a": "8_0"}


def test_arrays_that_are_cut_for_their_length_share_the_limit_on_jobs(tmp_path, installed, monkeypatch):
    arrays = []
    monkeypatch.setattr(slurm, "largest_array", lambda: 10)
    launcher = slurm.Slurm(tmp_path, 10)
    monkeypatch.setattr(launcher, "_submit_array", lambda tasks, *rest: arrays.append((len(tasks), rest[-1])))
    launcher.submit([make_task(tmp_path, f"t{index}") for index in range(25)])
    assert arrays == [(10, 4), (10, 4), (5, 2)]


INTERRUPTED_BESIDE = """
import os, signal, threading, time
from uss_bench.launch.slurm import _uninterrupted
threading.Thread(target=time.sleep, args=(5,), daemon=True).start()  # as BLAS has: it may get the signal
done = False
try:
    with _uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        done = True
except KeyboardInterrupt:
    print("after" if done else "inside")
"""


def test_ctrl_c_waits_until_jobs_are_noted_down_whatever_thread_it_reaches():
    said = subprocess.run(
        [sys.executable, "-c", f"import signal; {DEFAULT_SIGNAL}\n{INTERRUPTED_BESIDE}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stdout == "after\n", said.stderr


@pytest.mark.parametrize(
    ("jobs", "sizes", "expected"),
    [(None, [3, 40], [3, 40]), (4, [1, 12], [1, 3]), (1, [2, 2, 2], [1, 1, 1]), (100, [2, 3], [2, 3])],
)
def test_a_limit_on_jobs_is_divided_among_arrays(jobs, sizes, expected):
    assert slurm._shares(jobs, sizes) == expected


WRITE_CORES = f"import os; open('cores', 'w').write(os.environ['{CORES}'])"


DEFAULT_SIGNAL = "signal.signal(signal.SIGINT, signal.default_int_handler)"
"""For tests that run in the background, where a shell has Ctrl-C ignored."""

# --- Inside a job --------------------------------------------------------------------------------


def test_a_job_runs_the_command_and_ends_with_its_exit_code(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    JobStart([sys.executable, "-c", ""], tmp_path / "a.end", 1, 10)()
    for code, exit in (("raise SystemExit(2)", 2), ("import os; os.kill(os.getpid(), 9)", 137)):
        with pytest.raises(SystemExit) as ended:
            JobStart([sys.executable, "-c", code], tmp_path / "a.end", 1, 10)()
        assert ended.value.code == exit
    assert not (tmp_path / "a.end").exists()


@pytest.mark.parametrize(
    ("asked", "expected"), [({}, (3, 3)), ({"threads": 1}, (1, 3)), ({"workers": 2}, (3, 2))]
)
def test_a_job_uses_the_cores_it_was_given_unless_the_user_has_said_how_many(
    tmp_path, monkeypatch, asked, expected
):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    execution = Execution(out="results", **asked)
    work = CellWork(cell=CellSpec(method="dino", dataset="toy3"), execution=execution, id="0")
    monkeypatch.chdir(tmp_path)
    JobStart([sys.executable, "-c", WRITE_CORES], tmp_path / "a.end", 1, 10)()
    monkeypatch.setenv(CORES, (tmp_path / "cores").read_text())
    given = in_share(work).execution
    assert (given.threads, given.workers) == expected
    monkeypatch.delenv(CORES)
    assert in_share(work) is work


def test_the_command_does_not_die_of_the_warning_that_all_processes_get(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2)"
    JobStart([sys.executable, "-c", code], tmp_path / "a.end", 1, 10)()


def test_a_job_that_was_requeued_too_often_says_so_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    ran = tmp_path / "ran"
    with pytest.raises(SystemExit):
        JobStart(["touch", str(ran)], tmp_path / "a.end", 1, 10)()
    assert not ran.exists()
    said = make_task(tmp_path).ended()
    assert said is not None
    assert said.stage == "failed"
    assert "requeued 2 times" in said.reason


WAITS = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(worker.pid))
time.sleep(600)
"""


@pytest.mark.parametrize("restarts", [0, 1])
def test_the_warning_ends_the_process_with_its_workers_a_bounded_number_of_times(tmp_path, restarts):
    """As submitit does it: `checkpoint` is called in the handler of a signal, while the job waits."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'uss-bench[slurm]'")
    driver = """
import signal, sys
from pathlib import Path
from uss_bench.launch.slurm_job import JobStart
start = JobStart([sys.executable, "-c", sys.argv[1], sys.argv[2]], Path(sys.argv[3]), 1, 10)
def handler(*_):
    print("requeue" if start.checkpoint() is not None else "give up", flush=True)
    sys.exit(9)
signal.signal(signal.SIGUSR2, handler)
start()
"""
    worker = tmp_path / "worker"
    process = subprocess.Popen(
        [sys.executable, "-c", driver, WAITS, str(worker), str(tmp_path / "a.end")],
        env={"SLURM_RESTART_COUNT": str(restarts)},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (worker.exists() and worker.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR2)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 9
    assert ("requeue" if restarts == 0 else "give up") in out.splitlines()
    assert not _lives(int(worker.read_text()))
    assert (make_task(tmp_path).ended() is None) == (restarts == 0)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
