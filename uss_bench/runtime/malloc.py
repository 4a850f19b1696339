"""Memory that training frees and wants again at once.

The C library of most Linux systems hands every block above 32 MB back to the system when it is freed, and the
system fills it with zeros, page by page, when the next step asks for it again. On a CPU half of a training
step on cached features goes there (docs/performance.md). Numbers are not touched, to the last bit.
"""

from __future__ import annotations

import ctypes
import functools
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_LARGEST = 2**31 - 1


@functools.cache
def disable_malloc_trim() -> bool:
    """Let this process keep the memory that it frees; return whether its C library, glibc, can do that.

    The process holds as much as it ever needed at one time until it ends, so this is for processes that
    train. Another library, as on macOS or Alpine Linux, is left as it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    kept: int = library.mallopt(_M_MMAP_MAX, 0)
    untrimmed: int = library.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    return bool(kept and untrimmed)
