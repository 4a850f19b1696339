"""Reading image and label files, and telling one content from another.

EXIF orientation is not applied: label maps have none, so turning the image alone would tear the two
apart. What can be converted without losing meaning is converted (greyscale and palette images, alpha);
what cannot (16-bit, CMYK) is refused with the way to convert it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from uss_bench.errors import DataError
from uss_bench.paths import atomic_write, cache_root

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I", "F")
_CONVERTED = ("L", "P", "RGBA", "LA", "PA", "1", "RGBX")


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name; hidden files and folders are left out.

    Raises:
        DataError: when the folder is missing.
    """
    try:
        entries = sorted(Path(folder).iterdir())
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror}.") from None
    return [
        path
        for path in entries
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def read_image(path: Path) -> np.ndarray:
    """Read an image as uint8 (H, W, 3), RGB.

    Raises:
        DataError: when it is missing, damaged, no image, too large, or of a mode that would lose meaning.
    """
    with _opened(path) as picture:
        if picture.mode in _SIXTEEN_BIT:
            raise DataError(
                f"{path} has more than 8 bits per channel (mode {picture.mode}).",
                hint="Convert it to 8 bits with a scaling of your choice; uss-bench will not guess one.",
            )
        if picture.mode != "RGB" and picture.mode not in _CONVERTED:
            raise DataError(
                f"{path} is a {picture.mode} image, whose colours depend on a profile.",
                hint=f"Convert it to RGB first: magick {Path(path).name} -colorspace sRGB out.png",
            )
        if picture.mode == "P" and "transparency" in picture.info:
            picture = picture.convert("RGBA")
        return np.array(picture.convert("RGB"))


def read_label(path: Path) -> np.ndarray:
    """Read a label map: integers (H, W) of a grey or palette PNG, or uint8 (H, W, 3) of a colour-coded one.

    Raises:
        DataError: when it is missing, damaged, no image, or of another kind.
    """
    if Path(path).suffix.lower() in (".jpg", ".jpeg"):
        raise DataError(f"{path} is a JPEG, which changes label values. Save label maps as PNG.")
    with _opened(path) as picture:
        if picture.mode in ("L", "P"):
            return np.array(picture)  # of a palette image, the indices
        if picture.mode == "1":
            return np.array(picture).astype(np.uint8)
        if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
            return np.array(picture).astype(np.int32)
        if picture.mode in ("RGB", "RGBA"):
            return np.array(picture.convert("RGB"))
        raise DataError(f"{path} is a {picture.mode} image: no label map (grey, palette or RGB).")


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) from an image's header.

    Raises:
        DataError: when the file is missing or no image.
    """
    with _opened(path, decode=False) as picture:
        return picture.height, picture.width


@contextlib.contextmanager
def _opened(path: Path, *, decode: bool = True) -> Iterator[Image.Image]:
    """Open and decode an image, turning what Pillow raises into one error that names the file."""
    try:
        with warnings.catch_warnings():
            # A bomb warning below Pillow's limit is of no use to anyone; the limit itself stays.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if decode:
                    picture.load()
                if not picture.width or not picture.height:
                    raise DataError(f"{path} has no pixels.")
                yield picture
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except UnidentifiedImageError:
        size = Path(path).stat().st_size
        what = "is empty" if not size else f"is no image that can be read ({size} bytes)"
        raise DataError(f"{path} {what}.", hint="Was the download complete? Fetch it again.") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path} would unpack to an enormous image, and is refused.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}.", hint="Fetch or export the file again.") from None


def fingerprint(paths: Sequence[Path]) -> str:
    """Return a digest over names, sizes and contents of files, in order.

    The sha256 of a file is kept in the cache by path, size and time of change, so that the second
    fingerprint of a large dataset takes no reading.
    """
    known = _KnownDigests(paths[0].parent if paths else Path())
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(f"{path.name}\0{path.stat().st_size}\0{known.sha256(path)}\n".encode())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    known.save()
    return digest.hexdigest()


class _KnownDigests:
    """Digests of the files of one folder, kept from one run to the next."""

    def __init__(self, folder: Path) -> None:
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._path = cache_root() / "digests" / f"{name}.json"
        self._known: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):  # a damaged cache is only a slow one
            loaded = json.loads(self._path.read_text(encoding="utf-8"))
            if isinstance(loaded, dict):
                sound = re.compile(r"[0-9a-f]{64}")
                self._known = {k: v for k, v in loaded.items() if isinstance(v, str) and sound.fullmatch(v)}
        self._changed = False

    def sha256(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
        if key not in self._known:
            with path.open("rb") as file:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        if self._changed:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(self._path, json.dumps(self._known).encode())
