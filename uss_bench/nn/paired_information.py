"""The loop of IIC's segmentation form: two heads in turns, each on pairs of views of all images.

`iic` runs it with a network of its own on images, `iic_proj` with a projector on frozen features.
"""

# No `from __future__ import annotations`: what a parameter may be is read where a subclass is defined, which
# does not know the names of this module.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Features, Images, Kept
from uss_bench.nn.epochs import EpochBatches
from uss_bench.nn.mutual_information import Displacements, information_loss

HEADS = ("over", "own")
"""In the order of their passes: the over-clustering head, which only trains, and the one that predicts."""

Pair = tuple[Tensor, Tensor, Tensor | None]
"""Class probabilities (B, K, h, w) of two views, the second laid over the first, and where both show
something, (B, 1, h, w)."""


@dataclass(kw_only=True)
class PairedInformation:
    """What `iic` and `iic_proj` share: parameters of the loss, the loop, and the state."""

    clusters: int
    over_clusters: int = 24
    """Classes of the over-clustering head."""
    epochs: int = 4800
    """Each is a pass over all items with the over-clustering head, and then one with the other."""
    batch_size: int = 60
    half_window: int = 10
    """Largest displacement along either axis, in positions of the maps that are compared."""
    displacements: Displacements = "each"
    """Mutual information of each displacement, as in the released commands, or of their sum."""
    entropy_weight: float = 1.0
    """λ of the head that predicts."""
    entropy_weight_over: float = 1.0
    """λ of the over-clustering head."""
    lr: float = 1e-4
    checkpoint_every: int = 100
    """Epochs between offered checkpoints."""

    net: nn.Module = field(init=False, repr=False)

    @property
    def inputs(self) -> Sequence[str]:
        raise NotImplementedError

    @property
    def training_inputs(self) -> Sequence[str]:
        """What training reads; `inputs` is what prediction reads."""
        return self.inputs

    def begin(self, features: Features) -> nn.Module:
        """Return the network as training begins."""
        raise NotImplementedError

    def pairs(self, ctx: Context) -> Callable[[str, int, Sequence[int], Batch], Pair]:
        """Return what makes pairs: of a head, in a numbered pass, of some items and their inputs."""
        raise NotImplementedError

    def restored(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Return a network of the shapes of a state."""
        raise NotImplementedError

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(self.training_inputs)
        net = self.net = self.begin(features).to(ctx.device)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        weights = {"over": self.entropy_weight_over, "own": self.entropy_weight}
        pair = self.pairs(ctx)
        for epoch in ctx.steps(self.epochs, label="epochs", net=net, optimizer=optimizer):
            net.train()
            for number, head in enumerate(HEADS):
                pass_ = 2 * (epoch - 1) + number
                batches = EpochBatches(len(features), self.batch_size, ctx.generator("order", pass_))
                reader = features.batches(batches)
                kept: dict[str, Kept] = {"net": net, "optimizer": optimizer, "batches": batches}
                for step in ctx.steps(len(batches), label=f"{head} head", **kept):
                    items, batch = next(reader)
                    first, second, seen = pair(head, pass_, items, batch)
                    loss = information_loss(
                        first,
                        second,
                        half_window=self.half_window,
                        entropy_weight=weights[head],
                        displacements=self.displacements,
                        seen=seen,
                    )
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    ctx.report(pass_ * len(batches) + step, **{f"loss_{head}": loss})
            net.eval()
            if epoch % self.checkpoint_every == 0:
                ctx.checkpoint(epoch)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net = self.restored(state)
        self.net.load_state_dict(state)
        self.net.to(next(iter(state.values())).device).eval()
