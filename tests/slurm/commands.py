"""Commands given to uss-bench in processes of their own, and a log of what happened."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PATIENCE_S = 600.0
WIDTH = 160
"""Of the log; what is longer is cut."""


class Log:
    """What happened, by the second, without this machine's paths and name.

    Args:
        path: where it is written as it grows.
        hidden: words to put in place of others.
    """

    def __init__(self, path: Path, hidden: Mapping[str, str]) -> None:
        self._path = path
        self._hidden = {**hidden, socket.gethostname(): "host"}
        self._started = time.monotonic()
        path.write_text("")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def say(self, text: str) -> None:
        """Add an event."""
        self._add(f"{self.seconds:6.1f} s  {text}")

    def quote(self, text: str) -> None:
        """Add what a program printed."""
        for line in text.splitlines():
            self._add(f"          | {line}".rstrip())

    def _add(self, line: str) -> None:
        for word, instead in sorted(self._hidden.items(), key=lambda pair: -len(pair[0])):
            line = re.sub(
                rf"(?<![\w-]){re.escape(word)}(?![\w-])" if word.isalnum() else re.escape(word), instead, line
            )
        line = line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


class Command:
    """A command at work.

    Args:
        arguments: what follows ``uss-bench``.
        folder: to give it in.
        environment: what is set besides what this process has.
    """

    def __init__(self, *arguments: object, folder: Path, environment: Mapping[str, str]) -> None:
        self.words = ["uss-bench", *map(str, arguments)]
        self._output = folder / f".{time.monotonic_ns()}.output"
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from uss_bench.cli import main; main()", *map(str, arguments)],
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Return its exit code; a negative one is the number of the signal that ended it."""
        return self.process.wait(seconds)

    def wait_for(self, text: str, seconds: float = PATIENCE_S) -> None:
        until(lambda: text in self.output or self.process.poll() is not None, f"'{text}'", seconds)
        assert text in self.output, self.output

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it as when a terminal is lost with its machine: it can do nothing more."""
        self.process.kill()
        self.process.wait()


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Wait until something is true, and fail when it does not become so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds:.0f} s"
        time.sleep(0.2)
