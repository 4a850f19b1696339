"""EQUSS: expand the code, quantize it in parts, cluster what is left (Expand-and-Quantize, AAAI 2024).

A head as STEGO's, but of 1,024 channels, learns by STEGO's correspondence loss, which stands in
`uss_bench.nn.correspondence`. Product quantization (`quantizer`) turns the code into entries of small
codebooks; the probe clusters those. Defaults are the released code's behavior; README.md lists the switches.
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
from uss_bench.nn.correspondence import correspondence_terms, random_points
from uss_bench.nn.knn import knn_table, positives
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import cosine_logits, probe_loss
from uss_bench.nn.standardizer import Standardizer

from .quantizer import ProductQuantizer


@dataclass(kw_only=True)
class Equss:
    """An expanding head, codebooks for the parts of its code, and a probe on the quantized code.

    Loss and prediction need `net`, which `train` and `load_state_dict` make.
    """

    clusters: int
    """K, the number of the probe's centroids."""
    dim: int = 1024
    """Channels of the expanded code; a multiple of `parts`."""
    parts: int = 32
    """Parts into which the code is divided, each with a codebook of its own."""
    entries: int = 256
    """Vectors of each codebook."""
    steps: int = 91596
    """Batches of training."""
    batch_size: int = 16
    """Items per step, each with a neighbor; the random term needs at least two."""
    weight_self: float = 0.47
    """Of the correspondence of an image with itself."""
    weight_knn: float = 0.45
    """Of that with a nearest neighbor."""
    weight_rand: float = 0.53
    """Of that with random other images."""
    weight_quantization: float = 1.0
    """Of codebook and commitment loss together."""
    commitment: float = 0.25
    """Weight of the commitment loss within the quantization loss."""
    b_self: float = 0.18
    """Shift of the correspondence of an image with itself: correspondence above it attracts."""
    b_knn: float = 0.02
    """The same shift for nearest neighbors."""
    b_rand: float = 0.23
    """The same shift for random other images."""
    correspond: Literal["code", "quantized"] = "code"
    """What the correspondence loss compares: the code, as released, or the quantized code, through which the
    gradient goes straight."""
    output: Literal["quantized", "code"] = "quantized"
    """What the probe clusters."""
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
    """Probability of channel dropout, once for the head and for the features that are compared."""
    lr: float = 3e-4
    """Learning rate of head and codebooks."""
    lr_probe: float = 3e-3
    """Learning rate of the probe's centroids."""
    clip: float = 10.0
    """Largest norm of the gradient of head and codebooks together."""
    standardize: bool = False
    """Center and scale features per channel by the training set's moments (needs no label)."""
    checkpoint_every: int = 1500
    """Steps between offered checkpoints."""

    net: Net = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        net = self.net = Net(features[0]["tokens"].shape[0], self)
        if self.standardize:
            net.standardizer.fit(features.moments("tokens"))
        net.to(ctx.device).train()
        wanted = {"count": self.neighbors, "standardize": self.standardize}
        table = torch.from_numpy(ctx.derived("knn", knn_table, params=wanted)["neighbors"])
        model = [*net.head.parameters(), *net.quantizer.parameters()]
        groups = [{"params": model, "lr": self.lr}, {"params": [net.centroids], "lr": self.lr_probe}]
        optimizer = torch.optim.Adam(groups)
        draws = ctx.generator("positives, points and partners")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        weights = {
            "corr_self": self.weight_self,
            "corr_knn": self.weight_knn,
            "corr_rand": self.weight_rand,
            "codebook": self.weight_quantization,
            "commitment": self.weight_quantization * self.commitment,
            "probe": 1.0,
        }
        # Which entries were chosen since the last report: the rest are dead codes.
        used = torch.zeros(self.parts, self.entries, dtype=torch.bool, device=ctx.device)

        def read(items: Tensor) -> Tensor:
            f: Tensor = net.standardizer(features.batch(items)["tokens"])
            return f

        for step in ctx.steps(
            self.steps, net=net, optimizer=optimizer, draws=draws, batches=batches, used=used
        ):
            items = torch.as_tensor(next(batches))
            f_pos = read(positives(table, items, self.ranks, draws))
            terms, seen = self.losses(read(items), f_pos, draws)
            optimizer.zero_grad(set_to_none=True)
            torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
            nn.utils.clip_grad_norm_(model, self.clip)
            optimizer.step()
            used |= seen
            if step == 1 or step % 50 == 0:
                ctx.report(step, **terms, dead_codes=(~used).sum())
                used.zero_()
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

    def losses(self, f: Tensor, f_pos: Tensor, draws: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms, unweighted, and the entries that were chosen, bool (parts, entries).

        The probe's loss has a gradient to the centroids only, the codebook loss to the codebooks only, the
        others to the head only.

        Args:
            f, f_pos: features of a batch and of its nearest neighbors, (B, D, h, w).
            draws: where points and random partners come from.
        """
        net = self.net
        # One mask serves both paths of the head and the correspondence, where STEGO draws three.
        f, f_pos = (F.dropout2d(one, self.dropout, training=net.training) for one in (f, f_pos))
        code, code_pos = net.head(f), net.head(f_pos)
        quantized, codebook, commitment, used = net.quantizer(code)
        points = tuple(random_points(len(f), self.samples, draws).to(f.device) for _ in range(2))
        compared = (code, code_pos)
        if self.correspond == "quantized":
            compared = (quantized, net.quantizer(code_pos)[0])
        terms = correspondence_terms(
            f,
            f_pos,
            *compared,
            (points[0], points[1]),
            draws,
            b_self=self.b_self,
            b_knn=self.b_knn,
            b_rand=self.b_rand,
            negatives=self.negatives,
            pointwise=self.pointwise,
            zero_clamp=self.zero_clamp,
        )
        out = quantized if self.output == "quantized" else code
        probe = probe_loss(out.detach(), net.centroids)
        return {"probe": probe, **terms, "codebook": codebook, "commitment": commitment}, used

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["tokens"])
        return self.net.quantizer.quantize(code) if self.output == "quantized" else code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net = Net(len(state["standardizer.mean"]), self)
        self.net.load_state_dict(dict(state))
        self.net.to(state["centroids"].device).eval()


class Net(nn.Module):
    """What is learned: the head, the codebooks, and the centroids (K, d) of the cluster probe."""

    def __init__(self, channels: int, method: Equss) -> None:
        super().__init__()
        self.standardizer = Standardizer(channels)
        self.head = Projector(channels, method.dim, activation="relu", dropout=0.0)
        self.quantizer = ProductQuantizer(method.dim, method.parts, method.entries)
        self.centroids = nn.Parameter(torch.randn(method.clusters, method.dim))

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.head(self.standardizer(features))
        return code
