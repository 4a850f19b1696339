"""The launcher ``slurm`` on a real SLURM of two nodes: ``nox -s slurm``.

One plan is run twice, on this machine and by SLURM, where a node fails, the administrator cancels a
job and the command that watches is killed. The boards must be the same.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from cluster import Cluster, Unavailable, running_cluster
from commands import Command, Log, until

from uss_bench.experiment.cells import CellSpec, Execution, ExtractionWork, here, write_work
from uss_bench.launch.launcher import Task
from uss_bench.launch.slurm import JobList, Slurm
from uss_bench.plugins.specs import Resources

VARIABLE = "USS_BENCH_SLURM"
REPORT = "USS_BENCH_SLURM_REPORT"
"""A folder that gets the log and the figures of the session."""

pytestmark = pytest.mark.skipif(
    os.environ.get(VARIABLE) != "1", reason=f"starts a SLURM of its own: nox -s slurm, or {VARIABLE}=1"
)

SMALL = "stego320@2[eval_side=96]"
SMALL_TRAINING = {"side": 96}
PLAN = f"""\
name = "trial"

[defaults]
protocol = "{SMALL}"
training = {{ side = 96 }}
limit = 8
seeds = 3
set = {{ steps = 20 }}

[[runs]]
method = ["smooseg", "dino"]
dataset = ["toy3", "toy27"]
"""
CELLS = 12
CELL = [
    "run",
    "--method",
    "smooseg",
    "--dataset",
    "toy3",
    "--limit",
    8,
    "--protocol",
    SMALL,
    "--training",
    "side=96",
]
SLURM = ["--launcher", "slurm", "--launcher-config", "cluster.toml"]
CLUSTER = """\
minutes = 30
cpus = 1
gpus = 0
memory_gb = 2.0
"""


@dataclass
class Trial:
    """What the tests of a session share."""

    cluster: Cluster
    folder: Path
    log: Log
    figures: dict[str, object] = field(default_factory=dict)
    started: list[Command] = field(default_factory=list)

    def command(self, *arguments: object, cache: str = "cache-slurm") -> Command:
        """Start a command."""
        one = Command(
            *arguments,
            folder=self.folder,
            environment={**self.cluster.environment, "USS_BENCH_CACHE": str(self.folder / cache)},
        )
        self.started.append(one)
        self.log.say(f"$ {' '.join(one.words)}")
        return one

    def kill_commands(self) -> None:
        for one in self.started:
            one.kill()

    def finish(self, command: Command, code: int = 0, *, tell: bool = True) -> None:
        """Wait for a command, check its exit code and log what it said."""
        ended = command.wait()
        if tell:
            self.log.quote(command.output)
        self.log.say(f"exit code {ended}")
        assert ended == code, command.output

    def submitted(self, out: str) -> dict[str, str]:
        """Return the jobs of all tasks that the plans of a results folder have submitted."""
        found: dict[str, str] = {}
        for path in (self.folder / out).glob(".plans/*"):
            found |= JobList(path).read()
        return found

    def of_cells(self, out: str) -> dict[str, str]:
        """Return the jobs of cells by the names of their tasks."""
        return {name: job for name, job in self.submitted(out).items() if not name.startswith("extract-")}

    def running(self, out: str, node: str | None = None) -> list[str]:
        """Return the cells whose jobs run, on a node or on any."""
        queue = self.cluster.queue()
        return [
            name
            for name, job in self.of_cells(out).items()
            if queue.get(job, ("", ""))[0] == "RUNNING" and node in (None, queue[job][1])
        ]

    def wait_for_a_new_one(self, out: str, *, other_than: str) -> str:
        """Return a cell whose job begins from now on."""
        before = {other_than, *self.running(out)}
        begun: list[str] = []
        until(lambda: begun.extend(set(self.running(out)) - before) or begun, "A cell that begins")
        return begun[0]

    def task_log(self, out: str, name: str) -> str:
        """Return what a task has printed so far."""
        return "".join(path.read_text() for path in (self.folder / out).glob(f".plans/*/{name}.log"))


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("trial")
    report = Path(os.environ.get(REPORT) or folder)
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(running_cluster())
        except Unavailable as error:
            pytest.skip(f"SLURM cannot be run here: {error}")
        log = Log(report / "session.log", {str(folder): ".", str(cluster.folder): "CLUSTER"})
        version = cluster.slurm("sinfo", "--version").strip()
        log.say(f"{version}, two nodes of one core each: {', '.join(cluster.states())}")
        for name, text in (("plan.toml", PLAN), ("cluster.toml", CLUSTER)):
            (folder / name).write_text(text)
            log.say(f"{name}:")
            log.quote(text)
        one = Trial(cluster, folder, log, {"slurm": version})
        stack.callback(one.kill_commands)
        yield one
        one.figures["seconds"] = round(log.seconds)
        (report / "figures.json").write_text(json.dumps(one.figures, indent=1) + "\n")
        log.say("the end")


def scores(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Return what decides a record's numbers, by its name: id, and digests of counts and of the state."""
    found = {}
    for path in folder.glob("*/*.json"):
        record = json.loads(path.read_text())
        assert record["status"] == "done", record["reason"]
        found[path.stem] = (record["id"], record["arrays_sha256"], record["state_sha256"])
    return found


