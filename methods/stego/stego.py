"""STEGO: unsupervised segmentation by distilling feature correspondences (Hamilton et al., ICLR 2022).

The file reads like the paper's Section 3, with the behavior of the released code where the text
says less: sampling, centering and clamping (its Eq. 4 and "Balancing"), five negatives per image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.correspondence import correspondence_terms, random_points
from uss_bench.nn.knn import knn_table, positives
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import cosine_logits, probe_loss
from uss_bench.nn.standardizer import Standardizer


@dataclass(kw_only=True)
class Stego:
    """A segmentation head trained by feature correspondences, and a cosine k-means probe on its code.

    Loss and prediction need `net`, which `train` and `load_state_dict` make.
    """

    clusters: int
    """K, the number of the probe's centroids."""
    projection: Literal["nonlinear", "none"] = "nonlinear"
    """The head, or none: the probe then does k-means on the frozen features themselves."""
    dim: int = 70
    """Dimension of the code."""
    steps: int = 5000
    batch_size: int = 16
    """Items per step, each with a neighbor; the random term needs at least two."""
    weight_self: float = 0.67
    weight_knn: float = 0.25
    weight_rand: float = 0.63
    b_self: float = 0.18
    """Shift of the correspondence of an image with itself: correspondence above it attracts."""
    b_knn: float = 0.12
    b_rand: float = 0.46
    neighbors: int = 30
    """Entries of the nearest-neighbor table per item, itself included."""
    ranks: int = 7
    """A positive is drawn from the ranks 1 to this of the table."""
    negatives: int = 5
    """Random partners per image and step."""
    samples: int = 11
    """Side of the set of sampled points: 11 × 11 per image."""
    zero_clamp: bool = True
    """Clamp negative correspondence of codes to 0."""
    pointwise: bool = True
    """Center the correspondence of features for each point, keeping its overall mean."""
    dropout: float = 0.1
    """Probability of channel dropout before the head."""
    feature_dropout: bool = True
    """Compute correspondence from dropped-out features too, as the released code does."""
    neighbor_dropout: bool = False
    """Make the table of neighbors from dropped-out features, as the released code does."""
    lr: float = 5e-4
    lr_probe: float = 5e-3
    standardize: bool = False
    """Center and scale features per channel by the training set's moments (needs no label)."""
    checkpoint_every: int = 400
    """Steps between offered checkpoints; the released code keeps one every 400."""

    net: Net = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        net = self.net = self.make_net(features[0]["tokens"].shape[0])
        if self.standardize:
            net.standardizer.fit(features.moments("tokens"))
        net.to(ctx.device).train()

        def read(items: Tensor) -> Tensor:
            f: Tensor = net.standardizer(features.batch(items)["tokens"])
            return f

        table = None
        if self.projection != "none":  # without a head only the probe learns, and it needs no neighbors
            wanted: dict[str, Any] = {"count": self.neighbors, "standardize": self.standardize}
            if self.neighbor_dropout:
                wanted["dropout"] = self.dropout
            table = torch.from_numpy(ctx.derived("knn", knn_table, params=wanted)["neighbors"])

        weights = {
            "corr_self": self.weight_self,
            "corr_knn": self.weight_knn,
            "corr_rand": self.weight_rand,
            "probe": 1.0,
        }
        groups = [
            {"params": list(net.head.parameters()), "lr": self.lr},
            {"params": [net.centroids], "lr": self.lr_probe},
        ]
        optimizer = torch.optim.Adam(groups)  # the code's separate optimizers: Adam is elementwise
        draws = ctx.generator("positives, points and partners")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        for step in ctx.steps(self.steps, net=net, optimizer=optimizer, draws=draws, batches=batches):
            items = torch.as_tensor(next(batches))
            f_pos = None if table is None else read(positives(table, items, self.ranks, draws))
            terms = self.losses(read(items), f_pos, draws)
            optimizer.zero_grad(set_to_none=True)
            total = torch.stack([weights[name] * term for name, term in terms.items()])
            total.sum().backward()  # Eq. 5, and the probe's loss
            optimizer.step()
            if step == 1 or step % 50 == 0:
                ctx.report(step, **terms)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

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
        here, there = (random_points(len(f), self.samples, draws).to(f.device) for _ in range(2))
        return correspondence_terms(
            f,
            f_pos,
            code,
            code_pos,
            (here, there),
            draws,
            b_self=self.b_self,
            b_knn=self.b_knn,
            b_rand=self.b_rand,
            negatives=self.negatives,
            pointwise=self.pointwise,
            zero_clamp=self.zero_clamp,
        )

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["tokens"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net = self.make_net(len(state["standardizer.mean"]))
        self.net.load_state_dict(dict(state))
        self.net.to(state["centroids"].device).eval()

    def make_net(self, channels: int) -> Net:
        if self.projection == "none":
            return Net(channels, nn.Identity(), self.clusters, channels)
        head = Projector(channels, self.dim, activation="relu", dropout=self.dropout)
        return Net(channels, head, self.clusters, self.dim)


class Net(nn.Module):
    """What is learned: the segmentation head, and the centroids (K, d) of the cluster probe."""

    def __init__(self, channels: int, head: nn.Module, clusters: int, dim: int) -> None:
        super().__init__()
        self.standardizer = Standardizer(channels)
        self.head = head
        self.centroids = nn.Parameter(torch.randn(clusters, dim))

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.head(self.standardizer(features))
        return code
