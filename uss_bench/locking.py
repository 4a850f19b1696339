"""Locks between processes, on files, so that they also hold between machines that share a disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock


@contextlib.contextmanager
def locked(path: Path, log: Callable[[str], None], what: str) -> Iterator[None]:
    """Hold a lock file, saying so when another process holds it first.

    Args:
        what: that the other process does, as in "Another process works on the same features".

    Raises:
        OSError: when the file's folder is missing or cannot be written.
    """
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0.5)
    except filelock.Timeout:
        log(f"Another process {what}; waiting for it ({path}).")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether some process holds this lock file now."""
    if not path.exists():
        return False
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:
        return False  # nothing can be locked where nothing can be written
    lock.release()
    return False
