"""Run records: what one run of one cell left behind. `uss_bench.results.files` writes and reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import asdict

from uss_bench.plugins.specs import Ingredient, Name, Shade
from uss_bench.protocol import Protocol, TrainingGeometry

SCHEMA = 2

UNMATCHED = -1
"""In place of a class, for a cluster that was matched to none."""

Checkpoint = Literal["last", "selected"]
Refinement = Literal["raw", "crf"]
FeatureDtype = Literal["float16", "float32", "int8"]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100.001)]
"""A mean of shares may exceed 100 in its last bits."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


EXTERNAL = "external-"
"""Begins the `MethodId.code` of predictions that were made elsewhere; the digest of their files follows."""


FILE_DIGEST = "sha256:"
"""Begins a parameter that is a file; the digest of its content follows."""


RELEASED = "released weights"
"""Names the asset of a run whose state is that of an official checkpoint; its value is the state's digest."""


class MethodId(_Part, frozen=True):
    name: Name
    params: dict[str, Any]
    """Every parameter with its value, defaults included."""
    code: str
    """Digest of what of the method runs; see `uss_bench.results.code.code_hash`."""

    @property
    def is_external(self) -> bool:
        """Whether the predictions were made elsewhere, so that there is no code to be stale."""
        return self.code.startswith(EXTERNAL)


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
    positions: str = ""
    """Who interpolates its position embedding; empty where it has none."""


class Cell(_Part, frozen=True):
    """The inputs of a run: whatever can change its result on the same machine."""

    method: MethodId
    dataset: DatasetId
    backbone: BackboneId
    training: TrainingGeometry
    protocol: str
    """Of the evaluation, as are its hash and `alpha`."""
    protocol_hash: str
    alpha: float
    seed: int
    assets: dict[str, str] = {}
    """Digests of files that enter beside the dataset, by what names them: an aux overlay, a parameter."""

    @property
    def is_released(self) -> bool:
        """Whether the state is that of an official checkpoint."""
        return RELEASED in self.assets

    @property
    def id(self) -> str:
        """Digest of all inputs, sixteen hex digits; training geometry enters where it is not the default."""
        inputs = {**asdict(self), "training": self.training.stated}
        return digest_of({name: value for name, value in inputs.items() if value or name != "assets"})


class _Base(_Part, frozen=True):
    """How a cell states a run that it builds upon; data, backbone, protocol and seed are the cell's own."""

    method: Name
    params: dict[str, Any]
    code: str
    training: TrainingGeometry
    alpha: float
    state: str = ""
    """Digest of a trained state that serves every seed; '' for the run of the same seed."""


def states_a_run(value: Any) -> bool:
    """Whether a parameter's value is how a cell states a run that it builds upon."""
    fields = set(_Base.__struct_fields__)
    return isinstance(value, Mapping) and fields - {"state"} <= value.keys() <= fields


def base_cells(cell: Cell) -> dict[str, Cell]:
    """Return the cells that a cell builds upon by the parameters that state them: runs of the same seed."""
    found = {}
    for name, value in cell.method.params.items():
        if states_a_run(value) and not value.get("state"):
            stated = msgspec.convert(value, _Base)
            method = MethodId(name=stated.method, params=stated.params, code=stated.code)
            found[name] = msgspec.structs.replace(
                cell, method=method, training=stated.training, alpha=stated.alpha
            )
    return found


def digest_of(inputs: Any) -> str:
    """Return the digest of a cell's inputs, sixteen hex digits."""
    return hashlib.sha256(msgspec.json.encode(inputs, order="sorted")).hexdigest()[:16]


class ClassRow(_Part, frozen=True):
    name: str
    color: tuple[Shade, Shade, Shade]


class External(_Part, frozen=True):
    """What is stated of predictions that were made elsewhere."""

    title: str = ""
    """Of the method."""
    paper: str = ""
    ingredients: list[Ingredient] = []
    """What else than unlabeled pixels went in, in the words of method specs."""


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
    """None where nothing was refined: the protocol has no CRF, or the label maps were made elsewhere."""


class Candidate(_Part, frozen=True):
    """An offered checkpoint, scored raw, unflipped and at patch resolution, in percent."""

    step: int | None
    accuracy: Percent | None
    miou: Percent | None


class MonitorPoint(_Part, frozen=True):
    """What a state predicts on a fixed sample of training patches; see `uss_bench.training.monitoring`."""

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


class Criteria(_Part, frozen=True):
    """What can be said of the final state without a label; see `uss_bench.training.criteria`."""

    balance: float
    """Entropy of the clusters' shares of the sampled images' patches, from 0 to 1."""
    views: float | None
    """Share of patches in the same cluster as in the mirror image; None where nothing is mirrored."""
    silhouette: float | None
    """Of the clusters in the space of the frozen features, from −1 to 1; None without a backbone."""


class Phase(_Part, frozen=True):
    seconds: float
    peak_bytes: int | None
    """Largest memory in use during the phase; None where the system cannot tell. In records of schema 1 it
    is that of the process's life up to the end of the phase."""


class Isolation(_Part, frozen=True):
    """How a method was kept from labels while it trained and predicted."""

    process: bool
    """Whether it ran in a process of its own, which was given no path of the data."""
    enforced: str = ""
    """What of the operating system kept that process from opening other files; '' for nothing."""
    reason: str = ""
    """Why nothing did, or why it ran in the harness's process although isolation was asked for."""
    opened_files: int | None = None
    """Files outside of the store, the run's folder and code that were opened in training, as far as Python
    reports them; what the harness read for the method does not count."""


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
    criteria: Criteria | None = None
    """Label-free, of the final state; None in records made before it was read, and of outside predictions."""
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
    isolation: Isolation | None = None
    """None in records made before it was noted, and of predictions that were made elsewhere."""
    external: External | None = None
    """Of predictions that were made elsewhere; None for a run."""
    arrays_sha256: str = ""
    state_sha256: str = ""

    @property
    def stem(self) -> str:
        """The name of its files, without suffix; of a converted record, the one that it always had."""
        return f"{self.cell.method.name}-s{self.cell.seed}-{self.id[:12]}"

    def score_rows(self) -> Iterator[tuple[Checkpoint, Refinement, ScoreRow]]:
        """Yield every row of scores, with its checkpoint and refinement."""
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
