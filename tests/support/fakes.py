"""Small stand-ins for what surrounds a unit: images, a backbone, features, a context and a CRF."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.backbones.facets import parse_facet
from uss_bench.contracts import BackboneInfo, Sampler
from uss_bench.plugins.registry import Registry
from uss_bench.runtime.seeding import derive_seed


class ArrayImages:
    """Images that lie in memory."""

    def __init__(self, arrays: Sequence[np.ndarray], aux: Sequence[Mapping[str, np.ndarray]] = ()) -> None:
        self.arrays = list(arrays)
        self.extra = list(aux)
        self.ids = [f"image-{index}" for index in range(len(arrays))]

    @classmethod
    def random(cls, count: int, height: int, width: int, seed: int = 0) -> ArrayImages:
        rng = np.random.default_rng(seed)
        return cls(list(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)))

    def __len__(self) -> int:
        return len(self.arrays)

    def image(self, index: int) -> np.ndarray:
        return self.arrays[index]

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return self.extra[index] if self.extra else {}

    def fingerprint(self) -> str:
        return hashlib.sha256(b"".join(array.tobytes() for array in self.arrays)).hexdigest()


class ArrayLabels:
    """Label maps that lie in memory."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = list(arrays)
        self.ids = [f"image-{index}" for index in range(len(arrays))]

    def __len__(self) -> int:
        return len(self.arrays)

    def label(self, index: int) -> np.ndarray:
        return self.arrays[index]

    def fingerprint(self) -> str:
        return "labels"


class FakeBackbone:
    """Patch means and what follows from them elementwise: the same bits for every batch size.

    Args:
        fail_at: raise when the image of this number (from 0, over all calls) is reached.
    """

    patch = 4
    name = "fake"
    info = BackboneInfo("fake", 4, 9, blocks=1, heads=1, facets=("tokens", "keys@i", "cls"))

    def __init__(
        self,
        sha256: str = "fake weights",
        *,
        gain: float = 1.0,
        fail_at: int | None = None,
        positions: str = "",
    ) -> None:
        self.sha256 = sha256
        self.positions = positions
        self.gain = gain
        self.fail_at = fail_at
        self.calls: list[tuple[int, tuple[str, ...]]] = []

    def to(self, device: torch.device) -> FakeBackbone:
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        self.calls.append((len(images), tuple(facets)))
        if self.fail_at is not None and sum(size for size, _ in self.calls) > self.fail_at:
            raise RuntimeError("the backbone broke")
        cells = F.avg_pool2d(images, self.patch)
        known = {
            "tokens": self.gain * torch.cat([cells - 0.5, cells**2, cells.sqrt()], dim=1),
            "keys@1": torch.cat([1 - cells, cells / 2, cells**3], dim=1),
        }
        known["cls"] = known["tokens"].amax(dim=(2, 3)) / self.gain
        return {facet: known[str(parse_facet(facet, self.info))] for facet in facets}


class MemoryFeatures:
    """Tokens (N, D, h, w) in memory, which remember the batches that were read."""

    facets = ("tokens",)

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self.read: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"tokens": self.tokens[index]}

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        self.read.append(self.tokens[torch.as_tensor(indices)])
        return {"tokens": self.read[-1]}

    def batches(self, sampler: Sampler) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        while True:
            indices = next(sampler)
            yield indices, self.batch(indices)

    def moments(self, facet: str) -> tuple[Tensor, Tensor]:
        return self.tokens.mean((0, 2, 3)), self.tokens.std((0, 2, 3), correction=0)

    def source(self, index: int) -> tuple[int, int]:
        return index, 0


class FakeContext:
    """A context over features in memory that keeps what a method reports and offers."""

    device = torch.device("cpu")
    scratch = Path()

    def __init__(self, method: object, features: MemoryFeatures, seed: int = 0) -> None:
        self.seed = seed
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.offers: list[tuple[int, dict[str, Tensor]]] = []
        self._method = method
        self._features = features

    def features(self, facets: Sequence[str] = ("tokens",)) -> MemoryFeatures:
        return self._features

    def generator(self, purpose: str, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, purpose, *key))

    def progress(self, iterable: Iterable[int], *, total: int, label: str) -> Iterator[int]:
        return iter(iterable)

    def steps(self, total: int, /, *, label: str = "", **keep: object) -> Iterator[int]:
        return iter(range(1, total + 1))

    def report(self, step: int, **scalars: float | Tensor) -> None:
        values = {name: float(torch.as_tensor(value).detach()) for name, value in scalars.items()}
        self.reports.append((step, values))

    def checkpoint(self, step: int) -> None:
        state = self._method.state_dict()
        self.offers.append((step, {name: value.detach().clone() for name, value in state.items()}))


class FakePool:
    """A CRF that moves every pixel to the next cluster, and keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def labels(
        self, items: Iterable[tuple[np.ndarray, np.ndarray]], names: Sequence[str] = ()
    ) -> Iterator[np.ndarray]:
        for image, log_probabilities in items:
            self.seen.append((image, log_probabilities))
            yield (log_probabilities.argmax(axis=0) + 1) % len(log_probabilities)


def method_module(name: str, entry: str = "", folders: Sequence[Path] = ()) -> ModuleType:
    """Return the module of a method's entry, or of another one, as the registry imports it.

    Args:
        folders: where to look beside the built-in methods.
    """
    return sys.modules[Registry(folders).find("methods", name).load(entry).__module__]


def planted(
    counts: Sequence[int], *, channels: int, images: int, side: int, noise: float, seed: int
) -> tuple[Tensor, np.ndarray]:
    """Plant classes in features: a random direction per class, plus noise.

    Args:
        counts: relative size of each class; every image shows all classes, in blocks.

    Returns:
        Tokens float32 (images, channels, side, side), and labels int64 (images, side, side).
    """
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(len(counts), channels))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    borders = np.cumsum(counts)[:-1] / sum(counts) * side**2
    labels = np.stack(
        [
            np.searchsorted(borders, (np.arange(side**2) + rng.integers(side**2)) % side**2, side="right")
            for _ in range(images)
        ]
    ).reshape(images, side, side)
    tokens = directions[labels] + noise * rng.normal(size=(*labels.shape, channels)) / channels**0.5
    return torch.from_numpy(tokens).permute(0, 3, 1, 2).float().contiguous(), labels
