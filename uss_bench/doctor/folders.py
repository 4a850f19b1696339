"""Whether the folders that a run writes to can be written, locked and filled."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from uss_bench.doctor.finding import DoctorFinding, State
from uss_bench.runtime.formatting import byte_size

_ROOM = 10**9
"""Bytes below which a disk is said to be nearly full."""
_TIGHT = 50 * 10**6
"""Bytes below which a record and its state may not fit."""


def check_folders(out: Path) -> Iterator[DoctorFinding]:
    """Write, rename and lock a file in cache, results and temporary folder, and see what room is left."""
    from uss_bench.files.atomic import CACHE_VARIABLE, cache_root

    yield _folder(
        "cache",
        cache_root(),
        unwritable=("note", f"Features are streamed in every run: set {CACHE_VARIABLE} to another folder."),
        full="Features that do not fit are streamed: uss-bench cache prune, or another disk.",
    )
    yield _folder(
        "results",
        out,
        unwritable=("problem", "Choose another folder: --out DIR."),
        full="Choose another disk with --out, or make room.",
    )
    yield from _closed_folders(out)
    chosen = os.environ.get("TMPDIR")
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        yield DoctorFinding("TMPDIR", "problem", str(error), "Set TMPDIR to a folder that can be written.")
        return
    if chosen and Path(chosen).absolute() != temporary.absolute():
        advice = "Set TMPDIR to a folder that can be written."
        yield DoctorFinding("TMPDIR", "note", f"{chosen} cannot be used; {temporary} is", advice)
    yield _folder(
        "temporary",
        temporary,
        unwritable=("problem", "Set TMPDIR to a folder that can be written."),
        full="What methods keep while they run lies there: set TMPDIR to a folder on a larger disk.",
    )


def _folder(name: str, folder: Path, *, unwritable: tuple[State, str], full: str) -> DoctorFinding:
    """Write a file where `folder` is, or where it would be made; leave nothing."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".uss-bench-doctor-") as made:
            _write_and_rename(Path(made))
            free = shutil.disk_usage(there).free
            fault = _fault_of_locks(Path(made))
    except OSError as error:
        return DoctorFinding(
            name, unwritable[0], f"{folder} cannot be written: {error.strerror}", unwritable[1]
        )
    if fault:
        advice = "Put it on another file system: two processes could do the same work without noticing."
        return DoctorFinding(name, "problem", f"files in {folder} cannot be locked: {fault}", advice)
    found = f"{folder}, {byte_size(free)} free"
    if free < _ROOM:
        return DoctorFinding(name, unwritable[0] if free < _TIGHT else "note", found, full)
    return DoctorFinding(name, "ok", found)


def _write_and_rename(folder: Path) -> None:
    with (folder / "partial").open("wb") as file:
        file.write(b"uss-bench")
        file.flush()
        os.fsync(file.fileno())
    (folder / "partial").replace(folder / "whole")


def _fault_of_locks(folder: Path) -> str:
    """Lock a file twice; return what is wrong if the first attempt fails or the second succeeds."""
    import filelock

    first, second = (filelock.FileLock(folder / "lock", is_singleton=False) for _ in range(2))
    try:
        with first.acquire(timeout=0):
            try:
                second.acquire(timeout=0)
            except filelock.Timeout:
                return ""
            second.release()
            return "two processes would hold the same lock"
    except (OSError, NotImplementedError) as error:
        return getattr(error, "strerror", None) or str(error)


def _closed_folders(out: Path) -> Iterator[DoctorFinding]:
    """Name the datasets' folders in the results folder that others made and closed."""
    try:
        closed = [one.name for one in sorted(out.iterdir()) if one.is_dir() and not os.access(one, os.W_OK)]
    except OSError:
        return  # it is not there, or told of above
    if closed:
        found = f"{', '.join(closed)} in {out} cannot be written, though {out} can"
        yield DoctorFinding("results, inside", "problem", found, f"Ask their owner, or: chmod -R u+w {out}")
