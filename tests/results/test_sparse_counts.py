"""Counts without the pairs that never meet: against dense arrays, and how many bytes they take."""

from __future__ import annotations

import numpy as np
import pytest

from uss_bench.results.sparse_counts import SparseBuilder, SparseCounts


def dense(images=9, clusters=7, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 50, (images, clusters, classes)) * (rng.random((images, clusters, classes)) < 0.3)


def test_they_are_the_dense_counts():
    counts = dense()
    counts[3] = 0  # an image without a labeled pixel
    sparse = SparseCounts.of(counts)
    assert sparse.shape == counts.shape
    np.testing.assert_array_equal(sparse.sum(), counts.sum(axis=0))
    np.testing.assert_array_equal([sparse.image(index) for index in range(9)], counts)
    np.testing.assert_array_equal(sparse.matrix().toarray(), counts.reshape(9, -1))
    np.testing.assert_array_equal(sparse.images_with_class(), counts.any(axis=1).sum(axis=0))
    again = SparseCounts.from_arrays(sparse.arrays())
    np.testing.assert_array_equal([again.image(index) for index in range(9)], counts)


def test_merged_counts_are_those_of_merged_labels():
    counts = dense(seed=1)
    rows, columns = np.array([0, 1, 1, 2, 0, 2, 1]), np.array([1, -1, 0, 1])
    expected = np.zeros((9, 3, 2), dtype=int)
    for image, cluster, klass in np.ndindex(*counts.shape):
        if columns[klass] >= 0:
            expected[image, rows[cluster], columns[klass]] += counts[image, cluster, klass]
    merged = SparseCounts.of(counts).merged(rows, 3, columns, 2)
    np.testing.assert_array_equal([merged.image(index) for index in range(9)], expected)


def test_five_hundred_clusters_and_a_hundred_and_fifty_classes_take_bytes_by_what_an_image_has():
    rng = np.random.default_rng(0)
    builder = SparseBuilder()
    for _ in range(60):
        counts = np.zeros((500, 150), dtype=np.int64)
        counts[rng.integers(0, 500, 400), rng.integers(0, 150, 400)] = 25
        builder.add(counts)
    sparse = builder.counts()
    held = sum(array.nbytes for array in (sparse.start, sparse.pair, sparse.pixels))
    assert held <= 60 * (8 * 400 + 8) + 8
    assert 2000 / 60 * held < 7e6, "2,000 images"
    with pytest.raises(ValueError, match="too many pixels"):
        builder.add(np.full((500, 150), 2**32))


def test_what_are_no_counts_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        SparseCounts.of([np.ones((2, 3), int), np.ones((3, 2), int)])
    with pytest.raises(ValueError, match="one or more images"):
        SparseCounts.of([])
    arrays = SparseCounts.of(dense()).arrays()
    for name, wrong in (
        ("shape", np.array([9, 7])),
        ("start", arrays["start"][:-1]),
        ("pair", arrays["pair"] + 28),
        ("pixels", arrays["pixels"][1:]),
        ("pixels", arrays["pixels"].astype(float)),
    ):
        with pytest.raises(ValueError, match="no counts"):
            SparseCounts.from_arrays({**arrays, name: wrong})
