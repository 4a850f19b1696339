"""Field by field: what differs between two protocols, or between what two papers did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from uss_bench.audit.papers import Cost, Fact, PaperProtocol
from uss_bench.protocol import Protocol, protocol_fields, shown
from uss_bench.results.differences import Change, changes

_SHARED_WITH_PROTOCOL = (
    *("resize", "flip", "upsample", "alpha"),
    *("matching", "extra_clusters", "absent_classes"),
)
_CROPS = {"on": "five", "off": "none"}
"""What the ledger's ``five_crop`` is in a training geometry."""
_OTHER_IMAGES = "not measured: other test images, which --data test=… chooses"
_EXTENTS = {
    "short side": "square",
    "squashed": "squash",
    "whole image squashed": "squash",
    "whole images": "whole",
}
"""How the ledger's words for a ``geometry`` begin, and the ``extent`` of a protocol that they mean."""


@dataclass(frozen=True)
class FieldRow:
    """One field in which two sides differ."""

    field: str
    before: str
    after: str
    change: Change | None
    """The change whose effect can be measured, if there is one."""
    sources: tuple[str, str] = ("", "")
    remark: str = ""
    """Why there is no such change."""
    printed: tuple[Cost, ...] = ()
    """What papers print of such a difference, for where no record shows it."""


@dataclass(frozen=True)
class SideBySide:
    """Two protocols or papers, field by field."""

    names: tuple[str, str]
    rows: tuple[FieldRow, ...]
    alike: tuple[str, ...]
    """Fields that are the same on both sides."""
    unknown: tuple[tuple[str, str], ...] = ()
    """Fields that a source leaves open, and who: a side's name, or ``both``."""

    @property
    def changes(self) -> list[Change]:
        """The changes that can be measured, in the order of the rows."""
        return [one.change for one in self.rows if one.change is not None]


def with_printed(sides: SideBySide, papers: Iterable[PaperProtocol]) -> SideBySide:
    """Return a comparison whose rows hold what any of `papers` prints of a difference in their field."""
    costs = [cost for paper in papers for cost in paper.costs]
    rows = (replace(row, printed=tuple(one for one in costs if one.field == row.field)) for row in sides.rows)
    return replace(sides, rows=tuple(rows))


def between_protocols(first: Protocol, second: Protocol) -> SideBySide:
    """Compare two of our protocols; the names that they go by do not count."""
    before = protocol_fields(first)
    found = changes(before, protocol_fields(second))
    rows = [FieldRow(one.field, shown(one.before), shown(one.after), one) for one in found]
    alike = [name for name in before if name not in {one.field for one in found}]
    return SideBySide((first.id, second.id), tuple(rows), tuple(alike))


def between_papers(first: PaperProtocol, second: PaperProtocol) -> SideBySide:
    """Compare what two papers did, as far as their code or text says."""
    rows: list[FieldRow] = []
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
            rows.append(FieldRow(name, _with_note(before), _with_note(after), change, sources, remark))
    return SideBySide((first.title, second.title), tuple(rows), tuple(alike), tuple(unknown))


def _with_note(fact: Fact) -> str:
    return shown(fact.value) + (f" ({fact.note})" if fact.note else "")


def _change(name: str, first: PaperProtocol, second: PaperProtocol) -> Change | None:
    before, after = (getattr(one.facts, name).value for one in (first, second))
    if name == "extra_clusters" and not any(_has_extra(one) for one in (first, second)):
        return None
    if name == "five_crop":
        return Change("training.crops", *(_CROPS[value] for value in (before, after)))
    if name in _SHARED_WITH_PROTOCOL or name == "checkpoint":
        return Change(name, before, after)
    if name == "geometry":
        extents = [_extent(value) for value in (before, after)]
        return Change("extent", *extents) if all(extents) and len(set(extents)) > 1 else None
    if name == "crf" and "none" in (before, after):
        return Change("crf", *("off" if value == "none" else "on" for value in (before, after)))
    if name == "clusters":
        # More clusters are another run; what the metric makes of them is what can be measured.
        rules = [_rule_for_extra(one) for one in (first, second)]
        return Change("extra_clusters", *rules) if len(set(rules)) > 1 else None
    return None


def _extent(geometry: str) -> str:
    longest = max((start for start in _EXTENTS if geometry.startswith(start)), key=len, default="")
    return _EXTENTS.get(longest, "")


def _why_not(name: str) -> str:
    return {
        **dict.fromkeys(("coco", "cityscapes", "potsdam"), _OTHER_IMAGES),
        "extra_clusters": "no effect: neither has clusters beyond the classes",
        "monitor": "see checkpoint: both choose by labels",
    }.get(name, "not measured: no protocol of uss-bench expresses it")


def _has_extra(paper: PaperProtocol) -> bool:
    return paper.facts.clusters is not None and paper.facts.clusters.value != "K = C"


def _rule_for_extra(paper: PaperProtocol) -> Any:
    """Return what the paper's metric does with extra clusters: ``strict`` where it has none."""
    rule = paper.facts.extra_clusters
    return rule.value if rule is not None and _has_extra(paper) else "strict"
