"""Images and labels read in threads, a few ahead of their use, so that decoding overlaps with the rest."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

from uss_bench.contracts import Images, Sampler
from uss_bench.data.images import channel_fingerprint
from uss_bench.runtime.cores import whole_cores

T = TypeVar("T")

_THREADS = min(8, max(2, whole_cores()))
BATCHES_AHEAD = 8
"""How many draws of a sampler are looked up at once."""


def read_ahead(read: Callable[[int], T], indices: Iterable[int], *, depth: int) -> Generator[T, None, None]:
    """Yield ``read(index)`` in the order of `indices`, while the next `depth` are read in threads.

    What `read` raises is raised when the turn of its index comes. At most `depth` + 1 results are held.
    """
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="decode") as threads:
        try:
            for index in indices:
                pending.append(threads.submit(read, index))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # after an early stop or an error nobody waits for what was not begun
            for future in pending:
                future.cancel()


class Prefetcher(Generic[T]):
    """Items read in threads: those of one call at the same time, and those that are expected before it.

    What is expected changes when an item is read, and never what a caller gets.

    Args:
        read: reads one item; called in threads.
        capacity: items that are held at most before anybody asks for them.
    """

    def __init__(self, read: Callable[[int], T], *, capacity: int) -> None:
        self._read = read
        self._capacity = capacity
        self._pending: dict[int, Future[T]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="prefetch")

    def expect(self, indices: Sequence[int]) -> None:
        """Begin to read items, in this order; what was begun before and is not among them is dropped."""
        wanted = list(dict.fromkeys(indices))[: self._capacity]
        for index in self._pending.keys() - set(wanted):
            self._pending.pop(index).cancel()
        for index in wanted:
            self._begin(index)

    def take(self, indices: Sequence[int]) -> list[T]:
        """Return items in this order."""
        for index in indices:
            self._begin(index)
        try:
            return [self._pending[index].result() for index in indices]
        finally:
            for index in set(indices):
                self._pending.pop(index).cancel()

    def _begin(self, index: int) -> None:
        if index not in self._pending:
            self._pending[index] = self._threads.submit(self._read, index)


def read_batches(
    sampler: Sampler, read: Callable[[Sequence[int]], T], expect: Callable[[Sequence[int]], object]
) -> Iterator[tuple[Sequence[int], T]]:
    """Yield ``(indices, read(indices))`` of one draw after another, without end; see `Features.batches`.

    Args:
        expect: told the items of this draw and the next ones, in order, before each reading.
    """
    known: deque[list[int]] = deque()
    while True:
        if len(known) <= BATCHES_AHEAD // 2:
            known = deque(upcoming(sampler, BATCHES_AHEAD))
        indices = next(sampler)
        if list(indices) != known.popleft():
            known.clear()  # its generator served others meanwhile: what was looked up does not hold
        expect([*indices, *(index for batch in known for index in batch)])
        yield indices, read(indices)


def upcoming(sampler: Sampler, count: int) -> list[list[int]]:
    """Return the next draws of a sampler, which is left as it was."""
    state = copy.deepcopy(sampler.state_dict())
    draws = [list(next(sampler)) for _ in range(count)]
    sampler.load_state_dict(state)
    return draws


class HeldImages:
    """The images of a split, some of which are decoded already and are not decoded again.

    Args:
        held: uint8 (H, W, 3) by index.
    """

    def __init__(self, images: Images, held: Mapping[int, np.ndarray]) -> None:
        self._images = images
        self._held = held
        self.ids: Sequence[str] = images.ids

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> np.ndarray:
        return self._held[index] if index in self._held else self._images.image(index)

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return self._images.aux(index)

    def fingerprint(self) -> str:
        return self._images.fingerprint()

    def aux_fingerprint(self, channel: str) -> str:
        return channel_fingerprint(self._images, channel)
