"""The data of a board: frozen rows, computed from records and claims and from nothing else.

A table holds the configurations of one `TableKey` and one backbone, so results under different data or
protocol hashes never meet in one. The floors, which look at no feature, stand in the table of every
backbone of their `TableKey`. All scores are in percent.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from uss_bench.board.published import Published
from uss_bench.plugins.specs import Ingredient
from uss_bench.results.collection import Configuration, TableKey
from uss_bench.results.record import Checkpoint, ClassRow, Refinement, RunRecord
from uss_bench.results.scores import METRICS, REFINEMENTS, Metric, peak_bytes, score_row, train_seconds

Score = tuple[Refinement, Metric]
SCORES: tuple[Score, ...] = tuple(product(REFINEMENTS, METRICS))


@dataclass(frozen=True, slots=True)
class Measure:
    """One score of one row."""

    values: tuple[float, ...]
    """Per seed, in the order of the row's runs."""
    mean: float
    sd: float | None
    """Standard deviation over seeds (n − 1); None for a single seed."""
    low: float | None
    """Lower end of the 95 % interval over test images, of the mean over seeds."""
    high: float | None
    note: str
    """What makes the interval less certain than it says, e.g. too few images."""
    tier: int | None = None
    """1: cannot be distinguished from the best of the table. None: not ranked."""
    place: int | None = None
    """Place by the mean among the ranked rows, from 1; equal means share a place."""


@dataclass(frozen=True, slots=True)
class Run:
    """One record of a row."""

    path: Path
    record: RunRecord
    stale: bool
    """The method's code has changed since the record was made."""
    verified: bool = False
    """Its state was evaluated again, and gave the same counts."""

    @property
    def seed(self) -> int:
        return self.record.cell.seed

    def value(self, score: Score, checkpoint: Checkpoint = "last") -> float | None:
        """Return a score of the last checkpoint, or of the one that the labels chose."""
        value: float | None = getattr(score_row(self.record, score[0], checkpoint), score[1], None)
        return value


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration: its records differ in the seed only."""

    configuration: Configuration
    title: str
    """What people call the method."""
    ingredients: tuple[Ingredient, ...]
    """What else than unlabeled pixels went in, as the specs of method and backbone state it."""
    floor: bool
    runs: tuple[Run, ...]
    measures: Mapping[Score, Measure]
    """Without the scores that the configuration lacks: maps made elsewhere have no CRF."""
    iou: Mapping[Refinement, tuple[float | None, ...]]
    """Mean IoU over seeds per class; None where no seed has one."""
    gap: Mapping[Score, float]
    """Checkpoint chosen by labels minus last one, mean over seeds; empty if only one was offered."""
    published: tuple[Published, ...]
    """The most comparable claim first."""
    oracle: Mapping[Score, float]
    """By `uss_bench.evaluation.scoring.per_image_oracle`, mean over seeds in percent; it ranks nothing."""
    changes: str = ""
    """What a variant changes of its method's stated setting; empty for the row of that setting."""
    variants: tuple[Row, ...] = ()
    """Other settings of the same method, best first; none of them is ranked."""

    @property
    def name(self) -> str:
        """The method, and what it changes."""
        return f"{self.title}: {self.changes}" if self.changes else self.title

    @property
    def label(self) -> str:
        return self.configuration.label

    @property
    def method(self) -> str:
        return self.configuration.cell.method.name

    @property
    def params(self) -> Mapping[str, Any]:
        return self.configuration.cell.method.params

    @property
    def stale(self) -> bool:
        return any(run.stale for run in self.runs)

    @property
    def verified(self) -> bool:
        return all(run.verified for run in self.runs)

    @property
    def labels_used(self) -> tuple[str, ...]:
        """What any of the runs used labels for, besides scoring."""
        return tuple(sorted({use for run in self.runs for use in run.record.labels_used}))

    @property
    def train_seconds(self) -> float | None:
        """Mean over seeds."""
        known = [seconds for run in self.runs if (seconds := train_seconds(run.record)) is not None]
        return sum(known) / len(known) if known else None

    @property
    def peak_bytes(self) -> int | None:
        """The largest of any seed."""
        return max(peak_bytes(run.record) or 0 for run in self.runs) or None

    @property
    def clusters_used(self) -> tuple[int, int]:
        """The fewest and the most of any seed."""
        rows = [score_row(run.record, "raw") for run in self.runs]
        used = [row.clusters_used for row in rows if row is not None]
        return min(used), max(used)


@dataclass(frozen=True, slots=True)
class Curve:
    """Configurations of one table that differ in one numeric parameter, in the order of its value."""

    method: str
    parameter: str
    values: tuple[float, ...]
    rows: tuple[Row, ...]

    def line(self, score: Score) -> list[tuple[int, Measure]]:
        """Return the position and the score of the rows that have it."""
        return [(i, row.measures[score]) for i, row in enumerate(self.rows) if score in row.measures]

    def levels(self, refinement: Refinement) -> range:
        """Return round percentages that hold every value of both metrics."""
        lines = [measure for metric in METRICS for _, measure in self.line((refinement, metric))]
        seen = [value for measure in lines for value in measure.values]
        low = 5 * math.floor(min(seen) / 5)
        step = 5 if max(seen) - low <= 30 else 10
        return range(low, low + step * max(1, math.ceil((max(seen) - low) / step)) + 1, step)


@dataclass(frozen=True, slots=True)
class Strip:
    """The same few test images in one kind of view: the image itself, the ground truth, or a row's maps."""

    title: str
    pictures: Mapping[str, str]
    """By the name of the image: a data URI."""


@dataclass(frozen=True)
class Board:
    """One table, and what is drawn below it."""

    key: TableKey
    backbone: str
    backbone_sha256: str
    images: int
    classes: tuple[ClassRow, ...]
    rows: tuple[Row, ...]
    """One per method, at its stated setting: best first by `primary`; the floors come last."""
    curves: tuple[Curve, ...] = ()
    strips: tuple[Strip, ...] = ()
    """Drawn for generated datasets only: photographs belong to others."""

    @cached_property
    def every_row(self) -> tuple[Row, ...]:
        """The rows, each before its variants."""
        return tuple(one for row in self.rows for one in (row, *row.variants))

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        """The scores that any row has."""
        return tuple(score for score in SCORES if any(score in row.measures for row in self.every_row))

    @cached_property
    def primary(self) -> Score:
        """The score that rows are ordered by: mIoU, refined where anything is."""
        return self.scores[-1]

    @cached_property
    def leaders(self) -> tuple[Row, ...]:
        """The best row by `primary`, and those that cannot be distinguished from it, best first."""
        ranked = [row for row in self.rows if (one := row.measures.get(self.primary)) and one.tier == 1]
        return tuple(sorted(ranked, key=lambda row: -row.measures[self.primary].mean))

    @cached_property
    def top(self) -> float:
        """A round percentage that no value or interval of `primary` exceeds."""
        found = [row.measures[self.primary] for row in self.every_row if self.primary in row.measures]
        return 5.0 * math.ceil(max(max(*one.values, one.high or 0.0, 1.0) for one in found) / 5)

    @property
    def title(self) -> str:
        return f"{self.key.dataset} · {self.backbone} · {self.key.protocol}"

    @property
    def slug(self) -> str:
        """A name for files and anchors that no other table has: letters, digits, dots and dashes."""
        identity = repr((self.key, self.backbone, self.backbone_sha256))
        digest = hashlib.sha256(identity.encode()).hexdigest()[:6]
        return "-".join([*(_plain(part) for part in (self.key.dataset, self.backbone)), digest])


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:48] or "x"
