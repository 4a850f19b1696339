"""One record against itself: its place, its protocol, its counts, its scores and its provenance."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from uss_bench.audit.findings import AuditFinding, note, wrong
from uss_bench.errors import DataError
from uss_bench.protocol import get_protocol, protocol_names
from uss_bench.results.arrays import Arrays
from uss_bench.results.collection import Entry
from uss_bench.results.files import read_state
from uss_bench.results.record import Cell, RunRecord, ScoreRow

CodeOf = Callable[[Cell], str | None]
AGAIN = "make it again: uss-bench run … --force"

ENVIRONMENT = (
    "uss-bench",
    "python",
    "torch",
    "timm",
    "numpy",
    "scipy",
    "numba",
    "pillow",
    "system",
    "processor",
    "cores",
    "threads",
    "device",
    "git",
)
"""What every record says of its machine; `uss_bench.results.provenance.environment` writes it."""

_SCORE_TOLERANCE = 1e-3
"""In percent points: scores are kept with four decimals, and the last may round the other way."""


def check_record(
    entry: Entry, current_code: CodeOf, known_stale: Collection[str] = ()
) -> Iterator[AuditFinding]:
    """Yield what is wrong with, or worth knowing of, one finished record.

    Args:
        current_code: returns the digest of a method's code as it is now; None where it is not installed.
        known_stale: methods, or records by `record_name`, that may be stale: they are to be made again.
    """
    yield from _place(entry)
    yield from _protocol(entry)
    yield from _candidates(entry)
    yield from _code(entry, current_code, known_stale)
    yield from _provenance(entry)
    yield from _state(entry)
    if entry.record.last is not None:
        try:
            arrays = entry.arrays
        except DataError as error:
            yield wrong(entry.path, error.what, "restore the npz, or " + AGAIN)
            return
        yield from _counts(entry, arrays)
        yield from _maps(entry, arrays)


def _place(entry: Entry) -> Iterator[AuditFinding]:
    record, path = entry.record, entry.path
    if path.stem != record.stem:
        yield wrong(path, f"its inputs give the name {record.stem}.json", "rename it, with its npz")
    if path.parent.name != record.cell.dataset.name:
        yield wrong(path, f"it is of dataset '{record.cell.dataset.name}'", "move it to that folder")


def _protocol(entry: Entry) -> Iterator[AuditFinding]:
    cell, protocol = entry.record.cell, entry.record.protocol
    if protocol.hash != cell.protocol_hash:
        yield wrong(
            entry.path,
            f"its protocol's fields give the hash {protocol.hash}, not {cell.protocol_hash}",
            AGAIN,
        )
    name = cell.protocol.partition("[")[0]
    if name not in protocol_names():
        yield note(entry.path, f"protocol '{name}' is not known here", "update uss-bench")
    elif get_protocol(cell.protocol).hash != cell.protocol_hash:
        yield wrong(
            entry.path,
            f"'{cell.protocol}' means something else today: {get_protocol(cell.protocol).hash}",
            "give the changed protocol a new version",
        )


def _candidates(entry: Entry) -> Iterator[AuditFinding]:
    record = entry.record
    steps = [one.step for one in record.candidates]
    if record.selected is None:
        return
    if not steps:
        if record.selected.step is not None:
            yield wrong(entry.path, "a checkpoint was selected where none was offered", AGAIN)
        return
    if record.selected.step not in steps:
        yield wrong(entry.path, f"the selected step {record.selected.step} is not a candidate", AGAIN)
        return
    best = max(one.miou or 0.0 for one in record.candidates)
    chosen = max(one.miou or 0.0 for one in record.candidates if one.step == record.selected.step)
    if chosen < best:
        yield wrong(
            entry.path, f"the selected step has mIoU {chosen:.2f}, the best candidate {best:.2f}", AGAIN
        )


def record_name(path: Path) -> str:
    """Return how a list of stale records names one: ``toy3/dino-s0-0123456789ab``."""
    return f"{path.parent.name}/{path.stem}"


def is_stale(record: RunRecord, current_code: CodeOf) -> bool:
    """Whether a record's method has other code now, as far as is known."""
    return current_code(record.cell) not in (None, record.cell.method.code)


