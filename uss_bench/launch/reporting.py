"""How far a task is: a small file that its process rewrites, and that others read."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import msgspec

from uss_bench import progress
from uss_bench.json_files import JSON_ERRORS
from uss_bench.paths import atomic_write

_INTERVAL_S = 1.0


class Now(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a task's process says of itself while it runs."""

    host: str
    pid: int
    started: float
    """Seconds since 1970."""
    phase: str = ""
    done: int = 0
    total: int = 0
    """Steps of the phase; 0 where they are not known."""

    def __str__(self) -> str:
        return f"{self.phase} {self.done:,} of {self.total:,}" if self.total else self.phase


class Reporter:
    """Keeps the file of a task while it runs; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0.0
        self._now = Now(host=socket.gethostname(), pid=os.getpid(), started=time.time(), phase="start")

    def __enter__(self) -> Reporter:
        self._write()
        progress.observe(self._advance)
        return self

    def __exit__(self, *_: object) -> None:
        progress.observe(None)
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _advance(self, label: str, done: int, total: int) -> None:
        # The end of a phase may be long before the next begins, so it does not wait for its turn.
        wait = _INTERVAL_S if done < total and label == self._now.phase else _INTERVAL_S / 5
        if time.monotonic() - self._written < wait:
            return
        self._now = msgspec.structs.replace(self._now, phase=label, done=done, total=total)
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk must not end a run for the sake of this
            atomic_write(self._path, msgspec.json.encode(self._now))


def read_now(path: Path) -> Now | None:
    """Return what the task whose file is at `path` says of itself; None when it does not run."""
    try:
        return msgspec.json.decode(path.with_suffix(".now").read_bytes(), type=Now)
    except (OSError, *JSON_ERRORS):
        return None


def duration(seconds: float) -> str:
    """Return seconds as people write them: 12.3 s, 4:05 min, 1:02:03 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"
