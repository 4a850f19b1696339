"""Too little memory, a clock that goes backwards, more clusters than patches."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from harness import CELL, Bench, Place, Truth, check_sound
from tally import Tally, full_only, generator

from uss_bench.results.files import record_files

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
