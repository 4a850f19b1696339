"""The segmentation head of the STEGO lineage."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Activation = Literal["relu", "silu"]


class Projector(nn.Module):
    """The lineage's segmentation head: a linear path plus a one-hidden-layer path, added.

    z = Conv1×1(D→d)(drop(f)) + [Conv1×1(D→D) → act → Conv1×1(D→d)](drop(f)), where the two paths
    draw independent channel-dropout masks. STEGO uses ReLU and p = 0.1, SmooSeg SiLU and p = 0.2.
    """

    def __init__(self, in_channels: int, dim: int, *, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.linear = nn.Conv2d(in_channels, dim, 1)
        self.nonlinear = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 1),
            nn.ReLU() if activation == "relu" else nn.SiLU(),
            nn.Conv2d(in_channels, dim, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, h, w) to codes (B, d, h, w)."""
        code: Tensor = self.linear(self.dropout(features)) + self.nonlinear(self.dropout(features))
        return code
