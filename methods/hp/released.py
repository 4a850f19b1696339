"""States of the official checkpoints: files of github.com/hynnsk/HP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from uss_bench.nn.released import head, head_and_probe, renamed


def state(
    weights: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the parameters that the checkpoint decides, and the state of `hp.Net`."""
    net = "net_model_state_dict."
    parameters, found = head_and_probe(weights, net, "cluster_model_state_dict.clusters")
    average = {ours: theirs.replace("cluster", "ema_model") for ours, theirs in head("averaged.", "").items()}
    return parameters, found | renamed(weights, {ours: f"{net}{name}" for ours, name in average.items()})
