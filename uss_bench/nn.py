"""Small parts that several methods truly share. Loops and losses stay in the methods.

Facts and constants are those of the STEGO lineage; every function says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "silu"]


class Projector(nn.Module):
    """The lineage's segmentation head: a linear path plus a one-hidden-layer path, added.

    z = Conv1×1(D→d)(drop(f)) + [Conv1×1(D→D) → act → Conv1×1(D→d)](drop(f)), where the two paths
    draw independent channel-dropout masks. STEGO uses ReLU and p = 0.1, SmooSeg SiLU and p = 0.2.
    """

    def __init__(self, in_channels: int, dim: int, *, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.linear = nn.Conv2d(in_channels, dim, 1)
        self.nonlinear = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 1),
            nn.ReLU() if activation == "relu" else nn.SiLU(),
            nn.Conv2d(in_channels, dim, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, h, w) to codes (B, d, h, w)."""
        code: Tensor = self.linear(self.dropout(features)) + self.nonlinear(self.dropout(features))
        return code


class Standardizer(nn.Module):
    """Subtracts a mean and divides by a deviation per channel; the identity until `fit`.

    The moments are those of the unlabelled training features. They bring the mean cosine between
    patches of different images to about zero, where constants tuned on DINO features expect it.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def fit(self, moments: tuple[Tensor, Tensor]) -> None:
        """Take (mean, deviation), each (D,). A channel that never varies is only centred."""
        mean, deviation = moments
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise (B, D, h, w)."""
        return (features - self.mean[:, None, None]) / self.deviation[:, None, None]


def cosine_logits(code: Tensor, prototypes: Tensor) -> Tensor:
    """Return the cosine of every pixel's code with every prototype.

    Args:
        code: (B, d, h, w), not necessarily normalised.
        prototypes: (K, d), not necessarily normalised.

    Returns:
        (B, K, h, w) in [-1, 1].
    """
    return torch.einsum("bdhw,kd->bkhw", F.normalize(code, dim=1), F.normalize(prototypes, dim=1))


def near_derangement(size: int, generator: torch.Generator) -> Tensor:
    """Draw a partner for each of `size` images, never itself: int64 (size,).

    A random permutation whose fixed points i move to (i + 1) mod size, as STEGO's and SmooSeg's code
    does ("near-derangement permutation" in DS²DL). It is not a bijection in general.

    Raises:
        ValueError: when size < 2, since a single image has no partner.
    """
    if size < 2:
        raise ValueError("a batch needs at least two images to pair each with another")
    permutation = torch.randperm(size, generator=generator)
    here = torch.arange(size)
    return torch.where(permutation == here, (here + 1) % size, permutation)


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
