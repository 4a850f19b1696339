"""Evaluation protocols: frozen, named, versioned, hashed.

Two records under different protocol hashes never share a table. A protocol is chosen by name,
``stego320@2``, and single fields can be changed for a paired comparison,
``stego320@2[flip=false,crf.channels=bgr]``, which makes another protocol with another hash. It covers
evaluation alone: what a method trains on is its own (`uss_bench.protocol.training`).

A field that is added here later needs a default that means what was done before, and its name in
`ADDED_FIELDS`: then the protocols that keep the default keep their hash, and old records can be read.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from uss_bench.errors import UsageError, did_you_mean
from uss_bench.protocol.training import Filter, Side

Matching = Literal["hungarian", "many-to-one", "iou", "precision"]
ExtraClusters = Literal["strict", "drop", "merge"]
AbsentClasses = Literal["skip-empty-union", "zero"]


Deviation = Annotated[float, msgspec.Meta(gt=0, le=1e5)]
Weight = Annotated[float, msgspec.Meta(ge=0, le=1e5)]


class CrfParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dense CRF with a Gaussian and a bilateral Potts term (Krähenbühl and Koltun, 2011).

    The defaults are those of the STEGO lineage. Positions are in pixels, colors in 0..255.
    """

    ADDED_FIELDS: ClassVar[tuple[str, ...]] = ()

    iterations: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 10
    """Mean-field updates."""
    gaussian_sxy: Deviation = 1.0
    """Deviation of positions in the smoothing kernel, in pixels."""
    gaussian_compat: Weight = 3.0
    """Weight of the smoothing kernel."""
    bilateral_sxy: Deviation = 67.0
    """Deviation of positions in the kernel that follows colors, in pixels."""
    bilateral_srgb: Deviation = 3.0
    """Deviation of colors in that kernel."""
    bilateral_compat: Weight = 4.0
    """Weight of that kernel."""
    min_probability: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5
    """Class probabilities are clipped to at least this before the logarithm."""
    reference_side: Side | None = None
    """Both sxy are meant for images of this short side, and follow the size of others; None: they do not."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the image's channels; the lattice depends on it, and the lineage's code hands over BGR."""
    truncate: bool = False
    """Pass the image through the lineage's round trip: normalize, undo it, and truncate to integers."""

    def at_size(self, height: int, width: int) -> CrfParams:
        """Return these parameters with both sxy in pixels of an image of this size.

        The kernels then cover the same part of a scene, however many pixels it was photographed with.
        """
        if self.reference_side is None:
            return self
        scale = min(height, width) / self.reference_side
        return msgspec.structs.replace(
            self,
            gaussian_sxy=self.gaussian_sxy * scale,
            bilateral_sxy=self.bilateral_sxy * scale,
            reference_side=None,
        )


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How images become inputs, codes become labels, and labels become counts.

    Scoring rules (`extra_clusters`, `matching`, `absent_classes`) are pure functions of the counts;
    they belong to the protocol all the same, because a table must state one of each.
    """

    ADDED_FIELDS: ClassVar[tuple[str, ...]] = ("label_resize",)

    name: str
    version: int

    extent: Literal["square", "squash", "whole"] = "square"
    """What is scored: `square`, the center crop of eval_side; `squash`, the whole image resized to
    eval_side × eval_width; `whole`, every pixel at native resolution."""
    eval_side: Side = 320
    """Short side at which the backbone sees a test image, in pixels; of `squash` its height."""
    eval_width: Side | None = None
    """Width of a squashed test image where it is not eval_side."""
    score_side: Side | None = None
    """Predictions and labels are compared on a square of this side; None: at the size of the input."""
    resize: Filter = "nearest"
    """Filter for images (Pillow's, so bilinear and bicubic are antialiased); labels are NEAREST, or left."""

    flip: bool = True
    """Average the code of an image and of its mirror image."""
    upsample: Literal["code", "logits", "nearest"] = "code"
    """What is upsampled bilinearly to pixels: the code before the classifier, or its logits; `nearest`: each
    pixel has the logits of the patch that its upper left corner lies in."""
    alpha: Annotated[float, msgspec.Meta(gt=0, le=1e5)] = 2.0
    """log-softmax(alpha × logits) goes into the CRF; a method's spec may override it."""
    crf: CrfParams | None = CrfParams()
    """None: predictions are scored unrefined only."""

    extra_clusters: ExtraClusters = "strict"
    """Pixels of clusters beyond the classes: errors, masked out, or each given its most frequent class."""
    matching: Matching = "hungarian"
    """Clusters to classes, once, on the counts of a whole set: one-to-one by pixels (`hungarian`) or by IoU
    (`iou`), or each to its most frequent class (`many-to-one`; `precision` is read as that)."""
    match_on: Literal["test", "train"] = "test"
    """Whose labels match clusters to classes: those of the split that is scored, or of the training split."""
    absent_classes: AbsentClasses = "skip-empty-union"
    """A class that is neither there nor predicted: left out of the mean IoU, or counted as 0."""
    label_resize: Literal["nearest", "floor", "nearest-floor"] = "nearest"
    """Which label a scored pixel has: that under its center (`nearest`, Pillow's), that under its upper left
    corner (`floor`, torch's), or by center at the input's size and then by corner (`nearest-floor`)."""

    def __post_init__(self) -> None:
        if self.matching == "precision":  # of a cluster's pixels, the class with most has the best precision
            msgspec.structs.force_setattr(self, "matching", "many-to-one")
        if self.eval_width == self.eval_side:
            msgspec.structs.force_setattr(self, "eval_width", None)
        if self.eval_width is not None and self.extent != "squash":
            raise ValueError("`eval_width` is for extent = squash")
        if self.score_side is not None and self.extent == "whole":
            raise ValueError("`score_side` is for extent = square or squash: whole images keep their size")
        if self.label_resize != "nearest" and self.extent != "squash":
            raise ValueError("`label_resize` is for extent = squash")

    @property
    def input_size(self) -> tuple[int, int]:
        """The (height, width) of what the backbone sees of a test image; of whole images the short side."""
        return self.eval_side, self.eval_width or self.eval_side

    @property
    def score_size(self) -> tuple[int, int]:
        """The (height, width) at which predictions are compared with labels; not for whole images."""
        return self.input_size if self.score_side is None else (self.score_side, self.score_side)

    @property
    def id(self) -> str:
        """The name that a user gives and a table shows, e.g. ``stego320@2[flip=false]``."""
        before, after = protocol_fields(_BUILT_IN[f"{self.name}@{self.version}"]), protocol_fields(self)
        changed = [
            f"{field}={shown(value)}"
            for field, value in after.items()
            if field not in before or before[field] != value
        ]
        return f"{self.name}@{self.version}" + (f"[{','.join(changed)}]" if changed else "")

    @property
    def hash(self) -> str:
        """Digest over every field, sixteen hex digits. The CRF enters by what it computes only."""
        fields = {**_hashed(self), "crf": None if self.crf is None else _hashed(self.crf)}
        return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()[:16]


def protocol_fields(protocol: Protocol) -> dict[str, Any]:
    """Return what a protocol does, by field, with the CRF's as ``crf.iterations``; without its name.

    Without a CRF there is one field ``crf``, which is None.
    """
    fields = msgspec.structs.asdict(protocol)
    del fields["name"], fields["version"]
    crf = fields.pop("crf")
    if crf is None:
        return fields | {"crf": None}
    return fields | {f"crf.{name}": value for name, value in msgspec.structs.asdict(crf).items()}


def shown(value: Any) -> str:
    """Return a field's value as a protocol's id has it; None as ``none``."""
    return "none" if value is None else msgspec.json.encode(value).decode().strip('"')


def _hashed(struct: Protocol | CrfParams) -> dict[str, Any]:
    """Return the fields that enter a hash: all, but for added ones that still have their default."""
    defaults = _defaults(type(struct))
    values = msgspec.structs.asdict(struct)
    kept = [name for name in values if name not in struct.ADDED_FIELDS or values[name] != defaults[name]]
    return {name: values[name] for name in kept}


@functools.cache
def _defaults(struct: type[Protocol | CrfParams]) -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(struct)}


