"""How this package compiles: one place for the options, so that every loop has the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile `function` with numba on its first call: without the GIL, cached on disk where possible.

    `fastmath` stays off: reordered sums would move points between lattice cells, and results between
    machines.
    """
    try:
        return cast(F, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # no folder to cache in can be written: compile once per process instead
        return cast(F, numba.njit(nogil=True)(function))
