"""STEGO: unsupervised segmentation by distilling feature correspondences (Hamilton et al., ICLR 2022).

The file reads like the paper's Section 3, with the behavior of the released code where the text
says less: sampling, centering and clamping (its Eq. 4 and "Balancing"), five negatives per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context
from uss_bench.nn.distilled import Distilled
from uss_bench.nn.probed import ProbedNet
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import probe_loss


@dataclass(kw_only=True)
class Stego(Distilled):
    """A segmentation head trained by feature correspondences, and a cosine k-means probe on its code."""

    projection: Literal["nonlinear", "none"] = "nonlinear"
    """The head, or none: the probe then does k-means on the frozen features themselves."""
    dropout: float = 0.1
    """Probability of channel dropout before the head."""
    feature_dropout: bool = True
    """Compute correspondence from dropped-out features too, as the released code does."""
    neighbor_dropout: bool = False
    """Make the table of neighbors from dropped-out features, as the released code does."""

    def neighbor_table(self, ctx: Context) -> Tensor | None:
        if self.projection == "none":  # only the probe learns, and it needs no neighbors
            return None
        return self.nearest(ctx, dropout=self.dropout) if self.neighbor_dropout else self.nearest(ctx)

    def terms(self, batch: Batch, near: Batch | None, draws: torch.Generator, step: int) -> dict[str, Tensor]:
        """Return the terms of Eq. 5, and the probe's loss."""
        return self.losses(batch["tokens"], None if near is None else near["tokens"], draws)

    def losses(self, f: Tensor, f_pos: Tensor | None, draws: torch.Generator) -> dict[str, Tensor]:
        """Return the probe's loss and, where there are neighbors, the three correspondence terms.

        The probe's loss has a gradient to the centroids only, the others to the head only.

        Args:
            f, f_pos: features of a batch and of its nearest neighbors, (B, D, h, w).
            draws: where points and random partners come from.
        """
        code = self.net.head(f)
        terms = {"probe": probe_loss(code.detach(), self.net.centroids)}
        if f_pos is not None:
            terms |= self.correspondence(f, f_pos, code, self.net.head(f_pos), draws)
        return terms

    def correspondence(
        self, f: Tensor, f_pos: Tensor, code: Tensor, code_pos: Tensor, draws: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the self, kNN and random terms, unweighted; `code` (B, d, h, w) belongs to `f`."""
        dropped = self.net.training and self.feature_dropout
        f, f_pos = (F.dropout2d(value, self.dropout, training=dropped) for value in (f, f_pos))
        return self.distill(f, f_pos, code, code_pos, draws)

    def make_net(self, channels: int) -> ProbedNet:
        if self.projection == "none":
            return ProbedNet(channels, nn.Identity(), self.clusters, channels)
        head = Projector(channels, self.dim, activation="relu", dropout=self.dropout)
        return ProbedNet(channels, head, self.clusters, self.dim)
