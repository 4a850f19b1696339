"""Reading the four channels of a TIFF exactly as they are stored.

Pillow takes a fourth channel for alpha, or drops it, or refuses the file, depending on tags that GIS
programs set at will. Source: the TIFF 6.0 specification, and the one of BigTIFF.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from uss_bench.errors import DataError

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES = 256, 257, 258, 259, 277
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_USED = frozenset({
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR,
    _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES,
})  # fmt: skip
_MOST_PIXELS = 1 << 27
"""A tile has 6000×6000."""
_STORED, _DEFLATED = (1,), (8, 32946)
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "L", 16: "Q"}
_BROKEN = (OSError, ValueError, LookupError, ArithmeticError, MemoryError, struct.error, zlib.error)
_REMEDY = "Convert it: gdal_translate -co COMPRESS=NONE -co INTERLEAVE=PIXEL IN.tif OUT.tif"


def read_channels(path: Path, channels: int) -> np.ndarray:
    """Return the first image of a TIFF as uint8 (H, W, channels), whatever the channels are called.

    Reads stored and deflated samples, side by side, in strips or tiles.

    Raises:
        DataError: when the file is missing or damaged, or its samples are of another kind.
    """
    try:
        with path.open("rb") as stream:
            tags = _tags(stream)
            bits, (samples,) = tags.get(_BITS, (1,)), tags.get(_SAMPLES, (1,))
            if bits != (8,) * channels or samples != channels:
                raise DataError(f"{path} has {samples} channels of {bits} bits, not {channels} of 8.")
            (codec,), (predictor,) = tags.get(_COMPRESSION, (1,)), tags.get(_PREDICTOR, (1,))
            if codec not in _STORED + _DEFLATED or tags.get(_PLANAR, (1,)) != (1,) or predictor not in (1, 2):
                raise DataError(
                    f"{path} is compressed or arranged in a way that is not read here (compression {codec}).",
                    hint=_REMEDY,
                )
            return _assemble(stream, tags, channels, deflated=codec in _DEFLATED, differences=predictor == 2)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except _BROKEN as error:
        raise DataError(
            f"{path} is damaged, or no TIFF: {type(error).__name__}: {error}.", hint="Copy it again."
        ) from None


def _tags(stream: BinaryIO) -> dict[int, tuple[int, ...]]:
    """Return the whole-number tags of the first image, by number."""
    order = {b"II": "<", b"MM": ">"}[stream.read(2)]

    def unpack(form: str) -> tuple[int, ...]:
        return struct.unpack(order + form, stream.read(struct.calcsize(order + form)))

    (version,) = unpack("H")
    if version not in (42, 43):
        raise ValueError(f"version {version}")
    big = version == 43
    cell = "Q" if big else "L"  # offsets and counts, 8 bytes wide in a BigTIFF
    start = unpack("HHQ")[-1] if big else unpack("L")[0]
    stream.seek(start)
    (count,) = unpack("Q" if big else "H")
    first, size = stream.tell(), 20 if big else 12
    tags = {}
    for index in range(count):
        stream.seek(first + index * size)
        tag, kind, number = unpack("HH" + cell)
        if kind in _WHOLE_NUMBERS and tag in _USED:
            if tag in tags:
                raise ValueError(f"tag {tag} comes twice")
            form = f"{number}{_WHOLE_NUMBERS[kind]}"
            if struct.calcsize(order + form) > struct.calcsize(order + cell):
                stream.seek(*unpack(cell))  # too many to stand here: this says where they are
            tags[tag] = unpack(form)
    return tags


def _assemble(
    stream: BinaryIO, tags: Mapping[int, tuple[int, ...]], channels: int, *, deflated: bool, differences: bool
) -> np.ndarray:
    (height,), (width,) = tags[_HEIGHT], tags[_WIDTH]
    tiled = _TILE_OFFSETS in tags
    rows = tags[_TILE_HEIGHT][0] if tiled else min(tags.get(_ROWS_PER_STRIP, (height,))[0], height)
    columns = tags[_TILE_WIDTH][0] if tiled else width
    offsets = tags[_TILE_OFFSETS if tiled else _STRIP_OFFSETS]
    lengths = tags[_TILE_BYTES if tiled else _STRIP_BYTES]
    if max(height * width, rows * columns) > _MOST_PIXELS:
        raise ValueError(f"{width}×{height} pixels in pieces of {columns}×{rows} are more than a tile has")
    across = -(-width // columns)
    if len(offsets) != len(lengths) or len(offsets) < across * -(-height // rows):
        raise ValueError(f"{len(offsets)} pieces do not cover {width}×{height} pixels")
    whole = np.empty((height, width, channels), np.uint8)
    for number in range(across * -(-height // rows)):
        top, left = number // across * rows, number % across * columns
        tall = rows if tiled else min(rows, height - top)  # the last strip is short, tiles never are
        stream.seek(offsets[number])
        expected = tall * columns * channels
        content = stream.read(min(lengths[number], 2 * expected + 1024))  # deflating never doubles
        if deflated:
            content = zlib.decompressobj().decompress(content, expected)
        if len(content) < expected:
            raise ValueError(f"piece {number} has {len(content)} bytes instead of {expected}")
        piece = np.frombuffer(content, np.uint8, expected).reshape(tall, columns, channels)
        if differences:
            piece = np.cumsum(piece, axis=1, dtype=np.uint8)
        target = whole[top : top + rows, left : left + columns]
        target[...] = piece[: target.shape[0], : target.shape[1]]
    return whole
