"""Unpacking archives that came from elsewhere: every member is checked, then written by itself."""

from __future__ import annotations

import contextlib
import functools
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from tqdm import tqdm

from uss_bench.errors import DataError

_RATIO = 200
"""Label maps shrink to a hundredth; bombs to a ten-thousandth and less."""
_SLACK = 64 << 20
_BLOCK = 1 << 20
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, IndexError,
    UnicodeDecodeError, OverflowError, NotImplementedError,
)  # fmt: skip


class _Member(NamedTuple):
    name: str
    size: int
    refusal: str
    """Why it must not be written, or nothing."""
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, target: Path, place: Callable[[str], str | None]) -> int:
    """Write the members of a zip or tar archive that are wanted below a folder; return how many.

    All members are checked before the first is written. A member that is there already with its full size
    is not written again, so that an extraction that was broken off goes on. Nothing of an archive's
    owners, modes or times is taken over.

    Args:
        place: maps a member's name to where it goes below `target`, or to None if it is not wanted.

    Raises:
        DataError: when the archive is broken, or a member leads out of the folder, is a link, a device or
            encrypted, comes twice, or is larger than it or the archive can honestly be.
    """
    try:
        with _opened(archive) as members:
            wanted = _checked(archive, members, place)
            for where, member in tqdm(wanted, unit=" files", desc=archive.name, disable=None):
                _write(archive, member, target / where)
    except _BROKEN as error:
        raise DataError(f"{archive} is broken: {error}.", hint="Remove it, and download it again.") from None
    except OSError as error:
        if error.errno is None:  # gzip's complaints about what it reads
            raise DataError(
                f"{archive} is broken: {error}.", hint="Remove it, and download it again."
            ) from None
        raise DataError(f"{archive} cannot be extracted to {target}: {error}.") from None
    return len(wanted)


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    """Open an archive and list its members; folders are left out."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield [
                _Member(one.filename, one.file_size, _zip_refusal(one), functools.partial(packed.open, one))
                for one in packed.infolist()
                if not one.is_dir()
            ]
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tape:
            entries = [one for one in tape if not one.isdir()]
            # A zip has a checksum for every member, and a compressed tar only one, behind its end.
            while tape.fileobj is not None and tape.fileobj.read(_BLOCK):
                pass
            yield [
                _Member(one.name, one.size, _tar_refusal(one), functools.partial(tape.extractfile, one))
                for one in entries
            ]
    else:
        raise DataError(
            f"{archive} is no zip or tar archive.",
            hint="Open it in an editor: it may be an error page. Remove it, and download it again.",
        )


def _checked(
    archive: Path, members: Sequence[_Member], place: Callable[[str], str | None]
) -> list[tuple[str, _Member]]:
    """Return the wanted members and where they go, after all of them were checked."""
    limit = archive.stat().st_size * _RATIO + _SLACK
    wanted: dict[str, tuple[str, _Member]] = {}
    total = 0
    for member in members:
        _check_name(archive, member.name)
        where = place(member.name)
        if where is None:
            continue
        _check_name(archive, where)
        if member.refusal:
            raise _refused(archive, member.name, member.refusal)
        # Some file systems do not tell cases apart.
        if wanted.setdefault(where.casefold(), (where, member))[1] is not member:
            raise _refused(archive, member.name, "comes twice, so that one would hide the other")
        total += member.size
        if total > limit:
            raise _refused(archive, member.name, f"brings it to {total:,} bytes, as a bomb would")
    return list(wanted.values())


def _zip_refusal(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link or a device"
    return "is encrypted" if info.flag_bits & 1 else ""


def _tar_refusal(entry: tarfile.TarInfo) -> str:
    return "" if entry.isreg() else "is a link or a device"


def _check_name(archive: Path, name: str) -> None:
    """Refuse names that mean another place on any system: absolute, upwards, drives, backslashes."""
    parts = name.split("/")
    if not name or ".." in parts or parts[0] == "" or any(sign in name for sign in "\\:\0"):
        raise _refused(archive, name, "leads out of its folder")


def _refused(archive: Path, name: str, why: str) -> DataError:
    return DataError(
        f"{archive} holds '{name}', which {why}. Nothing of it was extracted.",
        hint="Do not use this archive: an honest one has no such member.",
    )


def _write(archive: Path, member: _Member, path: Path) -> None:
    if path.is_file() and path.stat().st_size == member.size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < member.size:
        raise DataError(f"The disk of {path.parent} has no {member.size:,} bytes left for {path.name}.")
    source = member.open()
    if source is None:
        raise _refused(archive, member.name, "is no file")
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with source, os.fdopen(descriptor, "wb") as stream:
            left = member.size
            while block := source.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise _refused(
                        archive, member.name, f"is longer than the {member.size:,} bytes it states"
                    )
                stream.write(block)
        if left:
            raise DataError(f"{archive} breaks off within '{member.name}'.", hint="Download it again.")
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(partial).unlink()
        raise
