"""From names to things: what a run needs, resolved and checked before any work is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from uss_bench.contracts import Backbone, TrainedRun
from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import UsageError
from uss_bench.experiment.assets import named_record, names_a_file, state_files, stated_run
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.data_in_use import load_data
from uss_bench.experiment.setup import Setup
from uss_bench.plugins.lazy_backbone import lazy_backbone
from uss_bench.plugins.params import (
    choose_preset,
    method_params,
    parameters_of_type,
    spec_defaults,
    training_geometry,
)
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import NO_BACKBONE
from uss_bench.protocol import Protocol, TrainingGeometry, default_protocol, get_protocol, read_protocol
from uss_bench.results.code import code_hash
from uss_bench.results.record import (
    Cell,
    states_a_run,
)

T = TypeVar("T")


class Loaded:
    """Datasets and backbones that several cells name, each loaded once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Any] = {}

    def once(self, make: Callable[[], T], *key: object) -> T:
        """Return what `make` gave when it was first called under this key."""
        name = tuple(map(repr, key))
        if name not in self._kept:
            self._kept[name] = make()
        kept: T = self._kept[name]
        return kept


def resolve(asked: CellSpec, registry: Registry, loaded: Loaded | None = None) -> Setup:
    """Resolve what was asked for; its seed and remarks do not matter here.

    Args:
        loaded: what earlier calls have loaded, and what later ones may use; none of it changes.

    Raises:
        UsageError: for a wrong name, option or parameter.
        DataError: when data or weights are missing or wrong.
    """
    loaded = loaded or Loaded()
    spec, plugin = registry.method(asked.method)
    data = loaded.once(
        lambda: load_data(asked, registry),
        *("data", asked.dataset, sorted(asked.data.items()), sorted(asked.aux.items()), asked.limit),
    )
    dataset = data.dataset
    backbone_name = asked.backbone or (data.spec.default_backbone if spec.facets else NO_BACKBONE)
    if not backbone_name:
        raise UsageError(
            f"Method '{spec.name}' reads frozen features, and '{dataset.name}' has no default backbone.",
            hint="Choose one: --backbone NAME (any timm ViT, or one that 'uss-bench ls backbones' shows).",
        )
    given = read_protocol(asked.protocol) if asked.protocol else None
    positions = asked.positions or (given.positions if given else None)
    backbone = loaded.once(
        lambda: lazy_backbone(
            registry,
            backbone_name,
            weights=None if asked.weights is None else Path(asked.weights),
            alias=asked.backbone_name,
            positions=positions,
        ),
        *("backbone", backbone_name, asked.weights, asked.backbone_name, positions),
    )
    protocol = given.protocol if given else get_protocol(default_protocol(backbone.patch))
    where = {"dataset": dataset.name, "backbone": backbone.name}
    released = training_geometry(spec, {}, **where)
    stated = dict(given.training) if given else {}
    if stated.get("crops", released.crops) == "none":
        stated.pop("crop_jpeg", None)  # in schema 1 it could be said of no crops
    training = training_geometry(spec, {**stated, **asked.training}, **where)
    _check_sides(protocol, training, backbone)
    preset = choose_preset(spec, asked.preset, **where)
    params = method_params(
        plugin,
        preset,
        asked.params,
        n_classes=len(dataset.classes),
        defaults=spec_defaults(spec, **where),
    )
    needed = int(spec.minimum.get("batch_size", 1))
    items = len(TransformedImages.for_training(data.train_images, training, patch=backbone.patch))
    if items < needed:
        raise UsageError(
            f"Method '{spec.name}' trains on batches of at least {needed} images, and split "
            f"'{dataset.train_split}' of '{dataset.name}' has {items}.",
            hint="Add images, or train on five crops of each: --training crops=five.",
        )
    files = state_files(plugin, params)
    folders, states = _state_runs(
        plugin, params, asked, (data.fingerprint, backbone.sha256), registry, loaded
    )
    return Setup(
        asked=asked,
        spec=spec,
        plugin=plugin,
        params=params,
        preset=preset.name if preset else None,
        dataset=dataset,
        dataset_spec=data.spec,
        train_images=data.train_images,
        test_images=data.test_images,
        test_labels=data.test_labels,
        backbone=backbone,
        training=training,
        protocol=protocol,
        alpha=protocol.alpha if spec.alpha is None else spec.alpha,
        limit=asked.limit,
        feature_dtype=asked.feature_dtype,
        code=loaded.once(lambda: code_hash(plugin, released), "code", plugin.folder, released),
        fingerprint=data.fingerprint,
        notes=_notes(asked, protocol),
        options=asked.data,
        maps=data.maps,
        files=files,
        folders=folders,
        states=states,
        registry=registry,
    ).checked()


