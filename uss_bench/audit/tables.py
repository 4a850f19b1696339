"""An audit as a person reads it: differences and their cost, effects, findings."""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
from tabulate import tabulate

from uss_bench.audit.differences import Comparison, changes, shown
from uss_bench.audit.effects import Effect, Shift, commands, measure
from uss_bench.audit.findings import Finding
from uss_bench.audit.papers import PaperProtocol
from uss_bench.collection import Setting

_HEAD = ["field", "from", "to", "what it does, in percent points"]

_NOTHING = {
    "extra_clusters": "not measured: no record has K > C",
    "absent_classes": "no effect: no class is absent",
    "crf": "not measured: no refined counts",
    "checkpoint": "not measured: no choice of checkpoints",
    "matching": "not measured: no records",
}
_NO_PAIRS = "not measured: no paired records"


def comparison_text(
    comparison: Comparison, settings: Sequence[Setting], out: Path, *, markdown: bool = False
) -> str:
    """Return the differences of two sides with what each does to the scores of `settings`.

    Args:
        out: folder that the suggested commands write to.
    """
    title = " → ".join(comparison.names)
    parts = [f"### {title}" if markdown else click.style(title, bold=True)]
    if comparison.differences:
        parts.append(_differences(comparison, settings, markdown))
    else:
        parts.append("They do not differ in anything that is known of both.")
    open_by: dict[str, list[str]] = defaultdict(list)
    for field, who in comparison.unknown:
        open_by[who].append(field)
    facts = [("the same", ", ".join(comparison.alike))]
    facts += [(f"not stated by {who}", ", ".join(fields)) for who, fields in open_by.items()]
    parts.append(_listing(facts, markdown))
    sourced = [one for one in comparison.differences if any(one.sources)]
    if sourced:
        listing = _listing([(one.field, " → ".join(one.sources)) for one in sourced], markdown)
        parts.append(f"Sources\n{listing}" if not markdown else f"Sources:\n\n{listing}")
    parts.append(
        _to_measure([measure(one, settings) for one in changes(comparison)], settings, out, markdown)
    )
    return "\n\n".join(filter(None, parts))


def _differences(comparison: Comparison, settings: Sequence[Setting], markdown: bool) -> str:
    rows = [
        [
            one.field,
            one.before,
            one.after,
            effect_text(measure(one.change, settings)) if one.change else one.remark,
        ]
        for one in comparison.differences
    ]
    return tabulate(
        rows,
        headers=_HEAD,
        tablefmt="github" if markdown else "simple",
        maxcolwidths=None if markdown else [None, 24, 24, 42],
        disable_numparse=True,
    )


def effect_text(effect: Effect) -> str:
    """Say an effect: mean over settings and range, accuracy and then mIoU, and what it was read from."""
    if not effect.methods:
        return _NO_PAIRS if effect.change.source == "pairs" else _NOTHING[effect.change.field]
    accuracy, miou = _spans(effect)
    return f"Acc {accuracy}, mIoU {miou}; {_basis(effect)}"


def _basis(effect: Effect) -> str:
    settings = len(effect.methods)
    runs = sum(one.seeds for one in effect.methods)
    kind = "paired " if effect.change.source == "pairs" else ""
    return f"{settings} {kind}setting{'s' * (settings != 1)}, {runs} run{'s' * (runs != 1)}"


def _to_measure(effects: Iterable[Effect], settings: Sequence[Setting], out: Path, markdown: bool) -> str:
    """Return the commands that would make the records that are missing; empty if none are."""
    missing = [one.change for one in effects if not one.methods]
    lines = dict.fromkeys(line for change in missing for line in commands(change, settings, out))
    if not lines:
        return ""
    if markdown:
        return "To measure the rest:\n\n```sh\n" + "\n".join(lines) + "\n```"
    return "To measure the rest\n" + "\n".join(f"  {line}" for line in lines)


def effects_text(
    effects: Sequence[Effect], settings: Sequence[Setting], out: Path, *, markdown: bool = False
) -> str:
    """Return one row per change: what it does to methods, and what it gives to random labels.

    Args:
        out: folder that the suggested commands write to.
    """
    rows = []
    for effect in effects:
        change = effect.change
        head = [change.field, f"{shown(change.before)} → {shown(change.after)}"]
        if effect.methods:
            rows.append([*head, *_spans(effect), _floor(effect.shifts), _basis(effect)])
        else:
            rows.append([*head, "–", "–", "", effect_text(effect)])
    table = tabulate(
        rows,
        headers=["rule", "from → to", "Acc", "mIoU", "random", "over"],
        tablefmt="github" if markdown else "simple",
        maxcolwidths=None if markdown else [None, 16, None, None, None, 20],
        disable_numparse=True,
    )
    legend = (
        "Percent points; mean and range over settings, seeds averaged, the floors left out. random: what the "
        "rule\ngives to random labels, in Acc."
    )
    return "\n\n".join(filter(None, (table, legend, _to_measure(effects, settings, out, markdown))))


def _spans(effect: Effect) -> list[str]:
    spans = (effect.summary("accuracy"), effect.summary("miou"))
    return [f"{mean:+.1f} ({low:+.1f} … {high:+.1f})" for mean, low, high in spans]


def _floor(shifts: Iterable[Shift]) -> str:
    values = [one.accuracy for one in shifts if one.setting.cell.method.name == "random"]
    return f"{sum(values) / len(values):+.1f}" if values else ""


def effects_csv(effects: Sequence[Effect]) -> str:
    """Return one row per change and setting, floors included."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            "rule",
            "from",
            "to",
            "source",
            "method",
            "dataset",
            "backbone",
            "protocol",
            "runs",
            "accuracy",
            "miou",
        ]
    )
    for effect in effects:
        change = effect.change
        for one in effect.shifts:
            cell = one.setting.cell
            where = [one.setting.label, cell.dataset.name, cell.backbone.name, cell.protocol]
            rule = [change.field, shown(change.before), shown(change.after), change.source]
            writer.writerow([*rule, *where, one.seeds, f"{one.accuracy:.4f}", f"{one.miou:.4f}"])
    return file.getvalue()


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
    return tabulate(rows, headers=["name", "paper", "year", "read from", "facts"], disable_numparse=True)


def findings_text(findings: Sequence[Finding], checked: str) -> str:
    """Return one line per finding; what is said of many files alike is said once."""
    together: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for one in findings:
        together[one.weight, one.what, one.todo].append(one.path)
    lines = []
    for (weight, what, todo), paths in sorted(together.items(), key=lambda pair: pair[0][0] != "wrong"):
        where = _shown_path(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        mark = click.style("wrong", fg="red") if weight == "wrong" else click.style("note ", fg="yellow")
        lines.append(f"{mark}  {where}: {what}" + (f" — {todo}" if todo else ""))
    bad = sum(one.weight == "wrong" for one in findings)
    notes = len(findings) - bad
    verdict = f"{bad} wrong" if bad else "nothing wrong"
    lines.append(f"{checked}: {verdict}, {notes} note{'s' * (notes != 1)}.")
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
    return tabulate(kept, tablefmt="plain", maxcolwidths=[None, 80], disable_numparse=True)
