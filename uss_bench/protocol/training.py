"""What a method sees of a training image: its size, its filter, its crops.

This belongs to the method and not to the evaluation protocol, so that two methods which train at different
sizes can share a table. A method's spec states it (``[[training]]``), ``--training KEY=VALUE`` overrides
it, and a record's cell holds it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from uss_bench.errors import UsageError, did_you_mean

Filter = Literal["nearest", "bilinear", "bicubic"]
"""Pillow's filters, so bilinear and bicubic are antialiased when an image gets smaller."""
Side = Annotated[int, msgspec.Meta(gt=0, le=8192)]
"""In pixels; a larger one is a slip, and would fill the memory."""


class TrainingGeometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How training images become training items. The defaults are those of the STEGO lineage without crops.

    What has no effect is not kept: without crops their ratio and encoding return to the defaults, so that
    one experiment has one identity.
    """

    side: Side = 224
    """Height of a training item, in pixels, and its width unless `width` says otherwise."""
    width: Side | None = None
    """Width of a squashed item where it is not `side`."""
    resize: Filter = "nearest"
    """Filter for images; extra channels follow it."""
    fit: Literal["crop", "squash"] = "crop"
    """Resize the short side and cut the central square, or resize both sides, whatever the aspect ratio."""
    crops: Literal["none", "five"] = "none"
    """Whole images, or five crops of each: top left, top right, bottom left, bottom right, center."""
    crop_ratio: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Sides of a crop over those of its image; a crop is cut at native resolution, before `fit`."""
    crop_jpeg: bool = False
    """Re-encode crops as JPEG at Pillow's default quality, as the lineage's files of crops are."""

    def __post_init__(self) -> None:
        if self.crops == "none":
            msgspec.structs.force_setattr(self, "crop_ratio", 0.5)
            msgspec.structs.force_setattr(self, "crop_jpeg", False)
        if self.width == self.side:
            msgspec.structs.force_setattr(self, "width", None)
        if self.width is not None and self.fit == "crop":
            raise ValueError("`width` is for fit = squash: a crop is square")

    @property
    def height_width(self) -> tuple[int, int]:
        """The (height, width) of a training item, in pixels."""
        return self.side, self.width or self.side

    @property
    def stated(self) -> dict[str, Any]:
        """The fields that differ from the defaults, by name: its identity, which no added field changes."""
        defaults = _defaults()
        return {name: value for name in defaults if (value := getattr(self, name)) != defaults[name]}

    def describe(self) -> str:
        """Return it in a few words: ``224×224, nearest, five JPEG crops``."""
        height, width = self.height_width
        words = [f"{height}×{width}", *(["squashed"] if self.fit == "squash" else []), self.resize]
        if self.crops == "five":
            ratio = "" if self.crop_ratio == 0.5 else f" of ratio {self.crop_ratio:g}"
            words.append(f"five{' JPEG' * self.crop_jpeg} crops{ratio}")
        return ", ".join(words)


@functools.cache
def _defaults() -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(TrainingGeometry)}


def change_training(base: TrainingGeometry, changes: Mapping[str, Any], owner: str) -> TrainingGeometry:
    """Return `base` with some fields changed.

    Args:
        owner: who asks, for messages, such as ``--training``.

    Raises:
        UsageError: for an unknown field, a wrong value, or a value that has no effect.
    """
    fields = msgspec.structs.asdict(base)
    for name in changes:
        if name not in fields:
            raise UsageError(f"{owner}: there is no field '{name}'.", hint=did_you_mean(name, fields))
    if changes.get("fit") == "crop" and "width" not in changes:
        fields["width"] = None
    try:
        changed = msgspec.convert({**fields, **changes}, TrainingGeometry)
    except msgspec.ValidationError as error:
        raise UsageError(f"{owner}: {error}.") from None
    for name in ("crop_ratio", "crop_jpeg"):
        if name in changes and getattr(changed, name) != changes[name]:
            raise UsageError(
                f"{owner}: {name}={changes[name]} has no effect without crops.", hint="Add crops=five."
            )
    return changed
