"""What `uss-bench compare` says: tables, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from uss_bench.collection import Setting
from uss_bench.records import CheckpointResult, Refinement
from uss_bench.statistics.comparing import Comparison, Difference, compare
from uss_bench.statistics.power import needed

TITLES: dict[Refinement, str] = {"raw": "raw", "crf": "CRF"}


@dataclass(frozen=True)
class Versus:
    """Two settings of one table, and how they compare under each refinement."""

    a: Setting
    b: Setting
    found: Mapping[Refinement, Comparison]

    @classmethod
    def of(
        cls, a: Setting, b: Setting, refinements: Sequence[Refinement], *, resamples: int = 1000
    ) -> Versus:
        """Compare two settings.

        Raises:
            DataError: when the counts of a record are missing or damaged.
        """
        protocol = a.records[0].protocol
        found = {
            refinement: compare(a.counts(refinement), b.counts(refinement), protocol, resamples=resamples)
            for refinement in refinements
        }
        return cls(a, b, found)

    @property
    def classes(self) -> list[str]:
        return [row.name for row in self.a.records[0].classes]


def as_text(versus: Versus) -> str:
    """Return everything that was found, for a terminal."""
    parts = [_header(versus), "", _overall(versus)]
    parts += ["", *_verdicts(versus)]
    for refinement in versus.found:
        parts += ["", f"IoU per class, {TITLES[refinement]}", "", _per_class(versus, refinement)]
    parts += ["", *_footnotes(versus)]
    return "\n".join(parts)


def _header(versus: Versus) -> str:
    table, images = versus.a.table, versus.a.records[0].images
    backbones = [one.cell.backbone.name for one in (versus.a, versus.b)]
    shown = [name for name in dict.fromkeys(backbones) if name != "none"]
    seeds = " and ".join(str(len(one.seeds)) for one in (versus.a, versus.b))
    facts = [table.dataset, " and ".join(shown), table.protocol, f"{images} images", f"{seeds} seeds"]
    return f"{versus.a.label}  −  {versus.b.label}\n" + " · ".join(fact for fact in facts if fact)


def _overall(versus: Versus) -> str:
    rows = []
    for refinement, comparison in versus.found.items():
        scores = zip(*(_means(side, refinement) for side in (versus.a, versus.b)), strict=True)
        for name, difference, pair in zip(
            ("Acc", "mIoU"), (comparison.accuracy, comparison.miou), scores, strict=False
        ):
            rows.append([f"{name} {TITLES[refinement]}", *_cells(difference, pair)])
    return _table("", rows)


def _per_class(versus: Versus, refinement: Refinement) -> str:
    left, right = (_means(side, refinement)[2:] for side in (versus.a, versus.b))
    differences = versus.found[refinement].per_class
    rows = [
        [name, *_cells(difference, pair)]
        for name, difference, *pair in zip(versus.classes, differences, left, right, strict=True)
    ]
    return _table("class", rows)


def _table(first: str, rows: list[list[str]]) -> str:
    headers = [first, "A", "B", "A − B", "95 % interval", "p", "A is"]
    align = ("left", "right", "right", "right", "center", "right", "left")
    return tabulate(rows, headers=headers, colalign=align, disable_numparse=True)


def _cells(difference: Difference | None, pair: Sequence[float]) -> list[str]:
    scores = ["–" if math.isnan(value) else f"{value:.1f}" for value in pair]
    if difference is None:
        return [*scores, "–", "–", "–", "–"]
    return [
        *scores,
        _signed(difference.value),
        _bounds(difference),
        _probability(difference.p_value),
        difference.verdict,
    ]


def _bounds(difference: Difference) -> str:
    low, high = difference.interval.low, difference.interval.high
    return "–" if math.isnan(low) else f"{_signed(low):>6} … {_signed(high):>6}"


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _probability(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _verdicts(versus: Versus) -> list[str]:
    return [
        f"{name}, {TITLES[refinement]}: {_verdict(versus, difference, comparison)}"
        for refinement, comparison in versus.found.items()
        for name, difference in (("Acc", comparison.accuracy), ("mIoU", comparison.miou))
    ]


def _verdict(versus: Versus, difference: Difference, comparison: Comparison) -> str:
    if difference.verdict != "tied":
        winner = versus.a if difference.verdict == "better" else versus.b
        return f"{winner.label} is better."
    wanted = needed(difference, comparison.images, comparison.seeds)
    text = "the data cannot tell."
    if wanted is None:
        return text
    ways = []
    if wanted.images is not None:
        ways.append(f"{_round(wanted.images)} images")
    if wanted.seeds is not None:
        ways.append(f"{_round(wanted.seeds)} seeds per side")
    if not ways:
        return f"{text} More images or more seeds alone would not either; both are needed."
    return f"{text} A difference of this size would need about {' or '.join(ways)}."


def _round(number: int) -> str:
    """Return a rough number with two digits."""
    if number < 100:
        return str(number)
    scale = 10 ** (len(str(number)) - 2)
    return f"{math.ceil(number / scale) * scale:,}"


def _footnotes(versus: Versus) -> list[str]:
    notes = list(dict.fromkeys(note for one in versus.found.values() for note in one.notes))
    return [
        f"A is {versus.a.label}, B is {versus.b.label}: means over seeds in percent, A − B in points.",
        "Intervals leave both images and seeds to chance and are paired by image. Scores on few images",
        "flatter; that is taken off, so an interval need not be centred on A − B.",
        "Per class, p is corrected for the number of classes (Holm); the intervals are not.",
        *notes,
    ]


def _means(setting: Setting, refinement: Refinement) -> list[float]:
    """Return accuracy, mIoU and IoU per class in percent, mean over seeds; NaN where a seed has none."""
    seeds = [_scores(record.last, refinement) for record in setting.records]
    return [math.fsum(column) / len(column) for column in zip(*seeds, strict=True)]


def _scores(result: CheckpointResult | None, refinement: Refinement) -> list[float]:
    assert result is not None
    row = result.crf if refinement == "crf" else result.raw
    assert row is not None
    return [math.nan if value is None else value for value in (row.accuracy, row.miou, *row.iou)]
