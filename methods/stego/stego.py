"""STEGO: unsupervised segmentation by distilling feature correspondences (Hamilton et al., ICLR 2022).

The file reads like the paper's Section 3, with the behaviour of the released code where the text
says less: sampling, centring and clamping (its Eq. 4 and "Balancing"), five negatives per image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Features, Images
from uss_bench.nn import Projector, ShuffledBatches, Standardizer, cosine_logits, near_derangement


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
    """Items per step, each with a neighbour; the random term needs at least two."""
    weight_self: float = 0.67
    weight_knn: float = 0.25
    weight_rand: float = 0.63
    b_self: float = 0.18
    """Shift of the correspondence of an image with itself: correspondence above it attracts."""
    b_knn: float = 0.12
    b_rand: float = 0.46
    neighbours: int = 30
    """Entries of the nearest-neighbour table per item, itself included."""
    ranks: int = 7
    """A positive is drawn from the ranks 1 to this of the table."""
    negatives: int = 5
    """Random partners per image and step."""
    samples: int = 11
    """Side of the set of sampled points: 11 × 11 per image."""
    zero_clamp: bool = True
    """Clamp negative correspondence of codes to 0."""
    pointwise: bool = True
    """Centre the correspondence of features for each point, keeping its overall mean."""
    dropout: float = 0.1
    """Probability of channel dropout before the head."""
    feature_dropout: bool = True
    """Compute correspondence from dropped-out features too, as the released code does."""
    lr: float = 5e-4
    lr_probe: float = 5e-3
    standardize: bool = False
    """Centre and scale features per channel by the training set's moments (needs no label)."""
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
        if self.projection != "none":  # without a head only the probe learns, and it needs no neighbours
            name = f"knn@{self.neighbours}" + ("-standardized" if self.standardize else "")
            kept = ctx.derived(name, lambda source: knn_table(source, self.neighbours, net.standardizer, ctx))
            table = torch.from_numpy(kept["neighbours"])

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
        optimizer = torch.optim.Adam(groups)  # the code's separate optimisers: Adam is elementwise
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
        """Return the probe's loss and, where there are neighbours, the three correspondence terms.

        The probe's loss has a gradient to the centroids only, the others to the head only.

        Args:
            f, f_pos: features of a batch and of its nearest neighbours, (B, D, h, w).
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
        """Return the self, kNN and random terms, unweighted; `code` (B, d, h, w) belongs to `f`.

        An image's own points serve all three terms; its neighbour and partners share other points.
        """
        dropped = self.net.training and self.feature_dropout
        f, f_pos = (F.dropout2d(value, self.dropout, training=dropped) for value in (f, f_pos))
        here, there = (random_points(len(f), self.samples, draws).to(f.device) for _ in range(2))
        f_here, code_here = sample(f, here), sample(code, here)

        def term(g: Tensor, other: Tensor, b: float) -> Tensor:
            return distillation(f_here, g, code_here, other, b, self.pointwise, self.zero_clamp)

        rand = []
        for _ in range(self.negatives):
            partner = near_derangement(len(f), draws).to(f.device)
            rand.append(term(sample(f[partner], there), sample(code[partner], there), self.b_rand))
        return {
            "corr_self": term(f_here, code_here, self.b_self),
            "corr_knn": term(sample(f_pos, there), sample(code_pos, there), self.b_knn),
            "corr_rand": torch.stack(rand).mean(),
        }

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


def distillation(
    f: Tensor, g: Tensor, code: Tensor, other: Tensor, b: float, pointwise: bool, zero_clamp: bool
) -> Tensor:
    """Return −mean over images and pairs of points of (F − b) · max(S, 0): L_corr, Eq. 4.

    F (Eq. 1) and S are the cosines of features and of codes. With `pointwise`, F becomes F minus its
    mean over the second image's points (Eq. 3), shifted so that the mean over the whole batch stays as
    it was, which is the released code's. Without `pointwise` and `zero_clamp` this is Eq. 2.

    Args:
        f, g: features at the points of the two images, (B, D, P); no gradient goes to them.
        code, other: codes at the same points, (B, d, P).
    """
    with torch.no_grad():
        closeness = cosines(f, g)
        if pointwise:
            overall = closeness.mean()
            closeness = closeness - closeness.mean(dim=2, keepdim=True)
            closeness = closeness - closeness.mean() + overall
    agreement = cosines(code, other)
    return -((closeness - b) * (agreement.clamp(min=0) if zero_clamp else agreement)).mean()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return (B, P, Q): the cosine of every point of (B, D, P) with every point of (B, D, Q)."""
    return F.normalize(a, dim=1, eps=1e-10).transpose(1, 2) @ F.normalize(b, dim=1, eps=1e-10)


def random_points(images: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw side × side uniform points (x, y) in [−1, 1]² for each image: (B, side, side, 2)."""
    return 2 * torch.rand(images, side, side, 2, generator=generator) - 1


def sample(values: Tensor, points: Tensor) -> Tensor:
    """Interpolate (B, D, h, w) bilinearly at points (B, S, S, 2), where ±1 are the outer patches' centres."""
    points = points.to(values.dtype)
    return F.grid_sample(values, points, padding_mode="border", align_corners=True).flatten(2)


def probe_loss(code: Tensor, centroids: Tensor) -> Tensor:
    """Return −mean over patches of the cosine with the nearest centroid: k-means by gradient."""
    return -cosine_logits(code, centroids).amax(dim=1).mean()


def positives(table: Tensor, items: Tensor, ranks: int, generator: torch.Generator) -> Tensor:
    """Draw one of the ranks 1 to `ranks` for each of some items; fewer where the table is narrower."""
    last = min(ranks, table.shape[1] - 1)
    rank = torch.randint(min(1, last), last + 1, (len(items),), generator=generator)
    return table[items, rank]


def knn_table(
    features: Features, count: int, transform: Callable[[Tensor], Tensor], ctx: Context, chunk: int = 32
) -> dict[str, np.ndarray]:
    """Return the `count` nearest items of each, by the cosine of mean features: int64 (N, count).

    An item is its own rank 0 even where another is identical. Where there are fewer items than
    `count`, the table is as wide as there are items.
    """
    rows = torch.arange(len(features)).split(chunk)
    means = [
        transform(features.batch(row)["tokens"]).mean((2, 3))
        for row in ctx.progress(rows, total=len(rows), label="pooled features")
    ]
    pooled = F.normalize(torch.cat(means), dim=1)
    table = []
    for row in ctx.progress(rows, total=len(rows), label="nearest neighbours"):
        similarity = pooled[row.to(pooled.device)] @ pooled.T
        similarity[torch.arange(len(row)), row] = torch.inf
        table.append(similarity.topk(min(count, len(pooled)), dim=1).indices.cpu().numpy())
    return {"neighbours": np.concatenate(table)}
