"""Running methods from Python: what ``uss-bench run`` does, with records as its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.errors import UsageError
from uss_bench.experiment.cells import CellSpec, Execution, Start, here
from uss_bench.experiment.isolation import IsolatingRegistry
from uss_bench.experiment.plan_file import Asked, RunTable
from uss_bench.launch.planning import plan_cells, raise_failures
from uss_bench.launch.start import run_cells
from uss_bench.plugins.in_place import find_or_add, origin_note
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.results.collection import Entry
from uss_bench.results.files import new_rerun_token

Method = str | Plugin | Callable[..., Any]


def run(
    method: Method | Sequence[Method],
    dataset: str | Sequence[str],
    *,
    seeds: int = 1,
    params: Mapping[str, Any] | None = None,
    backbone: str | Plugin | Sequence[str | Plugin] | None = None,
    root: str | Path | None = None,
    weights: str | Path | None = None,
    out: str | Path = "results",
    jobs: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    force: bool = False,
    track: str = "",
    isolate: bool = False,
    plugins: Sequence[str | Path] = (),
    **options: Any,
) -> list[Entry]:
    """Train, predict, refine, match, score and record; return the records, in the order of the cells.

    Examples:
        >>> runs = uss_bench.run(method=["dino", "smooseg"], dataset="toy3", seeds=3)
        >>> uss_bench.records("results").groupby("method").miou.mean()

    What has a record is not run again, and an interrupted call can simply be repeated.

    Args:
        method: names, classes, or what `uss_bench.method` returned; several are run each with each dataset.
        dataset: names, as ``uss-bench ls datasets`` shows them.
        seeds: how many, from `seed` (0).
        params: parameters of the methods; ``METHOD.KEY`` is for one of them.
        backbone: names, or what `uss_bench.module_backbone` returned; None for the datasets' own.
        root: where the dataset lies.
        weights: a file with the backbone's weights.
        out: where records go.
        jobs: run so many cells at a time, in processes of their own.
        device: ``cpu``, ``cuda``, …; ``auto`` is a GPU where there is one.
        workers: threads of the CRF; None for all cores.
        threads: threads of torch; last bits depend on it.
        force: run again what has a record.
        track: where training curves are sent: ``tensorboard:DIR``, ``wandb:PROJECT``, …
        isolate: train and predict in a process that has no way to the labels; a class that is given
            here runs in this process all the same, and its records say so.
        plugins: folders of further plugins.
        options: ``classes``, ``data``, ``aux``, ``protocol``, ``preset``, ``training``, ``limit``,
            ``positions``, ``feature_dtype``, ``seed``, ``note`` and ``labels_used``, as in a plan file.

    Raises:
        UsageError: for a wrong name, option or parameter.
        RunError: when cells failed, after all others have run.
    """
    registry = Registry(map(Path, plugins))
    names = [find_or_add(one, "methods", registry) for one in listed(method)]
    networks = [find_or_add(one, "backbones", registry) for one in listed(backbone)]
    own = [one for one in (*registry.all("methods"), *registry.all("backbones")) if one.made is not None]
    if own and (jobs or 1) > 1:
        raise UsageError(
            f"'{own[0].name}' is defined here, and other processes cannot have it.",
            hint="Leave jobs out, or make it a plugin: uss-bench new method.",
        )
    unknown = options.keys() - set(RunTable.__struct_fields__)
    if unknown:
        raise UsageError(f"run() has no option '{min(unknown)}'.", hint="help(uss_bench.run) lists them.")
    table = RunTable(
        method=names,
        dataset=listed(dataset),
        backbone=networks or None,
        root=None if root is None else str(root),
        weights=None if weights is None else str(weights),
        params=dict(params or {}),
        seeds=seeds,
        **options,
    )
    execution = Execution(
        out=str(out),
        device=device,
        workers=workers,
        threads=threads,
        force=new_rerun_token() if force else "",
        track=track,
        isolate=isolate,
        plugins=[str(folder) for folder in plugins],
        **here(),
    )
    if isolate:
        registry = IsolatingRegistry(registry)
    specs = [_with_origins(spec, own) for spec in table.cells()]
    cells = plan_cells([Asked(spec) for spec in specs], registry)
    results = run_cells(cells, execution, Start(jobs=jobs), "run")
    raise_failures(cells, results)
    return [one for one in results if isinstance(one, Entry)]


def _with_origins(spec: CellSpec, own: Sequence[Plugin]) -> CellSpec:
    """Return the cell with a note for its method or backbone, where that was defined in Python."""
    used = {"methods": spec.method, "backbones": spec.backbone}
    notes = [origin_note(one.spec.group, one.name) for one in own if used[one.spec.group] == one.name]
    return msgspec.structs.replace(spec, notes=[*spec.notes, *notes])


def listed(value: Any) -> list[Any]:
    """Return several values as a list, one as a list of it, and None as an empty one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
