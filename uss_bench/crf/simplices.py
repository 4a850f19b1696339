"""The lattice's geometry, compiled: simplices around points, numbers and neighbors of vertices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uss_bench.crf.compiling import compiled

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]
Keys = NDArray[np.uint64]

_BLOCK = 256
"""Points whose simplices are found together."""


@compiled
def find_simplices(
    features: Floats, scale: Floats, lows: NDArray[np.int64], strides: NDArray[np.int64]
) -> tuple[Indices, Floats, Keys, Indices]:
    """Find the simplex around each point, and number its vertices in order of first use.

    Returns:
        Each point's vertices and their barycentric weights, both (N, d+1); the key of each vertex; and the
        hash table that holds the numbers.
    """
    n_points, d = features.shape
    vertices = np.empty((n_points, d + 1), np.int32)
    weights = np.empty((n_points, d + 1), np.float32)
    vertex_keys = np.empty(n_points * (d + 1) + 1, np.uint64)
    table = np.zeros(1 << 14, np.int32)
    count = 1
    for start in range(0, n_points, _BLOCK):
        keys = _simplices(features[start : start + _BLOCK], scale, lows, strides, weights[start:])
        for i in range(len(keys)):
            for r in range(d + 1):
                slot = _slot(keys[i, r], vertex_keys, table)
                if table[slot] == 0:
                    table[slot] = count
                    vertex_keys[count] = keys[i, r]
                    count += 1
                vertices[start + i, r] = table[slot]
                if 2 * count > len(table):
                    table = np.zeros(4 * len(table), np.int32)
                    for vertex in range(1, count):
                        table[_slot(vertex_keys[vertex], vertex_keys, table)] = vertex
    return vertices, weights, vertex_keys[:count].copy(), table


@compiled
def _simplices(
    features: Floats, scale: Floats, lows: NDArray[np.int64], strides: NDArray[np.int64], weights: Floats
) -> Keys:
    """Fill in the weights of the simplices around n points and return their vertices' keys, (n, d+1).

    Lattice points have d+1 integer coordinates that sum to zero and agree modulo d+1. `origin` is
    the simplex's vertex whose coordinates are multiples of d+1, its *remainder-0 point*.
    """
    n, d = features.shape
    cell_size = np.float32(d + 1)
    inverse_size = np.float32(1) / cell_size

    # Rotate the features into the hyperplane of coordinates that sum to zero.
    elevated = np.empty((d + 1, n), np.float32)
    tail = np.zeros(n, np.float32)
    for j in range(d, 0, -1):
        component = features[:, j - 1] * scale[j - 1]
        elevated[j] = tail - np.float32(j) * component
        tail += component
    elevated[0] = tail

    # Round to multiples of d+1, then rank coordinates by what rounding left of them.
    origin = np.rint(elevated * inverse_size)
    rank = np.zeros((d + 1, n), np.int32)
    for j in range(d + 1):
        rank += origin[j].astype(np.int32)
    origin *= cell_size
    remainder = elevated - origin
    for j in range(d):
        for k in range(j + 1, d + 1):
            less = remainder[j] < remainder[k]
            rank[j] += less
            rank[k] += ~less

    # Rounding may leave the hyperplane: move the coordinates that it moved most back.
    back = (rank < 0).astype(np.int32) - (rank > d)
    rank += back * np.int32(d + 1)
    origin += back.astype(np.float32) * cell_size
    remainder = (elevated - origin) * inverse_size

    # Every vertex has one more than the one before in each coordinate, but d+1 less in that of lowest
    # remainder whose turn it is. Weights are differences of consecutive remainders.
    keys = np.empty((n, d + 1), np.uint64)
    ranked = np.empty(d + 1, np.int64)
    for i in range(n):
        key = 0
        for j in range(d + 1):
            ranked[rank[j, i]] = j
            key += (np.int64(origin[j, i]) - lows[j]) * strides[j]
        keys[i, 0] = np.uint64(key)
        weights[i, 0] = remainder[ranked[d], i] + (np.float32(1) - remainder[ranked[0], i])
        for r in range(1, d + 1):
            lowest = ranked[d + 1 - r]
            key += strides.sum() - (d + 1) * strides[lowest]
            keys[i, r] = np.uint64(key)
            weights[i, r] = remainder[ranked[d - r], i] - remainder[lowest, i]
    return keys


@compiled
def _slot(key: Any, vertex_keys: Keys, table: Indices) -> Any:
    """Return where `key` is, or belongs, in an open-addressing `table` of vertex numbers."""
    mask = np.uint64(len(table) - 1)
    slot = ((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask  # Fibonacci hashing
    while table[slot] != 0 and vertex_keys[table[slot]] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def find_neighbors(vertex_keys: Keys, table: Indices, steps: Keys) -> Indices:
    """Return neighbors (d+1, V, 2); a step wraps around 2⁶⁴ where it is negative, as it should."""
    neighbors = np.zeros((len(steps), len(vertex_keys), 2), np.int32)
    for axis in range(len(steps)):
        for vertex in range(1, len(vertex_keys)):
            before = table[_slot(vertex_keys[vertex] + steps[axis], vertex_keys, table)]
            neighbors[axis, vertex, 0] = before
            neighbors[axis, before, 1] = vertex
        neighbors[axis, 0] = 0
    return neighbors
