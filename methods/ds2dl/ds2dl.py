"""DS²DL: Dual-Structure Self-Distilled Learning for unsupervised semantic segmentation (under review).

The file reads like the paper's Section 3, and equation numbers are the paper's. There is no released
code. Where the text leaves something open there is a parameter; README.md says what its default
rests on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.nn.mean_teacher import MeanTeacher, MeanTeacherNet
from uss_bench.nn.prototypes import cosine_logits
from uss_bench.nn.sinkhorn import sinkhorn

from .pair_loss import mean_pair_loss

OPTIMIZERS = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}


@dataclass(kw_only=True)
class DS2DL(MeanTeacher):
    """A projector, C local and C global prototypes (student and teacher), and the bias of the pair loss.

    The loop is that of `MeanTeacher`. The total loss (Eq. 8) is the sum of five terms; a weight of 0 leaves a
    term out, as the rows of Table 2 do.
    """

    steps: int = 8000
    optimizer: Literal["adam", "radam"] = "radam"
    r: float = 2.22
    """Strength of the reversed directional mining, Eq. 3; 1 makes it Eq. 1, binary cross-entropy."""
    tau: float = 0.1
    """Temperature of the label features q(c|x) and of Eq. 4."""
    epsilon: float = 0.1
    """Weight of the entropy in the optimal transport, Eq. 5."""
    sinkhorn_iterations: int = 3
    weight_intra: float = 1.0
    """L_p over pairs within an image."""
    weight_cross: float = 1.0
    """L_p over pairs across images."""
    weight_l2g: float = 1.0
    weight_orth: float = 1.0
    weight_data: float = 1.0

    similarity: Literal["frozen", "learned"] = "frozen"
    """What S compares: the frozen features, or the embedding."""
    center_similarity: bool = False
    """Subtract from S its mean over the second patch of the pair, as SmooSeg's W does."""
    attach_labels: bool = True
    """Whether L_p has a gradient to the projector through its soft labels y."""
    label_similarity: Literal["dot", "cosine"] = "dot"
    """y as the inner product of Eq. 2, or the cosine that the introduction speaks of."""
    b_init: float = -0.5
    """Start of the bias b: the further below 0, the more clusters stay in use, and the more even."""
    lr_b: float = 1e-4
    """Learning rate of the bias b; 0 holds it at `b_init`."""
    separate_b: bool = False
    """One bias for pairs within images and one for pairs across, like SmooSeg's shifts."""
    sinkhorn_scope: Literal["image", "batch"] = "image"
    """Whether codes are balanced within each image, or over the batch."""
    l2g_detach: bool = True
    """Keep the gradient of L_L2G from the projector, so that it trains the local prototypes alone."""
    orth_reduce: Literal["mean", "sum"] = "mean"
    orth_normalize: bool = True
    """Measure orthogonality on unit prototypes."""
    pseudo_labels: Literal["global", "local"] = "global"
    """Whose argmax Eq. 7 takes: the global prototypes', or that of the very prediction it trains."""
    data_tau: float = 1.0
    """Temperature of the prediction in Eq. 7."""

    net: Net = field(init=False, repr=False)

    def losses(self, f: Tensor, partner: Tensor) -> dict[str, Tensor]:
        """Return the terms of Eq. 8 whose weight is not 0, unweighted, by name.

        Args:
            f: features (B, D, h, w).
            partner: the other image of each image, int64 (B,).
        """
        z = self.net.projector(f)
        return self.affinity(f, z, partner) | self.cluster(z)

    def affinity(self, f: Tensor, z: Tensor, partner: Tensor) -> dict[str, Tensor]:
        """Return L_p (Eq. 3, and Eq. 1 at r = 1) with the soft labels of Eq. 2.

        The pairs are all N² within each image, and all with its partner (Section 3.3).
        """
        x = F.normalize(f if self.similarity == "frozen" else z, dim=1).flatten(2)
        seen = z if self.attach_labels else z.detach()
        q = torch.softmax(cosine_logits(seen, self.net.teacher) / self.tau, dim=1).flatten(2)
        if self.label_similarity == "cosine":
            q = F.normalize(q, dim=1)
        terms: dict[str, Tensor] = {}
        if self.weight_intra:
            terms["intra"] = mean_pair_loss(x, x, q, q, self.net.b[0], self.r, self.center_similarity)
        if self.weight_cross:
            y, p = x[partner], q[partner]
            terms["cross"] = mean_pair_loss(x, y, q, p, self.net.b[-1], self.r, self.center_similarity)
        return terms

    def cluster(self, z: Tensor) -> dict[str, Tensor]:
        """Return L_L2G (Eq. 4), L_orth (Eq. 6) and L_data (Eq. 7), as means over patches."""
        net = self.net
        terms: dict[str, Tensor] = {}
        if self.weight_l2g:
            similarity = cosine_logits(z.detach(), net.teacher)
            codes = sinkhorn(similarity, self.epsilon, self.sinkhorn_iterations, self.sinkhorn_scope)
            local = cosine_logits(z.detach() if self.l2g_detach else z, net.student)
            terms["l2g"] = F.cross_entropy(local / self.tau, codes)
        if self.weight_orth:
            c = F.normalize(net.student, dim=1) if self.orth_normalize else net.student
            deviation = (c @ c.T - torch.eye(len(c), dtype=c.dtype, device=c.device)).abs()
            terms["orth"] = deviation.mean() if self.orth_reduce == "mean" else deviation.sum()
        if self.weight_data:
            local = cosine_logits(z.detach(), net.student)
            labeling = cosine_logits(z, net.teacher) if self.pseudo_labels == "global" else local
            terms["data"] = F.cross_entropy(local / self.data_tau, labeling.argmax(dim=1))
        return terms

    def make_net(self, channels: int) -> Net:
        b = torch.full((2 if self.separate_b else 1,), self.b_init)
        return Net(channels, self.clusters, self.dim, self.dropout, b)

    def make_optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = OPTIMIZERS[self.optimizer](self.groups())
        return optimizer

    def groups(self) -> list[dict[str, Any]]:
        return [*super().groups(), {"params": [self.net.b], "lr": self.lr_b}]

    def values(self) -> Mapping[str, Tensor]:
        return {"b": self.net.b.mean()}


class Net(MeanTeacherNet):
    """What is learned: the projector, the local and the global prototypes (C, D), and b of Eq. 3."""

    def __init__(self, channels: int, clusters: int, dim: int, dropout: float, b: Tensor) -> None:
        super().__init__(channels, clusters, dim, dropout)
        self.b = nn.Parameter(b)
