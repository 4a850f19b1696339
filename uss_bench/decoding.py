"""Images and labels read in threads, a few ahead of their use, so that decoding overlaps with the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from uss_bench.contracts import Images

T = TypeVar("T")

_THREADS = 2


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
        finally:  # whoever stops early, or meets an error, does not wait for what was not begun
            for future in pending:
                future.cancel()


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
