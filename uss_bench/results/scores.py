"""The scores that a record holds: their names, and which of them an output shows."""

from __future__ import annotations

from typing import Literal

from uss_bench.results.record import Checkpoint, CheckpointResult, Refinement, RunRecord, ScoreRow

Metric = Literal["accuracy", "miou"]

METRICS: dict[Metric, str] = {"accuracy": "Acc", "miou": "mIoU"}
"""The overall scores, with the names that tables and figures give them."""

REFINEMENTS: dict[Refinement, str] = {"raw": "raw", "crf": "CRF"}


def score_row(record: RunRecord, refinement: Refinement, checkpoint: Checkpoint = "last") -> ScoreRow | None:
    """Return the scores of a checkpoint, before or after the CRF; None where the record has none."""
    result: CheckpointResult | None = getattr(record, checkpoint)
    return None if result is None else result.crf if refinement == "crf" else result.raw


def final_row(record: RunRecord) -> ScoreRow:
    """Return the refined scores of the last checkpoint, or the raw ones where nothing was refined."""
    assert record.last is not None
    return record.last.crf or record.last.raw


def four_scores(result: CheckpointResult) -> list[float]:
    """Return accuracy and mIoU, raw and then refined, NaN where undefined; two where nothing was refined."""
    rows = [result.raw] + ([result.crf] if result.crf else [])
    return [
        value if value is not None else float("nan") for row in rows for value in (row.accuracy, row.miou)
    ]


def train_seconds(record: RunRecord) -> float | None:
    """Return how long training took, without the extraction of features; None where nothing says so."""
    train = record.phases.get("train")
    return None if train is None else train.seconds


def peak_bytes(record: RunRecord) -> int | None:
    """Return the most memory that any phase of the run took; None where nothing says so."""
    return max((phase.peak_bytes or 0 for phase in record.phases.values()), default=0) or None
