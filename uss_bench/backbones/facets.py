"""Names of facets: which block a name means, and what shape it has. The list stands in `Backbone`."""

from __future__ import annotations

from dataclasses import dataclass

from uss_bench.contracts import BackboneInfo
from uss_bench.errors import UsageError, did_you_mean

OF_LAST_BLOCK = ("attention", "cls_attention")
"""Kinds whose plain name means the last block."""


@dataclass(frozen=True, slots=True)
class Facet:
    """A facet of one backbone: its kind without the block, and the block from 1, or 0 for no block."""

    kind: str
    block: int

    def __str__(self) -> str:
        """Return the canonical name: blocks are counted from the first."""
        return f"{self.kind}@{self.block}" if self.block else self.kind


def parse_facet(name: str, info: BackboneInfo) -> Facet:
    """Return the facet that `name` means for a backbone.

    Raises:
        UsageError: when the backbone does not have it, or not in that block.
    """
    kind, at, number = name.partition("@")
    depth = info.blocks
    if not at and kind in OF_LAST_BLOCK and f"{kind}@i" in info.facets:
        return Facet(kind, depth)
    if not at and kind in info.facets:
        return Facet(kind, 0)
    if at and f"{kind}@i" in info.facets and number.removeprefix("-").isdecimal():
        block = int(number)
        if 1 <= abs(block) <= depth:
            return Facet(kind, block if block > 0 else depth + 1 + block)
        raise UsageError(
            f"Facet '{name}' does not exist: '{info.name}' has {depth} blocks.",
            hint=f"Choose from {kind}@1 to {kind}@{depth}, or from the end: {kind}@-1 to {kind}@-{depth}.",
        )
    if name in ("cls", "cls_attention") and info.blocks:
        raise UsageError(f"Backbone '{info.name}' has no class token, so no facet '{name}'.")
    if not info.facets:
        raise UsageError(
            f"The method needs features ({name}), and backbone '{info.name}' has none.",
            hint="Choose a --backbone, for example patchstats (no weights) or a timm ViT by its name.",
        )
    blocks = f" Blocks are i = 1 to {depth}, or -1 to -{depth} from the end." if depth else ""
    raise UsageError(
        f"Backbone '{info.name}' has no facet '{name}'.", hint=did_you_mean(name, list(info.facets)) + blocks
    )


def facet_shape(facet: Facet, info: BackboneInfo, height: int, width: int) -> tuple[int, ...] | None:
    """Return the shape of a facet of one image of `height` × `width` pixels; None for an unknown kind."""
    h, w = height // info.patch, width // info.patch
    tokens = info.prefix + h * w
    shapes = {
        "cls": (info.dim,),
        "prefix": (info.prefix, info.dim),
        "attention": (info.heads, tokens, tokens),
        "attention_logits": (info.heads, tokens, tokens),
        "attention_mean": (tokens, tokens),
        "attention_logits_mean": (tokens, tokens),
        "cls_attention": (info.heads, h, w),
    }
    if facet.kind in ("tokens", "queries", "keys", "values"):
        return (info.dim, h, w)
    return shapes.get(facet.kind)
