"""Field by field: what differs between two protocols, or between what two papers did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from uss_bench.audit.effects import Change
from uss_bench.audit.pairs import changed_fields, fields_of
from uss_bench.audit.papers import Fact, PaperProtocol
from uss_bench.protocol import Protocol

_SHARED_WITH_PROTOCOL = (
    "resize",
    "five_crop",
    "flip",
    "upsample",
    "alpha",
    "matching",
    "extra_clusters",
    "absent_classes",
)


@dataclass(frozen=True)
class Difference:
    """One field in which two sides differ."""

    field: str
    before: str
    after: str
    change: Change | None
    """The change whose effect can be measured, if there is one."""
    sources: tuple[str, str] = ("", "")
    remark: str = ""
    """Why there is no such change."""


@dataclass(frozen=True)
class Comparison:
    """Two sides, field by field."""

    names: tuple[str, str]
    differences: tuple[Difference, ...]
    alike: tuple[str, ...]
    """Fields that are the same on both sides."""
    unknown: tuple[tuple[str, str], ...] = ()
    """Fields that a source leaves open, and who: a side's name, or ``both``."""


def between_protocols(first: Protocol, second: Protocol) -> Comparison:
    """Compare two protocols of ours; the names that they go by do not count."""
    before, after = fields_of(first), fields_of(second)
    differing = changed_fields(first, second)
    return Comparison(
        names=(first.id, second.id),
        differences=tuple(
            Difference(name, shown(before[name]), shown(after[name]), Change(name, before[name], after[name]))
            for name in differing
        ),
        alike=tuple(name for name in before if name not in differing),
    )


def between_papers(first: PaperProtocol, second: PaperProtocol) -> Comparison:
    """Compare what two papers did, as far as their code or text says."""
    differences: list[Difference] = []
    alike: list[str] = []
    unknown: list[tuple[str, str]] = []
    for name in first.facts.__struct_fields__:
        before, after = getattr(first.facts, name), getattr(second.facts, name)
        if before is None or after is None:
            who = "both" if before is after else (first if before is None else second).title
            unknown.append((name, who))
        elif before.value == after.value:
            alike.append(name)
        else:
            change = _change(name, first, second)
            remark = "" if change else _why_not(name)
            sources = (before.source, after.source)
            differences.append(Difference(name, _told(before), _told(after), change, sources, remark))
    return Comparison((first.title, second.title), tuple(differences), tuple(alike), tuple(unknown))


def changes(comparison: Comparison) -> list[Change]:
    """Return the changes of a comparison that can be measured, in its order."""
    return [one.change for one in comparison.differences if one.change is not None]


def shown(value: Any) -> str:
    """Write a field's value as a protocol's id does."""
    return msgspec.json.encode(value).decode().strip('"')


def _told(fact: Fact) -> str:
    return shown(fact.value) + (f" ({fact.note})" if fact.note else "")


def _change(name: str, first: PaperProtocol, second: PaperProtocol) -> Change | None:
    before, after = (getattr(one.facts, name).value for one in (first, second))
    if name == "extra_clusters" and not any(_has_extra(one) for one in (first, second)):
        return None
    if name in _SHARED_WITH_PROTOCOL or name == "checkpoint":
        return Change(name, before, after)
    if name == "crf" and "none" in (before, after):
        return Change("crf", *("off" if value == "none" else "on" for value in (before, after)))
    if name == "clusters":
        # More clusters are another run; what the metric makes of them is what can be measured.
        rules = [_rule_for_extra(one) for one in (first, second)]
        return Change("extra_clusters", *rules) if len(set(rules)) > 1 else None
    return None


def _why_not(name: str) -> str:
    return {
        "extra_clusters": "no effect: neither has clusters beyond the classes",
        "monitor": "see checkpoint: both choose by labels",
    }.get(name, "not measured: no protocol of uss-bench expresses it")


def _has_extra(paper: PaperProtocol) -> bool:
    return paper.facts.clusters is not None and paper.facts.clusters.value != "K = C"


def _rule_for_extra(paper: PaperProtocol) -> Any:
    """Return what the paper's metric does with extra clusters: ``strict`` where it has none."""
    rule = paper.facts.extra_clusters
    return rule.value if rule is not None and _has_extra(paper) else "strict"
