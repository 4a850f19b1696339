"""Downloading large files: resumed where it broke off, and believed only after it was checked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from uss_bench.errors import DataError

_BLOCK = 1 << 20
_HTML = re.compile(rb"\s*<(!doctype\s+html|html|head|body|\?xml[^>]*>\s*<!doctype\s+html)", re.IGNORECASE)
_PROGRESS = 1 << 20  # an attempt that brings so much does not count as a failure


@dataclass(frozen=True, slots=True)
class Resource:
    """A file to download."""

    url: str
    name: str
    """What it is called on disk."""
    size: int | None = None
    """Its published size in bytes."""
    sha256: str = ""
    """Its published digest, or the digest's first characters where no more is published."""


class _BrokenOff(Exception):
    """The connection ended, or stalled, before the file did."""


def download(
    resource: Resource, folder: Path, *, attempts: int = 5, timeout: float = 60, pause: float = 2
) -> Path:
    """Download a file into a folder, unless it is there already, and return its path.

    What arrives is kept in ``NAME.part`` and resumed, in this call or a later one, when the server says
    that its file is still the same. The file gets its name only after its size and digest were checked.

    Args:
        attempts: how many times in a row a connection may fail without bringing 1 MiB.
        timeout: seconds without a byte after which a connection counts as broken off.
        pause: seconds to wait before the second attempt; it doubles with every failure.

    Raises:
        DataError: when the server has no such file, answers with a web page, announces or sends another
            size or content than is published, keeps breaking off, or the disk is full.
    """
    target = folder / resource.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be made: {error.strerror}.") from None
    with FileLock(folder / f".{resource.name}.lock"):
        if target.exists():
            _check(target, resource)
            return target
        part = folder / f"{resource.name}.part"
        failures = 0
        while True:
            before = _length(part)
            try:
                _fetch(resource, part, timeout)
                break
            except _BrokenOff as broken:
                failures = 0 if _length(part) - before >= _PROGRESS else failures + 1
                if failures >= attempts:
                    raise DataError(
                        f"{resource.url} broke off at {_length(part):,} bytes: {broken}.",
                        hint="Run it again later: it goes on from there. Or download it by other means to "
                        f"{target}.",
                    ) from None
                time.sleep(pause * 2 ** max(failures - 1, 0))
        try:
            _check(part, resource)
        except DataError:
            _forget(part)  # resuming wrong bytes would never make them right
            raise
        part.replace(target)
        _validator(part).unlink(missing_ok=True)
    return target


def _fetch(resource: Resource, part: Path, timeout: float) -> None:
    """Bring `part` to its full length, going on from what it holds where that is safe."""
    if not _validator(part).is_file() and not (resource.sha256 and part.is_file()):
        _forget(part)  # nothing could tell whether it is the beginning of the same file
    have = _length(part)
    if have and have == resource.size:
        return
    if resource.size is not None and have > resource.size:
        _forget(part)
        have = 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "uss-bench"}
    if have:
        headers["Range"] = f"bytes={have}-"
        with contextlib.suppress(FileNotFoundError):
            headers["If-Range"] = _validator(part).read_text(encoding="latin-1")
    try:
        with urllib.request.urlopen(
            urllib.request.Request(resource.url, headers=headers), timeout=timeout
        ) as response:
            _receive(resource, part, response)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            _forget(part)
            raise _BrokenOff("the server has fewer bytes than were received") from None
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _BrokenOff(f"the server answered {error.code} {error.reason}") from None
        raise DataError(
            f"{resource.url} cannot be had: the server answered {error.code} {error.reason}.",
            hint="It may have moved. Put the file there by other means, or see the dataset's own site.",
        ) from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
            raise DataError(f"{part} cannot be written: {error.strerror}.") from None
        raise _BrokenOff(str(getattr(error, "reason", None) or error or type(error).__name__)) from None


def _receive(resource: Resource, part: Path, response: Any) -> None:
    start = _start(response) if response.status == 206 else 0
    if start not in (0, _length(part)):
        _forget(part)
        raise _BrokenOff(f"the server sent bytes from {start:,} on, which nobody asked for")
    total = _announced(resource, response, start)
    block: bytes = response.read(min(_BLOCK, total - start))
    if start == 0 and (response.headers.get_content_type() == "text/html" or _HTML.match(block)):
        raise DataError(
            f"{resource.url} answers with a web page instead of {resource.name}.",
            hint="Open the address in a browser: it may ask to log in or to confirm, or the file is gone.",
        )
    free = shutil.disk_usage(part.parent).free
    if total - start > free:
        raise DataError(
            f"{part.parent} has {free:,} bytes free; {resource.name} needs {total - start:,} more."
        )
    _remember(part, response)
    with (
        part.open("ab" if start else "wb") as stream,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=resource.name, disable=None) as bar,
    ):
        done = start
        while block:
            stream.write(block)
            done += len(block)
            bar.update(len(block))
            block = response.read(min(_BLOCK, total - done))
    if response.read(1):
        raise DataError(
            f"{resource.url} sends more than the {total:,} bytes of {resource.name}.",
            hint="It is another file than the published one, or an error page.",
        )
    if done < total:
        raise _BrokenOff(f"{done:,} of {total:,} bytes came")


def _announced(resource: Resource, response: Any, start: int) -> int:
    """Return the full length of the file that a response belongs to, as the server states it."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise DataError(f"{resource.url} comes in another encoding than was asked for.")
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else resource.size
    if total is None:
        raise DataError(
            f"{resource.url} does not say how long it is, so that nothing could tell when it is whole.",
            hint="Download it by other means.",
        )
    if resource.size is not None and total != resource.size:
        raise DataError(
            f"{resource.url} announces {total:,} bytes; {resource.name} has {resource.size:,}.",
            hint="It is another file than the published one, or an error page.",
        )
    return total


def _start(response: Any) -> int:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _remember(part: Path, response: Any) -> None:
    """Keep what tells later whether the server's file is still the same; a weak tag does not."""
    tag = response.headers.get("ETag", "")
    validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    if validator:
        _validator(part).write_text(validator, encoding="latin-1")
    else:
        _validator(part).unlink(missing_ok=True)


def _check(path: Path, resource: Resource) -> None:
    size = _length(path)
    if resource.size is not None and size != resource.size:
        raise DataError(
            f"{path} has {size:,} bytes instead of {resource.size:,}.", hint="Remove it and run it again."
        )
    if resource.sha256:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if not digest.startswith(resource.sha256):
            raise DataError(
                f"{path} is not the published {resource.name}: its sha256 is {digest} instead of "
                f"{resource.sha256}{'…' if len(resource.sha256) < 64 else ''}.",
                hint="Remove it if it is still there, and download it again.",
            )


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator(part).unlink(missing_ok=True)


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
