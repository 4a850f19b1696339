"""Arrays handed to another process: they arrive as they were, and nothing is left when all are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from uss_bench.crf import CrfPool
from uss_bench.crf.handover import Receiver, Sender
from uss_bench.errors import ContractError

Ends = tuple[Sender, Receiver]


@pytest.fixture
def both_ends() -> Iterator[tuple[Sender, Receiver]]:
    sender = Sender()
    yield sender, Receiver(sender.fileno())
    sender.close()


def groups() -> list[list[np.ndarray]]:
    """Groups that grow, shrink, are strided, and differ in dtype and number."""
    rng = np.random.default_rng(0)
    return [
        [rng.integers(0, 256, (3, 5, 3), dtype=np.uint8), rng.random((2, 3, 5), dtype=np.float32)],
        [rng.integers(0, 256, (90, 70, 3), dtype=np.uint8), rng.random((9, 90, 70))],
        [rng.random((4, 6)).T, rng.integers(0, 9, (3, 4))[:, ::2], np.array(7.5)],
        [np.zeros((0, 0, 3), np.uint8), np.zeros((2, 0, 0), np.float32)],
    ]


def test_arrays_arrive_as_they_were(both_ends: Ends) -> None:
    sender, receiver = both_ends
    for group in [*groups(), *groups()]:
        received = receiver.get(sender.put(group))
        assert [one.dtype for one in received] == [one.dtype for one in group]
        for one, other in zip(received, group, strict=True):
            np.testing.assert_array_equal(one, other)
            assert not one.flags.writeable


def test_arrays_lie_where_vector_instructions_like_them_and_the_file_keeps_its_size(both_ends: Ends) -> None:
    sender, receiver = both_ends
    sizes = []
    for group in [*groups(), *groups()]:
        places = sender.put(group)
        assert all(offset % 64 == 0 for offset, _, _ in places)
        receiver.get(places)
        sizes.append(os.fstat(sender.fileno()).st_size)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 2  # that of the first group, and that of the largest from the second on


def test_objects_are_refused(both_ends: Ends) -> None:
    sender, _ = both_ends
    with pytest.raises(ContractError, match="not one of object"):
        sender.put([np.array([None])])


def test_a_worker_gets_what_lies_in_memory() -> None:
    rng = np.random.default_rng(1)
    items = [
        (rng.integers(0, 256, (side, side + 1, 3), dtype=np.uint8), rng.random((4, side, side + 1)))
        for side in (8, 40, 5)
    ]
    items.append((items[0][0][::2, ::-1], np.asfortranarray(items[0][1][:, ::2])))
    with CrfPool(workers=2, refine_fn=brightened) as pool:
        for labels, item in zip(pool.labels(items), items, strict=True):
            np.testing.assert_array_equal(labels, brightened(*item).argmax(axis=0))
        assert pool.fallbacks == 0


def brightened(image: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """A refinement that depends on every value of both arrays."""
    return log_probs * (1 + np.arange(4)[:, None, None] * image.sum(axis=2) % 7)


# A pool at work, which says who its workers are.
SCRIPT = """
import multiprocessing, sys, threading, time
sys.path.insert(0, {tests!r})
from test_crf_handover import {refine}
from uss_bench.crf import CrfPool
import numpy as np

if __name__ == "__main__":
    item = (np.zeros((200, 200, 3), np.uint8), np.zeros((4, 200, 200), np.float32))
    pool = CrfPool(workers=2, refine_fn={refine})
    labels = pool.labels([item] * 8)
    if "{refine}" == "brightened":
        list(labels)
    else:
        threading.Thread(target=list, args=(labels,), daemon=True).start()
        while pool._crew is None or not pool._crew._idle.empty():
            time.sleep(0.01)
    print(*(one.pid for one in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def sleep_for_ever(image: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    time.sleep(600)
    return log_probs


@contextlib.contextmanager
def pool_elsewhere(folder: Path, refine: str) -> Iterator[list[int]]:
    """Run `SCRIPT` and yield the ids of its process and of its workers, which are killed at the end."""
    script, temporary = folder / "script.py", folder / "temporary"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), refine=refine))
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        ids = [parent.pid]
        try:
            ids += [int(word) for word in parent.stdout.readline().split()]
            yield ids
        finally:
            for one in ids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def shared_memory(pid: int) -> set[str]:
    opened = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115
    return {one for one in opened if "uss-bench" in one}


def end_within(seconds: float, pids: list[int]) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(running, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left_when_the_process_and_its_workers_are_killed(tmp_path: Path) -> None:
    with pool_elsewhere(tmp_path, "sleep_for_ever") as (parent, *workers):
        assert len(workers) == 2
        # Each comes to have its own memory, which has no name; a busy machine lets it wait for it.
        deadline = time.monotonic() + 30
        while not all(map(shared_memory, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [shared_memory(one) for one in workers] == [{"/memfd:uss-bench (deleted)"}] * 2
        for one in (parent, *workers):
            os.kill(one, signal.SIGKILL)
        assert end_within(30, [parent, *workers])
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    with pool_elsewhere(tmp_path, "brightened") as (parent, *workers):
        assert len(workers) == 2
        os.kill(parent, signal.SIGKILL)
        assert end_within(30, workers)
