"""CAUSE's front-door contrastive loss: positives and negatives by the distance of codes.

The released code makes all cosines of projections, of 2,048 dimensions, and keeps some ten matrices of
anchors × others. A student's projection is W̃ z̃, with the code z̃ = (z, 1) of 91 dimensions and the
layer's W̃ = (W, b), so its product with any u is z̃ᵀ (W̃ᵀ u): the others are brought to 91 dimensions once.
The mean over positives is linear, and taken code by code. What is left, the logarithm of a sum over pairs,
is taken in tiles. Value and gradient are the same, and memory is linear in anchors and in others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TEMPERATURE = 0.07
_TILE = {"cpu": 2**22, "cuda": 2**26}
"""Pairs, or numbers of the bank, in memory at once, by device."""


class Concepts:
    """Which codes of a codebook (K, D) are positives and negatives of each other: 0 or 1, (K, K)."""

    def __init__(self, codebook: Tensor, positive: float, negative: float) -> None:
        unit = F.normalize(codebook, dim=1)
        agreement = unit @ unit.T
        self.positive = (agreement > positive).to(codebook.dtype)
        self.counted = self.positive + (agreement < negative) * (1 - self.positive)


def front_door_loss(
    code: Tensor,
    projection: nn.Linear,
    teacher: Tensor,
    codes: Tensor,
    bank: tuple[Tensor, Tensor],
    concepts: Concepts,
) -> tuple[Tensor, Tensor]:
    """Return the loss of every image against the batch and, where the bank has rows, against the bank.

    A positive of token i is a token j whose code is close to that of i, a negative one whose code is far; a
    token is not its own positive. With s the cosine of the student's projection of i and the teacher's
    of j over 0.07, a positive pair has the loss −s_ij + log Σ exp s_ik over positives and negatives k, and
    an image the mean over its pairs.

    Args:
        code: the student's (B, n, d), and `projection` its layer; both get gradients.
        teacher: projections (B, n, P); no gradient goes to them.
        codes: int64 (B, n), rows of the codebook.
        bank: unit projections (R, P) and codes (R,).

    Returns:
        Losses (B,) or (2 B,), and which of them have a positive pair; the others are 0.
    """
    anchors = torch.cat([code, torch.ones_like(code[..., :1])], dim=2).flatten(0, 1)
    weights = torch.cat([projection.weight, projection.bias[:, None]], dim=1)  # W̃
    norms = (anchors @ weights.T).norm(dim=1, keepdim=True).clamp_min(1e-12)
    anchors = anchors / (norms * _TEMPERATURE)
    own = F.normalize(teacher.detach().flatten(0, 1), dim=1)
    terms = [_terms(anchors, own, weights, codes, codes.flatten(), concepts, among_themselves=True)]
    if len(bank[0]):
        terms.append(_terms(anchors, bank[0], weights, codes, bank[1], concepts, among_themselves=False))
    losses, pairs = (torch.cat(both) for both in zip(*terms, strict=True))
    return losses, pairs > 0


def _terms(
    anchors: Tensor,
    others: Tensor,
    weights: Tensor,
    codes: Tensor,
    other_codes: Tensor,
    concepts: Concepts,
    *,
    among_themselves: bool,
) -> tuple[Tensor, Tensor]:
    """Return the mean loss over each image's positive pairs, (B,), and their number."""
    keys: Tensor = _Keys.apply(others, weights)
    flat, count = codes.flatten(), len(concepts.positive)
    present = torch.zeros(count, dtype=keys.dtype, device=keys.device)
    present.index_add_(0, other_codes, torch.ones_like(keys[:, 0]))
    by_code = torch.zeros(count, keys.shape[1], dtype=keys.dtype, device=keys.device)
    by_code = by_code.index_add(0, other_codes, keys)

    positives = (concepts.positive @ present)[flat]
    similarity = (anchors * (concepts.positive @ by_code)[flat]).sum(dim=1)  # Σ s_ij over positives j
    if among_themselves:
        itself = concepts.positive.diagonal()[flat]
        positives = positives - itself
        similarity = similarity - itself * (anchors * keys).sum(dim=1)
    partition: Tensor = _LogPartition.apply(
        anchors, keys, flat, other_codes, concepts.counted, among_themselves
    )
    losses = (positives * partition - similarity).view(codes.shape).sum(dim=1)
    pairs = positives.view(codes.shape).sum(dim=1)
    return torch.where(pairs > 0, losses / pairs.clamp_min(1), losses.new_zeros(())), pairs


class _Keys(torch.autograd.Function):
    """others (R, P), of any precision, times weights (P, m), with a gradient to the weights."""

    @staticmethod
    def forward(ctx: Any, others: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(others)
        return torch.cat([some.to(weights.dtype) @ weights for some in _rows(others)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor]:
        (others,) = ctx.saved_tensors
        parts = zip(_rows(others), slope.split(len(_rows(others)[0])), strict=True)
        total = torch.zeros(others.shape[1], slope.shape[1], dtype=slope.dtype, device=slope.device)
        for some, share in parts:
            total.addmm_(some.to(slope.dtype).T, share)
        return None, total


def _rows(others: Tensor) -> tuple[Tensor, ...]:
    rows: tuple[Tensor, ...] = others.split(max(1, _TILE[others.device.type] // others.shape[1]))
    return rows


class _LogPartition(torch.autograd.Function):
    """log Σ_j counted[code_i, code_j] exp(a_i · k_j), with gradients to anchors a (M, m) and keys k (R, m).

    As a · k is a cosine over the temperature, its exponential lies within float32, and needs no shift.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        keys: Tensor,
        codes: Tensor,
        other_codes: Tensor,
        counted: Tensor,
        own: bool,
    ) -> Tensor:
        ctx.save_for_backward(anchors, keys, codes, other_codes, counted)
        ctx.own = own
        sums = [e.sum(dim=1) for _, e in _tiles(anchors, keys, codes, other_codes, counted, own)]
        ctx.sums = torch.cat(sums).clamp_min(torch.finfo(keys.dtype).tiny)
        logarithm: Tensor = ctx.sums.log()
        return logarithm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        anchors, keys, codes, other_codes, counted = ctx.saved_tensors
        scale = slope / ctx.sums
        to_anchors, to_keys = torch.empty_like(anchors), torch.zeros_like(keys)
        for rows, e in _tiles(anchors, keys, codes, other_codes, counted, ctx.own):
            e *= scale[rows, None]
            torch.mm(e, keys, out=to_anchors[rows])
            to_keys.addmm_(e.T, anchors[rows])
        return to_anchors, to_keys, None, None, None, None


def _tiles(
    anchors: Tensor, keys: Tensor, codes: Tensor, other_codes: Tensor, counted: Tensor, own: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of rows, and exp(a · k) of the pairs that count among them, 0 for the others."""
    step = max(1, _TILE[keys.device.type] // len(keys))
    for first in range(0, len(anchors), step):
        rows = slice(first, first + step)
        e = (anchors[rows] @ keys.T).exp_()
        e *= counted[codes[rows]].index_select(1, other_codes)
        if own:
            e.diagonal(offset=first).zero_()
        yield rows, e
