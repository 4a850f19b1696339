"""The training that STEGO, DepthG, EQUSS and ReIB share: correspondences with neighbors, and a probe."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images, Kept
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.correspondence import correspondence_terms, random_points
from uss_bench.nn.knn import knn_table, positives
from uss_bench.nn.probed import Probed, ProbedNet


@dataclass(kw_only=True)
class Distilled(Probed):
    """A method whose head learns by `correspondence_terms`. Defaults are STEGO's active constants.

    It says what its network is (`make_net`) and which terms a batch has (`terms`), and changes whatever else
    its released code does otherwise.
    """

    clusters: int
    """K, the number of the probe's centroids."""
    dim: int = 70
    """Dimension of the code."""
    steps: int = 5000
    """Batches of training."""
    batch_size: int = 16
    """Items per step, each with a neighbor; the random term needs at least two."""
    weight_self: float = 0.67
    """Of the correspondence of an image with itself."""
    weight_knn: float = 0.25
    """Of that with a nearest neighbor."""
    weight_rand: float = 0.63
    """Of that with random other images."""
    b_self: float = 0.18
    """Shift of the correspondence of an image with itself: correspondence above it attracts."""
    b_knn: float = 0.12
    """The same shift for nearest neighbors."""
    b_rand: float = 0.46
    """The same shift for random other images."""
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
    lr: float = 5e-4
    """Learning rate of the head."""
    lr_probe: float = 5e-3
    """Learning rate of the probe's centroids."""
    standardize: bool = False
    """Center and scale features per channel by the training set's moments (needs no label)."""
    checkpoint_every: int = 400
    """Steps between offered checkpoints."""

    net: ProbedNet = field(init=False, repr=False)
    facets: ClassVar[Sequence[str]] = ("tokens",)
    """What a batch holds; its tokens come standardized."""

    @abstractmethod
    def terms(self, batch: Batch, near: Batch | None, draws: torch.Generator, step: int) -> dict[str, Tensor]:
        """Return the terms of the loss, unweighted.

        Args:
            batch, near: `facets` of some items and of a near neighbor of each, where there is a table.
            draws: where points and partners come from.
            step: from 1.
        """

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(list(self.facets))
        net = self.net = self.make_net(features[0]["tokens"].shape[0])
        if self.standardize:
            net.standardizer.fit(features.moments("tokens"))
        self.begin(ctx)
        net.to(ctx.device).train()
        table = self.neighbor_table(ctx)
        optimizer = torch.optim.Adam(self.groups())  # the codes' separate optimizers: Adam is elementwise
        draws = ctx.generator("positives, points and partners")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))

        def read(items: Tensor) -> Batch:
            batch = features.batch(items)
            return {**batch, "tokens": net.standardizer(batch["tokens"])}

        kept: dict[str, Kept] = {"net": net, "optimizer": optimizer, "draws": draws, "batches": batches}
        for step in ctx.steps(self.steps, label="training", **kept, **self.kept()):
            items = torch.as_tensor(next(batches))
            near = None if table is None else read(positives(table, items, self.ranks, draws))
            terms, weights = self.terms(read(items), near, draws, step), self.weights(step)
            optimizer.zero_grad(set_to_none=True)
            torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
            for parameters, norm in self.clipped():
                nn.utils.clip_grad_norm_(parameters, norm)
            optimizer.step()
            if step == 1 or step % 50 == 0:
                ctx.report(step, **terms, **self.counts())
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

    def distill(
        self,
        f: Tensor,
        f_pos: Tensor,
        code: Tensor,
        code_pos: Tensor,
        draws: torch.Generator,
        points: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return `correspondence_terms` by the method's parameters, at random points where none are given."""
        if points is None:
            here, there = (random_points(len(f), self.samples, draws).to(f.device) for _ in range(2))
            points = (here, there)
        return correspondence_terms(
            f,
            f_pos,
            code,
            code_pos,
            points,
            draws,
            b_self=self.b_self,
            b_knn=self.b_knn,
            b_rand=self.b_rand,
            negatives=self.negatives,
            pointwise=self.pointwise,
            zero_clamp=self.zero_clamp,
        )

    def begin(self, ctx: Context) -> None:
        """Change the new network before it is trained; as it is, nothing is."""
        del ctx

    def neighbor_table(self, ctx: Context) -> Tensor | None:
        """Return the nearest items of each, int64 (N, neighbors), or None when no term needs them."""
        return self.nearest(ctx)

    def nearest(self, ctx: Context, **more: Any) -> Tensor:
        """Return `knn_table`, int64 (N, neighbors); `more` are parameters of it."""
        wanted = {"count": self.neighbors, "standardize": self.standardize, **more}
        return torch.from_numpy(ctx.derived("knn", knn_table, params=wanted)["neighbors"])

    def groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups of parameters."""
        return [
            {"params": list(self.net.head.parameters()), "lr": self.lr},
            {"params": [self.net.centroids], "lr": self.lr_probe},
        ]

    def weights(self, step: int) -> dict[str, float]:
        """Return the weight of each term at a step, counted from 1."""
        del step
        return {
            "corr_self": self.weight_self,
            "corr_knn": self.weight_knn,
            "corr_rand": self.weight_rand,
            "probe": 1.0,
        }

    def clipped(self) -> list[tuple[list[nn.Parameter], float]]:
        """Return parameters whose gradient is clipped together, with its largest norm."""
        return []

    def kept(self) -> Mapping[str, Kept]:
        """Return what `terms` changes besides, for a run that goes on after a kill."""
        return {}

    def counts(self) -> Mapping[str, Tensor]:
        """Return what is reported beside the terms."""
        return {}
