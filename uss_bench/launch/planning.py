"""From what was asked for to cells: each request resolved, and named by what tells it from the others."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from uss_bench.errors import DataError, RunError, UssBenchError
from uss_bench.experiment.cells import CellSpec, Execution
from uss_bench.experiment.plan_file import Asked
from uss_bench.launch.resolutions import Resolution, Resolutions, request_key
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import Entry
from uss_bench.results.files import is_done, picture_files, read_record, record_path
from uss_bench.results.record import FILE_DIGEST, Cell, base_cells
from uss_bench.runtime import progress
from uss_bench.training.workspace import Workspace

if TYPE_CHECKING:
    from uss_bench.experiment.resolving import Loaded
    from uss_bench.experiment.setup import Setup


@dataclass(frozen=True)
class Planned:
    """A cell of a plan: what was asked for, and what that means here."""

    setting: str
    """What people call it and its other seeds; '' where all cells of the plan differ in the seed only."""
    spec: CellSpec
    found: Resolution
    cell: Cell
    load: Callable[[], Setup] = field(repr=False, compare=False)

    @property
    def setup(self) -> Setup:
        """Everything that its run needs; loaded when it is first asked for."""
        return self.load()

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
    Runs that others build upon come first; those that were not asked for are added. What the cache knows of a
    request is not loaded before the cell runs.

    Raises:
        UsageError: for a wrong name, option or parameter, with the place where it was asked for.
        DataError: when data or weights are missing or wrong.
    """
    known = Resolutions(registry)
    loaded = _Loader(registry)
    found: dict[str, tuple[Asked, Resolution, Callable[[], Setup]]] = {}
    keys = [request_key(one.spec) for one in asked]

    def find(one: Asked) -> tuple[Asked, Resolution, Callable[[], Setup]]:
        load: Callable[[], Setup] = functools.cache(functools.partial(loaded.setup, one))
        what = known.find(one.spec, lambda: Resolution.of(load()))
        return one, what, functools.cache(functools.partial(_unchanged, load, what.cell))

    for key, one in zip(keys, asked, strict=True):
        if key not in found:
            found[key] = find(one)
    names = dict(zip(found, _settings([(one.spec, what) for one, what, _ in found.values()]), strict=True))
    planned: dict[tuple[str, str], Planned] = {}
    for key, one in zip(keys, asked, strict=True):
        _, what, load = found[key]
        cell = msgspec.structs.replace(what.cell, seed=one.spec.seed)
        setting = one.setting or names[key]
        planned.setdefault((setting, cell.id), Planned(setting, one.spec, what, cell, load))
    cells = list(planned.values())
    there = {one.cell.id for one in cells}
    called: dict[str, str] = {}
    for above in cells:  # which grows: a run that others build upon may build upon a third
        for spec, wanted in _bases(above):
            if wanted in there:
                continue
            key = request_key(spec)
            if key not in found:
                found[key] = find(Asked(spec))
            _, what, load = found[key]
            cell = msgspec.structs.replace(what.cell, seed=spec.seed)
            if cell.id == wanted:  # not where it was made by code that has changed
                there.add(wanted)
                setting = f"{cell.method.name} (base)"
                if called.setdefault(setting, what.cell.id) != what.cell.id:
                    setting = f"{setting}, {above.setting}"
                cells.append(Planned(setting, spec, what, cell, load))
    known.save()
    return sorted(cells, key=lambda one: _depth(one.cell))


def _bases(above: Planned) -> Iterator[tuple[CellSpec, str]]:
    """Yield what a cell builds upon, as requests, each with the id of the cell that it should resolve to.

    What a record names lies in its own folder, and the place of files that a base reads is not known.
    """
    for name, cell in base_cells(above.cell).items():
        params = cell.method.params
        reads_files = any(str(value).startswith(FILE_DIGEST) for value in params.values())
        if name not in above.found.elsewhere and not reads_files:
            spec = msgspec.structs.replace(
                above.spec,
                method=cell.method.name,
                preset=None,
                params=params,
                training=msgspec.structs.asdict(cell.training),
                notes=[],
                labels_used=[],
            )
            yield spec, cell.id


