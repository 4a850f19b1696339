"""A training step with its two costly parts exchangeable: where features come from, and the pair loss.

No script. The step is that of the method's own loop, projector, optimizer and teacher included, in all
cases. In the reference case the backbone runs at every step and the loss makes its N × N matrices.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from unittest.mock import patch

import numpy as np
import timm
import torch
from literal_losses import PLACES
from measuring import method_module
from torch import Tensor

from uss_bench.contracts import BackboneInfo
from uss_bench.data.geometry import TransformedImages
from uss_bench.features.reader import FeatureReader
from uss_bench.features.store import FeatureStore
from uss_bench.plugins.registry import Registry

PATCH, CHANNELS = 8, 384
CPU = torch.device("cpu")


class Noise:
    """Stands for a backbone where only shape and size of the features matter."""

    name = sha256 = "noise"
    patch = PATCH
    info = BackboneInfo(name, PATCH, CHANNELS)

    def to(self, device: torch.device) -> Self:
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
        return {"tokens": torch.randn(len(images), CHANNELS, *grid)}


class RandomViT(Noise):
    """A ViT-S/8 with random weights: as costly as a trained one, and there without a download.

    Args:
        side: of the images, pixels.
        blocks: depth; a ViT-S has 12.
    """

    name = sha256 = "random-vits8"

    def __init__(self, side: int, blocks: int = 12) -> None:
        torch.manual_seed(0)
        model = timm.create_model("vit_small_patch8_224", img_size=side, depth=blocks, num_classes=0)
        self.model = model.requires_grad_(False).eval()
        assert all(block.attn.fused_attn for block in self.model.blocks), "attention must be fused"

    @torch.no_grad()
    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Map float32 (B, 3, H, W) to ``tokens`` (B, 384, H / 8, W / 8)."""
        grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
        tokens = self.model.forward_features(images)[:, self.model.num_prefix_tokens :]
        return {"tokens": tokens.transpose(1, 2).unflatten(2, grid).contiguous()}


class Blank:
    """`count` images of one color: what a store needs to be filled by `Noise`."""

    def __init__(self, count: int, side: int) -> None:
        self.ids = [f"blank-{index}" for index in range(count)]
        self._image = np.zeros((side, side, 3), np.uint8)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        return self._image

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {}

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{len(self)} {self._image.shape}".encode()).hexdigest()


def stored_noise(folder: Path, count: int, side: int) -> FeatureReader:
    """Return a reader of `count` items that lie in a memory map, float16, as after an extraction."""
    store = FeatureStore(folder, Noise(), device=CPU, log=lambda message: None)
    return store.open(TransformedImages(Blank(count, side), side=side, filter="bilinear"), ["tokens"])


class Live:
    """Features computed anew for every batch, from one contiguous batch of images in memory.

    Decoding, resizing and augmenting images is not counted: it may run beside the step.
    """

    facets = ("tokens",)

    def __init__(self, backbone: RandomViT, images: Tensor, count: int) -> None:
        self.backbone = backbone
        self.images = images
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"tokens": self.batch([index])["tokens"][0]}

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        return self.backbone(self.images[: len(indices)], ["tokens"])


class TimedContext:
    """What `train` asks of a context, with the seconds of each step."""

    device = CPU

    def __init__(self, features: Live | FeatureReader) -> None:
        self.seconds: list[float] = []
        self._features = features

    def features(self, facets: Sequence[str]) -> Live | FeatureReader:
        return self._features

    def generator(self, purpose: str, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def steps(self, total: int, /, *, label: str = "", **keep: object) -> Iterator[int]:
        for step in range(1, total + 1):
            start = time.perf_counter()
            yield step
            self.seconds.append(time.perf_counter() - start)

    def derived(self, name: str, build: object, *, params: object) -> dict[str, np.ndarray]:
        """Return a table of random neighbors: whose features they are is all the same to the clock."""
        rng = np.random.default_rng(0)
        return {"neighbors": rng.integers(0, len(self._features), (len(self._features), 30))}

    def report(self, step: int, **scalars: Tensor) -> None:
        """Keep nothing."""

    def checkpoint(self, step: int) -> None:
        """Keep nothing."""


def step_seconds(
    method: str, features: Live | FeatureReader, *, literal: bool, batch_size: int, steps: int
) -> float:
    """Train for `steps` steps after one that is not counted, and return their median seconds.

    Args:
        method: its name; parameters are its defaults, but K = 27.
        features: read at every step, or computed at every step.
        literal: whether the pair loss is the literal one.
    """
    learner = Registry().find("methods", method).load()
    home, name, form = PLACES[method]
    module = home or method_module(method)
    context = TimedContext(features)
    torch.manual_seed(0)
    with patch.object(module, name, form if literal else getattr(module, name)):
        learner(clusters=27, steps=steps + 1, batch_size=batch_size).train(None, context)
    return statistics.median(context.seconds[1:])
