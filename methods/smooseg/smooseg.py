"""SmooSeg: Smoothness Prior for Unsupervised Semantic Segmentation (Lan et al., NeurIPS 2023).

The file reads like the paper's Section 3. Equation numbers are the paper's; its Eq. 1, the smoothness
term with hard labels, is what Eqs. 2 to 4 make differentiable. Where the released code differs from
the text its behavior is the default, and `spec.toml` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.ema import ema_update
from uss_bench.nn.pairing import near_derangement
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import cosine_logits, unit_prototypes
from uss_bench.nn.standardizer import Standardizer


@dataclass(kw_only=True)
class SmooSeg:
    """A projector, and two sets of K prototypes: student and teacher.

    Loss and prediction need `net`, which `train` and `load_state_dict` make.
    """

    clusters: int
    """K, the number of prototypes."""
    dim: int = 64
    """Dimension d of the embedding."""
    steps: int = 3000
    batch_size: int = 32
    """Items per step; smoothness across images needs at least two."""
    b_intra: float = -0.02
    """Shift of W within an image: b1 of Eq. 4."""
    b_inter: float = 0.5
    """Shift of W across images: b2 of Eq. 4."""
    tau: float = 0.1
    """Temperature of the teacher's assignment, Eq. 5."""
    momentum: float = 0.998
    dropout: float = 0.2
    """Probability of channel dropout on the features."""
    weight_intra: float = 1.0
    """Of E_smooth within images; 0 leaves it out, as Table 4 does with each term in turn."""
    weight_inter: float = 1.0
    """Of E_smooth across images."""
    weight_data: float = 1.0
    lr_projector: float = 1e-4
    lr_prototypes: float = 5e-4
    standardize: bool = False
    """Center and scale features per channel by the training set's moments (needs no label)."""
    global_offset: bool = True
    """Keep the batch-wide mean similarity in W, as the released code does and Eq. 2 does not."""
    closeness_dropout: bool = True
    """Compute W from dropped-out features, as the released code does."""
    ema_first: bool = True
    """Update the teacher before the optimizer's step, as the released code, or after it, as Algorithm 1."""
    checkpoint_every: int = 400
    """Steps between offered checkpoints; the released code keeps one every 400."""

    net: Net = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        net = self.net = Net(features[0]["tokens"].shape[0], self.clusters, self.dim, self.dropout)
        if self.standardize:
            net.standardizer.fit(features.moments("tokens"))
        net.to(ctx.device).train()

        optimizer = torch.optim.Adam(
            [
                {"params": net.projector.parameters(), "lr": self.lr_projector},
                {"params": [net.student], "lr": self.lr_prototypes},
            ]
        )
        pairs = ctx.generator("pairs")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        for step in ctx.steps(self.steps, net=net, optimizer=optimizer, pairs=pairs, batches=batches):
            f = net.standardizer(features.batch(next(batches))["tokens"])
            terms = self.losses(f, near_derangement(len(f), pairs).to(f.device))
            total = torch.stack([getattr(self, f"weight_{name}") * term for name, term in terms.items()])
            optimizer.zero_grad(set_to_none=True)
            total.sum().backward()  # Eq. 7
            if self.ema_first:
                net.update_teacher(self.momentum)
            optimizer.step()
            if not self.ema_first:
                net.update_teacher(self.momentum)
            if step == 1 or step % 50 == 0:
                ctx.report(step, **terms)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

    def losses(self, f: Tensor, partner: Tensor) -> dict[str, Tensor]:
        """Return the terms of Eq. 7 whose weight is not 0, unweighted, by name.

        They are the two halves of E_smooth (Eq. 4, as means over pairs), which have a gradient to the
        projector only, and E_data (Eq. 6, as a mean over patches), which has one to the student's
        prototypes only.

        Args:
            f: features (B, D, h, w).
            partner: the other image i' of each image i, int64 (B,).
        """
        z = self.net.projector(f)
        teacher = cosine_logits(z, self.net.teacher)
        student = cosine_logits(z.detach(), self.net.student)  # A^s of Eq. 5, before its softmax

        # A^t of Eq. 5, normalized as Eq. 3 asks.
        a = F.normalize(torch.softmax(teacher / self.tau, dim=1), dim=1).flatten(2)
        x = F.dropout2d(f, self.dropout, training=self.net.training and self.closeness_dropout)
        x = F.normalize(x, dim=1, eps=1e-10).flatten(2)
        intra, inter = smoothness(x, a, partner, self.b_intra, self.b_inter, self.global_offset)
        data = F.cross_entropy(student, teacher.argmax(dim=1))
        terms = {"intra": intra, "inter": inter, "data": data}
        return {name: term for name, term in terms.items() if getattr(self, f"weight_{name}")}

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["tokens"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net.teacher)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net = Net(len(state["standardizer.mean"]), self.clusters, self.dim, self.dropout)
        self.net.load_state_dict(dict(state))
        self.net.to(state["teacher"].device).eval()


class Net(nn.Module):
    """What is learned: the projector, and the student's and the teacher's prototypes (K, d)."""

    teacher: Tensor

    def __init__(self, channels: int, clusters: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.standardizer = Standardizer(channels)
        self.projector = Projector(channels, dim, activation="silu", dropout=dropout)
        prototypes = unit_prototypes(clusters, dim)
        self.student = nn.Parameter(prototypes)
        self.register_buffer("teacher", prototypes.clone())

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.projector(self.standardizer(features))
        return code

    def update_teacher(self, momentum: float) -> None:
        """P_t ← α P_t + (1 − α) P_s, un-normalized, as in the released code."""
        ema_update(self.teacher, self.student, momentum)


def smoothness(
    x: Tensor, a: Tensor, partner: Tensor, b_intra: float, b_inter: float, global_offset: bool
) -> tuple[Tensor, Tensor]:
    """Return the halves of E_smooth (Eq. 4): means over the patch pairs within images, and across them.

    A pair (p, q) of patches of images i and j contributes (W_pq − b) · δ_pq (Eqs. 2–4). The closeness
    W_pq = x_p·y_q − mean_q(x_p·y_q) + g, with g the mean similarity over the whole batch (or 0), and
    the label penalty δ_pq = 1 − a_p·c_q (Eq. 3) are both inner products. So the mean over all N² pairs
    factorises: all that it needs of an image is Σ_p x_p a_pᵀ, Σ_p a_p and the mean of x, which are
    formed once and serve the image in every pair. No N × N matrix is ever made.

    Args:
        x: normalized features, (B, D, N), without gradient.
        a: normalized assignments of the same patches, (B, K, N).
        partner: the other image i' of each image i, int64 (B,).
        b_intra, b_inter: shifts of W within an image and across images.
        global_offset: whether g is kept.
    """
    patches = x.shape[2]
    x_a = torch.bmm(x, a.transpose(1, 2))  # (B, D, K)
    a_sum, x_mean = a.sum(2), x.mean(2)

    def mean_over(other: Tensor | slice, b: float) -> Tensor:
        y_c, c_sum, y_mean = x_a[other], a_sum[other], x_mean[other]
        g = (x_mean * y_mean).sum(1).mean() if global_offset else x_mean.new_zeros(())
        # Σ over pairs of (W − g) · a·c: as y_c loses mean_q y, so W loses its mean over q.
        agreement = (x_a * (y_c - y_mean[:, :, None] * c_sum[:, None])).sum((1, 2))
        return (g - b) - ((agreement + (g - b) * (a_sum * c_sum).sum(1)) / patches**2).mean()

    return mean_over(slice(None), b_intra), mean_over(partner, b_inter)
