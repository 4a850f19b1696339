"""How a board's numbers are written, in every output alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from uss_bench.board.model import Board, Measure, Row, Score
from uss_bench.board.published import Published
from uss_bench.experiment.command_line import with_all_seeds
from uss_bench.results.scores import METRICS, REFINEMENTS
from uss_bench.runtime.formatting import MISSING, mean_sd, number

TIED = "tied with 1st"
STALE = "†"
LABELED = "‡"
ORACLE = (
    "Per-image oracle: clusters are matched in every image by its own labels, as DiffSeg and DiffCut report. "
    "No rank uses it."
)
_MEANINGS = {
    STALE: "stale: the method's code has changed since",
    LABELED: "labels were used for more than scoring; not ranked",
}


def score_name(score: Score) -> str:
    refinement, metric = score
    return f"{METRICS[metric]} {REFINEMENTS[refinement]}"


def mean(measure: Measure | None) -> str:
    """``15.6 ± 0.8``, or ``15.6`` for a single seed."""
    return MISSING if measure is None else mean_sd(measure.values)


def interval(measure: Measure | None) -> str:
    """``14.6–16.0``."""
    if measure is None or measure.low is None:
        return MISSING
    return f"{number(measure.low)}–{number(measure.high)}"


def rank(measure: Measure | None) -> str:
    if measure is None or measure.tier is None:
        return MISSING
    if measure.place == 1:
        return "1st"
    return TIED if measure.tier == 1 else f"tier {measure.tier}"


def against(variant: Row, row: Row, score: Score) -> str:
    """``−3.1``: a variant's mean minus that of its method's row."""
    if score not in variant.measures or score not in row.measures:
        return MISSING
    return signed(variant.measures[score].mean - row.measures[score].mean)


def signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def gap(row: Row, score: Score) -> str:
    """``+2.0``: what choosing the checkpoint by the labels would have added."""
    return signed(row.gap[score]) if score in row.gap else MISSING


def oracle(row: Row, score: Score) -> str:
    """``67.2 / 22.4``: accuracy and mIoU of the per-image oracle, refined as `score` is."""
    values = [row.oracle.get((score[0], metric)) for metric in METRICS]
    return MISSING if values == [None, None] else " / ".join(map(number, values))


def clusters(row: Row) -> str:
    """``9–11 of 11``: used by the seeds, of those that the method has."""
    low, high = row.clusters_used
    return f"{low if low == high else f'{low}–{high}'} of {row.runs[0].record.clusters}"


def memory(row: Row) -> str:
    return MISSING if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.1f} GiB"


def commands(row: Row) -> list[str]:
    """Return the commands that repeat a row, each once for all its seeds."""
    return with_all_seeds(run.record.command for run in row.runs if run.record.command)


def claim(one: Published) -> str:
    """``77.0 / 62.6``: accuracy and mIoU as printed."""
    return " / ".join(one.printed.values())


def claim_source(one: Published) -> str:
    """``stego, Table 2, dino_vits8, CRF``."""
    words = [one.source, one.claim.backbone or one.claim.printed_backbone, REFINEMENTS[one.refinement]]
    return ", ".join(word for word in words if word)


def status(one: Published) -> str:
    """``reproduced``, or ``Acc higher, mIoU reproduced`` where the two differ."""
    if len(set(one.status.values())) == 1:
        return next(iter(one.status.values()))
    return ", ".join(f"{METRICS[metric]} {found}" for metric, found in one.status.items())


def marks(row: Row) -> str:
    return (STALE if row.stale else "") + (LABELED if row.labels_used else "")


def legend(rows: Iterable[Row]) -> list[str]:
    """Return the meanings of the marks that some row has."""
    used = "".join(marks(row) for row in rows)
    return [f"{mark} {meaning}" for mark, meaning in _MEANINGS.items() if mark in used]


def data_line(board: Board) -> str:
    """``233 test images (train → test), 11 classes, protocol hash af0fe5…``."""
    key = board.key
    limit = f", at most {key.limit} of each split" if key.limit else ""
    return (
        f"{board.images} test images ({key.train_split} → {key.test_split}{limit}), "
        f"{len(board.classes)} classes, protocol hash {key.protocol_hash}"
    )


def seeds_line(rows: Sequence[Row]) -> str:
    """Say how many seeds the rows have, as a reader has to know it to read ±."""
    counts = {len(row.runs) for row in rows}
    if counts == {1}:
        return "one seed"
    which = f"{counts.pop()} seeds" if len(counts) == 1 else "the seeds of each row"
    return f"mean ± standard deviation over {which}"


def notes(board: Board) -> list[str]:
    """Return the warnings about a board's intervals, each once."""
    found = {measure.note for row in board.every_row for measure in row.measures.values()}
    return sorted(found - {""})


def remarks(board: Board) -> list[str]:
    """Return the lines below a table: the meanings of its marks, and warnings about its intervals."""
    return [*legend(board.every_row), *(f"Intervals: {note}" for note in notes(board))]
