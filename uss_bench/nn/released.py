"""Reading official checkpoints into the state of a method, or refusing them with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from uss_bench.errors import DataError

HEAD = {
    "linear.weight": "cluster1.0.weight",
    "linear.bias": "cluster1.0.bias",
    "nonlinear.0.weight": "cluster2.0.weight",
    "nonlinear.0.bias": "cluster2.0.bias",
    "nonlinear.2.weight": "cluster2.2.weight",
    "nonlinear.2.bias": "cluster2.2.bias",
}
"""The lineage's head: names in `Projector`, and in STEGO's code and its descendants'."""


def head(ours: str, theirs: str) -> dict[str, str]:
    """Return the names of a head's tensors in a method's state, and in a checkpoint."""
    return {f"{ours}{name}": f"{theirs}{other}" for name, other in HEAD.items()}


def head_and_probe(
    weights: Mapping[str, Tensor], net: str, clusters: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return parameters and state of STEGO and of who kept its head and its cluster probe.

    The state holds ``head.``, ``centroids`` and a standardizer that leaves features as they are.

    Args:
        net: what the head's names begin with in the checkpoint.
        clusters: the name of the probe's centroids.
    """
    found = renamed(weights, {"centroids": clusters, **head("head.", net)})
    number, dim = found["centroids"].shape
    channels = found["head.linear.weight"].shape[1]
    return {"clusters": number, "dim": dim, "standardize": False}, found | not_standardized(channels)


def renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return tensors, float32, under a method's own names.

    Args:
        weights: a checkpoint's, by its names.
        names: what each is called in the checkpoint.

    Raises:
        DataError: naming the first that is missing.
    """
    missing = [theirs for theirs in names.values() if theirs not in weights]
    if missing:
        raise DataError(
            f"It has no '{missing[0]}', which the official code saves.",
            hint="Was it made by another version of the code, or with another head?",
        )
    return {ours: weights[theirs].float() for ours, theirs in names.items()}


def not_standardized(channels: int) -> dict[str, Tensor]:
    """Return the state of a `uss_bench.nn.standardizer.Standardizer` that leaves features as they are."""
    return {"standardizer.mean": torch.zeros(channels), "standardizer.deviation": torch.ones(channels)}


def require(options: Mapping[str, Any], **values: object) -> None:
    """Refuse a checkpoint whose options are known to be others than a method reproduces.

    Args:
        options: those that the checkpoint keeps, in whatever table.
        values: the value that each must have, where it is stated.
    """
    for name, value in values.items():
        found = _find(options, name)
        if found is not None and found != value:
            raise DataError(
                f"It was trained with {name} = {found}, and only {name} = {value} can be taken over."
            )


def _find(options: Any, name: str) -> Any:
    if not isinstance(options, Mapping):
        return None
    if options.get(name) is not None:
        return options[name]
    return next((found for one in options.values() if (found := _find(one, name)) is not None), None)
