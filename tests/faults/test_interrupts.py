"""Ctrl-C: exit code 130, one message, nothing half-written, and the same command goes on from there."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from harness import Bench, Place, Truth, check_sound
from tally import Tally, generator, share

KIND = "Ctrl-C at a random moment of a cell"


def test_at_random_moments(bench: Bench, truth: Truth, tally: Tally, tmp_path: Path) -> None:
    moments = generator("interrupts")
    number = 0
    while tally.tried[KIND] < share(40, 1):
        place = Place(tmp_path / f"cell-{number}")
        number += 1
        child = bench.cell(place, ("interrupt_normally", {}))
        moment = moments.uniform(0, truth.seconds)
        time.sleep(moment)
        if child.wait(0) is not None:
            continue  # it was faster this time
        with tally.fault(KIND, f"{moment:.3f} s"):
            child.signal(signal.SIGINT)
            ended = child.finish()
            if ended.code != 0:  # the last moment may be too late to stop anything
                ended.check_error("Interrupted.", "the same command goes on from there", code=130)
            check_sound(place)
            left = [path.name for path in place.root.rglob("*.partial")]
            assert not left, left
            bench.cell(place).finish().check_done()
            truth.check_same(place)
    tally.check(KIND)
