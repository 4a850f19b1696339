"""Image files written by hand, of every bit depth, so that what they store is known without Pillow."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

GRAY, PALETTE = 0, 3
"""Color types of PNG."""


def packed_rows(values: np.ndarray, bits: int) -> list[bytes]:
    """Return the rows of integers (H, W), each value in so many bits, rows padded to whole bytes."""
    shifts = np.arange(bits - 1, -1, -1)
    digits = (values[..., None].astype(np.int64) >> shifts) & 1
    return [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in digits]


def png(values: np.ndarray, bits: int, color_type: int = GRAY, *, interlaced: bool = False) -> bytes:
    """Return a gray or paletted PNG that stores integers (H, W) at a depth of 1, 2, 4, 8 or 16 bits."""
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: first row, first column, and the steps between them
        passes = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
    rows = b""
    for top, left, down, across in passes:
        part = values[top::down, left::across]
        rows += b"".join(b"\0" + row for row in packed_rows(part, bits)) if part.size else b""
    height, width = values.shape
    content = b"\x89PNG\r\n\x1a\n"
    content += _chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, bits, color_type, 0, 0, interlaced))
    if color_type == PALETTE:
        colors = np.random.default_rng(0).integers(0, 256, (2**bits, 3), dtype=np.uint8)
        content += _chunk(b"PLTE", colors.tobytes())
    return content + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def tiff(
    samples: np.ndarray,
    bits: int = 8,
    *,
    tags: Mapping[int, Sequence[int]] | None = None,
    order: str = "<",
    deflate: bool = False,
    xmp: bytes = b"",
) -> bytes:
    """Return a TIFF of one strip that stores integers (H, W) or (H, W, n) at so many bits each.

    Args:
        tags: others than the usual ones, by number: 262 photometric, 266 fill order, 274 orientation, 338.
    """
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    rows = packed_rows(samples.reshape(height, -1), bits)
    if bits > 8 and order == "<":
        rows = [np.frombuffer(row, f">u{bits // 8}").astype(f"<u{bits // 8}").tobytes() for row in rows]
    data = b"".join(rows)
    data = zlib.compress(data) if deflate else data
    if (tags or {}).get(266) == [2]:
        data = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)
    fields: dict[int, Sequence[int] | bytes] = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [8 if deflate else 1],
        262: [2 if channels >= 3 else 1], 273: [8], 277: [channels], 278: [height], 279: [len(data)],
    }  # fmt: skip
    fields |= tags or {}
    if xmp:
        fields[700] = xmp
    if 262 in fields and fields[262] == [3]:
        fields[320] = np.random.default_rng(0).integers(0, 65536, 3 * 2**bits).tolist()
    start = 8 + len(data) + len(data) % 2
    data = data.ljust(start - 8, b"\0")
    entries, tail = b"", b""
    outside = start + 2 + 12 * len(fields) + 4
    for tag, values in sorted(fields.items()):
        plain = isinstance(values, bytes)
        kind = 1 if plain else 4 if tag in (256, 257, 273, 278, 279) else 3
        packed = values if plain else struct.pack(f"{order}{len(values)}{'L' if kind == 4 else 'H'}", *values)
        count = len(values)
        if len(packed) > 4:
            place = struct.pack(order + "L", outside + len(tail))
            tail += packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(order + "HHL", tag, kind, count) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HL", 42, start)
    return head + data + struct.pack(order + "H", len(fields)) + entries + struct.pack(order + "L", 0) + tail


def bmp(values: np.ndarray, bits: int, palette: np.ndarray) -> bytes:
    """Return a BMP that stores integers (H, W) of 1, 4 or 8 bits below a palette (n, 3)."""
    rows = [row.ljust(-(-len(row) // 4) * 4, b"\0") for row in reversed(packed_rows(values, bits))]
    colors = b"".join(bytes([blue, green, red, 0]) for red, green, blue in palette.tolist())
    height, width = values.shape
    data = b"".join(rows)
    offset = 14 + 40 + len(colors)
    head = b"BM" + struct.pack("<LHHL", offset + len(data), 0, 0, offset)
    info = struct.pack("<LllHHLLllLL", 40, width, height, 1, bits, 0, len(data), 0, 0, len(palette), 0)
    return head + info + colors + data
