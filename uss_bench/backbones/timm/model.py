"""From a timm name to a frozen plain ViT with its weights."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Attention, VisionTransformer  # type: ignore[attr-defined]

from uss_bench.errors import DataError, UsageError

from .weights import digest_file, digest_state, load_state_dict, read_state_dict


def build_vit(name: str, weights: Path | None) -> tuple[Any, str]:
    """Return the plain ViT that timm calls `name`, frozen, in evaluation mode, and its digest.

    Args:
        name: a name of timm's, with or without a tag: ``vit_small_patch8_224.dino``.
        weights: the file to load strictly; None takes the weights that the hub has for `name`. The
            digest is that of the file, or that of the tensors when they come from the hub.

    Raises:
        UsageError: when timm does not know `name`, or it is no plain ViT.
        DataError: when the weights cannot be had, read, or do not fit.
    """
    if not timm.is_model(name):
        raise UsageError(f"timm has no model '{name}'.", hint=_suggest(name))
    try:
        model = timm.create_model(name, num_classes=0)
    except RuntimeError as error:  # timm's answer to a tag that it does not know
        raise UsageError(f"timm cannot build '{name}': {error}.", hint=_suggest(name)) from None
    _require_plain(model, name)

    if weights is not None:
        load_state_dict(model, read_state_dict(weights), what=f"Weights '{weights}' and model '{name}'")
        digest = digest_file(weights)
    else:
        model = _from_hub(name)
        digest = digest_state(model.state_dict())
    return model.requires_grad_(False).eval(), digest


def _from_hub(name: str) -> Any:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # what a failed download raises depends on the hub's client and its version
        reason = (str(error) or type(error).__name__).split("\n", 1)[0]
        raise DataError(
            f"The weights of '{name}' cannot be had from the hub: {reason}",
            hint="Pass a file of your own: --weights FILE (.safetensors, .pth or .pt).",
        ) from error


def _require_plain(model: Any, name: str) -> None:
    # Subclasses and other parts (distillation tokens, hybrid stems, parallel blocks, differential
    # attention) have their own forward pass, which reading facets by position would misread.
    plain = (
        type(model) is VisionTransformer
        and type(model.patch_embed) is PatchEmbed
        and model.patch_embed.patch_size[0] == model.patch_embed.patch_size[1]
        and all(type(getattr(block, "attn", None)) is Attention for block in model.blocks)
    )
    if not plain:
        raise UsageError(
            f"Model '{name}' is not a plain vision transformer.",
            hint="Choose one of timm's vit_* or deit_* models, such as vit_small_patch8_224.dino.",
        )


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name, timm.list_models(["*vit*", "*deit*"], include_tags=True), n=3)
    guess = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{guess}timm.list_models('*vit*') lists what there is."