def board(trial: Trial, out: str) -> dict[str, bytes]:
    """Build the board of a results folder and return its files.

    What a clock or a scheduler decides is the same in all records first: times and memory, the date, the
    command, how many images this very run has encoded, and remarks about interruptions.
    """
    copy = trial.folder / "boards" / "records"
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(trial.folder / out, copy, ignore=shutil.ignore_patterns(".*"))
    for path in copy.glob("*/*.json"):
        record = json.loads(path.read_text())
        record |= {"created": "2026-01-01T00:00:00+00:00", "command": "", "encoded_items": 0, "notes": []}
        record["phases"] = {name: {"seconds": 1.0, "peak_bytes": 1} for name in record["phases"]}
        path.write_text(json.dumps(record))
    built = copy.parent / "board"
    assert trial.command("board", "build", "--records", copy, "--out", built).wait() == 0
    return {
        str(path.relative_to(built)): path.read_bytes() for path in sorted(built.rglob("*")) if path.is_file()
    }


def test_a_plan_survives_a_node_a_cancelled_job_and_a_lost_terminal(trial: Trial) -> None:
    cluster, log = trial.cluster, trial.log
    plan = ["run", "--plan", "plan.toml", "--threads", 1, "--workers", 1]
    trial.finish(trial.command(*plan, "--out", "local", cache="cache-local"), tell=False)
    reference = scores(trial.folder / "local")
    assert len(reference) == CELLS

    command = [*plan, "--out", "slurm", *SLURM]
    started = log.seconds
    watching = trial.command(*command)
    until(lambda: trial.running("slurm", "node2"), "A cell on node2")
    (victim,) = trial.running("slurm", "node2")
    job = trial.of_cells("slurm")[victim]
    until(lambda: "---" in trial.task_log("slurm", victim), "A log")
    log.say(f"node2 loses power while it runs job {job}")
    cluster.fail_node("node2")

    log.say("the terminal is lost: the command is killed")
    watching.kill()
    log.quote(watching.output)
    before = trial.submitted("slurm")
    assert set(trial.of_cells("slurm").values()) <= cluster.queue().keys()
    watching = trial.command(*command)
    watching.wait_for("of an earlier command that are still queued or running")

    until(lambda: cluster.states()["node2"].startswith("DOWN"), "node2 down")
    until(lambda: cluster.queue()[job][0] == "PENDING", "The job of node2 in the queue again")
    log.say(f"SLURM has seen it: node2 is down, and job {job} is in the queue again")
    cluster.start_node("node2")
    log.say("node2 is there again")

    cancelled = trial.wait_for_a_new_one("slurm", other_than=victim)
    cancelled_job = trial.of_cells("slurm")[cancelled]
    log.say(f"the administrator cancels job {cancelled_job}")
    cluster.slurm("scancel", cancelled_job)

    trial.finish(watching, 1)
    assert "1 of 12 cells failed" in watching.output
    assert f"Job {cancelled_job} was cancelled, by hand or by the administrator" in watching.output
    after = trial.submitted("slurm")
    assert before == after
    assert trial.task_log("slurm", victim).count("--- ") >= 2

    status = trial.command("status", "--out", "slurm")
    trial.finish(status)
    assert f"Job {cancelled_job} was cancelled" in status.output

    again = trial.command(*command)
    trial.finish(again)
    seconds = round(log.seconds - started)
    finally_ = trial.submitted("slurm")
    renewed = {name for name in finally_ if finally_[name] != after.get(name, finally_[name])}
    assert renewed == {cancelled}
    assert scores(trial.folder / "slurm") == reference
    boards = {out: board(trial, out) for out in ("local", "slurm")}
    assert boards["slurm"] == boards["local"]
    log.say(f"the boards are equal, byte for byte: {', '.join(boards['slurm'])}")
    states = [state for state, _ in cluster.queue().values()]
    trial.figures |= {
        "cells of the plan": CELLS,
        "of which have a record, equal to the local one": len(
            scores(trial.folder / "slurm").items() & reference.items()
        ),
        "nodes failed": cluster.failures,
        "watching commands killed": sum(one.process.poll() == -signal.SIGKILL for one in trial.started),
        "jobs cancelled by the administrator": states.count("CANCELLED"),
        "jobs requeued by SLURM": cluster.requeues(),
        "jobs that did the work, extractions included": len(states),
        "cells submitted again": len(renewed),
        "files of the board, equal byte for byte": len(boards["slurm"].items() & boards["local"].items()),
        "seconds from the first command to the last record": seconds,
    }


