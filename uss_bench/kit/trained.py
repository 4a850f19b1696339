"""What one training leaves, and how two differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from safetensors.torch import load

from uss_bench.contracts import Method
from uss_bench.kit.observing import Gradient, ObservedContext


@dataclass(frozen=True, slots=True)
class Trained:
    """What one training left."""

    method: Method
    context: ObservedContext
    state: bytes
    """The state as safetensors."""
    offers: list[tuple[int, bytes]]
    """Checkpoints that were offered, as (step, content)."""
    gradients: list[Gradient]
    labels_opened: list[str]
    """Label files that were opened while it trained."""
    lines: list[str]
    """Lines of the method's code that were passed over, where that was asked for."""


def difference(first: Trained, second: Trained) -> str:
    """Name what two trainings left differently; '' when everything is the same, byte for byte."""
    found = []
    if first.state != second.state:
        before, after = load(first.state), load(second.state)
        same = {name for name in before.keys() & after if torch.equal(before[name], after[name])}
        found = [name for name in before | after if name not in same]
    curves, others = first.context.curves, second.context.curves
    found += [f"curve '{name}'" for name in curves | others if curves.get(name) != others.get(name)]
    found += ["its checkpoints"] * (first.offers != second.offers)
    return ", ".join(found[:3]) + f" and {len(found) - 3} more" * (len(found) > 3)
