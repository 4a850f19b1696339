"""PriMaPs-EM: principal mask proposals for unsupervised segmentation (Hahn et al., TMLR 2024).

Masks of every image first (`masks`), then prototypes by cosine k-means, then stochastic expectation
maximization: the momentum prototypes θ_M (`teacher`) give each mask one class, the pseudo label P*, and the
running prototypes θ_R (`student`) learn it. On top of another run (`base`) the features are that run's codes
and the prototypes its own, and there is no k-means.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Features, Images, Method, TrainedRun
from uss_bench.errors import UsageError
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.ema import ema_update
from uss_bench.nn.prototypes import probe_loss

from .masks import IGNORED, Sign, mask_proposals
from .student_views import StudentViews

_PCA_ITEMS = 93 * 32
"""The released initialization reads 93 batches."""


@dataclass(kw_only=True)
class PriMaPs:
    """Prototypes on frozen features, learned from the classes that masks get by majority."""

    clusters: int
    """K, the number of prototypes."""
    base: TrainedRun | None = None
    """Another run, whose code takes the features' place and whose prototypes are the start."""
    threshold: float = 0.4
    """A patch belongs to a mask from this share of the largest cosine on."""
    sign: Sign = "largest"
    """Of principal directions, which is arbitrary: they point at a patch, or away from it."""
    steps_init: int = 184
    """Of cosine k-means: two epochs; there is none on top of a base."""
    steps: int = 4600
    """Of expectation maximization: fifty epochs."""
    batch_size: int = 32
    """Images per batch, of both phases."""
    flip: bool = True
    """Show every image flipped with probability ½; flipped ones go through the backbone anew."""
    view: Literal["normalized", "rgb", "none"] = "normalized"
    """The student's view: blurred, jittered or gray, on normalized pixels as released, or on RGB; or none."""
    use_masks: bool = True
    """Let a mask's majority decide on the class of its pixels; else every pixel decides for itself."""
    focal: float = 2.0
    """Exponent of the weight (1 − mean confidence of the class in the batch); 0 for equal weights."""
    count_ignored: bool = True
    """Count pixels without a mask in the mean of the loss, as the released code does."""
    ema_every: int = 10
    """Steps between updates of the teacher."""
    ema_decay: float = 0.98
    """Of the teacher, at most; the first updates decay less."""
    base_dropout: bool = False
    """Leave the base's dropout on while this method trains, as the released code does with STEGO."""
    lr: float = 5e-3
    """Learning rate of prototypes, in both phases."""
    checkpoint_every: int = 92
    """Steps between offered checkpoints: an epoch of Cityscapes."""

    student: Prototypes = field(init=False, repr=False)
    teacher: Prototypes = field(init=False, repr=False)
    learned: Method | None = field(init=False, repr=False, default=None)

    @property
    def inputs(self) -> list[str]:
        return ["tokens"] if self.base is None else list(self.base.inputs)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(self.inputs)
        chosen = {"threshold": self.threshold, "sign": self.sign, "base": self.base}
        masks = ctx.derived_items(
            "masks", mask_proposals, list(dict.fromkeys([*self.inputs, "image"])), params=chosen
        )
        if self.base is None:
            directions = self.initialize(features, ctx)
        else:
            self.learned = self.base.load(ctx.device)
            directions = directions_of(self.learned, self.embed(features.batch([0])).shape[1], self.clusters)
        self.student, self.teacher = (Prototypes(directions).to(ctx.device) for _ in range(2))
        self.teacher.requires_grad_(False)
        optimizer = torch.optim.Adam(self.student.parameters(), lr=self.lr)
        views = StudentViews(ctx, flip=self.flip, space=self.view)
        dropping = dropping_out(self.learned) if self.learned and self.base_dropout else self.learned
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        for step in ctx.steps(
            self.steps, student=self.student, teacher=self.teacher, optimizer=optimizer, batches=batches
        ):
            items = next(batches)
            with torch.no_grad():
                seen, own, shown = views(step, items, features, masks.batch("masks", items))
                f, g = (one["tokens"] if dropping is None else dropping.embed(one) for one in (seen, shown))
            loss = self.loss(f, g, own)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            self.follow(step)
            if step == 1 or step % 50 == 0:
                ctx.report(step, maximization=loss)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)

    def initialize(self, features: Features, ctx: Context) -> Tensor:
        """Return directions (K, D) that cosine k-means by gradient finds from principal directions on."""
        directions = self.principal_directions(features, ctx).requires_grad_()
        optimizer = torch.optim.Adam([directions], lr=self.lr)
        batches = ShuffledBatches(
            len(features), self.batch_size, ctx.generator("batches of the initialization")
        )
        for step in ctx.steps(
            self.steps_init, label="prototypes", directions=directions, optimizer=optimizer, batches=batches
        ):
            loss = probe_loss(features.batch(next(batches))["tokens"], directions)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if step == 1 or step % 50 == 0:
                ctx.report(step, clustering=loss)
        return directions.detach()

    def principal_directions(self, features: Features, ctx: Context) -> Tensor:
        """Return the K first principal directions (K, D) of the patches of some training items.

        Their sign is arbitrary as well; here the component that is largest in size is positive.
        """
        dim = ctx.info.dim
        if self.clusters > dim:
            raise UsageError(
                f"{self.clusters} clusters cannot start from principal directions of {dim} channels.",
                hint=f"Ask for fewer: --set clusters={dim}",
            )
        draws = ctx.generator("principal directions")
        items = torch.randperm(len(features), generator=draws)[:_PCA_ITEMS]
        total = torch.zeros(dim, dtype=torch.float64, device=ctx.device)
        outer, count = torch.zeros(dim, dim, dtype=torch.float64, device=ctx.device), 0
        for some in items.split(self.batch_size):
            rows = features.batch(some)["tokens"].transpose(0, 1).flatten(1).T.double()
            total, outer, count = total + rows.sum(0), outer + rows.T @ rows, count + len(rows)
        covariance = outer / count - torch.outer(total / count, total / count)
        vectors = torch.linalg.eigh(covariance).eigenvectors.T.flip(0)[: self.clusters]
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        directions: Tensor = (vectors * largest.sign()).float().contiguous()
        return directions

    def loss(self, f: Tensor, g: Tensor, masks: Tensor) -> Tensor:
        """Return the focal cross-entropy of the student against the class of each mask.

        Logits are linear in the features, so they are enlarged and not the features, with the same result.

        Args:
            f: features that the teacher sees, (B, D, h, w).
            g: those that the student sees.
            masks: uint8 (B, H, W), `IGNORED` where there is none.
        """

        def enlarged(logits: Tensor) -> Tensor:
            return F.interpolate(logits, size=masks.shape[1:], mode="bilinear", align_corners=False)

        with torch.no_grad():
            classes = enlarged(self.teacher(f)).argmax(dim=1)
            target = majority(classes, masks, self.clusters) if self.use_masks else classes
        logits = enlarged(self.student(g))
        confidence = logits.detach().softmax(dim=1).mean(dim=(0, 2, 3))
        weight = (1 - confidence) ** self.focal
        per_pixel = F.cross_entropy(logits, target, weight=weight, ignore_index=IGNORED, reduction="none")
        if self.count_ignored:
            return per_pixel.mean()
        return per_pixel.sum() / (target != IGNORED).sum().clamp_min(1)

    def follow(self, step: int) -> None:
        """Move the teacher after a step, counted from 1: every tenth of the framework's, counted from 0."""
        updates, rest = divmod(step - 1, self.ema_every)
        if updates and not rest:
            momentum = self.decay(updates)
            for average, parameter in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                ema_update(average, parameter, momentum)

    def decay(self, update: int) -> float:
        """Return the decay of the n-th update: 0 for the first two, then 1 − 1 / n, at most `ema_decay`.

        The released average copies the student once more before its second update, whose decay of ½ then
        averages two equal things: the second update copies too.
        """
        return 0.0 if update <= 2 else min(self.ema_decay, 1 - 1 / update)

    def embed(self, batch: Batch) -> Tensor:
        return batch["tokens"] if self.learned is None else self.learned.embed(batch)

    def classify(self, code: Tensor) -> Tensor:
        logits: Tensor = self.teacher(code)
        return logits

    def state_dict(self) -> dict[str, Tensor]:
        state = {} if self.learned is None else self.learned.state_dict()
        return {**self.teacher.state_dict(), **{f"base.{name}": value for name, value in state.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.teacher = Prototypes(state["directions"])
        self.teacher.load_state_dict({name: state[name] for name in ("directions", "lengths")})
        self.teacher.to(state["directions"].device).requires_grad_(False)
        if self.base is not None:
            self.learned = self.base.make()
            learned = {name: value for name, value in state.items() if name.startswith("base.")}
            self.learned.load_state_dict({name.removeprefix("base."): one for name, one in learned.items()})


class Prototypes(nn.Module):
    """A 1 × 1 convolution without bias whose weights are a direction times a length: K prototypes.

    Features are not normalized: logits are dot products, so the softmax of ViT features is sharp.
    """

    def __init__(self, directions: Tensor) -> None:
        super().__init__()
        self.directions = nn.Parameter(directions.clone())
        self.lengths = nn.Parameter(torch.ones(len(directions), 1, device=directions.device))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, K, h, w) of features (B, D, h, w)."""
        weights = self.lengths * F.normalize(self.directions, dim=1)
        return torch.einsum("bdhw,kd->bkhw", features, weights)


def directions_of(base: Method, dim: int, clusters: int) -> Tensor:
    """Return the prototypes (K, d) of a method that classifies codes of d channels by cosines or products.

    They are its logits of the axes.

    Raises:
        ValueError: when it has another number of clusters, or its classifier is none of the two.
    """
    device = next(iter(base.state_dict().values())).device
    axes = torch.eye(dim, device=device).view(1, dim, dim, 1)
    probes = torch.randn(1, dim, 256, 1, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        directions = base.classify(axes)[0, :, :, 0]
        same = torch.einsum("bdhw,kd->bkhw", probes, directions).argmax(1) == base.classify(probes).argmax(1)
    if len(directions) != clusters:
        raise ValueError(f"the base has {len(directions)} clusters, and this method {clusters}")
    if same.float().mean() < 0.99:
        raise ValueError("the base does not classify its code by prototypes")
    return directions.contiguous()


def dropping_out(base: Method) -> Method:
    """Return a copy of a method whose networks are in training mode."""
    copied = copy.deepcopy(base)
    for part in vars(copied).values():
        if isinstance(part, nn.Module):
            part.train()
    return copied


def majority(classes: Tensor, masks: Tensor, clusters: int) -> Tensor:
    """Return the most frequent class of each pixel's mask, the lowest of equals; `IGNORED` without a mask.

    Args:
        classes: int64 (B, H, W).
        masks: uint8 (B, H, W).
    """
    b = len(masks)
    segment = torch.arange(b, device=masks.device)[:, None, None] * 256 + masks.long()
    counts = torch.bincount((segment * clusters + classes).flatten(), minlength=b * 256 * clusters)
    found = counts.view(b * 256, clusters).argmax(dim=1)[segment]
    return torch.where(masks == IGNORED, IGNORED, found)
