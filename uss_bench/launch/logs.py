"""A process's output in a file of bounded size, whatever prints and however it ends."""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

LIMIT = 4 * 2**20
"""Bytes that a log may have for long; half a second of flood may be on top of them."""

_HEAD, _TAIL = 2**16, 2**20
"""Bytes kept of its beginning and its end when it grows beyond."""


@contextlib.contextmanager
def logging_to(path: Path, *, interval_s: float = 0.5) -> Iterator[None]:
    """Send standard output and error of this process, and of those that it starts, to the end of a file.

    They are written to directly, so nothing is lost when the process is killed. A thread looks at the
    file's size and takes out its middle when it is too large.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(interval_s):
            shorten(path)

    watcher = threading.Thread(target=watch, daemon=True, name="log")
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        print(f"--- {started}, process {os.getpid()} on {socket.gethostname()}", file=sys.stderr, flush=True)
        faulthandler.enable(target)
        watcher.start()
        yield
    finally:
        done.set()
        sys.stdout.flush()
        sys.stderr.flush()
        faulthandler.disable()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
        os.close(target)
        if watcher.is_alive():
            watcher.join()
        shorten(path)


def shorten(path: Path, limit: int = LIMIT) -> None:
    """Take the middle out of a file that is longer than `limit` bytes; others may append to it meanwhile."""
    with contextlib.suppress(OSError), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= limit:
            return
        file.seek(size - _TAIL)
        tail = file.read()
        file.truncate(_HEAD)
        with path.open("ab") as end:
            end.write(f"\n--- {size - _HEAD - len(tail):,} bytes are left out here\n".encode() + tail)
