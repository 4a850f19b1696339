"""Gaussian filtering on the permutohedral lattice.

A Gaussian filter over N points with d-dimensional features costs O(N²) directly. On the
permutohedral lattice it costs O(N·d) per channel: *splat* every point onto the d+1 vertices of the
simplex around it, *blur* along the lattice's d+1 axes, *slice* the result back at the points.
Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Computer Graphics Forum 29(2), 2010.

Geometry is float32 in a fixed order of operations, so that every point falls into the simplex in
which pydensecrf sees it: the filter is an approximation, and where blurring reaches depends on
which vertices exist.

Vertices are numbered from 1 in order of first use, which keeps neighboring pixels' vertices close
in memory. Row 0 is the vertex that does not exist: it stays zero and saves the blur a branch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uss_bench.crf import filtering, simplices
from uss_bench.crf.filtering import Floats, length_of, row_length
from uss_bench.errors import UsageError


class Lattice:
    """The lattice that N points span, and the filter of unit gain on it: D^−½ G D^−½ with D = G·1.

    Source of the normalization: Krähenbühl and Koltun, "Parameter Learning and Convergent Inference for Dense
    Random Fields", ICML 2013; the self term is included.

    Args:
        features: float32 (N, d), one row per point, in units of the filter's standard deviation.
        normalized: without, the filter is G: sums that are known up to one constant factor.

    Attributes:
        vertices: int32 (N, d+1), the vertices of the simplex around each point.
        weights: float32 (N, d+1), the point's barycentric coordinates in that simplex, which sum to one,
            times its D^−½: this way the normalization costs nothing.
        neighbors: int32 (d+1, V, 2), each vertex's neighbors along each axis, 0 where none exists.

    Raises:
        UsageError: when the features span more lattice cells than numbers can tell apart.
    """

    def __init__(self, features: Floats, *, normalized: bool = True) -> None:
        d = features.shape[1]
        scale = _axis_scale(d)
        lows, strides = _key_layout(features, scale)
        self.vertices, self.weights, keys, table = simplices.find_simplices(features, scale, lows, strides)
        # A neighbor along axis j has d more in coordinate j and one less in all others, or the reverse.
        # Keys are linear in the coordinates (and leave the last out), so one key step per axis says it all.
        steps = (d + 1) * strides - strides.sum()
        self.neighbors = simplices.find_neighbors(keys, table, steps.astype(np.uint64))
        if normalized:
            mass = self.filter(np.ones((len(features), 1), np.float32))
            self.weights *= 1 / np.sqrt(mass + np.float32(1e-20))

    def filter(self, values: Floats) -> Floats:
        """Return the values filtered, both float32 (N, K)."""
        n_points, channels = values.shape
        rows = zeros((n_points, row_length(channels)))
        rows[:, :channels] = values
        table, spare = self.tables(rows.shape[1])
        filtering.splat(rows, self.vertices, self.weights, table, length_of(rows))
        table, _ = self.blur(table, spare)
        rows[:] = 0
        filtering.slice_(table, self.vertices, self.weights, np.float32(1), rows, length_of(rows))
        return rows[:, :channels]

    def corners(self, points: slice) -> tuple[NDArray[np.int32], Floats]:
        """Return the vertices and the weights of some points."""
        return self.vertices[points], self.weights[points]

    def tables(self, channels: int) -> Floats:
        """Return two tables of values at the vertices, float32 (2, V, channels), all zero."""
        return zeros((2, self.neighbors.shape[1], channels))

    def blur(self, table: Floats, spare: Floats) -> tuple[Floats, Floats]:
        """Blur along every axis in turn, to and fro between two tables; return that of the result first."""
        for neighbors in self.neighbors:
            filtering.blur(table, neighbors, 1, len(table), spare, length_of(table))
            table, spare = spare, table
        return table, spare


class Stream:
    """A lattice that filters its points block by block, without a table of all its vertices.

    The lattice of an image's positions has more vertices than the image has pixels, but a pixel is touched
    by what is near alone. So the splat and the blur along each axis run just as far ahead of the slice as it
    needs them, and each writes a ring: vertex v lies where vertex v − C did. All values are those of
    `Lattice.filter`, to the last bit.

    Args:
        lattice: taken over: its `vertices` and `neighbors` become rows of the rings.
        block: points per block.

    Attributes:
        goals: int64 (blocks + 1, d+3), how far everything is before the first block, and must be before each
            is sliced: points splatted, vertices that they touch, vertices blurred along each axis.
        rows: C + 1, the length of a ring.
    """

    def __init__(self, lattice: Lattice, block: int) -> None:
        self.lattice = lattice
        vertices, neighbors = lattice.vertices, lattice.neighbors
        numbers = np.arange(neighbors.shape[1])
        starts = np.arange(0, len(vertices), block)
        lasts = np.append(starts[1:], len(vertices)) - 1
        seen = _running_maximum(*vertices.T)
        reach = [_running_maximum(numbers, *axis.T) for axis in neighbors]
        last_use = np.zeros(len(numbers), np.int64)
        for corner in vertices.T:
            np.maximum.at(last_use, corner, np.arange(len(corner)))
        last_use = _running_maximum(last_use)

        goals = [seen[lasts]]
        for furthest in reversed(reach):
            goals.insert(0, furthest[goals[0]])
        points = last_use[goals[0]]
        goals[0] = seen[points]
        self.goals = np.ones((len(starts) + 1, len(goals) + 1), np.int64)
        self.goals[0, 0] = 0
        self.goals[1:] = 1 + np.stack([points, *goals], axis=1)

        # A ring holds what is written and will still be read. Neighbors are mutual: the oldest vertex that is
        # read at or after another is the first that itself reads as far.
        unread = [*self.goals[:-1, 2:].T, starts]
        oldest = [np.searchsorted(*each) for each in zip([*reach, last_use], unread, strict=True)]
        length = int((self.goals[1:, 1:].T - oldest).max())
        self.rows = 1 + length
        for rows in (vertices, neighbors):
            np.copyto(rows, 1 + (rows - 1) % length, where=rows > 0)

    def advance(self, values: Floats, block: int, rings: Floats) -> None:
        """Filter the values (N, K) until the last ring holds all vertices of a block; blocks in turn."""
        lattice = self.lattice
        done, goal = self.goals[block : block + 2]
        graph = (lattice.vertices, lattice.weights, lattice.neighbors)
        filtering.advance(values, *graph, done, goal, rings, length_of(values))

    def rings(self, channels: int) -> Floats:
        """Return rings of values at the vertices, float32 (d+2, C + 1, channels), all zero."""
        return zeros((len(self.lattice.neighbors) + 1, self.rows, channels))


def zeros(shape: Sequence[int]) -> Floats:
    """Return a float32 array of zeros whose rows begin where cache lines do, if they are that long."""
    size = math.prod(shape)
    floats = np.zeros(size + 16, np.float32)
    start = -floats.ctypes.data % 64 // 4
    return floats[start : start + size].reshape(shape)


def _running_maximum(*arrays: NDArray[Any]) -> NDArray[Any]:
    """Return the largest element so far of arrays that run side by side."""
    largest: NDArray[Any] = np.maximum.accumulate(functools.reduce(np.maximum, arrays))
    return largest


def _axis_scale(d: int) -> Floats:
    """Return the factors that make one blur along every axis a Gaussian of unit deviation."""
    deviation = np.float32(math.sqrt(2 / 3) * (d + 1))
    return np.array([float(deviation) / math.sqrt((i + 1) * (i + 2)) for i in range(d)], np.float32)


def _key_layout(features: Floats, scale: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lowest coordinates, and strides that pack all but the last into an integer, both (d+1)."""
    d = features.shape[1]
    # The rotation of `find_simplices` as a matrix: coordinate j of a point is row j times its features.
    rotation = (np.triu(np.ones((d, d))) - np.diag(np.arange(1.0, d), -1)) * scale
    # Column by column: numpy reduces (N, d) over its first axis a hundred times slower.
    ends = tuple(rotation * [reduce(column) for column in features.T] for reduce in (np.min, np.max))
    margin = 3 * (d + 1)  # vertices lie up to d from their point, and their neighbors d further
    lows = np.floor(np.minimum(*ends).sum(axis=1)).astype(np.int64) - margin
    highs = np.ceil(np.maximum(*ends).sum(axis=1)).astype(np.int64) + margin
    extents = [int(extent) for extent in highs - lows + 1]
    # Coordinates are float32, which has all integers below 2²⁴.
    largest = max(-lows.min(), highs.max())
    if math.prod(extents) >= 2**62 or largest >= 2**24:
        raise UsageError(
            "The CRF's standard deviations are too small for this image: its lattice has too many cells.",
            hint="Raise gaussian_sxy, bilateral_sxy or bilateral_srgb.",
        )
    return np.append(lows, 0), np.array([*(math.prod(extents[:j]) for j in range(d)), 0], np.int64)
