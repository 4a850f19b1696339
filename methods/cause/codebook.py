"""CAUSE's codebook: learned by modularity, learned by k-means, or read from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Context
from uss_bench.errors import UsageError
from uss_bench.files.arrays import read_npy
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.kmeans import kmeans_plus_plus, minibatch_step

from .modularity import modularity_loss

Draw = Callable[[], Tensor]
"""Returns the pooled tokens (B, n, D) of the next batch."""
_SEEDS = 10
"""Tokens per code that k-means++ draws from."""


def modularity_codebook(
    tokens: Draw,
    start: Tensor,
    lr: float,
    steps: int,
    ctx: Context,
    *,
    draws: torch.Generator,
    batches: ShuffledBatches,
) -> Tensor:
    """Return the codebook (codes, D) that gradient steps lead to from `start`, as the paper finds it."""
    codebook = start.requires_grad_()
    optimizer = torch.optim.Adam([codebook], lr=lr)
    for step in ctx.steps(
        steps, label="codebook", codebook=codebook, optimizer=optimizer, draws=draws, batches=batches
    ):
        loss = modularity_loss(codebook, tokens())
        descend(loss, optimizer)
        if step == 1 or step % 50 == 0:
            ctx.report(step, codebook=loss)
    return codebook.detach()


def kmeans_codebook(
    tokens: Draw,
    codes: int,
    steps: int,
    ctx: Context,
    *,
    draws: torch.Generator,
    batches: ShuffledBatches,
) -> Tensor:
    """Return centers (codes, D) that k-means++ draws and mini-batch k-means moves: the paper's ablation.

    What the paper says of it is "k-means++"; the mini-batch steps on unit vectors are inferred.
    """
    found: list[Tensor] = []
    while sum(map(len, found)) < _SEEDS * codes:
        found.append(F.normalize(tokens().flatten(0, 1), dim=1))
    codebook = kmeans_plus_plus(torch.cat(found), codes, draws)
    seen = torch.zeros(codes, device=ctx.device)
    for step in ctx.steps(
        steps, label="codebook", codebook=codebook, seen=seen, draws=draws, batches=batches
    ):
        cosine = minibatch_step(codebook, seen, F.normalize(tokens().flatten(0, 1), dim=1))
        if step == 1 or step % 50 == 0:
            ctx.report(step, codebook=-cosine)
    return codebook


def load_codebook(path: Path, channels: int) -> Tensor:
    """Return the codebook (codes, D) in a .npy file, float32.

    Raises:
        DataError: when the file cannot be read.
        UsageError: when it is no finite matrix of D columns.
    """
    found = read_npy(path)
    if found.ndim != 2 or found.shape[1] != channels or not len(found) or found.dtype.kind != "f":
        shape = "×".join(map(str, found.shape))
        raise UsageError(
            f"codebook: {path} holds {found.dtype} of shape {shape}; codes are rows of {channels} floats.",
            hint="A codebook belongs to the backbone that it was learned from.",
        )
    codebook = torch.from_numpy(found).float()
    if not codebook.isfinite().all():
        raise UsageError(f"codebook: {path} holds numbers that are not finite.")
    return codebook


def uniform(count: int, dim: int, generator: torch.Generator, ctx: Context) -> Tensor:
    """Draw rows uniform in [−1 / count, 1 / count], the released initialization."""
    return ((2 * torch.rand(count, dim, generator=generator) - 1) / count).to(ctx.device)


def descend(
    loss: Tensor, optimizer: torch.optim.Optimizer, clipped: nn.Module | None = None, limit: float = 0.0
) -> None:
    """Take one step; the norm of the gradient of `clipped` is at most `limit`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clipped is not None:
        nn.utils.clip_grad_norm_(clipped.parameters(), limit)
    optimizer.step()