def test_a_preempted_cell_goes_on_from_its_snapshot(trial: Trial) -> None:
    cluster, log = trial.cluster, trial.log
    cell = [*CELL, "--set", "steps=500", "--threads", 1, "--workers", 1, "--snapshot-every", 1]
    watching = trial.command(*cell, "--out", "preempted", *SLURM)
    until(lambda: list((trial.folder / "preempted").glob("*/.work/*/*.snapshot")), "A snapshot")
    ((name, job),) = trial.of_cells("preempted").items()
    node = cluster.queue()[job][1]
    log.say(f"a more urgent job takes {node} from job {job}")
    cluster.slurm(
        "sbatch", "--partition=urgent", f"--nodelist={node}", "--output=/dev/null", "--wrap=sleep 1"
    )
    until(lambda: cluster.queue()[job][0] == "PENDING", "The preempted job in the queue again")
    trial.finish(watching)
    said = trial.task_log("preempted", name)
    goes_on = [line for line in said.splitlines() if "Training goes on after step" in line]
    log.say(f"from the log of job {job}:")
    log.quote("\n".join(line for line in said.splitlines() if line.startswith("---") or line in goes_on))
    assert len(goes_on) == 1
    assert int(goes_on[0].rpartition("step ")[2].rstrip(".")) >= 1
    trial.finish(trial.command(*cell, "--out", "uninterrupted", cache="cache-local"), tell=False)
    assert scores(trial.folder / "preempted") == scores(trial.folder / "uninterrupted")
    log.say("the record is that of an uninterrupted run: the same id, counts and trained state")
    trial.figures["preempted after step"] = int(goes_on[0].rpartition("step ")[2].rstrip("."))


