"""Reading images and label files, as they are stored.

The orientation that a tag asks for is not applied: label files carry none, so that a turned image would no
longer lie under its labels. Pillow applies it to TIFF, and scales gray values of fewer than eight bits;
both are undone here.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from uss_bench.contracts import Images
from uss_bench.data.fingerprints import read_bytes
from uss_bench.errors import DataError
from uss_bench.files.arrays import read_npy

# Pillow knows by the content what a file is, whatever its name: of EPS it would run Ghostscript.
_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
# What Pillow's decoders raise on broken bytes; they have no common base.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, TypeError, AttributeError,
    AssertionError, NotImplementedError, RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
_WITH_ALPHA = {"RGBA": "RGB", "RGBa": "RGB", "RGBX": "RGB", "LA": "L", "La": "L"}
_GRAY_INTEGERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")

_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 256, 257
_TIFF_COMPRESSION, _TIFF_SAMPLE_FORMAT = 259, 339
_REDUCED_OR_MASK = 0b101
"""Bits of a TIFF page's kind: a smaller copy, as of overviews, or a mask of another page."""
_LOSSY = {6: "JPEG", 7: "JPEG", 33003: "JPEG 2000", 34712: "JPEG 2000", 34892: "JPEG", 50001: "WebP"}
"""Compressions of TIFF that change values."""
_SIGNED = "signed"
_MAKE_AGAIN = "Make the labels again and save them as PNG; converting this file does not bring them back."
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What undoes the turn that a value of the orientation tag asks for; 1 asks for none."""
_BMP_BITS = {"1": 1, "L": 8}
"""Bits of BMP files that Pillow means to be of these modes: it goes by the palette alone."""
_GRAY = re.compile(r"[1L](?:;(?P<bits>[24])?(?P<inverted>I)?R?)?")
"""How Pillow calls the samples of gray files: fewer than eight bits, white as 0, bits in reverse."""


def read_image(path: Path, content: bytes | None = None) -> np.ndarray:
    """Read an image as uint8 (H, W, 3), RGB; of several frames, the first.

    Gray and paletted images become RGB, and alpha is dropped.

    Args:
        content: the file's bytes, where they were read already.

    Raises:
        DataError: when the file is missing, broken or too large, or when making 8-bit RGB of it would
            lose meaning (16 bits, floats, CMYK, Lab).
    """
    image, samples = _decode(path, content)
    if samples == _SIGNED:
        raise DataError(
            f"{path} has signed values, and images are 0 to 255.",
            hint="Scale it to 0..255 and save it as PNG.",
        )
    if _is_deep(image.mode, samples):
        raise DataError(
            f"{path} has more than 8 bits per channel (read as {image.mode}).",
            hint="Scale it to 0..255 and save it as 8-bit PNG; ImageMagick does it with '-depth 8'.",
        )
    if image.mode in ("P", "PA"):
        # By way of RGBA, because a palette may have transparent entries.
        image = image.convert("RGBA")
    if image.mode not in ("1", "L", "RGB", "YCbCr", *_WITH_ALPHA):
        raise DataError(
            f"{path} is in {image.mode}, which is RGB only under a color profile.",
            hint="Convert it with the profile that it was made for, and save it as RGB; ImageMagick does it "
            "with '-colorspace sRGB'.",
        )
    return np.array(image.convert("RGB"), dtype=np.uint8)


def read_label(path: Path, content: bytes | None = None) -> np.ndarray:
    """Read the values of a label file exactly as they are stored.

    Args:
        content: the file's bytes, where they were read already.

    Returns:
        Gray files: uint8 (H, W), or int32 (H, W) for deeper ones. Paletted files: their indices, uint8
        (H, W). Files of 1, 2 or 4 bits: 0 to 1, 3 or 15. Signed ones: int32. Color-coded files: uint8
        (H, W, 3). Alpha is dropped.

    Raises:
        DataError: when the file is missing, broken or too large, holds several images, or cannot hold exact
            values (JPEG, WebP).
    """
    image, samples = _decode(path, content, exact=True)
    if image.format in ("JPEG", "MPO", "WEBP"):
        raise DataError(
            f"{path} is a {image.format}, whose compression changes values: it cannot hold labels.",
            hint=_MAKE_AGAIN,
        )
    deep = _is_deep(image.mode, samples)
    eight_bits = not deep and (image.mode == "RGB" or image.mode in _WITH_ALPHA)
    if not eight_bits and image.mode not in _GRAY_INTEGERS:
        raise DataError(
            f"{path} is in {image.mode}{', more than 8 bits deep' if deep else ''}, which labels cannot be.",
            hint="Save labels as grayscale PNG of class numbers, or as 8-bit RGB PNG of class colors.",
        )
    array = np.array(image.convert(_WITH_ALPHA[image.mode]) if image.mode in _WITH_ALPHA else image)
    if samples == _SIGNED:
        return array.view(np.int8).astype(np.int32)
    array = array.astype(np.uint8 if array.dtype in (np.bool_, np.uint8) else np.int32)
    if ";32N" in samples and array.min() < 0:  # Pillow reads unsigned values of 32 bits as signed
        raise DataError(
            f"{path} holds {int(array.view(np.uint32).max())}, which is no label of this program.",
            hint="Give every class a number below 65,536 and save the labels as PNG.",
        )
    if gray := _GRAY.fullmatch(samples):
        largest = 1 if image.mode == "1" else 255
        if gray["inverted"]:
            array = largest - array
        if gray["bits"]:
            array //= largest // (2 ** int(gray["bits"]) - 1)
    return array


def read_values(path: Path, content: bytes | None = None) -> np.ndarray:
    """Read a map of values, such as depth, exactly as it is stored.

    Args:
        content: the file's bytes, where they were read already.

    Returns:
        Of ``.npy`` the array. Of an image uint8, int32 (deeper) or float32, (H, W), or uint8 (H, W, 3).

    Raises:
        DataError: when the file is missing, broken or too large, or is not a map of values.
    """
    content = read_bytes(path) if content is None else content
    if path.suffix.lower() == ".npy":
        return read_npy(path, content)
    image, _ = _decode(path, content)
    return np.array(image, dtype=np.float32) if image.mode == "F" else read_label(path, content)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) as stored, from the file's header, without decoding it."""
    with _open(path) as image:
        return _stored_size(image)


