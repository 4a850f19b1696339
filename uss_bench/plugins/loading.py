"""Loading data sets and backbones by name, with the user's options checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from uss_bench.contracts import Backbone, Dataset, Method
from uss_bench.errors import UsageError, blame
from uss_bench.plugins.params import (
    check_options,
    required_options,
)
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import DatasetSpec, MethodSpec, is_name


def load_dataset(registry: Registry, name: str, options: Mapping[str, Any]) -> tuple[Dataset, DatasetSpec]:
    """Construct a dataset from its name and the user's options."""
    spec, plugin = registry.dataset(name)
    entry = plugin.load()
    check_options(entry, options, f"Dataset '{name}'", "--data", skip=1)
    missing = required_options(entry, skip=1) - set(options)
    if missing:
        flags = " ".join(f"--{one} …" if one == "root" else f"--data {one}=…" for one in sorted(missing))
        raise UsageError(f"Dataset '{name}' needs to know more.", hint=f"Add {flags}")
    with blame(f"Dataset '{name}'", "its constructor"):
        dataset: Dataset = entry(spec, **options)
    _check_name(dataset.name, f"Dataset '{name}' calls itself", "Records lie in a folder of that name.")
    return dataset, spec


def load_backbone(
    registry: Registry,
    name: str,
    *,
    weights: Path | None = None,
    alias: str | None = None,
    positions: str | None = None,
) -> Backbone:
    """Construct a backbone: a plugin of that name, or else the timm model of that name.

    Args:
        alias: what records call it.
        positions: rule for its position embedding, in place of the network's own.
    """
    options: dict[str, Any] = {} if positions is None else {"positions": positions}
    if weights is not None:
        options["weights"] = weights
    if alias is not None:
        options["name"] = alias
    if name in registry.names("backbones") and name != "timm":
        spec, plugin = registry.backbone(name)
    else:
        if name == "timm":
            raise UsageError(
                "'timm' stands for all its models.", hint="Name one: --backbone vit_small_patch14_dinov2."
            )
        spec, plugin = registry.backbone("timm")
        options["model"] = name
    entry = plugin.load()
    check_options(entry, options, f"Backbone '{name}'", "--backbone-name, --weights or --positions:", skip=1)
    params = check_options(entry, spec.params, f"The spec.toml of backbone '{name}'", "params:", skip=1)
    if alias is not None:
        _check_name(alias, "--backbone-name is", "Figures and probes are named by it.")
    with blame(f"Backbone '{name}'", "its constructor"):
        backbone: Backbone = entry(spec, **{**params, **options})
    return backbone


def load_method(
    plugin: Plugin,
    params: Mapping[str, Any],
    backbone: Backbone,
    state: bytes | None = None,
    device: torch.device | None = None,
) -> Method:
    """Construct a method, untrained, or with a trained state.

    Args:
        backbone: what the method is bound to, if it asks for that; see `uss_bench.contracts.Method`.
        state: what `Method.state_dict` returned, as safetensors bytes.
        device: where the method predicts; None for the CPU.
    """
    who = f"Method '{plugin.name}'"
    with blame(who, "its constructor"):
        method: Method = plugin.load()(**params)
        if (bind := getattr(method, "bind", None)) is not None:
            bind(backbone)
    if state is not None:
        with blame(who, "loading its state"):
            method.load_state_dict({name: value.to(device) for name, value in load(state).items()})
    return method


def inputs_of(spec: MethodSpec, method: object) -> list[str]:
    """Return what `Method.embed` reads: by the method's own `inputs`, or else by its spec."""
    own: Iterable[str] | None = getattr(method, "inputs", None)
    return list(spec.inputs if own is None else own)


def _check_name(name: str, who: str, why: str) -> None:
    """Refuse what is not a name: it becomes part of paths."""
    if not is_name(name):
        raise UsageError(
            f"{who} '{name}', which is not a name. {why}",
            hint="Use small letters, digits, '-', '_' and '.', and begin with a letter or a digit.",
        )
