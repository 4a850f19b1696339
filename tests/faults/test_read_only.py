"""Folders that cannot be written: one error that names them, and the command finishes once they can."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Disk
from harness import CELL, PLUGINS, Bench, Place, Truth, check_sound
from tally import FULL, Tally, full_only
from writers import WRITERS, Source

from uss_bench.results.files import read_record, record_files

NOBODY = 65534


@pytest.mark.parametrize("name", WRITERS if FULL else ["run"])
def test_on_a_read_only_disk(
    bench: Bench, truth: Truth, tally: Tally, small_disk: Disk, source: Source, name: str
) -> None:
    kind, writer = "read-only disk under what a command writes", WRITERS[name]
    place = Place(small_disk.path / "read-only").make()
    writer.prepare(source, place)
    with tally.fault(kind, name):
        before = sorted(place.root.rglob("*"))
        with small_disk.read_only():
            ended = bench.run(writer.arguments(source, place), place, TMPDIR="/tmp")
        ended.check_error("Read-only file system")
        assert sorted(place.root.rglob("*")) == before
        bench.run(writer.arguments(source, place), place).check_done()
        if name == "run":
            truth.check_same(place)
    shutil.rmtree(place.root)
    tally.check(kind)


@full_only
def test_with_a_read_only_cache(bench: Bench, tally: Tally, small_disk: Disk, tmp_path: Path) -> None:
    """Features are then streamed, and the command says so."""
    kind = "read-only cache"
    place, cache = Place(tmp_path), small_disk.path / "cache"
    cache.mkdir()
    with tally.fault(kind, "a disk"), small_disk.read_only():
        ended = bench.run([*CELL, "--out", place.out], place, USS_BENCH_CACHE=str(cache))
        ended.check_done()
        assert "streamed" in ended.said
        (path,) = record_files(place.out)
        assert read_record(path).status == "done"
    cache.rmdir()
    tally.check(kind)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="uss-bench-faults-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@full_only
@pytest.mark.parametrize("what", ["results", "cache"])
def test_without_permission(bench: Bench, truth: Truth, tally: Tally, open_folder: Path, what: str) -> None:
    """Root is bound by no permission, so the command gives root up."""
    if os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    if PLUGINS.stat().st_mode & 0o005 != 0o005:
        pytest.skip(f"others cannot read {PLUGINS}")
    kind = "folders without permission to write"
    place = Place(open_folder).make()
    for folder in (place.out, place.cache, place.root / "tmp"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    locked = place.out if what == "results" else place.cache
    locked.chmod(0o755)
    with tally.fault(kind, what):
        ended = bench.cell(place, ("become", {"uid": NOBODY})).finish()
        if what == "results":
            ended.check_error("Permission denied", str(place.out))
            assert not list(place.out.iterdir())
        else:
            ended.check_done()
            assert "streamed" in ended.said
        check_sound(place)
        locked.chmod(0o777)
        shutil.rmtree(place.out)
        bench.cell(place).finish().check_done()
        truth.check_same(place)
    tally.check(kind)
