"""The setting that a method states for a dataset and a backbone: what a run has by default."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from uss_bench.errors import UssBenchError
from uss_bench.plugins.params import choose_preset, method_params, spec_defaults
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import Configuration
from uss_bench.results.record import RunRecord

Stated = Callable[[RunRecord], Mapping[str, Any] | None]
"""What `StatedSettings` is: from a record to the parameters that its method states, or None."""


def distance(configuration: Configuration, stated: Stated) -> tuple[int, bool, int, int, str]:
    """Return how far a configuration is from its method's stated setting; no score enters it.

    Parameters that differ count first, then whether labels were used; among equals the shorter label and the
    greater number of seeds is nearer.
    """
    record = configuration.records[0]
    due = stated(record)
    params = record.cell.method.params
    changed = 0 if due is None else sum(due.get(name) != value for name, value in params.items())
    labels = any(one.labels_used for one in configuration.records)
    return changed, labels, len(configuration.label), -len(configuration.seeds), configuration.label


def main_settings(configurations: Iterable[Configuration], stated: Stated) -> list[Configuration]:
    """Return the configuration nearest to its stated setting, of each method, table and backbone.

    Where configurations have titles, those that are returned leave the setting out of theirs.
    """
    groups: dict[tuple[object, ...], list[Configuration]] = {}
    for one in configurations:
        cell = one.cell
        key = (one.table, cell.backbone.name, cell.backbone.sha256, cell.method.name, cell.method.is_external)
        groups.setdefault(key, []).append(one)
    nearest = [min(group, key=lambda one: distance(one, stated)) for group in groups.values()]
    return [
        replace(one, title=one.title.removesuffix(one.label.removeprefix(one.cell.method.name)).strip())
        for one in nearest
    ]


class StatedSettings:
    """The stated parameters of methods, worked out once for each dataset, backbone and number of classes.

    Args:
        registry: where methods are found.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[tuple[str, str, str, int], Mapping[str, Any] | None] = {}

    def __call__(self, record: RunRecord) -> Mapping[str, Any] | None:
        """Return the parameters, by name; None for a method that is not here, or made its maps elsewhere."""
        cell = record.cell
        if cell.method.is_external:
            return None
        key = cell.method.name, cell.dataset.name, cell.backbone.name, len(record.classes)
        if key not in self._known:
            self._known[key] = self._params(*key)
        return self._known[key]

    def _params(self, method: str, dataset: str, backbone: str, classes: int) -> Mapping[str, Any] | None:
        where = {"dataset": dataset, "backbone": backbone}
        with contextlib.suppress(UssBenchError):
            spec, plugin = self._registry.method(method)
            preset = choose_preset(spec, None, **where)
            return method_params(plugin, preset, {}, n_classes=classes, defaults=spec_defaults(spec, **where))
        return None
