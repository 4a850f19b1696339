"""Memory that operations hold, counted and not timed."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Held(TorchDispatchMode):
    """Counts the bytes of what operations make while it is on: how many are held, and the most at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(one, Tensor):
                self._add(one.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if size and place not in self._known:
            self._known.add(place)
            weakref.finalize(storage, self._remove, place, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _remove(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size
