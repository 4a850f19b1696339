"""Measuring features from Python: what ``uss-bench features`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.api.runs import listed
from uss_bench.errors import UsageError
from uss_bench.experiment.backbone_features import measure_backbones
from uss_bench.experiment.cells import CellSpec
from uss_bench.plugins.in_place import find_or_add
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.results.feature_record import FeatureRecord, FeatureSettings
from uss_bench.runtime.device import pick_device

_SETTINGS = FeatureSettings.__struct_fields__


def measure_features(
    backbone: str | Plugin | Sequence[str | Plugin],
    dataset: str,
    *,
    root: str | Path | None = None,
    blocks: Sequence[int] | None = None,
    seeds: int = 1,
    out: str | Path = "results",
    device: str = "auto",
    force: bool = False,
    plugins: Sequence[str | Path] = (),
    **options: Any,
) -> list[FeatureRecord]:
    """Measure the frozen features of backbones; return a record of each backbone, block and seed.

    Examples:
        >>> mine = uss_bench.module_backbone(lambda images: net(images), patch=16, name="mine")
        >>> uss_bench.measure_features([mine, "tinyvit"], "toy27", measures=["kmeans", "retrieval"])

    Args:
        backbone: names, or what `uss_bench.module_backbone` returned.
        dataset: a name, as ``uss-bench ls datasets`` shows it.
        root: where the dataset lies.
        blocks: blocks whose tokens are measured, from 1 or from the end with a minus; [] for all.
        seeds: how many, from 0.
        out: where records go; what has one is read from it.
        device: ``cpu``, ``cuda``, …; ``auto`` is a GPU where there is one.
        force: measure again what has a record.
        plugins: folders of further plugins.
        options: ``measures``, ``clusters``, ``low_shot``, ``pca_dims`` and the other fields of
            `uss_bench.results.feature_record.FeatureSettings`; ``protocol``, ``training``, ``limit``,
            ``data``, ``weights`` and ``backbone_name`` as those of `uss_bench.run`.

    Raises:
        UsageError: for a wrong name or option.
        DataError: when data, weights or a file are missing or wrong.
    """
    registry = Registry(map(Path, plugins))
    names = [find_or_add(one, "backbones", registry) for one in listed(backbone)]
    chosen = {name: options.pop(name) for name in list(options) if name in _SETTINGS}
    if root is not None:
        options["data"] = {**options.get("data", {}), "root": str(root)}
    try:
        settings = msgspec.convert(chosen, FeatureSettings)
        asked = msgspec.convert({"method": "dino", "dataset": dataset, **options}, CellSpec)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"measure_features(): {error}.", hint="help(uss_bench.measure_features) lists its options."
        ) from None
    found = measure_backbones(
        asked,
        names,
        settings,
        registry,
        blocks=blocks,
        seeds=range(seeds),
        device=pick_device(device),
        out=Path(out),
        force=force,
    )
    return [record for _, record in found]
