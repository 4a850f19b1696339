"""What a running command prints on standard error: messages with the time elapsed, and bars.

Where there is no terminal, bars are not drawn: a line now and then says how far they are.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import click
from tqdm import tqdm

from uss_bench.runtime.formatting import duration

T = TypeVar("T")

Observer = Callable[[str, int, int], None]
"""Receives a bar's label, how far it is, and its total."""

SILENCE_S = 30.0
"""After so long without a line, one is printed, where no bar is drawn."""

_STARTED = time.monotonic()
_last_line = _STARTED
_quiet = False
_observer: Observer | None = None


def set_quiet(quiet: bool) -> None:
    """Silence messages and bars, for tests and for output that is piped."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    return _quiet


def observe(observer: Observer | None) -> None:
    """Report every advance of every bar, drawn or not, to an observer; None ends it."""
    global _observer
    _observer = observer


def say(text: str) -> None:
    """Print styled text as it is; no bar may be drawn at the time."""
    if not _quiet:
        with _ignore_broken_pipe():
            click.echo(text, err=True)


def log(message: str) -> None:
    """Print one line, after the seconds since the command started, without breaking a bar."""
    global _last_line
    _last_line = time.monotonic()
    if not _quiet:
        with _ignore_broken_pipe():
            tqdm.write(f"{_last_line - _STARTED:7.1f}s  {message}", file=sys.stderr)


def log_if_silent(message: Callable[[], str]) -> None:
    """Print a line when there has been none for `SILENCE_S`, so that a log shows that work goes on."""
    if time.monotonic() - _last_line >= SILENCE_S:
        log(message())


@contextlib.contextmanager
def _ignore_broken_pipe() -> Iterator[None]:
    """Go on in silence when the reader of the messages (`tee`, a pager) is gone: the work is not for it."""
    try:
        yield
    except BrokenPipeError:
        set_quiet(True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # nothing is left to be flushed


def bar(*, total: int, label: str, unit: str = "it") -> tqdm[Any]:
    """Return a bar to advance by hand; it is drawn on a terminal and in a notebook."""
    drawn = _Bar(
        total=total,
        desc=f"          {label}",
        unit=unit,
        file=sys.stderr,
        leave=False,
        dynamic_ncols=True,
        disable=_quiet or total == 0 or not _is_drawn(),
    )
    drawn.label, drawn.begun = label, time.monotonic()
    return drawn


def _is_drawn() -> bool:
    """Whether a bar can be drawn: on a terminal, or under the cell of a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def track(iterable: Iterable[T], *, total: int, label: str) -> Iterator[T]:
    """Yield from `iterable` while a bar advances."""
    with bar(total=total, label=label) as drawn:
        for item in iterable:
            yield item
            drawn.update()


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar that reports its advance to the observer, and to the log where it is not drawn."""

    label = ""
    begun = 0.0
    _done = 0.0

    def update(self, n: float | None = 1) -> bool | None:
        self._done += n or 0
        if _observer is not None and self.total:
            _observer(self.label, int(self._done), int(self.total))
        if self.disable and self.total:
            log_if_silent(self._so_far)
        return super().update(n)

    def _so_far(self) -> str:
        total = self.total or 0
        left = (time.monotonic() - self.begun) / self._done * (total - self._done) if self._done else 0
        rest = f", about {duration(left)} left" if left >= SILENCE_S else ""
        return f"{self.label}: {self._done:,.0f} of {total:,.0f}{rest}"
