"""The built-in launcher ``slurm``: tasks become jobs of a cluster, in arrays, through submitit.

SLURM keeps the jobs when this process is gone, so their numbers are kept in the plan's folder: a launcher
that is made again on the folder knows them. What a job came to is read from the file that the task leaves,
and only for one that left none from SLURM's queue; accounting (``sacct``) is not needed, and nothing that a
job has pickled is read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.doctor.slurm import missing_programs
from uss_bench.errors import DataError, RunError, UsageError
from uss_bench.files.atomic import atomic_write
from uss_bench.files.json_file import read_json, try_read_json
from uss_bench.launch.launcher import State, Task
from uss_bench.launch.slurm_job import JobStart
from uss_bench.launch.slurm_queue import (
    WAITING,
    Job,
    cancel_jobs,
    largest_array,
    last_words,
    read_queue,
    remark,
    verdict,
)
from uss_bench.plugins.specs import Resources
from uss_bench.runtime import progress

_SHORTEST_MINUTES = 5
_WARNING_S = 90
"""How long before the end of its time a job is warned."""
_ARRIVAL_S = 10.0
"""How long after a job's end a shared file system may take to show what the job has left."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 2.0, 30.0
_CANCELLING_S = 90.0
"""How long a cancelled job may take to be gone; SLURM itself kills after ``KillWait``, often 30 seconds."""


class JobList:
    """Which jobs a plan's tasks became: files that are written once and never changed.

    So ``uss-bench status`` may note what became of a job while the command submits its task again.

    Args:
        folder: of the plan.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.logs = folder / "slurm"
        """What SLURM and submitit write; the tasks' own output is in their logs."""

    def read(self) -> dict[str, str]:
        """Return the latest job of each task that was submitted: ``12``, or ``12_3`` in an array.

        Raises:
            DataError: when a file is damaged, for jobs might then be submitted twice.
        """
        found: dict[str, str] = {}
        for path in sorted(self._folder.glob("slurm-*.jobs")):
            try:
                found |= read_json(path, dict[str, str], "list of jobs")
            except DataError as error:
                error.hint = "See 'squeue --me' for jobs that still run, cancel them, and remove the file."
                raise
        return found

    def add(self, jobs: Mapping[str, str]) -> None:
        """Note the jobs of tasks; raise `OSError` when that cannot be written."""
        number = len(list(self._folder.glob("slurm-*.jobs")))
        atomic_write(self._folder / f"slurm-{number:06d}.jobs", msgspec.json.encode(jobs))

    def ended(self, job: str) -> State | None:
        """Return what `end` has noted; None for a job that may still do its work."""
        return try_read_json(self.logs / f"{job}.ended", State)

    def end(self, job: str, state: State) -> None:
        """Note what became of a job, where only SLURM could say so: it forgets jobs within minutes."""
        with contextlib.suppress(OSError):  # a full disk, or a reader of other people's results
            self.logs.mkdir(exist_ok=True)
            atomic_write(self.logs / f"{job}.ended", msgspec.json.encode(state))

    def log(self, job: str) -> Path:
        """Return where SLURM and submitit write about a job."""
        return self.logs / f"{job}_0_log.err"


