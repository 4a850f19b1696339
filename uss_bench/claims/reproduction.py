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

import difflib
import functools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from uss_bench.claims.ledger import UNVERIFIED, Claim, claims_for, distinct, load_claims
from uss_bench.errors import UsageError
from uss_bench.plugins.params import training_geometry
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import BackboneSpec
from uss_bench.protocol import get_protocol, protocol_fields, shown
from uss_bench.results.collection import Configuration
from uss_bench.results.differences import changes
from uss_bench.results.record import Cell, Checkpoint, Refinement
from uss_bench.results.scores import METRICS, Metric, score_row
from uss_bench.runtime.formatting import value_text

ReproductionStatus = Literal["reproduced", "higher", "lower", "protocol differs", "n/a"]
CONFIDENCE = 0.95
_VIT_SIZE = re.compile(r"(?:vit_?|v\d)([tsbl])(?:iny|mall|ase|arge)?(?:_patch)?\d")
"""The size of a ViT, as names of backbones state it: ``vit_small_patch14``, ``dino_vits8``, ``dinov2s14``."""

WIDEST = 5.0
"""Points. The gains that papers of the field claim over each other are between one and five."""


@dataclass(frozen=True)
class ClaimCheck:
    """A measured configuration beside a claim, in one metric."""

    configuration: Configuration
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
    differing = claim_differences(claim, cell)
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


def claim_differences(claim: Claim, cell: Cell) -> list[str]:
    """Return in what the experiment of `cell` is not that of the claim, as "ours instead of theirs"."""
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
    found += _training_differences(claim, cell)
    if claim.crf is None:
        found.append("the source does not say whether a CRF was applied")
    found += _param_differences(claim.params, cell.method.params)
    return found


def check_claims(
    configurations: Sequence[Configuration], claims: Sequence[Claim] | None = None
) -> list[ClaimCheck]:
    """Compare every configuration with what is claimed for its method on its dataset.

    Claims that only repeat an earlier one count once. An ablation is compared only with configurations that
    have its parameters, so one that states none is compared with nothing; neither is what is unverified.
    Where the claim's checkpoint was chosen by labels, so is the measured one.
    For each configuration the most comparable claims come first, as a reader would choose them.

    Args:
        claims: those that come with uss-bench by default.

    Raises:
        DataError: when a record's npz, read where one seed must do, is missing or damaged.
    """
    claims = load_claims() if claims is None else claims
    checks = []
    for configuration in configurations:
        cell = configuration.cell
        named = claims_for(claims, method=cell.method.name, dataset=cell.dataset.name, variants=True)
        fitting = [
            claim
            for claim in distinct(named)
            if not claim.variant
            or (
                claim.params
                and claim.variant != UNVERIFIED
                and not _param_differences(claim.params, cell.method.params)
            )
        ]
        fitting.sort(key=lambda claim: _remoteness(claim, cell))
        checks += [
            check for claim in fitting for metric in METRICS for check in _check(configuration, claim, metric)
        ]
    return checks


def _remoteness(claim: Claim, cell: Cell) -> tuple[Any, ...]:
    """Return a sorting key: how far a claim's experiment is from that of a cell.

    The same experiment comes first. Of others the data and the evaluation weigh most, then the network, whose
    family a reader sees at a glance. Parameters weigh least: a source that states none is no closer for it.
    """
    differing = claim_differences(claim, cell)
    params = _param_differences(claim.params, cell.method.params)
    backbone = _backbone_differences(claim, cell)
    names = (claim.backbone, cell.backbone.name)
    sizes = [size and size[1] for size in map(_VIT_SIZE.search, names)]
    families = ["vit" if size else _family(name) for name, size in zip(names, sizes, strict=True)]
    return (
        bool(differing),
        len(differing) - len(params) - len(backbone),
        not claim.backbone,
        families[0] != families[1],
        sizes[0] != sizes[1],
        -difflib.SequenceMatcher(None, cell.backbone.name, claim.backbone).ratio(),
        claim.source != "own",
        claim.crf is False,  # papers quote the refined number
        len(params),
    )


