"""The correspondence loss against loops over points."""

from __future__ import annotations

import itertools

import pytest
import torch
from literal_forms import features, literal_distillation, literal_sample

from uss_bench.nn.correspondence import distillation, random_points, sample


@pytest.mark.parametrize(("h", "w"), [(3, 4), (1, 1), (5, 2), (1, 6)])
def test_sampling_interpolates_bilinearly_between_patch_centers(h, w):
    values = features(2, 3, h, w)
    points = random_points(2, 4, torch.Generator().manual_seed(0)).double()
    points[0, 0, 0], points[0, 0, 1] = torch.tensor([-1.0, 1.0]), torch.tensor([1.0, -1.0])
    torch.testing.assert_close(sample(values, points), literal_sample(values, points))


def test_points_are_uniform_and_differ_between_images():
    points = random_points(64, 11, torch.Generator().manual_seed(0))
    assert points.shape == (64, 11, 11, 2)
    assert points.abs().max() <= 1
    assert len(points.flatten(1).unique(dim=0)) == 64
    shares = torch.histc(points, bins=10, min=-1, max=1) / points.numel()
    torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.01, rtol=0)


@pytest.mark.parametrize(("images", "channels", "points", "dim"), [(2, 3, 4, 2), (3, 8, 5, 5), (2, 4, 1, 7)])
@pytest.mark.parametrize(("pointwise", "zero_clamp"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("b", [0.08, 0.66])
def test_distillation_and_its_gradient_are_those_of_the_literal_form(
    images, channels, points, dim, pointwise, zero_clamp, b
):
    f, g = (features(images, channels, points, 1, seed)[..., 0] for seed in (0, 1))
    values, gradients = [], []
    for form in (distillation, literal_distillation):
        code, other = (features(images, dim, points, 1, s)[..., 0].requires_grad_() for s in (2, 3))
        values.append(form(f, g, code, other, b, pointwise, zero_clamp))
        gradients.append(torch.autograd.grad(values[-1], [code, other]))
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-12)
