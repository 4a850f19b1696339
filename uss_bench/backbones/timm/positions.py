"""Position embeddings at grids other than the native one.

ViTs learn one position vector per patch of their native grid (28×28 for DINO at 224 with patch 8).
Any other input size needs the grid interpolated, and implementations differ in how: by enough to
change features, so the rule is part of the backbone's identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

Rule = Literal["dino", "timm"]
Grid = tuple[int, int]


def interpolate_positions(positions: Tensor, native: Grid, grid: Grid, rule: Rule) -> Tensor:
    """Return position vectors of `grid`, (1, h·w, D), from those of the `native` grid, (1, M_h·M_w, D).

    ``dino`` is the rule of the DINO and DINOv2 code, which the STEGO lineage runs on: bicubic without
    antialiasing, *at the scale factor* (h + 0.1) / M_h. The 0.1 guards the floor of the output size
    against rounding, and because PyTorch samples at the factor that it is given, it also shifts
    every sample a little. ``timm`` is timm's own: antialiased bicubic to exactly the size wanted.
    """
    if grid == native:
        return positions
    if rule == "timm":
        table: Tensor = resample_abs_pos_embed(positions, list(grid), list(native), num_prefix_tokens=0)
        return table
    height, width = native
    table = positions.reshape(1, height, width, -1).permute(0, 3, 1, 2)
    scale = ((grid[0] + 0.1) / height, (grid[1] + 0.1) / width)
    table = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
    if table.shape[-2:] != grid:
        raise RuntimeError(f"A grid of {native} became {tuple(table.shape[-2:])} instead of {grid}.")
    return table.flatten(2).transpose(1, 2)


def adopt_grid(model: Any, state: Mapping[str, Tensor]) -> None:
    """Give a model that is still to be loaded the native grid of a state's position table.

    A network that was trained at another size has the same weights but for this table, which is interpolated
    to every other grid anyway. Only a table of a square grid is adopted: loading explains any other.

    Args:
        model: a `timm.models.vision_transformer.VisionTransformer`.
        state: weights by timm's names.
    """
    ours, theirs = model.pos_embed, state.get("pos_embed")
    if ours is None or theirs is None or theirs.ndim != 3 or theirs.shape[2] != ours.shape[2]:
        return
    height, width = model.patch_embed.grid_size
    prefix = ours.shape[1] - height * width
    side = math.isqrt(max(theirs.shape[1] - prefix, 0))
    if side and side**2 + prefix == theirs.shape[1]:
        model.pos_embed = nn.Parameter(torch.empty_like(theirs, dtype=ours.dtype))
        model.patch_embed.grid_size = (side, side)


def own_rule(model: Any) -> Rule:
    """Return the rule of a network's own code: DINOv2's is timm's where it has registers, else DINO's."""
    return "timm" if model.reg_token is not None else "dino"


class PositionEmbedding:
    """Puts prefix tokens before the patches and adds positions: timm's ``_pos_embed`` for any grid.

    Args:
        model: a `timm.models.vision_transformer.VisionTransformer` with its final weights, on its
            final device: interpolated grids are kept, because a run uses two or three of them.
        rule: who interpolates.
    """

    def __init__(self, model: Any, rule: Rule) -> None:
        self._rule = rule
        self._native: Grid = tuple(model.patch_embed.grid_size)
        self._prefix = torch.cat(
            [token for token in (model.cls_token, model.reg_token) if token is not None]
            or [model.patch_embed.proj.weight.new_zeros(1, 0, model.embed_dim)],
            dim=1,
        )
        self._positions: Tensor | None = model.pos_embed
        if self._positions is not None and not model.no_embed_class:
            # The first vectors of the table belong to the prefix tokens; they are not interpolated.
            count = self._prefix.shape[1]
            self._prefix = self._prefix + self._positions[:, :count]
            self._positions = self._positions[:, count:]
        self._grids: dict[Grid, Tensor] = {}

    def __call__(self, patches: Tensor, grid: Grid) -> Tensor:
        """Return tokens (B, P + h·w, D) of embedded patches (B, h·w, D), P prefix tokens first."""
        if self._positions is not None:
            if grid not in self._grids:
                self._grids[grid] = interpolate_positions(self._positions, self._native, grid, self._rule)
            patches = patches + self._grids[grid]
        return torch.cat([self._prefix.expand(len(patches), -1, -1), patches], dim=1)
