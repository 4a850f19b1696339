"""The plan of the golden runs: what is repeated, at which sizes, and how far it may move elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from uss_bench.registry import Registry
from uss_bench.setup import Request
from uss_bench.specs import Name, decode_toml

PLAN = "plan.toml"


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a run may move on another machine than the golden numbers were made on.

    Kernels of another processor or library add in another order, and training carries the last bit of
    a sum to a label here and there. On the same machine nothing may move.
    """

    pixels: float
    """Share of pixels that get another cluster."""
    points: float
    """Percentage points of accuracy and of mIoU."""


class GoldenRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One method of the plan, with parameters that make it short."""

    method: Name
    params: dict[str, Any] = {}
    dataset: str = ""
    """Another dataset than the plan's."""
    backbone: str = ""
    """Another backbone than the plan's."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all runs share, and the runs."""

    dataset: str
    backbone: str
    protocol: str
    limit: Annotated[int, msgspec.Meta(ge=1)]
    seeds: Annotated[list[int], msgspec.Meta(min_length=1)]
    threads: Annotated[int, msgspec.Meta(ge=1)]
    """Threads of torch: sums are added in an order that depends on it."""
    tolerance: Tolerance
    runs: Annotated[list[GoldenRun], msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class Planned:
    """One run of one seed: its name among the golden files, and the request for it."""

    name: str
    seed: int
    request: Request


def read_plan(folder: Path) -> Plan:
    """Read the ``plan.toml`` of a folder.

    Raises:
        DataError: when it is missing or malformed, naming the key.
    """
    plan: Plan = decode_toml(folder / PLAN, Plan)
    return plan


def planned(plan: Plan, registry: Registry) -> Iterator[Planned]:
    """Yield the runs of a plan, method by method, and seed by seed.

    Raises:
        UsageError: when there is no such method.
    """
    for run in plan.runs:
        dataset = run.dataset or plan.dataset
        spec, _ = registry.method(run.method)
        backbone = run.backbone or (plan.backbone if spec.facets else None)
        request = Request(
            method=run.method,
            dataset=dataset,
            backbone=backbone,
            protocol=plan.protocol,
            params=run.params,
            limit=plan.limit,
        )
        for seed in plan.seeds:
            yield Planned(f"{run.method}-{dataset}-s{seed}", seed, request)
