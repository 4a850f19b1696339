"""The processes behind `CrfPool`: started, asked, and killed. A worker imports no torch."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

RefineFn = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]
Item = tuple[NDArray[Any], NDArray[Any]]
LabelMap = NDArray[np.uint8] | NDArray[np.uint16]

_START_TIMEOUT_S = 60.0
"""How long a worker may take to start: it imports numpy, perhaps from a slow disk."""


def label_map(refine_fn: RefineFn, image: NDArray[Any], log_probs: NDArray[Any]) -> LabelMap:
    """Return the most probable class of every pixel, uint8 (H, W), or uint16 above 256 classes."""
    labels: LabelMap = refine_fn(image, log_probs).argmax(axis=0)
    return labels.astype(np.uint8) if len(log_probs) <= 256 else labels.astype(np.uint16)


class WorkerLost(Exception):
    """A worker process is gone, and with it the answer that it owed."""


class Crew:
    """Running worker processes, and one thread for each, which talks to whichever is idle.

    Threads, because a pipe takes an image only as fast as its reader: were the main thread to write
    to a worker that had stopped reading, no time-out could reach it.

    Raises:
        WorkerLost: when a worker does not start.
    """

    def __init__(self, refine_fn: RefineFn, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="crf")
        self._connections: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        try:
            for _ in range(size):
                ours, theirs = context.Pipe()
                self._connections.append(ours)
                with theirs:  # closed here, the worker's is the only one: its death is the end of the file
                    process = context.Process(target=_work, args=(theirs, refine_fn), daemon=True)
                    process.start()
                self._processes.append(process)
            for connection in self._connections:
                if not connection.poll(_START_TIMEOUT_S):
                    raise WorkerLost(f"one did not start within {_START_TIMEOUT_S:g} s")
                connection.recv()
                self._idle.put(connection)
        except (EOFError, OSError) as error:
            self.kill()
            raise WorkerLost(f"one did not start ({error or 'it ended early'})") from None
        except BaseException:
            self.kill()
            raise

    def submit(self, item: Item) -> Future[LabelMap]:
        return self._threads.submit(self._ask, item)

    def kill(self) -> None:
        """Kill the processes, which ends the waiting of the threads, and clean up after both."""
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.join()
            process.close()
        for connection in self._connections:
            connection.close()

    def _ask(self, item: Item) -> LabelMap:
        connection = self._idle.get()
        try:
            connection.send(item)
            answer: LabelMap | Exception = connection.recv()
        except (EOFError, OSError):
            raise WorkerLost("one of them died") from None
        finally:
            self._idle.put(connection)  # even a dead one: a thread without a connection would wait for ever
        if isinstance(answer, Exception):
            raise answer
        return answer


def _work(connection: Connection, refine_fn: RefineFn) -> None:
    """Answer items with label maps, or with the exception that prevented one, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    try:
        connection.send("ready")
        while True:
            item = connection.recv()
            try:
                answer: LabelMap | Exception = label_map(refine_fn, *item)
            except Exception as error:
                answer = error
            connection.send(answer)
    except (EOFError, OSError):
        pass
