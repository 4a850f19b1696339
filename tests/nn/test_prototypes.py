"""Cosine logits and k-means by gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from literal_forms import features, unit

from uss_bench.nn.prototypes import cosine_logits, probe_loss, unit_prototypes


def test_cosine_logits_are_cosines():
    code, prototypes = features(images=2, channels=5), features(1, 5, 1, 3)[0, :, 0].T
    logits = cosine_logits(code, prototypes)
    pixel, prototype = code[1, :, 2, 3], prototypes[2]
    expected = (pixel * prototype).sum() / (pixel.norm() * prototype.norm())
    assert logits.shape == (2, 3, 3, 4)
    assert logits[1, 2, 2, 3].item() == pytest.approx(expected.item())


def test_the_probe_does_k_means_by_gradient():
    """Its gradient is that of the literal sum over patches, each with its own centroid only."""
    code = features(2, 4, 3, 3)
    centroids = features(1, 4, 1, 5)[0, :, 0].T.contiguous().requires_grad_()
    (ours,) = torch.autograd.grad(probe_loss(code, centroids), centroids)
    patches = unit(code).permute(0, 2, 3, 1).reshape(-1, 4)
    cosine = patches @ unit(centroids).T
    own = F.one_hot(cosine.argmax(dim=1), 5).double()
    (literal,) = torch.autograd.grad(-(own * cosine).sum(dim=1).mean(), centroids)
    torch.testing.assert_close(ours, literal)
    unused = own.sum(dim=0) == 0
    assert not ours[unused].any()


def test_prototypes_start_as_xaviers_draws_on_the_unit_sphere():
    torch.manual_seed(3)
    found = unit_prototypes(5, 4)
    torch.manual_seed(3)
    drawn = torch.randn(5, 4) * (2 / 9) ** 0.5
    torch.testing.assert_close(found, drawn / drawn.norm(dim=1, keepdim=True))
