"""What a child of `server.py` does to itself before it becomes the command: the faults."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _before_writes(roots: list[str], act: Callable[[int, str], None]) -> None:
    """Call `act` with number and name before every change of files below `roots`.

    Python tells an audit hook of every opened, renamed, removed or made file before it happens, also of
    those of libraries written in Python; what C code opens by itself is not seen.
    """
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITES:
                return
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"):
            path = arguments[0]
        else:
            return
        if isinstance(path, (str, bytes, os.PathLike)):
            name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - pathlib would raise events of its own
            if any(name.startswith(root) for root in roots):
                count += 1
                act(count, f"{event} {name}")

    sys.addaudithook(hook)


def note_writes(roots: list[str], to: str) -> None:
    """Write the name of every change of files below `roots` to a file."""
    notes = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _before_writes(roots, lambda number, name: os.write(notes, f"{name}\n".encode()) and None)


def die_before_write(roots: list[str], number: int) -> None:
    """Die by SIGKILL before the change of files of this number."""

    def act(count: int, name: str) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _before_writes(roots, act)


def fill_before_write(roots: list[str], number: int, disk: str, leave: int) -> None:
    """Fill a disk before the change of files of this number.

    Args:
        leave: how many bytes stay free, so that some writes break off in the middle.
    """
    balloon = os.open(Path(disk) / "balloon", os.O_WRONLY | os.O_CREAT)

    def act(count: int, name: str) -> None:
        if count == number:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            if free > leave:
                os.posix_fallocate(balloon, 0, free - leave)

    _before_writes(roots, act)


def limit_memory(extra: int) -> None:
    """Allow so many bytes of address space beyond what is taken now."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + extra, taken + extra))


def become(uid: int) -> None:
    """Give up root, for whom permissions do not bind."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def interrupt_normally() -> None:
    """Let SIGINT raise KeyboardInterrupt, as in a process that a shell starts in the foreground."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
