"""EAGLE: eigen aggregation learning for object-centric segmentation (Kim et al., CVPR 2024).

The file reads like the released code, whose loss is, with u the switch from correspondence to objects,

    L = (1 − u) · (λ_pos L_pos + λ_neg L_neg) + u · λ_obj (L_x + L_x̃) + L_eigen + L_probe,

where x̃ is a second view of x. `eicue` makes the objects (Sec. 3.2), `object_contrast` L_x and L_x̃ (Sec. 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images
from uss_bench.data.views import Photometric, Views, apply_photometric
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.correspondence import cosines, random_points, sample
from uss_bench.nn.pairing import near_derangement
from uss_bench.nn.probed import Probed, ProbedNet
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import cosine_logits, probe_loss

from .eicue import Colors, eigenvectors, patch_colors
from .object_contrast import object_contrast, patch_weights

KEYS = ("keys@-3", "keys@-2", "keys@-1")
BLUR = Photometric(blur=0.5, kernel=3)
"""The released code's second view: half of the images are blurred."""

_CEILING = 0.8
"""Cosines of codes above this have no gradient."""
_OPTIMIZERS = 7
"""Optimizers of the released code: newer versions of its framework count each as a step."""


@dataclass(kw_only=True)
class Eagle(Probed):
    """A head on the keys of the last three blocks, trained by correspondence first and by objects later.

    Loss and prediction need `net`, which `train` and `load_state_dict` make.
    """

    clusters: int
    """K, the number of the probe's centroids; 5 more than classes on COCO-Stuff and 1 more on Cityscapes."""
    dim: int = 512
    """Dimension of the code."""
    steps: int = 10000
    """Batches, whatever the framework counted."""
    batch_size: int = 32
    """Images per batch; the correspondence of different images needs at least two."""
    weight_pos: float = 0.25
    """Of the correspondence of the two views."""
    weight_neg: float = 0.63
    """Of the correspondence with random other images."""
    weight_object: float = 0.85
    """Of the object-centric loss, for each of the two views."""
    shift_bias: float = 0.0
    """What both adaptive shifts are lowered by: 0.11 on Cityscapes."""
    shift_scale: float = 3.5
    """Factor of the shift of negatives."""
    negatives: int = 5
    """Random partners per image and step."""
    samples: int = 11
    """Side of the set of sampled points: 11 × 11 per image."""
    switch_after: int = 200
    """Steps of the framework until the object-centric loss comes in."""
    switch_to: float = 0.9
    """u: the weight of the object-centric loss afterwards; correspondence keeps 1 − u."""
    count_steps: Literal["batches", "optimizers"] = "batches"
    """What the framework counted as a step, for `switch_after`: its versions from 1.6 on count optimizers."""
    eigenvectors: int = 3
    """Eigenvectors of EiCue, after the first."""
    objects: int = 32
    """Centroids that EiCue is clustered with."""
    colors: Colors = "released"
    """Colors of EiCue's affinity: as released, nearly constant, or 'rgb', which is the paper's."""
    global_weight: float = 0.7
    """Of the other view in the object-centric loss."""
    temperature: float = 0.07
    """Of the object-centric loss."""
    smoothing: float = 0.0
    """Label smoothing of the object-centric loss: 0.1 on Cityscapes."""
    mean_first: bool = True
    """With smoothing, multiply the mean loss by the mean weight of patches, as the released code does."""
    weigh_patches: bool = True
    """Weight the object-centric loss by the correlation of keys."""
    dropout: float = 0.1
    """Probability of channel dropout before the head, and on the keys that losses see."""
    lr: float = 5e-4
    """Learning rate of the head and of the projection."""
    lr_probe: float = 5e-3
    """Learning rate of the probe's centroids."""
    lr_objects: float = 5e-5
    """Learning rate of EiCue's centroids."""
    standardize: bool = False
    """Center and scale keys per channel by the training set's moments (needs no label)."""
    checkpoint_every: int = 100
    """Steps between offered checkpoints."""

    net: Net = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(KEYS)
        channels = sum(len(one) for one in features[0].values())
        net = self.net = self.make_net(channels)
        if self.standardize:
            moments = [features.moments(name) for name in KEYS]
            net.standardizer.fit(
                (torch.cat([one for one, _ in moments]), torch.cat([one for _, one in moments]))
            )
        learner = Learner(self.dim, self.objects, self.eigenvectors)
        net.to(ctx.device).train()
        learner.to(ctx.device)
        images, views = ctx.images(), Views(ctx.generator, "second view", photometric=BLUR)
        mean, std = (
            torch.tensor(one, device=ctx.device)[:, None, None] for one in (ctx.info.mean, ctx.info.std)
        )

        # The code's separate optimizers in one: Adam is elementwise.
        groups = [
            {"params": [*net.head.parameters(), *learner.projection.parameters()], "lr": self.lr},
            {"params": [net.centroids], "lr": self.lr_probe},
            {"params": [learner.objects, learner.objects_other], "lr": self.lr_objects},
        ]
        optimizer = torch.optim.Adam(groups)
        draws = ctx.generator("points and partners")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        for step in ctx.steps(
            self.steps, net=net, learner=learner, optimizer=optimizer, draws=draws, batches=batches
        ):
            items = next(batches)
            k, pixels, u = joined(features.batch(items)), images.batch(items), self.object_weight(step)
            other, drawn = k.clone(), views.draw(step, items)
            blurred = [place for place, view in enumerate(drawn) if view.operations]
            if blurred:  # the other images' keys are those of the first view
                seen = apply_photometric(pixels[blurred] / 255, [drawn[place] for place in blurred])
                other[blurred] = joined(ctx.backbone(seen, KEYS))
            colors = patch_colors(pixels, (k.shape[2], k.shape[3]), mean, std, self.colors)
            terms = self.losses(k, other, colors, learner, draws, objects=u > 0)
            optimizer.zero_grad(set_to_none=True)
            self.total(terms, u).backward()
            optimizer.step()
            if step == 1 or step % 50 == 0:
                ctx.report(step, **terms)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

    def object_weight(self, step: int) -> float:
        """Return u of a step, counted from 1: 0, and `switch_to` once the framework's count is exceeded."""
        counted = (step - 1) * (_OPTIMIZERS if self.count_steps == "optimizers" else 1)
        return self.switch_to if counted > self.switch_after else 0.0

    def total(self, terms: Mapping[str, Tensor], u: float) -> Tensor:
        """Return the loss: (1 − u) correspondence + u object-centric + the clusterings of EiCue and code."""
        pair = self.weight_pos * terms["corr_pos"] + self.weight_neg * terms["corr_neg"]
        loss = (1 - u) * pair + terms["eigen"] + terms["probe"]
        return loss + u * self.weight_object * terms["objects"] if "objects" in terms else loss

    def losses(
        self,
        k: Tensor,
        other: Tensor,
        colors: Tensor,
        learner: Learner,
        draws: torch.Generator,
        *,
        objects: bool,
    ) -> dict[str, Tensor]:
        """Return the terms of the loss, unweighted.

        Args:
            k, other: keys of a batch and of its second view, (B, D, h, w).
            colors: (B, 3, h, w), of the first view for both, as in the code.
            draws: where points and random partners come from.
            objects: whether the object-centric loss counts; else it is left out.
        """
        net = self.net
        k, other = net.standardizer(k), net.standardizer(other)
        # The code passes an image through the head three times; dropout makes each time another.
        code, code_pos, code_other = net.head(k), net.head(k), net.head(other)
        f, f_pos, f_other = (F.dropout2d(one, self.dropout, net.training) for one in (k, k, other))
        here, there, third = (random_points(len(k), self.samples, draws).to(k.device) for _ in range(3))
        pair = [
            sample(f_other, third),
            sample(f_pos, there),
            sample(code_other, third),
            sample(code_pos, there),
        ]
        positive = self.correspondence(*pair, same=True)
        f_here, code_here, negative = sample(f, here), sample(code, here), []
        for _ in range(self.negatives):
            partner = near_derangement(len(k), draws).to(k.device)
            pair = [f_here, sample(f[partner], there), code_here, sample(code[partner], there)]
            negative.append(self.correspondence(*pair, same=False))
        terms = {
            "corr_pos": positive,
            "corr_neg": torch.stack(negative).mean(),
            "probe": probe_loss(code.detach(), net.centroids),
        }
        cues, labels = [], []
        for one, centroids in ((code_pos, learner.objects), (code_other, learner.objects_other)):
            cosine = cosine_logits(eigenvectors(one, colors, self.eigenvectors), centroids)
            cues.append(-(cosine.softmax(dim=1) * cosine).sum(dim=1).mean())
            labels.append(cosine.argmax(dim=1).flatten())
        terms["eigen"] = torch.stack(cues).mean()
        if objects:
            z, z_other = (F.normalize(learner.projection(rows(one)), dim=1) for one in (code_pos, code_other))
            pairs = [(z, z_other, labels[0], f_pos), (z_other, z, labels[1], f_other)]
            terms["objects"] = torch.stack([self.contrast(*pair) for pair in pairs]).sum()
        return terms

    def correspondence(self, f: Tensor, g: Tensor, code: Tensor, other: Tensor, *, same: bool) -> Tensor:
        """Return −mean of clamp(S, 0, 0.8) · (F − shift) with the adaptive shift, whose gradient is kept.

        F is centered as STEGO's is. The shift is |mean F − mean S − bias| for two views of one image, and
        3.5 · (mean F + mean S − bias) for different images.
        """
        with torch.no_grad():
            closeness = cosines(f, g)
            overall = closeness.mean()
            closeness = closeness - closeness.mean(dim=2, keepdim=True)
            closeness = closeness - closeness.mean() + overall
        agreement = cosines(code, other)
        if same:
            shift = (closeness.mean() - agreement.mean() - self.shift_bias).abs()
        else:
            shift = (closeness.mean() + agreement.mean() - self.shift_bias) * self.shift_scale
        return -(agreement.clamp(0, _CEILING) * (closeness - shift)).mean()

    def contrast(self, z: Tensor, z_other: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        """Return the object-centric loss with prototypes of `z`; see `object_contrast`."""
        return object_contrast(
            z,
            z_other,
            labels,
            patch_weights(keys) if self.weigh_patches else z.new_ones(len(z)),
            global_weight=self.global_weight,
            temperature=self.temperature,
            smoothing=self.smoothing,
            mean_first=self.mean_first,
        )

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(joined(batch))
        return code

    def make_net(self, channels: int) -> Net:
        return Net(channels, self.dim, self.clusters, self.dropout)


class Net(ProbedNet):
    """What prediction needs: the segmentation head, and the centroids (K, d) of the cluster probe."""

    def __init__(self, channels: int, dim: int, clusters: int, dropout: float) -> None:
        head = Projector(channels, dim, activation="relu", dropout=dropout)
        super().__init__(channels, head, clusters, dim)


class Learner(nn.Module):
    """What only training needs: the projection, and the centroids of EiCue in either view.

    The paper's learnable prototypes get no gradient in the released code, which replaces them by medoids.
    """

    def __init__(self, dim: int, objects: int, vectors: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, dim)
        self.objects = nn.Parameter(torch.randn(objects, vectors))
        self.objects_other = nn.Parameter(torch.randn(objects, vectors))


def joined(batch: Mapping[str, Tensor]) -> Tensor:
    """Return the keys of the last three blocks as one, from the lowest block on: (B, 3·D, h, w)."""
    return torch.cat([batch[name] for name in KEYS], dim=1)


def rows(values: Tensor) -> Tensor:
    """Return the patches of a batch as rows: (B, D, h, w) to (B·h·w, D)."""
    return values.flatten(2).transpose(1, 2).flatten(0, 1)
