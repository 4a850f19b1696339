"""The files that are opened while some code runs, as far as Python's audit hooks report them."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_listeners: list[Callable[[str], None]] = []


class _Harness(threading.local):
    depth = 0


_harness = _Harness()


@functools.cache
def _listen() -> None:
    """Install the hook, once: Python has no way to remove it."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not _listeners or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if isinstance(arguments[2], int) and arguments[2] & os.O_EXCL:
            return  # a new file, which holds nothing yet
        path = os.path.realpath(os.fsdecode(arguments[0]))
        for listener in tuple(_listeners):
            listener(path)

    sys.addaudithook(hear)


@contextlib.contextmanager
def opened_files(below: Path = Path(), *, by_harness: bool = True) -> Iterator[list[str]]:
    """Collect the paths of files that are opened, each once; `below` limits them.

    A file that the system refuses is among them; one that code in C opens is not.

    Args:
        by_harness: whether to collect what is opened within `harness_reads` as well.
    """
    _listen()
    found: dict[str, None] = {}
    paths: list[str] = []

    def listener(path: str) -> None:
        if not by_harness and _harness.depth:
            return
        if path not in found and (not below.name or Path(path).is_relative_to(below)):
            found[path] = None
            paths.append(path)

    _listeners.append(listener)
    try:
        yield paths
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def harness_reads() -> Iterator[None]:
    """Mark what this thread opens as read by the harness, which was asked for an image or a network."""
    _harness.depth += 1
    try:
        yield
    finally:
        _harness.depth -= 1
