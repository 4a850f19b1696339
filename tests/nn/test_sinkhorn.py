"""Balanced assignments against the literal iteration."""

from __future__ import annotations

import math

import pytest
import torch
from literal_forms import features, literal_sinkhorn

from uss_bench.nn.sinkhorn import sinkhorn


@pytest.mark.parametrize(("clusters", "h", "w"), [(2, 3, 3), (5, 4, 4), (9, 2, 2)])
@pytest.mark.parametrize("epsilon", [0.05, 0.1, 1.0])
def test_marginals_after_each_iteration(clusters, h, w, epsilon):
    """Patches sum to 1 after every iteration, and clusters come nearer to N/C with each."""
    similarity = torch.tanh(features(3, clusters, h, w))
    distance = math.inf
    for iterations in range(1, 7):
        codes = sinkhorn(similarity, epsilon, iterations, "image").flatten(2)
        literal = torch.stack([literal_sinkhorn(s, epsilon, iterations) for s in similarity.flatten(2)])
        torch.testing.assert_close(codes, literal, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(codes.sum(dim=1), torch.ones_like(codes[:, 0]))
        nearer = (codes.sum(dim=2) - h * w / clusters).abs().sum().item()
        assert nearer <= distance + 1e-9
        distance = nearer
    share = torch.full((3, clusters), h * w / clusters, dtype=torch.float64)
    many = sinkhorn(similarity, epsilon, 3000, "image")
    torch.testing.assert_close(many.sum((2, 3)), share, rtol=1e-3, atol=1e-3)


def test_a_batch_shares_one_balance_where_images_each_have_theirs():
    similarity = torch.zeros(2, 2, 1, 4)
    similarity[0, 0] = similarity[1, 1] = 1.0  # each image shows one cluster
    per_image, batch_wide = (sinkhorn(similarity, 0.05, 3, scope) for scope in ("image", "batch"))
    torch.testing.assert_close(per_image, torch.full_like(similarity, 0.5))
    torch.testing.assert_close(batch_wide, similarity, atol=1e-6, rtol=0)


def test_no_temperature_is_too_small():
    codes = sinkhorn(torch.tanh(features(2, 4, 5, 5)).float(), 1e-3, 3, "image")
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(2, 5, 5))
