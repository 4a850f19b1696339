"""Some items of features, for what learns from a part of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor


class ReadsBatches(Protocol):
    """The part of `uss_bench.contracts.Features` that reads items by index, which some of them have too."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int] | Tensor) -> Mapping[str, Tensor]: ...


class SomeItems:
    """Some items of features, by their place among them.

    Args:
        rows: indices of the items, in the order in which they are wanted.
    """

    def __init__(self, features: ReadsBatches, rows: Sequence[int]) -> None:
        self._features = features
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Sequence[int] | Tensor) -> Mapping[str, Tensor]:
        return self._features.batch([self._rows[int(index)] for index in indices])
