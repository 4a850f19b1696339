"""Reading images and label files, listing them, and telling whether they changed.

EXIF orientation is not applied: label files carry none, so that a turned image would no longer lie
under its labels.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image, UnidentifiedImageError

from uss_bench.errors import DataError
from uss_bench.paths import atomic_write, cache_root

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

# Pillow knows by the content what a file is, whatever its name: of EPS it would run Ghostscript.
_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
# What Pillow's decoders raise on broken bytes; they have no common base.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, TypeError, AttributeError,
    AssertionError, NotImplementedError, RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
_WITH_ALPHA = {"RGBA": "RGB", "RGBa": "RGB", "RGBX": "RGB", "LA": "L", "La": "L"}
_GREY_INTEGERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
# A file that changed this recently may change again under the same time stamp, so it is not trusted.
_SETTLED_NS = 2_000_000_000


def read_image(path: Path) -> np.ndarray:
    """Read an image as uint8 (H, W, 3), RGB; of several frames, the first.

    Grey and paletted images become RGB, and alpha is dropped.

    Raises:
        DataError: when the file is missing, broken or too large, or when making 8-bit RGB of it would
            lose meaning (16 bits, floats, CMYK, Lab).
    """
    image, deep = _decode(Path(path))
    if deep:
        raise DataError(
            f"{path} has more than 8 bits per channel (read as {image.mode}).",
            hint="Scale it to 0..255 and save it as 8-bit PNG; ImageMagick does it with '-depth 8'.",
        )
    if image.mode in ("P", "PA"):
        # By way of RGBA, because a palette may have transparent entries.
        image = image.convert("RGBA")
    if image.mode not in ("1", "L", "RGB", "YCbCr", *_WITH_ALPHA):
        raise DataError(
            f"{path} is in {image.mode}, which is RGB only under a colour profile.",
            hint="Convert it with the profile that it was made for, and save it as RGB; ImageMagick does it "
            "with '-colorspace sRGB'.",
        )
    return np.array(image.convert("RGB"), dtype=np.uint8)


def read_label(path: Path) -> np.ndarray:
    """Read the values of a label file exactly as they are stored.

    Returns:
        Grey files: uint8 (H, W), or int32 (H, W) for deeper ones. Paletted files: their indices, uint8
        (H, W). One-bit files: 0 and 1. Colour-coded files: uint8 (H, W, 3). Alpha is dropped.

    Raises:
        DataError: when the file is missing, broken or too large, or cannot hold exact values (JPEG, WebP).
    """
    image, deep = _decode(Path(path))
    if image.format in ("JPEG", "MPO", "WEBP"):
        raise DataError(
            f"{path} is a {image.format}, whose compression changes values: it cannot hold labels.",
            hint="Make the labels again and save them as PNG; converting this file does not bring them back.",
        )
    eight_bits = not deep and (image.mode == "RGB" or image.mode in _WITH_ALPHA)
    if not eight_bits and image.mode not in _GREY_INTEGERS:
        raise DataError(
            f"{path} is in {image.mode}{', more than 8 bits deep' if deep else ''}, which is no label file.",
            hint="Save labels as greyscale PNG of class numbers, or as 8-bit RGB PNG of class colours.",
        )
    array = np.array(image.convert(_WITH_ALPHA[image.mode]) if image.mode in _WITH_ALPHA else image)
    return array.astype(np.uint8 if array.dtype in (np.bool_, np.uint8) else np.int32)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) from the file's header, without decoding it."""
    with _open(Path(path)) as image:
        return image.height, image.width


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name, whatever the locale and the file system.

    Hidden files are left out: macOS puts ``._photo.jpg`` beside ``photo.jpg``.

    Raises:
        DataError: when there is no such folder.
    """
    try:
        found = [path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror}.") from None
    kept = [path for path in found if not path.name.startswith(".") and path.is_file()]
    for path in kept:
        try:
            path.name.encode()
        except UnicodeEncodeError:
            what = f"{folder} holds {path.name!a}, whose name is not UTF-8."
            raise DataError(what, hint="Rename it.") from None
    return sorted(kept, key=lambda path: path.name)


def fingerprint(paths: Sequence[Path]) -> str:
    """Return a sha256 over names, sizes and contents, in the order given.

    Content digests are remembered in the cache by path, size and modification time, so that a second
    call only looks at the files' metadata.

    Raises:
        DataError: when a file cannot be read.
    """
    home = str(paths[0].parent.resolve()) if paths else ""
    place = cache_root() / "digests" / f"{hashlib.sha256(os.fsencode(home)).hexdigest()[:32]}.json"
    known = _read_digests(place)
    fresh: dict[str, tuple[int, int, str]] = {}
    manifest = hashlib.sha256()
    for path in paths:
        key = str(path.absolute())
        try:
            stat = path.stat()
            entry = known.get(key)
            if entry is None or entry[:2] != (stat.st_size, stat.st_mtime_ns):
                with path.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                entry = (stat.st_size, stat.st_mtime_ns, digest)
                if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
                    fresh[key] = entry
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
        manifest.update(f"{path.name}\0{entry[0]}\0{entry[2]}\n".encode())
    if fresh:
        # Without a writable cache the next call is slow and just as right.
        with contextlib.suppress(OSError, UnicodeEncodeError):
            place.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(place, msgspec.json.encode(known | fresh))
    return manifest.hexdigest()


def _read_digests(place: Path) -> dict[str, tuple[int, int, str]]:
    try:
        return msgspec.json.decode(place.read_bytes(), type=dict[str, tuple[int, int, str]])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _open(path: Path) -> Image.Image:
    """Open an image and check its size; its pixels are not decoded yet."""
    try:
        image = Image.open(path, formats=_FORMATS)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path) from None
    except UnidentifiedImageError:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes).", hint="Copy or download it again.") from None
        raise DataError(
            f"{path} is not an image that can be read, or its header is broken.",
            hint="Known formats: JPEG, PNG, BMP, TIFF, WebP. Copy the file again, or remove it.",
        ) from None
    except _DECODE_ERRORS as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    height, width = image.height, image.width
    if not height or not width:
        image.close()
        raise DataError(f"{path} has no pixels: it is {width}×{height}.", hint="Remove it.")
    # Pillow merely warns up to twice its limit, and `warnings` cannot be changed safely among threads.
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        image.close()
        raise _too_large(path)
    return image


def _decode(path: Path) -> tuple[Image.Image, bool]:
    """Return the decoded image, and whether the file has more than 8 bits per sample."""
    with _open(path) as image:
        deep = _is_deep(image)  # before loading, which forgets how the file stored its samples
        try:
            image.load()
        except _DECODE_ERRORS as error:
            raise DataError(
                f"{path} is damaged or truncated: {error}.", hint="Copy or download it again."
            ) from None
        return image, deep


def _is_deep(image: Image.Image) -> bool:
    # Pillow reads 16-bit colour as 8-bit without a word: only the decoder's raw mode tells.
    raw_modes = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    return image.mode in ("I", "F") or image.mode.startswith("I;16") or ";16" in raw_modes


def _too_large(path: Path) -> DataError:
    return DataError(
        f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels, as decompression bombs do.",
        hint="Cut it into tiles.",
    )
