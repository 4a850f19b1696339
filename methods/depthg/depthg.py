"""DepthG: STEGO with a depth map beside each training image (Sick et al., CVPR 2024).

Depth chooses the points at which images are compared (`sampling`), and pairs of points of one image get a
further term from it. Both fade out, and prediction reads the features alone. Everything else is STEGO, whose
loss stands in `uss_bench.nn.correspondence`. Defaults are the released code's behavior on COCO-Stuff with
ViT-S/8, bugs included; README.md lists the switches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Batch
from uss_bench.nn.correspondence import cosines, random_points, sample
from uss_bench.nn.distilled import Distilled
from uss_bench.nn.probed import ProbedNet
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import probe_loss

from .sampling import farthest_points, unit_range

DEPTH = "aux:depth@nearest"


@dataclass(kw_only=True)
class DepthG(Distilled):
    """A segmentation head trained by correspondences of features and of depth, and a probe on its code."""

    steps: int = 2334
    batch_size: int = 32
    weight_self: float = 0.58
    weight_knn: float = 0.36
    weight_rand: float = 0.70
    weight_depth: float = 0.19
    """Of the depth term, before it fades."""
    b_self: float = 0.07
    b_knn: float = 0.025
    b_rand: float = 0.761
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
    samples_decay: float = 0.9
    """Factor on `samples`, rounded down, every so many steps."""
    samples_decay_every: int = 1000
    """Steps between decays of `samples`."""
    decay_at_start: bool = True
    """Let `samples` decay after the first step too, as the released code does."""
    dropout: float = 0.1
    """Probability of channel dropout before the head, and of the features that are compared."""

    facets: ClassVar[Sequence[str]] = ("tokens", DEPTH)

    def make_net(self, channels: int) -> ProbedNet:
        head = Projector(channels, self.dim, activation="relu", dropout=self.dropout)
        return ProbedNet(channels, head, self.clusters, self.dim)

    def weights(self, step: int) -> dict[str, float]:
        return {**super().weights(step), "depth": self.schedule(step)[0]}

    def terms(self, batch: Batch, near: Batch | None, draws: torch.Generator, step: int) -> dict[str, Tensor]:
        assert near is not None
        _, b_depth, samples = self.schedule(step)
        depth, depth_near = (unit_range(one[DEPTH], self.depth_max) for one in (batch, near))
        return self.losses(batch["tokens"], depth, near["tokens"], depth_near, draws, samples, b_depth)

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
        terms = self.distill(seen, seen_pos, code, code_pos, draws, (here, there))
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
