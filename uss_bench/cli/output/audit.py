"""An audit as a person reads it: differences and their cost, effects, findings."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click

from uss_bench.audit.differences import FieldRow, SideBySide
from uss_bench.audit.effects import Effect, commands, measured_on
from uss_bench.audit.findings import AuditFinding
from uss_bench.audit.papers import Cost, PaperProtocol
from uss_bench.cli.output.tables import table
from uss_bench.protocol import shown
from uss_bench.results.collection import Configuration
from uss_bench.results.differences import Change
from uss_bench.runtime.formatting import plural
from uss_bench.runtime.text import csv_text

_NOTHING = {
    "extra_clusters": "not measured: no record has K > C",
    "absent_classes": "no effect: no class is absent",
    "crf": "not measured: no refined counts",
    "checkpoint": "not measured: no choice of checkpoints",
    "matching": "not measured: no records",
}
_NO_PAIRS = "not measured: no paired records"


def comparison_text(
    sides: SideBySide,
    effects: Mapping[Change, Effect],
    configurations: Sequence[Configuration],
    out: Path,
    *,
    markdown: bool = False,
) -> str:
    """Return the differences of two sides with what each does to the scores.

    Args:
        effects: of the changes of `sides`.
        configurations: what the suggested commands may run again.
        out: folder that the suggested commands write to.
    """
    title = " → ".join(sides.names)
    parts = [f"### {title}" if markdown else click.style(title, bold=True)]
    rows = [[one.field, one.before, one.after, _cost_text(one, effects)] for one in sides.rows]
    headers = ["field", "from", "to", "what it does, in percent points"]
    differing = table(rows, headers, widths=[None, 24, 24, 42], markdown=markdown)
    parts.append(differing if rows else "They do not differ in anything that is known of both.")
    open_by: dict[str, list[str]] = defaultdict(list)
    for field, who in sides.unknown:
        open_by[who].append(field)
    facts = [("the same", ", ".join(sides.alike))]
    facts += [(f"not stated by {who}", ", ".join(fields)) for who, fields in open_by.items()]
    parts.append(_listing(facts, markdown))
    sources = [(one.field, " → ".join(one.sources)) for one in sides.rows if any(one.sources)]
    for row in sides.rows:
        if "printed: " in _cost_text(row, effects):
            origins = dict.fromkeys(f"{one.source}. {one.note}".strip(" .") for one in row.printed)
            sources += [(row.field, f"printed: {origin}") for origin in origins]
    if sources:
        title = "Sources:\n" if markdown else "Sources"
        parts.append(f"{title}\n{_listing(sources, markdown)}")
    parts.append(_to_measure(effects.values(), configurations, out, markdown))
    return "\n\n".join(filter(None, parts))


def _cost_text(row: FieldRow, effects: Mapping[Change, Effect]) -> str:
    """Return what records show of a difference, else what papers print of one in this field, else why not."""
    effect = effects[row.change] if row.change else None
    if row.printed and (effect is None or not effect.methods):
        return "no records; printed: " + "; ".join(map(printed_cost, row.printed))
    return effect_text(effect) if effect else row.remark


def printed_cost(cost: Cost) -> str:
    """Return what a paper prints of a difference, with what it compared and where."""
    return (
        f"Acc {cost.accuracy:+.1f}, mIoU {cost.miou:+.1f} from {cost.before} to {cost.after} ({cost.method})"
    )


def effect_text(effect: Effect) -> str:
    """Return an effect: mean over configurations and range, accuracy and then mIoU, and its basis."""
    if not effect.methods:
        return _NO_PAIRS if measured_on(effect.change) == "pairs" else _NOTHING[effect.change.field]
    accuracy, miou = _spans(effect)
    return f"Acc {accuracy}, mIoU {miou}; {_basis(effect)}"


def _basis(effect: Effect) -> str:
    kind = "paired " if measured_on(effect.change) == "pairs" else ""
    runs = sum(one.seeds for one in effect.methods)
    return f"{plural(len(effect.methods), f'{kind}configuration')}, {plural(runs, 'run')}"


def _to_measure(
    effects: Iterable[Effect], configurations: Sequence[Configuration], out: Path, markdown: bool
) -> str:
    """Return the commands that would make the records that are missing; empty if none are."""
    missing = [one.change for one in effects if not one.methods]
    lines = dict.fromkeys(line for change in missing for line in commands(change, configurations, out))
    if not lines:
        return ""
    if markdown:
        return "To measure the rest:\n\n```sh\n" + "\n".join(lines) + "\n```"
    return "To measure the rest\n" + "\n".join(f"  {line}" for line in lines)


def effects_text(
    effects: Sequence[Effect],
    configurations: Sequence[Configuration],
    out: Path,
    *,
    markdown: bool = False,
) -> str:
    """Return one row per change: what it does to methods, and what it gives to the floors.

    Args:
        configurations: what the suggested commands may run again.
        out: folder that they write to.
    """
    rows = []
    for effect in effects:
        change = effect.change
        row = [change.field, f"{shown(change.before)} → {shown(change.after)}"]
        floors = [one.accuracy for one in effect.shifts if one.floor]
        if effect.methods:
            row += [*_spans(effect), f"{max(floors):+.1f}" if floors else "", _basis(effect)]
        else:
            row += ["–", "–", "", effect_text(effect)]
        rows.append(row)
    headers = ["rule", "from → to", "Acc", "mIoU", "floors", "over"]
    legend = (
        "Percent points; mean and range over configurations, seeds averaged, floors left out. floors: the\n"
        "most that the rule gives to a method that looks at no feature, in Acc."
    )
    measured = table(rows, headers, widths=[None, 16, None, None, None, 20], markdown=markdown)
    return "\n\n".join(filter(None, (measured, legend, _to_measure(effects, configurations, out, markdown))))


def _spans(effect: Effect) -> list[str]:
    spans = (effect.summary("accuracy"), effect.summary("miou"))
    return [f"{mean:+.1f} ({low:+.1f} … {high:+.1f})" for mean, low, high in spans]


def effects_csv(effects: Sequence[Effect]) -> str:
    """Return one row per change and configuration, floors included."""
    rule = ["rule", "from", "to", "source"]
    rows: list[list[object]] = [
        [*rule, "method", "dataset", "backbone", "protocol", "runs", "accuracy", "miou"]
    ]
    for effect in effects:
        change = effect.change
        facts = [change.field, shown(change.before), shown(change.after), measured_on(change)]
        for one in effect.shifts:
            cell = one.configuration.cell
            where = [one.configuration.label, cell.dataset.name, cell.backbone.name, cell.protocol]
            rows.append([*facts, *where, one.seeds, f"{one.accuracy:.4f}", f"{one.miou:.4f}"])
    return csv_text(rows)


def papers_text(papers: Mapping[str, PaperProtocol]) -> str:
    """Return the ledger as a list: what can be compared, and how much is known of each."""
    rows = [
        [
            name,
            one.title,
            one.year,
            f"{one.code.removeprefix('https://github.com/')} {one.commit}" if one.code else "text only",
            sum(getattr(one.facts, field) is not None for field in one.facts.__struct_fields__),
        ]
        for name, one in sorted(papers.items(), key=lambda pair: (pair[1].year, pair[0]))
    ]
    return table(rows, ["name", "paper", "year", "read from", "facts"])


def findings_text(findings: Sequence[AuditFinding], checked: str) -> str:
    """Return one line per finding; what holds of many files alike is written once."""
    together: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for one in findings:
        together[one.weight, one.what, one.todo].append(one.path)
    lines = []
    for (weight, what, todo), paths in sorted(together.items(), key=lambda pair: pair[0][0] != "wrong"):
        where = _shown_path(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        mark = click.style("wrong", fg="red") if weight == "wrong" else click.style("note ", fg="yellow")
        lines.append(f"{mark}  {where}: {what}" + (f" — {todo}" if todo else ""))
    bad = sum(one.weight == "wrong" for one in findings)
    verdict = f"{bad} wrong" if bad else "nothing wrong"
    lines.append(f"{checked}: {verdict}, {plural(len(findings) - bad, 'note')}.")
    return "\n".join(lines)


def _shown_path(path: Path) -> str:
    try:
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    except ValueError:
        return str(path)


def _listing(rows: Iterable[tuple[str, str]], markdown: bool) -> str:
    kept = [row for row in rows if row[1]]
    if markdown:
        return "\n".join(f"- {name}: {text}" for name, text in kept)
    return table(kept, widths=[None, 80])
