"""A ladder of checks: each rung looks at one thing, and says in plain words what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from uss_bench.errors import UssBenchError

S = TypeVar("S")

Status = Literal["ok", "note", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rung found.

    ``note`` is for what is allowed and worth knowing, ``skipped`` for what could not be looked at.
    """

    status: Status
    text: str
    todo: str = ""
    """What to do about it; for a failed rung always."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rung's verdict, under the rung's name."""

    rung: str
    status: Status
    text: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Rung(Generic[S]):
    """One check.

    Args:
        name: a word or two.
        check: looks at the subject. What it raises is a failure, too.
        needs: the rung without which this one has nothing to stand on.
        todo: what to do when `check` raises something that says nothing about it.
    """

    name: str
    check: Callable[[S], Verdict]
    needs: str = ""
    todo: str = ""


def ok(text: str) -> Verdict:
    return Verdict("ok", text)


def note(text: str, todo: str = "") -> Verdict:
    return Verdict("note", text, todo)


def skipped(text: str) -> Verdict:
    return Verdict("skipped", text)


def failed(text: str, todo: str) -> Verdict:
    return Verdict("failed", text, todo)


def climb(subject: S, rungs: Sequence[Rung[S]]) -> Iterator[Finding]:
    """Yield one finding per rung, in order; a rung whose foothold is missing is skipped."""
    missing: set[str] = set()
    for rung in rungs:
        reached = rung.needs not in missing
        verdict = _look(rung, subject) if reached else skipped(f"needs '{rung.needs}' to hold")
        if verdict.status in ("failed", "skipped"):
            missing.add(rung.name)
        yield Finding(rung.name, verdict.status, verdict.text, verdict.todo)


def _look(rung: Rung[S], subject: S) -> Verdict:
    try:
        return rung.check(subject)
    except UssBenchError as error:
        return failed(error.what, error.hint or rung.todo)
    except (Exception, SystemExit) as error:
        return failed(f"{type(error).__name__}: {error}", rung.todo)
