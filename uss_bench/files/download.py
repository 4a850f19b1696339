"""Downloading large files: resumed where it broke off, and believed only after it was checked."""

from __future__ import annotations

import errno
import http.client
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from uss_bench.errors import DataError
from uss_bench.files.digests import digest_file
from uss_bench.files.locks import locked

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
    log = partial(tqdm.write, file=sys.stderr)
    with locked(folder / f".{resource.name}.lock", log, "downloads the same file"):
        if target.exists():
            _check(target, resource)
            return target
        part, failures = _Part(folder / f"{resource.name}.part"), 0
        while True:
            before = part.length
            try:
                _fetch(resource, part, timeout)
                break
            except _BrokenOff as broken:
                failures = 0 if part.length - before >= _PROGRESS else failures + 1
                if failures >= attempts:
                    raise DataError(
                        f"{resource.url} broke off at {part.length:,} bytes: {broken}.",
                        hint="Run it again later: it continues from there. Or download it by other means to "
                        f"{target}.",
                    ) from None
                time.sleep(pause * 2 ** max(failures - 1, 0))
        try:
            _check(part.path, resource)
        except DataError:
            part.path.unlink()  # resuming wrong bytes would never make them right
            raise
        finally:
            part.validator.unlink(missing_ok=True)
        part.path.replace(target)
    return target


class _Part:
    """What has arrived of a file, and what tells whether the server's file is still the same one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.validator = path.with_name(f"{path.name}.validator")

    @property
    def length(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0


def _fetch(resource: Resource, part: _Part, timeout: float) -> None:
    """Bring `part` to its full length, going on from what it holds where that is safe."""
    have, headers = part.length, {"Accept-Encoding": "identity", "User-Agent": "uss-bench"}
    kept = part.validator.read_text(encoding="latin-1") if part.validator.is_file() else ""
    if not (kept or resource.sha256) or (resource.size is not None and have > resource.size):
        have = 0
    if have and have == resource.size:
        return
    if have:
        headers["Range"] = f"bytes={have}-"
        headers |= {"If-Range": kept} if kept else {}
    request = urllib.request.Request(resource.url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            _receive(resource, part, response, have)
    except urllib.error.HTTPError as error:
        error.close()
        answered = f"the server answered {error.code} {error.reason}"
        if error.code == 416:  # it has fewer bytes than were received
            part.path.unlink(missing_ok=True)
        if error.code in (408, 416, 425, 429) or error.code >= 500:
            raise _BrokenOff(answered) from None
        raise DataError(
            f"{resource.url} could not be downloaded: {answered}.",
            hint="It may have moved. Put the file there by other means, or see the dataset's own site.",
        ) from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
            raise DataError(f"{part.path} cannot be written: {error.strerror}.") from None
        raise _BrokenOff(str(getattr(error, "reason", None) or error or type(error).__name__)) from None


def _receive(resource: Resource, part: _Part, response: Any, have: int) -> None:
    headers, folder = response.headers, part.path.parent
    start = have if headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
    if response.status == 206 and not start:
        part.path.unlink(missing_ok=True)
        raise _BrokenOff("the server sent other bytes than were asked for")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise DataError(f"{resource.url} comes in another encoding than was asked for.")
    length = headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else resource.size
    if total is None:
        raise DataError(
            f"{resource.url} does not say how long it is, so that nothing could tell when it is whole.",
            hint="Download it by other means.",
        )
    if resource.size not in (None, total):
        raise _other_file(resource, f"announces {total:,} bytes; {resource.name} has {resource.size:,}")
    block: bytes = response.read(min(_BLOCK, total - start))
    if start == 0 and (headers.get_content_type() == "text/html" or _HTML.match(block)):
        raise DataError(
            f"{resource.url} answers with a web page instead of {resource.name}.",
            hint="Open the address in a browser: it may ask to log in or to confirm, or the file is gone.",
        )
    free = shutil.disk_usage(folder).free
    if total - start > free:
        raise DataError(f"{folder} has {free:,} bytes free; {resource.name} needs {total - start:,} more.")
    tag = headers.get("ETag", "")  # a weak one does not tell whether bytes are the same
    kept = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    part.validator.write_text(kept, encoding="latin-1")
    with (
        part.path.open("ab" if start else "wb") as stream,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=resource.name, disable=None) as bar,
    ):
        done = start
        while block:
            stream.write(block)
            done += len(block)
            bar.update(len(block))
            block = response.read(min(_BLOCK, total - done))
    if response.read(1):
        raise _other_file(resource, f"sends more than the {total:,} bytes of {resource.name}")
    if done < total:
        raise _BrokenOff(f"{done:,} of {total:,} bytes came")


def _other_file(resource: Resource, problem: str) -> DataError:
    return DataError(
        f"{resource.url} {problem}.", hint="It is another file than the published one, or an error page."
    )


def _check(path: Path, resource: Resource) -> None:
    size = path.stat().st_size
    if resource.size not in (None, size):
        raise DataError(
            f"{path} has {size:,} bytes instead of {resource.size:,}.", hint="Remove it and run it again."
        )
    digest = digest_file(path) if resource.sha256 else ""
    if not digest.startswith(resource.sha256):
        raise DataError(
            f"{path} is not the published {resource.name}: its sha256 is {digest} instead of "
            f"{resource.sha256}{'…' if len(resource.sha256) < 64 else ''}.",
            hint="Remove it if it is still there, and download it again.",
        )
