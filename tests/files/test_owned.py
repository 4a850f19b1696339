"""The list of files that uss-bench wrote: it may replace these, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from uss_bench.errors import DataError, UsageError
from uss_bench.files.owned import LIST, OwnedFiles, write_owned

FOREIGN = b"somebody else's"


def test_own_files_are_replaced_and_the_list_holds_one_line_each(tmp_path):
    for content in (b"a", b"b", b"b", b"a"):
        with OwnedFiles(tmp_path) as owned:
            owned.write({"x.txt": content, "deep/er/y.txt": content})
    assert (tmp_path / "x.txt").read_bytes() == b"a"
    listed = (tmp_path / LIST).read_text().splitlines()
    assert [line.split("  ")[1] for line in listed] == ["deep/er/y.txt", "x.txt"]
    done = subprocess.run(["sha256sum", "--check", "--strict", LIST], cwd=tmp_path, check=False)
    assert done.returncode == 0


def plant_file(path: Path) -> None:
    path.write_bytes(FOREIGN)


def plant_link(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(FOREIGN)
    path.symlink_to(other)


def plant_broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def plant_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(FOREIGN)


def plant_edited(path: Path) -> None:
    write_owned(path, b"ours")
    path.write_bytes(b"ours, and a person's")


def plant_link_to_ours(path: Path) -> None:
    write_owned(path, b"ours")
    path.rename(path.with_name("moved"))
    path.symlink_to(path.with_name("moved"))


def state(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if (path.is_file() or path.is_symlink()) and path.name != LIST
    }


@pytest.mark.parametrize(
    "plant",
    [plant_file, plant_link, plant_broken_link, plant_folder, plant_edited, plant_link_to_ours],
)
def test_what_uss_bench_did_not_write_stays_and_nothing_is_written(tmp_path, plant):
    plant(tmp_path / "x.txt")
    before = state(tmp_path)
    owned = OwnedFiles(tmp_path)
    with pytest.raises(UsageError, match=r"x\.txt"):
        owned.check(["a.txt", "x.txt"])
    with pytest.raises(UsageError, match=r"x\.txt"):
        owned.write({"a.txt": b"new", "x.txt": b"new", "b.txt": b"new"})
    owned.remove(["x.txt", "never.txt"])
    assert state(tmp_path) == before


def test_a_file_that_holds_the_same_is_left_alone_and_becomes_ours(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"same")
    touched = path.stat().st_mtime_ns
    write_owned(path, b"same")
    assert path.stat().st_mtime_ns == touched
    write_owned(path, b"new")
    assert path.read_bytes() == b"new"


def test_removed_files_leave_the_list(tmp_path):
    with OwnedFiles(tmp_path) as owned:
        owned.write({"x.txt": b"x", "y.txt": b"y"})
        owned.remove(["x.txt"])
    assert not (tmp_path / "x.txt").exists()
    plant_file(tmp_path / "x.txt")
    with pytest.raises(UsageError):
        write_owned(tmp_path / "x.txt", b"x")
    assert OwnedFiles(tmp_path).owned() == ["y.txt"]


@pytest.mark.parametrize("line", ["../x.txt", "/x.txt", "a/../../x.txt", ".."])
def test_a_list_names_nothing_outside_its_folder(tmp_path, line):
    inside = tmp_path / "folder"
    write_owned(inside / "y.txt", FOREIGN)
    plant_file(tmp_path / "x.txt")
    listed = inside / LIST
    listed.write_text(listed.read_text().replace("y.txt", line))
    assert OwnedFiles(inside).owned() == []


def test_a_list_that_is_no_text_owns_nothing(tmp_path):
    (tmp_path / LIST).write_bytes(b"\xff\x00" * 99 + b"\n<<<<<<< HEAD\n")
    plant_file(tmp_path / "x.txt")
    with pytest.raises(UsageError):
        write_owned(tmp_path / "x.txt", b"x")


def test_two_that_write_into_one_folder_at_the_same_time_both_own_their_files(tmp_path):
    write_owned(tmp_path / "x.txt", b"before")
    with OwnedFiles(tmp_path) as first:
        first.write({"x.txt": b"x"})
        write_owned(tmp_path / "y.txt", b"y")
    assert sorted(OwnedFiles(tmp_path).owned()) == ["x.txt", "y.txt"]


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    plant_file(tmp_path / "folder")
    with pytest.raises(DataError, match=r"folder/x\.txt cannot be written"):
        write_owned(tmp_path / "folder" / "x.txt", b"x")