def _code(entry: Entry, current_code: CodeOf, known_stale: Collection[str]) -> Iterator[AuditFinding]:
    method = entry.record.cell.method
    if method.is_external:
        return
    if current_code(entry.record.cell) is None:
        yield note(
            entry.path,
            f"method '{method.name}' is not installed: whether it is stale is not known",
            "–",
        )
    elif is_stale(entry.record, current_code):
        finding = note if {method.name, record_name(entry.path)} & {*known_stale} else wrong
        yield finding(
            entry.path,
            f"stale: the code of '{method.name}' was {method.code} and is {current_code(entry.record.cell)}",
            AGAIN,
        )


def _provenance(entry: Entry) -> Iterator[AuditFinding]:
    record, path = entry.record, entry.path
    missing = [key for key in ENVIRONMENT if key not in record.environment]
    if missing:
        yield wrong(path, f"the environment lacks {', '.join(missing)}", AGAIN)
    git = str(record.environment.get("git", ""))
    if git.endswith("+changes"):
        yield note(path, "made by a checkout with changes that no commit has", "make it again from a commit")
    elif not git:
        yield note(path, "no commit is recorded: it was not made from a checkout", "trust its code hash")
    try:
        datetime.datetime.fromisoformat(record.created)
    except ValueError:
        yield wrong(path, f"'{record.created}' is not a date of creation", AGAIN)
    if not record.command:
        yield note(path, "no command is recorded", "make it with uss-bench run, so that others can")
    if record.labels_used:
        used = ", ".join(record.labels_used)
        yield note(path, f"labels were used for {used}", "say so beside its number")


def _state(entry: Entry) -> Iterator[AuditFinding]:
    # The trained state is convenient and no part of what is committed, so only one that lies there counts.
    if entry.path.with_suffix(".safetensors").is_file() and entry.record.state_sha256:
        try:
            read_state(entry.path, entry.record)
        except DataError as error:
            yield wrong(entry.path, error.what, "delete the state, or " + AGAIN)


def _counts(entry: Entry, arrays: Arrays) -> Iterator[AuditFinding]:
    record, path = entry.record, entry.path
    if len(arrays.image_ids) != record.images or len(set(arrays.image_ids)) != record.images:
        yield wrong(path, f"{len(set(arrays.image_ids))} image ids in the npz, {record.images} images", AGAIN)
    for checkpoint, refinement, row in record.score_rows():
        for what, stated, given in _disagreements(row, arrays.counts[checkpoint, refinement], record):
            where = f"{checkpoint} {refinement}"
            yield wrong(path, f"{where}: {what} is {stated} in the record, and {given} by its counts", AGAIN)


def _disagreements(
    row: ScoreRow, counts: np.ndarray, record: RunRecord
) -> Iterator[tuple[str, object, object]]:
    from uss_bench.evaluation.scoring import score_row, score_under

    due = score_row(score_under(counts, record.protocol, row.class_of_cluster))
    scalars = ("pixels", "clusters_used", "accuracy", "miou")
    stated = {name: getattr(row, name) for name in scalars}
    given = {name: getattr(due, name) for name in scalars}
    for column in ("iou", "precision", "recall"):
        for index, class_row in enumerate(record.classes):
            stated[f"{column} of {class_row.name}"] = getattr(row, column)[index]
            given[f"{column} of {class_row.name}"] = getattr(due, column)[index]
    differing = [name for name in stated if not _same(stated[name], given[name])]
    # One is enough to tell; the first is the broadest.
    for name in differing[:1]:
        yield name, stated[name], given[name]
    # Empty clusters and ties leave the assignment open, but not how many pixels it gets right.
    if not differing:
        right = _correct(row.class_of_cluster, counts)
        if not _same(round(100 * right / max(1, due.pixels), 4), due.accuracy or 0.0):
            yield "class_of_cluster", "no matching with this accuracy", due.class_of_cluster


def _correct(class_of_cluster: list[int], counts: np.ndarray) -> int:
    """Return the pixels that an assignment gets right."""
    total = counts.sum(axis=0, dtype=np.int64)
    return int(sum(total[cluster, one] for cluster, one in enumerate(class_of_cluster) if one >= 0))


def _same(stated: float | None, given: float | None) -> bool:
    if stated is None or given is None:
        return stated is given
    return abs(stated - given) <= (_SCORE_TOLERANCE if isinstance(given, float) else 0)


def _maps(entry: Entry, arrays: Arrays) -> Iterator[AuditFinding]:
    if not {*arrays.map_ids} <= {*arrays.image_ids}:
        yield wrong(entry.path, "it keeps maps of images that it does not count", AGAIN)
