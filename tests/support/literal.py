"""The evaluation read literally, one pixel at a time and in float64, and a method to read it with."""

from __future__ import annotations

import math

import numpy as np
import torch
from fakes import FakeBackbone
from torch import Tensor

from uss_bench.data.geometry import TransformedImages
from uss_bench.protocol import Protocol

PATCH, CLUSTERS, CLASSES = FakeBackbone.patch, 5, 3


class Toy:
    """An affine code of patch means, and cosines with prototypes: the two do not commute with averages."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.matrix = rng.normal(size=(4, 9)).astype(np.float32)
        self.offset = np.repeat(np.float32([0, 1 / 3, 2 / 3]), 3)[:, None, None]  # about the tokens' means
        self.prototypes = rng.normal(size=(CLUSTERS, 4)).astype(np.float32)
        self.classified: list[tuple[int, ...]] = []

    def embed(self, batch: dict[str, Tensor]) -> Tensor:
        centered = batch["tokens"] - torch.from_numpy(self.offset)
        return torch.einsum("dc,bchw->bdhw", torch.from_numpy(self.matrix), centered)

    def classify(self, code: Tensor) -> Tensor:
        self.classified.append(tuple(code.shape))
        scaled = code / code.norm(dim=1, keepdim=True)
        return torch.einsum("kd,bdhw->bkhw", torch.from_numpy(self.prototypes), scaled)


class Live:
    """Features computed anew for every batch."""

    facets = ("tokens",)

    def __init__(self, items: TransformedImages) -> None:
        self.items = items

    def batch(self, indices) -> dict[str, Tensor]:
        images = torch.from_numpy(np.stack([self.items[int(i)] for i in indices]))
        return FakeBackbone()(images.permute(0, 3, 1, 2) / 255, ["tokens"])


def literal_tokens(image: np.ndarray) -> np.ndarray:
    """`FakeBackbone`'s tokens in float64, (9, h, w)."""
    h, w = image.shape[0] // PATCH, image.shape[1] // PATCH
    cells = (image / 255).reshape(h, PATCH, w, PATCH, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    return np.concatenate([cells - 0.5, cells**2, np.sqrt(cells)])


def literal_code(method: Toy, image: np.ndarray) -> np.ndarray:
    return np.einsum("dc,chw->dhw", method.matrix.astype(np.float64), literal_tokens(image) - method.offset)


def literal_bilinear(code: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation between the centers of cells, pixel by pixel (align_corners=False)."""
    channels, h, w = code.shape
    height, width = size
    result = np.empty((channels, height, width))
    for i in range(height):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        for j in range(width):
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            v, u = y - top, x - left
            result[:, i, j] = (1 - v) * ((1 - u) * code[:, top, left] + u * code[:, top, right]) + v * (
                (1 - u) * code[:, bottom, left] + u * code[:, bottom, right]
            )
    return result


def literal_classify(method: Toy, code: np.ndarray) -> np.ndarray:
    unit = code / np.sqrt((code**2).sum(axis=0))
    return np.einsum("kd,dhw->khw", method.prototypes.astype(np.float64), unit)


def literal_logits(method: Toy, image: np.ndarray, protocol: Protocol, size: tuple[int, int]) -> np.ndarray:
    """Logits (K, H, W) at `size` of an image as the backbone sees it."""
    code = literal_code(method, image)
    if protocol.flip:
        code = (code + literal_code(method, image[:, ::-1])[:, :, ::-1]) / 2
    if protocol.upsample == "code":
        return literal_classify(method, literal_bilinear(code, size))
    return literal_bilinear(literal_classify(method, code), size)


def literal_counts(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    counts = np.zeros((CLUSTERS, CLASSES), dtype=np.int64)
    for k, c in zip(prediction.flat, label.flat, strict=True):
        if c >= 0:
            counts[k, c] += 1
    return counts
