"""A record's trained method, restored on the data and the backbone that the record states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from uss_bench.contracts import Backbone, Method
from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.assets import arguments
from uss_bench.experiment.setup import Setup
from uss_bench.plugins.loading import load_method
from uss_bench.plugins.registry import Registry
from uss_bench.results.code import CurrentCode
from uss_bench.results.files import read_state
from uss_bench.results.record import RunRecord
from uss_bench.runtime import progress


@dataclass(frozen=True)
class Restored:
    """The setup of a record, and the method as the record's run left it."""

    setup: Setup
    method: Method


def restore(
    path: Path, record: RunRecord, setup: Setup, registry: Registry, device: torch.device
) -> Restored:
    """Restore the method of the record at `path` on the data of `setup`.

    Raises:
        UsageError: when the record has no trained state.
        DataError: when state, data or weights are missing or not those of the record.
    """
    if setup.fingerprint != record.cell.dataset.fingerprint:
        raise DataError(
            f"These are not the images and labels that {path} was made from.",
            hint="Say where they lie: --dataset, --root, --classes and --data.",
        )
    return Restored(setup, restore_method(path, record, setup.backbone, registry, device))


def restore_method(
    path: Path, record: RunRecord, backbone: Backbone, registry: Registry, device: torch.device
) -> Method:
    """Restore the method of the record at `path`, which is to read features of `backbone`.

    Raises:
        UsageError: when the record has no trained state.
        DataError: when the state is missing or damaged, or the weights are not the record's.
    """
    if not record.state_sha256:
        raise UsageError(
            f"{path} has no trained state: the run failed, or its label maps were made elsewhere."
        )
    method, recorded = record.cell.method, record.cell.backbone
    if backbone.sha256 != recorded.sha256:
        raise DataError(
            f"These are not the weights of {path}: it was made with {recorded.name} {recorded.sha256[:12]}, "
            f"this is {backbone.name} {backbone.sha256[:12]}.",
            hint="Give the network and the file that it was made with: --backbone NAME, --weights FILE.",
        )
    plugin = registry.find("methods", method.name)
    if CurrentCode(registry).is_stale(record.cell):
        progress.log(f"The code of '{method.name}' has changed since {path} was made.")
    given = arguments(plugin, method.params, backbone, registry)
    return load_method(plugin, given, backbone, read_state(path, record), device)
