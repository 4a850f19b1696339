"""Frozen features of any plain ViT of timm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor

from uss_bench.backbones.checks import check_card, checked_name, patch_grid
from uss_bench.backbones.downloads import check_digest, find_weights
from uss_bench.backbones.facets import Facet, parse_facet
from uss_bench.backbones.trainable import WholeNetwork
from uss_bench.backbones.weights import digest_with, normalization, parameter_count, pixel_statistics
from uss_bench.contracts import BackboneInfo, Batch, TrainablePart
from uss_bench.errors import UsageError
from uss_bench.plugins.specs import BackboneSpec

from .hub import find_source
from .model import build_vit
from .positions import Grid, PositionEmbedding, Rule, own_rule

_PROJECTIONS = ("queries", "keys", "values")  # in the order of timm's qkv layer
_LOGITS = ("attention_logits", "attention_logits_mean")
_ATTENTION = ("attention", "attention_mean", "cls_attention")
_OF_BLOCKS = ("tokens", "prefix", *_PROJECTIONS, "attention", "attention_mean", *_LOGITS)


class TimmViT:
    """A `Backbone` out of timm: dense facets of any block, at any size that the patch divides.

    Args:
        spec: the plugin's spec, or that of a card which names this plugin as its adapter.
        model: name of a plain ViT in timm, with or without a tag: ``vit_small_patch8_224.dino``; or a
            name with a prefix, see `find_source`.
        positions: who interpolates the position embedding, see `interpolate_positions`; None: what the
            spec says, or else the network's own code. A rotary network has none to interpolate.
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
        positions: Rule | None = None,
        weights: Path | None = None,
        name: str | None = None,
    ) -> None:
        file = find_weights(spec, weights)
        source = find_source(model, with_weights=file is None)
        self.name = checked_name(name or (spec.name if spec.adapter else source.name))
        self._model, self.sha256 = build_vit(source.model, file or source.weights, source.options)
        if file is not None and (name is None or weights is None):
            check_digest(spec, file, self.sha256)
        self.patch: int = self._model.patch_embed.patch_size[0]
        check_card(spec, patch=self.patch, dim=self._model.embed_dim)
        self._rule: Rule = positions or spec.positions or own_rule(self._model)
        self.positions = self._rule if self._model.pos_embed is not None else ""
        self._embed = PositionEmbedding(self._model, self._rule)
        config = {**self._model.pretrained_cfg, **source.pixels}
        self._mean, self._std, own = normalization(
            spec, config.get("mean") or IMAGENET_DEFAULT_MEAN, config.get("std") or IMAGENET_DEFAULT_STD
        )
        self.sha256 = digest_with(self.sha256, **own, **source.pixels)
        of_class_token = ("cls", "cls_attention@i") if self._model.cls_token is not None else ()
        self.info = BackboneInfo(
            name=self.name,
            patch=self.patch,
            dim=self._model.embed_dim,
            blocks=len(self._model.blocks),
            heads=self._model.blocks[0].attn.num_heads,
            prefix=self._model.num_prefix_tokens,
            parameters=parameter_count(self._model),
            facets=("tokens", *(f"{kind}@i" for kind in _OF_BLOCKS), *of_class_token),
            **pixel_statistics(self._mean, self._std),
        )

    def to(self, device: torch.device) -> TimmViT:
        """Move to `device`, in place, and return self."""
        self._model.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        self._embed = PositionEmbedding(self._model, self._rule)
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return the `facets` of `images`, float32 (B, 3, H, W), RGB in [0, 1], normalized in here.

        The facets are those of `uss_bench.contracts.Backbone`. Queries, keys and values are the output of
        the projection, before any normalization or rotation of these, which the logits of attention have.
        Only the blocks that the facets need are run. With `grad` all facets belong to one graph, that
        of `images` and of the attention, which becomes a leaf when `images` needs no gradient. Logits
        of attention are computed beside it: they have a gradient to `images`, and nothing depends on them.

        Raises:
            UsageError: for an unknown facet, or a side that is not a multiple of the patch.
        """
        grid = patch_grid(images, self.patch, self.name)
        wanted = {name: parse_facet(name, self.info) for name in facets}
        blocks = self._model.blocks
        final = any(not facet.block for facet in wanted.values())
        depth = len(blocks) if final else max((facet.block for facet in wanted.values()), default=0)
        seen = _Seen({(facet.kind, facet.block) for facet in wanted.values()})
        # no_grad and not inference_mode: inference tensors could not be trained upon.
        with torch.set_grad_enabled(grad), ExitStack() as stack:
            seen.watch(blocks, stack, grad=grad)
            tokens = _first_tokens(self._model, self._embed, (images - self._mean) / self._std, grid)
            options = _rotary(self._model, grid)
            for number, block in enumerate(blocks[:depth], start=1):
                tokens = block(tokens, **options)
                seen.left[number] = tokens if seen.needs(number, "tokens", "prefix") else None
            last = self._model.norm(tokens) if final else None
            return {
                name: self._read(facet, seen, last, grid, options.get("rope"))
                for name, facet in wanted.items()
            }

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Return a trainable copy of the last blocks, or of all; see `uss_bench.contracts.Backbone`.

        Raises:
            UsageError: when there are not more blocks than that.
        """
        if last_blocks is None:
            rule = self._rule

            def run(model: Any, images: Tensor) -> Tensor:
                grid = (images.shape[2] // self.patch, images.shape[3] // self.patch)
                tokens = _first_tokens(model, PositionEmbedding(model, rule), images, grid)
                for block in model.blocks:
                    tokens = block(tokens, **_rotary(model, grid))
                return _as_map(model.norm(tokens), model.num_prefix_tokens, grid)

            return WholeNetwork(self._model, self._mean, self._std, run)
        if not 1 <= last_blocks < self.info.blocks:
            raise UsageError(
                f"The last {last_blocks} blocks of backbone '{self.name}' cannot be trained: it has "
                f"{self.info.blocks}.",
                hint=f"Choose 1 to {self.info.blocks - 1}, or None for the whole network.",
            )
        return LastBlocks(self._model, last_blocks)

    def _read(
        self, facet: Facet, seen: _Seen, last: Tensor | None, grid: Grid, rope: Tensor | None
    ) -> Tensor:
        """Return one facet of what a forward pass has left."""
        kind, block, prefix = facet.kind, facet.block, self.info.prefix
        if not block:
            assert last is not None, "a facet of no block is one of the network's end"
            return last[:, 0] if kind == "cls" else _as_map(last, prefix, grid)
        if kind in ("tokens", "prefix"):
            left = seen.left[block]
            assert left is not None, "the tokens of this block were asked for"
            # A copy, because a view would keep all tokens alive.
            return left[:, :prefix].clone() if kind == "prefix" else _as_map(left, prefix, grid)
        if kind in _PROJECTIONS:
            return _as_map(seen.projected[block].chunk(3, dim=2)[_PROJECTIONS.index(kind)], prefix, grid)
        if kind in _LOGITS:
            attention = _logits(self._model.blocks[block - 1].attn, seen.projected[block], prefix, rope)
        else:
            attention = seen.attention[block]
        if kind.endswith("_mean"):
            return attention.mean(dim=1)
        if kind == "cls_attention":
            return attention[:, :, 0, prefix:].reshape(*attention.shape[:2], *grid)
        return attention


class LastBlocks(TrainablePart):
    """Copies of the last blocks of a ViT, and behind them its final normalization, frozen.

    Args:
        model: the frozen network.
        count: number of blocks.
    """

    def __init__(self, model: Any, count: int) -> None:
        super().__init__()
        self.inputs = (f"tokens@-{count + 1}", f"prefix@-{count + 1}")
        self.blocks = copy.deepcopy(model.blocks[-count:]).requires_grad_(True)
        self.norm = copy.deepcopy(model.norm)
        self.rope = copy.deepcopy(getattr(model, "rope", None))

    def forward(self, batch: Batch) -> Tensor:
        patches, prefix = (batch[name] for name in self.inputs)
        grid = (patches.shape[2], patches.shape[3])
        tokens = torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)
        options = _rotary(self, grid)
        for block in self.blocks:
            tokens = block(tokens, **options)
        return _as_map(self.norm(tokens), prefix.shape[1], grid)


