"""Files that are there whole or not at all, also when Ctrl-C comes at the worst moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uss_bench.files import atomic as paths
from uss_bench.files.atomic import atomic_write, write_together

fcntl = pytest.importorskip("fcntl", reason="this system has no locks on files of that kind")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_over_what_was_there(tmp_path):
    (tmp_path / ".a.partial").write_bytes(b"what a killed process has left")
    for content in (b"first", b"second"):
        write_together([(tmp_path / "a", content), (tmp_path / "b", content + b"!")])
        assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (content, content + b"!")
    assert names(tmp_path) == ["a", "b"]


INTERRUPTED_IN = {
    "the lock": (fcntl, "flock"),
    "the look at what is locked": (paths, "_is_at"),
    "the emptying": (os, "ftruncate"),
    "the writing": (paths, "_fill"),
}


@pytest.mark.parametrize("moment", INTERRUPTED_IN)
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_ctrl_c_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, moment, nth, after):
    write_together([(tmp_path / "a", b"sound"), (tmp_path / "b", b"sound")])
    owner, name = INTERRUPTED_IN[moment]
    original, calls = getattr(owner, name), []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == nth and not after:
            raise KeyboardInterrupt
        result = original(*arguments)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_together([(tmp_path / "a", b"new"), (tmp_path / "b", b"new")])
    assert names(tmp_path) == ["a", "b"]
    assert {(tmp_path / name).read_bytes() for name in "ab"} == {b"sound"}


def test_ctrl_c_between_a_file_and_the_note_of_its_name_leaves_nothing(tmp_path, monkeypatch):
    claim = paths._claim

    def interrupted(*arguments):
        claim(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(paths, "_claim", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a", b"new")
    assert names(tmp_path) == []


def test_what_another_process_is_writing_is_not_swept_away(tmp_path, monkeypatch):
    partial = tmp_path / ".a.partial"
    with partial.open("wb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            paths._sweep(partial)
        assert names(tmp_path) == [".a.partial"]
    paths._sweep(partial)
    assert names(tmp_path) == []