_BUILT_IN = {
    "full@2": Protocol(
        name="full", version=2, extent="whole", resize="bicubic", crf=CrfParams(reference_side=320)
    ),
    **{
        f"{name}@1": Protocol(
            name=name,
            version=1,
            extent="squash",
            eval_side=side,
            resize="bilinear",
            flip=False,
            crf=None,
            matching="iou",
            absent_classes="zero",
            label_resize="floor",
        )
        for name, side in {"hummingbird": 512, "hummingbird504": 504}.items()
    },
    "neco@1": Protocol(
        name="neco",
        version=1,
        extent="squash",
        eval_side=448,
        score_side=100,
        resize="bilinear",
        flip=False,
        upsample="nearest",
        crf=None,
        matching="iou",
        absent_classes="zero",
        label_resize="nearest-floor",
    ),
    "iic@1": Protocol(name="iic", version=1, eval_side=200, resize="bilinear", flip=False, crf=None),
    "picie@1": Protocol(name="picie", version=1, resize="bilinear", flip=False, upsample="logits", crf=None),
    "stego320@2": Protocol(name="stego320", version=2),
    "stego322@2": Protocol(name="stego322", version=2, eval_side=322),
    "transfgu@1": Protocol(
        name="transfgu",
        version=1,
        extent="squash",
        resize="bilinear",
        flip=False,
        upsample="logits",
        crf=None,
    ),
}