def orientation(path: Path) -> int:
    """Return how a tag asks viewers to turn an image, 1 to 8; 1 is not at all, or no tag.

    Raises:
        DataError: when the file is missing, or not an image.
    """
    with _open(path) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except _DECODE_ERRORS:  # a damaged tag does not make an image unreadable
        return 1
    return found if found in _TURNED_BACK else 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]  # `size` is already turned
        return int(tags[_TIFF_HEIGHT]), int(tags[_TIFF_WIDTH])
    return image.height, image.width


def channel_fingerprint(images: Images, channel: str) -> str:
    """Return the digest of an extra channel; '' where the images' own fingerprint stands for it."""
    own = getattr(images, "aux_fingerprint", None)
    return "" if own is None else str(own(channel))


def _open(path: Path, content: bytes | None = None) -> Image.Image:
    """Open an image and check its size; its pixels are not decoded yet."""
    try:
        image = Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS)
        height, width = _stored_size(image)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path) from None
    except UnidentifiedImageError:
        raise _not_an_image(path, read_bytes(path) if content is None else content) from None
    except _DECODE_ERRORS as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if not height or not width:
        image.close()
        raise DataError(f"{path} has no pixels: it is {width}×{height}.", hint="Remove it.")
    # Pillow merely warns up to twice its limit, and `warnings` cannot be changed safely among threads.
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        image.close()
        raise _too_large(path)
    return image


