"""TransFGU: heat maps of clusters of class tokens teach a mask transformer, which then teaches itself.

Yin, Wang, Wang, Xu, Zhang, Li, Jin, "TransFGU: A Top-down Approach to Fine-Grained Unsupervised Semantic
Segmentation" (ECCV 2022), from the behavior of the released code. Windows of all images are clustered by
their class tokens; the gradient of an image's likeness to a centroid with respect to the attention says
where that cluster is (`heat`); and a decoder on frozen patches learns these maps (`decoder`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import BackboneInfo, Batch, Context, ImageReader, Images
from uss_bench.data.views import Geometric, Photometric, Views, apply_geometric, apply_photometric
from uss_bench.errors import UsageError
from uss_bench.nn.epochs import EpochBatches
from uss_bench.nn.lloyd import lloyd, nearest, sums_and_counts

from .decoder import MaskTransformer
from .heat import HeatScale, heat_maps, kinds, unit_range, window_boxes, window_tokens

FOREGROUND, BACKGROUND = 1, 2


def pseudo_label_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of logits (B, K, h, w) to clusters, int64 (B, h, w)."""
    return F.cross_entropy(logits, target)


def uncertainty_loss(logits: Tensor) -> Tensor:
    """Return the mean over patches of 1 − (p₁ − p₂), of the largest probabilities; 0 for one cluster."""
    if logits.shape[1] == 1:
        return logits.sum() * 0
    first, second = logits.softmax(dim=1).topk(2, dim=1).values.unbind(dim=1)
    return (1 - (first - second)).mean()


def diversity_loss(classes: Tensor) -> Tensor:
    """Return the mean of 1 + cos over pairs of class tokens (B, K, d) of an image; 0 for a single cluster."""
    if classes.shape[1] == 1:
        return classes.sum() * 0
    units = F.normalize(classes, dim=2)
    rows, columns = torch.triu_indices(classes.shape[1], classes.shape[1], 1, device=classes.device)
    return (1 + (units @ units.transpose(1, 2))[:, rows, columns]).mean()


def shuffled_loss(logits: Tensor, target: Tensor, order: Tensor) -> Tensor:
    """Return the cross-entropy to clusters that were exchanged for others, by a permutation (K,)."""
    return F.cross_entropy(logits, order[target])


