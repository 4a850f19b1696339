"""Results of several machines joined: each record once, no contradiction, and never half a record."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from board_records import write_runs
from msgspec.structs import replace
from running import PLUGINS, SMALL

from uss_bench.errors import DataError
from uss_bench.results import merging
from uss_bench.results.arrays import Arrays
from uss_bench.results.files import read_arrays, read_record, read_state, write_record
from uss_bench.results.merging import carry_out, plan_merge


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def merge(*folders: Path, out: Path) -> merging.MergePlan:
    plan = plan_merge(folders, out)
    for step in plan.steps:
        carry_out(step)
    return plan


def rewrite(path: Path, *, state: bytes | None = None, change: np.ndarray | None = None, **fields) -> None:
    """Write a record again, as another machine might have made it.

    Args:
        change: the refined counts of the last checkpoint; None leaves them.
    """
    record = read_record(path)
    arrays = read_arrays(path, record)
    if change is not None:
        arrays = Arrays(
            arrays.image_ids, {**arrays.counts, ("last", "crf"): change}, arrays.map_ids, arrays.maps
        )
    write_record(path.parent.parent, replace(record, **fields), arrays, state)


def fail(folder: Path, path: Path, **fields) -> Path:
    """Write the record of a failed run of the cell of the record at `path`."""
    failed = replace(read_record(path), status="failed", last=None, arrays_sha256="", **fields)
    return write_record(folder, failed, None, None)[0]


def test_records_of_two_machines_are_joined_with_all_that_belongs_to_them(tmp_path):
    first = write_runs(tmp_path / "a", "smooseg", seeds=[0, 1])
    second = write_runs(tmp_path / "b", "stego", seeds=[0])
    rewrite(first[0], state=b"weights")
    for suffix in (".png", ".monitor.png", ".probe.json"):
        first[0].with_suffix(suffix).write_bytes(suffix.encode())
    merge(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "a") | files(tmp_path / "b")
    assert len(files(tmp_path / "out")) == 3 * 2 + 4
    assert second[0].name in {path.name for path in (tmp_path / "out" / "town").iterdir()}


def test_a_record_that_two_machines_have_counts_once_and_the_first_is_taken(tmp_path):
    (first,) = write_runs(tmp_path / "a", "smooseg", seeds=[0])
    (second,) = write_runs(tmp_path / "b", "smooseg", seeds=[0], environment={"device": "cuda"})
    plan = merge(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    assert [fate for _, fate in plan.fates] == ["new", "repeated"]
    assert files(tmp_path / "out") == files(tmp_path / "a")
    assert first.read_bytes() != second.read_bytes()


def test_equal_counts_that_were_packed_by_another_numpy_are_equal(tmp_path):
    (first,) = write_runs(tmp_path / "a", "smooseg", seeds=[0])
    (second,) = write_runs(tmp_path / "b", "smooseg", seeds=[0])
    with np.load(second.with_suffix(".npz")) as file:
        arrays = dict(file)
    np.savez(second.with_suffix(".npz"), **arrays)
    digest = hashlib.sha256(second.with_suffix(".npz").read_bytes()).hexdigest()
    record = replace(read_record(second), arrays_sha256=digest)
    second.write_bytes(msgspec.json.encode(record))
    for order in ("ab", "ba"):
        out = tmp_path / order
        merge(*(tmp_path / name for name in order), out=out)
        assert files(out) == files(tmp_path / order[0])
    assert first.read_bytes() != second.read_bytes()


def test_what_one_machine_lacks_of_a_record_comes_from_the_other(tmp_path):
    (first,) = write_runs(tmp_path / "a", "smooseg", seeds=[0])
    rewrite(first, state=b"weights")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first.with_suffix(".safetensors").unlink()
    first.with_suffix(".png").write_bytes(b"panel")
    merge(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*/*.json")
    assert read_state(path, read_record(path)) == b"weights"
    assert path.with_suffix(".png").read_bytes() == b"panel"


def test_a_target_that_has_the_record_is_given_only_what_it_lacks(tmp_path):
    (first,) = write_runs(tmp_path / "a", "smooseg", seeds=[0])
    rewrite(first, state=b"weights")
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "a", out)
    kept = out / "town" / first.name
    kept.with_suffix(".safetensors").unlink()
    before = kept.stat().st_mtime_ns
    plan = merge(tmp_path / "a", out=out)
    assert [fate for _, fate in plan.fates] == ["present"]
    assert files(out) == files(tmp_path / "a")
    assert kept.stat().st_mtime_ns == before
    assert not plan_merge([tmp_path / "a", out], out).steps


def conflicting(kind: str, path: Path) -> None:
    if kind == "counts":
        counts = read_arrays(path, read_record(path)).counts["last", "crf"].copy()
        moved = counts[3, 0, 0] // 2
        counts[3, :2, 0] += (-moved, moved)
        rewrite(path, change=counts, state=b"weights")
    elif kind == "state":
        rewrite(path, state=b"other weights")
    elif kind == "scores":
        last = read_record(path).last
        rewrite(path, state=b"weights", last=replace(last, raw=replace(last.raw, accuracy=99.0)))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("counts", "other counts: crf of the last checkpoint, 0."),
        ("state", "another trained state"),
        ("scores", "'last' says something else, though the counts are equal"),
    ],
)
@pytest.mark.parametrize("place", ["b", "out"])
def test_two_results_of_the_same_inputs_are_refused_and_nothing_is_copied(tmp_path, kind, what, place):
    paths = {name: write_runs(tmp_path / name, "smooseg", seeds=[0])[0] for name in ("a", place)}
    for path in paths.values():
        rewrite(path, state=b"weights")
    conflicting(kind, paths[place])
    write_runs(tmp_path / "a", "stego", seeds=[0])
    before = files(tmp_path)
    with pytest.raises(DataError) as error:
        plan_merge([tmp_path / name for name in ("a", "b") if name in paths], tmp_path / "out")
    for part in (what, str(paths["a"]), str(paths[place]), "nothing was copied"):
        assert part in str(error.value)
    assert files(tmp_path) == before


def damage(kind: str, path: Path) -> str:
    """Damage a record, and return what the message must name."""
    if kind == "json":
        path.write_bytes(path.read_bytes()[:-20])
        return f"{path} is not a run record"
    if kind == "edited":
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
        return "it was edited"
    if kind == "npz":
        companion = path.with_suffix(".npz")
        content = bytearray(companion.read_bytes())
        content[len(content) // 2] ^= 1
        companion.write_bytes(content)
        return f"{companion} is damaged"
    if kind == "no npz":
        path.with_suffix(".npz").unlink()
        return "cannot be read: No such file"
    path.with_suffix(".safetensors").write_bytes(b"weight")
    return f"{path.with_suffix('.safetensors')} is damaged"


@pytest.mark.parametrize("kind", ["json", "edited", "npz", "no npz", "state"])
def test_a_damaged_record_is_named_and_the_others_are_copied(tmp_path, kind, command):
    bad, good = write_runs(tmp_path / "a", "smooseg", seeds=[0, 1])
    rewrite(bad, state=b"weights")
    said = damage(kind, bad)
    answer = command("merge", tmp_path / "a", "--out", tmp_path / "out")
    assert answer.code == 1
    assert said in answer.err
    assert "Copied 1 record into" in answer.out
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} == {
        good.name,
        good.with_suffix(".npz").name,
    }


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_a_damaged_record_in_the_target_is_named_and_not_replaced(tmp_path, kind):
    write_runs(tmp_path / "a", "smooseg", seeds=[0, 1])
    (bad,) = write_runs(tmp_path / "out", "smooseg", seeds=[0])
    said = damage(kind, bad)
    before = files(tmp_path / "out")
    plan = merge(tmp_path / "a", out=tmp_path / "out")
    assert said in plan.skipped[0]
    assert before.items() <= files(tmp_path / "out").items()
    assert len(files(tmp_path / "out")) == 4


@pytest.mark.parametrize("place", ["before", "after", "out"])
def test_a_failed_run_is_dropped_where_a_finished_one_exists(tmp_path, place):
    (done,) = write_runs(tmp_path / "b", "smooseg", seeds=[0])
    folder = {"before": "a", "after": "c", "out": "out"}[place]
    fail(tmp_path / folder, done, reason="a node went down")
    folders = [tmp_path / name for name in "abc" if (tmp_path / name).exists()]
    merge(*folders, out=tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "b")


def test_of_failures_alone_the_last_one_is_kept(tmp_path):
    (done,) = write_runs(tmp_path / "elsewhere", "smooseg", seeds=[0])
    fail(tmp_path / "a", done, reason="second", created="2026-11-26T12:00:00+00:00")
    fail(tmp_path / "b", done, reason="first", created="2026-11-26T11:00:00+00:00")
    plan = merge(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    assert [fate for _, fate in plan.fates] == ["new", "overtaken"]
    (path,) = (tmp_path / "out").rglob("*.json")
    assert read_record(path).reason == "second"
    assert not plan_merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out").steps


def test_a_record_under_another_name_or_in_another_folder_finds_its_place(tmp_path):
    (path,) = write_runs(tmp_path / "a", "smooseg", seeds=[0])
    expected = files(tmp_path / "a")
    moved = tmp_path / "a" / "best [1].json"
    path.with_suffix(".npz").rename(moved.with_suffix(".npz"))
    path.rename(moved)
    merge(tmp_path / "a", out=tmp_path / "out")
    assert files(tmp_path / "out") == expected


@pytest.mark.parametrize("suffix", [".npz", ".png", ".notes.txt"])
def test_another_file_under_a_records_name_is_named_and_not_replaced(tmp_path, suffix):
    (path, _) = write_runs(tmp_path / "a", "smooseg", seeds=[0, 1])
    path.with_suffix(suffix).touch()
    out = tmp_path / "out"
    (out / "town").mkdir(parents=True)
    foreign = out / "town" / path.with_suffix(suffix).name
    foreign.write_bytes(b"somebody else's")
    plan = merge(tmp_path / "a", out=out)
    assert plan.skipped == [f"{foreign} exists without its record, and is not what would be copied there."]
    assert foreign.read_bytes() == b"somebody else's"
    assert len(list(out.rglob("*.json"))) == 1
    foreign.unlink()
    merge(tmp_path / "a", out=out)
    assert files(out) == files(tmp_path / "a")


@pytest.mark.parametrize("nth", range(1, 9))
def test_a_merge_that_fails_at_any_file_leaves_whole_records_and_goes_on(tmp_path, monkeypatch, nth):
    write_runs(tmp_path / "a", "smooseg", seeds=[0, 1, 2, 3])
    written, sync = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)  # once per file, before it gets its name
        with pytest.raises(DataError, match="No space left"):
            merge(tmp_path / "a", out=tmp_path / "out")
    everything = files(tmp_path / "a")
    left = files(tmp_path / "out")
    assert left.items() <= everything.items()
    assert len(left) == 2 * ((nth - 1) // 2)
    merge(tmp_path / "a", out=tmp_path / "out")
    assert files(tmp_path / "out") == everything


KILLED = """
import os, signal, sys
from pathlib import Path
from uss_bench.results import merging
count = int(sys.argv[3])
replace = Path.replace
def dying(self, target):
    global count
    count -= 1
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = dying
for step in merging.plan_merge([Path(sys.argv[1])], Path(sys.argv[2])).steps:
    merging.carry_out(step)
