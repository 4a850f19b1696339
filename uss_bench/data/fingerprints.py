"""Whether files changed: digests of their contents, taken once and held against what is read later."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from uss_bench.data.listing import same_name
from uss_bench.errors import DataError
from uss_bench.files.atomic import atomic_write, cache_root

DigestNotes = dict[str, tuple[int, int, int, str]]
"""Size, times of modification and of change (ns), and sha256 of files, by path: what the cache keeps."""

# A file that changed this recently may change again under the same time stamp, so it is not trusted.
_SETTLED_NS = 2_000_000_000


class FileSet:
    """The files of one split, as they were when their fingerprint was first taken.

    From then on a file is read only while its content is what the fingerprint says, so that nothing
    computed from another content can stand under the fingerprint.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths: Sequence[Path] = tuple(paths)
        self._digests: dict[Path, str] = {}
        self._fingerprint = ""

    def fingerprint(self) -> str:
        """Return a sha256 over names, sizes and contents, in their order.

        Raises:
            DataError: when a file cannot be read.
        """
        if not self._fingerprint:
            known = _digests(self.paths)
            manifest = hashlib.sha256()
            for path, (size, digest) in zip(self.paths, known, strict=True):
                manifest.update(f"{same_name(path.name)}\0{size}\0{digest}\n".encode())
                self._digests[path] = digest
            self._fingerprint = manifest.hexdigest()
        return self._fingerprint

    def read(self, path: Path) -> bytes:
        """Return the content of one of the files.

        Raises:
            DataError: when it cannot be read, or is not what it was when the fingerprint was taken.
        """
        content = read_bytes(path)
        if path in self._digests and hashlib.sha256(content).hexdigest() != self._digests[path]:
            with contextlib.suppress(OSError):  # a file system may not note every change
                _note_file(self.paths).unlink(missing_ok=True)
            raise DataError(
                f"{path} changed while it was in use: its content is not the one that was fingerprinted.",
                hint="Leave the data alone while a command reads it, and give the command again.",
            )
        return content


def fingerprint(paths: Iterable[Path]) -> str:
    """Return a sha256 over names, sizes and contents of files, in the order given.

    Content digests are remembered in the cache by path, size and times, so that a second call only looks
    at the files' metadata. Names count in their composed form (NFC), which is the same on every system.

    Raises:
        DataError: when a file cannot be read.
    """
    return FileSet(paths).fingerprint()


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        DataError: when it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def _digests(paths: Sequence[Path]) -> list[tuple[int, str]]:
    """Return size and sha256 of every file; those that did not change since the last call are not read."""
    place = _note_file(paths)
    known = _read_notes(place)
    fresh: DigestNotes = {}
    found = []
    for path in paths:
        key = str(path.absolute())
        try:
            stat = path.stat()
            entry = known.get(key)
            if entry is None or entry[:3] != (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns):
                with path.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                entry = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, digest)
                if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED_NS:
                    fresh[key] = entry
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
        found.append((entry[0], entry[3]))
    if fresh:
        # Without a writable cache the next call is slow and just as right.
        with contextlib.suppress(OSError, UnicodeEncodeError):
            place.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(place, msgspec.json.encode(known | fresh))
    return found


def _note_file(paths: Sequence[Path]) -> Path:
    home = str(paths[0].parent.resolve()) if paths else ""
    return cache_root() / "digests" / f"{hashlib.sha256(os.fsencode(home)).hexdigest()[:32]}.json"


def _read_notes(place: Path) -> DigestNotes:
    try:
        return msgspec.json.decode(place.read_bytes(), type=DigestNotes)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
