"""Whether an ablation shows the pattern that its paper prints, under each reading of what a text leaves open.

Absolute points do not carry over to other data, so a row is *deep* where it loses more than a tenth of the
full method's accuracy, and *small* otherwise. A row holds where the paired interval of what it keeps lies on
the paper's side of that line, and does not where it lies on the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from uss_bench.audit.orderings import OUTCOMES, Outcome
from uss_bench.claims.ledger import Claim
from uss_bench.results.collection import Configuration, shared_identity
from uss_bench.statistics.comparing import Difference, difference
from uss_bench.statistics.sampling import Sampling

DEEP = 0.1
"""A share of the full method's accuracy. DS²DL's rows lose at most 0.019 or at least 0.34 of it in print, so
any line between tells them apart alike."""


_WORST_FIRST: tuple[Outcome | None, ...] = ("does not", None, "cannot be told")


@dataclass(frozen=True)
class Removal:
    """A row of an ablation in print: what is removed, and the accuracy that is lost with it."""

    label: str
    params: Mapping[str, Any]
    points: float
    share: float
    """Of the full method's accuracy."""

    @property
    def deep(self) -> bool:
        return self.share > DEEP


@dataclass(frozen=True)
class Removed:
    """A row on records."""

    removal: Removal
    difference: Difference
    """Of the accuracy: without it less with it, in points."""
    outcome: Outcome
    """Whether it is as deep, or as small, as in print."""


@dataclass(frozen=True)
class Reading:
    """One setting of what the text leaves open, and the rows of the ablation on one table of records."""

    label: str
    full: Configuration
    accuracy: float
    rows: tuple[Removed | None, ...]
    """None where a row was not measured."""
    orders: tuple[Outcome | None, ...]
    """Whether each deep row loses more than the deep row before it, from the least to the greatest loss in
    print."""

    @property
    def pattern(self) -> Outcome | None:
        """Whether all of it shows; None while a row is missing and nothing speaks against it."""
        outcomes = [one.outcome if one else None for one in self.rows] + [*self.orders]
        for outcome in _WORST_FIRST:
            if outcome in outcomes:
                return outcome
        return "holds"


def printed_removals(claims: Iterable[Claim], paper: str, table: str) -> list[Removal]:
    """Return the rows of a paper's ablation that change parameters, in the order of print.

    Raises:
        ValueError: when the table has no row of the full method's accuracy.
    """
    own = [one for one in claims if (one.paper, one.table, one.source) == (paper, table, "own")]
    full = next((one for one in own if not one.variant and one.accuracy), None)
    if full is None or full.accuracy is None:
        raise ValueError(f"{table} of {paper} has no accuracy of the full method")
    found = []
    for one in own:
        params = {name: value for name, value in one.params.items() if full.params.get(name) != value}
        if params and one.accuracy is not None:
            lost = full.accuracy - one.accuracy
            found.append(Removal(one.label, params, lost, lost / full.accuracy))
    return found


def readings(
    configurations: Iterable[Configuration],
    method: str,
    settings: Mapping[str, Mapping[str, Any]],
    removals: Sequence[Removal],
    defaults: Mapping[str, Any],
) -> list[Reading]:
    """Return each setting on each table on which it was measured with at least one row of the ablation.

    Two records belong together where they differ in nothing but the parameters that settings and rows name.

    Args:
        settings: the readings by label, each with its parameters.
        defaults: the method's, for parameters that a setting or a row does not name.

    Raises:
        DataError: when the npz of a record is missing or damaged.
    """
    varied = {name for params in settings.values() for name in params}
    varied |= {name for one in removals for name in one.params}
    groups: dict[bytes, list[Configuration]] = {}
    for one in configurations:
        if one.cell.method.name == method and varied <= one.cell.method.params.keys():
            groups.setdefault(shared_identity(one.cell, *varied), []).append(one)
    found = []
    for group in groups.values():
        for label, params in settings.items():
            full = _with(group, varied, {**defaults, **params})
            rows = [_with(group, varied, {**defaults, **params, **one.params}) for one in removals]
            if full is not None and any(rows):
                found.append(_reading(label, full, removals, rows))
    return found


def _with(
    group: Iterable[Configuration], varied: Iterable[str], wanted: Mapping[str, Any]
) -> Configuration | None:
    for one in group:
        if all(one.cell.method.params[name] == wanted[name] for name in varied):
            return one
    return None


def _reading(
    label: str, full: Configuration, removals: Sequence[Removal], rows: Sequence[Configuration | None]
) -> Reading:
    whole = _sampled(full)
    without = [None if one is None else _sampled(one) for one in rows]
    found = [
        None if row is None else _removed(removal, row, whole)
        for removal, row in zip(removals, without, strict=True)
    ]
    deep = [(one.points, row) for one, row in zip(removals, without, strict=True) if one.deep]
    deep.sort(key=lambda pair: pair[0])
    orders = [
        None if less is None or more is None else OUTCOMES[difference(less, more, "accuracy").verdict]
        for (_, less), (_, more) in pairwise(deep)
    ]
    return Reading(label, full, whole.percent("accuracy"), tuple(found), tuple(orders))


def _removed(removal: Removal, row: Sampling, whole: Sampling) -> Removed:
    kept = difference(row, whole, "accuracy", share=1 - DEEP)  # above 0: less than a tenth is lost
    outcome = OUTCOMES[(kept.reversed() if removal.deep else kept).verdict]
    return Removed(removal, difference(row, whole, "accuracy"), outcome)


def _sampled(one: Configuration) -> Sampling:
    counts = one.counts("crf" if one.refined else "raw")
    one.release()
    return Sampling.of(counts, one.records[0].protocol)
