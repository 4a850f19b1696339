"""Records of schema 1: their inputs are checked as they were written, and converted.

Schema 1 had the training geometry and the rule for positions within the protocol, and British keys. A
converted record keeps its id, the digest of what it was made with, and says that it was converted.
"""

from __future__ import annotations

from typing import Any

import msgspec

from uss_bench.errors import UssBenchError
from uss_bench.files.old_spellings import NAMES, with_todays_keys
from uss_bench.protocol import get_protocol
from uss_bench.protocol.schema1 import convert_fields
from uss_bench.results.record import SCHEMA, DatasetId, FeatureDtype, MethodId, RunRecord, digest_of

NOTE = "converted from schema 1"

_WITHOUT_POSITIONS = ("dense_sift", "dinov3_", "none", "patchstats", "random_cnn", "resnet50")
"""How the names of backbones begin that have no position embedding to interpolate."""


class _Backbone(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    sha256: str
    feature_dtype: FeatureDtype


class _Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The inputs of a run, in schema 1: its fields and their values make the id."""

    method: MethodId
    dataset: DatasetId
    backbone: _Backbone
    protocol: str
    protocol_hash: str
    alpha: float
    seed: int


class _Header(msgspec.Struct, kw_only=True):
    """What must hold of a record before it is converted."""

    id: str
    cell: _Cell
    protocol: dict[str, Any]
    notes: list[str] = []


def convert(content: dict[str, Any]) -> RunRecord:
    """Return a record of schema 1 as one of today's.

    Args:
        content: the decoded JSON.

    Raises:
        msgspec.ValidationError: for a wrong key or type, naming it by its path.
        ValueError: when the record says something else than its inputs.
    """
    old = msgspec.convert(content, _Header)
    found = digest_of(old.cell)
    if old.id != found:
        raise ValueError(f"says id {old.id}, but its inputs give {found}: it was edited")
    cell, dataset = old.cell, old.cell.dataset
    try:
        protocol, training, positions = convert_fields(old.protocol, dataset.name)
        stated = get_protocol(cell.protocol)
    except UssBenchError as error:
        raise ValueError(f"holds no protocol of schema 1: {error.what}") from None
    if protocol != stated:
        raise ValueError(f"states other fields than those of its protocol {cell.protocol}: it was edited")
    inputs = {
        "method": {
            **msgspec.to_builtins(cell.method),
            "params": {NAMES.get(name, name): value for name, value in cell.method.params.items()},
        },
        "dataset": {
            **msgspec.to_builtins(dataset),
            "train_split": NAMES.get(dataset.train_split, dataset.train_split),
            "test_split": NAMES.get(dataset.test_split, dataset.test_split),
        },
        "backbone": {
            **msgspec.to_builtins(cell.backbone),
            "positions": "" if cell.backbone.name.startswith(_WITHOUT_POSITIONS) else positions,
        },
        "training": msgspec.to_builtins(training),
        "protocol": protocol.id,
        "protocol_hash": protocol.hash,
        "alpha": cell.alpha,
        "seed": cell.seed,
    }
    return msgspec.convert(
        {
            **with_todays_keys(content),
            "schema": SCHEMA,
            "cell": inputs,
            "protocol": msgspec.to_builtins(protocol),
            "notes": [*old.notes, NOTE],
        },
        RunRecord,
    )
