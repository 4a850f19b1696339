"""Segmenter's mask transformer, as TransFGU trains it on frozen patches (Strudel et al., ICCV 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskTransformer(nn.Module):
    """Patches and one token per class attend to each other; logits are their normalized cosines."""

    def __init__(
        self, channels: int, dim: int, classes: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(channels, dim)
        self.class_tokens = nn.Parameter(torch.empty(classes, dim))
        nn.init.orthogonal_(self.class_tokens)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(dim), enable_nested_tensor=False)
        self.over_classes = nn.LayerNorm(classes)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K, h, w) of tokens (B, D, h, w), and the class tokens (B, K, d) that saw them."""
        patches = self.enter(tokens.flatten(2).transpose(1, 2))
        classes = self.class_tokens.expand(len(tokens), -1, -1)
        seen = F.normalize(self.blocks(torch.cat([patches, classes], dim=1)), dim=2)
        patches, classes = seen.split([patches.shape[1], classes.shape[1]], dim=1)
        logits = self.over_classes(patches @ classes.transpose(1, 2))
        return logits.transpose(1, 2).unflatten(2, tokens.shape[2:]), classes
