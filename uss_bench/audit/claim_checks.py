"""Published claims: whether they can be true, name what exists, and agree with each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from uss_bench.audit.findings import AuditFinding, note, wrong
from uss_bench.claims import Claim
from uss_bench.errors import UsageError
from uss_bench.protocol import get_protocol
from uss_bench.results.scores import METRICS


def audit_claims(claims: Iterable[Claim], folder: Path, datasets: Container[str]) -> list[AuditFinding]:
    """Check every claim alone and against the others.

    Args:
        folder: where the claims were read: PAPER.toml.
        datasets: names that a claim may give as its dataset.
    """
    claims = list(claims)
    findings = [one for claim in claims for one in _alone(claim, folder, datasets)]
    return sorted([*findings, *_twice(claims, folder), *_contradictions(claims, folder)])


def _alone(claim: Claim, folder: Path, datasets: Container[str]) -> Iterator[AuditFinding]:
    path = folder / f"{claim.paper}.toml"
    where = f"{claim.table}, '{claim.label}'"
    for metric in METRICS:
        value = claim.value(metric)
        if value is not None and not 0 <= value <= 100:
            yield wrong(path, f"{where}: {metric} {value} is no percentage", "compare with the print")
    if claim.dataset not in datasets:
        yield wrong(path, f"{where}: there is no dataset '{claim.dataset}'", "uss-bench ls datasets")
    if "@" in claim.protocol:
        try:
            get_protocol(claim.protocol)
        except UsageError as error:
            yield wrong(path, f"{where}: {error.what.rstrip('.')}", "uss-bench ls protocols")


def _twice(claims: Iterable[Claim], folder: Path) -> Iterator[AuditFinding]:
    """Yield cells that the ledger holds twice: one table has one number for a row and its conditions."""
    seen: set[tuple[object, ...]] = set()
    for claim in claims:
        row = (claim.paper, claim.table, claim.label, claim.variant, repr(claim.params))
        key = (*row, *_conditions(claim), claim.protocol)
        if key in seen:
            yield wrong(
                folder / f"{claim.paper}.toml",
                f"{claim.table}, '{claim.label}' has two numbers on {claim.dataset}",
                "tell the rows apart",
            )
        seen.add(key)


def _contradictions(claims: Iterable[Claim], folder: Path) -> Iterator[AuditFinding]:
    """Yield what a paper prints of another's method and that paper prints nowhere itself.

    Conditions are the same. Numbers that somebody measured again are another experiment, and no
    contradiction.
    """
    groups: dict[tuple[object, ...], list[Claim]] = defaultdict(list)
    for claim in claims:
        if claim.scored:
            groups[(claim.method, claim.variant, *_conditions(claim))].append(claim)
    for group in groups.values():
        own = [claim for claim in group if claim.source == "own"]
        for claim in group:
            if claim.source == "cited" and own and not any(_agree(claim, one) for one in own):
                numbers = ", ".join(dict.fromkeys(_printed(one) for one in own))
                yield note(
                    folder / f"{claim.paper}.toml",
                    f"{claim.table} says {_printed(claim)} of {claim.method} on {claim.dataset}; "
                    f"its authors {numbers} ({own[0].table})",
                    "show both",
                )


def _conditions(claim: Claim) -> tuple[object, ...]:
    return claim.dataset, claim.split, claim.train_split, claim.backbone, claim.crf


def _agree(first: Claim, second: Claim) -> bool:
    """Whether two claims may be the same number, printed with the decimals that each has."""
    room = sum(0.5 * 10**-claim.decimals for claim in (first, second)) + 1e-9
    pairs = [(first.accuracy, second.accuracy), (first.miou, second.miou)]
    return all(a is None or b is None or abs(a - b) <= room for a, b in pairs)


def _printed(claim: Claim) -> str:
    return f"{claim.printed('accuracy')} / {claim.printed('miou')}"
