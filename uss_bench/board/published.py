"""What papers claim for a setting, and how the measurement stands to it: most comparable claim first."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from uss_bench.board.model import METRICS, Published
from uss_bench.claims import Claim, ClaimCheck, check_claims
from uss_bench.collection import Setting


def published(setting: Setting, claims: Sequence[Claim]) -> tuple[Published, ...]:
    """Return every claim for the setting's method on its dataset, both metrics of a claim together.

    Claims about the same experiment come first, then those that differ in the fewest respects; among
    equals the method's own paper, the refined numbers, which are the ones that papers quote, and the
    backbone whose name is most like ours.
    """
    by_claim: dict[tuple[int, str, str], list[ClaimCheck]] = {}
    for check in check_claims([setting], claims):
        by_claim.setdefault((id(check.claim), check.refinement, check.checkpoint), []).append(check)
    found = sorted(by_claim.values(), key=_distance)
    return tuple(_published(checks) for checks in found)


def _distance(checks: Sequence[ClaimCheck]) -> tuple[bool, int, bool, bool, float]:
    first = checks[0]
    differs = first.status == "protocol differs"
    backbone = first.setting.cell.backbone.name
    return (
        differs,
        first.reason.count(";") if differs else 0,
        first.claim.source != "own",
        first.refinement != "crf",
        -difflib.SequenceMatcher(None, backbone, first.claim.backbone).ratio(),
    )


def _published(checks: Sequence[ClaimCheck]) -> Published:
    first = checks[0]
    claim = first.claim
    status = {check.metric: check.status for check in checks}
    reasons = {check.metric: check.reason for check in checks}
    return Published(
        source=f"{claim.paper}, {claim.table}",
        origin=claim.source,
        backbone=claim.backbone or claim.printed_backbone,
        refinement=first.refinement,
        checkpoint=first.checkpoint,
        printed={metric: claim.printed(metric) for metric in METRICS},
        status=status,
        reasons=tuple(dict.fromkeys(reasons.values())),
        note=claim.note,
    )
