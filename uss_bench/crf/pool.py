"""A stream of images through the CRF on several threads, in order and in bounded memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from uss_bench.crf.engines import DEFAULT_PARAMS, Engine, LabelMap, bytes_needed, check_settings, label_map
from uss_bench.errors import RunError, UssBenchError, is_out_of_memory
from uss_bench.protocol import CrfParams
from uss_bench.runtime.cores import usable_memory, whole_cores

Item = tuple[NDArray[Any], NDArray[Any]]


class CrfPool:
    """Threads that refine a stream of images; a context manager.

    The compiled loops release the interpreter lock, so threads keep all cores busy and share the images where
    they lie. pydensecrf does not: with that engine one image is refined at a time.

    Args:
        params: the CRF's parameters.
        engine: see `uss_bench.crf.refine`.
        workers: number of threads, by default one per core.
        max_bytes: what the images in the pool may take together, see `bytes_needed`; by default the
            threads' share of half of this process's memory. One image is always taken.

    Raises:
        UsageError: for an unknown engine, or parameters out of range.
    """

    def __init__(
        self,
        params: CrfParams = DEFAULT_PARAMS,
        *,
        engine: Engine = "lattice",
        workers: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        check_settings(params, engine)
        self._params, self._engine = params, engine
        self._workers = workers or whole_cores()
        share = min(1.0, self._workers / whole_cores())
        self._max_bytes = int(share * usable_memory() / 2) if max_bytes is None else max_bytes
        self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="crf")

    def __enter__(self) -> CrfPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what has not begun is not done."""
        self._threads.shutdown(cancel_futures=True)

    def labels(self, items: Iterable[Item], names: Sequence[str] = ()) -> Iterator[LabelMap]:
        """Yield the refined label map of every (image, log_probs) of `items`, in their order.

        Args:
            items: uint8 (H, W, 3) and float (K, H, W) each, see `uss_bench.crf.refine`. They are read ahead
                by at most two per thread and as `max_bytes` allows.
            names: of the items, for messages.

        Yields:
            The most probable class of every pixel, (H, W): uint8 for up to 256 classes, else uint16.

        Raises:
            UssBenchError: for an item that cannot be refined, with its name, when its turn comes.
        """
        pending: deque[tuple[Future[LabelMap], int]] = deque()
        labels_of = partial(label_map, params=self._params, engine=self._engine)
        taken = itertools.count()
        try:
            for item in items:
                size = bytes_needed(*item)
                pending.append((self._threads.submit(labels_of, *item), size))
                del item
                # The next is read when there is room for one of this size.
                while len(pending) == 2 * self._workers or (
                    pending and size + sum(each for _, each in pending) > self._max_bytes
                ):
                    yield _result(pending.popleft()[0], next(taken), names)
            while pending:
                yield _result(pending.popleft()[0], next(taken), names)
        finally:
            for future, _ in pending:  # the consumer stopped early, or something failed
                future.cancel()


def _result(future: Future[LabelMap], index: int, names: Sequence[str]) -> LabelMap:
    try:
        return future.result()
    except Exception as error:
        name = names[index] if index < len(names) else str(index + 1)
        if is_out_of_memory(error):
            raise RunError(
                f"The CRF ran out of memory on image '{name}'.", hint="Lower --workers."
            ) from error
        if isinstance(error, UssBenchError):
            raise type(error)(f"The CRF of image '{name}' failed. {error.what}", hint=error.hint) from error
        raise
