"""Where uss-bench keeps what it can make again, and how it writes files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "USS_BENCH_CACHE"


def cache_root() -> Path:
    """Return the folder of caches: ``USS_BENCH_CACHE``, or the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("uss-bench"))


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also when the disk fills or power fails.

    Raises:
        OSError: when the folder is missing or cannot be written; nothing half-written stays.
    """
    write_together([(path, content)])


def write_together(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write files of which the last makes the others valid: either all change, or none does.

    All contents are on disk before the first file is renamed into place, and the last file is away
    while the others change.

    Raises:
        OSError: when a folder is missing or cannot be written; nothing half-written stays.
    """
    partials: list[Path] = []
    try:
        for path, content in files:
            partials.append(_write_partial(Path(path), content))
        if len(files) > 1:
            Path(files[-1][0]).unlink(missing_ok=True)
        for partial, (path, _) in zip(partials, files, strict=True):
            partial.replace(path)
    except BaseException:
        for partial in partials:
            with contextlib.suppress(OSError):
                partial.unlink()
        raise


def _write_partial(path: Path, content: bytes) -> Path:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; results are meant to be shared.
        partial.chmod(0o666 & ~_umask())
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    return partial


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
