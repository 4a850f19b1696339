"""Boards as CSV: one row per configuration, and one row per record."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from uss_bench.board.model import SCORES, Board, Row, Run
from uss_bench.results.record import Checkpoint
from uss_bench.results.scores import METRICS, peak_bytes, score_row, train_seconds
from uss_bench.runtime.formatting import MISSING
from uss_bench.runtime.text import csv_text

Line = dict[str, Any]


def configurations(boards: Sequence[Board]) -> str:
    """Return one row per configuration and table; floors stand in several tables."""
    return _csv([_table(board) | _configuration(row) for board in boards for row in board.every_row])


def records(boards: Sequence[Board], home: Path) -> str:
    """Return one row per record and table.

    Args:
        home: the folder that paths of records are relative to.
    """
    runs = ((board, row, run) for board in boards for row in board.every_row for run in row.runs)
    return _csv([_table(board) | _record(row, run, home) for board, row, run in runs])


def _table(board: Board) -> Line:
    key = asdict(board.key)
    return {
        "table": board.slug,
        **key,
        "limit": board.key.limit or None,
        "backbone": board.backbone,
        "images": board.images,
        "classes": len(board.classes),
    }


def _identity(row: Row) -> Line:
    return {
        "method": row.method,
        "title": row.title,
        "label": row.label,
        "changes": row.changes,
        "params": json.dumps(dict(row.params), sort_keys=True, ensure_ascii=False),
        "floor": row.floor,
        "clusters": row.runs[0].record.clusters,
    }


def _configuration(row: Row) -> Line:
    line = _identity(row) | {
        "seeds": len(row.runs),
        "stale": row.stale,
        "labels_used": "; ".join(row.labels_used),
    }
    for score in SCORES:
        name, measure = f"{score[1]}_{score[0]}", row.measures.get(score)
        for field in ("mean", "sd", "low", "high", "note", "tier", "place"):
            line[f"{name}_{field}"] = _rounded(getattr(measure, field, None))
        line[f"{name}_gap"] = _rounded(row.gap.get(score))
        line[f"{name}_per_image_oracle"] = _rounded(row.oracle.get(score))
    low, high = row.clusters_used
    nearest = row.published[0] if row.published else None  # the most comparable claim
    line |= {
        "clusters_used_min": low,
        "clusters_used_max": high,
        "train_seconds": _rounded(row.train_seconds),
        "peak_bytes": row.peak_bytes,
        "published_source": nearest and nearest.source,
    }
    for metric in METRICS:
        printed = nearest.printed[metric] if nearest else MISSING
        line[f"published_{metric}"] = None if printed == MISSING else printed
        line[f"reproduction_{metric}"] = nearest and nearest.status.get(metric)
    return line | {"records": " ".join(run.record.id for run in row.runs)}


def _record(row: Row, run: Run, home: Path) -> Line:
    record = run.record
    line = _identity(row) | {
        "seed": run.seed,
        "id": record.id,
        "code": record.cell.method.code,
        "stale": run.stale,
        "labels_used": "; ".join(record.labels_used),
    }
    kinds: dict[Checkpoint, str] = {"last": "", "selected": "_label_selected"}
    for score in SCORES:
        line |= {f"{score[1]}_{score[0]}{end}": run.value(score, kind) for kind, end in kinds.items()}
    raw = score_row(record, "raw")
    return line | {
        "clusters_used": raw and raw.clusters_used,
        "train_seconds": _rounded(train_seconds(record)),
        "peak_bytes": peak_bytes(record),
        "device": str(record.environment.get("device", "")),
        "created": record.created,
        "notes": "; ".join(record.notes),
        "record": Path(os.path.relpath(run.path, home)).as_posix(),
        "command": record.command,
    }


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _csv(lines: Sequence[Line]) -> str:
    return csv_text([lines[0], *(line.values() for line in lines)] if lines else [])
