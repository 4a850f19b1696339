"""Where uss-bench keeps what it can make again, and how it writes files."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
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
    """Write a file so that it is there whole or not at all, also when the disk fills or power fails.

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
    try:
        _write_all(files)
    except BaseException:
        for path, _ in files if fcntl is not None else ():
            with contextlib.suppress(OSError):  # Ctrl-C may come before the name of a new file is noted
                _sweep(_partial(Path(path)))
        raise


def _write_all(files: Sequence[tuple[Path, bytes]]) -> None:
    with contextlib.ExitStack() as open_until_named:
        partials: list[Path] = []
        try:
            for path, content in files:
                descriptor, partial = _claim(Path(path), open_until_named)
                partials.append(partial)
                _fill(descriptor, content)
            if len(files) > 1:
                Path(files[-1][0]).unlink(missing_ok=True)
            for path, _ in files:
                partials[0].replace(path)
                del partials[0]  # from here on the name may be another process's
        except BaseException:
            for partial in partials:
                with contextlib.suppress(OSError):
                    partial.unlink()
            raise


def not_written(path: Path, error: OSError) -> DataError:
    """Return the error that says why a file could not be written."""
    return DataError(
        f"{path} cannot be written: {error.strerror}.",
        hint="Free some space or choose another folder; what was written before is whole.",
    )


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _claim(path: Path, open_until_named: contextlib.ExitStack) -> tuple[int, Path]:
    """Open an empty temporary file beside `path`, which no other process writes while it is open.

    Its name is the same every time, so that what a killed process has left is overwritten and not kept
    for ever; a lock, which ends with its process, keeps the living apart.
    """
    partial = _partial(path)
    while fcntl is not None:
        try:
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:
            break  # somebody else's: the folder tells whether there may be another
        open_until_named.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, partial):
                os.ftruncate(descriptor, 0)
                return descriptor, partial
        except OSError:  # no locks on this file system
            break
        # Whoever had it before has renamed or removed it.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    open_until_named.callback(os.close, descriptor)
    return descriptor, partial


def _sweep(partial: Path) -> None:
    """Remove a temporary file that no process writes."""
    descriptor = os.open(partial, os.O_RDWR | os.O_CLOEXEC)
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
