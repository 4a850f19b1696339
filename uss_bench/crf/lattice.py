"""Gaussian filtering on the permutohedral lattice.

A Gaussian filter over N points with d-dimensional features costs O(N²) directly. On the
permutohedral lattice it costs O(N·d) per channel: *splat* every point onto the d+1 vertices of the
simplex around it, *blur* along the lattice's d+1 axes, *slice* the result back at the points.
Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Computer Graphics Forum 29(2), 2010.

Geometry is float32 in a fixed order of operations, so that every point falls into the simplex in
which pydensecrf sees it: the filter is an approximation, and where blurring reaches depends on
which vertices exist.

Vertices are numbered from 1 in order of first use, which keeps neighbouring pixels' vertices close
in memory. Row 0 is the vertex that is not there: it stays zero and saves the blur a branch.
"""

from __future__ import annotations

import copy
import math

import numpy as np
from numpy.typing import NDArray

from uss_bench.crf import lattice_loops as loops
from uss_bench.errors import UsageError

Floats = NDArray[np.float32]

_BLOCK = 1024
"""Vertices that are blurred at a time, see `lattice_loops.blur_all`: 110 kB at 27 classes."""


class Lattice:
    """The lattice that N points span: built once, then applied to any values at the points.

    Args:
        features: float32 (N, d), one row per point, in units of the filter's standard deviation.

    Attributes:
        vertices: int32 (N, d+1), the vertices of the simplex around each point.
        weights: float32 (N, d+1), its barycentric coordinates in that simplex; they sum to one.
        neighbours: int32 (d+1, V, 2), each vertex's neighbours along each axis, 0 where none exists.

    Raises:
        UsageError: when the features span more lattice cells than 64-bit keys can tell apart.
    """

    def __init__(self, features: Floats) -> None:
        d = features.shape[1]
        scale = _axis_scale(d)
        lows, strides = _key_layout(features, scale)
        keys, self.weights = loops.find_simplices(features, scale, lows, strides)
        self.vertices, vertex_keys, table = loops.number_vertices(keys)
        # A neighbour along axis j has d more in coordinate j and one less in all others, or the reverse.
        # Keys are linear in the coordinates (and drop the last), so one key step per axis says it all.
        steps = np.append((d + 1) * strides, 0) - strides.sum()
        self.neighbours = loops.find_neighbours(vertex_keys, table, steps.astype(np.uint64))
        self._needs = loops.find_needs(self.neighbours, _BLOCK)
        self._scratch = np.zeros((2, 0, 0), np.float32)

    def own(self) -> Lattice:
        """Return this lattice with memory of its own to work in: no two threads may filter with one."""
        own = copy.copy(self)
        own._scratch = np.zeros((2, 0, 0), np.float32)
        return own

    def filter(self, values: Floats) -> Floats:
        """Return the Gaussian-weighted sums of `values` around every point, both float32 (N, K).

        The sums are known up to one constant factor: divide by ``filter(ones)`` for weighted means.
        """
        out = np.zeros_like(values)
        self.add_filtered(values, self.weights, 1.0, out)
        return out

    def add_filtered(self, values: Floats, weights: Floats, factor: float, out: Floats) -> None:
        """Add factor × slice(blur(splat(values))) to `out`, both float32 (N, K) and C-contiguous.

        Args:
            weights: float32 (N, d+1), used to splat and to slice: `self.weights`, or rows of it scaled.
        """
        # Fresh buffers would cost as much in page faults as the blur does in arithmetic.
        shape = (2, self.neighbours.shape[1], values.shape[1])
        if self._scratch.shape != shape:
            self._scratch = np.zeros(shape, np.float32)
        first, second = self._scratch
        loops.splat(values, self.vertices, weights, first)
        loops.blur_all(first, second, self.neighbours, self._needs, _BLOCK)
        blurred = second if len(self.neighbours) % 2 else first
        loops.slice_(blurred, self.vertices, weights, np.float32(factor), out)


class NormalisedFilter:
    """A Gaussian filter G made symmetric and of unit gain: D^−½ G D^−½ with D = G·1.

    Source: the symmetric normalisation of Krähenbühl and Koltun, "Parameter Learning and Convergent
    Inference for Dense Random Fields", ICML 2013; the self term is included.

    Args:
        features: float32 (N, d), see `Lattice`.
    """

    def __init__(self, features: Floats) -> None:
        self.lattice = Lattice(features)
        self.mass = self.lattice.filter(np.ones((len(features), 1), np.float32))[:, 0]
        norm = 1 / np.sqrt(self.mass + np.float32(1e-20))
        # The two factors of D^−½ ride on the weights of splat and slice, where they cost nothing.
        self._weights = self.lattice.weights * norm[:, None]

    def own(self) -> NormalisedFilter:
        """Return this filter with memory of its own to work in, see `Lattice.own`."""
        own = copy.copy(self)
        own.lattice = self.lattice.own()
        return own

    def add_filtered(self, values: Floats, factor: float, out: Floats) -> None:
        """Add factor × the filtered `values` to `out`, both float32 (N, K) and C-contiguous."""
        self.lattice.add_filtered(values, self._weights, factor, out)


def _axis_scale(d: int) -> Floats:
    """Return the factors that make one blur along every axis a Gaussian of unit deviation."""
    deviation = np.float32(math.sqrt(2 / 3) * (d + 1))
    return np.array([float(deviation) / math.sqrt((i + 1) * (i + 2)) for i in range(d)], np.float32)


def _key_layout(features: Floats, scale: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lowest coordinates and the strides that pack d lattice coordinates into an integer."""
    d = features.shape[1]
    # The rotation of `find_simplices` as a matrix: coordinate j of a point is row j times its features.
    rotation = (np.triu(np.ones((d, d))) - np.diag(np.arange(1.0, d), -1)) * scale
    # Column by column: numpy reduces (N, d) over its first axis a hundred times slower.
    ends = tuple(rotation * [reduce(column) for column in features.T] for reduce in (np.min, np.max))
    margin = 3 * (d + 1)  # vertices lie up to d from their point, and their neighbours d further
    lows = np.floor(np.minimum(*ends).sum(axis=1)).astype(np.int64) - margin
    highs = np.ceil(np.maximum(*ends).sum(axis=1)).astype(np.int64) + margin
    extents = [int(extent) for extent in highs - lows + 1]
    if math.prod(extents) >= 2**62:
        raise UsageError(
            "The CRF's standard deviations are too small for this image: its lattice has too many cells.",
            hint="Raise gaussian_sxy, bilateral_sxy or bilateral_srgb.",
        )
    return lows, np.array([math.prod(extents[:j]) for j in range(d)], np.int64)