class _Seen:
    """What a forward pass leaves of the blocks whose facets are `wanted`, as (kind, block)."""

    def __init__(self, wanted: set[tuple[str, int]]) -> None:
        self._wanted = wanted
        self.left: dict[int, Tensor | None] = {}
        self.projected: dict[int, Tensor] = {}
        self.attention: dict[int, Tensor] = {}

    def needs(self, block: int, *kinds: str) -> bool:
        return any((kind, block) in self._wanted for kind in kinds)

    def watch(self, blocks: Any, stack: ExitStack, *, grad: bool) -> None:
        """Have blocks leave their projections and attention here, until `stack` closes."""
        for number, block in enumerate(blocks, start=1):
            if self.needs(number, *_PROJECTIONS, *_LOGITS):
                hook = _keep(self.projected, number)
                stack.enter_context(block.attn.qkv.register_forward_hook(hook))
            if self.needs(number, *_ATTENTION):
                _expose_attention(block.attn, self.attention, number, stack, grad=grad)


def _first_tokens(model: Any, embed: PositionEmbedding, images: Tensor, grid: Grid) -> Tensor:
    """Return what enters the first block, (B, T, D), of normalized images."""
    # Not patch_embed itself, which insists on the native size.
    patches = model.patch_embed.norm(model.patch_embed.proj(images).flatten(2).transpose(1, 2))
    tokens: Tensor = model.norm_pre(embed(patches, grid))
    return tokens


