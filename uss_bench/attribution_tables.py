"""Error attribution of a setting over its seeds, as a table, as Markdown and as tidy CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import click
import msgspec
import numpy as np
from tabulate import tabulate

from uss_bench.attribution import (
    HELD,
    ClassErrors,
    Fate,
    Rung,
    class_errors,
    fate_of,
    matching_ladder,
    matching_stability,
)
from uss_bench.collection import Entry, Setting
from uss_bench.errors import DataError
from uss_bench.json_files import JSON_ERRORS
from uss_bench.records import Refinement, ScoreRow
from uss_bench.text import in_markdown

_CONFUSIONS = 3
_LEAST_SHOWN = 0.02
"""Confusions below this share of a class's pixels are not worth their place in a line."""
_WIDTH = 108
_TEXT_WIDTH = 36
"""Of the confusions: with class names of nineteen letters a line then has 110 columns."""


@dataclass(frozen=True)
class Attribution:
    """The errors of one setting: per seed, and what a table says of all seeds together."""

    setting: Setting
    refinement: Refinement
    errors: tuple[ClassErrors, ...]
    ladders: tuple[list[Rung], ...]
    probes: tuple[Rung | None, ...]
    """What a linear probe of each seed's code reached, where `uss-bench probe` was run."""
    stability: np.ndarray
    """float64 (seeds, C), in 0..1; see `uss_bench.attribution.matching_stability`."""

    @property
    def classes(self) -> list[str]:
        return [row.name for row in self.setting.records[0].classes]

    def mean(self, name: str) -> np.ndarray:
        """Return the mean over seeds of an array of `ClassErrors`, NaN left out."""
        values = np.stack([getattr(one, name) for one in self.errors]).astype(np.float64)
        return mean_of_known(values)


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis without its NaNs; NaN where nothing is known."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
    return mean


def attribute(setting: Setting, refinement: Refinement, *, resamples: int = 1000) -> Attribution:
    """Attribute the errors of the last checkpoint of every seed.

    Label maps that were made elsewhere have no refined counts; theirs are taken raw.

    Raises:
        DataError: when the npz of a record is missing or damaged, or a probe is of another run.
    """
    if all(record.last is not None and record.last.crf is None for record in setting.records):
        refinement = "raw"
    protocol = setting.records[0].protocol
    counts = setting.counts(refinement)
    return Attribution(
        setting,
        refinement,
        tuple(class_errors(one, protocol) for one in counts),
        tuple(matching_ladder(one, protocol) for one in counts),
        tuple(_probe(entry, refinement) for entry in setting.entries),
        np.stack([matching_stability(one, protocol, resamples=resamples) for one in counts]),
    )


class _Probe(msgspec.Struct, frozen=True):
    """Of what `uss_bench.probe.ProbeResult` holds, what a ladder shows; reading it needs no torch."""

    record: str
    raw: ScoreRow
    crf: ScoreRow


def _probe(entry: Entry, refinement: Refinement) -> Rung | None:
    path = entry.path.with_suffix(".probe.json")
    if not path.is_file():
        return None
    try:
        result = msgspec.json.decode(path.read_bytes(), type=_Probe)
    except (OSError, *JSON_ERRORS) as error:
        raise DataError(f"{path} is no probe's result: {error}.") from None
    if result.record != entry.record.id:
        raise DataError(
            f"{path} is of another run ({result.record}).", hint="Run it again: uss-bench probe RECORD."
        )
    row: ScoreRow = getattr(result, refinement)
    return Rung("linear probe, with labels", (row.accuracy or 0.0) / 100, (row.miou or 0.0) / 100)


def as_text(found: Attribution, *, markdown: bool = False) -> str:
    """Return the tables of one setting for a terminal of 110 columns, or as Markdown."""
    cell = found.setting.cell
    seeds = ", ".join(str(seed) for seed in found.setting.seeds)
    title = f"{found.setting.label} · {cell.dataset.name} · {cell.backbone.name} · {cell.protocol}"
    shown = (
        f"last checkpoint, {'after' if found.refinement == 'crf' else 'before'} the CRF, "
        f"{'mean over seeds' if len(found.errors) > 1 else 'seed'} {seeds}"
    )
    head = f"### {in_markdown(title)}\n\n{shown}" if markdown else f"{click.style(title, bold=True)}\n{shown}"
    return "\n\n".join([head, _class_table(found, markdown), _ladder_table(found, markdown), _legend(found)])


