"""Values in the cache that hold as long as the files that decide them keep their status.

The status is size, times and inode of every file, so any change leads back to computing the value. The
values lie beside the digests of data files, one file per set of paths.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from uss_bench.files.atomic import atomic_write, cache_root
from uss_bench.files.json_file import try_read_json

T = TypeVar("T")

Values = tuple[str, dict[str, Any]]
"""What a file holds: the status of the paths, and values by key."""

PACKAGE = Path(__file__).parents[1]
"""The folder of uss-bench itself: what its code computes is decided by it, too."""

_LIBRARIES = ("uss-bench", "torch", "timm", "numpy", "scipy", "pillow", "safetensors")
_FINE_NS, _COARSE_NS = 50_000_000, 2_000_000_000
"""How long a file may change again under one time stamp: one of fractions of a second, or of whole ones."""
_LARGEST = 500_000
"""Files below a path that are looked at; the value of a folder with more is computed every time."""


class Remembered(Generic[T]):
    """Values of one type, found in the cache or computed.

    Args:
        kind: their type, which JSON can hold.
    """

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._stored: dict[Path, tuple[str, dict[str, T]]] = {}
        self._statuses: dict[Path, tuple[str, bool]] = {}
        self._to_write: set[Path] = set()

    def find(self, paths: Sequence[Path], key: str, make: Callable[[], T]) -> T:
        """Return the value of `key`; `make` is called unless it is known and nothing has changed.

        Args:
            paths: of all files and folders that decide the value, besides the versions of libraries.
        """
        facts = [self._kind.__name__, *map(str, paths)]
        name = hashlib.sha256(os.fsencode("\0".join(facts))).hexdigest()[:32]
        place = cache_root() / "digests" / f"{name}.json"
        if place not in self._stored:
            self._stored[place] = self._read(place, paths)
        _, values = self._stored[place]
        if key not in values:
            values[key] = make()
            if all(self._statuses[path][1] for path in paths):
                self._to_write.add(place)
        return values[key]

    def save(self) -> None:
        """Write what is new. Without a writable cache the next command computes it again."""
        for place in self._to_write:
            with contextlib.suppress(OSError):
                place.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(place, msgspec.json.encode(self._stored[place]))
        self._to_write.clear()

    def _read(self, place: Path, paths: Sequence[Path]) -> tuple[str, dict[str, T]]:
        """Return the status of the paths, and the values that were stored under it."""
        for path in paths:
            if path not in self._statuses:
                self._statuses[path] = file_status(path)
        facts = [platform.python_version(), *map(_version, _LIBRARIES)]
        facts += [self._statuses[path][0] for path in paths]
        status = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        content: type[tuple[str, dict[str, T]]] = tuple[str, dict[str, self._kind]]  # type: ignore[name-defined]
        stored = try_read_json(place, content)
        return stored if stored is not None and stored[0] == status else (status, {})


def file_status(path: Path) -> tuple[str, bool]:
    """Return a digest of the status of all files at or below a path, and whether they have settled.

    A file that changed just now may change again under the same time stamp: it has not settled.
    """
    digest = hashlib.sha256(os.fsencode(os.path.realpath(path)))
    settled, now = True, time.time_ns()
    for number, (name, found) in enumerate(_walk(str(path), set())):
        if number == _LARGEST:
            return f"at {now}", False
        digest.update(os.fsencode(name))
        if found is not None:
            newest = max(found.st_mtime_ns, found.st_ctime_ns)
            settled = settled and now - newest > (_FINE_NS if newest % 1_000_000 else _COARSE_NS)
            facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            digest.update(b"%d %d %d %d" % facts)
    return digest.hexdigest(), settled


def _walk(path: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield files with their status; folders, and what cannot be read, without. Links are followed."""
    try:
        found = os.stat(path)  # noqa: PTH116 - DirEntry and plain strings, for 100,000 files
        if not stat.S_ISDIR(found.st_mode):
            yield path, found
            return
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except (OSError, ValueError):
        yield f"{path}\0unreadable", None
        return
    yield path, None
    if (found.st_dev, found.st_ino) in seen:  # a link to a folder above
        return
    seen.add((found.st_dev, found.st_ino))
    for entry in entries:
        try:
            if not entry.is_dir():
                yield entry.name, entry.stat()
            elif entry.name != "__pycache__":
                yield from _walk(entry.path, seen)
        except OSError:
            yield f"{entry.name}\0unreadable", None


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""
