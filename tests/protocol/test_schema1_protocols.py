"""Protocols of schema 1 are read: what they say of evaluation, of training, and of positions."""

from __future__ import annotations

import pytest

from uss_bench.errors import UsageError
from uss_bench.protocol import TrainingGeometry, get_protocol, read_protocol
from uss_bench.protocol.schema1 import convert_fields

STEGO320 = {
    "name": "stego320",
    "version": 1,
    "train_side": 224,
    "eval_side": 320,
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
"""As records of schema 1 hold it."""


@pytest.mark.parametrize(
    ("text", "protocol", "training", "positions"),
    [
        ("stego320@1", "stego320@2", {}, None),
        ("stego322@1", "stego322@2", {}, None),
        ("full@1", "full@2", {"resize": "bicubic"}, None),
        ("stego320@1[flip=false,alpha=3]", "stego320@2[flip=false,alpha=3.0]", {}, None),
        ("stego320@1[train_side=96,eval_side=160]", "stego320@2[eval_side=160]", {"side": 96}, None),
        ("stego320@1[resize=bilinear]", "stego320@2[resize=bilinear]", {"resize": "bilinear"}, None),
        ("stego320@1[five_crop=on]", "stego320@2", {"crops": "five"}, None),
        ("stego320@1[five_crop=off]", "stego320@2", {"crops": "none"}, None),
        ("stego320@1[five_crop=dataset]", "stego320@2", {}, None),
        ("stego320@1[five_crop_jpeg=true]", "stego320@2", {"crop_jpeg": True}, None),
        ("stego320@1[positions=timm]", "stego320@2", {}, "timm"),
        ("stego320@1[matching=many-to-one]", "stego320@2[matching=many-to-one]", {}, None),
    ],
)
def test_a_protocols_text_is_converted(text, protocol, training, positions):
    found = read_protocol(text)
    assert (found.protocol.id, found.training, found.positions) == (protocol, training, positions)
    assert get_protocol(text) == get_protocol(protocol)


def test_a_text_of_today_states_nothing_of_training():
    found = read_protocol("stego320@2[flip=false]")
    assert (found.training, found.positions) == ({}, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stego320@1[flipp=false]", "no field 'flipp'"),
        ("stego320@1[five_crop=maybe]", "five_crop=maybe is not valid"),
        ("stego320@1[flip=maybe]", "Expected `bool`"),
        ("stego321@1", "no protocol 'stego321@1'"),
    ],
)
def test_a_wrong_text_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        read_protocol(text)


@pytest.mark.parametrize(
    ("changes", "dataset", "protocol", "training", "positions"),
    [
        ({}, "toy3", "stego320@2", TrainingGeometry(), "dino"),
        ({}, "cocostuff27", "stego320@2", TrainingGeometry(crops="five"), "dino"),
        ({}, "cityscapes27", "stego320@2", TrainingGeometry(crops="five"), "dino"),
        ({"five_crop": "off"}, "cocostuff27", "stego320@2", TrainingGeometry(), "dino"),
        ({"five_crop": "on"}, "toy3", "stego320@2", TrainingGeometry(crops="five"), "dino"),
        ({"five_crop_jpeg": True}, "toy3", "stego320@2", TrainingGeometry(), "dino"),
        (
            {"five_crop_jpeg": True, "train_side": 256},
            "cityscapes27",
            "stego320@2",
            TrainingGeometry(side=256, crops="five", crop_jpeg=True),
            "dino",
        ),
        (
            {"resize": "bilinear"},
            "toy3",
            "stego320@2[resize=bilinear]",
            TrainingGeometry(resize="bilinear"),
            "dino",
        ),
        ({"positions": "timm", "flip": False}, "toy3", "stego320@2[flip=false]", TrainingGeometry(), "timm"),
    ],
)
def test_the_fields_of_a_record_are_converted(changes, dataset, protocol, training, positions):
    found, trained, rule = convert_fields(STEGO320 | changes, dataset)
    assert (found, found.id, trained, rule) == (get_protocol(protocol), protocol, training, positions)


def test_fields_that_schema_1_added_later_may_be_missing():
    crf = {name: value for name, value in STEGO320["crf"].items() if name != "reference_side"}
    fields = {name: value for name, value in STEGO320.items() if name != "extent"} | {"crf": crf}
    assert convert_fields(fields, "toy3") == convert_fields(STEGO320, "toy3")
