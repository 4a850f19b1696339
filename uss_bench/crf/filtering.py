"""The lattice's filter, compiled: splat, blur and slice.

Channels are innermost everywhere: a vertex holds its K values side by side, so that a gathered vertex is
a few vectors in one or two cache lines. Rows are as long as `row_length` has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from uss_bench.crf.compiling import compiled

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]

Length = tuple[int, ...]
"""A row's length, as a tuple with an element for every four numbers: types can tell tuples apart. For rows of
64 and more, which are not unrolled, it has sixteen."""


def row_length(channels: int) -> int:
    """Return how long a row of so many channels is, in whole vectors of 4, 8 or 16 numbers."""
    width = 4 if channels <= 4 else 8 if 0 < channels % 16 <= 8 and channels < 64 else 16
    return -(-channels // width) * width


def length_of(values: Floats) -> Length:
    """Return the length of these rows for the compiler."""
    return (0,) * (min(64, int(values.shape[-1])) // 4)


def _add_rows(
    typing: Any, out: Any, i: Any, first: Any, j: Any, factor: Any, second: Any, k: Any, length: Any
) -> Any:
    """Give `add_rows` its type, and write its instructions."""
    table, size, number = types.float32[:, ::1], types.intp, ir.IntType(64)
    width = next(width for width in (16, 8, 4) if 4 * length.count % width == 0)
    vector = ir.VectorType(ir.FloatType(), width)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        tables = [context.make_array(table)(context, builder, values[n]) for n in (0, 2, 5)]
        stop = number(4 * length.count) if length.count < 16 else builder.extract_value(tables[0].shape, 1)
        factors = builder.insert_element(vector(ir.Undefined), values[4], number(0))
        factors = builder.shuffle_vector(factors, factors, ir.VectorType(ir.IntType(32), width)([0] * width))
        starts = [
            builder.gep(one.data, [builder.mul(values[n], stop)])
            for one, n in zip(tables, (1, 3, 6), strict=True)
        ]
        with cgutils.for_range_slice(builder, number(0), stop, number(width)) as (start, _):
            pointers = (builder.bitcast(builder.gep(one, [start]), vector.as_pointer()) for one in starts)
            target, *sources = pointers
            one, other = (builder.load(source, align=4) for source in sources)
            builder.store(builder.fadd(one, builder.fmul(factors, other)), target, align=4)
        return context.get_dummy_value()

    return types.void(table, size, table, size, types.float32, table, size, length), generate


add_rows: Callable[..., None] = intrinsic(_add_rows)
"""``add_rows(out, i, first, j, factor, second, k, length)`` sets out[i] to first[j] + factor × second[k].

All are rows of C-contiguous float32 arrays. LLVM makes no wide instructions of plain code, where `out` might
overlap the others in any way. As in plain code, each number is rounded after each of the two operations.
"""


@compiled
def splat(values: Floats, vertices: Indices, weights: Floats, out: Floats, length: Length) -> None:
    """Add the weighted values of points (N, K) to those of their vertices in `out` (V, K)."""
    for n in range(len(values)):
        for r in range(vertices.shape[1]):
            vertex = vertices[n, r]
            add_rows(out, vertex, out, vertex, weights[n, r], values, n, length)


@compiled
def blur(values: Floats, neighbors: Indices, start: int, stop: int, out: Floats, length: Length) -> None:
    """Set vertices `start` to `stop` of `out` to `values` (V, K) convolved with (½, 1, ½) along one axis."""
    place = _place(start, out)
    for vertex in range(start, stop):
        add_rows(
            out, place, values, neighbors[vertex, 0], np.float32(1), values, neighbors[vertex, 1], length
        )
        add_rows(out, place, values, place, np.float32(0.5), out, place, length)
        place = place + 1 if place + 1 < len(out) else 1


@compiled
def slice_(
    values: Floats, vertices: Indices, weights: Floats, factor: np.float32, out: Floats, length: Length
) -> None:
    """Add factor × the values (V, K), interpolated at the points, to `out` (N, K)."""
    for n in range(len(out)):
        for r in range(vertices.shape[1]):
            add_rows(out, n, out, n, factor * weights[n, r], values, vertices[n, r], length)


@compiled
def _place(vertex: int, values: Floats) -> int:
    """Return where a vertex lies: in row 1 and so on, and over again where there are not rows enough."""
    return 1 + (vertex - 1) % (len(values) - 1)


@compiled
def advance(
    values: Floats,
    vertices: Indices,
    weights: Floats,
    neighbors: Indices,
    done: NDArray[np.int64],
    goal: NDArray[np.int64],
    rings: Floats,
    length: Length,
) -> None:
    """Splat and blur from `done` to `goal`, see `lattice.Stream`."""
    place = _place(done[1], rings[0])
    for _ in range(done[1], goal[1]):
        rings[0, place] = 0
        place = place + 1 if place + 1 < rings.shape[1] else 1
    points = slice(done[0], goal[0])
    splat(values[points], vertices[points], weights[points], rings[0], length)
    for axis in range(len(neighbors)):
        blur(rings[axis], neighbors[axis], done[axis + 2], goal[axis + 2], rings[axis + 1], length)
