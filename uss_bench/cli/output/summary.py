"""What a person reads in the terminal after a run: one table, and what it says about itself."""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import click

from uss_bench.cli.output.plans import SCORES
from uss_bench.cli.output.tables import table
from uss_bench.launch.resolutions import Resolution
from uss_bench.results.record import RELEASED, CheckpointResult, RunRecord
from uss_bench.results.scores import REFINEMENTS, final_row, four_scores, peak_bytes
from uss_bench.runtime import progress
from uss_bench.runtime.formatting import MISSING, assignments, byte_size, duration, mean_sd, number
from uss_bench.training.monitoring import collapse_warning

_SHOWN_CLASSES = 3


def print_header(found: Resolution) -> None:
    """Say on standard error what is about to run."""
    cell = found.cell
    params = assignments(cell.method.params)
    preset = f"preset {found.preset}, " if found.preset else ""
    lines = [
        click.style(f"{found.title} on {cell.dataset.name}", bold=True),
        f"  images     {found.train_images} to train on, {found.test_images} to test"
        + ("" if found.labeled else " (no labels: nothing will be scored)"),
        f"  trains on  {cell.training.describe()}",
        f"  backbone   {cell.backbone.name} (patch {found.patch})",
        f"  protocol   {cell.protocol} ({cell.protocol_hash})"
        + (f", alpha {cell.alpha:g} by the method's spec" if found.own_alpha else ""),
        f"  parameters {preset}{params}",
    ]
    progress.say("\n".join(lines))


def run_summary(records: Sequence[RunRecord]) -> str:
    """Return the table of one or more seeds of the same cell."""
    if not records:
        return ""
    first = records[0]
    cell = first.cell
    origin = RELEASED if cell.is_released else "external" if cell.method.is_external else ""
    method = f"{cell.method.name} ({origin})" if origin else cell.method.name
    title = f"{method} · {cell.dataset.name} · {cell.backbone.name} · {cell.protocol}"
    trained = "" if origin else f" · trained on {cell.training.describe()}"
    parts = ["", click.style(title, bold=True) + trained]
    scored = [record for record in records if record.last is not None]
    if scored:
        parts += [_score_table(scored), "", *filter(None, [_class_line(scored), _absent_line(scored[0])])]
        parts += [] if origin else [_selection_line(scored)]
    else:
        parts.append(f"{first.images} images predicted with {first.clusters} clusters; no labels, no scores.")
    times = _time_line(records)
    return "\n".join([*parts, *_monitor_lines(records), *([times] if times else []), ""])


def _score_table(records: Sequence[RunRecord]) -> str:
    rows: list[list[str]] = []
    for record in records:
        assert record.last is not None
        train = record.phases.get("train")
        used = f"{record.last.raw.clusters_used} of {record.clusters}"
        rows.append(
            [str(record.cell.seed), *_four(record.last), used, duration(train.seconds if train else None)]
        )
    if len(records) > 1:
        columns = zip(*[four_scores(record.last) for record in records if record.last], strict=True)
        rows.append(["mean ± sd", *map(mean_sd, columns)])
    headers = ["seed", *SCORES, "clusters used", "train"]
    return table(rows, headers, align="r*")


def _four(result: CheckpointResult) -> list[str]:
    values = [number(value) for value in four_scores(result)]
    return values + [MISSING] * (len(SCORES) - len(values))


