"""Checks: each looks at one thing and states in plain words what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import msgspec

from uss_bench.errors import UssBenchError
from uss_bench.plugins.registry import Plugin
from uss_bench.plugins.specs import Ingredient, MethodSpec
from uss_bench.protocol import TrainingGeometry
from uss_bench.results.code import code_hash

S = TypeVar("S")

Status = Literal["ok", "note", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    ``note`` is for what is allowed and worth knowing, ``skipped`` for what could not be examined.
    """

    status: Status
    text: str
    todo: str = ""
    """What to do about it; a failed check always states it."""
    check: str = ""
    badge: str = ""
    """The field of `LabelAudit` that this finding decides; '' for none."""


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """One check.

    Args:
        name: a word or two.
        look: examines the subject. An exception is a failure, too.
        needs: the prerequisite, without which this check is skipped.
        todo: the advice for exceptions that carry none.
        badge: see `Finding`.
    """

    name: str
    look: Callable[[S], Finding]
    needs: str
    todo: str
    badge: str


def check(
    *, name: str = "", needs: str = "", todo: str = "", badge: str = ""
) -> Callable[[Callable[[S], Finding]], Check[S]]:
    """Make a check of a function; without a `name` it has that of the function."""

    def make(look: Callable[[S], Finding]) -> Check[S]:
        return Check(name or look.__name__.replace("_", " "), look, needs, todo, badge)

    return make


def ok(text: str) -> Finding:
    return Finding("ok", text)


def note(text: str, todo: str = "") -> Finding:
    return Finding("note", text, todo)


def skipped(text: str) -> Finding:
    return Finding("skipped", text)


def failed(text: str, todo: str) -> Finding:
    return Finding("failed", text, todo)


def run_checks(subject: S, checks: Iterable[Check[S]]) -> Iterator[Finding]:
    """Yield one finding per check, in order; a check whose prerequisite does not hold is skipped."""
    missing: set[str] = set()
    for one in checks:
        found = skipped(f"needs '{one.needs}' to hold") if one.needs in missing else _look(one, subject)
        if found.status in ("failed", "skipped"):
            missing.add(one.name)
        yield replace(found, check=one.name, badge=one.badge)


def _look(one: Check[S], subject: S) -> Finding:
    try:
        return one.look(subject)
    except UssBenchError as error:
        return failed(error.what, error.hint or one.todo)
    except (Exception, SystemExit) as error:
        return failed(f"{type(error).__name__}: {error}", one.todo)


class LabelAudit(msgspec.Struct, frozen=True):
    """Whether labels can reach what a method predicts, as far as its checks saw; None where unknown."""

    label_free: bool | None = None
    """Training opens no label file, and learns the same bytes where there are no labels."""
    permuted_labels_equal: bool | None = None
    """With other labels on disk it learns and predicts the same bytes."""
    no_label_gradient: bool | None = None
    """No label changes a gradient of evaluated parameters, nor does a label loss that it offers."""


class MethodReport(msgspec.Struct, frozen=True):
    """What the checks of one method found, for a board and for other programs."""

    method: str
    code: str
    """The method's code hash under the default training geometry."""
    ingredients: list[Ingredient]
    label_audit: LabelAudit
    findings: list[Finding]

    @classmethod
    def of(cls, plugin: Plugin, findings: list[Finding]) -> MethodReport:
        assert isinstance(plugin.spec, MethodSpec)
        known = (one for one in findings if one.badge and one.status != "skipped")
        audit = LabelAudit(**{one.badge: one.status != "failed" for one in known})
        code = code_hash(plugin, TrainingGeometry())
        return cls(plugin.name, code, plugin.spec.ingredients, audit, findings)
