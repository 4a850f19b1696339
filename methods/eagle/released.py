"""States of the official checkpoints: Lightning files of github.com/MICV-yonsei/EAGLE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from uss_bench.nn.released import head_and_probe, require


def state(
    weights: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the parameters that the checkpoint decides, and the state of `eagle.Net`."""
    require(options, arch="dino", projection_type="nonlinear", continuous=True)
    return head_and_probe(weights, "state_dict.net.", "state_dict.cluster_probe.clusters")
