"""What SLURM's words for the state of a job mean to the person who waits for it."""

from __future__ import annotations

from pathlib import Path

from uss_bench.launch.launcher import State
from uss_bench.launch.slurm_queue import WAITING, Job


def verdict(state: str, words: str | None, log: Path, place: str) -> State:
    """Say what became of a job that ended without a word from its task.

    Args:
        state: SLURM's; empty when it has forgotten the job.
        words: what SLURM wrote into the log last, see `last_words`.
    """
    if state in ("COMPLETED", "FAILED"):
        words = None  # those of an earlier start
    name = place.capitalize()
    if state == "CANCELLED" or (not state and words == ""):
        return State("failed", f"{name} was cancelled, by hand or by the administrator.", place)
    if state == "OUT_OF_MEMORY":
        return State("failed", f"{name} ran out of its memory; raise memory_gb.", place)
    if state == "DEADLINE":
        return State("failed", f"{name} did not start before its deadline.", place)
    reason = {
        "NODE_FAIL": "the node went down",
        "BOOT_FAIL": "the node did not start",
        "PREEMPTED": "a more urgent job took its place",
        "TIMEOUT": "its time was up",
        "NODE FAILURE": "the node went down",
        "PREEMPTION": "a more urgent job took its place",
        "TIME LIMIT": "its time was up",
    }.get(state if state not in ("", "COMPLETED", "FAILED") else words or "")
    return State("lost", reason or f"its process died and said nothing; see {log}", place)


def remark(job: Job) -> str:
    """Say what a person may want to know of a queued or running job."""
    start = f"start {job.restarts + 1}" if job.restarts else ""
    if job.state not in WAITING:
        return start
    why = {
        "BeginTime": "requeued",
        "Dependency": "waits for its features",
        "JobArrayTaskLimit": "",
        "JobHeldAdmin": "held by the administrator",
        "JobHeldUser": "held by hand",
        "Priority": "",
        "Resources": "",
    }.get(job.reason, f"SLURM says {job.reason}" if job.reason else "")
    return ", ".join(filter(None, [why, start]))
