"""ReIB: STEGO whose soft clusters must be able to rebuild the features (Reversible Information Bottleneck).

Beside STEGO's correspondence loss, which stands in `uss_bench.nn.correspondence`, a second set of centroids
turns the code into soft clusters, and a small network (`reconstruction`) rebuilds the frozen features from
them. The head starts from another run, `base`. The published constants were tuned on validation labels: the
spec says so. The defaults here need no label; see README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images, TrainedRun
from uss_bench.errors import UsageError
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.correspondence import correspondence_terms, random_points
from uss_bench.nn.knn import knn_table, positives
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import cosine_logits, probe_loss
from uss_bench.nn.standardizer import Standardizer

from .reconstruction import Comparison, Reconstruction, compare


@dataclass(kw_only=True)
class Reib:
    """A segmentation head, soft clusters that rebuild features, and a cosine k-means probe on the code.

    Loss and prediction need `net`, which `train` and `load_state_dict` make.
    """

    clusters: int
    """K, the number of centroids of the probe, and of soft clusters."""
    base: TrainedRun | None = None
    """The run that head and probe start from, such as STEGO's; None: from random weights."""
    dim: int = 70
    """Dimension of the code; that of the base."""
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
    weight_correspondence: float = 1.0
    """Of the three terms together."""
    weight_reconstruction: float = 1.0
    """Of the reconstruction's loss."""
    b_self: float = 0.18
    """Shift of the correspondence of an image with itself: correspondence above it attracts."""
    b_knn: float = 0.12
    """The same shift for nearest neighbors."""
    b_rand: float = 0.46
    """The same shift for random other images."""
    reconstruction: Literal["shallow", "deep"] = "shallow"
    """The network that rebuilds: two convolutions, or three with a residual."""
    comparison: Comparison = "cosine"
    """How rebuilt features are compared with the frozen ones."""
    alpha: float = 1.0
    """Sharpness of the soft clusters: softmax(α · cosine)."""
    hidden: int = 128
    """Channels of the network that rebuilds."""
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
    """Probability of channel dropout before the head, and of the features that are compared and rebuilt."""
    lr: float = 5e-4
    """Learning rate of the head."""
    lr_probe: float = 5e-3
    """Learning rate of the probe's centroids."""
    lr_soft: float = 5e-3
    """Learning rate of the soft clusters' centroids."""
    lr_reconstruction: float = 5e-3
    """Learning rate of the network that rebuilds."""
    standardize: bool = False
    """Center and scale features per channel by the training set's moments (needs no label)."""
    checkpoint_every: int = 400
    """Steps between offered checkpoints."""

    net: Net = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        net = self.net = Net(features[0]["tokens"].shape[0], self)
        if self.standardize:
            net.standardizer.fit(features.moments("tokens"))
        if self.base is not None:
            self.warm_start(self.base, ctx)
        net.to(ctx.device).train()
        wanted = {"count": self.neighbors, "standardize": self.standardize}
        table = torch.from_numpy(ctx.derived("knn", knn_table, params=wanted)["neighbors"])
        groups = [
            {"params": list(net.head.parameters()), "lr": self.lr},
            {"params": [net.centroids], "lr": self.lr_probe},
            {"params": [net.soft], "lr": self.lr_soft},
            {"params": list(net.reconstruction.parameters()), "lr": self.lr_reconstruction},
        ]
        optimizer = torch.optim.Adam(groups)  # the code's separate optimizers: Adam is elementwise
        draws = ctx.generator("positives, points and partners")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        weights = {
            "corr_self": self.weight_correspondence * self.weight_self,
            "corr_knn": self.weight_correspondence * self.weight_knn,
            "corr_rand": self.weight_correspondence * self.weight_rand,
            "reconstruction": self.weight_reconstruction,
            "probe": 1.0,
        }

        def read(items: Tensor) -> Tensor:
            f: Tensor = net.standardizer(features.batch(items)["tokens"])
            return f

        for step in ctx.steps(self.steps, net=net, optimizer=optimizer, draws=draws, batches=batches):
            items = torch.as_tensor(next(batches))
            f_pos = read(positives(table, items, self.ranks, draws))
            terms = self.losses(read(items), f_pos, draws)
            optimizer.zero_grad(set_to_none=True)
            torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
            optimizer.step()
            if step == 1 or step % 50 == 0:
                ctx.report(step, **terms)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

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
        here, there = (random_points(len(f), self.samples, draws).to(f.device) for _ in range(2))
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
        soft = (self.alpha * cosine_logits(code, net.soft)).softmax(dim=1)
        terms["reconstruction"] = compare(net.reconstruction(soft), seen, self.comparison)
        return {"probe": probe_loss(code.detach(), net.centroids), **terms}

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
    """What is learned: the head, the probe's centroids (K, d), soft clusters (K, d), and what rebuilds."""

    def __init__(self, channels: int, method: Reib) -> None:
        super().__init__()
        self.standardizer = Standardizer(channels)
        self.head = Projector(channels, method.dim, activation="relu", dropout=method.dropout)
        self.centroids = nn.Parameter(torch.randn(method.clusters, method.dim))
        self.soft = nn.Parameter(torch.randn(method.clusters, method.dim))
        deep = method.reconstruction == "deep"
        self.reconstruction = Reconstruction(method.clusters, channels, method.hidden, deep=deep)

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.head(self.standardizer(features))
        return code
