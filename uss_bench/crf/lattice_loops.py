"""The lattice's compiled loops: geometry once per image, and splat, blur and slice at every update.

Channels are innermost everywhere: a vertex holds its K values side by side, so that the inner loops
are vector instructions and a gathered vertex is one or two cache lines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uss_bench.crf.compiling import compiled

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]
Keys = NDArray[np.uint64]


@compiled
def find_simplices(
    features: Floats, scale: Floats, lows: NDArray[np.int64], strides: NDArray[np.int64]
) -> tuple[Keys, Floats]:
    """Return the vertices' keys and the barycentric weights of the simplex around each point.

    Lattice points have d+1 integer coordinates that sum to zero and agree modulo d+1. `origin` is
    the simplex's vertex whose coordinates are multiples of d+1, its *remainder-0 point*.
    """
    n_points, d = features.shape
    keys = np.empty((n_points, d + 1), np.uint64)
    weights = np.empty((n_points, d + 1), np.float32)
    elevated = np.empty(d + 1, np.float32)
    origin = np.empty(d + 1, np.int64)
    rank = np.empty(d + 1, np.int64)
    barycentric = np.empty(d + 2, np.float32)
    cell_size = np.float32(d + 1)
    inverse_size = np.float32(1) / cell_size
    for n in range(n_points):
        # Rotate the features into the hyperplane of coordinates that sum to zero.
        tail = np.float32(0)
        for j in range(d, 0, -1):
            component = features[n, j - 1] * scale[j - 1]
            elevated[j] = tail - np.float32(j) * component
            tail += component
        elevated[0] = tail

        # Round to multiples of d+1, then rank coordinates by what rounding left of them.
        surplus = 0
        for j in range(d + 1):
            cell = int(np.rint(elevated[j] * inverse_size))
            surplus += cell
            origin[j] = cell * (d + 1)
            rank[j] = 0
        for i in range(d):
            for j in range(i + 1, d + 1):
                if elevated[i] - np.float32(origin[i]) < elevated[j] - np.float32(origin[j]):
                    rank[i] += 1
                else:
                    rank[j] += 1

        # Rounding may leave the hyperplane: move the coordinates that it moved most back.
        for j in range(d + 1):
            rank[j] += surplus
            if rank[j] < 0:
                rank[j] += d + 1
                origin[j] += d + 1
            elif rank[j] > d:
                rank[j] -= d + 1
                origin[j] -= d + 1

        # Barycentric weights are differences of consecutive ranked remainders.
        barycentric[:] = 0
        for j in range(d + 1):
            remainder = (elevated[j] - np.float32(origin[j])) * inverse_size
            barycentric[d - rank[j]] += remainder
            barycentric[d + 1 - rank[j]] -= remainder
        barycentric[0] += np.float32(1) + barycentric[d + 1]

        # Vertex r adds r to every coordinate, and takes d+1 off the r of lowest remainder.
        for r in range(d + 1):
            key = 0
            for j in range(d):
                step = r if rank[j] <= d - r else r - (d + 1)
                key += (origin[j] + step - lows[j]) * strides[j]
            keys[n, r] = np.uint64(key)
            weights[n, r] = barycentric[r]
    return keys, weights


@compiled
def _slot(key: Any, vertex_keys: Keys, table: Indices) -> Any:
    """Return where `key` is, or belongs, in an open-addressing `table` of vertex numbers."""
    mask = np.uint64(len(table) - 1)
    slot = ((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask  # Fibonacci hashing
    while table[slot] != 0 and vertex_keys[table[slot]] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def number_vertices(keys: Keys) -> tuple[Indices, Keys, Indices]:
    """Return vertex numbers for `keys` (N, d+1), the key of each number, and the hash table."""
    n_points, n_corners = keys.shape
    vertices = np.empty((n_points, n_corners), np.int32)
    vertex_keys = np.empty(n_points * n_corners + 1, np.uint64)
    table = np.zeros(1 << 14, np.int32)
    count = 1
    for n in range(n_points):
        for r in range(n_corners):
            key = keys[n, r]
            slot = _slot(key, vertex_keys, table)
            if table[slot] == 0:
                table[slot] = count
                vertex_keys[count] = key
                count += 1
            vertices[n, r] = table[slot]
            if 2 * count > len(table):
                table = np.zeros(4 * len(table), np.int32)
                for vertex in range(1, count):
                    table[_slot(vertex_keys[vertex], vertex_keys, table)] = vertex
    return vertices, vertex_keys[:count].copy(), table


@compiled
def find_neighbours(vertex_keys: Keys, table: Indices, steps: Keys) -> Indices:
    """Return neighbours (d+1, V, 2); a step wraps around 2⁶⁴ where it is negative, as it should."""
    neighbours = np.zeros((len(steps), len(vertex_keys), 2), np.int32)
    for axis in range(len(steps)):
        for vertex in range(1, len(vertex_keys)):
            key = vertex_keys[vertex]
            neighbours[axis, vertex, 0] = table[_slot(key + steps[axis], vertex_keys, table)]
            neighbours[axis, vertex, 1] = table[_slot(key - steps[axis], vertex_keys, table)]
    return neighbours


@compiled
def splat(values: Floats, vertices: Indices, weights: Floats, out: Floats) -> None:
    """Set `out` (V, K) to the weighted sums of the values (N, K) of the points around each vertex."""
    out[:] = 0
    for n in range(values.shape[0]):
        for r in range(vertices.shape[1]):
            vertex = vertices[n, r]
            weight = weights[n, r]
            for k in range(values.shape[1]):
                out[vertex, k] += weight * values[n, k]


@compiled
def find_needs(neighbours: Indices, block: int) -> Indices:
    """Return when `blur_all` may blur each block of vertices along each axis, int32 (d+1, blocks).

    That is the number of vertices that must be blurred along the axis before: those that the block
    reads, and those that still read the values which it is about to replace. A vertex is read by the
    neighbours that it reads, so both are the furthest neighbour, along this axis and the one before.
    """
    axes, n_vertices, _ = neighbours.shape
    n_blocks = (n_vertices + block - 1) // block
    furthest = np.zeros((axes, n_blocks), np.int32)
    for axis in range(axes):
        for b in range(n_blocks):
            last = min(n_vertices, (b + 1) * block) - 1
            for vertex in range(b * block, last + 1):
                last = max(last, neighbours[axis, vertex, 0], neighbours[axis, vertex, 1])
            furthest[axis, b] = last + 1
    needs = furthest.copy()
    for axis in range(1, axes):
        needs[axis] = np.maximum(furthest[axis], furthest[axis - 1])
    return needs


@compiled
def blur_all(first: Floats, second: Floats, neighbours: Indices, needs: Indices, block: int) -> None:
    """Blur `first` (V, K) along every axis in turn, to and fro between both arrays.

    The result lies in `second` after an odd number of axes, else in `first`. A block goes through as
    many axes as it can before the next is touched: where neighbours have close numbers, as on the
    lattice of a grid of pixels, all axes find it in the processor's cache. Every value is the same as
    after one whole pass per axis.
    """
    axes, n_vertices, _ = neighbours.shape
    n_blocks = needs.shape[1]
    done = np.zeros(axes + 1, np.int64)  # blocks, per axis; nothing comes before the first
    done[0] = n_blocks
    while done[axes] < n_blocks:
        axis = axes - 1
        while True:
            b = done[axis + 1]
            if b < n_blocks and needs[axis, b] <= min(n_vertices, done[axis] * block):
                break
            axis -= 1
        stop = min(n_vertices, (b + 1) * block)
        if axis % 2 == 0:
            blur(first, neighbours[axis], b * block, stop, second)
        else:
            blur(second, neighbours[axis], b * block, stop, first)
        done[axis + 1] = b + 1


@compiled
def blur(values: Floats, neighbours: Indices, start: int, stop: int, out: Floats) -> None:
    """Set some rows of `out` to `values` (V, K) convolved with (½, 1, ½) along one axis; row 0 to zero."""
    half = np.float32(0.5)
    for vertex in range(start, stop):
        before = neighbours[vertex, 0]
        after = neighbours[vertex, 1]
        for k in range(values.shape[1]):
            out[vertex, k] = values[vertex, k] + half * (values[before, k] + values[after, k])


@compiled
def slice_(values: Floats, vertices: Indices, weights: Floats, factor: np.float32, out: Floats) -> None:
    """Add factor × the values (V, K), interpolated at the points, to `out` (N, K)."""
    for n in range(out.shape[0]):
        for r in range(vertices.shape[1]):
            vertex = vertices[n, r]
            weight = factor * weights[n, r]
            for k in range(out.shape[1]):
                out[n, k] += weight * values[vertex, k]
