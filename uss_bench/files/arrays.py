"""Arrays from files that others wrote: nothing is executed, and no file fills the memory."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from uss_bench.errors import DataError

_RATIO = 400
"""Counts shrink to a hundredth and less; bombs to a thousandth."""
_SLACK = 256 << 20
_BROKEN = (
    OSError, ValueError, LookupError, EOFError, OverflowError, MemoryError, RecursionError, SyntaxError,
    TypeError, NotImplementedError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_npz(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an npz by name.

    Raises:
        ValueError: when it is damaged, holds pickled objects, or unpacks to more than it honestly can.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            size = sum(member.file_size for member in packed.infolist())
        if size > _RATIO * len(content) + _SLACK:
            raise ValueError(f"it would unpack to {size:,} bytes, as a bomb does")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {key: _array(file[key]) for key in file.files}
    except _BROKEN as error:
        raise ValueError(str(error) or type(error).__name__) from None


def read_npy(path: Path, content: bytes | None = None) -> np.ndarray:
    """Return the array of an npy file.

    Args:
        content: the file's bytes, where they were read already.

    Raises:
        DataError: when it cannot be read, is damaged, or holds pickled objects.
    """
    try:
        return _array(
            np.load(io.BytesIO(path.read_bytes() if content is None else content), allow_pickle=False)
        )
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as an array: {reason}.") from None


def _array(found: object) -> np.ndarray:
    if not isinstance(found, np.ndarray):  # an npz under the name of an npy, or a member that is none
        raise ValueError("it does not hold an array where one should be")
    return found
