"""Measured against published: which deviations are new, and which are known and explained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from uss_bench.claims import ClaimCheck
from uss_bench.plugins.specs import decode_toml


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A deviation from a claim that was looked into: it is shown, and fails nothing."""

    paper: str
    """Key of the paper, as in the claims ledger."""
    method: str
    dataset: str
    status: Literal["higher", "lower"]
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
        """Whether it deviates statistically, under the claim's own protocol, without an explanation."""
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
