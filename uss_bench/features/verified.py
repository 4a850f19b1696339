"""Notes of files that were read in full and found sound, so that not every open reads every byte again.

A note holds what the system says of a file: its size and the times of its last change. A file that a note
fits is taken as sound. Any other is read and its checksum compared, so that a shard that was cut short,
overwritten or copied from elsewhere is found at the next open. A note holds for a day, so that bytes that
rot on the disk, which change no time, are found as well. ``uss-bench cache verify`` reads everything,
whatever the notes say.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import msgspec

from uss_bench.errors import UssBenchError
from uss_bench.files.atomic import atomic_write

_SETTLED = 2.0
"""Seconds; a file that changed less than this ago is not noted: a second change at once may look the same."""
_VALID = 24 * 3600.0
"""Seconds that a note holds."""


class Note(msgspec.Struct, forbid_unknown_fields=True):
    """What a file looked like when it was read."""

    bytes: int
    modified: int
    changed: int
    read: float


class Verified:
    """The notes of one folder's files, kept in a file that may be missing, damaged or read-only.

    Args:
        path: where the notes are kept; files are named relative to its folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._notes = _load(path)
        self._new = False

    def covers(self, file: Path) -> bool:
        """Whether a file was found sound within a day, and has not been touched since."""
        note = self._notes.get(self._name(file))
        return note is not None and 0 <= time.time() - note.read < _VALID and _look(file, note.read) == note

    def add(self, file: Path, before: Note) -> None:
        """Note that a file is sound which looked as `before` when reading began."""
        if before.read - max(before.modified, before.changed) / 1e9 > _SETTLED:
            self._notes[self._name(file)] = before
            self._new = True

    def save(self) -> None:
        """Keep new notes for other processes, where the folder can be written."""
        if self._new:
            with contextlib.suppress(OSError, UssBenchError):
                atomic_write(self._path, msgspec.json.encode(self._notes))
            self._new = False

    def _name(self, file: Path) -> str:
        return file.relative_to(self._path.parent).as_posix()


def look(file: Path) -> Note:
    """Return what a file looks like now.

    Raises:
        OSError: when it is not there.
    """
    return _look(file, time.time())


def _look(file: Path, now: float) -> Note:
    found = file.stat()
    return Note(found.st_size, found.st_mtime_ns, found.st_ctime_ns, now)


def _load(path: Path) -> dict[str, Note]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Note])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