@dataclass(kw_only=True)
class TransFGU:
    """See the module, and README.md for what each parameter rests on."""

    clusters: int
    """K."""
    foreground: int = 0
    """Clusters of windows that show foreground, the others being of background; 0: of all together."""
    foreground_share: float = 0.5
    background_share: float = 0.8
    """Share of a window's patches above which it is foreground, or background."""
    window_stride: float = 0.5
    """Between windows, as a share of their side."""
    window_batch_size: int = 64
    kmeans_points: int = 200_000
    """Windows that are clustered, at most; all of them then decide on the centroids."""
    kmeans_iterations: int = 100
    mass: float = 0.8
    """Share of the evidence that is kept, the clearest first."""
    heat_scale: HeatScale = "batch"
    """Whether heat depends on the images that are computed together, as in the released code, or not."""
    heat_batch_size: int = 8
    dim: int = 384
    layers: int = 2
    heads: int = 6
    dropout: float = 0.1
    epochs: int = 200
    passes: int = 1
    """Over all images in an epoch, each with views of its own: the released lists name an image so often."""
    batch_size: int = 256
    weight_uncertainty: float = 0.3
    weight_diversity: float = 1.0
    shuffled_from: float = 0.03
    shuffled_to: float = 0.10
    """Weight of the shuffled targets in the first epoch of a teacher; it grows by 0.01 in each, to this."""
    refresh_after: int = 2
    """Epochs before the first teacher."""
    refresh_every: int = 2
    """Epochs that a teacher lasts. Then the student takes its place, and begins again as it once began."""
    teacher_share: float = 0.5
    """Of the target; the rest is heat."""
    lr: float = 1e-4
    weight_decay: float = 5e-4

    info: BackboneInfo = field(init=False, repr=False)
    net: MaskTransformer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise UsageError(f"dim = {self.dim} is not a multiple of heads = {self.heads}.")
        if not 0 <= self.foreground <= self.clusters:
            raise UsageError(
                f"foreground = {self.foreground} is not between 0 and clusters = {self.clusters}."
            )

    def bind(self, backbone: object) -> None:
        self.info = backbone.info  # type: ignore[attr-defined]

    def build(self, device: torch.device) -> None:
        self.net = MaskTransformer(
            self.info.dim, self.dim, self.clusters, self.layers, self.heads, self.dropout
        ).to(device)

    def train(self, data: Images, ctx: Context) -> None:
        self.build(ctx.device)
        centroids = self.centroids(ctx)
        images = ctx.images()
        stored = self.heat(images, centroids, ctx)
        student, initial = self.net.train(), copy.deepcopy(self.net.state_dict())
        teacher = copy.deepcopy(student).eval().requires_grad_(False)
        optimizer = torch.optim.Adam(student.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        views = released_views(ctx)
        step_count = -(-len(images) // self.batch_size)
        for epoch in ctx.steps(
            self.epochs, label="epochs", student=student, teacher=teacher, optimizer=optimizer
        ):
            since = self.since_refresh(epoch)
            if since == 0 and epoch > 1:
                teacher.load_state_dict(student.state_dict())
                student.load_state_dict(initial)
            student.train()
            shuffled = min(self.shuffled_to, self.shuffled_from + 0.01 * since)
            for pass_ in range(self.passes):
                number = (epoch - 1) * self.passes + pass_ + 1
                order = ctx.generator("training order", number)
                batches = EpochBatches(len(images), self.batch_size, order)
                reader = images.batches(batches)
                for step in ctx.steps(
                    step_count, student=student, optimizer=optimizer, teacher=teacher, batches=batches
                ):
                    items, x = next(reader)
                    drawn = views.draw(number, items)
                    size = half_of(x.shape[2:], ctx.patch)
                    seen = apply_geometric(apply_photometric(x / 255, drawn), drawn, size)
                    grid = size[0] // ctx.patch, size[1] // ctx.patch
                    heat = torch.from_numpy(stored[list(items)]).to(ctx.device)
                    tokens = ctx.backbone(seen, ["tokens"])["tokens"]
                    target = apply_geometric(unit_range(heat), drawn, grid)
                    if epoch > self.refresh_after:
                        with torch.no_grad():
                            taught = teacher(tokens)[0].softmax(dim=1)
                        target = self.teacher_share * taught + (1 - self.teacher_share) * target
                    draws = ctx.generator("shuffled clusters", number, step)
                    exchanged = torch.randperm(self.clusters, generator=draws).to(ctx.device)
                    terms = self.terms(student, tokens, target.argmax(dim=1), exchanged)
                    loss = (
                        terms["pseudo_label"]
                        + self.weight_uncertainty * terms["uncertainty"]
                        + self.weight_diversity * terms["diversity"]
                        - shuffled * terms["shuffled"]
                    )
                    if (
                        loss > 0
                    ):  # as released: nothing is learned where the subtracted term outweighs the others
                        optimizer.zero_grad(set_to_none=True)
                        loss.backward()
                        torch.nn.utils.clip_grad_value_(student.parameters(), 1.0)
                        optimizer.step()
                    ctx.report((number - 1) * step_count + step, **terms)
            student.eval()
            ctx.checkpoint(epoch)
        student.eval()

    def since_refresh(self, epoch: int) -> int:
        """Return how many epochs before this one, counted from 1, had the same teacher, or none as well."""
        if epoch <= self.refresh_after:
            return epoch - 1
        return (epoch - self.refresh_after - 1) % self.refresh_every

    def terms(
        self, student: MaskTransformer, tokens: Tensor, target: Tensor, order: Tensor
    ) -> dict[str, Tensor]:
        """Return the four losses of one batch, none of them weighted."""
        logits, classes = student(tokens)
        return {
            "pseudo_label": pseudo_label_loss(logits, target),
            "uncertainty": uncertainty_loss(logits),
            "diversity": diversity_loss(classes),
            "shuffled": shuffled_loss(logits, target, order),
        }

    # --- Clusters, and their heat ------------------------------------------------------------------

    def centroids(self, ctx: Context) -> Tensor:
        """Return the clusters (K, D) of windows' class tokens; those of foreground first."""
        images = ctx.images(side=2 * ctx.side)
        height, width = images[0].shape[1:]
        boxes = window_boxes((height // ctx.patch, width // ctx.patch), self.window_stride)
        tokens = stored(ctx, "window-tokens", (len(images), len(boxes), ctx.info.dim), np.float32)
        kind = stored(ctx, "window-kinds", (len(images), len(boxes)), np.uint8)
        done = torch.zeros((), dtype=torch.int64)
        for step in ctx.steps(len(images), label="windows", done=done):
            image = images.batch([step - 1])[0] / 255
            paid = ctx.backbone(image[None], ["cls_attention"])["cls_attention"][0].mean(dim=0)
            shown = kinds(paid, boxes, self.foreground_share, self.background_share)
            size = (height // 2, width // 2)
            found = window_tokens(ctx, image, boxes, size, self.window_batch_size)
            tokens[step - 1] = found.cpu().numpy()
            kind[step - 1] = sum(
                label * one.cpu().numpy() for label, one in zip((FOREGROUND, BACKGROUND), shown, strict=True)
            )
            done.fill_(step)
        rows, of = tokens.reshape(-1, ctx.info.dim), kind.reshape(-1)
        parts = [(self.clusters, of > 0, "all")]
        if self.foreground:
            parts = [
                (self.foreground, of == FOREGROUND, "foreground"),
                (self.clusters - self.foreground, of == BACKGROUND, "background"),
            ]
        return torch.cat([self.cluster(rows, chosen, k, name, ctx) for k, chosen, name in parts if k])

    def cluster(self, rows: np.ndarray, chosen: np.ndarray, k: int, name: str, ctx: Context) -> Tensor:
        """Return k centroids (k, D) of some rows (M, D): the means of all rows that are nearest to each."""
        where = np.flatnonzero(chosen)
        if not len(where):
            ctx.log(f"No window shows {name}: its clusters are those of all windows.")
            where = np.arange(len(rows))
        draws = ctx.generator(f"centroids of {name}")
        some = where[torch.randperm(len(where), generator=draws)[: self.kmeans_points].sort().values.numpy()]
        points = torch.from_numpy(rows[some]).to(ctx.device)
        centroids = lloyd(points, k, self.kmeans_iterations, draws)
        sums, counts = torch.zeros_like(centroids), torch.zeros(k, dtype=torch.float64, device=ctx.device)
        for start in range(0, len(where), 65536):
            block = torch.from_numpy(rows[where[start : start + 65536]]).to(ctx.device)
            added, new = sums_and_counts(block, nearest(block, centroids), k)
            sums += added
            counts += new
        found = counts > 0
        centroids[found] = sums[found] / counts[found, None].to(sums.dtype)
        return centroids

    def heat(self, images: ImageReader, centroids: Tensor, ctx: Context) -> np.ndarray:
        """Return heat (N, K, h, w) in a file of the run."""
        maps = stored(ctx, "heat", (len(images), self.clusters, *ctx.grid), np.float32)
        whole = len(images) // self.heat_batch_size * self.heat_batch_size
        starts = [*range(0, whole, self.heat_batch_size), *range(whole, len(images))]  # the rest one by one
        done = torch.zeros((), dtype=torch.int64)
        for step in ctx.steps(len(starts), label="heat", done=done):
            first = starts[step - 1]
            items = list(
                range(first, min(first + self.heat_batch_size, whole) if first < whole else first + 1)
            )
            maps[items] = (
                heat_maps(
                    ctx,
                    images.batch(items) / 255,
                    centroids,
                    attended=self.foreground or self.clusters,
                    mass=self.mass,
                    scale=self.heat_scale,
                )
                .cpu()
                .numpy()
            )
            done.fill_(step)
        return maps

    # --- Prediction ----------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        logits: Tensor = self.net(batch["tokens"])[0]
        return logits

    def classify(self, code: Tensor) -> Tensor:
        return code

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.build(state["class_tokens"].device)
        self.net.load_state_dict(dict(state))
        self.net.eval()


def stored(ctx: Context, name: str, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """Return an array in a file of the run: it outlives a kill, and need not fit into memory."""
    path = ctx.scratch / f"{name}.npy"
    if path.exists():
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def half_of(size: torch.Size, patch: int) -> tuple[int, int]:
    """Return half a size (H, W), in whole patches and at least one."""
    height, width = (max(1, side // 2 // patch) * patch for side in size)
    return height, width


def released_views(ctx: Context) -> Views:
    """Return the released augmentation: colors, blur, a crop and a flip."""
    colors = Photometric(
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        jitter=0.3,
        gray=0.2,
        blur=0.2,
        sigma=(1.0, 2.0),
        kernel=3,
    )
    return Views(ctx.generator, "views", photometric=colors, geometric=Geometric(scale=(0.4, 0.9), flip=0.5))
