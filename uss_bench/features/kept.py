"""Decoded images, kept for the next epoch while features are streamed.

Decoding a crop of a photograph of 1024 × 2048 pixels takes about as long as a small network, and a fifth of a
megabyte holds it. So what was decoded once is kept as uint8 in a file without a name, as far as the budget
goes: the system removes it when the process ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO

import numpy as np

from uss_bench.data.geometry import TransformedImages


class KeptImages:
    """Reads square items, each from its dataset once.

    Args:
        folder: where the file lies; where it cannot be written nothing is kept.
        budget: bytes that it may take.
    """

    def __init__(self, items: TransformedImages, folder: Path, budget: int) -> None:
        self._items = items
        self._shape = (*items.size, 3)
        self._bytes = 3 * items.size[0] * items.size[1]
        self._lock = threading.Lock()
        self._place: dict[int, int] = {}
        self._taken = 0
        self._capacity = 0
        self._file: IO[bytes] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._capacity = int(min(budget, 0.95 * shutil.disk_usage(folder).free)) // self._bytes
            if self._capacity:
                self._file = tempfile.TemporaryFile(dir=folder, prefix=".images-", buffering=0)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
        except OSError:
            self._capacity = 0

    def __call__(self, index: int) -> np.ndarray:
        """Return an item, uint8 (H, W, 3); called in threads.

        Raises:
            DataError: when an image cannot be read.
        """
        if self._file is None:
            return self._items[index]
        with self._lock:
            place = self._place.get(index)
        if place is not None:
            content = os.pread(self._file.fileno(), self._bytes, place * self._bytes)
            if len(content) == self._bytes:
                return np.frombuffer(content, np.uint8).reshape(self._shape)
        item = self._items[index]
        if item.dtype == np.uint8 and item.shape == self._shape:
            self._keep(index, item)
        return item

    def _keep(self, index: int, item: np.ndarray) -> None:
        assert self._file is not None
        with self._lock:
            if index in self._place or self._taken >= self._capacity:
                return
            place, self._taken = self._taken, self._taken + 1
        try:
            content = np.ascontiguousarray(item).data
            if os.pwrite(self._file.fileno(), content, place * self._bytes) < self._bytes:
                return
        except OSError:  # the disk is full by now: what is kept stays, and no more is
            self._capacity = 0
            return
        with self._lock:
            self._place[index] = place
