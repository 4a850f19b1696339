"""States of the official checkpoints: Lightning files of github.com/mc-lan/SmooSeg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from uss_bench.nn.released import head, not_standardized, renamed, require

NAMES = {
    "student": "state_dict.prediction.local_clusters",
    "teacher": "state_dict.prediction.global_clusters",
    **head("projector.", "state_dict.projection."),
}


def state(
    weights: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the parameters that the checkpoint decides, and the state of `MeanTeacherNet`."""
    require(options, dino_feat_type="feat", projection_type="nonlinear")
    found = renamed(weights, NAMES)
    clusters, dim = found["teacher"].shape
    parameters = {"clusters": clusters, "dim": dim, "standardize": False}
    return parameters, found | not_standardized(found["projector.linear.weight"].shape[1])
