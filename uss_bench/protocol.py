"""Evaluation protocols: frozen, named, versioned, hashed.

Two records under different protocol hashes never share a table. A protocol is chosen by name,
``stego320@1``, and a single field can be changed for a paired comparison,
``stego320@1[flip=false]``, which makes another protocol with another hash.

A field that is added here later needs a default that means what was done before, and its name in
`ADDED_FIELDS`: then the protocols that keep the default keep their hash, and old records can be read.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from uss_bench.errors import UsageError, did_you_mean

Side = Annotated[int, msgspec.Meta(gt=0)]


class CrfParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dense CRF with a Gaussian and a bilateral Potts term (Krähenbühl and Koltun, 2011).

    The defaults are those of the STEGO lineage. Positions are in pixels, colours in 0..255.
    """

    ADDED_FIELDS: ClassVar[tuple[str, ...]] = ("reference_side",)

    iterations: int = 10
    """Mean-field updates."""
    gaussian_sxy: float = 1.0
    """Deviation of positions in the smoothing kernel, in pixels."""
    gaussian_compat: float = 3.0
    """Weight of the smoothing kernel."""
    bilateral_sxy: float = 67.0
    """Deviation of positions in the kernel that follows colours, in pixels."""
    bilateral_srgb: float = 3.0
    """Deviation of colours in that kernel."""
    bilateral_compat: float = 4.0
    """Weight of that kernel."""
    min_probability: float = 1e-5
    """Class probabilities are clipped to at least this before the logarithm."""
    reference_side: Side | None = None
    """Both sxy are meant for images of this short side, and follow the size of others; None: they do not."""

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

    ADDED_FIELDS: ClassVar[tuple[str, ...]] = ("extent",)

    name: str
    version: int

    train_side: Side = 224
    """Short side, and side of the centre crop, of a training item, in pixels."""
    eval_side: Side = 320
    """Short side at which the backbone sees a test image, in pixels; see `extent`."""
    extent: Literal["square", "whole"] = "square"
    """What is scored: `square`, the centre crop of eval_side; `whole`, every pixel at native resolution."""
    resize: Literal["nearest", "bilinear", "bicubic"] = "nearest"
    """Filter for images (Pillow's, so bilinear and bicubic are antialiased); labels are NEAREST, or left."""
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
    """Pixels of clusters beyond the classes: errors, masked out, or each given its most frequent class."""
    matching: Literal["hungarian", "many-to-one"] = "hungarian"
    """Clusters to classes, once, on the counts of the whole test set: one-to-one, or the most frequent."""
    absent_classes: Literal["skip-empty-union", "zero"] = "skip-empty-union"
    """A class that is neither there nor predicted: left out of the mean IoU, or counted as 0."""

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
        fields = {**_hashed(self), "crf": _hashed(self.crf)}
        return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()[:16]


def _hashed(struct: Protocol | CrfParams) -> dict[str, Any]:
    """Return the fields that enter a hash: all, but for added ones that still have their default."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(struct)}
    values = msgspec.structs.asdict(struct)
    kept = [name for name in values if name not in struct.ADDED_FIELDS or values[name] != defaults[name]]
    return {name: values[name] for name in kept}


_BUILT_IN = {
    "full@1": Protocol(
        name="full", version=1, extent="whole", resize="bicubic", crf=CrfParams(reference_side=320)
    ),
    "stego320@1": Protocol(name="stego320", version=1),
    "stego322@1": Protocol(name="stego322", version=1, eval_side=322),
}

SUMMARIES = {
    "full@1": "whole images, antialiased, every pixel scored at native resolution; for any patch",
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
