"""Golden results: made by the plan's runs, kept as one readable JSON and one npz per run."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from uss_bench import progress
from uss_bench.arrays import read_npz
from uss_bench.crf import CrfPool
from uss_bench.errors import DataError, UsageError
from uss_bench.features import FeatureStore
from uss_bench.json_files import JSON_ERRORS
from uss_bench.paths import write_together
from uss_bench.provenance import environment
from uss_bench.record_files import read_arrays
from uss_bench.records import Cell, Refinement, RunRecord
from uss_bench.registry import Registry
from uss_bench.regression.plan import Plan, Planned, planned
from uss_bench.runner import run_cell
from uss_bench.setup import Setup, resolve

INDEX = "golden.json"
_REFINEMENTS: tuple[Refinement, ...] = ("raw", "crf")
_DECIDES = ("torch", "timm", "numpy", "scipy", "numba", "pillow", "system", "processor", "threads", "device")
"""What of an environment decides whether the same bytes can be asked for."""


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the JSON says of a run: its inputs, its scores in percent, its training curves."""

    cell: Cell
    classes: list[str]
    accuracy: dict[str, float]
    miou: dict[str, float]
    curves: dict[str, list[tuple[int, float]]]


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    environment: dict[str, Any]
    runs: dict[str, Summary]


@dataclass(frozen=True)
class Result:
    """One run: what the JSON says of it, and the arrays of its npz."""

    summary: Summary
    image_ids: list[str]
    counts: dict[Refinement, np.ndarray]
    """int64 (N, K, C) of the last checkpoint."""
    map_ids: list[str]
    maps: dict[Refinement, np.ndarray]
    """uint8 (M, H, W): the clusters of some of the images."""


@dataclass(frozen=True)
class Golden:
    """Results by the name of their run, and the machine that made them."""

    environment: dict[str, Any]
    results: dict[str, Result]


def measure(plan: Plan, registry: Registry) -> Golden:
    """Run everything that a plan asks for, on the CPU, with features extracted anew.

    Raises:
        UssBenchError: when a run fails.
    """
    results: dict[str, Result] = {}
    with _threads(plan.threads), tempfile.TemporaryDirectory(prefix="uss-bench-golden-") as scratch:
        for run in planned(plan, registry):
            progress.log(run.name)
            results[run.name] = _run(run, resolve(run.request, registry), Path(scratch))
        return Golden(_machine(), results)


def write_golden(folder: Path, golden: Golden) -> list[Path]:
    """Write golden files into `folder` and remove those of runs that are no longer planned.

    Returns:
        The files written, the JSON last.

    Raises:
        DataError: when they cannot be written; nothing half-written stays.
    """
    index = _Index(
        environment=golden.environment, runs={name: one.summary for name, one in golden.results.items()}
    )
    content = msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n"
    files = [(folder / f"{name}.npz", _pack(one)) for name, one in golden.results.items()]
    files.append((folder / INDEX, content))
    try:
        write_together(files)
        for path in folder.glob("*.npz"):
            if path.stem not in golden.results:
                path.unlink()
    except OSError as error:
        raise DataError(f"The golden files cannot be written to {folder}: {error.strerror}.") from None
    return [path for path, _ in files]


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
    results = {name: _read(folder / f"{name}.npz", summary) for name, summary in index.runs.items()}
    return Golden(index.environment, results)


def _run(run: Planned, setup: Setup, scratch: Path) -> Result:
    cpu = torch.device("cpu")
    store = FeatureStore(
        scratch / "features",
        setup.backbone.to(cpu),
        positions=setup.protocol.positions,
        device=cpu,
        dtype=setup.feature_dtype,
    )
    # A few small images are refined sooner than worker processes start.
    with CrfPool(setup.protocol.crf, workers=1) as pool:
        outcome = run_cell(
            setup, run.seed, store=store, pool=pool, out=scratch / "results", crf_engine="lattice"
        )
    arrays = read_arrays(outcome.path, outcome.record)
    return Result(
        summary=_summary(outcome.record),
        image_ids=arrays.image_ids,
        counts={one: arrays.counts["last", one] for one in _REFINEMENTS},
        map_ids=arrays.map_ids,
        maps={one: arrays.maps["last", one] for one in _REFINEMENTS},
    )


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


def _machine() -> dict[str, Any]:
    here = environment("cpu")
    chosen = {name: here[name] for name in _DECIDES}
    return chosen | {"kernels": torch.backends.cpu.get_cpu_capability()}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pack(result: Result) -> bytes:
    named: dict[str, np.ndarray] = {
        "image_ids": np.array(result.image_ids, dtype=np.str_),
        "map_ids": np.array(result.map_ids, dtype=np.str_),
    }
    for refinement in _REFINEMENTS:
        named[f"counts/{refinement}"] = result.counts[refinement].astype(np.int32)
        named[f"maps/{refinement}"] = result.maps[refinement]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **named)  # type: ignore[arg-type]
    return buffer.getvalue()


def _read(path: Path, summary: Summary) -> Result:
    try:
        file = read_npz(path.read_bytes())
        return Result(
            summary=summary,
            image_ids=file["image_ids"].tolist(),
            counts={one: file[f"counts/{one}"].astype(np.int64) for one in _REFINEMENTS},
            map_ids=file["map_ids"].tolist(),
            maps={one: file[f"maps/{one}"] for one in _REFINEMENTS},
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} does not hold golden counts: {error}.", hint="Take it from git again, or use --update."
        ) from None
