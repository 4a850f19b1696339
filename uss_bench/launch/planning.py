"""From what was asked for to tasks: cells resolved, and the extractions that several of them share."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.errors import UssBenchError
from uss_bench.launch.launcher import Task
from uss_bench.launch.plan_file import Asked
from uss_bench.launch.running import item_sets
from uss_bench.launch.work import CellSpec, CellWork, Execution, ExtractionWork, write_work
from uss_bench.record_files import record_path
from uss_bench.records import Cell, stem
from uss_bench.registry import Registry
from uss_bench.setup import Loaded, Setup, resolve
from uss_bench.specs import Resources

ITEMS_PER_PART = 4096
"""An extraction is divided so that no share has fewer images."""


@dataclass(frozen=True)
class Planned:
    """A cell of a plan: what was asked for, and what that is here."""

    setting: str
    """What people call it and its other seeds; '' where all cells of the plan differ in the seed only."""
    spec: CellSpec
    setup: Setup
    cell: Cell

    @property
    def label(self) -> str:
        """What people call it."""
        return ", ".join(filter(None, [self.setting, f"seed {self.spec.seed}"]))

    def record(self, out: Path) -> Path:
        """Return where its record is, or will be."""
        return record_path(out, self.cell)


def plan_cells(asked: Sequence[Asked], registry: Registry) -> list[Planned]:
    """Resolve every cell, each dataset and backbone once; what is asked for twice is in the plan once.

    A cell may be there twice under different settings, such as a default that is given and one that is not.

    Raises:
        UsageError: for a wrong name, option or parameter, with the place where it was asked for.
        DataError: when data or weights are missing or wrong.
    """
    loaded = Loaded()
    known: dict[bytes, Setup] = {}
    setups: list[Setup] = []
    for one in asked:
        key = msgspec.json.encode(msgspec.structs.replace(one.spec, seed=0, notes=[], labels_used=[]))
        if key not in known:
            with _at(one.place):
                known[key] = resolve(one.spec.request(), registry, loaded)
        setups.append(known[key])
    planned: dict[tuple[str, str], Planned] = {}
    for one, setup, told in zip(asked, setups, _settings(asked, setups), strict=True):
        cell = setup.cell(one.spec.seed)
        setting = one.setting or told
        planned.setdefault((setting, cell.id), Planned(setting, one.spec, setup, cell))
    return list(planned.values())


def _settings(asked: Sequence[Asked], setups: Sequence[Setup]) -> list[str]:
    """Tell cells apart by what datasets and backbones call themselves; where that is not enough, by all."""
    named = [
        msgspec.structs.replace(
            one.spec,
            dataset=setup.dataset.name,
            data={},
            backbone=one.spec.backbone and setup.backbone.name,
            weights=None,
            backbone_name=None,
        )
        for one, setup in zip(asked, setups, strict=True)
    ]
    short = tell_apart(named)
    meant = {(text, setup.cell(0).id) for text, setup in zip(short, setups, strict=True)}
    if len(meant) == len(set(short)):
        return short
    return tell_apart([one.spec for one in asked])


@contextlib.contextmanager
def _at(place: str) -> Iterator[None]:
    """Say in an error where in a plan file the cell was asked for."""
    try:
        yield
    except UssBenchError as error:
        if place:
            error.what = f"{place}: {error.what}"
        raise


def tell_apart(specs: Sequence[CellSpec]) -> list[str]:
    """Return what is not the same for all cells, for each, but for the seed."""
    facts = [_facts(spec) for spec in specs]
    first = facts[0] if facts else {}
    varied = {name for one in facts for name in {**first, **one} if one.get(name) != first.get(name)}
    return [", ".join(text for name, text in one.items() if name in varied) for one in facts]


def _facts(spec: CellSpec) -> dict[str, str]:
    values: dict[str, Any] = msgspec.to_builtins(spec)
    values |= {f"--set {name}": value for name, value in values.pop("params").items()}
    values |= {f"--data {name}": value for name, value in values.pop("data").items()}
    for name in ("seed", "notes", "labels_used"):
        del values[name]
    bare = ("method", "dataset", "backbone", "backbone_name", "protocol", "feature_dtype")
    return {
        name: str(value) if name in bare else f"{name.rpartition(' ')[2]}={value}"
        for name, value in values.items()
        if value is not None
    }


def make_tasks(
    cells: Sequence[Planned], execution: Execution, folder: Path, jobs: int | None
) -> tuple[list[Task], list[Task]]:
    """Write the files of the tasks that run these cells, and return extractions and cells.

    Features that several cells need are an extraction of their own, in one task or in several.

    Args:
        folder: where the files go.
        jobs: how many tasks may run at a time; an extraction is not divided further.
    """
    shared: dict[str, list[Planned]] = {}
    for one in cells:
        if one.setup.spec.facets:
            shared.setdefault(_features_key(one.setup), []).append(one)
    extractions: dict[str, list[Task]] = {
        key: list(_extractions(key, sharing, execution, folder, jobs))
        for key, sharing in shared.items()
        if len(sharing) > 1
    }
    tasks = []
    for one in cells:
        file = folder / f"{stem(one.cell)}.task"
        resources = on_device(one.setup.spec.resources, execution.device)
        write_work(file, CellWork(cell=one.spec, execution=execution, id=one.cell.id))
        needed = extractions.get(_features_key(one.setup), []) if one.setup.spec.facets else []
        tasks.append(
            Task(
                id=file.stem,
                label=one.label,
                kind="cell",
                file=str(file),
                resources=resources,
                after=[task.id for task in needed],
            )
        )
    return [task for group in extractions.values() for task in group], tasks


def _extractions(
    key: str, sharing: Sequence[Planned], execution: Execution, folder: Path, jobs: int | None
) -> list[Task]:
    first = sharing[0]
    facets = sorted({facet for one in sharing for facet in one.setup.spec.facets})
    items = sum(len(one) for one in item_sets(first.setup))
    parts = max(1, min(items // ITEMS_PER_PART, jobs or 16))
    name = re.sub(r"[^a-z0-9_.-]", "-", f"extract-{first.setup.dataset.name}-{first.setup.backbone.name}")
    asked = [on_device(one.setup.spec.resources, execution.device) for one in sharing]
    resources = Resources(
        **{field: max(getattr(one, field) for one in asked) for field in Resources.__struct_fields__}
    )
    tasks = []
    for part in range(parts):
        suffix = f"-{part + 1}of{parts}" if parts > 1 else ""
        file = folder / f"{name}-{key[:8]}{suffix}.task"
        work = ExtractionWork(cell=first.spec, execution=execution, facets=facets, part=part, parts=parts)
        write_work(file, work)
        label = f"features of {first.setup.dataset.name}, {first.setup.backbone.name}"
        label += f", part {part + 1} of {parts}" if parts > 1 else ""
        tasks.append(Task(id=file.stem, label=label, kind="extraction", file=str(file), resources=resources))
    return tasks


def on_device(resources: Resources, device: str) -> Resources:
    """Return what to reserve for a run on this device.

    With ``cpu``, no GPU; with ``cuda``, one at least; a GPU that is named by its number is the user's
    business and not reserved.
    """
    gpus = {"auto": resources.gpus, "cuda": max(1, resources.gpus)}.get(device, 0)
    return msgspec.structs.replace(resources, gpus=gpus)


def _features_key(setup: Setup) -> str:
    """Return a digest of all that decides which features a setup reads, but for the facets."""
    identity: Mapping[str, Any] = {
        "backbone": [setup.backbone.name, setup.backbone.sha256],
        "positions": setup.protocol.positions,
        "dtype": setup.feature_dtype,
        "items": [items.identity() for items in item_sets(setup)],
    }
    return hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()
