"""Where uss-bench keeps what it can make again, and how it writes files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "USS_BENCH_CACHE"


def cache_root() -> Path:
    """Return the folder of caches: ``USS_BENCH_CACHE``, or the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("uss-bench"))


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also when the disk fills or power fails.

    Raises:
        OSError: when the folder is missing or cannot be written; nothing half-written stays.
    """
    path = Path(path)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; results are meant to be shared.
        Path(partial).chmod(0o666 & ~_umask())
        Path(partial).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(partial).unlink()
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
