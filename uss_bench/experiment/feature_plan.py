"""Plans of ``uss-bench features``: what to measure, in tables whose keys are the command's options.

::

    [defaults]
    seeds = 3
    set = { probe_steps = 300 }

    [[features]]
    backbone = ["patchstats", "tinyvit"]
    dataset = "toy27"

Relative paths are taken from the folder that one is in, as on the command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch

from uss_bench.errors import UsageError
from uss_bench.experiment.backbone_features import measure_backbones
from uss_bench.experiment.cells import CellSpec, Count, Seed
from uss_bench.experiment.plan_file import Names
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import decode_toml
from uss_bench.results.feature_record import FeatureRecord, FeatureSettings


class FeatureTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Backbones that are measured on one data set."""

    backbone: Names | None = None
    dataset: str | None = None
    root: str | None = None
    classes: str | None = None
    data: dict[str, Any] = {}
    weights: str | None = None
    backbone_name: str | None = None
    protocol: str | None = None
    training: dict[str, Any] = {}
    limit: Count | None = None
    blocks: list[int] | None = None
    """Blocks whose tokens are measured; an empty list for all."""
    settings: dict[str, Any] = msgspec.field(default_factory=dict, name="set")
    """By the names of `FeatureSettings`."""
    seeds: Count | None = None
    seed: Seed | None = None
    note: Names = []

    def over(self, defaults: FeatureTable) -> FeatureTable:
        """Return this table with what it leaves out taken from another; dictionaries key by key."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        for name, value in values.items():
            usual = getattr(defaults, name)
            if isinstance(value, dict):
                values[name] = {**usual, **value}
            elif value is None or value == []:
                values[name] = usual if name != "blocks" or value is None else value
        return FeatureTable(**values)

    def asked(self) -> tuple[CellSpec, FeatureSettings]:
        """Return what `measure_backbones` takes.

        Raises:
            UsageError: when it names no data set, weights of several backbones, or a wrong setting.
        """
        if self.dataset is None or not self.backbones:
            raise UsageError("It does not say which backbone is measured on which dataset.")
        if (self.weights or self.backbone_name) and len(self.backbones) != 1:
            raise UsageError("Weights belong to one backbone, and it names several.")
        places = {"root": self.root, "classes": self.classes}
        try:
            settings = msgspec.convert(self.settings, FeatureSettings)
        except msgspec.ValidationError as error:
            raise UsageError(f"set: {error}.") from None
        cell = CellSpec(
            method="dino",
            dataset=self.dataset,
            data={**self.data, **{name: value for name, value in places.items() if value is not None}},
            weights=self.weights,
            backbone_name=self.backbone_name,
            protocol=self.protocol,
            training=self.training,
            limit=self.limit,
            notes=[self.note] if isinstance(self.note, str) else self.note,
        )
        return cell, settings

    @property
    def backbones(self) -> list[str]:
        return [self.backbone] if isinstance(self.backbone, str) else list(self.backbone or [])


class FeaturePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a plan says."""

    features: Annotated[list[FeatureTable], msgspec.Meta(min_length=1)]
    defaults: FeatureTable = FeatureTable()


def measure_plan(
    path: Path, registry: Registry, *, device: torch.device, out: Path, force: bool = False
) -> Iterator[tuple[Path, FeatureRecord]]:
    """Yield the record of everything that a plan names, and where it lies; measured where there is none.

    Raises:
        DataError: when the plan is missing or malformed, or data or weights are.
        UsageError: when it names what does not exist, with the table's path.
    """
    plan: FeaturePlan = decode_toml(path, FeaturePlan)
    tables = [table.over(plan.defaults) for table in plan.features]
    found = [_asked(table, f"{path}, at `$.features[{index}]`") for index, table in enumerate(tables)]
    for table, (asked, settings) in zip(tables, found, strict=True):
        seeds = range(table.seed or 0, (table.seed or 0) + (table.seeds or 1))
        yield from measure_backbones(
            asked,
            table.backbones,
            settings,
            registry,
            blocks=table.blocks,
            seeds=seeds,
            device=device,
            out=out,
            command=f"uss-bench features --plan {path}",
            force=force,
        )


def _asked(table: FeatureTable, place: str) -> tuple[CellSpec, FeatureSettings]:
    try:
        return table.asked()
    except UsageError as error:
        raise UsageError(f"{place}: {error.what}", hint=error.hint) from None
