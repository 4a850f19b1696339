"""From cells to tasks: one for each cell, and the extractions of features that several cells share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.experiment.cells import CellWork, Execution, ExtractionWork, write_work
from uss_bench.experiment.reuse import training_key
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import positions_of
from uss_bench.launch.launcher import Task
from uss_bench.launch.planning import Planned
from uss_bench.plugins.specs import Resources
from uss_bench.results.record import base_cells, stem

ITEMS_PER_PART = 4096
"""An extraction is divided so that no share has fewer images."""


def make_tasks(
    cells: Sequence[Planned], execution: Execution, folder: Path, jobs: int | None
) -> tuple[list[Task], list[Task]]:
    """Write the files of the tasks that run these cells, and return extractions and cells.

    Features that several cells need are an extraction of their own, in one task or in several. Of cells that
    differ in their evaluation alone the first trains, and the others wait for its state.

    Args:
        folder: where the files go.
        jobs: how many tasks may run at a time; an extraction is not divided further.
    """
    shared: dict[str, list[Planned]] = {}
    for one in cells:
        if one.setup.facets:
            shared.setdefault(_features_key(one.setup), []).append(one)
    extractions: dict[str, list[Task]] = {
        key: list(_extractions(key, sharing, execution, folder, jobs))
        for key, sharing in shared.items()
        if len(sharing) > 1
    }
    tasks = []
    files = {one.cell.id: f"{stem(one.cell)}" for one in cells}
    trainers: dict[str, str] = {}
    for one in cells:
        file = folder / f"{stem(one.cell)}.task"
        resources = on_device(one.setup.spec.resources, execution.device)
        write_work(file, CellWork(cell=one.spec, execution=execution, id=one.cell.id))
        needed = extractions.get(_features_key(one.setup), []) if one.setup.facets else []
        trainer = trainers.setdefault(training_key(one.setup, one.spec.seed), file.stem)
        tasks.append(
            Task(
                id=file.stem,
                label=one.label,
                kind="cell",
                file=str(file),
                resources=resources,
                after=[task.id for task in needed]
                + [files[base.id] for base in base_cells(one.cell).values() if base.id in files]
                + [trainer] * (trainer != file.stem),
            )
        )
    return [task for group in extractions.values() for task in group], tasks


def _extractions(
    key: str, sharing: Sequence[Planned], execution: Execution, folder: Path, jobs: int | None
) -> list[Task]:
    first = sharing[0]
    facets = sorted({facet for one in sharing for facet in one.setup.facets})
    items = len(first.setup.training_items()) + len(first.setup.evaluation_items())
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
        "positions": positions_of(setup.backbone),
        "dtype": setup.feature_dtype,
        "items": [setup.training_items().identity(), setup.evaluation_items().identity()],
    }
    return hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()
