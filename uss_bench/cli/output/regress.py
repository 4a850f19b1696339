"""What ``uss-bench regress`` prints: golden runs that moved, and claims beside measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from uss_bench.claims import ClaimCheck
from uss_bench.cli.output.tables import table
from uss_bench.regression.claims import Judged, Known
from uss_bench.regression.comparison import GoldenCheck
from uss_bench.regression.golden import Tolerance
from uss_bench.results.differences import Change
from uss_bench.results.scores import METRICS
from uss_bench.runtime.formatting import mean_sd

_REASON_WIDTH = 52
_SHOWN_DIFFERENCES = 2


def golden_report(checks: Sequence[GoldenCheck], machine: Sequence[Change], tolerance: Tolerance) -> str:
    """Return the rule that holds here, a row per run, and details of those that moved.

    Args:
        machine: in what this machine is not the one of the golden results.
    """
    rule = "The machine is that of the golden results: nothing may move."
    if machine:
        differs = "; ".join(f"{one.field} {one.after} instead of {one.before}" for one in machine)
        rule = (
            f"Another machine than that of the golden results ({differs}):\n"
            f"{100 * tolerance.pixels:g} % of the pixels and {tolerance.points:g} points may move."
        )
    rows = [
        (one.name, f"{100 * one.pixels:.2f} %", _points(one.accuracy), _points(one.miou), _state(one))
        for one in checks
    ]
    shown = table(rows, ["run", "pixels moved", *METRICS.values(), ""], align="lrrrl")
    details = ["\n".join([one.name, *(f"  {line}" for line in one.details)]) for one in checks if one.details]
    return "\n\n".join([rule, shown, *details])


def golden_verdict(moved: Sequence[GoldenCheck]) -> str:
    """Return one sentence that names the methods that moved, and the details of the first run."""
    methods = ", ".join(dict.fromkeys(one.method for one in moved))
    details = "; ".join(moved[0].details) or "see the table"
    return f"{len(moved)} golden runs moved ({methods}). {moved[0].name}: {details}."


def _points(value: float) -> str:
    return "=" if value == 0 else f"{value:+.1f}"


def _state(one: GoldenCheck) -> str:
    if one.moved:
        return "MOVED"
    return "same" if not (one.pixels or one.accuracy or one.miou) else "within tolerance"


def claims_report(judged: Sequence[Judged], outdated: Sequence[Known]) -> str:
    """Return a table of what could be compared, one of what could not, and known deviations that are gone."""
    compared = [one for one in judged if one.check.status != "protocol differs"]
    apart = [one.check for one in judged if one.check.status == "protocol differs"]
    parts = ["No record was measured under a claim's own protocol: no claim can be checked."]
    if compared:
        parts = [_section("Measured under the claim's own protocol", _compared(compared))]
    if apart:
        parts.append(_section("Not comparable: the protocol differs", _apart(apart)))
    parts += [
        f"No longer {one.status} than {one.paper}: {one.method} on {one.dataset}. Take it out of the ledger."
        for one in outdated
    ]
    return "\n\n".join(parts)


def claims_verdict(news: Sequence[Judged]) -> str:
    """Return one sentence that names every deviation that is not explained."""
    sentences = [
        f"{check.configuration.label} on {check.claim.dataset} is {check.status} than {_source(check)}: "
        f"{METRICS[check.metric]} {mean_sd(check.values)}, claimed {check.claim.printed(check.metric)}"
        for check in (one.check for one in news)
    ]
    return "; ".join(sentences) + "."


def _section(title: str, text: str) -> str:
    return f"{click.style(title, bold=True)}\n{text}"


def _compared(judged: Sequence[Judged]) -> str:
    rows = [
        (
            check.configuration.label,
            check.claim.dataset,
            METRICS[check.metric],
            mean_sd(check.values),
            check.claim.printed(check.metric),
            _source(check),
            f"known: {check.status}" if known else check.status,
            known.reason if known else check.reason,
        )
        for check, known in ((one.check, one.known) for one in judged)
    ]
    return _table(["method", "dataset", "", "measured", "claimed", "by", "status", "why"], rows)


def _apart(checks: Sequence[ClaimCheck]) -> str:
    """Return a row per configuration and claim, with both metrics in it."""
    rows: dict[tuple[int, int], list[str]] = {}
    for check in checks:
        first, *more = check.reason.split("; ")
        shown = [first, *more[: _SHOWN_DIFFERENCES - 1]]
        hidden = len(more) + 1 - len(shown)
        why = "; ".join([*shown, *([f"and {hidden} more"] if hidden else [])])
        row = rows.setdefault(
            (id(check.configuration), id(check.claim)),
            [check.configuration.label, check.claim.dataset, "–", "–", _source(check), why],
        )
        row[2 + list(METRICS).index(check.metric)] = (
            f"{mean_sd(check.values)} | {check.claim.printed(check.metric)}"
        )
    return _table(
        ["method", "dataset", "Acc | claimed", "mIoU | claimed", "by", "what differs"], rows.values()
    )


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    widths = [*[None] * (len(headers) - 1), _REASON_WIDTH]
    return table(rows, headers, widths=widths)


def _source(check: ClaimCheck) -> str:
    return f"{check.claim.paper}, {check.claim.table}"
