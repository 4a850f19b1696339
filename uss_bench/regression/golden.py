"""Golden results: what the runs of a plan gave, kept as one readable JSON and one npz per run."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch

from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.plan_file import PlanFile
from uss_bench.experiment.resolving import Loaded, resolve
from uss_bench.experiment.runner import run_cell
from uss_bench.files.arrays import read_npz
from uss_bench.files.atomic import write_together
from uss_bench.files.json_file import JSON_ERRORS, read_json
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import decode_toml
from uss_bench.results.arrays import Arrays
from uss_bench.results.files import read_arrays
from uss_bench.results.provenance import environment
from uss_bench.results.record import Cell, RunRecord
from uss_bench.results.scores import REFINEMENTS
from uss_bench.runtime import progress

PLAN, INDEX = "plan.toml", "golden.json"
_DECIDES = ("torch", "timm", "numpy", "scipy", "numba", "pillow", "system", "processor", "threads", "device")
"""What of an environment decides whether the same bytes can be asked for."""


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a run may move on another machine than the golden numbers were made on.

    Kernels of another processor or library add in another order, and training carries the last bit of
    a sum to a label here and there. On the same machine nothing may move.
    """

    pixels: float
    """Share of pixels that get another cluster."""
    points: float
    """Percentage points of accuracy and of mIoU."""
    amplified: dict[str, float] = {}
    """By method: both limits times this, where training makes much of a last bit, as eigenvectors do."""

    def of(self, run: str) -> Tolerance:
        """Return the limits of a run, whose name begins with its method's."""
        factor = self.amplified.get(run.partition("-")[0], 1.0)
        return Tolerance(pixels=self.pixels * factor, points=self.points * factor)


class GoldenPlan(PlanFile, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plan file with the conditions under which its runs are repeated."""

    threads: Annotated[int, msgspec.Meta(ge=1)]
    """Threads of torch: sums are added in an order that depends on it."""
    tolerance: Tolerance


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the JSON states of a run: its inputs, its scores in percent by refinement, its training curves."""

    cell: Cell
    classes: list[str]
    accuracy: dict[str, float]
    miou: dict[str, float]
    curves: dict[str, list[tuple[int, float]]]


class _Names(msgspec.Struct):
    """What an index of any version states: whose files the folder holds."""

    runs: dict[str, Any]


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    environment: dict[str, Any]
    runs: dict[str, Summary]


@dataclass(frozen=True)
class Golden:
    """Results by the name of their run, and the machine that made them."""

    environment: dict[str, Any]
    results: dict[str, tuple[Summary, Arrays]]
    """The arrays are those of the last checkpoint, counts int64 (N, K, C) and maps uint8 (M, H, W)."""


def read_plan(folder: Path) -> GoldenPlan:
    """Read the ``plan.toml`` of a folder.

    Raises:
        DataError: when it is missing or malformed, naming the key.
    """
    plan: GoldenPlan = decode_toml(folder / PLAN, GoldenPlan)
    return plan


def run_golden(plan: GoldenPlan, registry: Registry) -> Golden:
    """Run everything that a plan asks for, on the CPU, with features extracted anew.

    Raises:
        UssBenchError: when a run fails.
    """
    results: dict[str, tuple[Summary, Arrays]] = {}
    cpu, loaded = torch.device("cpu"), Loaded()
    with _threads(plan.threads), tempfile.TemporaryDirectory(prefix="uss-bench-golden-") as scratch:
        for spec in (spec for table in plan.runs for spec in table.over(plan.defaults).cells()):
            name = f"{spec.method}-{spec.dataset}-s{spec.seed}"
            progress.log(name)
            setup = resolve(spec, registry, loaded)
            store = setup.open_store(cpu, root=Path(scratch, "features"))
            with setup.open_crf(workers=1) as pool:
                out = Path(scratch, "results")
                outcome = run_cell(setup, spec.seed, store=store, pool=pool, out=out, crf_engine="lattice")
            results[name] = (_summary(outcome.record), read_arrays(outcome.path, outcome.record))
        here = environment("cpu")
        machine = {name: here[name] for name in _DECIDES}
        return Golden(machine | {"kernels": torch.backends.cpu.get_cpu_capability()}, results)


def write_golden(folder: Path, golden: Golden) -> list[Path]:
    """Write golden files into `folder` and remove those of runs that are no longer planned.

    Returns:
        The files written, the JSON last.

    Raises:
        DataError: when they cannot be written, or would replace files that the JSON does not name; nothing
            half-written stays.
    """
    runs = {name: summary for name, (summary, _) in golden.results.items()}
    content = msgspec.json.format(
        msgspec.json.encode(_Index(environment=golden.environment, runs=runs)), indent=1
    )
    files = [(folder / f"{name}.npz", _pack(arrays)) for name, (_, arrays) in golden.results.items()]
    index = folder / INDEX
    known = set(read_json(index, _Names, "golden index").runs) if index.exists() else set()
    try:
        for path, packed in files:
            if path.exists() and path.stem not in known and path.read_bytes() != packed:
                raise DataError(f"{path} would be replaced, and {INDEX} does not name it.")
        write_together([*files, (index, content + b"\n")])
        for name in known - runs.keys():
            (folder / f"{name}.npz").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"The golden files cannot be written to {folder}: {error.strerror}.") from None
    return [*(path for path, _ in files), folder / INDEX]


def read_golden(folder: Path) -> Golden:
    """Read the golden files of a folder.

    Raises:
        UsageError: when there are none yet.
        DataError: when one is missing or damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        raise UsageError(
            f"{folder} has no golden results yet.", hint="Make them with --update, and commit them."
        )
    try:
        index = msgspec.json.decode(path.read_bytes(), type=_Index)
    except (OSError, *JSON_ERRORS) as error:
        raise DataError(f"{path} does not hold golden results: {error}.") from None
    results = {name: (summary, _read(folder / f"{name}.npz")) for name, summary in index.runs.items()}
    return Golden(index.environment, results)


def _summary(record: RunRecord) -> Summary:
    if record.last is None:
        raise UsageError(
            f"Dataset '{record.cell.dataset.name}' has no labels, so that a golden run on it has no counts.",
            hint="Name a dataset with labels in the plan.",
        )
    rows = {"raw": record.last.raw, "crf": record.last.crf or record.last.raw}
    return Summary(
        cell=record.cell,
        classes=[row.name for row in record.classes],
        accuracy={name: row.accuracy or 0.0 for name, row in rows.items()},
        miou={name: row.miou or 0.0 for name, row in rows.items()},
        curves=record.curves,
    )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pack(arrays: Arrays) -> bytes:
    named = {name: np.array(getattr(arrays, name), dtype=np.str_) for name in ("image_ids", "map_ids")}
    for one in REFINEMENTS:
        named[f"counts/{one}"] = arrays.counts["last", one].astype(np.int32)
        named[f"maps/{one}"] = arrays.maps["last", one]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **named)  # type: ignore[arg-type]
    return buffer.getvalue()


def _read(path: Path) -> Arrays:
    try:
        file = read_npz(path.read_bytes())
        return Arrays(
            image_ids=file["image_ids"].tolist(),
            counts={("last", one): file[f"counts/{one}"].astype(np.int64) for one in REFINEMENTS},
            map_ids=file["map_ids"].tolist(),
            maps={("last", one): file[f"maps/{one}"] for one in REFINEMENTS},
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} does not hold golden counts: {error}.", hint="Take it from git again, or use --update."
        ) from None
