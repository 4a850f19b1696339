"""Arrays handed to another process through memory that both see.

The memory is a file without a name. It ends with the processes that have it open, however they end:
nothing is left to clean up, not even when all are killed at once. The sender writes where it would
map, because a write that finds no room left is an error, and a touched page without room behind it
is the end of the process.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uss_bench.errors import ContractError

_ALIGNMENT = 64


class Place(NamedTuple):
    """Where an array lies in the shared file, and how it is to be read."""

    offset: int
    """bytes"""
    shape: tuple[int, ...]
    dtype: str


class Sender:
    """This process's end: one group of arrays at a time, each over the one before.

    The file grows to the largest group and keeps that size, so that its pages are touched anew for no
    other.
    """

    def __init__(self) -> None:
        self._file = _nameless_file()
        self._file.truncate(_ALIGNMENT)  # an empty file cannot be mapped

    def fileno(self) -> int:
        return self._file.fileno()

    def put(self, arrays: Sequence[NDArray[Any]]) -> list[Place]:
        """Write arrays of numbers and return where they are.

        Raises:
            ContractError: for an array of Python objects, which mean nothing to another process.
            OSError: when there is no room.
        """
        places = []
        end = 0
        for array in arrays:
            if array.dtype.hasobject:
                raise ContractError(f"An array of numbers is wanted, not one of {array.dtype}.")
            offset = -(-end // _ALIGNMENT) * _ALIGNMENT
            self._file.seek(offset)
            self._file.write(np.ascontiguousarray(array).data)
            end = offset + array.nbytes
            places.append(Place(offset, array.shape, array.dtype.str))
        self._file.flush()
        return places

    def close(self) -> None:
        self._file.close()


class Receiver:
    """The other process's end.

    Args:
        descriptor: of the sender's file, as this process has it; it is closed with the process.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory: mmap.mmap | None = None

    def get(self, places: Sequence[Place]) -> list[NDArray[Any]]:
        """Return the arrays without copying, read-only: they change when the sender sends again."""
        size = os.fstat(self._descriptor).st_size
        if self._memory is None or len(self._memory) < size:
            self._memory = mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ)
        memory = memoryview(self._memory)
        return [np.ndarray(shape, dtype, memory, offset) for offset, shape, dtype in places]


def _nameless_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):  # Linux: memory itself, whatever size /dev/shm and /tmp are limited to
        return os.fdopen(os.memfd_create("uss-bench"), "w+b")
    return tempfile.TemporaryFile()
