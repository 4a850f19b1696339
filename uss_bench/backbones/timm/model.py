"""From a timm name to a frozen plain ViT with its weights."""

from __future__ import annotations

import contextlib
import difflib
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
from huggingface_hub import constants
from timm.layers.patch_embed import PatchEmbed
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import Attention, VisionTransformer  # type: ignore[attr-defined]
from torch import nn

from uss_bench.backbones.checkpoint_files import read_state_dict
from uss_bench.backbones.weights import digest_state, load_state_dict, trunk_of
from uss_bench.errors import DataError, UsageError
from uss_bench.files.digests import digest_file
from uss_bench.runtime.text import first_line

from .official import by_timm_names
from .positions import adopt_grid


def build_vit(name: str, weights: Path | None, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return the plain ViT that timm calls `name`, frozen, in evaluation mode, and its digest.

    Args:
        name: a name of timm's, with or without a tag: ``vit_small_patch8_224.dino``.
        weights: the file to load strictly; None takes the weights that the hub has for `name`. The
            digest is that of the file, or that of the tensors when they come from the hub.
        options: further arguments of the network.

    Raises:
        UsageError: when timm does not know `name`, or it is not a plain ViT.
        DataError: when the weights cannot be had, read, or do not fit.
    """
    if not timm.is_model(name):
        raise UsageError(f"timm has no model '{name}'.", hint=_suggest(name))
    try:
        model = timm.create_model(name, num_classes=0, **(options or {}))
    except RuntimeError as error:  # timm's answer to a tag that it does not know
        raise UsageError(f"timm cannot build '{name}': {error}.", hint=_suggest(name)) from None
    _require_plain(model, name)

    if weights is not None:
        state = by_timm_names(trunk_of(read_state_dict(weights), model.state_dict()))
        adopt_grid(model, state)
        load_state_dict(model, state, what=f"Weights '{weights}' and model '{name}'")
        digest = digest_file(weights)
    else:
        model = _from_hub(name)
        digest = digest_state(model.state_dict())
    return model.requires_grad_(False).eval(), digest


def _from_hub(name: str) -> Any:
    try:
        with offline_unless_reachable() as silent:
            return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # what a failed download raises depends on the hub's client and its version
        reason = f"{silent} does not answer" if silent else first_line(str(error) or type(error).__name__)
        raise DataError(
            f"The weights of '{name}' are not in the hub's cache and cannot be fetched: {reason}.",
            hint="Pass a file of your own: --weights FILE (.safetensors, .pth or .pt).",
        ) from error


@contextlib.contextmanager
def offline_unless_reachable() -> Iterator[str]:
    """Let the hub's client use its cache alone while the hub takes no connection; give the host's name then.

    The client itself tries for a minute before it looks into its cache.
    """
    address = urlsplit(constants.ENDPOINT)
    proxy = urllib.request.getproxies().get(address.scheme)
    target = urlsplit(proxy) if proxy else address
    port = target.port or (80 if target.scheme == "http" else 443)
    try:
        socket.create_connection((target.hostname or "", port), timeout=5).close()
        silent = ""
    except OSError:
        silent = target.hostname or constants.ENDPOINT
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or bool(silent)
    try:
        yield silent
    finally:
        constants.HF_HUB_OFFLINE = before


def _require_plain(model: Any, name: str) -> None:
    # Subclasses and other parts (distillation tokens, hybrid stems, parallel blocks, differential
    # attention) have their own forward pass, which reading facets by position would misread.
    attention = [getattr(block, "attn", None) for block in getattr(model, "blocks", [])]
    plain = (type(model) is VisionTransformer and all(type(attn) is Attention for attn in attention)) or (
        type(model) is Eva and _is_dinov3(model) and all(_is_fused(attn) for attn in attention)
    )
    plain = plain and type(model.patch_embed) is PatchEmbed
    plain = plain and model.patch_embed.patch_size[0] == model.patch_embed.patch_size[1]
    if not plain:
        raise UsageError(
            f"Model '{name}' is not a plain vision transformer.",
            hint="Choose one of timm's vit_* or deit_* models, such as vit_small_patch8_224.dino.",
        )


def _is_dinov3(model: Any) -> bool:
    """Whether an Eva has DINOv3's shape: rotated queries and keys, no table of positions, norm at the end."""
    # By its name, because timm before 1.0.20 has neither the class nor the models.
    rotary = type(getattr(model, "rope", None)).__name__ == "RotaryEmbeddingDinoV3"
    return rotary and model.pos_embed is None and isinstance(model.fc_norm, nn.Identity)


def _is_fused(attn: Any) -> bool:
    # With biases kept apart, Eva does not call its qkv layer, and a hook on that would see nothing.
    return type(attn) is EvaAttention and attn.qkv is not None and attn.q_bias is None


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name, timm.list_models(["*vit*", "*deit*"], include_tags=True), n=3)
    guess = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{guess}timm.list_models('*vit*') lists all of them."
