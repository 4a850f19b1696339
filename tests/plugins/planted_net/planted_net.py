"""A differentiable stand-in for a ViT of three blocks, whose features of the planted world are known.

The chroma of a patch's mean color gives a soft class, the class a fixed direction, and the pixels' deviations
from the patch's mean give Gaussian noise. Attention logits are the agreement of soft classes. The class token
pays the same to all patches, and is their mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.backbones.facets import parse_facet
from uss_bench.contracts import BackboneInfo, Batch, TrainablePart
from uss_bench.errors import UsageError
from uss_bench.plugins.specs import BackboneSpec

DIM, HEADS, BLOCKS, PATCH = 32, 2, 3, 4
CHROMA = torch.tensor(
    [
        [0.8, 0.1, 0.1],
        [0.1, 0.8, 0.1],
        [0.1, 0.1, 0.8],
        [0.45, 0.45, 0.1],
        [0.45, 0.1, 0.45],
        [0.1, 0.45, 0.45],
    ]
)
FACETS = (
    *("tokens", "cls", "tokens@i", "prefix@i", "queries@i", "keys@i", "values@i"),
    *("attention@i", "attention_mean@i", "attention_logits@i", "attention_logits_mean@i", "cls_attention@i"),
)
_SHARPNESS = 400.0
_NOISE = 0.25
_NUISANCE = 1.5
"""Deviation along the direction of the grain, against 1 for a class direction, in the net that has it."""
_BRIGHTNESS = 2.0
"""How far a patch of brightness 200 or 400 lies along the direction of brightness, in the net that has it."""
_QUIET = 0.2
"""How far f lies from e, along a direction without noise, in the net that has them close."""


class PlantedNet:
    """A `Backbone` of patch 4, three blocks and two heads.

    Args:
        spec: the plugin's spec.
        merged: give the classes e and f one direction, so that features cannot tell them apart.
        brightness: add a large direction that follows the brightness of a patch.
        faint: add a large direction that follows the grain of a patch, and bring e and f closer.
        quiet: bring e and f close: a direction without noise tells them apart, but hardly changes a cosine.
        attentive: compute the class token from the last attention, to which it then has a gradient.
        positions: ignored, there is no position embedding.
        weights: must be None.
    """

    patch = PATCH

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        merged: bool = False,
        brightness: bool = False,
        faint: bool = False,
        quiet: bool = False,
        attentive: bool = False,
        positions: str = "dino",
        weights: Path | None = None,
    ) -> None:
        if weights is not None:
            raise UsageError(f"{spec.name} has no weights.")
        generator = torch.Generator().manual_seed(7)
        directions = F.normalize(torch.randn(len(CHROMA), DIM, generator=generator), dim=1)
        if merged:
            directions[5] = directions[4]
        if faint:
            directions[5] = F.normalize(directions[4] + 0.6 * directions[5], dim=0)
        if quiet:
            silent = F.normalize(directions[5] - directions[5] @ directions[4] * directions[4], dim=0)
            directions[5] = directions[4] + _QUIET * silent
        self._directions = directions
        self._nuisance = F.normalize(torch.randn(DIM, generator=generator), dim=0)
        self._attentive = attentive
        self._gain = _BRIGHTNESS if brightness else 0.0
        self._noise = torch.randn(BLOCKS, 3 * PATCH**2, DIM, generator=generator) / (3 * PATCH**2) ** 0.5
        self._noise[BLOCKS - 1] = self._noise[BLOCKS - 2]  # the last block adds no noise of its own
        if faint:
            # Along the nuisance, the deviation of every block's noise is _NUISANCE.
            grain = self._noise[0, :, :1] / self._noise[0, :, 0].norm()
            self._noise += _NUISANCE / _NOISE * grain * self._nuisance
        if quiet:
            self._noise = self._noise - self._noise @ silent[:, None] * silent
        self._last = 0.05 * torch.randn(DIM, DIM, generator=generator) / DIM**0.5
        self.name = spec.name
        self.info = BackboneInfo(
            name=spec.name, patch=PATCH, dim=DIM, blocks=BLOCKS, heads=HEADS, prefix=1, facets=FACETS
        )
        self.sha256 = hashlib.sha256(
            f"planted-net 1 {merged} {brightness and _BRIGHTNESS}"
            f"{' faint' * faint}{' quiet' * quiet}{' attentive' * attentive}".encode()
        ).hexdigest()

    def to(self, device: torch.device) -> PlantedNet:
        self._directions, self._nuisance = self._directions.to(device), self._nuisance.to(device)
        self._noise, self._last = self._noise.to(device), self._last.to(device)
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return `facets` of `images`, float32 (B, 3, H, W) in [0, 1]."""
        with torch.set_grad_enabled(grad):
            found = {facet: self._facet(images, facet) for facet in facets}
            if self._attentive and "cls" in found:
                attention = found.get("attention", self._attention(images, "attention"))
                if grad:
                    attention.requires_grad_()
                paid = attention[:, :, 0, 1:].mean(dim=1)
                found["cls"] = torch.einsum("bp,bdp->bd", paid, self._tokens(images, BLOCKS).flatten(2))
            return found

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        if last_blocks != 1:
            raise UsageError(f"{self.name} can train its last block only.")
        return LastBlock(self._last)

    def _facet(self, images: Tensor, facet: str) -> Tensor:
        found = parse_facet(facet, self.info)
        if found.kind in ("tokens", "keys", "queries", "values"):
            tokens = self._tokens(images, found.block or BLOCKS)
            return tokens if found.block else last_block(tokens, self._last)
        if found.kind in ("cls", "prefix"):
            mean = self._tokens(images, found.block or BLOCKS).mean(dim=(2, 3))
            return mean if found.kind == "cls" else mean[:, None]
        return self._attention(images, found.kind)

    def _classes(self, images: Tensor) -> Tensor:
        """Return soft classes (B, 6, h, w)."""
        color = F.avg_pool2d(images, PATCH)
        chroma = color / color.sum(dim=1, keepdim=True).clamp_min(1e-3)
        centers = CHROMA.to(images.device)[None, :, :, None, None]
        return (-_SHARPNESS * (chroma[:, None] - centers).square().sum(dim=2)).softmax(dim=1)

    def _tokens(self, images: Tensor, block: int) -> Tensor:
        mean = F.avg_pool2d(images, PATCH)
        grain = images - F.interpolate(mean, scale_factor=PATCH, mode="nearest")
        b, _, h, w = mean.shape
        grain = F.unfold(grain, PATCH, stride=PATCH).reshape(b, -1, h, w)
        tokens = torch.einsum("bkhw,kd->bdhw", self._classes(images), self._directions)
        # Noise of the world's pixels has deviation 6 / 255; other images have another one.
        noise = torch.einsum("bphw,pd->bdhw", grain * (255 / 6), self._noise[block - 1])
        light = (mean.sum(dim=1, keepdim=True) * 255 - 300) / 100
        return tokens + _NOISE * noise + self._gain * light * self._nuisance[None, :, None, None]

    def _attention(self, images: Tensor, name: str) -> Tensor:
        classes = self._classes(images).flatten(2)
        logits = 4 * torch.einsum("bkp,bkq->bpq", classes, classes)
        logits = F.pad(logits, (1, 0, 1, 0))[:, None].expand(-1, HEADS, -1, -1)  # a CLS row and column
        if name == "cls_attention":
            h = images.shape[-2] // PATCH
            return logits.softmax(-1)[:, :, 0, 1:].unflatten(-1, (h, -1))
        found = logits if name.startswith("attention_logits") else logits.softmax(-1)
        return found.mean(dim=1) if name.endswith("_mean") else found


class LastBlock(TrainablePart):
    """The network's last block: a residual linear map."""

    inputs = ("tokens@-2", "prefix@-2")

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.norm = torch.nn.Identity()
        self.weight = torch.nn.Parameter(weight.clone())

    def forward(self, batch: Batch) -> Tensor:
        return last_block(batch["tokens@-2"], self.weight)


def last_block(tokens: Tensor, weight: Tensor) -> Tensor:
    return tokens + torch.einsum("bdhw,de->behw", tokens, weight)
