"""Error attribution of a configuration over its seeds, as a table, as Markdown and as tidy CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import click
import msgspec
import numpy as np

from uss_bench.cli.output.tables import table
from uss_bench.errors import DataError
from uss_bench.evaluation.attribution import (
    HOLDING_FRACTION,
    ClassErrors,
    Fate,
    MatchingScore,
    class_errors,
    fate_of,
    matching_stability,
    scores_by_matching,
)
from uss_bench.files.json_file import JSON_ERRORS
from uss_bench.plots.numbers import mean
from uss_bench.results.collection import Configuration, Entry
from uss_bench.results.record import Refinement, ScoreRow
from uss_bench.results.scores import METRICS, score_row
from uss_bench.runtime.formatting import MISSING, mean_sd, number
from uss_bench.runtime.text import csv_text, in_markdown

_CONFUSIONS = 3
_LEAST_SHOWN = 0.02
"""Confusions below this share of a class's pixels are not worth their place in a line."""
_WIDTH = 108
_TEXT_WIDTH = 36
"""Of the confusions: with class names of nineteen letters a line then has 110 columns."""


@dataclass(frozen=True)
class Attribution:
    """The errors of one configuration: per seed, and what a table says of all seeds together."""

    configuration: Configuration
    refinement: Refinement
    errors: tuple[ClassErrors, ...]
    matchings: tuple[list[MatchingScore], ...]
    probes: tuple[MatchingScore | None, ...]
    """What a linear probe of each seed's code reached, where `uss-bench probe` was run."""
    stability: np.ndarray
    """float64 (seeds, C), in 0..1; see `uss_bench.evaluation.attribution.matching_stability`."""

    @property
    def classes(self) -> list[str]:
        return [row.name for row in self.configuration.records[0].classes]

    def mean(self, name: str) -> np.ndarray:
        """Return the mean over seeds of an array of `ClassErrors`, NaN left out."""
        return mean(np.stack([getattr(one, name) for one in self.errors]).astype(np.float64))


def attribute(configuration: Configuration, refinement: Refinement, *, resamples: int = 1000) -> Attribution:
    """Attribute the errors of the last checkpoint of every seed.

    Label maps that were made elsewhere have no refined counts; theirs are taken raw.

    Raises:
        DataError: when the npz of a record is missing or damaged, or a probe is of another run.
    """
    if all(score_row(record, "crf") is None for record in configuration.records):
        refinement = "raw"
    protocol = configuration.records[0].protocol
    counts = configuration.counts(refinement)
    return Attribution(
        configuration,
        refinement,
        tuple(class_errors(one, protocol) for one in counts),
        tuple(scores_by_matching(one, protocol) for one in counts),
        tuple(_probe(entry, refinement) for entry in configuration.entries),
        np.stack([matching_stability(one, protocol, resamples=resamples) for one in counts]),
    )


class _Probe(msgspec.Struct, frozen=True):
    """The part of `uss_bench.experiment.probe.ProbeResult` that is printed; reading it needs no torch."""

    record: str
    raw: ScoreRow
    crf: ScoreRow


def _probe(entry: Entry, refinement: Refinement) -> MatchingScore | None:
    path = entry.path.with_suffix(".probe.json")
    if not path.is_file():
        return None
    try:
        result = msgspec.json.decode(path.read_bytes(), type=_Probe)
    except (OSError, *JSON_ERRORS) as error:
        raise DataError(f"{path} is not the result of a probe: {error}.") from None
    if result.record != entry.record.id:
        raise DataError(
            f"{path} is of another run ({result.record}).", hint="Run it again: uss-bench probe RECORD."
        )
    row: ScoreRow = getattr(result, refinement)
    return MatchingScore("linear probe, with labels", (row.accuracy or 0.0) / 100, (row.miou or 0.0) / 100)


def as_text(found: Attribution, *, markdown: bool = False) -> str:
    """Return the tables of one configuration for a terminal of 110 columns, or as Markdown."""
    cell = found.configuration.cell
    seeds = ", ".join(str(seed) for seed in found.configuration.seeds)
    title = f"{found.configuration.label} · {cell.dataset.name} · {cell.backbone.name} · {cell.protocol}"
    shown = (
        f"last checkpoint, {'after' if found.refinement == 'crf' else 'before'} the CRF, "
        f"{'mean over seeds' if len(found.errors) > 1 else 'seed'} {seeds}"
    )
    head = f"### {in_markdown(title)}\n\n{shown}" if markdown else f"{click.style(title, bold=True)}\n{shown}"
    return "\n\n".join(
        [head, _class_table(found, markdown), _matching_table(found, markdown), _legend(found)]
    )


