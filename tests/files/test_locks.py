"""Locks on file systems that have them, and on those that have none."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from uss_bench.files.locks import held, is_locked, locked

fcntl = pytest.importorskip("fcntl")
MISSING = [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL]
pytestmark = pytest.mark.filterwarnings("ignore:flock not supported")


@pytest.fixture(params=[None, *MISSING], ids=lambda code: errno.errorcode.get(code, "locks"))
def lock(request, tmp_path, monkeypatch) -> Path:
    """The path of a lock, on a file system with locks, and on several without."""
    if request.param is not None:

        def refuse(descriptor: int, operation: int) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", refuse)
    return tmp_path / "lock"


def in_child(action) -> int:
    """Run a function in another process and return the wait status."""
    child = os.fork()
    if child == 0:
        os._exit(action() or 0)
    return os.waitpid(child, 0)[1]


def try_it(lock: Path) -> int:
    with held(lock) as is_ours:
        return 10 + is_ours


def test_one_process_holds_a_lock_at_a_time(lock):
    assert not is_locked(lock)
    with held(lock) as is_ours:
        assert is_ours
        assert in_child(lambda: try_it(lock)) >> 8 == 10
        assert in_child(lambda: int(is_locked(lock))) >> 8 == 1
    assert in_child(lambda: try_it(lock)) >> 8 == 11
    assert not is_locked(lock)


def test_a_killed_process_holds_nothing(lock):
    def die() -> None:
        with held(lock):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == signal.SIGKILL
    assert in_child(lambda: int(is_locked(lock))) == 0
    with held(lock) as is_ours:
        assert is_ours


def test_who_waits_says_so_and_comes_after(lock):
    reader, writer = os.pipe()
    with held(lock):
        child = os.fork()
        if child == 0:
            with locked(lock, lambda message: os.write(writer, message.encode()), "works here"):
                os._exit(0)
        said = os.read(reader, 1000).decode()
    assert said == f"Another process works here; waiting for it ({lock})."
    assert os.waitpid(child, 0)[1] == 0


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"directory|exists"), held(tmp_path / "file" / "lock"):
        pass
