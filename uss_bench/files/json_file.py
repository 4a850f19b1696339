"""JSON that a file holds, checked against a type, with an error that names the file and the wrong key."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TypeVar

import msgspec

from uss_bench.errors import DataError

JSON_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON from elsewhere raises; the last for brackets nested by the thousand."""

T = TypeVar("T")


def read_json(path: Path, content: type[T], noun: str) -> T:
    """Read a file that holds one `content`, as JSON.

    Args:
        noun: what the file is to a user, as in "The record … cannot be read".

    Raises:
        DataError: when it is missing or malformed, naming the wrong key by its path.
    """
    try:
        found = path.read_bytes()
    except OSError as error:
        raise DataError(f"The {noun} {path} cannot be read: {error.strerror}.") from None
    return parse_json(found, content, path, noun)


def parse_json(found: bytes, content: type[T], source: Path, noun: str, hint: str | None = None) -> T:
    """Return the `content` that the bytes of a file hold; see `read_json`."""
    try:
        return msgspec.json.decode(found.removeprefix(codecs.BOM_UTF8), type=content)
    except JSON_ERRORS as error:
        raise DataError(f"{source} is not a {noun}: {error}.", hint=hint) from None


def try_read_json(path: Path, content: type[T]) -> T | None:
    """Read a file that holds one `content`, as JSON; None when it is missing or malformed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=content)
    except (OSError, *JSON_ERRORS):
        return None
