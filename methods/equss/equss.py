"""EQUSS: expand the code, quantize it in parts, cluster what is left (Expand-and-Quantize, AAAI 2024).

A head as STEGO's, but of 1,024 channels, learns by STEGO's correspondence loss, which stands in
`uss_bench.nn.correspondence`. Product quantization (`quantizer`) turns the code into entries of small
codebooks; the probe clusters those. Defaults are the released code's behavior; README.md lists the switches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Kept
from uss_bench.nn.distilled import Distilled
from uss_bench.nn.probed import ProbedNet
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import probe_loss

from .quantizer import ProductQuantizer


@dataclass(kw_only=True)
class Equss(Distilled):
    """An expanding head, codebooks for the parts of its code, and a probe on the quantized code."""

    dim: int = 1024
    """Channels of the expanded code; a multiple of `parts`."""
    parts: int = 32
    """Parts into which the code is divided, each with a codebook of its own."""
    entries: int = 256
    """Vectors of each codebook."""
    steps: int = 91596
    weight_self: float = 0.47
    weight_knn: float = 0.45
    weight_rand: float = 0.53
    weight_quantization: float = 1.0
    """Of codebook and commitment loss together."""
    commitment: float = 0.25
    """Weight of the commitment loss within the quantization loss."""
    b_knn: float = 0.02
    b_rand: float = 0.23
    correspond: Literal["code", "quantized"] = "code"
    """What the correspondence loss compares: the code, as released, or the quantized code, through which the
    gradient goes straight."""
    output: Literal["quantized", "code"] = "quantized"
    """What the probe clusters."""
    dropout: float = 0.1
    """Probability of channel dropout, once for the head and for the features that are compared."""
    lr: float = 3e-4
    """Learning rate of head and codebooks."""
    lr_probe: float = 3e-3
    clip: float = 10.0
    """Largest norm of the gradient of head and codebooks together."""
    checkpoint_every: int = 1500

    net: Net = field(init=False, repr=False)
    used: Tensor = field(init=False, repr=False)
    """Entries that were chosen since the last report, bool (parts, entries): the rest are dead codes."""

    def make_net(self, channels: int) -> Net:
        return Net(channels, self)

    def begin(self, ctx: Context) -> None:
        self.used = torch.zeros(self.parts, self.entries, dtype=torch.bool, device=ctx.device)

    def kept(self) -> Mapping[str, Kept]:
        return {"used": self.used}

    def groups(self) -> list[dict[str, Any]]:
        head, probe = super().groups()
        return [{**head, "params": self.model()}, probe]

    def model(self) -> list[nn.Parameter]:
        return [*self.net.head.parameters(), *self.net.quantizer.parameters()]

    def clipped(self) -> list[tuple[list[nn.Parameter], float]]:
        return [(self.model(), self.clip)]

    def weights(self, step: int) -> dict[str, float]:
        return {
            **super().weights(step),
            "codebook": self.weight_quantization,
            "commitment": self.weight_quantization * self.commitment,
        }

    def terms(self, batch: Batch, near: Batch | None, draws: torch.Generator, step: int) -> dict[str, Tensor]:
        assert near is not None
        terms, seen = self.losses(batch["tokens"], near["tokens"], draws)
        self.used.logical_or_(seen)
        return terms

    def counts(self) -> dict[str, Tensor]:
        dead = (~self.used).sum()
        self.used.zero_()
        return {"dead_codes": dead}

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
        compared = (code, code_pos)
        if self.correspond == "quantized":
            compared = (quantized, net.quantizer(code_pos)[0])
        terms = self.distill(f, f_pos, *compared, draws)
        out = quantized if self.output == "quantized" else code
        probe = probe_loss(out.detach(), net.centroids)
        return {"probe": probe, **terms, "codebook": codebook, "commitment": commitment}, used

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["tokens"])
        return self.net.quantizer.quantize(code) if self.output == "quantized" else code


class Net(ProbedNet):
    """What is learned: the head, the codebooks, and the centroids (K, d) of the cluster probe."""

    def __init__(self, channels: int, method: Equss) -> None:
        head = Projector(channels, method.dim, activation="relu", dropout=0.0)
        quantizer = ProductQuantizer(method.dim, method.parts, method.entries)
        super().__init__(channels, head, method.clusters, method.dim)
        self.quantizer = quantizer
