"""Evaluation protocols: frozen, named, versioned, hashed.

Two records under different protocol hashes never share a table. A protocol is chosen by name,
``stego320@1``, and a single field can be changed for a paired comparison,
``stego320@1[flip=false]``, which makes another protocol with another hash.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec

from uss_bench.errors import UsageError, did_you_mean

Side = Annotated[int, msgspec.Meta(gt=0)]


class CrfParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dense CRF with a Gaussian and a bilateral Potts term (Krähenbühl and Koltun, 2011).

    The defaults are those of the STEGO lineage. Positions are in pixels, colours in 0..255.
    """

    iterations: int = 10
    gaussian_sxy: float = 1.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 67.0
    bilateral_srgb: float = 3.0
    bilateral_compat: float = 4.0
    min_probability: float = 1e-5
    """Class probabilities are clipped to at least this before the logarithm."""


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How images become inputs, codes become labels, and labels become counts.

    Scoring rules (`extra_clusters`, `matching`, `absent_classes`) are pure functions of the counts;
    they belong to the protocol all the same, because a table must state one of each.
    """

    name: str
    version: int

    train_side: Side = 224
    """Short side, and side of the centre crop, of a training item, in pixels."""
    eval_side: Side = 320
    resize: Literal["nearest", "bilinear", "bicubic"] = "nearest"
    """Filter for images (Pillow's, so bilinear and bicubic are antialiased); labels are NEAREST."""
    five_crop: Literal["dataset", "on", "off"] = "dataset"
    """Train on five half-size crops of each image; `dataset` follows the dataset's spec."""
    five_crop_jpeg: bool = False
    """Re-encode crops as JPEG of Pillow's default quality, as the lineage's files on disk were."""
    positions: Literal["dino", "timm"] = "dino"
    """Who interpolates a ViT's position embedding: the reference's rule, or timm's."""

    flip: bool = True
    """Average the code of an image and of its mirror image."""
    upsample: Literal["code", "logits"] = "code"
    """What is upsampled bilinearly to pixels: the code before the classifier, or its logits."""
    alpha: float = 2.0
    """log-softmax(alpha × logits) goes into the CRF; a method's spec may override it."""
    crf: CrfParams = CrfParams()

    extra_clusters: Literal["strict", "drop", "merge"] = "strict"
    matching: Literal["hungarian", "many-to-one"] = "hungarian"
    absent_classes: Literal["skip-empty-union", "zero"] = "skip-empty-union"

    @property
    def id(self) -> str:
        """The name that a user gives and a table shows, e.g. ``stego320@1[flip=false]``."""
        base = _BUILT_IN[f"{self.name}@{self.version}"]
        changed = [
            f"{field}={msgspec.json.encode(getattr(self, field)).decode().strip(chr(34))}"
            for field in self.__struct_fields__
            if getattr(self, field) != getattr(base, field)
        ]
        return f"{self.name}@{self.version}" + (f"[{','.join(changed)}]" if changed else "")

    @property
    def hash(self) -> str:
        """Digest over every field, sixteen hex digits. The CRF enters by what it computes only."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]


_BUILT_IN = {
    "stego320@1": Protocol(name="stego320", version=1),
    "stego322@1": Protocol(name="stego322", version=1, eval_side=322),
}

SUMMARIES = {
    "stego320@1": "the common lineage: NEAREST resize, 320 centre crop, flip-averaged code, dense CRF",
    "stego322@1": "the same at 322 pixels, for backbones of patch 14",
}


def protocol_names() -> list[str]:
    return sorted(_BUILT_IN)


def get_protocol(text: str) -> Protocol:
    """Return the protocol that `text` names, e.g. ``stego320@1`` or ``stego320@1[flip=false]``.

    Raises:
        UsageError: for an unknown name, field or value.
    """
    name, bracket, rest = text.partition("[")
    if bracket and not rest.endswith("]"):
        raise UsageError(f"Protocol '{text}' lacks its closing bracket.")
    if name not in _BUILT_IN:
        raise UsageError(f"There is no protocol '{name}'.", hint=did_you_mean(name, _BUILT_IN))
    base = _BUILT_IN[name]
    if not bracket:
        return base
    fields = msgspec.to_builtins(base)
    for change in filter(None, rest.removesuffix("]").split(",")):
        field, _, value = change.partition("=")
        if field not in fields or field in {"name", "version", "crf"}:
            changeable = sorted(set(fields) - {"name", "version", "crf"})
            raise UsageError(
                f"Protocol '{name}' has no field '{field}' to change.", hint=did_you_mean(field, changeable)
            )
        fields[field] = _parse_value(value)
    try:
        return msgspec.convert(fields, Protocol)
    except msgspec.ValidationError as error:
        raise UsageError(f"Protocol '{text}' is not valid: {error}.") from None


def _parse_value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def default_protocol(patch: int) -> str:
    """Return the protocol of the STEGO lineage whose sides a backbone of this patch divides."""
    for name in ("stego320@1", "stego322@1"):
        protocol = _BUILT_IN[name]
        if protocol.eval_side % patch == 0 and protocol.train_side % patch == 0:
            return name
    raise UsageError(
        f"No protocol has sides that are multiples of the backbone's patch of {patch} pixels.",
        hint="Choose another backbone, or change the sides: 'stego320@1[eval_side=…,train_side=…]'.",
    )
