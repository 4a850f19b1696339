"""Whether a record was verified: evaluated again from its trained state, without training.

The result lies beside the record as ``NAME.verified.json``. It states the digest of the record's files, and
holds for these bytes only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.errors import DataError
from uss_bench.files.atomic import atomic_write

SUFFIX = ".verified.json"
TOLERANCE = 0.001
"""Share of the pixels that may be in another cluster: another machine rounds differently."""


class Verification(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an evaluation of a record's state gave."""

    files: str
    """Digest of the record and of its counts."""
    moved: float
    """Share of all scored pixels that are in another cluster."""
    environment: dict[str, Any]
    created: str

    @property
    def holds(self) -> bool:
        """Whether the counts are those of the record, to rounding."""
        return self.moved <= TOLERANCE


def digest_of_files(record: Path) -> str:
    """Return the digest of a record's JSON and of its counts.

    Raises:
        DataError: when one of them cannot be read.
    """
    digest = hashlib.sha256()
    for path in (record, record.with_suffix(".npz")):
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    return digest.hexdigest()


def write_verification(record: Path, found: Verification) -> Path:
    """Write the result beside its record and return its path."""
    path = record.with_suffix(SUFFIX)
    atomic_write(path, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return path


def is_verified(record: Path) -> bool:
    """Whether a result lies beside the record, is of these very files, and holds."""
    try:
        found = msgspec.json.decode(record.with_suffix(SUFFIX).read_bytes(), type=Verification)
        return found.holds and found.files == digest_of_files(record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, DataError):
        return False