def _rotary(model: Any, grid: Grid) -> dict[str, Tensor]:
    """Return what blocks need beside tokens: the rotation of positions, where there is one."""
    rotary = getattr(model, "rope", None)
    return {} if rotary is None else {"rope": rotary.get_embed(shape=grid)}


def _as_map(tokens: Tensor, prefix: int, grid: Grid) -> Tensor:
    """Return the patches among tokens (B, T, D) as a map (B, D, h, w)."""
    # Contiguous, because a view would keep the whole of queries, keys and values alive.
    patches = tokens[:, prefix:]
    return patches.transpose(1, 2).reshape(len(patches), -1, *grid).contiguous()


def _logits(attn: Any, projected: Tensor, prefix: int, rope: Tensor | None) -> Tensor:
    """Return the attention before its softmax, (B, heads, T, T), of the output (B, T, 3·D) of `attn.qkv`."""
    queries, keys = (
        part.unflatten(2, (attn.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=2)[:2]
    )
    queries, keys = attn.q_norm(queries), attn.k_norm(keys)
    if rope is not None:
        queries, keys = (_rotated(part, prefix, rope, attn.rotate_half) for part in (queries, keys))
    logits: Tensor = (queries * attn.scale) @ keys.transpose(2, 3)
    return logits


def _rotated(part: Tensor, prefix: int, rope: Tensor, half: bool) -> Tensor:
    """Rotate all of (B, heads, T, d) but the prefix tokens, as timm's EvaAttention does."""
    rotated = apply_rot_embed_cat(part[:, :, prefix:], rope, half=half)
    return torch.cat([part[:, :, :prefix], rotated], dim=2).type_as(part)


def _keep(store: dict[int, Tensor], number: int) -> Callable[[Any, Any, Tensor], None]:
    def hook(module: Any, inputs: Any, output: Tensor) -> None:
        store[number] = output

    return hook


def _expose_attention(
    attn: Any, store: dict[int, Tensor], number: int, stack: ExitStack, *, grad: bool
) -> None:
    """Have `attn` put its attention into `store`, until `stack` closes."""

    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
        if grad and not output.requires_grad:
            output = output.detach().requires_grad_()
        store[number] = output
        return output  # what is multiplied with the values must be the very tensor that was stored

    # The fused kernel never forms the matrix. The explicit path passes it through attn_drop, which
    # changes nothing in evaluation mode.
    fused, attn.fused_attn = attn.fused_attn, False
    stack.callback(setattr, attn, "fused_attn", fused)
    stack.enter_context(attn.attn_drop.register_forward_hook(hook))