def _depth(cell: Cell) -> int:
    """Return how many runs, each built upon the next, come before this one."""
    return max((1 + _depth(base) for base in base_cells(cell).values()), default=0)


class _Loader:
    """Resolves requests; torch is imported for the first that is."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._loaded: Loaded | None = None

    def setup(self, asked: Asked) -> Setup:
        from uss_bench.experiment.resolving import Loaded, resolve

        self._loaded = self._loaded or Loaded()
        with _at(asked.place):
            return resolve(asked.spec, self._registry, self._loaded)


def _unchanged(load: Callable[[], Setup], cell: Cell) -> Setup:
    """Load a setup; raise `DataError` when its cell is another than the one that was planned."""
    setup = load()
    if setup.cell(0).id != cell.id:
        raise DataError(
            "Code, data or weights have changed since the command started.", hint="Give the command again."
        )
    return setup


def pending(cells: Sequence[Planned], execution: Execution) -> list[Planned]:
    """Return the cells without a record, or, with ``--force``, without a new one; each of them once."""
    once = {one.cell.id: one for one in reversed(cells)}
    out = Path(execution.out)
    return [
        one for one in cells if once[one.cell.id] is one and not is_done(one.record(out), execution.force)
    ]


def finished_cell(one: Planned, execution: Execution) -> Entry | None:
    """Return the record of a cell, or None when there is anything left to do for it."""
    path = one.record(Path(execution.out))
    if execution.force or not is_done(path) or Workspace.beside(path).folder.exists():
        return None
    try:
        record = read_record(path)
    except DataError:
        return None
    complete = record.id == one.cell.id and all(map(Path.exists, picture_files(path, record)))
    return Entry(path, record) if complete else None


def finished_cells(cells: Sequence[Planned], execution: Execution) -> list[Entry] | None:
    """Return the records of `cells`, in their order, or None when there is anything left to do for them."""
    found: dict[str, Entry] = {}
    for one in cells:
        if one.cell.id not in found:
            entry = finished_cell(one, execution)
            if entry is None:
                return None
            found[one.cell.id] = entry
    for one in cells:
        log_done(one, found[one.cell.id].path)
    return [found[one.cell.id] for one in cells]


def log_done(one: Planned, path: Path) -> None:
    progress.log(f"{one.label}: done before, see {path}")


def raise_failures(cells: Sequence[Planned], results: Sequence[Entry | Exception]) -> None:
    """Raise one error that names every cell that failed, with its reason; its own error for an only cell."""
    failed = [
        (one.label, result)
        for one, result in zip(cells, results, strict=True)
        if isinstance(result, Exception)
    ]
    if not failed:
        return
    if len(cells) == 1:
        raise failed[0][1]
    lines = [
        f"  {label}: {error.what if isinstance(error, UssBenchError) else repr(error)}"
        for label, error in failed
    ]
    raise RunError(
        "\n".join([f"{len(failed)} of {len(cells)} cells failed:", *lines]),
        hint="The same command runs the failed cells again, and no other.",
    ) from failed[0][1]


def _settings(requests: Sequence[tuple[CellSpec, Resolution]]) -> list[str]:
    """Tell requests apart by the names that datasets and backbones have; where that is not enough, by all."""
    named = [
        msgspec.structs.replace(
            spec,
            dataset=found.cell.dataset.name,
            data={},
            backbone=spec.backbone and found.cell.backbone.name,
            weights=None,
            backbone_name=None,
        )
        for spec, found in requests
    ]
    short = tell_apart(named)
    meant = {(text, found.cell.id) for text, (_, found) in zip(short, requests, strict=True)}
    return short if len(meant) == len(set(short)) else tell_apart([spec for spec, _ in requests])


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
    values |= {f"--training {name}": value for name, value in values.pop("training").items()}
    values |= {f"--data {name}": value for name, value in values.pop("data").items()}
    values |= {f"--aux {name}": value for name, value in values.pop("aux").items()}
    for name in ("seed", "notes", "labels_used"):
        del values[name]
    bare = ("method", "dataset", "backbone", "backbone_name", "protocol", "feature_dtype")
    return {
        name: str(value) if name in bare else f"{name.rpartition(' ')[2]}={value}"
        for name, value in values.items()
        if value is not None
    }
