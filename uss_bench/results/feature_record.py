"""Measures of a backbone's features, as they are stored: one file per backbone, data set, protocol and seed.

They are no results of unsupervised methods, so their files end in ``.features.json`` and no board ranks them
beside runs: they have a page of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from uss_bench.errors import DataError
from uss_bench.files.json_file import read_json
from uss_bench.protocol import Matching, TrainingGeometry
from uss_bench.results.record import BackboneId, DatasetId, ScoreRow, digest_of

SUFFIX = ".features.json"
SCHEMA = 1
VERSION = 1
"""Raised whenever a measure would give another number of the same inputs; part of every id."""

Measure = Literal["kmeans", "over-clustering", "pca", "position-free", "retrieval", "probe"]
MEASURES: tuple[Measure, ...] = ("kmeans", "over-clustering", "pca", "position-free", "retrieval", "probe")
LABELED: tuple[Measure, ...] = ("retrieval", "probe")
"""The measures that learn from the labels of the training split."""

Count = Annotated[int, msgspec.Meta(ge=1)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class FeatureSettings(_Part, frozen=True, kw_only=True):
    """What is measured, and how. Every field is part of a result's id."""

    measures: tuple[Measure, ...] = MEASURES
    clusters: tuple[Count, ...] = ()
    """K of the over-clustering; empty for C, 2C, 100, 300 and 500."""
    kmeans_steps: Count = 300
    """Mini-batch steps of every k-means."""
    pca_dims: tuple[Count, ...] = (64,)
    """Principal components that are kept; no more than there are channels."""
    neighbors: Count = 30
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 0.02
    """Of the softmax over the neighbors' cosines."""
    bank_size: Count = 102_400
    """Patches in the memory bank."""
    probe_steps: Count = 1000
    probe_batch_size: Count = 32
    probe_lr: Annotated[float, msgspec.Meta(gt=0)] = 5e-3
    low_shot: tuple[Annotated[int, msgspec.Meta(ge=2)], ...] = ()
    """Denominators n: retrieval and probe are repeated with a share of 1/n of the labeled images."""
    draws: Count = 5
    """Of the images of each share."""


class FeatureCell(_Part, frozen=True, kw_only=True):
    """The inputs of a result: whatever can change it on the same machine."""

    dataset: DatasetId
    backbone: BackboneId
    facet: str
    """What of the backbone is measured: ``tokens``, or ``tokens@i`` as they leave block i."""
    training: TrainingGeometry
    protocol: str
    protocol_hash: str
    settings: FeatureSettings
    code: dict[str, str]
    """Digests of the methods whose k-means is run, by name, and of the training labels."""
    seed: int

    @property
    def id(self) -> str:
        """Digest of all inputs, sixteen hex digits."""
        return digest_of([VERSION, {**msgspec.structs.asdict(self), "training": self.training.stated}])


class FeatureRow(_Part, frozen=True, kw_only=True):
    """One number of a measure, before any CRF."""

    measure: Measure
    uses_labels: bool
    """Whether it learned from labels; such rows are never ranked with the others."""
    clusters: int | None = None
    dim: int | None = None
    """Principal components, of `pca`."""
    matching: Matching | None = None
    """Of clusters to classes; None where outputs are classes."""
    share: int = 1
    """The denominator n of the share 1/n of labeled images."""
    draw: int = 0
    train_images: int
    """That it learned from, with labels or without; under ``neco@1`` k-means learns from the test split."""
    scores: ScoreRow

    @property
    def name(self) -> str:
        """What a table calls it: ``over-clustering K=100``, ``retrieval 1/8``."""
        words: list[str] = [self.measure]
        if self.dim is not None:
            words[0] += f"-{self.dim}"
        if self.clusters is not None:
            words.append(f"K={self.clusters}")
        if self.share > 1:
            words.append(f"1/{self.share}")
        return " ".join(words)


class BackboneCost(_Part, frozen=True, kw_only=True):
    """What one image of the scored size costs."""

    parameters: int | None
    """None where the backbone does not say."""
    size: tuple[int, int]
    """Height and width of the image in pixels."""
    flops: int
    """Of convolutions, matrix products and attention, a multiplication and an addition being two."""
    seconds: float
    """Of the fastest of several passes: processor time of all threads; on a GPU, time on the wall."""


class FeatureRecord(_Part, frozen=True, kw_only=True):
    """What ``uss-bench features`` leaves of one backbone, data set, protocol and seed."""

    schema: int = SCHEMA
    id: str
    cell: FeatureCell
    labels_used: list[str]
    """The measures that learned from labels."""
    classes: list[str]
    channels: int
    patch: int
    images: int
    """That were scored."""
    rows: list[FeatureRow]
    cost: BackboneCost | None = None
    """None in records of earlier versions."""
    notes: list[str] = []
    left_out: list[str] = []
    """Sentences about what was asked for and cannot be measured here."""
    encoded_items: int = 0
    """Items that went through the backbone; 0 where all features were stored."""
    seconds: float = 0.0
    environment: dict[str, Any] = {}
    command: str = ""
    created: str = ""


def picture_path(record: Path) -> Path:
    """Return where the picture of the features lies, beside their record."""
    return record.with_name(record.name.removesuffix(SUFFIX) + ".features.png")


def feature_path(out: Path, cell: FeatureCell) -> Path:
    """Return where the measures of a cell belong."""
    facet = "" if cell.facet == "tokens" else f"-{cell.facet.replace('@', '')}"
    return Path(out) / cell.dataset.name / f"{cell.backbone.name}{facet}-s{cell.seed}-{cell.id[:12]}{SUFFIX}"


def read_feature_records(folders: Iterable[Path]) -> tuple[list[tuple[Path, FeatureRecord]], list[str]]:
    """Return the records of features below `folders`, by path, and a sentence about each that is damaged."""
    found: list[tuple[Path, FeatureRecord]] = []
    broken: list[str] = []
    for path in sorted({path for folder in folders for path in Path(folder).rglob(f"*{SUFFIX}")}):
        try:
            found.append((path, read_json(path, FeatureRecord, "record of features")))
        except DataError as error:
            broken.append(str(error))
    return found, broken
