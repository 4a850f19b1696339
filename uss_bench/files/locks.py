"""Locks between processes, on files, so that they also hold between machines that share a disk.

Where a file system has no locks, a file that only one process can create stands for one.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a lock file if nobody else does, and say whether it is held.

    Raises:
        OSError: when the file's folder cannot be made or written.
    """
    try:
        lock = _acquired(path, timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def locked(path: Path, log: Callable[[str], None], what: str) -> Iterator[None]:
    """Hold a lock file, saying so when another process holds it first.

    Args:
        what: that the other process does, as in "Another process works on the same features".

    Raises:
        OSError: when the file's folder cannot be made or written.
    """
    try:
        lock = _acquired(path, timeout=0.5)
    except filelock.Timeout:
        log(f"Another process {what}; waiting for it ({path}).")
        lock = _acquired(path, timeout=-1)
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether some process holds this lock file now."""
    if not path.exists():
        return False
    try:
        with held(path) as is_free:
            return not is_free
    except OSError:
        return False  # nothing can be locked where nothing can be written


def _acquired(path: Path, timeout: float) -> filelock.BaseFileLock:
    try:
        lock: filelock.BaseFileLock = filelock.FileLock(path)
        lock.acquire(timeout=timeout)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _UNSUPPORTED:
            raise
        lock = filelock.SoftFileLock(path.with_name(f"{path.name}.exclusive"))
        lock.acquire(timeout=timeout)
    return lock
