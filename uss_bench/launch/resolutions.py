"""What requests resolve to, remembered by file status: a finished cell is found without loading anything.

A cell's identity needs the dataset, the backbone and the method, which take seconds to load. Everything that
decides it lies in files: the data, the weights, the plugins' folders and this package.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from uss_bench.experiment.cells import CellSpec
from uss_bench.files.status import Remembered
from uss_bench.plugins.backbone_files import backbone_files
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import NO_BACKBONE
from uss_bench.results.record import Cell

if TYPE_CHECKING:
    from uss_bench.experiment.setup import Setup

_NAMES = ("method", "dataset", "backbone", "backbone_name", "protocol", "preset", "feature_dtype")
_REMARKS = ("seed", "notes", "labels_used")


class Resolution(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a request means on this machine: its cell, under seed 0, and what the header of a run shows."""

    cell: Cell
    title: str
    """Of the method."""
    preset: str | None
    own_alpha: bool
    """Whether the method's spec states the softmax temperature."""
    patch: int
    train_images: int
    test_images: int
    labeled: bool
    elsewhere: list[str]
    """Parameters whose runs were named by a record, and are looked for in its folder."""

    @classmethod
    def of(cls, setup: Setup) -> Resolution:
        return cls(
            cell=setup.cell(0),
            title=setup.spec.called(setup.backbone.name),
            preset=setup.preset,
            own_alpha=setup.spec.alpha is not None,
            patch=setup.backbone.patch,
            train_images=len(setup.train_images),
            test_images=len(setup.test_images),
            labeled=setup.test_labels is not None,
            elsewhere=sorted(setup.folders),
        )


class Resolutions:
    """The resolutions in the cache.

    Args:
        registry: finds the plugins that a request names.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._remembered = Remembered(Resolution)
        self.save = self._remembered.save

    def find(self, spec: CellSpec, resolve: Callable[[], Resolution]) -> Resolution:
        """Return what `spec` resolves to; `resolve` is called unless it is known and nothing has changed."""
        paths = deciding_paths(spec, self._registry)
        if paths is None:
            return resolve()
        return self._remembered.find(paths, request_key(spec), resolve)


def deciding_paths(spec: CellSpec, registry: Registry) -> list[Path] | None:
    """Return the files and folders that decide a cell; None where they cannot all be known.

    Datasets from elsewhere may read any file, and methods that were defined in Python lie in none.
    """
    method, _ = registry.method(spec.method)
    data_spec, dataset = registry.dataset(spec.dataset)
    name = spec.backbone or (data_spec.default_backbone if method.facets else NO_BACKBONE)
    network = backbone_files(registry, name, None if spec.weights is None else Path(spec.weights))
    methods = registry.all("methods")
    if dataset.origin != "built-in" or network is None or any(one.made is not None for one in methods):
        return None
    # All methods, as a parameter may be a run of another one.
    paths = {*network, dataset.folder, *(plugin.folder for plugin in methods)}
    asked = [value for key, value in msgspec.to_builtins(spec).items() if key not in (*_NAMES, *_REMARKS)]
    stated = [one.params for one in method.presets] + [one.params for one in method.defaults]
    for text in _strings([*asked, *stated]):
        with contextlib.suppress(RuntimeError):  # ~somebody who does not exist
            paths.add(Path(text.replace("\0", "")).expanduser().absolute())
    return sorted(paths)


def request_key(spec: CellSpec) -> str:
    """Return all that is asked for but the seed and the remarks, which no resolution depends on."""
    values = msgspec.to_builtins(spec)
    asked = {key: value for key, value in values.items() if key not in _REMARKS}
    return msgspec.json.encode(asked, order="sorted").decode()


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in nested lists and tables: any of them may be a path."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
