"""States of the official checkpoints: files of github.com/hynnsk/PPAP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from uss_bench.nn.released import renamed


def state(
    weights: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the parameters that the checkpoint decides, and the state of `ppap.Net`."""
    trained, net = "net_model_state_dict.decoder.", "net_model_state_dict.model."
    names = {
        "centroids": "cluster_model_state_dict.clusters",
        **{f"block.norm.{name}": f"{net}norm.{name}" for name in ("weight", "bias")},
    }
    stems = {
        name.removeprefix(f"{net}blocks.").partition(".")[0] for name in weights if f"{net}blocks." in name
    }
    last = max(map(int, stems), default=0)  # the copy keeps the number of the block that it replaces
    block = {name.removeprefix(trained): name for name in weights if name.startswith(trained)}
    names |= {f"block.blocks.{last}.{ours}": theirs for ours, theirs in block.items()}
    found = renamed(weights, names)
    return {"clusters": len(found["centroids"])}, found
