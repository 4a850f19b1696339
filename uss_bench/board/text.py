"""How a board's numbers are written, in every output alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from uss_bench.board.model import Board, Measure, Metric, Published, Row, Score
from uss_bench.records import Refinement

MISSING = "–"
TIED = "tied with 1st"
METRICS: dict[Metric, str] = {"accuracy": "Acc", "miou": "mIoU"}
REFINEMENTS: dict[Refinement, str] = {"raw": "raw", "crf": "CRF"}

STALE = "†"
LABELLED = "‡"
_MEANINGS = {
    STALE: "stale: the method's code has changed since",
    LABELLED: "labels were used for more than scoring; not ranked",
}


def score_name(score: Score) -> str:
    refinement, metric = score
    return f"{METRICS[metric]} {REFINEMENTS[refinement]}"


def mean(measure: Measure | None) -> str:
    """``15.6 ± 0.8``, or ``15.6`` for a single seed."""
    if measure is None:
        return MISSING
    return f"{measure.mean:.1f}" + (f" ± {measure.sd:.1f}" if measure.sd is not None else "")


def interval(measure: Measure | None) -> str:
    """``14.6–16.0``."""
    if measure is None or measure.low is None or measure.high is None:
        return MISSING
    return f"{measure.low:.1f}–{measure.high:.1f}"


def rank(measure: Measure | None) -> str:
    if measure is None or measure.tier is None:
        return MISSING
    if measure.place == 1:
        return "1st"
    return TIED if measure.tier == 1 else f"tier {measure.tier}"


def gap(row: Row, score: Score) -> str:
    """``+2.0``: what choosing the checkpoint by the labels would have added."""
    return f"{row.gap[score]:+.1f}".replace("-", "−") if score in row.gap else MISSING


def clusters(row: Row) -> str:
    """``9–11 of 11``: used by the seeds, of those that the method has."""
    low, high = row.clusters_used
    return f"{low if low == high else f'{low}–{high}'} of {row.clusters}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 1:
        return "< 1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def memory(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count else MISSING


def percent(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def claim(one: Published) -> str:
    """``77.0 / 62.6``: accuracy and mIoU as printed."""
    return " / ".join(one.printed[metric] for metric in METRICS)


def claim_source(one: Published) -> str:
    """``stego, Table 2, dino_vits8, CRF``."""
    words = [one.source, one.backbone, REFINEMENTS[one.refinement]]
    return ", ".join(word for word in words if word)


def status(one: Published) -> str:
    """``reproduced``, or ``Acc higher, mIoU reproduced`` where the two differ."""
    if len(set(one.status.values())) == 1:
        return next(iter(one.status.values()))
    return ", ".join(f"{METRICS[metric]} {found}" for metric, found in one.status.items())


def value(parameter: Any) -> str:
    """A parameter's value as ``--set`` takes it."""
    return parameter if isinstance(parameter, str) else json.dumps(parameter, ensure_ascii=False)


def marks(row: Row) -> str:
    return (STALE if row.stale else "") + (LABELLED if row.labels_used else "")


def legend(rows: Iterable[Row]) -> list[str]:
    """What the marks mean that some row bears."""
    borne = "".join(marks(row) for row in rows)
    return [f"{mark} {meaning}" for mark, meaning in _MEANINGS.items() if mark in borne]


def data_line(board: Board) -> str:
    """``233 test images (train → test), 11 classes, protocol stego322@1 (af0fe5…)``."""
    key = board.key
    limit = f", at most {key.limit} of each split" if key.limit else ""
    return (
        f"{board.images} test images ({key.train_split} → {key.test_split}{limit}), "
        f"{len(board.classes)} classes, protocol hash {key.protocol_hash}"
    )


def seeds_line(rows: Sequence[Row]) -> str:
    """How many seeds the rows have, as a reader has to know it to read ±."""
    counts = sorted({len(row.runs) for row in rows})
    if counts == [1]:
        return "one seed"
    if len(counts) == 1:
        return f"mean ± standard deviation over {counts[0]} seeds"
    return "mean ± standard deviation over the seeds of each row"


def notes(board: Board) -> list[str]:
    """What the intervals of a board confess, each once."""
    found = {measure.note for row in board.rows for measure in row.measures.values()}
    return sorted(found - {""})
