"""SmooSeg: Smoothness Prior for Unsupervised Semantic Segmentation (Lan et al., NeurIPS 2023).

The file reads like the paper's Section 3. Equation numbers are the paper's. Where the released code
differs from the text its behaviour is the default, and `spec.toml` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn import Projector, ShuffledBatches, Standardizer, cosine_logits, near_derangement


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
    lr_projector: float = 1e-4
    lr_prototypes: float = 5e-4
    standardize: bool = False
    """Centre and scale features per channel by the training set's moments (needs no label)."""
    global_offset: bool = True
    """Keep the batch-wide mean similarity in W, as the released code does and Eq. 2 does not."""
    closeness_dropout: bool = True
    """Compute W from dropped-out features, as the released code does."""
    checkpoint_every: int = 400
    """Steps between offered checkpoints; the released code validates every 400."""

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
            smooth, data_term = self.losses(f, near_derangement(len(f), pairs).to(f.device))
            net.update_teacher(self.momentum)
            optimizer.zero_grad(set_to_none=True)
            (smooth + data_term).backward()  # Eq. 7
            optimizer.step()
            if step == 1 or step % 50 == 0:
                ctx.report(step, smoothness=smooth, data=data_term)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

    def losses(self, f: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        """Return E_smooth (Eq. 4, as a mean over pairs) and E_data (Eq. 6, as a mean over patches).

        E_smooth has a gradient to the projector only, E_data to the student's prototypes only.

        Args:
            f: features (B, D, h, w).
            partner: the other image i' of each image i, int64 (B,).
        """
        z = self.net.projector(f)
        teacher = cosine_logits(z, self.net.teacher)
        student = cosine_logits(z.detach(), self.net.student)

        a = F.normalize(torch.softmax(teacher / self.tau, dim=1), dim=1).flatten(2)  # Eq. 5
        x = F.dropout2d(f, self.dropout, training=self.net.training and self.closeness_dropout)
        x = F.normalize(x, dim=1, eps=1e-10).flatten(2)
        within = smoothness(x, a, x, a, self.b_intra, self.global_offset)
        across = smoothness(x, a, x[partner], a[partner], self.b_inter, self.global_offset)
        return within + across, F.cross_entropy(student, teacher.argmax(dim=1))

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
        prototypes = F.normalize(nn.init.xavier_normal_(torch.empty(clusters, dim)), dim=1)
        self.student = nn.Parameter(prototypes)
        self.register_buffer("teacher", prototypes.clone())

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.projector(self.standardizer(features))
        return code

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """P_t ← α P_t + (1 − α) P_s, un-normalised; called before the optimiser's step."""
        self.teacher.lerp_(self.student, 1 - momentum)


def smoothness(x: Tensor, a: Tensor, y: Tensor, c: Tensor, b: float, global_offset: bool) -> Tensor:
    """Return the mean over images and patch pairs (p, q) of (W_pq − b) · δ_pq (Eqs. 2–4).

    W_pq = x_p·y_q − mean_q(x_p·y_q) + g is the closeness, with g the mean similarity over the whole
    batch (or 0), and δ_pq = 1 − a_p·c_q the label penalty (Eq. 3). Both are inner products, so the
    mean over all N² pairs factorises and no N × N matrix is ever made.

    Args:
        x, y: normalised features of image i and of its partner, (B, D, N), without gradient.
        a, c: normalised assignments of the same patches, (B, K, N).
        b: shift of W.
        global_offset: whether g is kept.
    """
    patches = x.shape[2]
    y_mean = y.mean(dim=2)
    row_mean = torch.einsum("bdn,bd->bn", x, y_mean)
    g = row_mean.mean() if global_offset else row_mean.new_zeros(())
    x_a = torch.einsum("bdn,bkn->bdk", x, a)
    y_c = torch.einsum("bdn,bkn->bdk", y, c)
    agreement = (a.sum(2) * c.sum(2)).sum(1)
    w_agreement = (
        (x_a * y_c).sum((1, 2)) - (torch.einsum("bn,bkn->bk", row_mean, a) * c.sum(2)).sum(1) + g * agreement
    )
    return (g - b) - ((w_agreement - b * agreement) / patches**2).mean()
