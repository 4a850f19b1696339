"""A record's trained method on the data that it was made from, ready to predict again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from uss_bench import progress
from uss_bench.collection import Entry
from uss_bench.contracts import Method
from uss_bench.errors import DataError, blame
from uss_bench.record_files import read_state
from uss_bench.registry import Registry
from uss_bench.setup import Request, Setup, resolve


@dataclass(frozen=True)
class Trained:
    setup: Setup
    method: Method


def restore(
    entry: Entry,
    registry: Registry,
    *,
    dataset: str,
    options: Mapping[str, Any],
    backbone: str | None = None,
    weights: Path | None = None,
    device: torch.device,
) -> Trained:
    """Restore the method of a record from the state beside it.

    Args:
        dataset, options: the adapter and its options, which a record does not keep.
        backbone: where the name in the record alone does not lead to it.

    Raises:
        UsageError: for a wrong name or option.
        DataError: when state, data or weights are missing or not those of the record.
    """
    cell = entry.record.cell
    content = read_state(entry.path, entry.record)
    setup = resolve(
        Request(
            method=cell.method.name,
            dataset=dataset,
            dataset_options=options,
            backbone=None if cell.backbone.name == "none" else backbone or cell.backbone.name,
            weights=None if cell.backbone.name == "none" else weights,
            protocol=cell.protocol,
            params=cell.method.params,
            limit=cell.dataset.limit,
        ),
        registry,
    )
    if setup.fingerprint != cell.dataset.fingerprint:
        raise DataError(
            f"These are not the images and labels that {entry.path} was made from.",
            hint="Give the same --dataset, --root, --classes and --data as in its command (uss-bench show).",
        )
    if setup.backbone.sha256 != cell.backbone.sha256:
        raise DataError(
            f"These are not the weights of {entry.path}: it was made with {cell.backbone.name} "
            f"{cell.backbone.sha256[:12]}, this is {setup.backbone.name} {setup.backbone.sha256[:12]}.",
            hint="Give the same --backbone and --weights as in its command (uss-bench show).",
        )
    if setup.code != cell.method.code:
        progress.log(f"The code of '{cell.method.name}' has changed since {entry.path} was made.")
    with blame(f"Method '{cell.method.name}'", "loading its state"):
        method = setup.make_method()
        method.load_state_dict({name: value.to(device) for name, value in load(content).items()})
    return Trained(setup, method)
