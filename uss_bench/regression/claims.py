"""Measured against published: which deviations are news, and which are known and explained."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import click
import msgspec
from tabulate import tabulate

from uss_bench.claims import ClaimCheck
from uss_bench.specs import decode_toml

Deviation = Literal["higher", "lower"]

_METRICS = {"accuracy": "Acc", "miou": "mIoU"}
_REASON_WIDTH = 52
_SHOWN_DIFFERENCES = 2


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A deviation from a claim that was looked into: it is told, and fails nothing."""

    paper: str
    """Key of the paper, as in the claims ledger."""
    method: str
    dataset: str
    status: Deviation
    reason: Annotated[str, msgspec.Meta(min_length=1)]
    """What is known of it, for whoever meets it next."""
    table: str = ""
    """Empty for all tables of the paper."""
    metric: Literal["accuracy", "miou", ""] = ""
    """Empty for both."""

    def covers(self, check: ClaimCheck) -> bool:
        claim = check.claim
        return (
            (self.paper, self.method, self.dataset, self.status)
            == (claim.paper, claim.method, claim.dataset, check.status)
            and self.table in ("", claim.table)
            and self.metric in ("", check.metric)
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    known: list[Known] = []


@dataclass(frozen=True)
class Judged:
    """A check, and the known deviation that explains it."""

    check: ClaimCheck
    known: Known | None

    @property
    def is_news(self) -> bool:
        """Whether it deviates statistically, under the claim's own protocol, and nobody has explained why."""
        return self.check.status in ("higher", "lower") and self.known is None


def read_known(path: Path) -> list[Known]:
    """Read the ledger of known deviations.

    Raises:
        DataError: when it is missing or malformed, naming the key.
    """
    file: _File = decode_toml(path, _File)
    return file.known


def judge(checks: Iterable[ClaimCheck], known: Sequence[Known]) -> list[Judged]:
    """Give every check the first known deviation that covers it."""
    return [Judged(check, next((one for one in known if one.covers(check)), None)) for check in checks]


def outdated(judged: Sequence[Judged], known: Sequence[Known]) -> list[Known]:
    """Return known deviations that no check shows any more."""
    used = [one.known for one in judged]
    return [one for one in known if one not in used]


def claims_report(judged: Sequence[Judged], old: Sequence[Known]) -> str:
    """Return a table of what could be compared, one of what could not, and known deviations that are gone."""
    compared = [one for one in judged if one.check.status != "protocol differs"]
    apart = [one.check for one in judged if one.check.status == "protocol differs"]
    parts = []
    if compared:
        parts.append(_section("Measured under the claim's own protocol", _compared(compared)))
    else:
        parts.append("No record was measured under a claim's own protocol: nothing can be held against one.")
    if apart:
        parts.append(_section("Not comparable: the protocol differs", _apart(apart)))
    parts += [
        f"No longer {one.status} than {one.paper}: {one.method} on {one.dataset}. Take it out of the ledger."
        for one in old
    ]
    return "\n\n".join(parts)


def claims_verdict(news: Sequence[Judged]) -> str:
    """Return one sentence that names every deviation that nobody has explained."""
    said = []
    for check in (one.check for one in news):
        metric, claimed = _METRICS[check.metric], check.claim.printed(check.metric)
        said.append(
            f"{check.setting.label} on {check.claim.dataset} is {check.status} than {_source(check)}: "
            f"{metric} {_measured(check)}, claimed {claimed}"
        )
    return "; ".join(said) + "."


def _section(title: str, table: str) -> str:
    return f"{click.style(title, bold=True)}\n{table}"


def _compared(judged: Sequence[Judged]) -> str:
    rows = [
        (
            one.check.setting.label,
            one.check.claim.dataset,
            _METRICS[one.check.metric],
            _measured(one.check),
            one.check.claim.printed(one.check.metric),
            _source(one.check),
            f"known: {one.check.status}" if one.known else one.check.status,
            one.known.reason if one.known else one.check.reason,
        )
        for one in judged
    ]
    headers = ["method", "dataset", "", "measured", "claimed", "by", "status", "why"]
    return tabulate(rows, headers, disable_numparse=True, maxcolwidths=[*[None] * 7, _REASON_WIDTH])


def _apart(checks: Sequence[ClaimCheck]) -> str:
    """Return a row per setting and claim, both metrics in it."""
    rows: dict[tuple[int, int], list[str]] = {}
    for check in checks:
        row = rows.setdefault(
            (id(check.setting), id(check.claim)),
            [check.setting.label, check.claim.dataset, "–", "–", _source(check), _first(check.reason)],
        )
        told = f"{_measured(check)} | {check.claim.printed(check.metric)}"
        row[2 if check.metric == "accuracy" else 3] = told
    headers = ["method", "dataset", "Acc | claimed", "mIoU | claimed", "by", "what differs"]
    return tabulate(
        list(rows.values()), headers, disable_numparse=True, maxcolwidths=[*[None] * 5, _REASON_WIDTH]
    )


def _first(reason: str) -> str:
    """Return the first differences of a reason, and how many more there are."""
    parts = reason.split("; ")
    shown, more = parts[:_SHOWN_DIFFERENCES], len(parts) - _SHOWN_DIFFERENCES
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _measured(check: ClaimCheck) -> str:
    if len(check.values) < 2:
        return f"{check.measured:.1f}"
    return f"{check.measured:.1f} ± {statistics.stdev(check.values):.1f}"


def _source(check: ClaimCheck) -> str:
    return f"{check.claim.paper}, {check.claim.table}"
