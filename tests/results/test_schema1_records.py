"""Records of schema 1 and British spellings are read, converted and marked; edited ones are still found."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from uss_bench.errors import DataError
from uss_bench.protocol import TrainingGeometry, get_protocol
from uss_bench.results.collection import gather, read_entries
from uss_bench.results.files import find_record, read_record, record_path
from uss_bench.results.merging import carry_out, plan_merge
from uss_bench.results.record import SCHEMA
from uss_bench.results.schema1 import NOTE

ROW = {
    "accuracy": 50.0,
    "miou": 25.0,
    "iou": [50.0, 0.0],
    "precision": [50.0, None],
    "recall": [100.0, 0.0],
    "class_of_cluster": [0, 1],
    "clusters_used": 1,
    "pixels": 8,
}
CELL = {
    "method": {
        "name": "stego",
        "params": {"clusters": 2, "neighbours": 30, "lr": 0.0005, "standardize": True},
        "code": "6d2ff915d059",
    },
    "dataset": {
        "name": "toy3",
        "fingerprint": "ba6e",
        "train_split": "unlabelled",
        "test_split": "test",
        "limit": 12,
    },
    "backbone": {"name": "tinyvit", "sha256": "a170", "feature_dtype": "float16"},
    "protocol": "stego320@1[train_side=128,eval_side=160]",
    "protocol_hash": "86a5323df636caa8",
    "alpha": 2.0,
    "seed": 0,
}
PROTOCOL = {
    "name": "stego320",
    "version": 1,
    "train_side": 128,
    "eval_side": 160,
    "extent": "square",
    "resize": "nearest",
    "five_crop": "dataset",
    "five_crop_jpeg": False,
    "positions": "dino",
    "flip": True,
    "upsample": "code",
    "alpha": 2.0,
    "crf": {
        "iterations": 10,
        "gaussian_sxy": 1.0,
        "gaussian_compat": 3.0,
        "bilateral_sxy": 67.0,
        "bilateral_srgb": 3.0,
        "bilateral_compat": 4.0,
        "min_probability": 1e-05,
        "reference_side": None,
    },
    "extra_clusters": "strict",
    "matching": "hungarian",
    "absent_classes": "skip-empty-union",
}


def identity(cell: dict[str, Any]) -> str:
    """The id of schema 1: sixteen digits of the digest of the inputs, keys in order."""
    return hashlib.sha256(msgspec.json.encode(cell, order="sorted")).hexdigest()[:16]


def old_record(cell: dict[str, Any] = CELL, protocol: dict[str, Any] = PROTOCOL) -> dict[str, Any]:
    return {
        "schema": 1,
        "id": identity(cell),
        "status": "done",
        "cell": cell,
        "protocol": protocol,
        "classes": [{"name": "sky", "colour": [1, 2, 3]}, {"name": "sea", "colour": [4, 5, 6]}],
        "clusters": 2,
        "images": 1,
        "last": {"step": None, "raw": ROW, "crf": ROW},
        "notes": ["by hand"],
        "command": "uss-bench run --method stego --dataset toy3",
    }


def put(folder: Path, content: dict[str, Any]) -> Path:
    cell = content["cell"]
    path = (
        folder
        / cell["dataset"]["name"]
        / f"{cell['method']['name']}-s{cell['seed']}-{content['id'][:12]}.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))
    return path


def changed(base: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(base)
    *outer, last = place.split(".")
    inner = content
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return content


def test_the_identity_here_is_that_of_schema_1():
    """Of a record that was committed: leaderboards/golden held its cell."""
    cell = {
        "method": {"name": "constant", "params": {"clusters": 3}, "code": "6d2ff915d059"},
        "dataset": {"name": "a", "fingerprint": "f", "train_split": "t", "test_split": "u", "limit": None},
        "backbone": {"name": "none", "sha256": "s", "feature_dtype": "float16"},
        "protocol": "stego320@1",
        "protocol_hash": "88e88b2b057c3887",
        "alpha": 2.0,
        "seed": 1,
    }
    text = (
        '{"alpha":2.0,"backbone":{"feature_dtype":"float16","name":"none","sha256":"s"},"dataset":'
        '{"fingerprint":"f","limit":null,"name":"a","test_split":"u","train_split":"t"},"method":'
        '{"code":"6d2ff915d059","name":"constant","params":{"clusters":3}},"protocol":"stego320@1",'
        '"protocol_hash":"88e88b2b057c3887","seed":1}'
    )
    assert identity(cell) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_record_is_converted_and_marked_and_keeps_its_name(tmp_path):
    content = old_record()
    path = put(tmp_path, content)
    record = read_record(path)
    cell = record.cell
    assert (record.schema, record.notes) == (SCHEMA, ["by hand", NOTE])
    assert record.protocol == get_protocol("stego320@2[eval_side=160]")
    assert (cell.protocol, cell.protocol_hash) == (record.protocol.id, record.protocol.hash)
    assert cell.training == TrainingGeometry(side=128)
    assert cell.backbone.positions == "dino"
    assert cell.method.params == {"clusters": 2, "neighbors": 30, "lr": 0.0005, "standardize": True}
    assert cell.dataset.train_split == "unlabeled"
    assert [row.color for row in record.classes] == [(1, 2, 3), (4, 5, 6)]
    assert record.last.raw.accuracy == 50.0
    assert record.id == content["id"]
    assert record_path(tmp_path, record) == path
    assert find_record(content["id"], [tmp_path]) == path


@pytest.mark.parametrize(
    "backbone", ["none", "patchstats", "resnet50_mocov2_s8", "dinov3_vits16", "dense_sift", "random_cnn"]
)
def test_a_backbone_without_positions_gets_no_rule(tmp_path, backbone):
    cell = changed(CELL, "backbone.name", backbone)
    assert read_record(put(tmp_path, old_record(cell))).cell.backbone.positions == ""


def test_another_rule_for_positions_becomes_the_backbones(tmp_path):
    cell = changed(CELL, "protocol", "stego320@1[train_side=128,eval_side=160,positions=timm]")
    record = read_record(put(tmp_path, old_record(cell, PROTOCOL | {"positions": "timm"})))
    assert record.cell.backbone.positions == "timm"
    assert record.cell.protocol == "stego320@2[eval_side=160]"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("cell.method.params.neighbours", 31),
        ("cell.method.code", "6d2ff915d058"),
        ("cell.dataset.train_split", "train"),
        ("cell.protocol", "stego320@1"),
        ("cell.protocol_hash", "88e88b2b057c3887"),
        ("cell.alpha", 3.0),
        ("cell.seed", 1),
        ("id", "0" * 16),
        ("protocol.flip", False),
        ("protocol.crf.iterations", 5),
        ("protocol.eval_side", 320),
    ],
)
def test_an_edited_record_is_still_found(tmp_path, place, value):
    path = put(tmp_path, old_record())
    path.write_bytes(msgspec.json.encode(changed(old_record(), place, value)))
    with pytest.raises(DataError, match="it was edited"):
        read_record(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("cell.seed", "0", r"Expected `int`, got `str` - at `\$\.cell\.seed`"),
        ("cell.training", {}, r"unknown field `training` - at `\$\.cell`"),
        ("more", 1, "unknown field `more`"),
        ("protocol.flip", "no", "Expected `bool`"),
        ("protocol.five_crop", "maybe", "five_crop=maybe is not valid"),
        ("cell.protocol", "mine@1", "edited"),
    ],
)
def test_what_schema_1_did_not_have_is_refused(tmp_path, place, value, message):
    path = put(tmp_path, old_record())
    path.write_bytes(msgspec.json.encode(changed(old_record(), place, value)))
    with pytest.raises(DataError, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


def test_a_protocol_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(DataError, match="no protocol of schema 1: There is no protocol 'mine@1'"):
        read_record(put(tmp_path, old_record(changed(CELL, "protocol", "mine@1"))))


def test_the_note_alone_does_not_free_a_record_from_its_id(tmp_path):
    """A record of today cannot say that it was converted, to hold other inputs than its id's."""
    record = read_record(put(tmp_path / "old", old_record()))
    path = tmp_path / "record.json"
    path.write_bytes(msgspec.json.encode(record))
    with pytest.raises(DataError, match="it was edited"):
        read_record(path)


def test_converted_records_are_gathered_and_merged_under_the_name_that_they_have(tmp_path):
    for seed in (0, 1):
        put(tmp_path / "a", old_record(changed(CELL, "seed", seed)))
    entries, broken = read_entries([tmp_path / "a"])
    assert not broken
    (setting,) = gather(entries)
    assert setting.seeds == (0, 1)
    plan = plan_merge([tmp_path / "a"], tmp_path / "b")
    for step in plan.steps:
        carry_out(step)
    names = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.json")}
    assert {path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*.json")} == names
    assert not plan_merge([tmp_path / "a"], tmp_path / "b").steps, "all are there"
