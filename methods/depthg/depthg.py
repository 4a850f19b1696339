"""DepthG: STEGO with a depth map beside each training image (Sick et al., CVPR 2024).

Depth chooses the points at which images are compared (`sampling`), and pairs of points of one image get a
further term from it. Both fade out, and prediction reads the features alone. Everything else is STEGO, whose
loss stands in `uss_bench.nn.correspondence`. Defaults are the released code's behavior on COCO-Stuff with
ViT-S/8, bugs included; README.md lists the switches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.correspondence import correspondence_terms, cosines, random_points, sample
from uss_bench.nn.knn import knn_table, positives
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import cosine_logits, probe_loss
from uss_bench.nn.standardizer import Standardizer

from .sampling import farthest_points, unit_range

DEPTH = "aux:depth@nearest"


@dataclass(kw_only=True)
class DepthG:
    """A segmentation head trained by correspondences of features and of depth, and a probe on its code.

    Loss and prediction need `net`, which `train` and `load_state_dict` make.
    """

    clusters: int
    """K, the number of the probe's centroids."""
    dim: int = 70
    """Dimension of the code."""
    steps: int = 2334
    """Batches of training."""
    batch_size: int = 32
    """Items per step, each with a neighbor; the random term needs at least two."""
    weight_self: float = 0.58
    """Of the correspondence of an image with itself."""
    weight_knn: float = 0.36
    """Of that with a nearest neighbor."""
    weight_rand: float = 0.70
    """Of that with random other images."""
    weight_depth: float = 0.19
    """Of the depth term, before it fades."""
    b_self: float = 0.07
    """Shift of the correspondence of an image with itself: correspondence above it attracts."""
    b_knn: float = 0.025
    """The same shift for nearest neighbors."""
    b_rand: float = 0.761
    """The same shift for random other images."""
    b_depth: float = 0.03
    """Shift of the depth term, before it fades."""
    depth_decay: float = 0.6
    """Factor on weight and shift of the depth term, every so many steps."""
    depth_decay_every: int = 250
    """Steps between decays of the depth term."""
    depth_normalized: bool = True
    """Divide each depth by its own length, as the released code does: what is left is 1, or 0 at depth 0."""
    depth_at_points: bool = False
    """Read depth at the sampled points; else on a grid of as many, wherever the points lie."""
    depth_max: float | None = None
    """The depth that counts as 1; None: every item from its own least depth, 0, to its own largest, 1."""
    sampling: Literal["fps", "random"] = "fps"
    """Points far from each other in space (farthest-point sampling), or uniform ones as in STEGO."""
    fps_xy: Literal["legacy", "correct"] = "legacy"
    """The released code reads rows as x and columns as y, and misses the patches' centers."""
    samples: int = 11
    """Side of the set of sampled points: 11 × 11 per image."""
    samples_decay: float = 0.9
    """Factor on `samples`, rounded down, every so many steps."""
    samples_decay_every: int = 1000
    """Steps between decays of `samples`."""
    decay_at_start: bool = True
    """Let `samples` decay after the first step too, as the released code does."""
    neighbors: int = 30
    """Entries of the nearest-neighbor table per item, itself included."""
    ranks: int = 7
    """A positive is drawn from the ranks 1 to this of the table."""
    negatives: int = 5
    """Random partners per image and step."""
    zero_clamp: bool = True
    """Clamp negative correspondence of codes to 0."""
    pointwise: bool = True
    """Center the correspondence of features for each point, keeping its overall mean."""
    dropout: float = 0.1
    """Probability of channel dropout before the head, and of the features that are compared."""
    lr: float = 5e-4
    """Learning rate of the head."""
    lr_probe: float = 5e-3
    """Learning rate of the probe's centroids."""
    standardize: bool = False
    """Center and scale features per channel by the training set's moments (needs no label)."""
    checkpoint_every: int = 400
    """Steps between offered checkpoints."""

    net: Net = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens", DEPTH])
        net = self.net = Net(features[0]["tokens"].shape[0], self)
        if self.standardize:
            net.standardizer.fit(features.moments("tokens"))
        net.to(ctx.device).train()
        wanted = {"count": self.neighbors, "standardize": self.standardize}
        table = torch.from_numpy(ctx.derived("knn", knn_table, params=wanted)["neighbors"])
        groups = [
            {"params": list(net.head.parameters()), "lr": self.lr},
            {"params": [net.centroids], "lr": self.lr_probe},
        ]
        optimizer = torch.optim.Adam(groups)  # the code's separate optimizers: Adam is elementwise
        draws = ctx.generator("positives, points and partners")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))

        def read(items: Tensor) -> tuple[Tensor, Tensor]:
            batch = features.batch(items)
            return net.standardizer(batch["tokens"]), unit_range(batch[DEPTH], self.depth_max)

        for step in ctx.steps(self.steps, net=net, optimizer=optimizer, draws=draws, batches=batches):
            items = torch.as_tensor(next(batches))
            near = read(positives(table, items, self.ranks, draws))
            weight, b_depth, samples = self.schedule(step)
            terms = self.losses(*read(items), *near, draws, samples, b_depth)
            weights = {
                "corr_self": self.weight_self,
                "corr_knn": self.weight_knn,
                "corr_rand": self.weight_rand,
                "depth": weight,
                "probe": 1.0,
            }
            optimizer.zero_grad(set_to_none=True)
            torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
            optimizer.step()
            if step == 1 or step % 50 == 0:
                ctx.report(step, **terms)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

    def schedule(self, step: int) -> tuple[float, float, int]:
        """Return weight and shift of the depth term, and the side of the set of points, at a step from 1.

        The released code decays after a step, counts steps from 0, and lets only `samples` decay after step
        0, which is a bug that its authors keep for the sake of their results.
        """
        faded = self.depth_decay ** (max(0, step - 2) // self.depth_decay_every)
        samples = self.samples
        times = max(0, step - 2) // self.samples_decay_every
        for _ in range(times + (self.decay_at_start and step > 1)):
            samples = max(1, int(samples * self.samples_decay))
        return self.weight_depth * faded, self.b_depth * faded, samples

    def losses(
        self,
        f: Tensor,
        depth: Tensor,
        f_pos: Tensor,
        depth_pos: Tensor,
        draws: torch.Generator,
        samples: int,
        b_depth: float,
    ) -> dict[str, Tensor]:
        """Return the probe's loss, the three correspondence terms and the depth term, unweighted.

        The probe's loss has a gradient to the centroids only, the others to the head only.

        Args:
            f, f_pos: features of a batch and of its nearest neighbors, (B, D, h, w).
            depth, depth_pos: their depth in [0, 1], (B, 1, H, W).
            draws: where random points and partners come from.
            samples: side of the set of points.
        """
        code, code_pos = self.net.head(f), self.net.head(f_pos)
        grid = (f.shape[2], f.shape[3])
        here, there = (self.points(z, grid, samples, draws) for z in (depth, depth_pos))
        seen, seen_pos = (F.dropout2d(one, self.dropout, training=self.net.training) for one in (f, f_pos))
        terms = correspondence_terms(
            seen,
            seen_pos,
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
        terms["depth"] = self.depth_term(code, depth, here, b_depth)
        return {"probe": probe_loss(code.detach(), self.net.centroids), **terms}

    def points(self, depth: Tensor, grid: tuple[int, int], samples: int, draws: torch.Generator) -> Tensor:
        """Return points (x, y) in [−1, 1]² for each image, (B, S, S, 2), on the device of `depth`."""
        if self.sampling == "random":
            return random_points(len(depth), samples, draws).to(depth.device)
        return farthest_points(F.adaptive_avg_pool2d(depth, grid), samples, self.fps_xy)

    def depth_term(self, code: Tensor, depth: Tensor, points: Tensor, b: float) -> Tensor:
        """Return −mean over pairs of points of one image of (D − b) · max(S, 0), where D is d_p · d_q.

        As released, d is normalized over its single channel: D is 1 where both depths are above 0, and the
        term pulls all codes of an image together.

        Args:
            code: (B, d, h, w).
            depth: in [0, 1], (B, 1, H, W).
            points: (B, S, S, 2), where the code is sampled.
        """
        if self.depth_at_points:
            d = sample(F.adaptive_avg_pool2d(depth, (code.shape[2], code.shape[3])), points)
        else:
            grid = F.interpolate(depth, points.shape[1:3], mode="bilinear", align_corners=True)
            d = grid.transpose(2, 3).flatten(2)  # the code's points come in columns, its depth in rows
        if self.depth_normalized:
            d = F.normalize(d, dim=1, eps=1e-10)
        here = sample(code, points)
        agreement = cosines(here, here)
        if self.zero_clamp:
            agreement = agreement.clamp(min=0)
        return -((d.transpose(1, 2) @ d - b) * agreement).mean()

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["tokens"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net = Net(len(state["standardizer.mean"]), self)
        self.net.load_state_dict(dict(state))
        self.net.to(state["centroids"].device).eval()


class Net(nn.Module):
    """What is learned: the segmentation head, and the centroids (K, d) of the cluster probe."""

    def __init__(self, channels: int, method: DepthG) -> None:
        super().__init__()
        self.standardizer = Standardizer(channels)
        self.head = Projector(channels, method.dim, activation="relu", dropout=method.dropout)
        self.centroids = nn.Parameter(torch.randn(method.clusters, method.dim))

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.head(self.standardizer(features))
        return code