def _class_line(records: Sequence[RunRecord]) -> str:
    record = records[0]
    named = zip(record.classes, final_row(record).iou, strict=True)
    ranked = sorted(
        ((row.name, iou) for row, iou in named if iou is not None), key=lambda pair: pair[1], reverse=True
    )
    shown = min(_SHOWN_CLASSES, len(ranked) // 2)
    if not shown:
        return ""
    best = ", ".join(f"{name} {iou:.1f}" for name, iou in ranked[:shown])
    worst = ", ".join(f"{name} {iou:.1f}" for name, iou in ranked[-shown:])
    return f"IoU, seed {record.cell.seed}: best {best}; worst {worst}"


def _absent_line(record: RunRecord) -> str:
    """Name the classes that no scored pixel is of: they count in no score, or as 0."""
    assert record.last is not None
    rows = zip(record.classes, record.last.raw.recall, strict=True)
    absent = ", ".join(row.name for row, recall in rows if recall is None)
    return f"No test pixel is of the classes: {absent}." if absent else ""


def _selection_line(records: Sequence[RunRecord]) -> str:
    """Say what choosing the checkpoint by the labels would have given."""
    gaps = []
    for record in records:
        if record.selected is None or record.last is None or record.selected.crf is None:
            continue
        gaps.append((record.selected.crf.miou or 0.0) - (final_row(record).miou or 0.0))
    if not gaps or not any(len(record.candidates) > 1 for record in records):
        return "The method offered no other checkpoint."
    return (
        f"Checkpoint chosen by labels, as the literature does: {statistics.fmean(gaps):+.1f} mIoU "
        f"against the last one (which the table shows)."
    )


def _monitor_lines(records: Sequence[RunRecord]) -> list[str]:
    """Say what the first record's final state does with unlabeled patches, and which runs collapsed."""
    lines = []
    first = records[0]
    if first.monitor:
        last = first.monitor[-1]
        agreement = "" if last.agreement is None else f", {last.agreement:.1%} as at the checkpoint before"
        lines.append(
            f"Without labels, seed {first.cell.seed}: {last.used} of {first.clusters} clusters used, "
            f"entropy {last.entropy:.2f}, largest {last.largest:.1%}{agreement}"
        )
    for record in records:
        if warning := collapse_warning(record.monitor, record.clusters):
            lines.append(click.style(f"Warning, seed {record.cell.seed}: {warning}.", fg="yellow"))
    return lines


def _time_line(records: Sequence[RunRecord]) -> str:
    record = records[0]
    if not record.phases:  # label maps made elsewhere took no time here
        return ""
    phases = " · ".join(f"{name} {duration(phase.seconds)}" for name, phase in record.phases.items())
    peak = peak_bytes(record)
    memory = "" if peak is None else f" · peak memory {byte_size(peak)}"
    return f"Time, seed {record.cell.seed}: {phases}{memory}"


def records_table(records: Iterable[RunRecord], stale: Container[str] = ()) -> str:
    """Return one row per record, grouped by dataset and protocol.

    Args:
        stale: ids of records whose method's code has changed since.
    """
    rows = []
    records = sorted(records, key=lambda one: (one.cell.dataset.name, one.cell.protocol, one.stem))
    varied = _varied_parameters(records)
    for record in records:
        cell = record.cell
        names = varied[cell.dataset.name, cell.method.name]
        differs = assignments({name: value for name, value in cell.method.params.items() if name in names})
        values = _four(record.last) if record.last else [MISSING] * len(SCORES)
        state = "failed" if record.status == "failed" else "" if record.last else "unlabeled"
        if record.id in stale:
            state = f"{state} stale".strip()
        if record.labels_used:
            state = f"{state} labels used".strip()
        where = (cell.dataset.name, cell.method.name, cell.seed, cell.backbone.name, cell.protocol)
        state = f"{state} external".strip() if cell.method.is_external else state
        state = f"{state} {RELEASED}".strip() if cell.is_released else state
        rows.append((*where, *values, f"{differs} {state}".strip(), record.id[:12]))
    headers = ["dataset", "method", "seed", "backbone", "protocol", *SCORES, "", "id"]
    return table(rows, headers)


def _varied_parameters(records: Iterable[RunRecord]) -> dict[tuple[str, str], list[str]]:
    """Return, per dataset and method, the parameters that are not the same in all records."""
    seen: dict[tuple[str, str], dict[str, set[str]]] = {}
    for record in records:
        values = seen.setdefault((record.cell.dataset.name, record.cell.method.name), {})
        for name, value in record.cell.method.params.items():
            values.setdefault(name, set()).add(repr(value))
    return {key: [name for name, found in values.items() if len(found) > 1] for key, values in seen.items()}


def record_page(record: RunRecord, path: Path) -> str:
    """Return everything a record says that a person would ask for."""
    cell = record.cell
    environment, external = record.environment, record.external
    facts = [
        ("id", record.id),
        ("file", path),
        ("parameters", assignments(cell.method.params)),
        ("method", ", ".join(filter(None, (external.title, external.paper))) if external else ""),
        ("ingredients", ", ".join(external.ingredients) if external else ""),
        ("code", f"{cell.method.code}, git {environment.get('git') or 'unknown'}"),
        ("dataset", f"{cell.dataset.name} {cell.dataset.fingerprint[:12]}, {record.images} test images"),
        ("backbone", f"{cell.backbone.name} {cell.backbone.sha256[:12]}, {cell.backbone.feature_dtype}"),
        (
            "protocol",
            f"{cell.protocol} ({cell.protocol_hash}), alpha {cell.alpha:g}, CRF {record.crf_engine}",
        ),
        ("machine", f"{environment.get('processor', '')} · {environment.get('device', '')}"),
        ("torch", environment.get("torch", "")),
        ("created", record.created),
        ("command", record.command),
        ("labels", ", ".join(record.labels_used) or "used for scoring only"),
        ("notes", "; ".join(record.notes)),
        ("reason", record.reason),
    ]
    parts = [run_summary([record]), table([fact for fact in facts if fact[1]], widths=[None, 90])]
    if record.last is not None:
        parts += ["", class_table(record)]
    if len(record.candidates) > 1:
        parts += ["", _candidate_table(record)]
    return "\n".join(parts)


def class_table(record: RunRecord) -> str:
    """Return IoU, precision and recall per class, raw and CRF, for the last checkpoint."""
    assert record.last is not None
    results = [record.last.raw] + ([record.last.crf] if record.last.crf else [])
    rows = []
    for index, row in enumerate(record.classes):
        values = [
            column[index] for result in results for column in (result.iou, result.precision, result.recall)
        ]
        rows.append([row.name, *map(number, values)])
    names = list(REFINEMENTS.values())[: len(results)]
    headers = ["class", *(f"{column} {name}" for name in names for column in ("IoU", "precision", "recall"))]
    return table(rows, headers, align="r*")


def _candidate_table(record: RunRecord) -> str:
    rows = [
        (one.step if one.step is not None else "last", number(one.accuracy), number(one.miou))
        for one in record.candidates
    ]
    headers = ["checkpoint", "Acc", "mIoU (raw, unflipped, patch resolution)"]
    return table(rows, headers)