def _state_runs(
    plugin: Plugin,
    params: dict[str, Any],
    asked: CellSpec,
    inputs: tuple[str, str],
    registry: Registry,
    loaded: Loaded,
) -> tuple[dict[str, Path], dict[str, tuple[Path, Cell]]]:
    """State the runs among the parameters as a cell does; return where those lie that were named by a file.

    Args:
        inputs: fingerprint of the data and digest of the backbone, which the runs must share.

    Raises:
        UsageError: when a name is neither a method's nor a record's, or a record is of other data.
    """
    folders, states = {}, {}
    for name in parameters_of_type(plugin.load(), TrainedRun):
        value = params[name]
        if value is None:
            continue
        if states_a_run(value):
            if value.get("state"):
                raise UsageError(
                    f"Method '{plugin.name}': {name} is a trained state, of which a record knows the digest "
                    f"alone ({value['state'][:12]}…).",
                    hint=f"Say where it lies: --set {name}=FILE.safetensors.",
                )
            continue
        if names_a_file(value):
            path, record = named_record(value)
            cell = record.cell
            if (cell.dataset.fingerprint, cell.backbone.sha256) != inputs:
                raise UsageError(
                    f"Method '{plugin.name}': {name} is {path}, which was made on other data or with another "
                    "backbone.",
                    hint="Name a record of the same dataset, limit and backbone, or a method.",
                )
            params[name] = stated_run(cell)
            if value.endswith(".json") and not cell.is_released:  # which is no run of any seed
                folders[name] = path.parents[1]
            else:
                params[name]["state"] = record.state_sha256
                states[name] = (path, cell)
        else:
            given = {"method": value} if isinstance(value, str) else dict(value)
            if unknown := given.keys() - {"method", "params", "training"} or {"method"} - given.keys():
                raise UsageError(
                    f"Method '{plugin.name}': {name} states {', '.join(sorted(unknown))} wrongly.",
                    hint='Give a method, a record\'s .json, or {"method": NAME, "params": {...}}.',
                )
            own = {"method": given["method"], "params": given.get("params", {})}
            own["training"] = given.get("training", asked.training)
            other = msgspec.structs.replace(asked, preset=None, **own)
            params[name] = stated_run(resolve(other, registry, loaded).cell(0))
    return folders, states


def _check_sides(protocol: Protocol, training: TrainingGeometry, backbone: Backbone) -> None:
    """Refuse items whose sides the backbone's patch does not divide; nothing is trimmed silently."""
    patch = backbone.patch
    evaluated = () if protocol.extent == "whole" else protocol.input_size
    for side in evaluated:
        if side % patch:
            raise UsageError(
                f"Protocol {protocol.id} works at {side} pixels, which is not a multiple of the patch of "
                f"{patch} of backbone '{backbone.name}'.",
                hint=f"Use --protocol {default_protocol(patch)}.",
            )
    for name, side in zip(("side", "width"), training.height_width, strict=True):
        if side % patch:
            raise UsageError(
                f"Training items of {side} pixels are not a multiple of the patch of {patch} of backbone "
                f"'{backbone.name}'.",
                hint=f"Choose another size: --training {name}={patch * max(1, round(side / patch))}",
            )


def _notes(asked: CellSpec, protocol: Protocol) -> tuple[str, ...]:
    name = (asked.protocol or "").partition("[")[0]
    if name in ("", f"{protocol.name}@{protocol.version}"):
        return ()
    return (f"asked for as protocol {asked.protocol} of schema 1",)
