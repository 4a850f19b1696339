"""What papers print as orderings, tested on records: methods, ablations, and what a CRF gains.

The orderings are read off the ledger of claims. A paper's own method above another one of the same table is
one, its own method above an ablation of itself, and a refined row above the unrefined one. Records test each
where they hold both sides on the same images with the same backbone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from uss_bench.claims.ledger import AVERAGE, UNVERIFIED, Claim
from uss_bench.results.collection import Configuration, TableKey
from uss_bench.results.record import Refinement
from uss_bench.results.stated import Stated, main_settings
from uss_bench.runtime.formatting import assignments
from uss_bench.statistics.comparing import Difference, compare

Kind = Literal["method", "ablation", "crf"]
Outcome = Literal["holds", "does not", "cannot be told"]
OUTCOMES: Mapping[str, Outcome] = {"better": "holds", "worse": "does not", "tied": "cannot be told"}


@dataclass(frozen=True)
class Side:
    """A method at its stated setting, or with some parameters changed."""

    method: str
    changed: tuple[tuple[str, Any], ...] = ()
    refined: bool = True

    def __str__(self) -> str:
        end = "" if self.refined else " without CRF"
        return " ".join(filter(None, [self.method, assignments(dict(self.changed))])) + end


@dataclass(frozen=True)
class Printed:
    """Where a paper prints an ordering, and by how many points of mIoU the better side is ahead."""

    paper: str
    table: str
    dataset: str
    ahead: float


@dataclass(frozen=True)
class Ordering:
    """A statement of papers: one side is better than another."""

    kind: Kind
    better: Side
    worse: Side
    printed: tuple[Printed, ...]

    @property
    def papers(self) -> list[str]:
        return list(dict.fromkeys(one.paper for one in self.printed))


@dataclass(frozen=True)
class Tested:
    """An ordering on one table of records."""

    ordering: Ordering
    table: TableKey
    backbone: str
    difference: Difference
    """Of the mIoU, better side less worse side."""

    @property
    def outcome(self) -> Outcome:
        return OUTCOMES[self.difference.verdict]


def printed_orderings(claims: Iterable[Claim]) -> list[Ordering]:
    """Return the orderings that the ledger's tables print, each with all its places.

    The better side is the one that is ahead in the mean over the places. Numbers from memory are left out.
    """
    groups: dict[tuple[str, ...], list[Claim]] = {}
    for one in claims:
        if one.miou is not None and one.variant != UNVERIFIED and one.dataset != AVERAGE:
            key = (one.paper, one.table, one.dataset, one.split, one.backbone)
            groups.setdefault(key, []).append(one)
    found: dict[tuple[Kind, Side, Side], list[Printed]] = {}
    for group in groups.values():
        for kind, first, second in _pairs(group):
            better, worse = Side(first.method), _side(second, first)
            ahead = (first.miou or 0.0) - (second.miou or 0.0)
            place = (first.paper, first.table, first.dataset)
            if (kind, worse, better) in found:
                found[kind, worse, better].append(Printed(*place, -ahead))
            else:
                found.setdefault((kind, better, worse), []).append(Printed(*place, ahead))
    return [
        _turned(Ordering(kind, better, worse, tuple(printed)))
        for (kind, better, worse), printed in found.items()
    ]


def _pairs(group: Sequence[Claim]) -> Iterable[tuple[Kind, Claim, Claim]]:
    """Yield what one table says of one dataset and backbone, in the order of print."""
    plain = [one for one in group if not one.variant and one.crf is not False]
    for own in (one for one in plain if one.source == "own"):
        for other in plain:
            if other.method != own.method:
                yield "method", own, other
        for other in group:
            same = (other.method, other.crf) == (own.method, own.crf)
            if same and _side(other, own).changed:
                yield "ablation", own, other
    for one in plain:
        for other in group:
            if (other.method, other.variant, other.crf) == (one.method, one.variant, False):
                yield "crf", one, other


def _side(claim: Claim, beside: Claim) -> Side:
    """Return a claim as a side of an ordering: a variant by the parameters that differ from those beside."""
    changed = {name: value for name, value in claim.params.items() if beside.params.get(name) != value}
    known = tuple(sorted(changed.items())) if claim.variant else ()
    return Side(claim.method, known, claim.crf is not False)


def _turned(ordering: Ordering) -> Ordering:
    if statistics.fmean(one.ahead for one in ordering.printed) >= 0:
        return ordering
    printed = tuple(Printed(one.paper, one.table, one.dataset, -one.ahead) for one in ordering.printed)
    return Ordering(ordering.kind, ordering.worse, ordering.better, printed)


def tested_orderings(
    orderings: Iterable[Ordering], configurations: Sequence[Configuration], stated: Stated
) -> list[Tested]:
    """Test every ordering on every table that has both sides.

    A method stands for itself at its stated setting (`main_settings`), an ablation by the configuration that
    differs from it in the ablated parameters alone.

    Raises:
        DataError: when the npz of a record is missing or damaged.
    """
    main: dict[tuple[TableKey, str, str], dict[str, Configuration]] = {}
    for one in main_settings(configurations, stated):
        key = (one.table, one.cell.backbone.name, one.cell.backbone.sha256)
        main.setdefault(key, {})[one.cell.method.name] = one
    found = []
    for ordering in orderings:
        for (table, backbone, _), methods in main.items():
            better = _configuration(ordering.better, methods, configurations)
            worse = _configuration(ordering.worse, methods, configurations)
            if better is not None and worse is not None:
                difference = _difference(ordering, better, worse)
                if difference is not None:
                    found.append(Tested(ordering, table, backbone, difference))
    return found


def _configuration(
    side: Side, methods: Mapping[str, Configuration], configurations: Iterable[Configuration]
) -> Configuration | None:
    main = methods.get(side.method)
    if main is None or not side.changed:
        return main
    wanted = {**main.cell.method.params, **dict(side.changed)}
    if wanted.keys() != main.cell.method.params.keys() or wanted == main.cell.method.params:
        return None
    for one in configurations:
        same = (one.table, one.cell.backbone, one.cell.method.name) == (
            main.table,
            main.cell.backbone,
            side.method,
        )
        if same and one.cell.method.params == wanted:
            return one
    return None


def _difference(ordering: Ordering, better: Configuration, worse: Configuration) -> Difference | None:
    """Return the difference of mIoU; None where one side has no refined counts and the other has."""
    refined = better.refined and worse.refined
    if ordering.kind == "crf" and not refined:
        return None

    def counts(side: Side, configuration: Configuration) -> list[np.ndarray]:
        refinement: Refinement = "crf" if side.refined and refined else "raw"
        return configuration.counts(refinement)

    protocol = better.records[0].protocol
    return compare(counts(ordering.better, better), counts(ordering.worse, worse), protocol).miou
