"""Reading plain arrays from MATLAB files of version 5, which is what scipy's ``savemat`` writes.

`scipy.io.loadmat` is not used because some damaged files crash the process: two of four runs over 4,000
spoilt files ended in a segmentation fault (SciPy 1.17). Source: "MAT-File Format", The MathWorks, level 5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from uss_bench.data import read_bytes
from uss_bench.errors import DataError

_HEADER = 128
_LARGEST = 64 << 20  # bytes of an unpacked array: a patch has 160,000
_MATRIX, _COMPRESSED = 14, 15
_COMPLEX = 0x0800
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of data as they lie in the file, which may be narrower than the array's."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Types of arrays; cells, structures, texts and objects are left out."""


def read_array(path: Path, name: str, content: bytes | None = None) -> np.ndarray:
    """Return the array that a file holds under a name, in the shape and type it was saved with.

    Raises:
        DataError: when the content is damaged or of another format, or has no such array of numbers.
    """
    try:
        content = read_bytes(path) if content is None else content
        order = {b"IM": "<", b"MI": ">"}[content[126:_HEADER]]
        for kind, body in _elements(content[_HEADER:], order):
            found = _matrix(body, order, name) if kind == _MATRIX else None
            if found is not None:
                return found
    except (ValueError, LookupError, MemoryError, struct.error, zlib.error) as error:
        raise DataError(
            f"{path} is damaged, or not a MATLAB file (version 5): {error}.",
            hint="Extract the archive again.",
        ) from None
    raise DataError(
        f"{path} has no array of numbers called '{name}'.", hint="Images hold 'img' and labels 'gt'."
    )


def _elements(content: bytes, order: str, *, packed: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the bytes of elements that follow each other; packed ones are unpacked."""
    position = 0
    while position < len(content):
        kind, size = struct.unpack_from(order + "LL", content, position)
        start = position + 8
        if kind >> 16:  # a small element: its size stands beside its type, and its data in place of the size
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        body = content[start : start + size]
        if len(body) < size:
            raise ValueError("it breaks off")
        if kind == _COMPRESSED:
            if packed:
                raise ValueError("a packed array holds another")
            position = start + size
            unpacking = zlib.decompressobj()
            unpacked = unpacking.decompress(body, _LARGEST)
            if not unpacking.eof:
                raise ValueError("a packed array is not whole")
            yield from _elements(unpacked, order, packed=True)
        else:
            position = start + size + -(start + size) % 8
            yield kind, body


def _matrix(content: bytes, order: str, name: str) -> np.ndarray | None:
    """Return the array of a matrix element, or None if it has another name or is none of numbers."""
    parts = _elements(content, order, packed=True)
    (_, flags), (_, sizes), (_, called) = (next(parts, (0, b"")) for _ in range(3))
    word = struct.unpack_from(order + "L", flags)[0]
    if called != name.encode() or word & 0xFF not in _CLASSES or word & _COMPLEX:
        return None
    shape = struct.unpack(f"{order}{len(sizes) // 4}l", sizes)
    kind, data = next(parts, (0, b""))
    values = np.frombuffer(data, order + _STORED[kind])
    if min(shape, default=-1) < 0:
        raise ValueError(f"its shape is {shape}")
    with np.errstate(invalid="ignore"):  # numbers that damage has put beyond the type's range
        return values.reshape(shape, order="F").astype(_CLASSES[word & 0xFF])
