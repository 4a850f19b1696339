"""Run records: what one run of one cell left behind. `uss_bench.record_files` writes and reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from uss_bench.protocol import Protocol
from uss_bench.specs import Name, Shade

SCHEMA = 1

UNMATCHED = -1
"""In place of a class, for a cluster that was matched to none."""

Checkpoint = Literal["last", "selected"]
Refinement = Literal["raw", "crf"]
FeatureDtype = Literal["float16", "float32"]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100.001)]
"""A mean of shares may exceed 100 in its last bits."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class MethodId(_Part, frozen=True):
    name: Name
    params: dict[str, Any]
    """Every parameter with its value, defaults included."""
    code: str
    """Digest of the method's files, the core modules they import and the evaluator's version."""


class DatasetId(_Part, frozen=True):
    name: Name
    fingerprint: str
    train_split: str
    test_split: str
    limit: int | None = None
    """At most this many images of each split, evenly spaced; None for all."""


class BackboneId(_Part, frozen=True):
    name: str
    sha256: str
    feature_dtype: FeatureDtype


class Cell(_Part, frozen=True):
    """The inputs of a run: whatever can change its result on the same machine."""

    method: MethodId
    dataset: DatasetId
    backbone: BackboneId
    protocol: str
    protocol_hash: str
    alpha: float
    seed: int

    @property
    def id(self) -> str:
        """Digest of all inputs, sixteen hex digits."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]


class ClassRow(_Part, frozen=True):
    name: str
    colour: tuple[Shade, Shade, Shade]


class ScoreRow(_Part, frozen=True):
    """Scores under the record's own protocol, in percent; None where there is nothing to divide by."""

    accuracy: Percent | None
    miou: Percent | None
    iou: list[Percent | None]
    """Of each class, as are `precision` and `recall`."""
    precision: list[Percent | None]
    recall: list[Percent | None]
    class_of_cluster: list[int]
    """Of each cluster, or `UNMATCHED`."""
    clusters_used: int
    pixels: int


class CheckpointResult(_Part, frozen=True):
    step: int | None
    """The offered step; None for the state at the end of training."""
    raw: ScoreRow
    crf: ScoreRow | None
    """None for label maps made elsewhere: there are no probabilities to refine."""


class Candidate(_Part, frozen=True):
    """An offered checkpoint, scored raw, unflipped and at patch resolution, in percent."""

    step: int | None
    accuracy: Percent
    miou: Percent


class MonitorPoint(_Part, frozen=True):
    """What a state does with a fixed sample of unlabelled training patches; see `uss_bench.monitoring`."""

    step: int | None
    """The offered step; None for the state at the end of training."""
    entropy: float
    """Of the clusters' shares, from 0 (one cluster has all patches) to 1 (all have the same share)."""
    used: int
    """Clusters that have a patch."""
    holding: int
    """The fewest clusters that together have 99 % of the patches."""
    largest: float
    """Share of the largest cluster."""
    agreement: float | None
    """Share of patches in the same cluster as at the point before; None for the first."""
    confident: float
    """Share of patches whose largest softmax(alpha × logits) exceeds 0.9."""
    confidence: float
    """Mean of that largest probability."""


class Phase(_Part, frozen=True):
    seconds: float
    peak_bytes: int
    """Largest resident memory of the process so far, at the end of the phase."""


class RunRecord(_Part, frozen=True):
    schema: int
    id: str
    status: Literal["done", "failed"]
    cell: Cell
    protocol: Protocol
    classes: list[ClassRow]
    clusters: int
    images: int = 0
    """Evaluated images."""
    last: CheckpointResult | None = None
    selected: CheckpointResult | None = None
    """The checkpoint with the best mIoU among the candidates: chosen with labels."""
    candidates: list[Candidate] = []
    curves: dict[str, list[tuple[int, float]]] = {}
    """Label-free training curves: (step, value)."""
    monitor: list[MonitorPoint] = []
    """Label-free, in the order of training; the last point is the final state."""
    phases: dict[str, Phase] = {}
    encoded_items: int = 0
    """Items that went through the backbone in this run; 0 when the store had them all."""
    crf_engine: str = ""
    environment: dict[str, Any] = {}
    command: str = ""
    created: str = ""
    labels_used: list[str] = []
    """What labels were used for besides scoring; empty for a label-free run."""
    notes: list[str] = []
    reason: str = ""
    """Why the run failed."""
    arrays_sha256: str = ""
    state_sha256: str = ""

    @property
    def stem(self) -> str:
        return stem(self.cell)

    def score_rows(self) -> Iterator[tuple[Checkpoint, Refinement, ScoreRow]]:
        """Yield every row of scores that there is, with whose it is."""
        results: list[tuple[Checkpoint, CheckpointResult | None]] = [
            ("last", self.last),
            ("selected", self.selected),
        ]
        for checkpoint, result in results:
            if result is not None:
                yield checkpoint, "raw", result.raw
                if result.crf is not None:
                    yield checkpoint, "crf", result.crf


def stem(cell: Cell) -> str:
    """Return the file name that a cell's record has without its suffix."""
    return f"{cell.method.name}-s{cell.seed}-{cell.id[:12]}"