def _class_table(found: Attribution, markdown: bool) -> str:
    counted_as = found.mean("counted_as")
    names = [in_markdown(name) for name in found.classes] if markdown else found.classes
    share, iou = found.mean("share"), found.mean("iou")
    holding, effective = found.mean("clusters_holding"), found.mean("effective_clusters")
    stability = mean_of_known(found.stability)
    rows = []
    for index in np.argsort(-share, kind="stable"):
        row = counted_as[index]
        fates = [one.fates()[index] for one in found.errors]
        rows.append(
            [
                names[index],
                _percent(share[index]),
                _percent(iou[index]),
                _percent(row[index]),
                _story(row, index, names, fates),
                "–" if np.isnan(effective[index]) else f"{holding[index]:.0f}",
                "–" if np.isnan(effective[index]) else f"{effective[index]:.1f}",
                _percent(stability[index], digits=0),
            ]
        )
    headers = ["class", "pixels", "IoU", "recall", "its other pixels are counted as"]
    return tabulate(
        rows,
        headers=[*headers, f"{100 * HELD:.0f} %", "eff.", "keeps"],
        tablefmt="github" if markdown else "simple",
        colalign=("left", "right", "right", "right", "left", "right", "right", "right"),
        disable_numparse=True,
    )


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


def _ladder_table(found: Attribution, markdown: bool) -> str:
    rows = []
    probes = [one for one in found.probes if one is not None]
    for rungs in [*zip(*found.ladders, strict=True), *([probes] if probes else [])]:
        values = [_spread([getattr(rung, name) for rung in rungs]) for name in ("accuracy", "miou")]
        rows.append([rungs[0].name, *values])
    return tabulate(
        rows,
        headers=["matching", "Acc", "mIoU"],
        tablefmt="github" if markdown else "simple",
        colalign=("left", "right", "right"),
        disable_numparse=True,
    )


def _legend(found: Attribution) -> str:
    images = found.setting.records[0].images
    text = (
        "Percent; classes by their share of the pixels. LOST: never matched, no pixel of it is counted as "
        "it (in so many of the seeds). mostly: another class takes more of it than its own. "
        f"{100 * HELD:.0f} %: the fewest clusters that hold so much of it. eff.: the effective number of its "
        f"clusters, exp of their entropy. keeps: bootstrap resamples of the {images} images in which it "
        "keeps its cluster. Hungarian per image is an oracle: every image is matched for itself."
    )
    return textwrap.fill(text, _WIDTH)


def as_csv(found: Sequence[Attribution]) -> str:
    """Return tidy CSV: one row per setting, seed, class and measure; the class is empty for whole sets."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "dataset", "backbone", "protocol", "seed", "class", "measure", "value"])
    for one in found:
        cell = one.setting.cell
        key = [one.setting.label, cell.dataset.name, cell.backbone.name, cell.protocol]
        per_seed = zip(one.setting.seeds, one.errors, one.ladders, one.probes, one.stability, strict=True)
        for seed, errors, ladder, probe, stability in per_seed:
            for index, name in enumerate(one.classes):
                for measure, value in _measures(errors, stability, one.classes, index):
                    writer.writerow([*key, seed, name, measure, _number(value)])
            for rung in [*ladder, *([probe] if probe else [])]:
                writer.writerow([*key, seed, "", f"accuracy, {rung.name}", _number(rung.accuracy)])
                writer.writerow([*key, seed, "", f"miou, {rung.name}", _number(rung.miou)])
    return file.getvalue()


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
        (f"clusters holding {HELD:g}", float(errors.clusters_holding[index])),
        ("effective clusters", float(errors.effective_clusters[index])),
        ("keeps its cluster", float(stability[index])),
    ]


def _percent(value: float, digits: int = 1) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.{digits}f}"


def _spread(values: Sequence[float]) -> str:
    mean = 100 * float(np.mean(values))
    return f"{mean:.1f}" + (f" ± {100 * float(np.std(values, ddof=1)):.1f}" if len(values) > 1 else "")


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
