"""Frozen features of any plain ViT of timm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from uss_bench.backbones.checks import check_card, checked_name, patch_grid
from uss_bench.backbones.downloads import check_digest, find_weights
from uss_bench.backbones.weights import digest_with, normalisation
from uss_bench.errors import UsageError, did_you_mean
from uss_bench.specs import BackboneSpec

from .model import build_vit
from .positions import Grid, PositionEmbedding, Rule

_PROJECTIONS = ("queries", "keys", "values")  # in the order of timm's qkv layer
_OF_CLS = ("cls", "cls_attention")
_OF_ATTENTION = ("attention", "cls_attention")
_FINAL = ("tokens", "cls", "attention", "cls_attention")


class TimmViT:
    """A `Backbone` out of timm: dense facets of any block, at any size that the patch divides.

    Args:
        spec: the plugin's spec, or that of a card which names this plugin as its adapter.
        model: name of a plain ViT in timm, with or without a tag: ``vit_small_patch8_224.dino``.
        positions: who interpolates the position embedding; see `interpolate_positions`. A rotary
            network has none to interpolate, and the rule is of no effect.
        weights: a ``.safetensors``, ``.pth`` or ``.pt`` file, by the names of timm or of the DINO
            family's own code; None downloads the file of `spec.url`, or asks timm's hub.
        name: what records and boards call it; default: that of the card, or `model`. Weights that
            are not the card's own need another name; with one they may have another sha256.

    Raises:
        UsageError: for a model that timm does not have or that is no plain ViT, or a bad name.
        DataError: when the weights cannot be had, read, do not fit or are not those of the card.
        ContractError: when the card is wrong about the patch or the dimension.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        model: str,
        positions: Rule = "dino",
        weights: Path | None = None,
        name: str | None = None,
    ) -> None:
        self.name = checked_name(name or (spec.name if spec.adapter else model))
        file = find_weights(spec, weights)
        self._model, self.sha256 = build_vit(model, file)
        if file is not None and (name is None or weights is None):
            check_digest(spec, file, self.sha256)
        self.patch: int = self._model.patch_embed.patch_size[0]
        check_card(spec, patch=self.patch, dim=self._model.embed_dim)
        self._rule = positions
        self._embed = PositionEmbedding(self._model, positions)
        config = self._model.pretrained_cfg
        self._mean, self._std, own = normalisation(
            spec, config.get("mean") or IMAGENET_DEFAULT_MEAN, config.get("std") or IMAGENET_DEFAULT_STD
        )
        self.sha256 = digest_with(self.sha256, **own)

    def to(self, device: torch.device) -> TimmViT:
        """Move to `device`, in place, and return self."""
        self._model.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        self._embed = PositionEmbedding(self._model, self._rule)
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return the `facets` of `images`, float32 (B, 3, H, W), RGB in [0, 1], normalised in here.

        =======================================  ======================================================
        ``tokens`` (B, D, h, w)                  patch tokens after the final normalisation
        ``cls`` (B, D)                           the class token after the final normalisation
        ``queries@i keys@i values@i``            output of the projection in block i = 1..n, before any
        (B, D, h, w)                             normalisation or rotation of these; heads in a row
        ``attention`` (B, heads, T, T)           of the last block, after the softmax; rows are queries
        ``cls_attention`` (B, heads, h, w)       its row of the class token, over the patches
        =======================================  ======================================================

        Only the blocks that the facets need are run. With `grad` all facets belong to one graph, that
        of `images` and of the attention, which becomes a leaf when `images` needs no gradient.

        Raises:
            UsageError: for an unknown facet, or a side that is no multiple of the patch.
        """
        grid = patch_grid(images, self.patch, self.name)
        wanted = {facet: self._parse(facet) for facet in facets}
        blocks = self._model.blocks
        final = any(kind in _FINAL for kind, _ in wanted.values())
        depth = len(blocks) if final else max((block for _, block in wanted.values()), default=0)

        qkv: dict[int, Tensor] = {}
        attention: list[Tensor] = []
        # no_grad and not inference_mode: inference tensors could not be trained upon.
        with torch.set_grad_enabled(grad), ExitStack() as stack:
            for number in {block for _, block in wanted.values() if block}:
                hook = _keep(qkv, number)
                stack.enter_context(blocks[number - 1].attn.qkv.register_forward_hook(hook))
            if any(facet in _OF_ATTENTION for facet in facets):
                _expose_attention(blocks[-1].attn, attention, stack, grad=grad)

            tokens = self._tokens(images, grid)
            rotary = getattr(self._model, "rope", None)
            options = {} if rotary is None else {"rope": rotary.get_embed(shape=grid)}
            for block in blocks[:depth]:
                tokens = block(tokens, **options)
            if final:
                tokens = self._model.norm(tokens)

            out = {}
            for facet, (kind, block) in wanted.items():
                if kind in _PROJECTIONS:
                    part = qkv[block].chunk(3, dim=2)[_PROJECTIONS.index(kind)]
                    out[facet] = self._as_map(part, grid)
                elif kind == "tokens":
                    out[facet] = self._as_map(tokens, grid)
                elif kind == "cls":
                    out[facet] = tokens[:, 0]
                elif kind == "attention":
                    out[facet] = attention[0]
                else:
                    row = attention[0][:, :, 0, self._model.num_prefix_tokens :]
                    out[facet] = row.reshape(*row.shape[:2], *grid)
        return out

    def _parse(self, facet: str) -> tuple[str, int]:
        """Return (kind, block): the block from 1, or 0 for the facets of the network's end."""
        depth, has_cls = len(self._model.blocks), self._model.cls_token is not None
        kind, at, number = facet.partition("@")
        if at and kind in _PROJECTIONS and number.isdecimal():
            if 1 <= int(number) <= depth:
                return kind, int(number)
            raise UsageError(
                f"Facet '{facet}' does not exist: '{self.name}' has {depth} blocks.",
                hint=f"Choose from {kind}@1 to {kind}@{depth}.",
            )
        known = [name for name in _FINAL if has_cls or name not in _OF_CLS]
        if facet in known:
            return facet, 0
        if facet in _OF_CLS:
            raise UsageError(f"Backbone '{self.name}' has no class token, so no facet '{facet}'.")
        known += [f"{name}@i" for name in _PROJECTIONS]
        raise UsageError(
            f"Backbone '{self.name}' has no facet '{facet}'.",
            hint=f"{did_you_mean(facet, known)} Blocks are i = 1 to {depth}.",
        )

    def _tokens(self, images: Tensor, grid: Grid) -> Tensor:
        """Return what enters the first block, (B, T, D)."""
        # Not patch_embed itself, which insists on the native size.
        patches = self._model.patch_embed.proj((images - self._mean) / self._std)
        patches = self._model.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        tokens: Tensor = self._model.norm_pre(self._embed(patches, grid))
        return tokens

    def _as_map(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return the patches among tokens (B, T, D) as a map (B, D, h, w)."""
        # Contiguous, because a view would keep the whole of queries, keys and values alive.
        patches = tokens[:, self._model.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(len(patches), -1, *grid).contiguous()


def _keep(store: dict[int, Tensor], number: int) -> Callable[[Any, Any, Tensor], None]:
    def hook(module: Any, inputs: Any, output: Tensor) -> None:
        store[number] = output

    return hook


def _expose_attention(attn: Any, store: list[Tensor], stack: ExitStack, *, grad: bool) -> None:
    """Have `attn` put its attention into `store`, until `stack` closes."""

    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
        if grad and not output.requires_grad:
            output = output.detach().requires_grad_()
        store.append(output)
        return output  # what is multiplied with the values must be the very tensor that was stored

    # The fused kernel never forms the matrix. The explicit path passes it through attn_drop, which
    # changes nothing in evaluation mode.
    fused, attn.fused_attn = attn.fused_attn, False
    stack.callback(setattr, attn, "fused_attn", fused)
    stack.enter_context(attn.attn_drop.register_forward_hook(hook))
