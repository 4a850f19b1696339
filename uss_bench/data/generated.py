"""Datasets that are drawn and not read: splits of numbered scenes, images apart from labels."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from uss_bench.contracts import ClassInfo
from uss_bench.data.file_datasets import class_table, known_split
from uss_bench.errors import UsageError
from uss_bench.plugins.specs import DatasetSpec
from uss_bench.runtime.limits import LARGEST_SEED

Render = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""Draws scene `number` of the world `seed`: image uint8 (H, W, 3) and label int16 (H, W)."""

Draw = Callable[[int], np.ndarray]

_FINGERPRINTED = 8
_CACHED = 400


class Generated:
    """A generated dataset.

    Args:
        spec: its spec.
        render: the generator, a pure function.
        version: of the generator; part of the fingerprint.
        splits: first scene number and count of every split; the ranges must not meet.
        channels: draws further channels, (H, W), by their names: what lies beside the images, such as
            depth, and is no part of their fingerprint.
        seed: another seed is another world of the same kind, and another fingerprint. 0 is the benchmark.

    Raises:
        UsageError: when the seed is not an integer from 0 to `LARGEST_SEED`.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        render: Render,
        version: int,
        splits: Mapping[str, tuple[int, int]],
        seed: int,
        channels: Mapping[str, Callable[[int, int], np.ndarray]] | None = None,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
            raise UsageError(f"The seed of {spec.name} is an integer from 0 to {LARGEST_SEED}, not {seed!r}.")
        self.name = spec.name if seed == 0 else f"{spec.name}-seed{seed}"
        self.classes: Sequence[ClassInfo] = class_table(spec.classes)
        self.splits: Sequence[str] = tuple(splits)
        self.train_split = spec.train_split
        self.test_split = spec.test_split
        self._ranges = dict(splits)
        self._generator = f"{spec.name}@{version}"
        self._seed = seed

        def cached(draw: Callable[[int, int], np.ndarray]) -> Draw:
            return functools.lru_cache(maxsize=_CACHED)(functools.partial(draw, seed))

        # Two functions, so that no object on the images' side ever refers to a label.
        self._draw_image = cached(lambda seed, number: render(seed, number)[0])
        self._draw_label = cached(lambda seed, number: render(seed, number)[1])
        self._channels = {name: cached(draw) for name, draw in (channels or {}).items()}

    def images(self, split: str) -> GeneratedImages:
        channels = {name: _Scenes(*self._scenes(split, name), draw) for name, draw in self._channels.items()}
        return GeneratedImages(*self._scenes(split, "images"), self._draw_image, channels)

    def labels(self, split: str) -> GeneratedLabels:
        return GeneratedLabels(*self._scenes(split, "labels"), self._draw_label)

    def prepare(self) -> None:
        """Do nothing: scenes are drawn when they are read."""

    def verify(self) -> str:
        counts = ", ".join(f"{split} {count}" for split, (_, count) in self._ranges.items())
        return f"{self._generator} is generated (seed {self._seed}; {counts} scenes): no file to check."

    def _scenes(self, split: str, what: str) -> tuple[str, str, int, int]:
        first, count = self._ranges[known_split(self.name, split, self.splits)]
        return f"{self._generator} {what} {self._seed}", split, first, count


class _Scenes:
    """One side, images, labels or a further channel, of the scenes of one split."""

    def __init__(self, identity: str, split: str, first: int, count: int, draw: Draw) -> None:
        self.ids: Sequence[str] = tuple(f"{split}-{index:03d}" for index in range(count))
        self._identity = f"{identity} {first} {count}"
        self._first = first
        self._draw = draw

    def __len__(self) -> int:
        return len(self.ids)

    def scene(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"Scene {index} of {len(self)}.")
        # A copy, because a reader that writes into its array must not change the next reader's.
        return self._draw(self._first + index).copy()

    def fingerprint(self) -> str:
        """Return a digest of version, seed, range and the first scenes: enough for a frozen generator."""
        digest = hashlib.sha256(self._identity.encode())
        for index in range(min(_FINGERPRINTED, len(self))):
            array = self.scene(index)
            digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


class GeneratedImages(_Scenes):
    """Images of one split; see `uss_bench.contracts.Images`."""

    def __init__(
        self, identity: str, split: str, first: int, count: int, draw: Draw, channels: Mapping[str, _Scenes]
    ) -> None:
        super().__init__(identity, split, first, count, draw)
        self._channels = dict(channels)

    def image(self, index: int) -> np.ndarray:
        return self.scene(index)

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {name: scenes.scene(index) for name, scenes in self._channels.items()}

    def aux_fingerprint(self, channel: str) -> str:
        """Return a digest of an extra channel, '' for one that does not exist."""
        scenes = self._channels.get(channel)
        return "" if scenes is None else scenes.fingerprint()


class GeneratedLabels(_Scenes):
    """Labels of one split; see `uss_bench.contracts.Labels`."""

    def label(self, index: int) -> np.ndarray:
        return self.scene(index)