class Slurm:
    """Submits tasks to SLURM.

    Tasks that ask for the same and wait for the same become one job array. What is given here holds for
    all tasks, in place of what their methods' spec.toml says.

    Args:
        folder: of the plan, on a file system that the nodes see.
        jobs: how many tasks may run at a time; None for as many as SLURM lets run.
        partition, account, qos, constraint: as in ``sbatch``.
        minutes: time limit of a job; one that needs longer is requeued and goes on.
        cpus: cores of a task.
        gpus: GPUs of a task.
        memory_gb: memory of a task.
        requeues: how often a job may be started again after it was preempted, its node failed or its
            time was up.
        setup: lines of shell that a job runs first, such as ``module load cuda``.
        sbatch: other options of ``sbatch``, such as ``{reservation = "course"}``.

    Raises:
        UsageError: when submitit or SLURM's programs are missing, or a value makes no sense.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int | None,
        *,
        partition: str | None = None,
        minutes: int | None = None,
        cpus: int | None = None,
        gpus: int | None = None,
        memory_gb: float | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        requeues: int = 5,
        setup: list[str] | None = None,
        sbatch: dict[str, str | int | bool] | None = None,
    ) -> None:
        _check_installed()
        for name, value, least in (
            ("minutes", minutes, _SHORTEST_MINUTES),
            ("cpus", cpus, 1),
            ("gpus", gpus, 0),
            ("requeues", requeues, 0),
        ):
            if value is not None and value < least:
                raise UsageError(f"Launcher 'slurm': {name} must be at least {least}, not {value}.")
        if memory_gb is not None and not 0 < memory_gb < math.inf:
            raise UsageError(f"Launcher 'slurm': memory_gb must be more than 0 and finite, not {memory_gb}.")
        self._list = JobList(folder.resolve())
        self._jobs = jobs
        self._asked = {"cpus": cpus, "gpus": gpus, "memory_gb": memory_gb, "minutes": minutes}
        self._requeues = requeues
        placing = {"partition": partition, "account": account, "qos": qos, "constraint": constraint}
        self._common: dict[str, Any] = {name: value for name, value in placing.items() if value is not None}
        if setup:
            self._common["setup"] = setup
        self._common["additional_parameters"] = {"requeue": True, **(sbatch or {})}
        self._watched_since = time.monotonic()
        self._gone_since: dict[str, float] = {}
        self._last: Mapping[str, State] = {}
        self._silent = False

    @property
    def interval(self) -> float:
        """Short at first and longer with time: a controller that serves many users is not to be pressed."""
        return min(_LAST_PAUSE_S, max(_FIRST_PAUSE_S, (time.monotonic() - self._watched_since) / 20))

    # --- Submitting ------------------------------------------------------------------------------

    def submit(self, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        limit = largest_array()
        groups: dict[tuple[Resources, tuple[str, ...]], list[Task]] = {}
        for task in tasks:
            groups.setdefault((self._resources(task), tuple(sorted(task.after))), []).append(task)
        # Groups are in the order of their first task, so extractions come before what waits for them.
        arrays = [
            (group[start : start + limit], *asked)
            for asked, group in groups.items()
            for start in range(0, len(group), limit)
        ]
        at_once = _shares(self._jobs, [len(array) for array, *_ in arrays])
        for (array, resources, after), parallel in zip(arrays, at_once, strict=True):
            self._submit_array(array, resources, after, parallel)

    def _resources(self, task: Task) -> Resources:
        asked = {name: value for name, value in self._asked.items() if value is not None}
        return msgspec.structs.replace(task.resources, **asked)

    def _submit_array(
        self, tasks: Sequence[Task], resources: Resources, after: Sequence[str], parallel: int
    ) -> None:
        import submitit

        minutes = max(_SHORTEST_MINUTES, resources.minutes)
        parameters = {
            **self._common,
            "job_name": f"uss-bench-{tasks[0].kind}",
            "time": minutes,
            "cpus_per_task": resources.cpus,
            "mem": f"{round(1024 * resources.memory_gb)}MB",
            "signal_delay_s": _WARNING_S,
            "array_parallelism": parallel,
        }
        if resources.gpus:
            parameters["gpus_per_node"] = resources.gpus
        if dependency := self._dependency(after):
            parameters["dependency"] = dependency
        executor = submitit.SlurmExecutor(self._list.logs, max_num_timeout=self._requeues)
        executor.update_parameters(**parameters)
        starts = [JobStart(task.command, task.end_file, self._requeues, minutes) for task in tasks]
        with _uninterrupted():  # or jobs would run whose numbers are not noted
            try:
                submitted = executor.submit_array(starts)
            except Exception as error:  # whatever sbatch complains of
                raise RunError(
                    f"SLURM did not take the jobs: {str(error).strip()}",
                    hint="Check partition, account, gpus (0 for a cluster that has none) and limits: "
                    "--launcher-config, --launcher-set.",
                ) from error
            jobs = {task.id: job.job_id for task, job in zip(tasks, submitted, strict=True)}
            try:
                self._list.add(jobs)
            except OSError as error:
                cancel_jobs(jobs.values())
                raise RunError(
                    f"What was submitted could not be noted down, so it was cancelled: {error}."
                ) from None
        for task in tasks:
            self._gone_since.pop(task.id, None)

    def _dependency(self, after: Sequence[str]) -> str | None:
        """Name the jobs to wait for, those that are still to end: SLURM refuses ones it has forgotten."""
        known = self._list.read()
        ids = [known[name] for name in after if name in known]
        queue = read_queue(ids) if ids else {}
        if queue is None:
            raise RunError("SLURM does not answer.", hint="The same command submits what is missing.")
        waiting = [job for job in ids if job in queue and queue[job].alive]
        return f"afterany:{':'.join(waiting)}" if waiting else None

    # --- Watching --------------------------------------------------------------------------------

    def poll(self, tasks: Sequence[Task]) -> Mapping[str, State]:
        known = self._list.read()
        states: dict[str, State] = {}
        open_ones: list[tuple[Task, str]] = []
        for task in tasks:
            job = known.get(task.id)
            if job is None:
                continue
            if said := task.ended() or self._list.ended(job):
                states[task.id] = State(said.stage, said.reason, f"job {job}")
            else:
                open_ones.append((task, job))
        queue = read_queue(job for _, job in open_ones) if open_ones else {}
        self._report_silence(queue is None)
        for task, job in open_ones:
            if queue is None:
                states[task.id] = self._last.get(task.id, State("queued"))
                continue
            states[task.id] = self._state(task, job, queue.get(job))
            if states[task.id].stage in ("failed", "lost"):
                self._list.end(job, states[task.id])
        self._last = states
        return states

    def _state(self, task: Task, number: str, job: Job | None) -> State:
        """Return the state of a task that has not said its end itself."""
        place = f"job {number}"
        if job is not None and job.alive:
            self._gone_since.pop(task.id, None)
            place = f"{job.nodes}, {place}" if job.nodes else place
            return State("queued" if job.state in WAITING else "running", remark(job), place)
        if job is not None and job.state in ("COMPLETED", "FAILED"):
            # It has ended by itself just now, so it has said how; a shared file system may be late.
            first_seen = self._gone_since.setdefault(task.id, time.monotonic())
            if time.monotonic() - first_seen < _ARRIVAL_S:
                return State("running", "its job has ended, its result is awaited", place)
        if said := task.ended():  # written between the first look and the queue's answer
            return State(said.stage, said.reason, place)
        log = self._list.log(number)
        if job is None and not log.exists():
            reason = f"{place.capitalize()} was cancelled before it started, by hand or by the administrator."
            return State("failed", reason, place)
        return verdict(job.state if job else "", last_words(log), log, place)

    def _report_silence(self, silent: bool) -> None:
        if silent and not self._silent:
            progress.log("SLURM does not answer (squeue); its jobs go on, and it is asked again.")
        self._silent = silent

    # --- Ending ----------------------------------------------------------------------------------

    def cancel(self, tasks: Sequence[Task]) -> None:
        known = self._list.read()
        ids = {known[task.id] for task in tasks if task.id in known and not self._list.ended(known[task.id])}
        if not ids:
            return
        cancel_jobs(ids)
        for job in ids:
            self._list.end(job, State("cancelled", "its job was cancelled with uss-bench"))
        deadline = time.monotonic() + _CANCELLING_S
        while True:
            queue = read_queue(ids)
            if queue is not None and not any(queue[one].alive for one in ids & queue.keys()):
                return
            if time.monotonic() > deadline:
                raise RunError(
                    "SLURM was told to cancel the jobs, and has not done so yet.",
                    hint=f"Look at them: squeue --jobs={','.join(sorted(ids))}",
                )
            time.sleep(0.5)


def _shares(jobs: int | None, sizes: Sequence[int]) -> list[int]:
    """Divide `jobs` among arrays by their sizes, at least one each; without a limit, all of an array."""
    if jobs is None:
        return list(sizes)
    total = sum(sizes)
    return [max(1, min(size, jobs * size // total)) for size in sizes]


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended, for this process and those that it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C is the main thread's
        return
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    # Processes inherit the mask. It does not hold other threads, to whom the signal may go; the handler does.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if pressed:
            signal.raise_signal(signal.SIGINT)


def _check_installed() -> None:
    if importlib.util.find_spec("submitit") is None:
        raise UsageError(
            "--launcher slurm needs submitit, which is not installed.", hint="pip install 'uss-bench[slurm]'"
        )
    if missing := missing_programs():
        raise UsageError(
            f"--launcher slurm needs SLURM's programs, and {', '.join(missing)} cannot be found.",
            hint="Give the command on a login node of the cluster, or use --launcher local.",
        )
