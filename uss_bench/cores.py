"""How many cores this process may use, which in a container or a job is fewer than the machine has."""

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
