"""The order in which a method sees its training items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


class ShuffledBatches(Iterator[Sequence[int]]):
    """Batches of item indices for ever: a new permutation each epoch, short batches dropped.

    With fewer items than `batch_size` every batch is all items, shuffled.
    """

    def __init__(self, n_items: int, batch_size: int, generator: torch.Generator) -> None:
        self._size = min(batch_size, n_items)
        self._n_items = n_items
        self._generator = generator
        self._order: list[int] = []
        self._next = 0

    def __next__(self) -> Sequence[int]:
        if self._next + self._size > len(self._order):
            self._order = torch.randperm(self._n_items, generator=self._generator).tolist()
            self._next = 0
        start, self._next = self._next, self._next + self._size
        return self._order[start : self._next]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the epoch's order, the place in it, and the generator's state."""
        return {
            "order": torch.tensor(self._order, dtype=torch.int64),
            "next": torch.tensor(self._next),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._order = state["order"].tolist()
        self._next = int(state["next"])
        self._generator.set_state(state["generator"].cpu())
