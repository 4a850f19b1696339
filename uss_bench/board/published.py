"""What papers claim for a configuration, and how the measurement stands to it: most comparable first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uss_bench.claims import Claim, ClaimCheck, check_claims
from uss_bench.results.collection import Configuration
from uss_bench.results.record import Refinement
from uss_bench.results.scores import METRICS, Metric


@dataclass(frozen=True, slots=True)
class Published:
    """A claim beside a row, in every metric that it states."""

    checks: tuple[ClaimCheck, ...]

    @property
    def source(self) -> str:
        """Paper and table."""
        return f"{self.claim.paper}, {self.claim.table}"

    @property
    def claim(self) -> Claim:
        return self.checks[0].claim

    @property
    def refinement(self) -> Refinement:
        """Which of the row's numbers it was compared with."""
        return self.checks[0].refinement

    @property
    def printed(self) -> dict[Metric, str]:
        """As printed, with a dash where the table has none."""
        return {metric: self.claim.printed(metric) for metric in METRICS}

    @property
    def status(self) -> dict[Metric, str]:
        """Per claimed metric: reproduced, higher, lower, protocol differs or n/a."""
        return {check.metric: check.status for check in self.checks}

    @property
    def reasons(self) -> list[str]:
        return list(dict.fromkeys(check.reason for check in self.checks))

    @property
    def comparable(self) -> bool:
        """Whether it is a claim about the same experiment."""
        return "protocol differs" not in self.status.values()


def published(configuration: Configuration, claims: Sequence[Claim]) -> tuple[Published, ...]:
    """Return every claim for the configuration's method on its dataset, both metrics of a claim together.

    The most comparable claim comes first, by the order of `check_claims`.
    """
    by_claim: dict[tuple[int, str, str], list[ClaimCheck]] = {}
    for check in check_claims([configuration], claims):
        by_claim.setdefault((id(check.claim), check.refinement, check.checkpoint), []).append(check)
    return tuple(Published(tuple(checks)) for checks in by_claim.values())
