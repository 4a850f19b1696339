"""What ``--dry-run`` says about a plan's cost."""

from __future__ import annotations

from collections.abc import Sequence

import click

from uss_bench.cli.output.tables import table
from uss_bench.estimate.estimating import PHASES, Estimate, Extraction, Range
from uss_bench.runtime.formatting import byte_size, duration, plural


def estimate_text(found: Estimate, machine: str) -> str:
    """Return the estimate as a table, with what it rests on and what it leaves out.

    Args:
        machine: this one, as `uss_bench.estimate.costs.Cost.machine`.
    """
    if not found.cells:
        return "Nothing is left to run."
    lines = [click.style(f"What the {plural(found.cells, 'pending cell')} will take", bold=True), ""]
    rows: list[tuple[str, str, str]] = [
        (phase, duration(found.seconds[phase].middle), spread(found.seconds[phase]))
        for phase in PHASES
        if phase in found.seconds
    ]
    if rows:
        measured = ", as far as measured" if found.unmeasured else ""
        rows.append((f"together{measured}", duration(found.total.middle), spread(found.total)))
        headers = ["phase", "time", "least – most"]
        lines += [
            table(rows, headers, align="lrr"),
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
        f"By {plural(found.runs, 'comparable run')} on {where}, one cell after another: the middle, and the "
        f"range of what was measured.{elsewhere}"
    )


def _stores(extractions: Sequence[Extraction]) -> list[str]:
    lines = []
    for one in extractions:
        items = f"{one.items:,} items of {one.side} px"
        if one.streamed:
            lines.append(f"features  {items}, streamed in every run and not stored: {one.streamed}")
        else:
            part = "all" if one.present >= one.bytes else byte_size(one.present)  # files have headers, too
            there = f", {part} of it in the store" if one.present else ""
            lines.append(f"features  {byte_size(one.bytes)} for {items}{there}")
    kept = [one for one in extractions if not one.streamed]
    if len(kept) > 1:
        lines.append(f"          {byte_size(sum(one.bytes for one in kept))} together")
    return lines


def _records(found: Estimate) -> str:
    if found.record_bytes is None:
        return "records   size not measured"
    low, high = found.record_bytes.low, found.record_bytes.high
    states = f", and {byte_size(found.state_bytes.middle)} of trained states" if found.state_bytes else ""
    between = (
        byte_size(high) if byte_size(low) == byte_size(high) else f"{byte_size(low)} to {byte_size(high)}"
    )
    return f"records   {between} with arrays{states}; pictures not counted"


def spread(seconds: Range) -> str:
    """Return a range in words; nothing where only one run was measured, or all agree."""
    low, high = duration(seconds.low), duration(seconds.high)
    return "" if low == high else f"{low} – {high}"
