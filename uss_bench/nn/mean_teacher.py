"""The training that SmooSeg and DS²DL share: a projector, and prototypes that teach their own students."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.ema import ema_update
from uss_bench.nn.pairing import near_derangement
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import cosine_logits, unit_prototypes
from uss_bench.nn.standardizer import Standardizer


class MeanTeacherNet(nn.Module):
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
        """P_t ← α P_t + (1 − α) P_s, un-normalized, as in SmooSeg's code."""
        ema_update(self.teacher, self.student, momentum)


@dataclass(kw_only=True)
class MeanTeacher(ABC):
    """A method whose loss pairs images, and which predicts by its teacher. Defaults are SmooSeg's.

    It says what a batch loses (`losses`); a term `x` of the loss has the parameter `weight_x`. Loss and
    prediction need `net`, which `train` and `load_state_dict` make.
    """

    clusters: int
    """K, the number of prototypes."""
    dim: int = 64
    """Dimension d of the embedding."""
    steps: int = 3000
    batch_size: int = 32
    """Items per step; pairs across images need at least two."""
    momentum: float = 0.998
    """α, by which the teacher's prototypes follow the student's."""
    dropout: float = 0.2
    """Probability of channel dropout before the projector."""
    lr_projector: float = 1e-4
    lr_prototypes: float = 5e-4
    standardize: bool = False
    """Center and scale features per channel by the training set's moments (needs no label)."""
    ema_first: bool = True
    """Update the teacher before the optimizer's step, as SmooSeg's code, or after it, as its Algorithm 1."""
    checkpoint_every: int = 400
    """Steps between offered checkpoints; SmooSeg's code keeps one every 400."""

    net: MeanTeacherNet = field(init=False, repr=False)

    @abstractmethod
    def losses(self, f: Tensor, partner: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss whose weight is not 0, unweighted, by name.

        Args:
            f: features (B, D, h, w).
            partner: the other image of each image, int64 (B,).
        """

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        net = self.net = self.make_net(features[0]["tokens"].shape[0])
        if self.standardize:
            net.standardizer.fit(features.moments("tokens"))
        net.to(ctx.device).train()

        optimizer = self.make_optimizer()
        pairs = ctx.generator("pairs")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        for step in ctx.steps(self.steps, net=net, optimizer=optimizer, pairs=pairs, batches=batches):
            f = net.standardizer(features.batch(next(batches))["tokens"])
            partner = near_derangement(len(f), pairs).to(f.device)
            if step == 1:
                self.begin(f, partner)
            terms = self.losses(f, partner)
            total = torch.stack([getattr(self, f"weight_{name}") * term for name, term in terms.items()])
            optimizer.zero_grad(set_to_none=True)
            total.sum().backward()
            if self.ema_first:
                net.update_teacher(self.momentum)
            optimizer.step()
            if not self.ema_first:
                net.update_teacher(self.momentum)
            if step == 1 or step % 50 == 0:
                ctx.report(step, **terms, **self.values())
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

    def begin(self, f: Tensor, partner: Tensor) -> None:  # noqa: B027
        """Set what starts from the first batch; arguments are those of `losses`."""

    def make_net(self, channels: int) -> MeanTeacherNet:
        """Return a new network for features of so many channels."""
        return MeanTeacherNet(channels, self.clusters, self.dim, self.dropout)

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.groups())

    def groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups of parameters."""
        return [
            {"params": list(self.net.projector.parameters()), "lr": self.lr_projector},
            {"params": [self.net.student], "lr": self.lr_prototypes},
        ]

    def values(self) -> Mapping[str, Tensor]:
        """Return what is reported beside the terms."""
        return {}

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["tokens"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net.teacher)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net = self.make_net(len(state["standardizer.mean"]))
        self.net.load_state_dict(dict(state))
        self.net.to(state["teacher"].device).eval()
