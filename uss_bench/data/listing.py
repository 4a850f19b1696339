"""Listing files and pairing them by name, so that none is passed over in silence.

Names count as equal when they look equal: macOS stores accents as characters of their own (NFD), other
systems as they are typed (NFC), and people's suffixes are ``.JPG`` as often as ``.jpg``.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path

from uss_bench.errors import DataError
from uss_bench.runtime.text import why_no_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
"""Formats that hold exact values."""

_SHOWN = 8


def same_name(name: str) -> str:
    """Return a name in the form that names which look the same share."""
    return unicodedata.normalize("NFC", name)


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name, whatever the locale and the file system.

    Hidden files are left out: macOS puts ``._photo.jpg`` beside ``photo.jpg``.

    Raises:
        DataError: when there is no such folder, an image is a link that leads nowhere, or a name is not
            UTF-8.
    """
    return list_files(folder, IMAGE_SUFFIXES)


def list_files(folder: Path, suffixes: Container[str]) -> list[Path]:
    """Return the files of a folder with one of these suffixes, in either case; see `list_images`."""
    kept, broken = [], []
    try:
        with os.scandir(folder) as entries:  # it knows what they are without asking for each
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - of 100,000 names
                if suffix in suffixes and not entry.name.startswith("."):
                    if _is_broken(entry):
                        broken.append(Path(entry.path))
                    elif entry.is_file():
                        kept.append(Path(entry.path))
    except OSError as error:
        raise _unreadable(folder, error) from None
    for path in (*kept, *broken):
        _check_text(path)
    if broken:
        raise DataError(
            f"{len(broken)} of {len(kept) + len(broken)} files in {folder} are links that lead nowhere; the "
            f"first is {broken[0].name}, which leads to {broken[0].readlink()}.",
            hint="Put back what they lead to, or remove the links.",
        )
    return sorted(kept, key=lambda path: same_name(path.name))


def _is_broken(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link that leads nowhere, or in a circle."""
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110 - of 100,000 names


def left_out(folder: Path, used: Iterable[Path]) -> str:
    """Return a sentence that counts what lies visibly in a folder and was not used; '' for nothing."""
    taken = set(used)
    rest = [path for path in _visible(folder) if path not in taken]
    folders = sorted(f"the folder {path.name!r}" for path in rest if path.is_dir())
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in rest if not path.is_dir())
    named = [*(f"{count} {kind}" for kind, count in sorted(kinds.items())), *folders]
    if not named:
        return ""
    shown = ", ".join(named[:_SHOWN]) + (f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else "")
    return f"Not read in {folder}: {shown}."


def by_stem(files: Iterable[Path]) -> dict[str, Path]:
    """Return files by stem, which is their id.

    Raises:
        DataError: when two have the same stem, or stems that look the same.
    """
    found: dict[str, Path] = {}
    for path in files:
        first = found.setdefault(same_name(path.stem), path)
        if first is not path:
            raise DataError(
                f"{first} and {path.name} have the same stem, which is an image's id.",
                hint="Rename or remove one of them.",
            )
    return found


class Names:
    """The files of a folder by name, whatever the case and the form of accents on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[str, Path] | None = None

    def find(self, name: str) -> Path:
        """Return the file of this name, or where it should be when there is none.

        Raises:
            DataError: when it is a link that leads nowhere.
        """
        path = self._folder / name
        if path.is_file():
            return path
        if self._listed is None:
            present = self._folder.iterdir() if self._folder.is_dir() else ()
            self._listed = {same_name(one.name).casefold(): one for one in present}
        found = self._listed.get(same_name(name).casefold(), path)
        check_link(found)
        return found


def check_link(path: Path) -> None:
    """Raise `DataError` for a link that leads nowhere."""
    if path.is_symlink() and not path.exists():
        raise DataError(
            f"{path} is a link that leads nowhere ({path.readlink()}).",
            hint="Put back what it leads to, or remove the link.",
        )


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds but hidden files."""
    try:
        return [path for path in Path(folder).iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise _unreadable(folder, error) from None


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(f"The folder {folder} cannot be read: {error.strerror}.")


def _check_text(path: Path) -> None:
    """Refuse a name that records and messages could not state."""
    if reason := why_no_text(path.name):
        raise DataError(f"{path.parent} holds {path.name!a}, whose name is not text.", hint=reason)
