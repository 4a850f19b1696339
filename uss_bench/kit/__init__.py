"""The plugin author's kit: folders to start from, and checks of a plugin in plain words.

Nothing in uss_bench imports this package but the command line. `check_method`, `check_dataset` and
`check_backbone` are for the tests of plugins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uss_bench.errors import ContractError, DataError
from uss_bench.kit.checks import Finding, LabelAudit, MethodReport, run_checks
from uss_bench.plugins.params import check_options
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import Kind

__all__ = [
    "Finding",
    "LabelAudit",
    "MethodReport",
    "check_backbone",
    "check_dataset",
    "check_method",
    "run_backbone_checks",
    "run_dataset_checks",
    "run_method_checks",
]


def check_method(name: str, registry: Registry, **options: Any) -> list[Finding]:
    """Run the checks of a method and return every finding; see `run_method_checks`."""
    return list(run_method_checks(name, registry, **options))


def check_dataset(name: str, registry: Registry, options: Mapping[str, Any] | None = None) -> list[Finding]:
    """Run the checks of a dataset and return every finding; see `run_dataset_checks`."""
    return list(run_dataset_checks(name, registry, options))


def check_backbone(name: str, registry: Registry, weights: Path | None = None) -> list[Finding]:
    """Run the checks of a backbone and return every finding; see `run_backbone_checks`."""
    return list(run_backbone_checks(name, registry, weights))


def run_method_checks(
    name: str,
    registry: Registry,
    *,
    params: Mapping[str, Any] | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
) -> Iterator[Finding]:
    """Check a method on a small drawn problem, and yield each finding.

    Args:
        params: parameters of the method; see `Trial` for those that are small unless given.
        backbone: where facets come from; default a small ViT with random weights, which offers them all.
        weights: the backbone's weights file.

    Raises:
        UsageError: when there is no such method, or it has no such parameter.
    """
    import torch

    from uss_bench.kit.method_checks import METHOD_CHECKS
    from uss_bench.kit.trial import Trial

    try:
        plugin = _find("methods", name, registry, params, "--set")
    except DataError as error:
        yield _bad_spec(error)
        return
    gpu = torch.device("cuda") if torch.cuda.is_available() else None
    with Trial(plugin, registry, params=params, backbone=backbone, weights=weights, accelerator=gpu) as trial:
        yield from run_checks(trial, METHOD_CHECKS)


def run_dataset_checks(
    name: str, registry: Registry, options: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Check a dataset, and yield each finding.

    Args:
        options: the dataset's options, such as ``root``.

    Raises:
        UsageError: when there is no such dataset, or it has no such option.
    """
    from uss_bench.kit.dataset_checks import DATASET_CHECKS
    from uss_bench.kit.survey import Survey

    try:
        plugin = _find("datasets", name, registry, options, "--data", skip=1)
    except DataError as error:
        yield _bad_spec(error)
        return
    yield from run_checks(Survey(plugin, registry, options or {}), DATASET_CHECKS)


def run_backbone_checks(name: str, registry: Registry, weights: Path | None = None) -> Iterator[Finding]:
    """Check a backbone on drawn images, and yield each finding.

    Args:
        weights: the weights file, where the backbone has none of its own.

    Raises:
        UsageError: when there is no such backbone.
    """
    from uss_bench.kit.backbone_checks import BACKBONE_CHECKS
    from uss_bench.kit.backbone_trial import BackboneTrial

    try:
        plugin = _find("backbones", name, registry)
    except DataError as error:
        yield _bad_spec(error)
        return
    with BackboneTrial(plugin, registry, weights) as trial:
        yield from run_checks(trial, BACKBONE_CHECKS)


def _find(
    kind: Kind,
    name: str,
    registry: Registry,
    given: Mapping[str, Any] | None = None,
    flag: str = "",
    skip: int = 0,
) -> Plugin:
    """Find a plugin and refuse wrong options; a plugin that cannot be imported is left to its checks."""
    plugin = registry.find(kind, name)
    if given:
        with contextlib.suppress(ContractError):
            check_options(plugin.load(), given, f"{kind[:-1].title()} '{name}'", flag, skip=skip)
    return plugin


def _bad_spec(error: DataError) -> Finding:
    return Finding("failed", error.what, error.hint or "Correct the key that it names.", check="spec")
