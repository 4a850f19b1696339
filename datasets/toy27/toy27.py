"""The dataset `toy27`: generated street scenes, 27 classes, exact labels, nothing to download."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from uss_bench.contracts import ClassInfo
from uss_bench.errors import UsageError, did_you_mean
from uss_bench.specs import DatasetSpec

from .scenes import VERSION, render

SPLITS = {"train": (0, 300), "test": (10_000, 100), "heldout": (20_000, 60)}
"""First scene number and count of every split; the ranges do not meet."""

_FINGERPRINTED = 8


# Two caches, so that no object on the images' side ever refers to a label.
@functools.lru_cache(maxsize=400)
def _image(seed: int, number: int) -> np.ndarray:
    return render(seed, number)[0]


@functools.lru_cache(maxsize=400)
def _label(seed: int, number: int) -> np.ndarray:
    return render(seed, number)[1]


class _Scenes:
    """Scenes of one split, drawn on demand by `read`."""

    def __init__(self, seed: int, split: str) -> None:
        self._seed = seed
        self._first, count = SPLITS[split]
        self.ids: Sequence[str] = tuple(f"{split}-{index:03d}" for index in range(count))

    def __len__(self) -> int:
        return len(self.ids)

    def _get(self, read: Callable[[int, int], np.ndarray], index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"Scene {index} of {len(self)}.")
        # A copy, because a reader that writes into its array must not change the next reader's.
        return read(self._seed, self._first + index).copy()

    def _digest(self, read: Callable[[int, int], np.ndarray], what: str) -> str:
        digest = hashlib.sha256(f"toy27@{VERSION} {what} {self._seed} {self._first} {len(self)}".encode())
        for index in range(_FINGERPRINTED):
            array = self._get(read, index)
            digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


class Toy27Images(_Scenes):
    """Images of one split, uint8 (192, 256, 3)."""

    def image(self, index: int) -> np.ndarray:
        return self._get(_image, index)

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {}

    def fingerprint(self) -> str:
        """Return a digest of version, seed, range and the first scenes: enough for a frozen generator."""
        return self._digest(_image, "images")


class Toy27Labels(_Scenes):
    """Labels of one split, int16 (192, 256)."""

    def label(self, index: int) -> np.ndarray:
        return self._get(_label, index)

    def fingerprint(self) -> str:
        return self._digest(_label, "labels")


class Toy27:
    """The dataset.

    Args:
        seed: another seed is another world of the same kind, and another fingerprint. 0 is the benchmark.

    Raises:
        UsageError: when the seed is no integer from 0 up.
    """

    def __init__(self, spec: DatasetSpec, *, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UsageError(f"The seed of toy27 is an integer from 0 up, not {seed!r}.")
        self.name = spec.name if seed == 0 else f"{spec.name}-seed{seed}"
        self.classes: Sequence[ClassInfo] = tuple(
            ClassInfo(row.name, row.colour, row.kind) for row in spec.classes
        )
        self.splits: Sequence[str] = tuple(SPLITS)
        self.train_split = spec.train_split
        self.test_split = spec.test_split
        self._seed = seed

    def images(self, split: str) -> Toy27Images:
        return Toy27Images(self._seed, self._known(split))

    def labels(self, split: str) -> Toy27Labels:
        return Toy27Labels(self._seed, self._known(split))

    def prepare(self) -> None:
        """Do nothing: scenes are drawn when they are read."""

    def verify(self) -> str:
        counts = ", ".join(f"{split} {count}" for split, (_, count) in SPLITS.items())
        return (
            f"toy27 is generated (version {VERSION}, seed {self._seed}; {counts} scenes): no file to check."
        )

    def _known(self, split: str) -> str:
        if split not in SPLITS:
            raise UsageError(f"{self.name} has no split '{split}'.", hint=did_you_mean(split, SPLITS))
        return split
