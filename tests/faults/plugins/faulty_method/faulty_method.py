"""A method that is sound, and goes wrong where and as ``FAULT=<place>:<kind>`` says."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images


def go_wrong(place: str, value: Any = None) -> Any:
    """Return `value`, or what the fault makes of it."""
    where, _, kind = os.environ.get("FAULT", "").partition(":")
    if where != place:
        return value
    match kind:
        case "raises":
            raise RuntimeError("the dog ate the gradients")
        case "raises by the megabyte":
            raise RuntimeError("x" * 5_000_000)
        case "recurses":
            return go_wrong(place, value)
        case "runs out of memory":
            raise MemoryError
        case "exits":
            sys.exit(0)
        case "exits with a message":
            sys.exit("goodbye")
        case "ends the process":
            os._exit(7)
        case "hangs":
            time.sleep(3600)
        case "prints megabytes":
            for _ in range(20):
                print("y" * 1_000_000)
                print("z" * 1_000_000, file=sys.stderr)
        case "is NaN":
            return value * float("nan")
        case "is infinite":
            return value / 0.0
        case "is of another shape":
            return value[..., 1:]
        case "lacks a dimension":
            return value[0]
        case "is of integers":
            return value.long()
        case "is empty":
            return value[:, :0]
        case "is nothing":
            return None
        case "is NumPy's":
            return value.detach().numpy()
        case _:
            raise AssertionError(f"there is no fault '{kind}'")
    return value


@dataclass(kw_only=True)
class FaultyMethod:
    clusters: int = 2
    steps: int = 4

    def __post_init__(self) -> None:
        go_wrong("constructor")
        self.threshold = torch.zeros(1)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        for step in ctx.steps(self.steps, threshold=self.threshold):
            self.threshold += 0.1 * features[step % len(features)]["tokens"].mean()
            go_wrong("train")
            ctx.report(step, loss=go_wrong("loss", self.threshold.sum().abs()))
            if step % 2 == 0:
                ctx.checkpoint(step)

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = go_wrong("embed", batch["image"].mean(dim=1, keepdim=True))
        return code

    def classify(self, code: Tensor) -> Tensor:
        logits = torch.cat([code * k for k in range(self.clusters)], dim=1)
        wrong: Tensor = go_wrong("classify", logits)
        return wrong

    def state_dict(self) -> dict[str, Tensor]:
        return {"threshold": go_wrong("state_dict", self.threshold)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        go_wrong("load_state_dict")
        self.threshold = state["threshold"]
