"""Whether what lies in the cache is what was written."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.cache import Contents, Part, shards_of, size
from uss_bench.shards import crc32


@dataclass(frozen=True)
class Fault:
    """A file that is not what was written."""

    path: Path
    what: str


def verify(contents: Contents, advance: Callable[[int], Any] = lambda count: None) -> Iterator[Fault]:
    """Read every finished file and yield those whose size, checksum or form is not what was written.

    What an interrupted extraction left is no fault: it does not count as written.

    Args:
        advance: is told the bytes of every part that was read.
    """
    for part in contents.parts:
        if part.kind == "features":
            yield from _faulty_shards(part)
        elif part.kind in _FAULT_OF and (what := _FAULT_OF[part.kind](part.path)):
            yield Fault(part.path, what)
        advance(part.bytes)


def _faulty_shards(part: Part) -> Iterator[Fault]:
    layout, facet = shards_of(part.path, part.files[0]), part.path.name
    for shard in range(layout.count):
        sidecar, path = layout.sidecar(facet, shard), layout.path(facet, shard)
        try:
            if sidecar is None:
                if layout.sidecar_path(facet, shard).is_file():
                    yield Fault(layout.sidecar_path(facet, shard), "it does not say what a shard holds")
            elif not path.is_file():
                yield Fault(path, "it is missing")
            elif size(path) != sidecar.bytes:
                yield Fault(path, f"it has {size(path):,} bytes instead of {sidecar.bytes:,}")
            elif (found := crc32(path)) != sidecar.crc32:
                yield Fault(path, f"its checksum is {found:08x} instead of {sidecar.crc32:08x}")
        except OSError as error:
            yield Fault(path, f"it cannot be read: {error.strerror}")


def _fault_of_npz(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as file:
            wrong = file.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        return f"it cannot be read: {error}"
    return f"the checksum of its array {wrong.removesuffix('.npy')} is wrong" if wrong else ""


def _fault_of_digests(path: Path) -> str:
    try:
        msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[int, int, str]])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"it does not hold digests: {error}"
    return ""


_FAULT_OF = {"derived": _fault_of_npz, "digests": _fault_of_digests}
