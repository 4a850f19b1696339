"""What an audit finds: which file, what about it, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["wrong", "note"]


@dataclass(frozen=True, order=True)
class AuditFinding:
    """One thing about one file. What is ``wrong`` must be mended; a ``note`` is for the reader to weigh."""

    path: Path
    weight: Severity
    what: str
    todo: str


def wrong(path: Path, what: str, todo: str) -> AuditFinding:
    return AuditFinding(path, "wrong", what, todo)


def note(path: Path, what: str, todo: str) -> AuditFinding:
    return AuditFinding(path, "note", what, todo)


def any_wrong(findings: Iterable[AuditFinding]) -> bool:
    return any(one.weight == "wrong" for one in findings)
