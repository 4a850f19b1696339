"""Watching code at work: what torch computes, the files that are opened, and the lines that run."""

from __future__ import annotations

import contextlib
import linecache
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HALF = (torch.float16, torch.bfloat16)


class Operations(TorchDispatchMode):
    """Notes what torch computes while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.random: set[str] = set()
        self.statistics: set[str] = set()
        """Batch normalizations that used the statistics of their batch."""
        self.halves: set[str] = set()
        """Types of half precision that occurred."""
        self.read: set[int] = set()
        """Addresses of all memory that was read."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # Fused attention has the tag for its dropout, which may be 0.
        if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in name:
            self.random.add(name)
        if "batch_norm" in name and ("with_update" in name or True in args[5:6]):
            self.statistics.add(name)
        self.read.update(address(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor))
        result = func(*args, **(kwargs or {}))
        made = (one.dtype for one in tree_leaves(result) if isinstance(one, Tensor))
        self.halves.update(str(dtype).removeprefix("torch.") for dtype in made if dtype in HALF)
        return result

    def cause(self) -> str:
        """Name what can make one prediction differ from another; '' when nothing was seen."""
        causes = [
            f"random numbers are drawn ({', '.join(sorted(self.random))})" * bool(self.random),
            "a batch norm uses the statistics of its batch" * bool(self.statistics),
            f"it computes in {', '.join(sorted(self.halves))}" * bool(self.halves),
        ]
        return "; ".join(filter(None, causes))


def address(tensor: Tensor) -> int:
    """Return where a tensor's memory begins, which tells whether two tensors share it."""
    return tensor.untyped_storage().data_ptr()


@contextlib.contextmanager
def lines_passed_over(folder: Path, loops: Collection[tuple[CodeType, int]]) -> Iterator[list[str]]:
    """Collect the lines that did not run, from the first loop on, in functions of `folder` that have one.

    They read ``file.py:12``. A phase that comes late and did not come is among them; errors that were not
    raised are not. Under a debugger nothing is collected.

    Args:
        loops: (function, line) of every loop; it may be filled while this is active.
    """
    ran: dict[CodeType, set[int]] = {}
    found: list[str] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(str(folder)):
            return None
        ran.setdefault(frame.f_code, set()).add(frame.f_lineno)
        return trace

    free = sys.gettrace() is None
    if free:
        sys.settrace(trace)
    try:
        yield found
    finally:
        if free:
            sys.settrace(None)
    for code in {code: None for code, _ in loops if code in ran}:
        first = min(line for function, line in loops if function is code)
        for line in sorted({line for *_, line in code.co_lines() if line and line > first} - ran[code]):
            if not linecache.getline(code.co_filename, line).lstrip().startswith("raise"):
                found.append(f"{Path(code.co_filename).name}:{line}")
