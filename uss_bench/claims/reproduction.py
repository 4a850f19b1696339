"""Whether a measurement bears a claim out: a statistical rule, applied only where it may be.

**The rule.** A claim is one run of somebody else's, printed with so many decimals. If it comes from the
same experiment it is one more draw beside our n seeds, and falls, 95 times in 100, into the
*prediction* interval of one further run: mean ± t(0.975, n−1) · s · √(1 + 1/n), here widened by half a
unit of the last printed digit. Inside it the claim is ``reproduced``; else our mean is ``higher`` or
``lower``. The interval over images has no part in this, since both were measured on the same images.
But one seed has no spread, and there the interval over images takes the place of the other. An
interval that reaches more than `WIDEST` points to a side would confirm anything: a claim inside such a
one is ``n/a``.

**Where it may be applied.** To the same experiment only. Any difference in splits, number of images,
protocol, weights or parameters makes the status ``protocol differs``, and the reason names them all.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from uss_bench.claims.ledger import Claim, claims_for, distinct, load_claims
from uss_bench.collection import Setting
from uss_bench.errors import UsageError
from uss_bench.protocol import Protocol, get_protocol
from uss_bench.records import Cell, Checkpoint, Refinement
from uss_bench.registry import Registry

ReproductionStatus = Literal["reproduced", "higher", "lower", "protocol differs", "n/a"]
Metric = Literal["accuracy", "miou"]

CONFIDENCE = 0.95
WIDEST = 5.0
"""Points. The gains that papers of the field claim over each other are between one and five."""

_METRICS: tuple[Metric, ...] = ("accuracy", "miou")


@dataclass(frozen=True)
class ClaimCheck:
    """A measured setting beside a claim, in one metric."""

    setting: Setting
    claim: Claim
    metric: Metric
    refinement: Refinement
    checkpoint: Checkpoint
    """The one that was compared: the label-selected one where the claim's was."""
    values: tuple[float, ...]
    """Measured, percent, by seed."""
    status: ReproductionStatus
    reason: str

    @property
    def measured(self) -> float:
        """Mean over seeds, percent."""
        return statistics.fmean(self.values)


def reproduction(
    claim: Claim,
    *,
    values: Sequence[float],
    interval: tuple[float, float] | None,
    cell: Cell,
    metric: Metric,
) -> tuple[ReproductionStatus, str]:
    """Compare measurements with a claim by the rule above.

    Args:
        values: measured, percent, one per seed, refined by a CRF or not as the claim is.
        interval: 95 % interval over images, percent, if there is one. Of use for a single seed only.
        cell: the inputs that the values were measured with; its seed does not count.
        metric: which of the claim's numbers.

    Returns:
        The status, and why in one line.
    """
    claimed = claim.value(metric)
    if claimed is None:
        return "n/a", "nothing is claimed"
    if not values or any(math.isnan(value) for value in values):
        return "n/a", "nothing was measured"
    differing = differences(claim, cell)
    if differing:
        return "protocol differs", "; ".join(differing)
    if len(values) > 1:
        mean, margin = statistics.fmean(values), _prediction_margin(values)
        low, high = mean - margin, mean + margin
        what = f"by {len(values)} seeds another run falls between {low:.1f} and {high:.1f}"
    elif interval is not None:
        low, high = interval
        what = f"one seed: between {low:.1f} and {high:.1f} over images, spread of seeds unknown"
    else:
        return "n/a", "one seed says nothing of the spread: run more, --seeds 3"
    rounding = 0.5 * 10.0**-claim.decimals
    if claimed + rounding < low:
        return "higher", what
    if claimed - rounding > high:
        return "lower", what
    if (high - low) / 2 > WIDEST:
        return "n/a", f"too uncertain to tell: {what}"
    return "reproduced", what


def differences(claim: Claim, cell: Cell) -> list[str]:
    """Return in what the experiment of `cell` is not that of the claim: "ours instead of theirs"."""
    data = cell.dataset
    found = []
    if data.name != claim.dataset:
        found.append(f"dataset {data.name} instead of {claim.dataset}")
    if data.test_split != claim.split:
        found.append(f"test split {data.test_split} instead of {claim.split or 'one that is not stated'}")
    if claim.train_split and data.train_split != claim.train_split:
        found.append(f"train split {data.train_split} instead of {claim.train_split}")
    if data.limit is not None:
        found.append(f"at most {data.limit} images of each split instead of all")
    found += _backbone_differences(claim, cell)
    found += _protocol_differences(claim, cell)
    if claim.crf is None:
        found.append("the source does not say whether a CRF was applied")
    found += _param_differences(claim.params, cell.method.params)
    return found


