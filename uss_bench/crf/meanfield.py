"""Mean-field inference in a fully connected CRF with Potts compatibility.

Source: Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011, Algorithm 1. Nothing here knows what a kernel is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uss_bench.crf.compiling import compiled

Array = NDArray[Any]
AddFiltered = Callable[[Array, float, Array], None]
"""``add(q, factor, out)`` adds factor × K q to `out`; `q` and `out` are (N, K classes)."""

_BLOCK = 4096
"""Rows per pass of the softmax: three passes over a block find it in the processor's cache."""


def mean_field(unary: Array, kernels: Sequence[tuple[float, AddFiltered]], iterations: int) -> Array:
    """Return Q after `iterations` synchronous updates Q ← softmax(−unary + Σ weight · K Q).

    A Potts term of weight w charges a pixel for the mass of all *other* classes around it, which up
    to a constant per pixel is a credit of w for its own.

    Args:
        unary: energies, floating point (N pixels, K classes).
        kernels: weight and filter of each pairwise term.
        iterations: updates after the start, Q = softmax(−unary).

    Returns:
        Probabilities of the dtype and shape of `unary`.
    """
    q = np.negative(unary)
    softmax_rows(q)
    logits = np.empty_like(q)
    for _ in range(iterations):
        np.negative(unary, out=logits)
        for weight, add_filtered in kernels:
            add_filtered(q, weight, logits)
        softmax_rows(logits)
        q, logits = logits, q
    return q


def softmax_rows(logits: Array) -> None:
    """Replace every row of `logits` (N, K) by its softmax, in place."""
    for start in range(0, len(logits), _BLOCK):
        block = logits[start : start + _BLOCK]
        _subtract_row_maximum(block)
        np.exp(block, out=block)  # vectorised by numpy; compiled code would call libm number by number
        _divide_by_row_sum(block)


@compiled
def _subtract_row_maximum(rows: Array) -> None:
    for n in range(rows.shape[0]):
        largest = rows[n, 0]
        for k in range(1, rows.shape[1]):
            largest = max(largest, rows[n, k])
        for k in range(rows.shape[1]):
            rows[n, k] -= largest


@compiled
def _divide_by_row_sum(rows: Array) -> None:
    for n in range(rows.shape[0]):
        total = rows[n, 0]
        for k in range(1, rows.shape[1]):
            total += rows[n, k]
        inverse = 1 / total
        for k in range(rows.shape[1]):
            rows[n, k] *= inverse
