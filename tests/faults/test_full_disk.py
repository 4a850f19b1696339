"""A full disk at every writing step: one error, nothing half-written, and the same command then finishes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from disks import Disk
from harness import Bench, Place, Truth
from tally import FULL, Tally, generator
from writers import WRITERS, Source, Writer

from uss_bench.features.shards import CHECKED

PAGE = 4096


def names(place: Place) -> set[str]:
    """Return the files below a place, but for the cache's locks and notes of what was read in full."""
    paths = [path for folder in (place.out, place.cache) for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(place.root))
        for path in paths
        if not path.match("*lock") and path.name != CHECKED
    }


def check_whole(place: Place) -> None:
    left = sorted(str(path) for path in place.root.rglob("*.partial"))
    assert not left, f"half-written: {left}"


@pytest.mark.parametrize("name", WRITERS if FULL else ["run", "predict"])
def test_at_every_change_of_a_file(
    bench: Bench, truth: Truth, tally: Tally, small_disk: Disk, source: Source, tmp_path: Path, name: str
) -> None:
    """The disk fills before the change, or so that the next writes break off after a page or a few."""
    kind = f"full disk while `{name}` writes"
    writer, chance = WRITERS[name], generator(f"full disk {name}")
    place = Place(small_disk.path / "undisturbed")
    writes = undisturbed(bench, writer, source, place, tmp_path / "writes")
    expected = names(place)
    shutil.rmtree(place.root)
    trials = [
        (number, leave) for number in range(1, len(writes) + 1) for leave in (0, chance.randrange(1, 9))
    ]
    place = Place(small_disk.path / "trial")
    for number, leave in trials if FULL else chance.sample(trials, 1):
        writer.prepare(source, place)
        fault = {"roots": place.roots, "number": number, "disk": str(small_disk.path), "leave": leave * PAGE}
        with tally.fault(kind, f"{number} ({writes[number - 1]}), {leave} pages left"):
            ended = bench.run(writer.arguments(source, place), place, ("fill_before_write", fault))
            if ended.code:  # otherwise all that was still to be written went into what was left
                ended.check_error("No space left on device")
            check_whole(place)
            small_disk.free()
            if ended.code or writer.repeats:
                bench.run(writer.arguments(source, place), place).check_done()
            assert names(place) == expected
            if name == "run":
                truth.check_same(place)
        small_disk.free()
        shutil.rmtree(place.root)
    tally.check(kind)


def undisturbed(bench: Bench, writer: Writer, source: Source, place: Place, notes: Path) -> list[str]:
    """Run a command and return every change of a file that it makes."""
    writer.prepare(source, place)
    noting = ("note_writes", {"roots": place.roots, "to": str(notes)})
    bench.run(writer.arguments(source, place), place, noting).check_done()
    return notes.read_text().splitlines()
