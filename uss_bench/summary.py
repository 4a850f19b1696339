"""What a person reads in the terminal after a run: one table, and what it says about itself."""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import click
from tabulate import tabulate

from uss_bench import progress
from uss_bench.monitoring import collapse_warning
from uss_bench.records import CheckpointResult, RunRecord, ScoreRow
from uss_bench.setup import Setup

_SHOWN_CLASSES = 3


def print_header(setup: Setup) -> None:
    """Say on standard error what is about to run."""
    params = " ".join(f"{name}={value}" for name, value in setup.params.items())
    preset = f"preset {setup.preset}, " if setup.preset else ""
    lines = [
        click.style(f"{setup.spec.title} on {setup.dataset.name}", bold=True),
        f"  images     {len(setup.train_images)} to train on, {len(setup.test_images)} to test"
        + ("" if setup.test_labels is not None else " (no labels: nothing will be scored)"),
        f"  backbone   {setup.backbone.name} (patch {setup.backbone.patch})",
        f"  protocol   {setup.protocol.id} ({setup.protocol.hash})"
        + (f", alpha {setup.alpha:g} by the method's spec" if setup.spec.alpha is not None else ""),
        f"  parameters {preset}{params}",
    ]
    progress.say("\n".join(lines))


def run_summary(records: Sequence[RunRecord]) -> str:
    """Return the table of one or more seeds of the same cell."""
    if not records:
        return ""
    first = records[0]
    cell = first.cell
    title = f"{cell.method.name} · {cell.dataset.name} · {cell.backbone.name} · {cell.protocol}"
    parts = ["", click.style(title, bold=True)]
    scored = [record for record in records if record.last is not None]
    if scored:
        parts += [_score_table(scored), "", _class_line(scored), _selection_line(scored)]
    else:
        parts.append(f"{first.images} images predicted with {first.clusters} clusters; no labels, no scores.")
    parts += [*_monitor_lines(records), _time_line(records), ""]
    return "\n".join(parts)


def _score_table(records: Sequence[RunRecord]) -> str:
    rows: list[list[str]] = []
    for record in records:
        assert record.last is not None
        rows.append([str(record.cell.seed), *_four(record.last), *_usage(record), _seconds(record, "train")])
    if len(records) > 1:
        columns = list(zip(*[four_scores(record.last) for record in records if record.last], strict=True))
        means = [f"{statistics.fmean(column):.1f} ± {statistics.stdev(column):.1f}" for column in columns]
        rows.append(["mean ± sd", *means, "", ""])
    headers = ["seed", "Acc raw", "mIoU raw", "Acc CRF", "mIoU CRF", "clusters used", "train"]
    return tabulate(rows, headers=headers, stralign="right", tablefmt="simple", disable_numparse=True)


def four_scores(result: CheckpointResult) -> list[float]:
    """Return accuracy and mIoU, raw and then refined, NaN where undefined; two where nothing was refined."""
    rows = [result.raw] + ([result.crf] if result.crf else [])
    return [
        value if value is not None else float("nan") for row in rows for value in (row.accuracy, row.miou)
    ]


def _four(result: CheckpointResult) -> list[str]:
    values = [f"{value:.1f}" for value in four_scores(result)]
    return values + ["–"] * (4 - len(values))


def _usage(record: RunRecord) -> list[str]:
    assert record.last is not None
    return [f"{record.last.raw.clusters_used} of {record.clusters}"]


def final_row(record: RunRecord) -> ScoreRow:
    """Return the refined scores of the last checkpoint, or the raw ones where nothing was refined."""
    assert record.last is not None
    return record.last.crf or record.last.raw


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
    """Say what the first record's final state does with unlabelled patches, and which runs collapsed."""
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
    phases = " · ".join(f"{name} {phase.seconds:.1f} s" for name, phase in record.phases.items())
    peak = max((phase.peak_bytes for phase in record.phases.values()), default=0)
    return f"Time, seed {record.cell.seed}: {phases} · peak memory {peak / 2**30:.1f} GiB"


def _seconds(record: RunRecord, phase: str) -> str:
    return f"{record.phases[phase].seconds:.1f} s" if phase in record.phases else "–"


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
        differs = " ".join(
            f"{name}={cell.method.params[name]}"
            for name in varied[cell.dataset.name, cell.method.name]
            if name in cell.method.params
        )
        values = _four(record.last) if record.last else ["–"] * 4
        state = "failed" if record.status == "failed" else "" if record.last else "unlabelled"
        if record.id in stale:
            state = f"{state} stale".strip()
        where = (cell.dataset.name, cell.method.name, cell.seed, cell.backbone.name, cell.protocol)
        rows.append((*where, *values, f"{differs} {state}".strip(), record.id[:12]))
    headers = [
        "dataset",
        "method",
        "seed",
        "backbone",
        "protocol",
        "Acc raw",
        "mIoU raw",
        "Acc CRF",
        "mIoU CRF",
    ]
    return tabulate(rows, headers=[*headers, "", "id"], disable_numparse=True)


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
    environment = record.environment
    facts = [
        ("id", record.id),
        ("file", path),
        ("parameters", " ".join(f"{name}={value}" for name, value in cell.method.params.items())),
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
    table = tabulate([fact for fact in facts if fact[1]], tablefmt="plain", maxcolwidths=[None, 90])
    parts = [run_summary([record]), table]
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
        rows.append([row.name, *("–" if value is None else f"{value:.1f}" for value in values)])
    names = ["raw", "CRF"][: len(results)]
    headers = ["class", *(f"{column} {name}" for name in names for column in ("IoU", "precision", "recall"))]
    return tabulate(rows, headers=headers, stralign="right", disable_numparse=True)


def _candidate_table(record: RunRecord) -> str:
    rows = [
        (one.step if one.step is not None else "last", f"{one.accuracy:.1f}", f"{one.miou:.1f}")
        for one in record.candidates
    ]
    headers = ["checkpoint", "Acc", "mIoU (raw, unflipped, patch resolution)"]
    return tabulate(rows, headers=headers, disable_numparse=True)
