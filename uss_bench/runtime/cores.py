"""The cores and the memory that this process may use: in a container or a job, fewer than the machine has."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores() -> float:
    """Return what affinity and the control group's quota leave of the machine's cores; a quota may be 1.5."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(allowed, int(quota) / int(period))
    except (OSError, ValueError):  # no control groups, or no quota ("max")
        return allowed


def whole_cores() -> int:
    """Return for how many threads or processes `usable_cores` is enough; at least one."""
    return max(1, int(usable_cores()))


def usable_memory() -> int:
    """Return how many bytes the control group's limit leaves of the machine's memory; 8 GiB where unknown."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        machine = 8 << 30
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no control groups, or no limit ("max")
        return machine
