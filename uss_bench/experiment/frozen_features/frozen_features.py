"""The frozen features themselves, as a method whose code a linear probe can read."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from uss_bench.contracts import Batch, Context, Images


class FrozenFeatures:
    """A method without parameters, training or state."""

    def train(self, data: Images, ctx: Context) -> None:
        """Learn nothing."""

    def embed(self, batch: Batch) -> Tensor:
        return batch["tokens"]

    def classify(self, code: Tensor) -> Tensor:
        return code

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore nothing."""
