"""Boards as CSV: one row per setting, and one row per record."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from uss_bench.board import text
from uss_bench.board.model import METRICS, SCORES, Board, Measure, Row, Run, Score

Line = dict[str, Any]


def settings(boards: Sequence[Board]) -> str:
    """Return one row per setting and table; floors stand in several tables."""
    return _csv(_table(board) | _setting(row) for board in boards for row in board.rows)


def records(boards: Sequence[Board], home: Path) -> str:
    """Return one row per record and table.

    Args:
        home: the folder that paths of records are relative to.
    """
    return _csv(
        _table(board) | _record(row, run, home) for board in boards for row in board.rows for run in row.runs
    )


def _table(board: Board) -> Line:
    key = board.key
    return {
        "table": board.slug,
        "dataset": key.dataset,
        "train_split": key.train_split,
        "test_split": key.test_split,
        "limit": key.limit or None,
        "fingerprint": key.fingerprint,
        "protocol": key.protocol,
        "protocol_hash": key.protocol_hash,
        "backbone": board.backbone,
        "images": board.images,
        "classes": len(board.classes),
    }


def _identity(row: Row) -> Line:
    return {
        "method": row.method,
        "label": row.label,
        "params": json.dumps(dict(row.params), sort_keys=True, ensure_ascii=False),
        "floor": row.floor,
        "clusters": row.clusters,
    }


def _setting(row: Row) -> Line:
    line = _identity(row) | {
        "seeds": len(row.runs),
        "stale": row.stale,
        "labels_used": "; ".join(row.labels_used),
    }
    for score in SCORES:
        line |= _measure(row.measures.get(score), _name(score))
        line[f"{_name(score)}_gap"] = _rounded(row.gap.get(score))
    low, high = row.clusters_used
    return line | {
        "clusters_used_min": low,
        "clusters_used_max": high,
        "train_seconds": _rounded(row.train_seconds),
        "peak_bytes": row.peak_bytes,
        **_published(row),
        "records": " ".join(run.id for run in row.runs),
    }


def _measure(measure: Measure | None, name: str) -> Line:
    return {
        f"{name}_mean": _rounded(measure.mean if measure else None),
        f"{name}_sd": _rounded(measure.sd if measure else None),
        f"{name}_low": _rounded(measure.low if measure else None),
        f"{name}_high": _rounded(measure.high if measure else None),
        f"{name}_note": measure.note if measure else None,
        f"{name}_tier": measure.tier if measure else None,
        f"{name}_place": measure.place if measure else None,
    }


def _published(row: Row) -> Line:
    """Return the most comparable claim."""
    nearest = row.published[0] if row.published else None
    line: Line = {"published_source": nearest and nearest.source}
    for metric in METRICS:
        printed = nearest.printed[metric] if nearest else None
        line[f"published_{metric}"] = printed if printed != text.MISSING else None
        line[f"reproduction_{metric}"] = nearest.status.get(metric) if nearest else None
    return line


def _record(row: Row, run: Run, home: Path) -> Line:
    line = _identity(row) | {"seed": run.seed, "id": run.id, "code": run.code, "stale": run.stale}
    line["labels_used"] = "; ".join(run.labels_used)
    for score in SCORES:
        line[_name(score)] = run.scores.get(score)
        line[f"{_name(score)}_label_selected"] = run.selected.get(score)
    return line | {
        "clusters_used": run.clusters_used,
        "train_seconds": _rounded(run.train_seconds),
        "peak_bytes": run.peak_bytes,
        "device": run.machine,
        "created": run.created,
        "notes": "; ".join(run.notes),
        "record": Path(os.path.relpath(run.path, home)).as_posix(),
        "command": run.command,
    }


def _name(score: Score) -> str:
    refinement, metric = score
    return f"{metric}_{refinement}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _csv(lines: Iterable[Line]) -> str:
    buffer = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for line in lines:
        if writer is None:
            writer = csv.DictWriter(buffer, list(line), lineterminator="\n")
            writer.writeheader()
        writer.writerow(line)
    return buffer.getvalue()
