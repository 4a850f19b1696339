"""Watching a method while it trains: its loops, what it reads and changes, and what its optimizers take."""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from uss_bench.contracts import Kept, Sampler
from uss_bench.training.context import RunContext
from uss_bench.training.loops import Bindings


class Killed(BaseException):
    """Ends training in the middle, as a killed process would."""


@dataclass(slots=True)
class ObservedLoop:
    """One loop over `Context.steps`; all rounds of it, where it lies within another."""

    label: str
    steps: int = 0
    batches: int = 0
    """Steps without another loop in them."""
    images: int = 0
    """Items that were read while it ran, partners of the batch's items included."""
    optimizer_steps: int = 0
    seconds: float = 0.0
    changed: dict[str, None] = field(default_factory=dict)
    """What it changed that is not among what it keeps; found on request only."""


class ObservedContext(RunContext):
    """A context that counts, and may kill.

    Args:
        kill: one of `places`: after that step and before it is kept, `Killed` is raised.
        diagnose: find out what each loop changes without keeping it.
    """

    def __init__(
        self, *, kill: tuple[str, int] | None = None, diagnose: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.loops: dict[tuple[CodeType, int], ObservedLoop] = {}
        """By the function and the line that they begin in."""
        self.places: list[tuple[str, int]] = []
        """(loop, step) of every step, in the order in which they ended."""
        self.running: ObservedLoop | None = None
        self._kill = kill
        self._diagnose = diagnose

    def steps(self, total: int, /, *, label: str = "training", **keep: Kept) -> Iterator[int]:
        return self._observe(total, label, keep, sys._getframe(1))

    def _observe(self, total: int, label: str, keep: Mapping[str, Kept], caller: FrameType) -> Iterator[int]:
        loop = self.loops.setdefault((caller.f_code, caller.f_lineno), ObservedLoop(label))
        bindings = Bindings(keep, caller)  # of the method's frame, which is not the one below
        before = self._variables(caller) if self._diagnose else {}
        outer, start = self.running, time.perf_counter()
        for step in super().steps(total, label=label, **keep):
            loop.steps += 1
            self.running = loop
            try:
                yield step
            finally:
                self.running = outer
                loop.batches += not self._loops[-1].inner
            bindings.check(step, sys._getframe(1))
            self.places.append((self._loops[-1].name, step))
            if self.places[-1] == self._kill:
                raise Killed
        loop.seconds += time.perf_counter() - start
        after = self._variables(caller, keep.values()) if self._diagnose else {}
        loop.changed |= {name: None for name in before if name in after and before[name] != after[name]}

    def features(self, inputs: Sequence[str] = ("tokens",)) -> Any:
        return ObservedItems(super().features(inputs), self)

    def images(self, **geometry: Any) -> Any:
        return ObservedItems(super().images(**geometry), self)

    def where(self) -> str:
        """Return which batch of which loop training is at."""
        return f"batch {self.running.batches + 1} of '{self.running.label}'" if self.running else "its start"

    def _variables(self, caller: FrameType, kept: Iterable[Kept] = ()) -> dict[str, bytes]:
        """Return a digest of each variable of the caller and attribute of the method that is not `kept`."""
        known = {id(part) for one in kept for part in _parts(one)}
        attributes = {f"self.{name}": value for name, value in getattr(self._method, "__dict__", {}).items()}
        variables = {**caller.f_locals, **attributes}
        digests = {name: _digest(value) for name, value in variables.items() if id(value) not in known}
        return {name: digest for name, digest in digests.items() if digest}


class ObservedItems:
    """Whatever has items, read through a context that counts them."""

    def __init__(self, inner: Any, context: ObservedContext) -> None:
        self._inner = inner
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> Any:
        self._count(1)
        return self._inner[index]

    def image(self, index: int) -> np.ndarray:
        self._count(1)
        image: np.ndarray = self._inner.image(index)
        return image

    def batch(self, indices: Sequence[int] | Tensor) -> Any:
        self._count(len(indices))
        return self._inner.batch(indices)

    def batches(self, sampler: Sampler) -> Iterator[tuple[Sequence[int], Any]]:
        for indices, batch in self._inner.batches(sampler):
            self._count(len(indices))
            yield indices, batch

    def _count(self, items: int) -> None:
        if self._context.running:
            self._context.running.images += items


def _parts(value: Any) -> Iterator[object]:
    yield value
    if isinstance(value, nn.Module):
        yield from (*value.modules(), *value.parameters(), *value.buffers())


def _digest(value: Any) -> bytes | None:
    """Return the digest of a value that a loop may change; None for any other."""
    if isinstance(value, torch.Generator):
        value = value.get_state()
    elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        value = value.state_dict()
    elif not isinstance(value, Tensor | np.ndarray | list | dict | set | deque | int | float):
        return None
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
    except Exception:  # what holds a file or a lock cannot be compared, and is not a loop's state
        return None
    return hashlib.sha256(buffer.getvalue()).digest()


@dataclass(frozen=True, slots=True)
class Gradient:
    """The gradient of one parameter when an optimizer took it."""

    where: str
    parameter: Tensor
    digest: bytes


@contextlib.contextmanager
def gradients(context: ObservedContext) -> Iterator[list[Gradient]]:
    """Collect what every optimizer of torch takes, in order."""
    found: list[Gradient] = []

    def look(optimizer: Optimizer, *_: Any) -> None:
        if context.running:
            context.running.optimizer_steps += 1
        for parameter in (one for group in optimizer.param_groups for one in group["params"]):
            if parameter.grad is not None:
                content = parameter.grad.detach().to_dense().cpu().flatten().contiguous().view(torch.uint8)
                digest = hashlib.sha256(content.numpy().tobytes()).digest()
                found.append(Gradient(context.where(), parameter, digest))

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield found
    finally:
        handle.remove()
