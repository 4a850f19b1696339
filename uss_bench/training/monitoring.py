"""Label-free monitoring: what each offered state does with a fixed sample of training items.

It is computed when all else is done, from states restored into fresh instances, as candidates are. So
it can change no result: it meets neither the method in training nor a random number that it draws.
No label is read, and nothing is chosen by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from uss_bench.results.record import MonitorPoint

if TYPE_CHECKING:  # the terminal's tables need `collapse_warning` without torch
    from torch import Tensor

    from uss_bench.contracts import Batch, Method

SAMPLE_ITEMS = 64
HOLDING_FRACTION = 0.99
"""The share of patches that, in the hands of few clusters, makes a collapse."""
COLLAPSE_DIVISOR = 5
"""A state has collapsed when at most K divided by this many clusters hold that share."""
CONFIDENT = 0.9

_BATCH = 16


def sample_indices(n_items: int) -> list[int]:
    """Return at most 64 items, drawn at random but always the same of as many items, in order."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return sorted(torch.randperm(n_items, generator=generator)[:SAMPLE_ITEMS].tolist())


def sample_batches(n_items: int) -> list[list[int]]:
    """Return the sample in batches that a method embeds at once."""
    chosen = sample_indices(n_items)
    return [chosen[start : start + _BATCH] for start in range(0, len(chosen), _BATCH)]


def monitor(
    states: Iterable[tuple[int | None, Method]], batches: Sequence[Batch], alpha: float
) -> list[MonitorPoint]:
    """Read every state on the sample.

    Args:
        states: step and the method restored at it, in the order of training; one is kept at a time.
        batches: what `Method.embed` receives for the sampled items.
        alpha: softmax temperature.
    """
    points: list[MonitorPoint] = []
    before: np.ndarray | None = None
    for step, method in states:
        clusters, probability, k = _read(method, batches, alpha)
        points.append(point(step, clusters, probability, k, before))
        before = clusters
    return points


def _read(method: Method, batches: Sequence[Batch], alpha: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the cluster of every patch, int64 (P,), its probability, float32 (P,), and K."""
    import torch

    clusters: list[Tensor] = []
    probability: list[Tensor] = []
    k = 0
    for batch in batches:
        with torch.no_grad():
            logits = method.classify(method.embed(batch))
        k = logits.shape[1]
        best, index = torch.softmax(alpha * logits.float(), dim=1).max(dim=1)
        clusters.append(index.flatten().cpu())
        probability.append(best.flatten().cpu())
    return torch.cat(clusters).numpy(), torch.cat(probability).numpy(), k


def point(
    step: int | None, clusters: np.ndarray, probability: np.ndarray, k: int, before: np.ndarray | None
) -> MonitorPoint:
    """Sum up one state.

    Agreement compares clusters by their number. Within a run a number stands for one prototype that
    moves, so two numbers that swap are a change of the labeling, which matching them anew would hide.

    Args:
        clusters: of every sampled patch, integers (P,) in 0..k-1.
        probability: of that cluster, (P,).
        k: number of clusters.
        before: `clusters` at the point before.
    """
    shares = np.bincount(clusters, minlength=k) / len(clusters)
    descending = np.sort(shares)[::-1]
    # The sum of all shares may fall short of 1 by rounding, and 99 of 100 patches are 99 %.
    holding = int(np.argmax(np.cumsum(descending) >= HOLDING_FRACTION - 1e-9)) + 1
    return MonitorPoint(
        step=step,
        entropy=rounded(balance(shares)),
        used=int((shares > 0).sum()),
        holding=holding,
        largest=rounded(descending[0]),
        agreement=None if before is None else rounded((clusters == before).mean()),
        confident=rounded((probability > CONFIDENT).mean()),
        confidence=rounded(probability.mean(dtype=np.float64)),
    )


def balance(shares: np.ndarray) -> float:
    """Return the entropy of the clusters' shares, (K,): 0 where one has all, 1 where all have the same."""
    used = shares[shares > 0]
    return float(-(used * np.log(used)).sum() / math.log(len(shares))) if len(shares) > 1 else 0.0


def collapse_warning(points: Sequence[MonitorPoint], k: int) -> str | None:
    """Return the warning that the final state has collapsed, or None.

    The rule: 99 % of the sampled patches lie in at most a fifth of the clusters (rounded down, but at
    least one cluster). With K = 27 these are 5 clusters, with K = 11 they are 2, with K = 3 it is 1.
    """
    if not points or k < 2 or points[-1].holding > max(1, k // COLLAPSE_DIVISOR):
        return None
    held = points[-1].holding
    return f"{held} of {k} clusters {'holds' if held == 1 else 'hold'} {HOLDING_FRACTION:.0%} of the patches"


def rounded(value: float) -> float:
    """Return a value as records keep it."""
    return round(float(value), 6) + 0.0  # no −0.0 in a record
