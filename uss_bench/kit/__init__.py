"""The plugin author's kit: folders to start from, and ladders that check a plugin in plain words.

Nothing in uss_bench imports this package but the command line. `check_method` and `check_dataset` are
for the tests of plugins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uss_bench.errors import ContractError, DataError
from uss_bench.kit.ladder import Finding, climb
from uss_bench.params import check_options
from uss_bench.registry import Plugin, Registry

__all__ = ["Finding", "check_dataset", "check_method", "climb_dataset", "climb_method"]


def check_method(name: str, registry: Registry, **options: Any) -> list[Finding]:
    """Climb the ladder of a method and return every finding; see `climb_method`."""
    return list(climb_method(name, registry, **options))


def check_dataset(name: str, registry: Registry, options: Mapping[str, Any] | None = None) -> list[Finding]:
    """Climb the ladder of a dataset and return every finding; see `climb_dataset`."""
    return list(climb_dataset(name, registry, options))


def climb_method(
    name: str,
    registry: Registry,
    *,
    params: Mapping[str, Any] | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
) -> Iterator[Finding]:
    """Check a method rung by rung on a tiny drawn problem, and yield what each rung finds.

    Args:
        params: parameters of the method; `steps` and `checkpoint_every` are small unless they say so.
        backbone: where facets come from; default a small ViT with random weights, which knows them all.
        weights: the backbone's weights file.

    Raises:
        UsageError: when there is no such method, or it has no such parameter.
    """
    import torch

    from uss_bench.kit.method_rungs import METHOD_RUNGS
    from uss_bench.kit.trial import Trial

    try:
        plugin = registry.find("methods", name)
    except DataError as error:
        yield _bad_spec(error)
        return
    _check_given(plugin, params, f"Method '{name}'", "--set")
    gpu = torch.device("cuda") if torch.cuda.is_available() else None
    with Trial(plugin, registry, params=params, backbone=backbone, weights=weights, accelerator=gpu) as trial:
        yield from climb(trial, METHOD_RUNGS)


def climb_dataset(
    name: str, registry: Registry, options: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Check a dataset rung by rung, and yield what each rung finds.

    Args:
        options: the dataset's options, such as ``root``.

    Raises:
        UsageError: when there is no such dataset, or it has no such option.
    """
    from uss_bench.kit.dataset_rungs import DATASET_RUNGS
    from uss_bench.kit.survey import Survey

    try:
        plugin = registry.find("datasets", name)
    except DataError as error:
        yield _bad_spec(error)
        return
    _check_given(plugin, options, f"Dataset '{name}'", "--data", skip=1)
    yield from climb(Survey(name, registry, options or {}), DATASET_RUNGS)


def _check_given(
    plugin: Plugin, given: Mapping[str, Any] | None, owner: str, flag: str, skip: int = 0
) -> None:
    """Refuse options that the user got wrong; a plugin that cannot be imported is the ladder's business."""
    if given:
        with contextlib.suppress(ContractError):
            check_options(plugin.load(), given, owner, flag, skip=skip)


def _bad_spec(error: DataError) -> Finding:
    return Finding("spec", "failed", error.what, error.hint or "Correct the key that it names.")
