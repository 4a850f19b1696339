"""Where a result comes from: the machine, the libraries, and the state of the checkout."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from uss_bench.results.lock import lock_digest

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = ("torch", "timm", "numpy", "scipy", "numba", "pillow")


def environment(device: str) -> dict[str, Any]:
    """Describe machine and libraries, without names or paths that belong to its owner.

    ``lock`` is in it where every library has the version of the lock file.
    """
    import torch

    return {
        "uss-bench": metadata.version("uss-bench"),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _LIBRARIES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "git": git_state(),
        **({"lock": digest} if (digest := lock_digest()) else {}),
    }


def git_state() -> str:
    """Return the commit of the code that runs, with ``+changes`` if it was not that commit's, or ''.

    An installed copy has it in a file (setup.py), a checkout in its repository.
    """
    with contextlib.suppress(OSError):
        return (_PACKAGE / "commit.txt").read_text(encoding="utf-8").strip()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != _PACKAGE.parent.resolve():
            return ""  # an installed copy that lies inside somebody else's repository
        commit = git("rev-parse", "HEAD")[:12]
        return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return ""


def processor() -> str:
    """Return the processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
