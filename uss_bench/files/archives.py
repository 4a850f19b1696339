"""Unpacking archives that came from elsewhere: every member is checked, then written by itself."""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from tqdm import tqdm

from uss_bench.errors import DataError
from uss_bench.files.atomic import partial_file

_RATIO = 200
"""Label maps shrink to a hundredth; bombs to a ten-thousandth and less."""
_SLACK = 64 << 20
_BLOCK = 1 << 20
_AGAIN = "Remove it, and download it again."
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
    is not written again, so that an interrupted extraction continues. Owners, modes and times of the
    archive are not applied.

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
        raise DataError(f"{archive} is broken: {error}.", hint=_AGAIN) from None
    except OSError as error:
        if error.errno is None:  # gzip's complaints about what it reads
            raise DataError(f"{archive} is broken: {error}.", hint=_AGAIN) from None
        raise DataError(f"{archive} cannot be extracted to {target}: {error}.") from None
    return len(wanted)


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    """Open an archive and list its members; folders are left out."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            files = [info for info in packed.infolist() if not info.is_dir()]
            yield [_Member(i.filename, i.file_size, _zip_refusal(i), partial(packed.open, i)) for i in files]
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tape:
            entries = [entry for entry in tape if not entry.isdir()]
            # A zip has a checksum for every member, and a compressed tar only one, behind its end.
            while tape.fileobj is not None and tape.fileobj.read(_BLOCK):
                pass
            link = "is a link or a device"
            yield [
                _Member(e.name, e.size, "" if e.isreg() else link, partial(tape.extractfile, e))
                for e in entries
            ]
    else:
        raise DataError(
            f"{archive} is no zip or tar archive.",
            hint="Open it in an editor: it may be an error page. " + _AGAIN,
        )


def _zip_refusal(info: zipfile.ZipInfo) -> str:
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link or a device"
    return "is encrypted" if info.flag_bits & 1 else ""


def _checked(
    archive: Path, members: list[_Member], place: Callable[[str], str | None]
) -> list[tuple[str, _Member]]:
    """Return the wanted members and where they go, after all of them were checked."""
    limit = archive.stat().st_size * _RATIO + _SLACK
    wanted: dict[str, tuple[str, _Member]] = {}
    total = 0
    for member in members:
        where = place(member.name)
        problem = ""
        if _leads_out(member.name) or (where is not None and _leads_out(where)):
            problem = "leads out of its folder"
        elif where is not None:
            total += member.size
            problem = member.refusal
            # Some file systems do not tell cases apart.
            if not problem and wanted.setdefault(where.casefold(), (where, member))[1] is not member:
                problem = "comes twice, so that one would hide the other"
            elif not problem and total > limit:
                problem = f"brings it to {total:,} bytes, as a bomb would"
        if problem:
            raise DataError(
                f"{archive} holds '{member.name}', which {problem}. Nothing of it was extracted.",
                hint="Do not use this archive: an honest one has no such member.",
            )
    return list(wanted.values())


def _leads_out(name: str) -> bool:
    """Whether a name means another place on any system: absolute, upwards, drives, backslashes."""
    parts = name.split("/")
    return ".." in parts or parts[0] == "" or any(sign in name for sign in "\\:\0")


def _write(archive: Path, member: _Member, path: Path) -> None:
    if path.is_file() and path.stat().st_size == member.size:
        return
    if path.exists() or path.is_symlink():
        raise DataError(
            f"{path} exists, and is not the one in {archive}.", hint="Move or delete it: nothing is replaced."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < member.size:
        raise DataError(f"The disk of {path.parent} has no {member.size:,} bytes left for {path.name}.")
    with partial_file(path) as (descriptor, written), contextlib.ExitStack() as opened:
        source = member.open()
        assert source is not None  # only links have no content, and these are refused
        opened.enter_context(source)
        with os.fdopen(descriptor, "wb", closefd=False) as stream:
            shutil.copyfileobj(source, stream, _BLOCK)
        if written.stat().st_size != member.size:
            raise DataError(f"{archive} breaks off within '{member.name}'.", hint="Download it again.")
        written.replace(path)
