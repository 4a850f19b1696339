"""What runs have cost: one row per finished run, read from records or from the table that is installed.

`costs.csv` beside this file holds the rows of the records in `leaderboards/records`, and what
`benchmarks/phase_costs.py` measured of backbones that have none there; each names its machine. A user's own
records are rows of the same kind.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.errors import DataError
from uss_bench.results.files import read_record, record_files
from uss_bench.results.record import RunRecord
from uss_bench.runtime.text import csv_text

TABLE = Path(__file__).with_name("costs.csv")


class Cost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one run took, and what that depends on. Seconds are those of its phases."""

    method: str
    dataset: str
    backbone: str
    train_side: int
    eval_side: int
    whole: bool
    flip: bool
    clusters: int
    steps: int | None = None
    """None for a method without such a parameter."""
    batch_size: int | None = None
    candidates: int
    """Scored checkpoints, the last one included."""
    points: int
    """States that were monitored."""
    images: int
    encoded: int
    """Items that went through the backbone."""
    extract: float
    train: float
    choose: float
    """Of scoring the candidates."""
    evaluate: float
    monitor: float
    device: str
    processor: str
    cores: int
    counts_bytes: int | None = None
    """Of the counts in the npz, compressed; None where there is no npz."""
    other_bytes: int | None = None
    """Of the JSON and of the rest of the npz, which do not grow with the images."""
    state_bytes: int | None = None
    """Of the trained state; None where it was left out."""
    refined: bool = True
    """Whether its protocol has a CRF, which is most of an evaluation."""

    @property
    def machine(self) -> str:
        return machine_of({"device": self.device, "processor": self.processor, "cores": self.cores})


def machine_of(environment: Mapping[str, Any]) -> str:
    """Return what times depend on, of an environment as records have it: ``AMD EPYC, 2 cores``."""
    where = "" if environment["device"] == "cpu" else f"{environment['device']}, "
    return f"{where}{environment['processor'] or 'unknown processor'}, {environment['cores']} cores"


def cost_of(record: RunRecord, path: Path) -> Cost | None:
    """Return the row of the record at `path`; None for a failed run, or maps made elsewhere."""
    if record.status != "done" or "evaluate" not in record.phases or "train" not in record.phases:
        return None
    params, environment = record.cell.method.params, record.environment
    seconds = {name: round(phase.seconds, 3) for name, phase in record.phases.items()}
    sizes = _npz_sizes(path.with_suffix(".npz"))
    return Cost(
        method=record.cell.method.name,
        dataset=record.cell.dataset.name,
        backbone=record.cell.backbone.name,
        train_side=record.cell.training.side,
        eval_side=record.protocol.eval_side,
        whole=record.protocol.extent == "whole",
        flip=record.protocol.flip,
        clusters=record.clusters,
        steps=whole_number(params.get("steps")),
        batch_size=whole_number(params.get("batch_size")),
        candidates=len(record.candidates),
        points=len(record.monitor),
        images=record.images,
        encoded=record.encoded_items,
        extract=seconds.get("extract", 0.0),
        train=seconds["train"],
        choose=seconds.get("candidates", 0.0),
        evaluate=seconds["evaluate"],
        monitor=seconds.get("monitor", 0.0),
        device=str(environment.get("device", "")),
        processor=str(environment.get("processor", "")),
        cores=whole_number(environment.get("cores")) or 0,
        counts_bytes=sizes[0] if sizes else None,
        other_bytes=sizes[1] + path.stat().st_size if sizes else None,
        state_bytes=_size(path.with_suffix(".safetensors")),
        refined=record.protocol.crf is not None,
    )


def measured_costs(folders: Iterable[Path]) -> list[Cost]:
    """Return the rows of the finished runs below `folders`; what cannot be read is left out."""
    found = []
    for path in sorted({path for folder in folders for path in record_files(folder)}):
        try:
            cost = cost_of(read_record(path), path)
        except (DataError, OSError):
            continue  # other commands report it
        if cost is not None:
            found.append(cost)
    return found


def installed_costs() -> list[Cost]:
    """Return the rows of the table that is installed."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [{name: text for name, text in row.items() if text != ""} for row in csv.DictReader(file)]
    # "", which a processor may be, is left out like any other empty cell.
    return msgspec.convert([{"processor": "", **row} for row in rows], list[Cost], strict=False)


def table_text(costs: Iterable[Cost]) -> str:
    """Return rows as CSV, sorted, with empty cells for what is not known."""
    fields = Cost.__struct_fields__
    rows = [tuple(_cell(getattr(cost, name)) for name in fields) for cost in costs]
    return csv_text([fields, *sorted(rows)])


def whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _npz_sizes(path: Path) -> tuple[int, int] | None:
    """Return the compressed bytes of the counts, and all other bytes of an npz."""
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
        counts = sum(one.compress_size for one in members if one.filename.startswith("counts/"))
        return counts, path.stat().st_size - counts
    except (OSError, zipfile.BadZipFile):
        return None


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None