def _class_table(found: Attribution, markdown: bool) -> str:
    counted_as = found.mean("counted_as")
    names = [in_markdown(name) for name in found.classes] if markdown else found.classes
    share, iou = found.mean("share"), found.mean("iou")
    holding, effective = found.mean("clusters_holding"), found.mean("effective_clusters")
    stability = mean(found.stability)
    rows = []
    for index in np.argsort(-share, kind="stable"):
        row = counted_as[index]
        fates = [one.fates()[index] for one in found.errors]
        rows.append(
            [
                names[index],
                *(number(100 * value) for value in (share[index], iou[index], row[index])),
                _story(row, index, names, fates),
                MISSING if np.isnan(effective[index]) else number(holding[index], 0),
                number(effective[index]),
                number(100 * stability[index], 0),
            ]
        )
    headers = ["class", "pixels", "IoU", "recall", "its other pixels are counted as"]
    headers += [f"{100 * HOLDING_FRACTION:.0f} %", "eff.", "keeps"]
    return table(rows, headers, align="lrrrlrrr", markdown=markdown)


def _story(row: np.ndarray, index: int, classes: Sequence[str], fates: Sequence[Fate]) -> str:
    """Say in one line what the pixels of a class are counted as, when not as itself."""
    if fate_of(row, index) == "absent":
        return "not in the ground truth"
    ranked = [other for other in np.argsort(-row, kind="stable") if other != index]
    named = [*classes, "no class"]
    parts = [f"{named[other]} {100 * row[other]:.0f}" for other in ranked if row[other] >= _LEAST_SHOWN]
    lost = sum(fate == "lost" for fate in fates)
    label = ""
    if lost == len(fates):
        label = "LOST: "
    elif lost:
        label = f"LOST in {lost} of {len(fates)}: "
    elif fate_of(row, index) == "absorbed":
        label = "mostly "
    shown = parts[:_CONFUSIONS]
    while len(shown) > 1 and len(label + ", ".join(shown)) > _TEXT_WIDTH:
        shown.pop()
    return label + (", ".join(shown) or "–")


def _matching_table(found: Attribution, markdown: bool) -> str:
    rows = []
    probes = [one for one in found.probes if one is not None]
    for scores in [*zip(*found.matchings, strict=True), *([probes] if probes else [])]:
        values = [mean_sd([100 * getattr(one, metric) for one in scores]) for metric in METRICS]
        rows.append([scores[0].name, *values])
    return table(rows, ["matching", *METRICS.values()], align="lrr", markdown=markdown)


def _legend(found: Attribution) -> str:
    images = found.configuration.records[0].images
    text = (
        "Percent; classes by their share of the pixels. LOST: never matched, no pixel of it is counted as "
        "it (in so many of the seeds). mostly: another class takes more of it than its own. "
        f"{100 * HOLDING_FRACTION:.0f} %: the fewest clusters that hold so much of it. eff.: the effective "
        "number of its "
        f"clusters, exp of their entropy. keeps: bootstrap resamples of the {images} images in which it "
        "keeps its cluster. per-image oracle: the labels of every image name its clusters; no rank uses it."
    )
    return textwrap.fill(text, _WIDTH)


def as_csv(found: Sequence[Attribution]) -> str:
    """Return tidy CSV: a row per configuration, seed, class and measure; no class for whole sets."""
    rows: list[list[object]] = [
        ["method", "dataset", "backbone", "protocol", "seed", "class", "measure", "value"]
    ]
    for one in found:
        cell = one.configuration.cell
        key = [one.configuration.label, cell.dataset.name, cell.backbone.name, cell.protocol]
        per_seed = zip(
            one.configuration.seeds, one.errors, one.matchings, one.probes, one.stability, strict=True
        )
        for seed, errors, scores, probe, stability in per_seed:
            for index, name in enumerate(one.classes):
                for measure, value in _measures(errors, stability, one.classes, index):
                    rows.append([*key, seed, name, measure, _number(value)])
            for score in [*scores, *([probe] if probe else [])]:
                for metric in METRICS:
                    shown = _number(getattr(score, metric))
                    rows.append([*key, seed, "", f"{metric}, {score.name}", shown])
    return csv_text(rows)


def _measures(
    errors: ClassErrors, stability: np.ndarray, classes: Sequence[str], index: int
) -> list[tuple[str, float]]:
    counted = [
        (f"counted as {name}", float(value))
        for name, value in zip([*classes, "no class"], errors.counted_as[index], strict=True)
    ]
    return [
        ("share", float(errors.share[index])),
        ("iou", float(errors.iou[index])),
        ("precision", float(errors.precision[index])),
        ("recall", float(errors.recall[index])),
        *counted,
        (f"clusters holding {HOLDING_FRACTION:g}", float(errors.clusters_holding[index])),
        ("effective clusters", float(errors.effective_clusters[index])),
        ("keeps its cluster", float(stability[index])),
    ]


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
