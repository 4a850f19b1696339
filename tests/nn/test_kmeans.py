"""The start of k-means, and its mini-batch step."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F

from uss_bench.nn.kmeans import kmeans_plus_plus, minibatch_step


def on_circle(*degrees: float) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in degrees])


def test_first_centroids_are_points_and_far_groups_get_one_each():
    directions = torch.eye(6).repeat_interleave(50, dim=0)
    for seed in range(20):
        chosen = kmeans_plus_plus(directions, 6, torch.Generator().manual_seed(seed))
        assert sorted(chosen.argmax(dim=1).tolist()) == list(range(6))
        assert all((directions == row).all(dim=1).any() for row in chosen)


def test_points_are_chosen_in_proportion_to_their_squared_distance():
    degrees = (0, 30, 90, 180)
    points = on_circle(*degrees)
    draws = 4000
    generator = torch.Generator().manual_seed(0)
    picks = [kmeans_plus_plus(points, 2, generator) for _ in range(draws)]
    index = {tuple(row): i for i, row in enumerate(points.tolist())}
    pairs = Counter(tuple(index[tuple(row)] for row in pick.tolist()) for pick in picks)
    for first in range(4):
        squared = [2 - 2 * math.cos(math.radians(d - degrees[first])) for d in degrees]
        for second in range(4):
            p = 0.25 * squared[second] / sum(squared)
            assert abs(pairs[first, second] - draws * p) <= 4.5 * math.sqrt(draws * p * (1 - p))


def test_fewer_distinct_points_than_clusters_repeat():
    points = on_circle(0, 120)
    chosen = kmeans_plus_plus(points, 5, torch.Generator().manual_seed(0))
    assert chosen.shape == (5, 2)
    assert {tuple(row) for row in chosen.tolist()} == {tuple(row) for row in points.tolist()}


def test_a_mini_batch_step_is_the_literal_loop_over_its_points():
    generator = torch.Generator().manual_seed(1)
    points = F.normalize(torch.randn(40, 5, generator=generator), dim=1)
    centroids = F.normalize(torch.randn(4, 5, generator=generator), dim=1)
    seen = torch.tensor([0.0, 3.0, 10.0, 1.0])
    before, counts = centroids.double().numpy().copy(), seen.numpy().copy()
    moved, cosines = before.copy(), []
    for point in points.double().numpy():
        k = int((before @ point).argmax())
        cosines.append(float((before @ point).max()))
        counts[k] += 1
        # All points of a batch weigh alike: the centroid moves by their sum over what it was given so far.
    given = (points.double().numpy() @ before.T).argmax(axis=1)
    for k in range(4):
        mine = points.double().numpy()[given == k]
        if len(mine):
            moved[k] += (mine - before[k]).sum(axis=0) / counts[k]
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    mean = minibatch_step(centroids, seen, points)
    np.testing.assert_allclose(centroids, moved, atol=1e-6)
    np.testing.assert_array_equal(seen, counts)
    assert math.isclose(float(mean), float(np.mean(cosines)), rel_tol=1e-6)
