"""Spoilt images: read, or named as damaged; bombs refused, and no other program started."""

from __future__ import annotations

import struct
import zlib

import pytest
from fuzzing import FUZZ, IMAGES, ignore_warnings, spoilt, survives
from hypothesis import given

from uss_bench.data.images import image_size, read_image, read_label
from uss_bench.errors import DataError

pytestmark = ignore_warnings


@FUZZ
@given(spoilt(IMAGES))
def test_images(content: bytes) -> None:
    for read in (read_image, read_label, image_size):
        survives(read, content, "image.png")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares a size."""
    head = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", [read_image, read_label, image_size])
@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (90_000, 1_000)])
def test_an_image_that_declares_more_pixels_than_memory_holds_is_refused(tmp_path, read, size) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb(*size))
    with pytest.raises(DataError, match=r"bomb\.png"):
        read(path)


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"])
def test_no_other_program_is_started_for_an_image(tmp_path, monkeypatch, content) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("Ghostscript was called"))
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(DataError, match="is not an image that can be read"):
        read_image(tmp_path / "image.png")