"""


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_merge_that_is_killed_between_two_files_leaves_whole_records_and_goes_on(tmp_path, nth):
    write_runs(tmp_path / "a", "smooseg", seeds=[0, 1])
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, tmp_path / "a", out, str(nth)]
    assert subprocess.run(command, check=False).returncode == -9
    for path in out.rglob("*.json"):
        read_arrays(path, read_record(path))
    merge(tmp_path / "a", out=out)
    assert files(out) == files(tmp_path / "a")


def test_a_file_that_changes_after_it_was_compared_is_not_copied(tmp_path):
    (path,) = write_runs(tmp_path / "a", "smooseg", seeds=[0])
    plan = plan_merge([tmp_path / "a"], tmp_path / "out")
    path.with_suffix(".npz").write_bytes(b"something else")
    with pytest.raises(DataError, match="changed while it was copied"):
        carry_out(plan.steps[0])
    assert not list((tmp_path / "out").rglob("*.*"))


def test_real_runs_merge_and_a_dry_run_copies_nothing(command, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        arguments = ["--method", "dino", "--dataset", "tiny", "--set", "steps=2", "--protocol", SMALL]
        place = ["--plugin", PLUGINS, "--seed", seed, "--workers", 1, "--quiet", "--out", tmp_path / name]
        assert command("run", *arguments, *place).code == 0
    folders = [tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out"]
    said = command("merge", *folders, "--dry-run")
    assert said.code == 0
    assert said.out.count("would copy") == 2
    assert "Nothing was copied: 2 records would be" in said.out
    assert not (tmp_path / "out").exists()
    assert "Copied 2 records" in command("merge", *folders).out
    assert files(tmp_path / "out") == {**files(tmp_path / "a"), **files(tmp_path / "b")}
    assert "Copied 0 records" in command("merge", *folders).out
    assert len(command("show", "--out", tmp_path / "out").out.splitlines()) >= 4


def test_a_conflict_exits_with_1_and_a_folder_without_records_or_that_is_missing_says_so(command, tmp_path):
    first, second = (write_runs(tmp_path / name, "smooseg", seeds=[0])[0] for name in "ab")
    rewrite(first, state=b"weights")
    rewrite(second, state=b"other weights")
    said = command("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert said.code == 1
    assert "another trained state" in said.err
    (tmp_path / "empty").mkdir()
    assert "There are no records in" in command("merge", tmp_path / "empty").err
    assert command("merge", tmp_path / "nowhere").code == 2
    assert command("merge").code == 2
