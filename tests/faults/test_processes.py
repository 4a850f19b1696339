"""Two and eight processes on one cell and one store: one runs it, the others wait and return its record."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from harness import CELL, Bench, Child, Place, Truth, check_sound
from tally import Tally, full_only, generator, share

from uss_bench.results.files import read_record, record_files


@full_only
@pytest.mark.parametrize("count", [2, 8])
def test_on_one_cell(bench: Bench, truth: Truth, tally: Tally, tmp_path: Path, count: int) -> None:
    kind = f"{count} processes on one cell and one store"
    for number in range(10 if count == 2 else 5):
        place = Place(tmp_path / str(number))
        with tally.fault(kind, str(number)):
            children = [bench.cell(place) for _ in range(count)]
            for child in children:
                child.finish().check_done()
            truth.check_same(place)
            (path,) = record_files(place.out)
            assert read_record(path).encoded_items == truth.record.encoded_items, "features came twice"
    tally.check(kind)


def test_on_one_cell_while_the_first_is_killed(
    bench: Bench, truth: Truth, tally: Tally, tmp_path: Path
) -> None:
    """Whoever waited takes over what the killed process held: cell, features, half-written files."""
    kind, moments = "one of three processes on one cell killed", generator("killed among others")
    for number in range(share(20, 1)):
        place = Place(tmp_path / str(number))
        with tally.fault(kind, str(number)):
            first, *others = [bench.cell(place) for _ in range(3)]
            time.sleep(moments.uniform(0, truth.seconds))
            first.signal(signal.SIGKILL)
            for child in others:
                child.finish().check_done()
            first.wait()
            truth.check_same(place)
    tally.check(kind)


@full_only
@pytest.mark.parametrize("count", [2, 8])
def test_of_several_cells_on_one_store(
    bench: Bench, truth: Truth, tally: Tally, tmp_path: Path, count: int
) -> None:
    """Cells that differ in the seed share features; together they encode what one alone would."""
    kind = f"{count} processes with cells of their own on one store"
    for number in range(5 if count == 2 else 3):
        place = Place(tmp_path / str(number))
        with tally.fault(kind, str(number)):
            children: list[Child] = [
                bench.start([*CELL, "--seed", seed, "--out", place.out], place) for seed in range(count)
            ]
            for child in children:
                child.finish().check_done()
            records = [read_record(path) for path in record_files(place.out)]
            assert sorted(one.cell.seed for one in records) == list(range(count))
            check_sound(place)
            assert sum(one.encoded_items for one in records) == truth.record.encoded_items
    tally.check(kind)
