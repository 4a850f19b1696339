"""What teacher and student of PriMaPs-EM see: the same flips, and for the student other colors.

Both may differ from what the stored features show, so the backbone runs on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from uss_bench.contracts import BackboneInfo, Batch, Context, Features
from uss_bench.data.views import Photometric, View, Views, apply_photometric
from uss_bench.plugins.inputs import facets_of

BLUR = Photometric(blur=1.0, kernel=21)
JITTER = Photometric(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1, jitter=0.3)
GRAY = Photometric(gray=0.1)


class StudentViews:
    """What teacher and student see of a batch: the same flips, and for the student other colors.

    Args:
        flip: whether images are flipped with probability ½.
        space: what the student's colors are changed on; 'none' where they are not.
    """

    def __init__(self, ctx: Context, *, flip: bool, space: str) -> None:
        self._ctx = ctx
        self._flip = flip
        self._space = space
        self._images = ctx.images() if flip or space != "none" else None
        self._blur, self._jitter, self._gray = (
            Views(ctx.generator, name, photometric=one)
            for name, one in (("blur", BLUR), ("jitter", JITTER), ("gray", GRAY))
        )

    def __call__(
        self, step: int, items: Sequence[int], features: Features, masks: Tensor
    ) -> tuple[Batch, Tensor, Batch]:
        """Return the teacher's inputs, the masks that lie over them, and the student's inputs."""
        seen = features.batch(items)
        if self._images is None:
            return seen, masks, seen
        images = self._images.batch(items) / 255
        flipped = torch.rand(len(items), generator=self._ctx.generator("flips", step)) < 0.5
        flipped = (flipped & self._flip).to(images.device)
        images, masks = mirrored(images, flipped), mirrored(masks, flipped)
        seen = {name: mirrored(value, flipped) for name, value in seen.items()}
        facets = facets_of(features.facets)
        if flipped.any():  # features of a flipped image are not the flipped features
            live = self._ctx.backbone(images[flipped], facets)
            for name, value in live.items():
                seen[name][flipped] = value
        if self._space == "none":
            return seen, masks, seen
        x = student_view(images, self.draw(step, items), self._ctx.info, self._space)
        extra = {"image": x} if "image" in features.facets else {}
        return seen, masks, {**seen, **self._ctx.backbone(x, facets), **extra}

    def draw(self, step: int, items: Sequence[int]) -> list[View]:
        """Return the student's views: a blur, and then with equal chances a jitter or gray, perhaps."""
        blurs, jitters, grays = (one.draw(step, items) for one in (self._blur, self._jitter, self._gray))
        coins = torch.rand(len(items), generator=self._ctx.generator("jitter or gray", step)) < 0.5
        return [
            View(operations=blur.operations + (jitter if coin else gray).operations, kernel=blur.kernel)
            for blur, jitter, gray, coin in zip(blurs, jitters, grays, coins, strict=True)
        ]


def mirrored(values: Tensor, chosen: Tensor) -> Tensor:
    """Return maps (B, …, h, w) with left and right exchanged in those that are chosen, bool (B,)."""
    return torch.where(chosen.view(-1, *[1] * (values.ndim - 1)), values.flip(-1), values)


def student_view(images: Tensor, views: Sequence[View], info: BackboneInfo, space: str) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] with other colors, on normalized pixels or on RGB.

    torchvision clamps what it jitters to [0, 1]; of normalized pixels that are all below the mean.
    """
    if space == "rgb":
        return apply_photometric(images, views)
    mean, std = (torch.tensor(one, device=images.device)[:, None, None] for one in (info.mean, info.std))
    return apply_photometric((images - mean) / std, views) * std + mean