def _check(configuration: Configuration, claim: Claim, metric: Metric) -> list[ClaimCheck]:
    """Return the one check, or none where nothing was claimed or measured."""
    refinement: Refinement = "raw" if claim.crf is False else "crf"
    wanted: Checkpoint = "selected" if claim.checkpoint == "selected" else "last"
    # A record without candidates has no selected checkpoint: what it chose from was the last one alone.
    checkpoint = wanted if all(record.selected for record in configuration.records) else "last"
    rows = [score_row(record, refinement, checkpoint) for record in configuration.records]
    values = tuple(value for row in rows if row is not None and (value := getattr(row, metric)) is not None)
    if claim.value(metric) is None or not values:
        return []
    interval = None
    if len(values) == 1 and not claim_differences(claim, configuration.cell):
        from uss_bench.statistics.intervals import image_interval

        counts = configuration.counts(refinement, checkpoint)
        found = image_interval(counts, configuration.records[0].protocol, metric)
        interval = (found.low, found.high)
    status, reason = reproduction(
        claim, values=values, interval=interval, cell=configuration.cell, metric=metric
    )
    return [ClaimCheck(configuration, claim, metric, refinement, checkpoint, values, status, reason)]


def _prediction_margin(values: Sequence[float]) -> float:
    from scipy.stats import t

    n = len(values)
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, n - 1))
    return quantile * statistics.stdev(values) * math.sqrt(1 + 1 / n)


def _backbone_differences(claim: Claim, cell: Cell) -> list[str]:
    used = cell.backbone
    if used.name != claim.backbone:
        return [f"backbone {used.name} instead of {claim.backbone or 'one that is not stated'}"]
    card = _cards().get(claim.backbone)
    if card and card.sha256 and used.sha256 != card.sha256:
        return [f"other weights ({used.sha256[:12]}) than those published as {claim.backbone}"]
    return []


@functools.cache
def _cards() -> dict[str, BackboneSpec]:
    """Return the specs of the backbones that come with uss-bench, by name."""
    specs = (one.spec for one in Registry().all("backbones"))
    return {spec.name: spec for spec in specs if isinstance(spec, BackboneSpec)}


def _family(backbone: str) -> str:
    """Return the code that runs a backbone, which tells a ResNet from a descriptor."""
    card = _cards().get(backbone)
    return backbone if card is None else card.adapter or card.name


def _protocol_differences(claim: Claim, cell: Cell) -> list[str]:
    try:
        theirs = get_protocol(claim.protocol)
        ours = msgspec.structs.replace(get_protocol(cell.protocol), alpha=cell.alpha)
    except UsageError:
        return [f"protocol {cell.protocol} instead of {claim.protocol or 'one that is not stated'}"]
    if claim.crf is False:  # these are the CRF's alone: the largest score stays the largest
        ours = msgspec.structs.replace(ours, alpha=theirs.alpha, crf=theirs.crf)
    found = changes(protocol_fields(theirs), protocol_fields(ours))
    return [f"{one.field} {shown(one.after)} instead of {shown(one.before)}" for one in found]


def _training_differences(claim: Claim, cell: Cell) -> list[str]:
    """Compare what was trained on: a claim has what the released code makes, but for what it states."""
    theirs = {**_released_training(cell.method.name, claim.dataset, claim.backbone), **claim.training}
    ours = msgspec.structs.asdict(cell.training)
    found = changes(theirs, {name: ours[name] for name in theirs})
    return [f"training {one.field} {shown(one.after)} instead of {shown(one.before)}" for one in found]


@functools.cache
def _released_training(method: str, dataset: str, backbone: str) -> dict[str, Any]:
    """Return what a method's spec says that its released code trains on; nothing of an unknown method."""
    registry = Registry()
    if method not in registry.names("methods"):
        return {}
    spec, _ = registry.method(method)
    return msgspec.structs.asdict(training_geometry(spec, {}, dataset=dataset, backbone=backbone))


def _param_differences(claimed: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    return [
        f"{one.field} {value_text(one.after)} instead of {value_text(one.before)}"
        if one.field in params
        else f"no parameter {one.field}, which the claim has at {value_text(one.before)}"
        for one in changes(claimed, {name: params[name] for name in claimed if name in params})
    ]
