"""ReIB: STEGO whose soft clusters must be able to rebuild the features (Reversible Information Bottleneck).

Beside STEGO's correspondence loss, which stands in `uss_bench.nn.correspondence`, a second set of centroids
turns the code into soft clusters, and a small network (`reconstruction`) rebuilds the frozen features from
them. The head starts from another run, `base`. The published constants were tuned on validation labels: the
spec says so. The defaults here need no label; see README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, TrainedRun
from uss_bench.errors import UsageError
from uss_bench.nn.distilled import Distilled
from uss_bench.nn.probed import ProbedNet
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import cosine_logits, probe_loss

from .reconstruction import Comparison, Reconstruction, compare


@dataclass(kw_only=True)
class Reib(Distilled):
    """A segmentation head, soft clusters that rebuild features, and a cosine k-means probe on the code."""

    clusters: int
    """K, the number of centroids of the probe, and of soft clusters."""
    base: TrainedRun | None = None
    """The run that head and probe start from, such as STEGO's; None: from random weights."""
    dim: int = 70
    """Dimension of the code; that of the base."""
    weight_correspondence: float = 1.0
    """Of the three terms together."""
    weight_reconstruction: float = 1.0
    """Of the reconstruction's loss."""
    reconstruction: Literal["shallow", "deep"] = "shallow"
    """The network that rebuilds: two convolutions, or three with a residual."""
    comparison: Comparison = "cosine"
    """How rebuilt features are compared with the frozen ones."""
    alpha: float = 1.0
    """Sharpness of the soft clusters: softmax(α · cosine)."""
    hidden: int = 128
    """Channels of the network that rebuilds."""
    dropout: float = 0.1
    """Probability of channel dropout before the head, and of the features that are compared and rebuilt."""
    lr_soft: float = 5e-3
    """Learning rate of the soft clusters' centroids."""
    lr_reconstruction: float = 5e-3
    """Learning rate of the network that rebuilds."""

    net: Net = field(init=False, repr=False)

    def make_net(self, channels: int) -> Net:
        return Net(channels, self)

    def begin(self, ctx: Context) -> None:
        if self.base is not None:
            self.warm_start(self.base, ctx)

    def groups(self) -> list[dict[str, Any]]:
        return [
            *super().groups(),
            {"params": [self.net.soft], "lr": self.lr_soft},
            {"params": list(self.net.reconstruction.parameters()), "lr": self.lr_reconstruction},
        ]

    def weights(self, step: int) -> dict[str, float]:
        return {
            **{name: self.weight_correspondence * one for name, one in super().weights(step).items()},
            "reconstruction": self.weight_reconstruction,
            "probe": 1.0,
        }

    def terms(self, batch: Batch, near: Batch | None, draws: torch.Generator, step: int) -> dict[str, Tensor]:
        assert near is not None
        return self.losses(batch["tokens"], near["tokens"], draws)

    def warm_start(self, base: TrainedRun, ctx: Context) -> None:
        """Take head and standardizer of a run, and as many centroids as there are; the rest stays new.

        Raises:
            UsageError: when its head is another.
        """
        state = base.load(ctx.device).state_dict()
        own = self.net.state_dict()
        fits = {name for name in own if name in state and state[name].shape == own[name].shape}
        needed = {name for name in own if name.startswith(("head.", "standardizer."))}
        if missing := sorted(needed - fits):
            raise UsageError(
                f"The base, a run of '{base.method}', has no head that reib could start from ({missing[0]}).",
                hint=f"A run of stego fits, with dim={self.dim}.",
            )
        taken = fits & (needed | {"centroids"})
        self.net.load_state_dict({**own, **{name: state[name] for name in taken}})

    def losses(self, f: Tensor, f_pos: Tensor, draws: torch.Generator) -> dict[str, Tensor]:
        """Return the probe's loss, the three correspondence terms and the reconstruction's, unweighted.

        The probe's loss has a gradient to its centroids only, the correspondence terms to the head only, the
        reconstruction's to the head, the soft clusters and the network that rebuilds.

        Args:
            f, f_pos: features of a batch and of its nearest neighbors, (B, D, h, w).
            draws: where points and random partners come from.
        """
        net = self.net
        code, code_pos = net.head(f), net.head(f_pos)
        seen, seen_pos = (F.dropout2d(one, self.dropout, training=net.training) for one in (f, f_pos))
        terms = self.distill(seen, seen_pos, code, code_pos, draws)
        soft = (self.alpha * cosine_logits(code, net.soft)).softmax(dim=1)
        terms["reconstruction"] = compare(net.reconstruction(soft), seen, self.comparison)
        return {"probe": probe_loss(code.detach(), net.centroids), **terms}


class Net(ProbedNet):
    """What is learned: the head, the probe's centroids (K, d), soft clusters (K, d), and what rebuilds."""

    def __init__(self, channels: int, method: Reib) -> None:
        head = Projector(channels, method.dim, activation="relu", dropout=method.dropout)
        super().__init__(channels, head, method.clusters, method.dim)
        self.soft = nn.Parameter(torch.randn(method.clusters, method.dim))
        deep = method.reconstruction == "deep"
        self.reconstruction = Reconstruction(method.clusters, channels, method.hidden, deep=deep)
