"""Too little memory, a clock that goes backwards, CRF workers that die or hang."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from harness import CELL, Bench, Ended, Place, Truth, check_sound
from tally import Tally, full_only, generator

from uss_bench.record_files import record_files

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@full_only
def test_too_little_memory(bench: Bench, truth: Truth, tally: Tally, tmp_path: Path) -> None:
    """Each run may take so many megabytes more than it starts with: too few, until it is enough."""
    kind = "too little memory"
    for megabytes in (0, 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128):
        place = Place(tmp_path / str(megabytes))
        with tally.fault(kind, f"{megabytes} MB"):
            ended = bench.cell(place, ("limit_memory", {"extra": megabytes << 20})).finish()
            if ended.code:
                ended.check_error("emory")  # Python calls it MemoryError
            for path in record_files(place.out):
                path.unlink() if path.name.endswith(".failed.json") else None
            check_sound(place)
            bench.cell(place).finish().check_done()
            truth.check_same(place)
    tally.check(kind)


@full_only
@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed (Debian: apt install libfaketime)")
def test_a_clock_that_goes_backwards(truth: Truth, tally: Tally, tmp_path: Path) -> None:
    """The wall clock jumps back by hours while the cell runs, and while it is gone on with."""
    kind, moments = "clock set back while a cell runs", generator("clock")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    with Bench(tmp_path, **environment) as bench:
        for number in range(10):
            place = Place(tmp_path / f"cell-{number}")
            with tally.fault(kind, f"cell {number}"):
                child = bench.cell(place)
                time.sleep(moments.uniform(0, truth.seconds))
                clock.write_text(f"-{number + 1}d")
                if number % 2:
                    child.kill()
                else:
                    child.finish().check_done()
                bench.cell(place).finish().check_done()
                truth.check_same(place)
    tally.check(kind)


def workers_of(pid: int) -> list[int]:
    """Return the processes that a command has started, but for Python's own tracker of resources."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue  # it has ended
    return found


@full_only
@pytest.mark.parametrize(("what", "number"), [("dies", signal.SIGKILL), ("hangs", signal.SIGSTOP)])
def test_a_worker_of_the_crf(
    bench: Bench, truth: Truth, tally: Tally, tmp_path: Path, what: str, number: signal.Signals
) -> None:
    """The images that it held are refined by the command itself, which the record then says."""
    kind = f"a CRF worker that {what}"
    for trial in range(5):
        place = Place(tmp_path / str(trial))
        with tally.fault(kind, str(trial)):
            child = bench.start([*CELL, "--workers", 2, "--out", place.out], place, ("impatient_crf", {}))
            deadline = time.monotonic() + 60
            while not (workers := workers_of(child.pid)) and child.wait(0) is None:
                assert time.monotonic() < deadline, "no worker has started"
                time.sleep(0.01)
            assert workers, child.finish().said
            os.kill(workers[trial % len(workers)], number)
            ended: Ended = child.finish()
            ended.check_done()
            assert "CRF workers were given up" in ended.said
            (path,) = record_files(place.out)
            assert truth.same_numbers(path)
            assert not workers_of(child.pid)
    tally.check(kind)


@full_only
def test_more_clusters_than_patches(bench: Bench, tally: Tally, tmp_path: Path) -> None:
    kind = "more clusters than patches"
    for method in ("dino", "stego", "smooseg", "ds2dl"):
        place = Place(tmp_path / method)
        command = list(CELL)
        command[2] = method
        with tally.fault(kind, method):
            ended = bench.run([*command, "--set", "clusters=5000", "--out", place.out], place)
            if ended.code:
                ended.check_error("clusters")
            for path in record_files(place.out):
                path.unlink() if path.name.endswith(".failed.json") else None
            check_sound(place)
    tally.check(kind)
