"""The data of a board: frozen rows, computed from records and claims and from nothing else.

A table holds the settings of one `TableKey` and one backbone, so results under different data or
protocol hashes never meet in one. The floors, which look at no feature, stand in the table of every
backbone of their `TableKey`. All scores are in percent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uss_bench.collection import TableKey
from uss_bench.records import Checkpoint, Refinement

Metric = Literal["accuracy", "miou"]
Score = tuple[Refinement, Metric]

METRICS: tuple[Metric, ...] = ("accuracy", "miou")
SCORES: tuple[Score, ...] = (("raw", "accuracy"), ("raw", "miou"), ("crf", "accuracy"), ("crf", "miou"))


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
    """What makes the interval less than it says, e.g. too few images."""
    tier: int | None = None
    """1: cannot be told from the best of the table. None: not ranked."""
    place: int | None = None
    """Place by the mean among the ranked rows, from 1; equal means share a place."""


@dataclass(frozen=True, slots=True)
class Run:
    """One record of a row."""

    id: str
    path: Path
    seed: int
    code: str
    stale: bool
    """The method's code has changed since the record was made."""
    scores: Mapping[Score, float | None]
    selected: Mapping[Score, float | None]
    """The same for the checkpoint that the labels chose."""
    clusters_used: int
    train_seconds: float | None
    peak_bytes: int
    machine: str
    labels_used: tuple[str, ...]
    notes: tuple[str, ...]
    command: str
    created: str


@dataclass(frozen=True, slots=True)
class Published:
    """What a paper says of a row's method, and how the measured numbers stand to it."""

    source: str
    """Paper and table."""
    origin: str
    """Whose method it is: the paper's ``own``, or another's, ``re-run`` or only ``cited``."""
    backbone: str
    refinement: Refinement
    """Which of the row's numbers it was compared with."""
    checkpoint: Checkpoint
    printed: Mapping[Metric, str]
    """As printed, with a dash where the table has none."""
    status: Mapping[Metric, str]
    """Per claimed metric: reproduced, higher, lower, protocol differs or n/a."""
    reasons: tuple[str, ...]
    note: str

    @property
    def comparable(self) -> bool:
        """Whether it is a claim about the same experiment."""
        return "protocol differs" not in self.status.values()


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: its records differ in the seed only."""

    label: str
    method: str
    params: Mapping[str, Any]
    alpha: float
    """Softmax temperature."""
    feature_dtype: str
    floor: bool
    clusters: int
    runs: tuple[Run, ...]
    measures: Mapping[Score, Measure]
    """Without the scores that the setting lacks: maps made elsewhere have no CRF."""
    iou: Mapping[Refinement, tuple[float | None, ...]]
    """Mean IoU over seeds per class; None where no seed has one."""
    gap: Mapping[Score, float]
    """Checkpoint chosen by labels minus last one, mean over seeds; empty if only one was offered."""
    published: tuple[Published, ...]
    """The most comparable claim first."""

    @property
    def stale(self) -> bool:
        return any(run.stale for run in self.runs)

    @property
    def labels_used(self) -> tuple[str, ...]:
        """What any of the runs used labels for, besides scoring."""
        return tuple(sorted({use for run in self.runs for use in run.labels_used}))

    @property
    def train_seconds(self) -> float | None:
        """Mean over seeds."""
        known = [run.train_seconds for run in self.runs if run.train_seconds is not None]
        return sum(known) / len(known) if known else None

    @property
    def peak_bytes(self) -> int:
        """The largest of any seed."""
        return max(run.peak_bytes for run in self.runs)

    @property
    def clusters_used(self) -> tuple[int, int]:
        """The fewest and the most of any seed."""
        used = [run.clusters_used for run in self.runs]
        return min(used), max(used)


@dataclass(frozen=True, slots=True)
class Curve:
    """Settings of one table that differ in one numeric parameter, in the order of its value."""

    method: str
    parameter: str
    values: tuple[float, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Class:
    """One class of the dataset; its colour is RGB, 0-255."""

    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Picture:
    """A named PNG."""

    caption: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Strip:
    """The same few test images in one kind of view: the image itself, the ground truth, or a row's maps."""

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One table, and what is drawn below it."""

    key: TableKey
    backbone: str
    backbone_sha256: str
    images: int
    classes: tuple[Class, ...]
    rows: tuple[Row, ...]
    """Best first by `primary`; the floors come last."""
    curves: tuple[Curve, ...]
    strips: tuple[Strip, ...]
    """Drawn for generated datasets only, whose pictures are nobody's."""

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores that any row has."""
        return tuple(score for score in SCORES if any(score in row.measures for row in self.rows))

    @property
    def primary(self) -> Score:
        """The score that rows are ordered by: mIoU, refined where anything is."""
        return self.scores[-1]

    @property
    def leaders(self) -> tuple[Row, ...]:
        """The best row by `primary`, and those that cannot be told from it, best first."""
        ranked = [row for row in self.rows if (one := row.measures.get(self.primary)) and one.tier == 1]
        return tuple(sorted(ranked, key=lambda row: -row.measures[self.primary].mean))

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
