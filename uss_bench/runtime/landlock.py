"""Landlock: a Linux process gives up all files but those that it names, without being root.

The kernel holds the process and its children to it from then on: nothing that they do takes it back. Source:
landlock(7) and the kernel's ``userspace-api/landlock.rst``.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System calls, of the same number on all architectures."""
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SIGKILL = 9

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_READS = _EXECUTE | _READ_FILE | _READ_DIR | _IOCTL_DEV
_WRITES = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
"""Links, sockets and devices are not among them: nobody may make one, wherever it leads."""
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 0b11
"""To bind and to connect."""
_SCOPES = 0b11
"""Abstract Unix sockets and signals of other processes."""


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


@functools.cache
def version() -> int:
    """Return the version of Landlock that the kernel offers; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    found = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    return max(0, int(found))


def restrict(*, read: Iterable[Path], write: Iterable[Path], list_only: Iterable[Path] = ()) -> int:
    """Give up all files but those at or below some paths, and TCP where the kernel knows how.

    It holds for this thread, and for the threads and processes that it starts: call it before there are
    others. A path that does not exist is passed over. Sizes and times of other files can still be asked for.

    Args:
        read: files and folders that may be read and executed.
        write: those that may be read and changed.
        list_only: folders of which only the names in them, and in folders below, may be read.

    Returns:
        The version of Landlock.

    Raises:
        OSError: where there is none, or the kernel refuses.
    """
    known = version()
    if not known:
        raise OSError("this system has no Landlock")
    # Bits 0 to 12 are of the first version; each of three later ones brought one more.
    bits = 13 + (known >= 2) + (known >= 3) + (known >= 5)
    files = (1 << bits) - 1
    rules = _Ruleset(files, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else ctypes.sizeof(rules)
    libc = _libc()
    ruleset = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0))
    try:
        for paths, access in ((read, _READS), (write, _READS | _WRITES), (list_only, _READ_DIR)):
            for path in paths:
                _allow(ruleset, path, access & files)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return known


def end_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends, where the kernel can."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        rule = _PathBeneath(access, descriptor)
        _checked(_libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(descriptor)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
