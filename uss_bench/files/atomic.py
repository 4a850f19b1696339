"""Where uss-bench keeps what it can make again, and how it writes files."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import platformdirs

from uss_bench.errors import DataError

try:
    import fcntl
except ImportError:  # not on Windows, where temporary files of killed processes stay
    fcntl = None  # type: ignore[assignment]

CACHE_VARIABLE = "USS_BENCH_CACHE"


def cache_root() -> Path:
    """Return the folder of caches: ``USS_BENCH_CACHE``, or the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("uss-bench"))


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, also when the disk fills or power fails.

    Raises:
        OSError: when the folder is missing or cannot be written; nothing half-written stays.
    """
    write_together([(path, content)])


def write_together(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write files of which the last makes the others valid: either all change, or none does.

    All contents are on disk before the first file is renamed into place, and the last file is away
    while the others change. What a killed process left half-written of the same files is overwritten.

    Raises:
        OSError: when a folder is missing or cannot be written; nothing half-written stays.
    """
    with contextlib.ExitStack() as written:
        partials = [written.enter_context(partial_file(Path(path))) for path, _ in files]
        for (descriptor, _), (_, content) in zip(partials, files, strict=True):
            _fill(descriptor, content)
        if len(files) > 1:
            Path(files[-1][0]).unlink(missing_ok=True)
        for (_, partial), (path, _) in zip(partials, files, strict=True):
            partial.replace(path)


def not_written(path: Path, error: OSError) -> DataError:
    """Return the error that says why a file could not be written."""
    return DataError(
        f"{path} cannot be written: {error.strerror}.",
        hint="Free some space or choose another folder; what was written before is whole.",
    )


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[tuple[int, Path]]:
    """Open an empty file beside `path`, to be filled and renamed to it; else it is removed at the end.

    Its name is the same every time, so that what a killed process has left is overwritten. A lock, which
    ends with its process, keeps other processes away; where there are no locks the name is a new one.

    Yields:
        A descriptor open for writing, and the file's path.
    """
    partial = path.with_name(f".{path.name}.partial")
    unlocked = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with contextlib.ExitStack() as opened:
            yield _claim(partial, unlocked, opened)
    finally:
        with contextlib.suppress(OSError):
            if unlocked.exists():
                unlocked.unlink()
            if fcntl is not None and partial.exists():
                _sweep(partial)


def _claim(partial: Path, unlocked: Path, opened: contextlib.ExitStack) -> tuple[int, Path]:
    while fcntl is not None:
        try:
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            break  # somebody else's: the folder tells whether there may be another
        opened.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, partial):
                os.ftruncate(descriptor, 0)
                return descriptor, partial
        except OSError:  # no locks on this file system: nobody uses the name
            partial.unlink(missing_ok=True)
            break
        # Whoever had it before has renamed or removed it.
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    opened.callback(os.close, descriptor)
    return descriptor, unlocked


def _sweep(partial: Path) -> None:
    """Remove a temporary file that no process writes."""
    descriptor = os.open(partial, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, partial):
            partial.unlink()
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _fill(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
