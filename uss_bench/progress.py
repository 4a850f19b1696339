"""What a running command says on standard error: messages with the time elapsed, and bars."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import click
from tqdm import tqdm

T = TypeVar("T")

Observer = Callable[[str, int, int], None]
"""Receives a bar's label, how far it is, and its total."""

_STARTED = time.monotonic()
_quiet = False
_observer: Observer | None = None


def set_quiet(quiet: bool) -> None:
    """Silence messages and bars, for tests and for output that is piped."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    return _quiet


def observe(observer: Observer | None) -> None:
    """Tell an observer of every advance of every bar, drawn or not; None ends it."""
    global _observer
    _observer = observer


def say(text: str) -> None:
    """Print styled text as it is; no bar may be drawn at the time."""
    if not _quiet:
        with _nobody_need_listen():
            click.echo(text, err=True)


def log(message: str) -> None:
    """Print one line, after the seconds since the command started, without breaking a bar."""
    if not _quiet:
        with _nobody_need_listen():
            tqdm.write(f"{time.monotonic() - _STARTED:7.1f}s  {message}", file=sys.stderr)


@contextlib.contextmanager
def _nobody_need_listen() -> Iterator[None]:
    """Go on in silence when whoever read the messages (`tee`, a pager) is gone: the work is not for them."""
    try:
        yield
    except BrokenPipeError:
        set_quiet(True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # nothing is left to be flushed


def bar(*, total: int, label: str, unit: str = "it") -> tqdm[Any]:
    """Return a bar to advance by hand; it is drawn on a terminal only."""
    drawn = _Bar(
        total=total,
        desc=f"          {label}",
        unit=unit,
        file=sys.stderr,
        leave=False,
        dynamic_ncols=True,
        disable=True if _quiet or total == 0 else None,
    )
    drawn.label = label
    return drawn


def track(iterable: Iterable[T], *, total: int, label: str) -> Iterator[T]:
    """Yield from `iterable` while a bar advances."""
    with bar(total=total, label=label) as drawn:
        for item in iterable:
            yield item
            drawn.update()


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar that tells the observer how far it is, also where it is not drawn and counts nothing."""

    label = ""
    _done = 0.0

    def update(self, n: float | None = 1) -> bool | None:
        self._done += n or 0
        if _observer is not None and self.total:
            _observer(self.label, int(self._done), int(self.total))
        return super().update(n)
