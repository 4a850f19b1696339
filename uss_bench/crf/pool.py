"""A stream of images through the CRF on several processes, in order and in bounded memory.

Process pools are where evaluations used to hang: a forked worker inherits a lock, one is killed for
its memory, and the parent waits for ever. Here workers are spawned, never forked; each is driven by
one thread of the parent over one pipe, so that no message waits behind another; and whatever
happens to a worker, the image that it held is still in the parent, which refines it itself.
"""

from __future__ import annotations

import functools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from types import TracebackType

from uss_bench.cores import whole_cores
from uss_bench.crf.engines import DEFAULT_PARAMS, Engine, check_settings, refine
from uss_bench.crf.workers import Crew, Item, LabelMap, RefineFn, WorkerLost, label_map
from uss_bench.errors import UsageError
from uss_bench.protocol import CrfParams

Pending = deque[tuple[Item, Future[LabelMap] | None]]


class CrfPool:
    """Worker processes that refine a stream of images; a context manager.

    ::

        with CrfPool(protocol.crf) as pool:
            for labels in pool.labels(items):
                ...

    As with every use of spawned processes, a script that creates a pool does so under
    ``if __name__ == "__main__":``.

    Args:
        params: the CRF's parameters.
        engine: see `uss_bench.crf.refine`.
        workers: number of processes, by default one per core; with one or fewer, images are refined
            in this process.
        timeout_s: seconds for which an image may keep those after it waiting.
        refine_fn: what computes the probabilities, instead of `uss_bench.crf.refine`; picklable.
        log: receives the warning of a lost worker, instead of `warnings.warn`.

    Attributes:
        fallbacks: how many images this process refined because workers were lost.

    Raises:
        UsageError: for an unknown engine, or parameters out of range.
    """

    def __init__(
        self,
        params: CrfParams = DEFAULT_PARAMS,
        *,
        engine: Engine = "lattice",
        workers: int | None = None,
        timeout_s: float = 120.0,
        refine_fn: RefineFn | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        check_settings(params, engine)
        if timeout_s <= 0:
            raise UsageError(f"The CRF's time-out must be positive, not {timeout_s} seconds.")
        self._refine = refine_fn or functools.partial(refine, params=params, engine=engine)
        self._workers = whole_cores() if workers is None else workers
        self._timeout_s = timeout_s
        self._log = log or _warn
        self._crew: Crew | None = None
        self._lost = False
        self.fallbacks = 0

    def __enter__(self) -> CrfPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; a later call of `labels` starts new ones."""
        if self._crew is not None:
            self._crew.kill()
            self._crew = None

    def labels(self, items: Iterable[Item]) -> Iterator[LabelMap]:
        """Yield the refined label map of every (image, log_probs) of `items`, in their order.

        At most two items per worker are read ahead. If a worker dies, or an image takes longer than
        the time-out, all workers are killed and this process refines that image and all further ones.

        Args:
            items: uint8 (H, W, 3) and float (K, H, W) each, see `uss_bench.crf.refine`.

        Yields:
            The most probable class of every pixel, (H, W): uint8 for up to 256 classes, else uint16.

        Raises:
            ContractError: for a wrong item, when its turn comes.
        """
        if self._workers <= 1:
            for item in items:
                yield label_map(self._refine, *item)
            return

        pending: Pending = deque()
        try:
            for item in items:
                pending.append((item, self._submit(item)))
                if len(pending) == 2 * self._workers:
                    yield self._take(pending)
            while pending:
                yield self._take(pending)
        finally:
            if pending:  # the consumer stopped early, or something failed: nobody wants what is in flight
                self.close()

    def _submit(self, item: Item) -> Future[LabelMap] | None:
        if self._crew is None and not self._lost:
            try:
                self._crew = Crew(self._refine, self._workers)
            except WorkerLost as lost:
                self._give_up(str(lost))
        return self._crew.submit(item) if self._crew else None

    def _take(self, pending: Pending) -> LabelMap:
        labels = self._result(*pending[0])
        pending.popleft()  # only now: an interrupt while waiting must still find it pending
        return labels

    def _result(self, item: Item, future: Future[LabelMap] | None) -> LabelMap:
        if future is not None:
            # Workers take images in order, so by the time that an image is waited for, one has it.
            try:
                return future.result(self._timeout_s)
            except TimeoutError:
                self._give_up(f"an image took longer than {self._timeout_s:g} s")
            except WorkerLost as lost:
                self._give_up(str(lost))
            except CancelledError:
                self._give_up("they were ended")
        self.fallbacks += 1
        return label_map(self._refine, *item)

    def _give_up(self, reason: str) -> None:
        self.close()
        if not self._lost:
            self._lost = True
            self._log(f"CRF workers were given up because {reason}; this process refines the rest itself.")


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)
