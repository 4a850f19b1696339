"""Protocols of schema 1, which held the training geometry and the rule for positions: read and converted.

They are no longer made. ``stego320@1`` and its kin stand in old records, commands and plan files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from uss_bench.errors import UsageError
from uss_bench.protocol.evaluation import Protocol, parse_protocol, shown, split_text
from uss_bench.protocol.training import TrainingGeometry

NAMES = ("full@1", "stego320@1", "stego322@1")

_TRAINING = ("train_side", "five_crop", "five_crop_jpeg", "resize")
_FIVE_CROPPED = ("cityscapes27", "cocostuff27")
"""The datasets whose specs asked for five crops, which ``five_crop = dataset`` followed."""


@dataclass(frozen=True)
class Converted:
    """What a protocol of schema 1 has become."""

    protocol: Protocol
    training: dict[str, Any]
    """Fields of `TrainingGeometry` that it states."""
    positions: str | None
    """Rule for position embeddings, where it states one."""


def convert_text(text: str) -> Converted:
    """Convert ``stego320@1[train_side=96,flip=false]``; only changed fields count as stated for training.

    The filter of images, one field then, is stated for training too where the protocol changes it.

    Raises:
        UsageError: for an unknown name, field or value.
    """
    name, changes = split_text(text)
    if name == "full@1":
        changes = {"resize": "bicubic", **changes}
    positions = changes.pop("positions", None)
    training = _training({field: changes[field] for field in _TRAINING if field in changes}, "")
    rest = {field: value for field, value in changes.items() if field not in _TRAINING or field == "resize"}
    inner = ",".join(f"{field}={shown(value)}" for field, value in rest.items())
    protocol = parse_protocol(f"{name.replace('@1', '@2')}[{inner}]")
    return Converted(protocol, training, positions)


def convert_fields(fields: Mapping[str, Any], dataset: str) -> tuple[Protocol, TrainingGeometry, str]:
    """Convert a whole protocol, as a record of schema 1 holds it.

    Args:
        fields: by name; those that were added within schema 1 may be missing.
        dataset: the record's, which decided on five crops.

    Returns:
        The protocol, what the run trained on, and its rule for positions.

    Raises:
        UsageError, msgspec.ValidationError: when a field is wrong.
    """
    values = dict(fields)
    positions = str(values.pop("positions", "dino"))
    training = _training({field: values[field] for field in _TRAINING if field in values}, dataset)
    for field in ("train_side", "five_crop", "five_crop_jpeg"):
        values.pop(field, None)
    protocol = msgspec.convert(values | {"version": 2}, Protocol)
    return protocol, msgspec.convert(training, TrainingGeometry), positions


def _training(stated: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    training: dict[str, Any] = {}
    if "train_side" in stated:
        training["side"] = stated["train_side"]
    if "resize" in stated:
        training["resize"] = stated["resize"]
    crops = stated.get("five_crop", "dataset")
    if crops not in ("dataset", "on", "off"):
        raise UsageError(f"five_crop={shown(crops)} is not valid: it is dataset, on or off.")
    if crops == "on" or (crops == "dataset" and dataset in _FIVE_CROPPED):
        training["crops"] = "five"
    elif crops == "off" or (crops == "dataset" and dataset):
        training["crops"] = "none"
    if "five_crop_jpeg" in stated and training.get("crops") != "none":
        training["crop_jpeg"] = stated["five_crop_jpeg"]
    return training
