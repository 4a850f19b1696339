"""What ``--dry-run`` says about a plan's cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import click
from tabulate import tabulate

from uss_bench.estimate.estimating import PHASES, Estimate, Extraction, Range


def estimate_text(found: Estimate, machine: str) -> str:
    """Return the estimate as a table, with what it rests on and what it leaves out.

    Args:
        machine: this one, as `uss_bench.estimate.costs.Cost.machine`.
    """
    if not found.cells:
        return "Nothing is left to run."
    lines = [click.style(f"What the {count(found.cells, 'pending cell')} will take", bold=True), ""]
    rows: list[tuple[str, str, str]] = [
        (phase, clock(found.seconds[phase].middle), spread(found.seconds[phase]))
        for phase in PHASES
        if phase in found.seconds
    ]
    if rows:
        at_least = "at least " if found.unmeasured else ""
        rows.append(("together", at_least + clock(found.total.middle), spread(found.total)))
        headers = ["phase", "time", "least – most"]
        lines += [
            tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", "right", "right")),
            "",
        ]
    lines += [_basis(found, machine)]
    lines += [
        f"Not measured: {phase} of {'; '.join(found.unmeasured[phase])}."
        for phase in PHASES
        if phase in found.unmeasured
    ]
    lines += ["", *_stores(found.extractions), _records(found)]
    return "\n".join(lines)


def _basis(found: Estimate, machine: str) -> str:
    if not found.runs:
        return "No time can be given: no comparable run was measured on this kind of device."
    where = " and ".join(found.machines)
    elsewhere = "" if found.machines == [machine] else f" This machine is another: {machine}."
    return (
        f"By {count(found.runs, 'comparable run')} on {where}, one cell after another: the middle, and the "
        f"range of what was measured.{elsewhere}"
    )


def _stores(extractions: Sequence[Extraction]) -> list[str]:
    lines = []
    for one in extractions:
        items = f"{one.items:,} items of {one.side} px"
        if one.streamed:
            lines.append(f"features  {items}, streamed in every run and not stored: {one.streamed}")
        else:
            part = "all" if one.present >= one.bytes else size(one.present)  # files have headers, too
            there = f", {part} of it in the store" if one.present else ""
            lines.append(f"features  {size(one.bytes)} for {items}{there}")
    kept = [one for one in extractions if not one.streamed]
    if len(kept) > 1:
        lines.append(f"          {size(sum(one.bytes for one in kept))} together")
    return lines


def _records(found: Estimate) -> str:
    if found.record_bytes is None:
        return "records   size not measured"
    low, high = found.record_bytes.low, found.record_bytes.high
    states = f", and {size(found.state_bytes.middle)} of trained states" if found.state_bytes else ""
    between = size(high) if size(low) == size(high) else f"{size(low)} to {size(high)}"
    return f"records   {between} with arrays{states}; pictures not counted"


def clock(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 1:
        return "under 1 s" if seconds else "0 s"
    for unit, length, until in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 72 * 3600)):
        if seconds < until:
            value = seconds / length
            return f"{value:.0f} {unit}" if value >= 10 or unit == "s" else f"{value:.1f} {unit}"
    return f"{seconds / 86400:,.1f} days"


def spread(seconds: Range) -> str:
    """Return a range in words; nothing where only one run was measured, or all agree."""
    low, high = clock(seconds.low), clock(seconds.high)
    return "" if low == high else f"{low} – {high}"


def size(count: float) -> str:
    """Return bytes in the unit that suits them."""
    if count < 1000:
        return f"{count:.0f} B"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1000**power:,.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
