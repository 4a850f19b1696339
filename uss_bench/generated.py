"""Datasets that are drawn and not read: splits of numbered scenes, images apart from labels."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from uss_bench.contracts import ClassInfo
from uss_bench.errors import UsageError, did_you_mean
from uss_bench.specs import DatasetSpec

Render = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""Draws scene `number` of the world `seed`: image uint8 (H, W, 3) and label int16 (H, W)."""

_FINGERPRINTED = 8
_CACHED = 400


class Generated:
    """A generated dataset.

    Args:
        spec: its spec.
        render: the generator, a pure function.
        version: of the generator; part of the fingerprint.
        splits: first scene number and count of every split; the ranges must not meet.
        seed: another seed is another world of the same kind, and another fingerprint. 0 is the benchmark.

    Raises:
        UsageError: when the seed is no integer from 0 up.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        render: Render,
        version: int,
        splits: Mapping[str, tuple[int, int]],
        seed: int,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UsageError(f"The seed of {spec.name} is an integer from 0 up, not {seed!r}.")
        self.name = spec.name if seed == 0 else f"{spec.name}-seed{seed}"
        self.classes: Sequence[ClassInfo] = tuple(
            ClassInfo(row.name, row.colour, row.kind) for row in spec.classes
        )
        self.splits: Sequence[str] = tuple(splits)
        self.train_split = spec.train_split
        self.test_split = spec.test_split
        self._ranges = dict(splits)
        self._generator = f"{spec.name}@{version}"
        self._seed = seed
        # Two functions, so that no object on the images' side ever refers to a label.
        self._draw_image = functools.lru_cache(maxsize=_CACHED)(lambda number: render(seed, number)[0])
        self._draw_label = functools.lru_cache(maxsize=_CACHED)(lambda number: render(seed, number)[1])

    def images(self, split: str) -> GeneratedImages:
        return GeneratedImages(self._scenes(split, "images", self._draw_image))

    def labels(self, split: str) -> GeneratedLabels:
        return GeneratedLabels(self._scenes(split, "labels", self._draw_label))

    def prepare(self) -> None:
        """Do nothing: scenes are drawn when they are read."""

    def verify(self) -> str:
        counts = ", ".join(f"{split} {count}" for split, (_, count) in self._ranges.items())
        return f"{self._generator} is generated (seed {self._seed}; {counts} scenes): no file to check."

    def _scenes(self, split: str, what: str, draw: Callable[[int], np.ndarray]) -> _Scenes:
        if split not in self._ranges:
            raise UsageError(f"{self.name} has no split '{split}'.", hint=did_you_mean(split, self._ranges))
        first, count = self._ranges[split]
        return _Scenes(f"{self._generator} {what} {self._seed}", split, first, count, draw)


class _Scenes:
    """One side, images or labels, of the scenes of one split."""

    def __init__(
        self, identity: str, split: str, first: int, count: int, draw: Callable[[int], np.ndarray]
    ) -> None:
        self.ids: Sequence[str] = tuple(f"{split}-{index:03d}" for index in range(count))
        self._identity = identity
        self._first = first
        self._draw = draw

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"Scene {index} of {len(self)}.")
        # A copy, because a reader that writes into its array must not change the next reader's.
        return self._draw(self._first + index).copy()

    def fingerprint(self) -> str:
        """Return a digest of version, seed, range and the first scenes: enough for a frozen generator."""
        digest = hashlib.sha256(f"{self._identity} {self._first} {len(self)}".encode())
        for index in range(min(_FINGERPRINTED, len(self))):
            array = self[index]
            digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


class GeneratedImages:
    """Images of one split; see `uss_bench.contracts.Images`."""

    def __init__(self, scenes: _Scenes) -> None:
        self.ids = scenes.ids
        self._scenes = scenes

    def __len__(self) -> int:
        return len(self._scenes)

    def image(self, index: int) -> np.ndarray:
        return self._scenes[index]

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {}

    def fingerprint(self) -> str:
        return self._scenes.fingerprint()


class GeneratedLabels:
    """Labels of one split; see `uss_bench.contracts.Labels`."""

    def __init__(self, scenes: _Scenes) -> None:
        self.ids = scenes.ids
        self._scenes = scenes

    def __len__(self) -> int:
        return len(self._scenes)

    def label(self, index: int) -> np.ndarray:
        return self._scenes[index]

    def fingerprint(self) -> str:
        return self._scenes.fingerprint()
