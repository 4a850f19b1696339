"""Commands on file systems without locks, and beside records whose time lies in the future."""

from __future__ import annotations

import errno
import os
import time

import pytest
from running import PLUGINS, SMALL

from uss_bench.results.files import record_files

RUN = [
    *("run", "--method", "constant", "--dataset", "tiny", "--plugin", PLUGINS, "--protocol", SMALL),
    *("--limit", 3, "--workers", 1),
]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_cell_runs_where_the_file_system_has_no_locks(command, tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def refuse(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setenv("USS_BENCH_CACHE", str(tmp_path / "cache"))
    said = command(*RUN, "--seeds", 2, "--out", tmp_path / "results")
    assert said.code == 0, said.err
    assert len(record_files(tmp_path / "results")) == 2
    assert not list((tmp_path / "results").rglob(".work"))
    assert not list(tmp_path.rglob("*.exclusive"))
    assert command(*RUN, "--seeds", 2, "--out", tmp_path / "results", "--force").code == 0


@pytest.mark.parametrize("ahead", [5.0, 3600.0, 1e7])
@pytest.mark.parametrize("words", [[], ["--seeds", 2]])
def test_force_runs_again_what_is_dated_in_the_future(command, tmp_path, ahead, words):
    run = [*RUN, *words, "--out", tmp_path / "results"]
    assert command(*run).code == 0
    paths = record_files(tmp_path / "results")
    before = [path.stat().st_ino for path in paths]
    for path in paths:
        os.utime(path, (time.time() + ahead,) * 2)
    said = command(*run, "--force")
    assert said.code == 0
    assert "done before" not in said.err
    assert not {path.stat().st_ino for path in paths} & set(before)
    assert all(path.stat().st_mtime <= time.time() for path in paths)
    assert command(*run).code == 0


def test_a_record_in_the_future_that_cannot_be_dated_back_is_named(command, tmp_path, monkeypatch):
    run = [*RUN, "--out", tmp_path / "results"]
    assert command(*run).code == 0
    (path,) = record_files(tmp_path / "results")
    os.utime(path, (time.time() + 1e6,) * 2)

    def refuse(*arguments, **options):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    said = command(*run, "--force")
    assert said.code == 1
    assert f"{path} is dated in the future" in said.err


@pytest.mark.parametrize("content", [b"", b'{"schema"', None])
def test_a_damaged_record_of_ones_own_is_named_and_force_runs_it_again(command, tmp_path, content):
    run = [*RUN, "--out", tmp_path / "results"]
    assert command(*run).code == 0
    (path,) = record_files(tmp_path / "results")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    said = command(*run)
    assert said.code == 1
    assert str(path) in said.err
    assert "--force" in said.err
    said = command(*run, "--force")
    assert said.code == (1 if content == b'{"schema"' else 0), said.err  # nothing says that it is a record
    assert command(*run).code == said.code