def _not_an_image(path: Path, content: bytes) -> DataError:
    """Return the error that says what a file is instead of an image."""
    if not content:
        return DataError(f"{path} is empty (0 bytes).", hint="Copy or download it again.")
    if content[:4] in _TIFF_MARKS:
        import tifffile

        try:
            with tifffile.TiffFile(io.BytesIO(content)) as file:
                page = file.pages.first
                channels, bits = page.samplesperpixel, page.bitspersample
        except Exception:  # what a damaged TIFF makes tifffile raise has no common base
            channels = 0
        if channels > 4:
            return DataError(
                f"{path} has {channels} channels of {bits} bits, and images are 8-bit RGB.",
                hint="Choose the three that are red, green and blue: gdal_translate -b 1 -b 2 -b 3 IN.tif "
                "OUT.tif (with -ot Byte -scale for more than 8 bits).",
            )
        if channels:
            return DataError(
                f"{path} stores {channels} channels of {bits} bits in a way that is not read here.",
                hint="Save it as PNG: gdal_translate -of PNG IN.tif OUT.png.",
            )
    return DataError(
        f"{path} is not an image that can be read, or its header is broken.",
        hint="Known formats: JPEG, PNG, BMP, TIFF, WebP. Copy the file again, or remove it.",
    )


def _decode(path: Path, content: bytes | None, *, exact: bool = False) -> tuple[Image.Image, str]:
    """Return the decoded image, and how the file stored its samples, as Pillow calls it or `_SIGNED`.

    Args:
        exact: refuse a TIFF whose compression changes values, and files of several images.
    """
    content = read_bytes(path) if content is None else content
    with _open(path, content) as image:
        if image.format == "BMP" and _BMP_BITS.get(image.mode) not in (None, content[28]):
            raise DataError(
                f"{path} is a BMP of {content[28]} bits with few gray colors, which Pillow reads wrongly.",
                hint="Save it as PNG.",
            )
        # Loading forgets both. Pillow reads 16-bit color as 8-bit without a word: only this tells.
        tiles = [tile[3] for tile in getattr(image, "tile", ())]
        samples = " ".join(
            sorted({tile if isinstance(tile, str) else str(tile[0]) for tile in tiles if tile})
        )
        turned = _orientation(image) if image.format == "TIFF" else 1
        if image.format == "TIFF" and image.mode == "L" and _tag(image, _TIFF_SAMPLE_FORMAT) == 2:
            samples = _SIGNED
        try:
            if exact:
                _refuse_inexact(path, image, content)
            image.load()
            if turned != 1 and _ORIENTATION not in image.getexif():  # Pillow has applied it
                format, image = image.format, image.transpose(_TURNED_BACK[turned])
                image.format = format
        except _DECODE_ERRORS as error:
            raise DataError(
                f"{path} is damaged or truncated: {error}.", hint="Copy or download it again."
            ) from None
        return image, samples


def _refuse_inexact(path: Path, image: Image.Image, content: bytes) -> None:
    """Refuse a file that does not hold one array of exact values."""
    if image.format == "TIFF":
        import tifffile  # Pillow does not know the pixels of every mask

        if (lossy := _LOSSY.get(_tag(image, _TIFF_COMPRESSION))) is not None:
            raise DataError(
                f"{path} is a TIFF compressed as {lossy}, which changes values: it cannot hold labels.",
                hint=_MAKE_AGAIN,
            )
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            count = sum(not int(page.aspage().subfiletype) & _REDUCED_OR_MASK for page in file.pages)
    else:
        count = getattr(image, "n_frames", 1)
    if count > 1:
        raise DataError(
            f"{path} holds {count} images, and a label file is one.", hint="Keep the one that is meant."
        )


def _tag(image: Image.Image, number: int) -> int:
    """Return the first value of a TIFF tag; of one that is missing or odd, what its absence means."""
    value = image.tag_v2.get(number)  # type: ignore[attr-defined]
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else 1 if number == _TIFF_SAMPLE_FORMAT else 0


def _is_deep(mode: str, samples: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16") or ";16" in samples


def _too_large(path: Path) -> DataError:
    return DataError(
        f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels, as decompression bombs do.",
        hint="Cut it into tiles.",
    )
