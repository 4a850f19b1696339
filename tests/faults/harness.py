"""Commands as children of a warm server, and what must hold of the files that they leave."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from uss_bench.features.cache import survey
from uss_bench.features.cache_verification import verify
from uss_bench.results.files import read_arrays, read_record, read_state, record_files
from uss_bench.results.record import RunRecord

HERE = Path(__file__).parent
PLUGINS = HERE.parent / "plugins"
CELL = [
    *("run", "--method", "stego", "--dataset", "tiny", "--plugin", str(PLUGINS), "--workers", "1"),
    *("--protocol", "stego320@2[eval_side=64]", "--training", "side=64"),
    *("--set", "steps=12", "--set", "batch_size=4", "--set", "checkpoint_every=4"),
]
"""A cell of two seconds that extracts, derives a table, trains, offers checkpoints, evaluates and draws."""
PATIENCE = 120.0


@dataclass(frozen=True)
class Place:
    """A results folder, a cache and a folder for temporary files, all of one cell."""

    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def roots(self) -> list[str]:
        return [f"{self.root}{os.sep}"]

    def make(self) -> Place:
        (self.root / "tmp").mkdir(parents=True, exist_ok=True)
        return self

    def environment(self) -> dict[str, str]:
        return {"USS_BENCH_CACHE": str(self.cache), "TMPDIR": str(self.root / "tmp")}


@dataclass
class Child:
    """A command at work."""

    pid: int
    said: Path
    bench: Bench
    code: int | None = None

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Return the exit code, negative for a signal; None when it is still at work after these seconds."""
        if self.code is None:
            self.code = self.bench.ask({"wait": self.pid, "seconds": seconds})
        return self.code

    def finish(self) -> Ended:
        """Wait for the end; a child that does not end is killed, and that is an error."""
        if self.wait() is None:
            self.kill()
            raise AssertionError(f"{self.said.read_text()}\nhas not ended after {PATIENCE:g} s")
        return Ended(self.code or 0, self.said.read_text(errors="replace"))

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)  # it cannot be another process: nobody has reaped it

    def kill(self) -> Ended:
        self.signal(signal.SIGKILL)
        return Ended(self.wait() or 0, self.said.read_text(errors="replace"))


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code, negative for a signal, and all that it printed."""

    code: int
    said: str

    def check_done(self) -> None:
        assert self.code == 0, self.said

    def check_error(self, *words: str, code: int = 1) -> None:
        """Assert that the command ended with one error for people that holds these words."""
        assert self.code == code, f"exit code {self.code}: {self.said}"
        assert len(re.findall("^Error: ", self.said, re.MULTILINE)) == 1, self.said
        assert "Traceback" not in self.said, self.said
        assert "did not foresee" not in self.said, self.said
        for word in words:
            assert word in self.said, f"'{word}' is not in: {self.said}"


class Bench:
    """Starts commands as forks of a warm process; a context manager."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self._count = 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **variables}
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Bench:
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate(timeout=PATIENCE)

    def start(
        self,
        arguments: Sequence[object],
        place: Place,
        *prelude: tuple[str, dict[str, Any]],
        **environment: str,
    ) -> Child:
        """Start ``uss-bench`` with these arguments, the cache of `place`, and faults of `preludes.py`."""
        self._count += 1
        said = self.folder / f"said-{self._count:05d}.txt"
        said.touch()  # a child may be killed before it opens it
        request = {
            "argv": [str(one) for one in arguments],
            "env": place.make().environment() | environment,
            "said": str(said),
            "prelude": prelude,
        }
        return Child(self.ask(request), said, self)

    def run(
        self,
        arguments: Sequence[object],
        place: Place,
        *prelude: tuple[str, dict[str, Any]],
        **environment: str,
    ) -> Ended:
        return self.start(arguments, place, *prelude, **environment).finish()

    def cell(self, place: Place, *prelude: tuple[str, dict[str, Any]], more: Sequence[str] = ()) -> Child:
        """Start the cell of these tests, which keeps its training after every step."""
        return self.start([*CELL, "--snapshot-every", "0", *more, "--out", place.out], place, *prelude)

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


@dataclass
class Truth:
    """What the cell gives when nothing happens to it."""

    record: RunRecord
    seconds: float
    writes: list[str] = field(default_factory=list)
    """Every change of a file, in order."""

    def check_same(self, place: Place) -> None:
        """Assert that exactly this result lies at `place`, and nothing else."""
        (path,) = record_files(place.out)
        assert without_time(read_record(path)) == without_time(self.record)
        check_sound(place)
        for suffix in (".png", ".monitor.png", ".npz", ".safetensors"):
            assert path.with_suffix(suffix).is_file(), f"{path.with_suffix(suffix)} is missing"
        left = {one.name for one in place.out.rglob("*")}
        names = {path.parent.name} | {
            path.with_suffix(suffix).name
            for suffix in (".json", ".png", ".monitor.png", ".npz", ".safetensors")
        }
        assert left == names, f"left behind: {sorted(left - names)}"

    def same_numbers(self, path: Path) -> bool:
        """Whether a record, at another path and with other notes perhaps, holds this result."""
        found = msgspec.structs.replace(read_record(path), notes=self.record.notes)
        return without_time(found) == without_time(self.record)


def without_time(record: RunRecord) -> RunRecord:
    """Return a record without what may differ between two runs of a cell: when, where, how long, resumed."""
    interrupted = ("training resumed", "trained state reused")
    notes = [note for note in record.notes if not note.startswith(interrupted)]
    return msgspec.structs.replace(
        record, created="", phases={}, command="", encoded_items=0, environment={}, notes=notes
    )


def check_sound(place: Place) -> None:
    """Assert that the records at `place` are whole, none of a failure, and that the cache is sound."""
    for path in record_files(place.out):
        record = read_record(path)
        assert record.status == "done", record.reason
        read_arrays(path, record)
        read_state(path, record)
    faults = list(verify(survey(place.cache)))
    assert not faults, faults