def test_ctrl_c_cancels_what_is_queued_and_what_runs(trial: Trial) -> None:
    cluster, log = trial.cluster, trial.log
    cell = [*CELL, "--set", "steps=1000000"]
    watching = trial.command(*cell, "--seeds", 4, "--out", "stopped", *SLURM)
    until(lambda: trial.running("stopped"), "A running cell")
    log.say("Ctrl-C")
    watching.press_ctrl_c()
    trial.finish(watching, 130)
    jobs = set(trial.submitted("stopped").values())
    queue = cluster.queue()
    alive = [job for job in jobs if queue.get(job, ("", ""))[0] in ("PENDING", "RUNNING", "COMPLETING")]
    assert alive == []
    assert len(jobs) >= 4
    status = trial.command("status", "--out", "stopped")
    trial.finish(status)
    trial.figures["jobs submitted before Ctrl-C, none left after it"] = len(jobs)


def test_an_extraction_in_shares_runs_on_both_nodes_before_what_waits_for_it(trial: Trial) -> None:
    cluster, log = trial.cluster, trial.log
    folder = trial.folder / "shares"
    folder.mkdir()
    execution = Execution(
        out=str(folder),
        threads=1,
        workers=1,
        **{**here(), "variables": {"USS_BENCH_CACHE": str(folder / "cache")}},
    )
    cell = CellSpec(method="dino", dataset="toy3", limit=129, protocol=SMALL, training=SMALL_TRAINING)
    tasks = []
    for part in range(2):
        file = folder / f"extract-{part + 1}of2.task"
        write_work(
            file, ExtractionWork(cell=cell, execution=execution, facets=["tokens"], part=part, parts=2)
        )
        tasks.append(make_task(file))
    last = folder / "extract-all.task"
    write_work(last, ExtractionWork(cell=cell, execution=execution, facets=["tokens"]))
    waits = msgspec.structs.replace(make_task(last), after=[task.id for task in tasks])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        launcher = Slurm(folder, None, minutes=30, cpus=1, gpus=0, memory_gb=2.0)
        launcher.submit([*tasks, waits])
        jobs = JobList(folder).read()
        until(
            lambda: {cluster.queue()[jobs[task.id]][1] for task in tasks} == {"node1", "node2"},
            "A share on each node",
        )
        assert launcher.poll([waits])[waits.id].reason == "waits for its features"
        every = [*tasks, waits]
        until(lambda: all(one.stage == "done" for one in launcher.poll(every).values()), "The end of all")
    encoded = [task.log.read_text().rpartition(" images went through")[0].split()[-1] for task in every]
    # 129 training images are two shards, 60 test images and their flips one: the first share has one of each.
    assert encoded == ["248", "1", "0"]
    log.say("an extraction in two shares ran on both nodes; what waited for it had nothing left to extract")


def make_task(file: Path) -> Task:
    return Task(id=file.stem, label=file.stem, kind="extraction", file=str(file), resources=Resources())


def test_the_warning_that_time_is_up_requeues_a_bounded_number_of_times(trial: Trial) -> None:
    cluster, log = trial.cluster, trial.log
    cell = [*CELL, "--set", "steps=1000000"]
    watching = trial.command(*cell, "--out", "late", "--retries", 0, *SLURM, "--launcher-set", "requeues=1")
    until(lambda: trial.of_cells("late"), "A job")
    ((name, job),) = trial.of_cells("late").items()
    for start in (1, 2):
        until(lambda: trial.running("late"), "A running cell")
        until(functools.partial(has_started, trial, name, start), "A start")
        log.say(f"submitit's warning that time is up reaches job {job}, start {start}")
        cluster.slurm("scancel", f"--signal={signal.SIGUSR2.name.removeprefix('SIG')}", job)
        until(lambda: not trial.running("late"), "The end of the start")
    trial.finish(watching, 1)
    assert "did not finish in 2 starts" in watching.output
    trial.figures["starts of a job whose time was up, with one requeue allowed"] = trial.task_log(
        "late", name
    ).count("--- ")


def has_started(trial: Trial, name: str, times: int) -> bool:
    return trial.task_log("late", name).count("--- ") == times
