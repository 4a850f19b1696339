"""What the fault tests share: a warm server, a count of faults, and the cell as it runs undisturbed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from disks import Disk, mounted
from harness import Bench, Place, Truth
from tally import FULL, SEED, Tally
from writers import Source

from uss_bench.results.files import read_record, record_files

_TALLY = Tally()

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]  # the server forks, and the faults are Linux's


@pytest.fixture(scope="session")
def tally() -> Tally:
    return _TALLY


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("said")) as bench:
        yield bench


@pytest.fixture(scope="session")
def truth(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """The cell, undisturbed: run twice, so that the second one is timed and noted with everything warm."""
    places = [Place(tmp_path_factory.mktemp(f"undisturbed-{number}")) for number in range(2)]
    notes = tmp_path_factory.mktemp("notes") / "writes"
    for place in places:
        notes.unlink(missing_ok=True)
        start = time.monotonic()
        bench.cell(place, ("note_writes", {"roots": place.roots, "to": str(notes)})).finish().check_done()
        seconds = time.monotonic() - start
    (path,) = record_files(places[0].out)
    truth = Truth(read_record(path), seconds, notes.read_text().splitlines())
    truth.check_same(places[1])
    return truth


@pytest.fixture(scope="session")
def source(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A record of the cell, photos and label maps, for the commands that read them."""
    place = Place(tmp_path_factory.mktemp("source"))
    bench.cell(place).finish().check_done()
    return Source(place.root).make()


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with mounted(tmp_path_factory.mktemp("disk"), "48m") as disk:
        yield disk


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _TALLY.tried:
        extent = f"all of them, seed {SEED}" if FULL else "a few; nox -s faults tries all"
        terminalreporter.section(f"faults ({extent})")
        terminalreporter.write_line(_TALLY.table())
