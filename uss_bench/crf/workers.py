"""The processes behind `CrfPool`: started, asked, and killed. A worker imports no torch."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import recv_handle, send_handle
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uss_bench.crf.handover import Receiver, Sender

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


class Worker(NamedTuple):
    """A worker process as the parent sees it: what it is asked through, and where its images lie."""

    process: SpawnProcess
    connection: Connection
    sender: Sender


class Crew:
    """Running worker processes, and one thread for each, which talks to whichever is idle.

    Arrays go through shared memory: a pipe would copy them several times over, on the cores that the
    workers need. Threads, because each waits for its own worker: one that stops answering stops no other.

    Raises:
        WorkerLost: when a worker does not start.
    """

    def __init__(self, refine_fn: RefineFn, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="crf")
        self._workers: list[Worker] = []
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        try:
            for _ in range(size):
                ours, theirs = context.Pipe()
                with theirs:  # closed here, the worker's is the only one: its death is the end of the file
                    process = context.Process(target=_work, args=(theirs, refine_fn), daemon=True)
                    self._workers.append(Worker(process, ours, Sender()))
                    process.start()
            for worker in self._workers:
                if not worker.connection.poll(_START_TIMEOUT_S):
                    raise WorkerLost(f"one did not start within {_START_TIMEOUT_S:g} s")
                worker.connection.recv()
                send_handle(worker.connection, worker.sender.fileno(), worker.process.pid)
                self._idle.put(worker)
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
        started = [worker for worker in self._workers if worker.process.pid is not None]
        for worker in started:
            worker.process.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in started:
            worker.process.join()
            worker.process.close()
        for worker in self._workers:
            worker.connection.close()
            worker.sender.close()

    def _ask(self, item: Item) -> LabelMap:
        worker = self._idle.get()
        try:
            try:
                places = worker.sender.put(item)
            except OSError as error:
                raise WorkerLost(f"there is no room to hand them an image ({error})") from None
            try:
                worker.connection.send(places)
                answer: LabelMap | Exception = worker.connection.recv()
            except (EOFError, OSError):
                raise WorkerLost("one of them died") from None
        finally:
            self._idle.put(worker)  # even a dead one: a thread without a worker would wait for ever
        if isinstance(answer, Exception):
            raise answer
        return answer


def _work(connection: Connection, refine_fn: RefineFn) -> None:
    """Answer items with label maps, or with the exception that prevented one, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    try:
        connection.send("ready")
        receiver = Receiver(recv_handle(connection))
        while True:
            places = connection.recv()
            try:
                answer: LabelMap | Exception = label_map(refine_fn, *receiver.get(places))
            except Exception as error:
                answer = error
            connection.send(answer)
    except (EOFError, OSError):
        pass
