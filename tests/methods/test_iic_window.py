"""IIC's window where nothing else sees beyond a pixel: a network without a field of view in its place.

What stands out in a pixel is shared by its cell of 2 × 2 pixels alone, what is faint by half of the image.
With IIC's own network the window makes no such difference: its README has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from fakes import FakeContext, MemoryFeatures, method_module
from torch import Tensor, nn

from uss_bench.nn.lloyd import lloyd, nearest

iic = method_module("iic")
SIDE, CELL = 32, 2
STRONG, FAINT, NOISE = 60.0, 30.0, 10.0
"""Gray levels: of the cells in red, of the classes in blue, and the deviation of every pixel."""
WORLD = {"over_clusters": 4, "epochs": 10, "batch_size": 4, "lr": 2e-2, "jitter": 0.1, "hue": 0.0}
SEEDS = (5, 6, 7)
"""None that the world or the settings were chosen on."""


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return image float32 (3, 32, 32) in [0, 1] and label bool (32, 32): two sides of a line."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(-SIDE / 8, SIDE / 8)
    label = rows * np.sin(angle) + columns * np.cos(angle) > shift
    signs = rng.choice([-1.0, 1.0], (SIDE // CELL, SIDE // CELL)).repeat(CELL, axis=0).repeat(CELL, axis=1)
    image = np.stack([STRONG * signs, 0 * signs, np.where(label, FAINT, -FAINT)])
    image = np.clip(128 + image + rng.normal(0, NOISE, image.shape), 0, 255) / 255
    return image.astype(np.float32), label


def scenes(numbers: Sequence[int]) -> tuple[Tensor, np.ndarray]:
    images, labels = zip(*map(scene, numbers), strict=True)
    return torch.from_numpy(np.stack(images)), np.stack(labels)


class ImageFeatures(MemoryFeatures):
    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        return {"image": self.tokens[torch.as_tensor(indices)]}


class Pixelwise(nn.Module):
    """Class probabilities (B, K, H, W) of each pixel by itself, which are nearly uniform at first.

    So what is told by most pairs of places grows first, and not what the first weights happen to prefer.
    """

    def __init__(self, over_clusters: int, clusters: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.heads = nn.ModuleDict({"over": nn.Conv2d(8, over_clusters, 1), "own": nn.Conv2d(8, clusters, 1)})
        for head in self.heads.values():
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, images: Tensor, head: str) -> Tensor:
        logits: Tensor = self.heads[head](self.trunk(images))
        return logits.softmax(dim=1)


def score(found: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy in percent of two clusters, matched to the two classes."""
    equal = 100 * float(np.mean(found.astype(bool) == labels))
    return max(equal, 100 - equal)


def accuracy(seed: int, monkeypatch: pytest.MonkeyPatch, **params: object) -> float:
    """Return the accuracy of IIC, trained as it is but for its network, on scenes it has not seen."""
    torch.manual_seed(seed)
    method = iic.IIC(clusters=2, **{**WORLD, **params})
    monkeypatch.setattr(iic.IIC, "_net", lambda self: Pixelwise(self.over_clusters, self.clusters))
    method.train(None, FakeContext(method, ImageFeatures(scenes(range(16))[0]), seed))
    images, labels = scenes(range(1000, 1008))
    with torch.no_grad():
        return score(method.embed({"image": images}).argmax(dim=1).numpy(), labels)


def kmeans_accuracy(seed: int) -> float:
    """Return that of k-means on the colors of pixels."""
    colors = scenes(range(16))[0].permute(0, 2, 3, 1).reshape(-1, 3)
    images, labels = scenes(range(1000, 1008))
    centroids = lloyd(colors, 2, 20, torch.Generator().manual_seed(seed))
    found = nearest(images.permute(0, 2, 3, 1).reshape(-1, 3), centroids)
    return score(found.numpy().reshape(labels.shape), labels)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_window_finds_what_neighbors_share(seed, monkeypatch):
    whole, alone = (accuracy(seed, monkeypatch, half_window=half) for half in (8, 0))
    assert whole > alone + 5
    assert whole > kmeans_accuracy(seed) - 5
    assert whole > 50 + 20  # chance
