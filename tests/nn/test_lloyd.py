"""Lloyd's algorithm in pieces: the same clusters, those of scikit-learn, and bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from held_memory import Held
from sklearn.cluster import KMeans

from uss_bench.nn import lloyd
from uss_bench.nn.kmeans import minibatch_step


def normal(count, channels, seed=0):
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))


def test_centroids_are_those_of_scikit_learn_from_the_same_start():
    points = normal(300, 5)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    known = KMeans(7, init=points[order[:7]].numpy(), n_init=1, max_iter=12, tol=0, algorithm="lloyd")
    known.fit(points.numpy())
    found = lloyd.lloyd(points, 7, 12, torch.Generator().manual_seed(2))
    np.testing.assert_allclose(found, known.cluster_centers_, atol=1e-5)
    assert lloyd.inertia(points, found) == pytest.approx(known.inertia_, rel=1e-5)
    np.testing.assert_array_equal(lloyd.nearest(points, found), known.predict(points.numpy()))


def test_pieces_change_nothing(monkeypatch):
    points = normal(101, 4)
    whole = lloyd.lloyd(points, 9, 6, torch.Generator().manual_seed(0))
    spread = lloyd.inertia(points, whole)
    monkeypatch.setattr(lloyd, "_PIECE", 9 * 10)
    torch.testing.assert_close(lloyd.lloyd(points, 9, 6, torch.Generator().manual_seed(0)), whole)
    assert lloyd.inertia(points, whole) == pytest.approx(spread)


def test_five_hundred_clusters_of_many_points_hold_no_more_than_a_piece_of_distances(monkeypatch):
    monkeypatch.setattr(lloyd, "_PIECE", 2**18)

    def peak(count: int) -> int:
        points = normal(count, 8)
        with Held() as memory:
            lloyd.lloyd(points, 500, 1, torch.Generator().manual_seed(0))
        return memory.peak

    few, many = peak(4000), peak(20_000)
    assert many - few <= 64 * 16_000, "indices of each point, whose distances would take 2,000 bytes"
    assert many < 8 * 4 * 2**18


def test_a_step_of_mini_batch_k_means_is_bounded_by_its_batch():
    """Whatever the data set: cosines with 500 centroids of the batch's points, and no square of either."""
    points = torch.nn.functional.normalize(normal(4000, 16), dim=1)
    centroids = torch.nn.functional.normalize(normal(500, 16, seed=1), dim=1)
    with Held() as memory:
        minibatch_step(centroids, torch.zeros(500), points)
    assert memory.peak < 1.2 * 4 * 4000 * 500
