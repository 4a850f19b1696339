"""CAUSE: causal unsupervised semantic segmentation (Kim, Lee and Ro, Pattern Recognition 171, 2026).

Three phases: a codebook by modularity (the paper's mediator), a head by contrast between the codebook's
concepts (its front-door adjustment), and a probe by modularity. **The released third phase also trains the
evaluated head with labels**: the gradient of its linear probe reaches it. Here the head is fixed in that
phase, and no label is at hand; `benchmarks/cause_leak.py` shows what the label gradient is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Features, Images, Kept
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.ema import ema_update
from uss_bench.nn.prototypes import cosine_logits
from uss_bench.nn.standardizer import Standardizer

from .bank import Bank
from .codebook import descend, kmeans_codebook, load_codebook, modularity_codebook, uniform
from .contrast import Concepts, front_door_loss
from .heads import Decoder, Head, nearest_code
from .modularity import modularity_loss, pooled, take

Read = Callable[[Sequence[int]], Tensor]
"""Returns the features (B, D, h, w) of some items."""


@dataclass(kw_only=True)
class Cause:
    """A head trained by contrast between codes of a codebook, and a probe trained by modularity.

    Prediction needs `net`, which `train` and `load_state_dict` make.
    """

    clusters: int
    """K, the number of the probe's centroids."""
    head: Literal["mlp", "tr"] = "tr"
    """CAUSE-MLP, or CAUSE-TR with a decoder layer before the MLP."""
    codebook: Path | None = None
    """A .npy file with the codebook, float (codes, D), as the released code writes it; None learns it."""
    codebook_by: Literal["modularity", "kmeans++"] = "modularity"
    """How it is learned: the paper's way, or by k-means++ and mini-batch k-means, its ablation."""
    codebook_side: int = 0
    """Side of the images that it is learned from, in pixels; 0 for that of the other phases."""
    codes: int = 2048
    """Rows of the codebook."""
    dim: int = 90
    """Dimension d of the code that is clustered."""
    projection: int = 2048
    """Dimension P of the projections that are contrasted."""
    steps_codebook: int = 233
    """Batches of the first phase, which finds the codebook."""
    steps: int = 466
    """Of the contrast."""
    steps_probe: int = 1165
    """Batches of the third phase, which trains the probe."""
    batch_size: int = 16
    """Images per batch, of all phases."""
    pooling: int = 4
    """One random token of each 4 × 4 block takes part; 1 takes all."""
    positive: float = 0.3
    """Codes with a larger cosine are positives."""
    negative: float = 0.1
    """Codes with a smaller cosine are negatives."""
    use_bank: bool = True
    """Contrast with the bank of earlier projections too."""
    momentum: float = 0.99
    """Of the teacher, which follows after the optimizer's step."""
    shared_start: bool = True
    """In the first step the released teacher shares the student's memory, and so takes the step with it."""
    skip_without_positives: bool = True
    """Skip the optimizer's step where an image has no positive pair, as the released code's mean of nothing
    makes it do; else that image is left out."""
    dropout: float = 0.1
    """Probability of dropout in the head, of single numbers."""
    lr: float = 4e-3
    """1e-3 per GPU in the released code, which has four and does not average their gradients."""
    weight_decay: float = 0.0
    """Of the contrast."""
    clip: float = 1.0
    """Largest norm of the contrast's gradient."""
    halve_probe_every: int = 466
    """Steps after which the probe's learning rate halves; 0 for never."""
    standardize: bool = False
    """Center and scale features per channel by the training set's moments (needs no label)."""
    checkpoint_every: int = 233
    """Steps of the probe between offered checkpoints; the released code keeps one every epoch."""

    net: Net = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        standardizer = Standardizer(features[0]["tokens"].shape[0])
        if self.standardize:
            standardizer.fit(features.moments("tokens"))
        standardizer.to(ctx.device)

        def read(items: Sequence[int]) -> Tensor:
            f: Tensor = standardizer(features.batch(items)["tokens"])
            return f

        codebook = self.find_codebook(features, read, standardizer, ctx)
        head = self.contrast(features, read, codebook, ctx)
        self.net = Net(standardizer, head, uniform(self.clusters, self.dim, ctx.generator("probe"), ctx))
        self.train_probe(features, read, ctx)

    # --- Phase 1: the mediator ---------------------------------------------------------------------

    def find_codebook(
        self, features: Features, read: Read, standardizer: Standardizer, ctx: Context
    ) -> Tensor:
        """Return the codebook (codes, D): read, or learned."""
        if self.codebook is not None:
            return load_codebook(self.codebook, len(standardizer.mean)).to(ctx.device)
        if self.codebook_side not in (0, ctx.side):
            images = ctx.images(side=self.codebook_side)

            def read(items: Sequence[int]) -> Tensor:
                f: Tensor = standardizer(ctx.backbone(images.batch(items) / 255, ["tokens"])["tokens"])
                return f

        draws = ctx.generator("codebook")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches of the codebook"))

        def tokens() -> Tensor:
            f = read(next(batches))
            return take(f, pooled(f, self.pooling, draws))

        if self.codebook_by == "kmeans++":
            return kmeans_codebook(tokens, self.codes, self.steps_codebook, ctx, draws=draws, batches=batches)
        start = uniform(self.codes, len(standardizer.mean), draws, ctx)
        return modularity_codebook(
            tokens, start, self.lr, self.steps_codebook, ctx, draws=draws, batches=batches
        )

    # --- Phase 2: the front door -------------------------------------------------------------------

    def contrast(self, features: Features, read: Read, codebook: Tensor, ctx: Context) -> Head:
        """Return the teacher's head, which is the one that is evaluated."""
        student = Branch(self.make_head(codebook, ctx.grid), self.projection).to(ctx.device)
        teacher = Branch(self.make_head(codebook, ctx.grid), self.projection).to(ctx.device)
        teacher.load_state_dict(student.state_dict())
        teacher.requires_grad_(False)
        optimizer = torch.optim.Adam(student.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        concepts = Concepts(codebook, self.positive, self.negative)
        bank, draws = Bank(len(codebook), self.projection, ctx.device), ctx.generator("contrast")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches of the contrast"))
        kept: dict[str, Kept] = {"student": student, "teacher": teacher, "optimizer": optimizer}
        kept |= {"bank": bank, "draws": draws, "batches": batches}
        for step in ctx.steps(self.steps, label="contrast", **kept):
            f = read(next(batches))
            places = pooled(f, self.pooling, draws)
            codes = nearest_code(take(f, places), codebook)
            with torch.no_grad():
                projected = teacher.projection(teacher.code(f, places))
            terms, present = front_door_loss(
                student.code(f, places),
                student.projection,
                projected,
                codes,
                (bank.vectors, bank.codes),
                concepts,
            )
            if present.all() or (present.any() and not self.skip_without_positives):
                loss = terms[present].mean()
                descend(loss, optimizer, student, self.clip)
                if step == 1 or step % 50 == 0:
                    ctx.report(step, contrast=loss)
            momentum = 0.0 if self.shared_start and step == 1 else self.momentum
            for average, parameter in zip(teacher.parameters(), student.parameters(), strict=True):
                ema_update(average, parameter, momentum)
            if self.use_bank:
                bank.update(projected.flatten(0, 1), codes.flatten(), draws)
        return teacher.head

    # --- Phase 3: the probe ------------------------------------------------------------------------

    def train_probe(self, features: Features, read: Read, ctx: Context) -> None:
        """Train the probe on the fixed head's codes; the released code trains the head here, with labels."""
        probe, head = self.net.probe, self.net.head
        optimizer = torch.optim.Adam([probe], lr=self.lr)
        draws = ctx.generator("places of the probe")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches of the probe"))
        head.train()  # dropout is on, as in the released code
        kept: dict[str, Kept] = {"probe": probe, "optimizer": optimizer, "draws": draws, "batches": batches}
        for step in ctx.steps(self.steps_probe, label="probe", **kept):
            with torch.no_grad():
                code = head(read(next(batches)))
            loss = modularity_loss(probe, take(code, pooled(code, self.pooling, draws)))
            if self.halve_probe_every:
                optimizer.param_groups[0]["lr"] = self.lr * 0.5 ** ((step - 1) // self.halve_probe_every)
            descend(loss, optimizer)
            if step == 1 or step % 50 == 0:
                ctx.report(step, probe=loss)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        self.net.eval().requires_grad_(False)

    # --- Prediction --------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net.head(self.net.standardizer(batch["tokens"]))
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net.probe)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        standardizer = Standardizer(len(state["standardizer.mean"]))
        codebook, positions = state.get("head.decoder.codebook"), state.get("head.decoder.positions")
        if codebook is None or positions is None:
            head = Head(len(standardizer.mean), self.dim, self.dropout)
        else:
            height, width = positions.shape[1:]
            head = self.make_head(codebook, (height, width))
        self.net = Net(standardizer, head, torch.empty_like(state["probe"]))
        self.net.load_state_dict(dict(state))
        self.net.to(state["probe"].device).eval().requires_grad_(False)

    def make_head(self, codebook: Tensor, grid: tuple[int, int]) -> Head:
        decoder = Decoder(codebook, grid, self.dropout) if self.head == "tr" else None
        return Head(codebook.shape[1], self.dim, self.dropout, decoder)


class Branch(nn.Module):
    """Student or teacher: a head, and the layer that projects its code for the contrast."""

    def __init__(self, head: Head, projection: int) -> None:
        super().__init__()
        self.head = head
        self.projection = nn.Linear(head.linear.out_features, projection)

    def code(self, f: Tensor, places: Tensor) -> Tensor:
        """Return the code (B, n, d) of pooled tokens. The MLP pools first; the decoder sees all of them."""
        return self.head.paths(take(f, places)) if self.head.decoder is None else take(self.head(f), places)


class Net(nn.Module):
    """What is evaluated: the teacher's head, and the probe's centroids (K, d)."""

    def __init__(self, standardizer: Standardizer, head: Head, probe: Tensor) -> None:
        super().__init__()
        self.standardizer = standardizer
        self.head = head
        self.probe = nn.Parameter(probe)
