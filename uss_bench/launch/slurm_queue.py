"""What SLURM says of jobs, in its queue and in their logs, and what that means to the person who waits."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from uss_bench.errors import RunError
from uss_bench.launch.launcher import State

_FORMAT = "JobArrayID:|,State:|,Reason:|,NodeList:|,RestartCnt:|"
_AT_ONCE = 500
"""Jobs named in one command; far more are too long for a command line."""
_PATIENCE_S = 60

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
WORKING = frozenset(
    {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
)

_FAILURES = {
    "CANCELLED": "was cancelled, by hand or by the administrator",
    "OUT_OF_MEMORY": "ran out of its memory; raise memory_gb",
    "DEADLINE": "did not start before its deadline",
}
_LOSSES = {
    **dict.fromkeys(("NODE_FAIL", "NODE FAILURE"), "the node went down"),
    **dict.fromkeys(("PREEMPTED", "PREEMPTION"), "a more urgent job took its place"),
    **dict.fromkeys(("TIMEOUT", "TIME LIMIT"), "its time was up"),
    "BOOT_FAIL": "the node did not start",
}
"""By SLURM's state of the job, or by its last words in the log."""
_REASONS = {
    **dict.fromkeys(("JobArrayTaskLimit", "Priority", "Resources"), ""),
    "BeginTime": "requeued",
    "Dependency": "waits for its features",
    "JobHeldAdmin": "held by the administrator",
    "JobHeldUser": "held by hand",
}

_LAST_WORDS = re.compile(
    r"\*\*\* (?:STEP|JOB) \S+ ON \S+ CANCELLED AT \S+(?: DUE TO (?P<why>[^*]+?))? \*\*\*"
)


@dataclass(frozen=True)
class Job:
    """A job as the queue shows it."""

    state: str
    """SLURM's own word: ``PENDING``, ``RUNNING``, ``CANCELLED`` …"""
    reason: str = ""
    """Why it waits: ``Resources``, ``BeginTime``, ``JobHeldAdmin`` …"""
    nodes: str = ""
    restarts: int = 0
    """How often it was requeued."""

    @property
    def alive(self) -> bool:
        """Whether it is queued or running, so that it may still do its work."""
        return self.state in WAITING or self.state in WORKING


def read_queue(ids: Iterable[str]) -> dict[str, Job] | None:
    """Ask ``squeue`` for jobs, also those that ended a short while ago (``MinJobAge``, often 5 minutes).

    Args:
        ids: numbers of jobs (``12``) and of tasks of arrays (``12_3``).

    Returns:
        Jobs by id, those of an array one by one; one that SLURM has forgotten is left out. None when
        SLURM does not answer, which says nothing about the jobs.
    """
    found: dict[str, Job] = {}
    for some in _chunks(sorted({one.partition("_")[0] for one in ids})):
        command = ["squeue", "--noheader", "--array", "--states=all", f"--Format={_FORMAT}"]
        try:
            done = _run([*command, f"--jobs={','.join(some)}"])
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode and "Invalid job id" not in done.stderr:  # said when all of them are forgotten
            return None
        for line in done.stdout.splitlines():
            name, state, reason, nodes, restarts, *_ = [*line.strip().split("|"), *[""] * 5]
            found[name] = Job(state, "" if reason == "None" else reason, nodes, int(restarts or 0))
    return found


def cancel_jobs(ids: Iterable[str]) -> None:
    """Cancel jobs; those that have ended are no error.

    Raises:
        RunError: when SLURM does not take the order.
    """
    for some in _chunks(sorted(ids)):
        try:
            done = _run(["scancel", *some])
            complaints = [line for line in done.stderr.splitlines() if "Invalid job id" not in line]
            fault = complaints[0] if done.returncode and complaints else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            fault = f"{error}."
        if fault:
            hint = f"Cancel the jobs by hand: scancel {' '.join(some)}"
            raise RunError(f"scancel failed: {fault}", hint=hint)


def largest_array() -> int:
    """Return how many tasks an array may have here (``MaxArraySize`` less one); SLURM's default if unsaid."""
    try:
        said = re.search(r"MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]).stdout)
    except (OSError, subprocess.TimeoutExpired):
        said = None
    return max(1, int(said[1]) - 1) if said else 1000


def last_words(log: Path) -> str | None:
    """Return why SLURM ended the last process that wrote to `log`, as it wrote there itself.

    ``TIME LIMIT``, ``PREEMPTION``, ``NODE FAILURE``; an empty string for a job that was cancelled, None
    when SLURM did not end it, or could not write so.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 2**16))
            found = list(_LAST_WORDS.finditer(file.read().decode(errors="replace")))
    except OSError:
        return None
    return (found[-1]["why"] or "") if found else None


def verdict(state: str, words: str | None, log: Path, place: str) -> State:
    """Return what became of a job that ended without a word from its task.

    Args:
        state: SLURM's; empty when it has forgotten the job.
        words: what SLURM wrote into the log last, see `last_words`.
    """
    if not state and words is not None:
        state = words or "CANCELLED"
    elif state in ("COMPLETED", "FAILED"):
        state = ""  # it ended by itself
    if state in _FAILURES:
        return State("failed", f"{place.capitalize()} {_FAILURES[state]}.", place)
    return State("lost", _LOSSES.get(state) or f"its process died and said nothing; see {log}", place)


def remark(job: Job) -> str:
    """Return what a person may want to know of a queued or running job."""
    start = f"start {job.restarts + 1}" if job.restarts else ""
    if job.state not in WAITING or not job.reason:
        return start
    return ", ".join(filter(None, [_REASONS.get(job.reason, f"SLURM says {job.reason}"), start]))


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]
