"""Mean-field inference in a fully connected CRF with Potts compatibility.

Source: Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011, Algorithm 1.
"""

from __future__ import annotations

import numpy as np

from uss_bench.crf.compiling import compiled
from uss_bench.crf.filtering import Floats, length_of, slice_, splat
from uss_bench.crf.lattice import Lattice, Stream, zeros

BLOCK_BYTES = 1 << 19
"""Size of the logits that are treated at a time, which stay in the processor's cache."""


def block_length(channels: int) -> int:
    """Return how many pixels are treated at a time."""
    return max(1, BLOCK_BYTES // (4 * channels))


def mean_field(
    log_unary: Floats, positions: Stream, colors: Lattice, weights: tuple[float, float], iterations: int
) -> Floats:
    """Return Q after `iterations` synchronous updates Q ← softmax(log_unary + Σ weight · K Q).

    A Potts term of weight w charges a pixel for the mass of all *other* classes around it, which up
    to a constant per pixel is a credit of w for its own.

    An update is one pass over the pixels. A block of Q is replaced in place once the stream of positions
    has read it, and is added to the next table of colors while it is in the cache.

    Args:
        log_unary: float32 (N, padded K), −inf in the padding.
        positions: the smoothing kernel, in blocks of `block_length`.
        colors: the kernel that follows colors.
        weights: of the two.
        iterations: updates after the start, Q = softmax(log_unary).

    Returns:
        Probabilities, float32 (N, padded K), 0 in the padding.
    """
    n_points, channels = log_unary.shape
    length, chunk = block_length(channels), length_of(log_unary)
    near, far = map(np.float32, weights)
    q = zeros(log_unary.shape)
    block = zeros((length, channels))
    rings = positions.rings(channels)
    table, following = colors.tables(channels)
    for update in range(iterations + 1):
        if update:
            table, following = colors.blur(following, table)
            following[:] = 0
        for number, start in enumerate(range(0, n_points, length)):
            part = slice(start, min(start + length, n_points))
            logits = block[: part.stop - start]
            logits[:] = log_unary[part]
            if update:
                positions.advance(q, number, rings)
                slice_(rings[-1], *positions.lattice.corners(part), near, logits, chunk)
                slice_(table, *colors.corners(part), far, logits, chunk)
            _subtract_maximum(logits)
            np.exp(logits, out=logits)  # vectorized by numpy; compiled code would call libm number by number
            _divide_by_sum(logits, q[part])
            if update < iterations:
                splat(q[part], *colors.corners(part), following, chunk)
    return q


@compiled
def _subtract_maximum(rows: Floats) -> None:
    for n in range(rows.shape[0]):
        largest = rows[n, 0]
        for k in range(1, rows.shape[1]):
            largest = max(largest, rows[n, k])
        for k in range(rows.shape[1]):
            rows[n, k] -= largest


@compiled
def _divide_by_sum(rows: Floats, out: Floats) -> None:
    for n in range(rows.shape[0]):
        total = rows[n, 0]
        for k in range(1, rows.shape[1]):
            total += rows[n, k]
        inverse = 1 / total
        for k in range(rows.shape[1]):
            out[n, k] = rows[n, k] * inverse