def check_claims(settings: Sequence[Setting], claims: Sequence[Claim] | None = None) -> list[ClaimCheck]:
    """Compare every setting with what is claimed for its method on its dataset.

    Claims that only repeat an earlier one count once. An ablation is compared only with settings that
    have its parameters. Where the claim's checkpoint was chosen by labels, so is the measured one.
    For each setting the most comparable claims come first.

    Args:
        claims: those that come with uss-bench by default.

    Raises:
        DataError: when a record's npz, read where one seed must do, is missing or damaged.
    """
    claims = load_claims() if claims is None else claims
    checks = []
    for setting in settings:
        cell = setting.cell
        named = claims_for(claims, method=cell.method.name, dataset=cell.dataset.name, variants=True)
        fitting = [
            claim
            for claim in distinct(named)
            if not (claim.variant and _param_differences(claim.params, cell.method.params))
        ]
        fitting.sort(key=lambda claim: len(differences(claim, cell)))
        checks += [
            check for claim in fitting for metric in _METRICS for check in _check(setting, claim, metric)
        ]
    return checks


def _check(setting: Setting, claim: Claim, metric: Metric) -> list[ClaimCheck]:
    """Return the one check, or none where nothing was claimed or measured."""
    refinement: Refinement = "raw" if claim.crf is False else "crf"
    wanted: Checkpoint = "selected" if claim.checkpoint == "selected" else "last"
    # A record without candidates has no selected checkpoint: what it chose from was the last one alone.
    checkpoint = wanted if all(record.selected for record in setting.records) else "last"
    rows = [getattr(getattr(record, checkpoint), refinement) for record in setting.records]
    values = tuple(value for row in rows if row is not None and (value := getattr(row, metric)) is not None)
    if claim.value(metric) is None or not values:
        return []
    interval = None
    if len(values) == 1 and not differences(claim, setting.cell):
        from uss_bench.statistics.intervals import image_interval

        counts = setting.counts(refinement, checkpoint)
        found = image_interval(counts, setting.records[0].protocol, metric)
        interval = (found.low, found.high)
    status, reason = reproduction(claim, values=values, interval=interval, cell=setting.cell, metric=metric)
    return [ClaimCheck(setting, claim, metric, refinement, checkpoint, values, status, reason)]


def _prediction_margin(values: Sequence[float]) -> float:
    from scipy.stats import t

    n = len(values)
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, n - 1))
    return quantile * statistics.stdev(values) * math.sqrt(1 + 1 / n)


def _backbone_differences(claim: Claim, cell: Cell) -> list[str]:
    used = cell.backbone
    if used.name != claim.backbone:
        return [f"backbone {used.name} instead of {claim.backbone or 'one that is not stated'}"]
    published = _published_weights().get(claim.backbone)
    if published and used.sha256 != published:
        return [f"other weights ({used.sha256[:12]}) than those published as {claim.backbone}"]
    return []


@functools.cache
def _published_weights() -> dict[str, str]:
    """Return the digests that backbone cards state, by name."""
    plugins = Registry().all("backbones")
    return {one.name: digest for one in plugins if (digest := getattr(one.spec, "sha256", ""))}


def _protocol_differences(claim: Claim, cell: Cell) -> list[str]:
    try:
        theirs = get_protocol(claim.protocol)
    except UsageError:
        return [f"protocol {cell.protocol} instead of {claim.protocol or 'one that is not stated'}"]
    try:
        ours = msgspec.structs.replace(get_protocol(cell.protocol), alpha=cell.alpha)
    except UsageError:
        return [f"protocol {cell.protocol} instead of {claim.protocol}"]
    if claim.crf is False:  # these are the CRF's alone: the largest score stays the largest
        ours = msgspec.structs.replace(ours, alpha=theirs.alpha, crf=theirs.crf)
    mine, other = _fields(ours), _fields(theirs)
    return [
        f"{name} {_shown(mine[name])} instead of {_shown(other[name])}"
        for name in mine
        if mine[name] != other[name]
    ]


def _fields(protocol: Protocol) -> dict[str, Any]:
    """Return what a protocol does, by field, without what it is called."""
    fields: dict[str, Any] = msgspec.structs.asdict(protocol)
    crf = fields.pop("crf")
    del fields["name"], fields["version"]
    return fields | {f"CRF {name}": value for name, value in msgspec.structs.asdict(crf).items()}


def _param_differences(claimed: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in claimed.items():
        if name not in params:
            found.append(f"no parameter {name}, which the claim has at {_shown(value)}")
        elif params[name] != value:
            found.append(f"{name} {_shown(params[name])} instead of {_shown(value)}")
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