SUMMARIES = {
    "full@2": "whole images, antialiased, every pixel scored at native resolution; for any patch",
    "hummingbird@1": "retrieval as open-hummingbird scores it: 512 × 512, squashed, every pixel",
    "hummingbird504@1": "the same at 504 pixels, for backbones of patch 14",
    "neco@1": "over-clustering as Leopart and NeCo score it: 448 × 448, squashed, masks of 100 × 100",
    "iic@1": "IIC's: whole patches of 200 pixels, neither flips nor a CRF",
    "picie@1": "PiCIE, MDC and its IIC: bilinear resize, 320 center crop, logits enlarged, no flip, no CRF",
    "stego320@2": "the common lineage: NEAREST resize, 320 center crop, flip-averaged code, dense CRF",
    "stego322@2": "the same at 322 pixels, for backbones of patch 14",
    "transfgu@1": "TransFGU: images squashed to 320×320 (Cityscapes: eval_width=640), no flip, no CRF",
}


def protocol_names() -> list[str]:
    return sorted(_BUILT_IN)


def parse_protocol(text: str) -> Protocol:
    """Return the protocol that `text` names, e.g. ``stego320@2`` or ``stego320@2[flip=false,crf=none]``.

    Raises:
        UsageError: for an unknown name, field or value.
    """
    name, changes = split_text(text)
    if name not in _BUILT_IN:
        raise UsageError(f"There is no protocol '{name}'.", hint=did_you_mean(name, _BUILT_IN))
    fields = msgspec.to_builtins(_BUILT_IN[name])
    known = [*protocol_fields(_BUILT_IN[name]), "crf"]
    for field, value in changes.items():
        if field not in known:
            raise UsageError(
                f"Protocol '{name}' has no field '{field}' to change.", hint=did_you_mean(field, known)
            )
        outer, dot, inner = field.partition(".")
        if field == "crf" and value is not None:
            raise UsageError(f"Protocol '{text}': crf is none, or its fields change: crf.FIELD=VALUE.")
        if dot and fields[outer] is None:
            raise UsageError(f"Protocol '{text}' changes {field} of a CRF that it leaves out.")
        if dot:
            fields[outer][inner] = value
        else:
            fields[field] = value
    try:
        return msgspec.convert(fields, Protocol)
    except msgspec.ValidationError as error:
        raise UsageError(f"Protocol '{text}' is not valid: {error}.") from None


def split_text(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME@VERSION[FIELD=VALUE,…]`` into the name and its changes; values are JSON where they can be.

    Raises:
        UsageError: when a bracket is not closed.
    """
    name, bracket, rest = text.partition("[")
    if bracket and not rest.endswith("]"):
        raise UsageError(f"Protocol '{text}' lacks its closing bracket.")
    changes: dict[str, Any] = {}
    for change in filter(None, rest.removesuffix("]").split(",")):
        field, _, value = change.partition("=")
        changes[field] = _parse_value(value)
    return name, changes


def _parse_value(text: str) -> Any:
    if text == "none":
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def default_protocol(patch: int) -> str:
    """Return the protocol of the STEGO lineage whose side a backbone of this patch divides."""
    for name in ("stego320@2", "stego322@2"):
        if _BUILT_IN[name].eval_side % patch == 0:
            return name
    raise UsageError(
        f"No protocol has a side that is a multiple of the backbone's patch of {patch} pixels.",
        hint="Choose another backbone, or change the side: 'stego320@2[eval_side=…]'.",
    )
