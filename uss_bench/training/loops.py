"""Training loops: their names, by which a run that goes on finds its snapshots, and what they keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType

from uss_bench.contracts import Kept
from uss_bench.errors import ContractError


@dataclass
class Loop:
    """A loop that goes on."""

    name: str
    """``2`` for the third loop of a run, ``2.7.0`` for the first one within its step 7."""
    step: int = 0
    inner: int = 0
    """Loops that were begun within the present step."""


class Bindings:
    """The variables and attributes under which a method holds what a loop keeps.

    A loop saves the objects that it was given. Where a method binds a name to another object in a step
    (``prototypes = prototypes + 1``), the snapshot would hold the old one, and a run that goes on would
    silently be another run. That can be seen from the frame that runs the loop, for local variables and
    attributes of ``self`` of the same names, and is an error.

    Args:
        keep: what the loop keeps.
        frame: of the method when the loop begins.
    """

    def __init__(self, keep: Mapping[str, Kept], frame: FrameType) -> None:
        local = frame.f_locals
        self._code = frame.f_code
        self._variables = {name: one for name, one in keep.items() if local.get(name) is one}
        method = local.get("self")
        self._attributes = {name: one for name, one in keep.items() if _attribute(method, name) is one}

    def check(self, step: int, frame: FrameType) -> None:
        """Hold the present variables against those at the beginning, if the same function runs the loop.

        Raises:
            ContractError: when one was bound to another object.
        """
        if frame.f_code is not self._code:
            return
        local = frame.f_locals
        for name, one in self._variables.items():
            if name in local and local[name] is not one:
                raise _rebound(name, step)
        method = local.get("self")
        for name, one in self._attributes.items():
            if method is not None and _attribute(method, name) is not one:
                raise _rebound(f"self.{name}", step)


def _attribute(method: object, name: str) -> object:
    return getattr(method, "__dict__", {}).get(name)


def _rebound(name: str, step: int) -> ContractError:
    return ContractError(
        f"'{name}' was bound to another object in step {step} of a loop that keeps it, so that its state "
        "cannot be saved.",
        hint="Change it in place: tensor.copy_(...), module.load_state_dict(...).",
    )
