"""The concept bank of CAUSE: the newest teacher projections of every code."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NEWEST = 100
"""Projections that are kept per code."""
_SHARE = 0.5
"""Of the new projections of a code, a random half enters the bank."""


class Bank:
    """Unit projections (R, P), and the code (R,) that each belongs to.

    They are in half precision, which the released code computes them in. A row is never moved: of a code
    with 100 rows the oldest is overwritten, so that a step costs what is new and not what is kept. The
    released code builds all of it again in every step, in float32.

    Args:
        codes: K.
        projection: P.
    """

    def __init__(self, codes: int, projection: int, device: torch.device) -> None:
        self._projections = torch.empty(0, projection, dtype=torch.float16, device=device)
        self._owners = torch.empty(0, dtype=torch.int64, device=device)
        self._rows = torch.full((codes, NEWEST), -1, device=device)
        """The row of every place of a code's ring, -1 while there is none."""
        self._seen = torch.zeros(codes, dtype=torch.int64, device=device)
        """How many entered for each code, ever: the place of the next, modulo 100."""
        self._used = 0

    @property
    def vectors(self) -> Tensor:
        return self._projections[: self._used]

    @property
    def codes(self) -> Tensor:
        return self._owners[: self._used]

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Add a random half of each code's vectors, and forget what is older than the newest 100.

        Args:
            vectors: (n, P), of any length.
            codes: int64 (n,).
        """
        order = torch.randperm(len(codes), generator=generator).to(codes.device)
        codes = codes[order]
        rank, entering = _rank(codes), (_SHARE * torch.bincount(codes, minlength=len(self._seen))).long()
        chosen = (rank < entering[codes]) & (rank >= entering[codes] - NEWEST)
        codes, rank = codes[chosen], rank[chosen]
        place = (self._seen[codes] + rank) % NEWEST
        self._seen += entering
        rows = self._rows[codes, place]
        new = rows < 0
        rows[new] = torch.arange(self._used, self._used + int(new.sum()), device=rows.device)
        self._rows[codes, place] = rows
        self._grow(self._used + int(new.sum()))
        self._projections[rows] = F.normalize(vectors[order[chosen]].float(), dim=1).half()
        self._owners[rows] = codes

    def _grow(self, needed: int) -> None:
        self._used = needed
        if needed > len(self._owners):
            room = min(2 * needed, self._rows.numel()) - len(self._owners)
            more = self._projections.new_zeros(room, self._projections.shape[1])
            self._projections = torch.cat([self._projections, more])
            self._owners = torch.cat([self._owners, self._owners.new_zeros(room)])

    def state_dict(self) -> dict[str, Any]:
        return {"vectors": self.vectors, "codes": self.codes, "rows": self._rows, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._projections, self._owners = state["vectors"], state["codes"]
        self._rows, self._seen = state["rows"], state["seen"]
        self._used = len(self._owners)


def _rank(codes: Tensor) -> Tensor:
    """Return how many equal codes stand before each."""
    order = codes.argsort(stable=True)
    ordered = codes[order]
    ranks = torch.empty_like(codes)
    ranks[order] = torch.arange(len(codes), device=codes.device) - torch.searchsorted(ordered, ordered)
    return ranks
