"""SIGKILL: no corrupt and no duplicate record, and the resumed run gives what an undisturbed one gives."""

from __future__ import annotations

import time
from pathlib import Path

from harness import Bench, Place, Truth, check_sound
from tally import FULL, Tally, generator, share

AT_RANDOM = "SIGKILL at a random moment of a cell"
AT_WRITES = "SIGKILL before each change of a file"
IN_A_ROW = 4
"""So many kills may meet one cell before it is left to end."""


def test_at_random_moments(bench: Bench, truth: Truth, tally: Tally, tmp_path: Path) -> None:
    """Cells are killed up to four times in a row, the resumed ones too, and then left to end."""
    moments = generator("moments")
    kills = number = 0
    while kills < share(200, 2):
        place = Place(tmp_path / f"cell-{number}")
        number += 1
        for _ in range(IN_A_ROW):
            child = bench.cell(place)
            moment = moments.uniform(0, truth.seconds)
            time.sleep(moment)
            if child.wait(0) is not None:
                break  # it was faster this time
            with tally.fault(AT_RANDOM, f"cell {number}, {moment:.3f} s"):
                child.kill()
                check_sound(place)
            kills += 1
        with tally.again(AT_RANDOM, f"cell {number}, the run after all kills"):
            bench.cell(place).finish().check_done()
            truth.check_same(place)
    tally.check(AT_RANDOM)


def test_before_each_change_of_a_file(bench: Bench, truth: Truth, tally: Tally, tmp_path: Path) -> None:
    """Every state of the files that a run passes through is once what a resumed run finds."""
    every = range(1, len(truth.writes) + 1)
    for number in every if FULL else generator("writes").sample(every, 2):
        place = Place(tmp_path / f"write-{number}")
        with tally.fault(AT_WRITES, f"{number}: {truth.writes[number - 1]}"):
            fatal = ("die_before_write", {"roots": place.roots, "number": number})
            assert bench.cell(place, fatal).finish().code == -9
            check_sound(place)
            bench.cell(place).finish().check_done()
            truth.check_same(place)
    tally.check(AT_WRITES)
