"""Plan files: what to run, in tables whose keys are the options of ``uss-bench run``.

::

    name = "comparison"

    [defaults]
    dataset = "toy3"
    seeds = 3

    [[runs]]
    method = ["smooseg", "ds2dl"]
    set = { steps = 500 }

    [[runs]]
    method = "dino"

Relative paths are taken from the folder that one is in, as on the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec

from uss_bench.errors import UsageError, did_you_mean
from uss_bench.experiment.cells import CellSpec, Count, Seed
from uss_bench.plugins.params import own_params
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import Kind, Name, decode_toml
from uss_bench.results.record import FeatureDtype

Names = str | Annotated[list[str], msgspec.Meta(min_length=1)]


class RunTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cells to run: every method on every dataset with every backbone, seed and protocol."""

    method: Names | None = None
    dataset: Names | None = None
    root: str | None = None
    classes: str | None = None
    data: dict[str, Any] = {}
    aux: dict[str, str] = {}
    """Folders of maps by channel, as ``--aux`` gives them."""
    backbone: Names | None = None
    """None for the datasets' own."""
    weights: str | None = None
    backbone_name: str | None = None
    positions: str | None = None
    protocol: Names | None = None
    """None for the one that fits the backbone; cells that differ in it alone share what is trained."""
    preset: str | None = None
    params: dict[str, Any] = msgspec.field(default_factory=dict, name="set")
    training: dict[str, Any] = {}
    limit: Count | None = None
    feature_dtype: FeatureDtype | None = None
    seeds: Count | None = None
    """How many, from `seed`; None for one."""
    seed: Seed | None = None
    note: Names = []
    labels_used: Names = []

    def over(self, defaults: RunTable) -> RunTable:
        """Return this table with what it leaves out taken from another; dictionaries key by key."""
        fields = self.__struct_fields__
        values = {name: getattr(self, name) or getattr(defaults, name) for name in fields}
        for name in ("seed", "limit"):
            own = getattr(self, name)
            values[name] = getattr(defaults, name) if own is None else own
        for name in ("data", "aux", "params", "training"):
            values[name] = {**getattr(defaults, name), **getattr(self, name)}
        return RunTable(**values)

    def cells(self, among: Collection[str] = ()) -> list[CellSpec]:
        """Return the cells: per dataset and backbone, all methods with the first seed, then with the next.

        The protocols of one cell follow each other.

        Args:
            among: methods that a parameter may be for (``METHOD.KEY``); default: those of this table.

        Raises:
            UsageError: when it does not say what to run, or says of many what can hold of one.
        """
        methods, datasets, backbones = map(_listed, (self.method, self.dataset, self.backbone))
        protocols = cast("Sequence[str | None]", _listed(self.protocol)) or [None]
        if not methods or not datasets:
            missing = " and ".join(
                name for name, found in (("method", methods), ("dataset", datasets)) if not found
            )
            raise UsageError(f"Nothing says which {missing} to run.", hint=_SAY.format(missing.split()[0]))
        data = {**self.data, **_given(root=self.root, classes=self.classes)}
        if data and len(datasets) > 1:
            raise UsageError(
                f"'{next(iter(data))}' belongs to one dataset, and there are {len(datasets)}.",
                hint="Write a plan file with a table for each: uss-bench run --plan FILE.toml.",
            )
        own = _given(weights=self.weights, backbone_name=self.backbone_name, positions=self.positions)
        if own and len(backbones) != 1:
            raise UsageError(
                f"'{next(iter(own))}' needs one backbone, to know which network it belongs to.",
                hint="Name it: --backbone NAME.",
            )
        first = self.seed or 0
        return [
            CellSpec(
                method=method,
                dataset=dataset,
                data=data,
                aux=self.aux,
                backbone=backbone,
                weights=self.weights,
                backbone_name=self.backbone_name,
                positions=self.positions,
                protocol=protocol,
                preset=self.preset,
                params=own_params(method, self.params, among or methods),
                training=self.training,
                limit=self.limit,
                feature_dtype=self.feature_dtype or "float16",
                seed=seed,
                notes=_listed(self.note),
                labels_used=_listed(self.labels_used),
            )
            for dataset in datasets
            for backbone in cast("Sequence[str | None]", backbones) or [None]
            for seed in range(first, first + (self.seeds or 1))
            for method in methods
            for protocol in protocols
        ]


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a plan file says."""

    runs: Annotated[list[RunTable], msgspec.Meta(min_length=1)]
    name: Name | None = None
    """What ``uss-bench status`` calls it; None for the file's own name."""
    defaults: RunTable = RunTable()
    """What holds for every table that does not say otherwise."""


@dataclass(frozen=True)
class Asked:
    """A cell that was asked for, and where: for messages."""

    spec: CellSpec
    place: str = ""
    setting: str | None = None
    """What to call it, without the seed; None for what tells it from the others."""


_SAY = "Say it: --{0} NAME (uss-bench ls {0}s), or --plan FILE.toml."


def read_plan(path: Path, registry: Registry) -> tuple[str, list[Asked]]:
    """Read a plan file and return its name and its cells.

    Raises:
        DataError: when it is missing or malformed, naming the wrong key by its path.
        UsageError: when it names what does not exist, or contradicts itself, with the table's path.
    """
    plan: PlanFile = decode_toml(path, PlanFile)
    return plan.name or path.stem.lower().replace(" ", "-"), list(_cells(plan, path, registry))


def _cells(plan: PlanFile, path: Path, registry: Registry) -> Iterator[Asked]:
    methods = {name for table in plan.runs for name in _listed(table.over(plan.defaults).method)}
    for index, table in enumerate(plan.runs):
        place = f"{path}, at `$.runs[{index}]`"
        joined = table.over(plan.defaults)
        for key, kind in (("method", "methods"), ("dataset", "datasets")):
            _check_names(_listed(getattr(joined, key)), cast("Kind", kind), place, registry)
        try:
            found = joined.cells(methods)
        except UsageError as error:
            raise UsageError(f"{place}: {error.what}", hint=error.hint) from None
        yield from (Asked(spec, place) for spec in found)


def _check_names(names: Sequence[str], kind: Kind, place: str, registry: Registry) -> None:
    known = registry.names(kind)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(f"{place}: there is no {kind[:-1]} '{name}'.", hint=hint)


def _listed(names: Names | None) -> list[str]:
    if names is None:
        return []
    return [names] if isinstance(names, str) else list(names)


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}
