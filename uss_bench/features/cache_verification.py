"""Whether what lies in the cache is what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.data.fingerprints import DigestNotes
from uss_bench.data.split_check import CHECKS, SplitReport
from uss_bench.features.artifacts import damaged_arrays
from uss_bench.features.cache import Contents, Part, shards_of
from uss_bench.features.shards import fault_of
from uss_bench.files.status import Values
from uss_bench.results.states import damaged_files


@dataclass(frozen=True)
class Fault:
    """A file that is not what was written."""

    path: Path
    what: str


def verify(contents: Contents, advance: Callable[[int], Any] = lambda count: None) -> Iterator[Fault]:
    """Read every finished file and yield those whose size, checksum or form is not what was written.

    Leftovers of an interrupted extraction are not faults: they do not count as written.

    Args:
        advance: is called with the bytes of every part that was read.
    """
    for part in contents.parts:
        if part.kind == "features":
            yield from _faulty_shards(part)
        elif part.kind == "derived":
            yield from (Fault(path, what) for path, what in damaged_arrays(part.path))
        elif part.kind == "state":
            yield from (Fault(path, what) for path, what in damaged_files(part.path))
        elif part.kind == "digests" and (what := _fault_of_digests(part.path)):
            yield Fault(part.path, what)
        advance(part.bytes)


def _faulty_shards(part: Part) -> Iterator[Fault]:
    layout, facet = shards_of(part.path, part.files[0]), part.path.name
    for shard in range(layout.count):
        sidecar, path = layout.sidecar(facet, shard), layout.path(facet, shard)
        if sidecar is None:
            if layout.sidecar_path(facet, shard).is_file():
                yield Fault(layout.sidecar_path(facet, shard), "it does not say what a shard holds")
        elif what := fault_of(path, sidecar.bytes, sidecar.crc32):
            yield Fault(path, what)


def _fault_of_digests(path: Path) -> str:
    try:
        kind: Any = SplitReport if path.parent.name == CHECKS else DigestNotes | Values
        msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"it does not hold what it should: {error}"
    return ""
