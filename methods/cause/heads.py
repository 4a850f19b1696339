"""CAUSE's head: an MLP, with or without a transformer decoder whose queries are the codes of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HIDDEN = 2048
"""Channels of the decoder's feed-forward network."""


class Head(nn.Module):
    """Maps features (B, D, h, w) to a code (B, d, h, w), every token by itself unless there is a decoder.

    Args:
        dim: D.
        code: d.
        decoder: for CAUSE-TR; None for CAUSE-MLP.
    """

    def __init__(self, dim: int, code: int, dropout: float, decoder: Decoder | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.dropout = nn.Dropout(dropout)  # of single numbers, where the lineage drops channels
        self.linear = nn.Linear(dim, code)
        self.nonlinear = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, code))

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)
        if self.decoder is not None:
            tokens = tokens + self.decoder(tokens, features.shape[2:])
        code: Tensor = self.paths(tokens).transpose(1, 2).unflatten(2, features.shape[2:])
        return code

    def paths(self, tokens: Tensor) -> Tensor:
        """Add the linear path and that with a hidden layer, on tokens (B, n, D); each has its own dropout."""
        code: Tensor = self.linear(self.dropout(tokens)) + self.nonlinear(self.dropout(tokens))
        return code


class Decoder(nn.Module):
    """One post-norm decoder layer of one attention head, with learned positions of the training grid.

    Args:
        codebook: (K, D), fixed. A token's query is the code with the largest cosine.
        grid: (h, w) of the training grid. At another size positions are interpolated bilinearly; the
            released code can only run at the size that it was trained at.
    """

    codebook: Tensor

    def __init__(self, codebook: Tensor, grid: tuple[int, int], dropout: float) -> None:
        super().__init__()
        dim = codebook.shape[1]
        self.register_buffer("codebook", codebook)
        self.positions = nn.Parameter(torch.randn(dim, *grid))
        self.own = nn.MultiheadAttention(dim, 1, dropout=dropout, batch_first=True)
        self.cross = nn.MultiheadAttention(dim, 1, dropout=dropout, batch_first=True)
        self.feed = nn.Sequential(
            nn.Linear(dim, _HIDDEN), nn.ReLU(), nn.Dropout(dropout), nn.Linear(_HIDDEN, dim)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return what is added to `tokens` (B, h·w, D) of a grid (h, w)."""
        positions = self.positions[None]
        if positions.shape[2:] != torch.Size(grid):
            positions = F.interpolate(positions, size=grid, mode="bilinear", align_corners=False)
        positions = positions.flatten(2).transpose(1, 2)
        x = self.codebook[nearest_code(tokens, self.codebook)]
        query = x + positions
        x = self.norms[0](x + self.dropout(self.own(query, query, x, need_weights=False)[0]))
        seen = self.cross(x + positions, tokens, tokens, need_weights=False)[0]
        x = self.norms[1](x + self.dropout(seen))
        decoded: Tensor = self.norms[2](x + self.dropout(self.feed(x)))
        return decoded


def nearest_code(tokens: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the code with the largest cosine, int64 (B, n), of tokens (B, n, D)."""
    return (tokens @ F.normalize(codebook, dim=1).T).argmax(dim=2)
