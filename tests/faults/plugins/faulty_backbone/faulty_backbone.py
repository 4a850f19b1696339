"""A backbone that is sound, and goes wrong in its second call as ``FAULT=backbone:<kind>`` says."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from uss_bench.contracts import BackboneInfo
from uss_bench.plugins.specs import BackboneSpec


class FaultyBackbone:
    name = "faulty-backbone"
    patch = 8
    sha256 = "0" * 64

    def __init__(self, spec: BackboneSpec, *, positions: str = "dino") -> None:
        self.info = BackboneInfo(name=self.name, patch=self.patch, dim=24)

    def to(self, device: torch.device) -> FaultyBackbone:
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Any]:
        tokens = torch.nn.functional.avg_pool2d(images, self.patch).repeat(1, 8, 1, 1)
        where, _, kind = os.environ.get("FAULT", "").partition(":")
        if where != "backbone":
            return {"tokens": tokens}
        match kind:
            case "raises":
                raise RuntimeError("the dog ate the weights")
            case "exits":
                sys.exit(0)
            case "runs out of memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            case "is NaN":
                return {"tokens": tokens * float("nan")}
            case "has other channels":
                return {"tokens": tokens[:, 1:]}
            case "has another grid":
                return {"tokens": tokens[..., 1:]}
            case "lacks an image":
                return {"tokens": tokens[:-1]}
            case "is of integers":
                return {"tokens": (255 * tokens).long()}
            case "is NumPy's":
                return {"tokens": tokens.numpy()}
            case "lacks the facet":
                return {}
            case "is nothing":
                return None  # type: ignore[return-value]
        raise AssertionError(f"there is no fault '{kind}'")
