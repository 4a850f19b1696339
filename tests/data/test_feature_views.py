"""Views of frozen features: both show one place, lack channels of their own, and stay through an epoch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from uss_bench.data.feature_views import FeatureViews
from uss_bench.runtime.seeding import derive_seed


def generator(purpose: str, *key: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, purpose, *key))


def pair(net=lambda x: x, **params):
    return FeatureViews(**params).views(SimpleNamespace(generator=generator), net)


def features(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) + 1


def test_both_codes_show_the_same_place_exactly():
    views, x, items = pair(dropout=0.0), features(6, 5, 12, 10), list(range(6))
    first, second = (views.code(view, 1, items, x) for view in (0, 1))
    assert first.shape == x.shape
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, x)
    assert not torch.allclose(views.code(0, 2, items, x), first)


def test_each_view_lacks_channels_of_its_own_and_keeps_them_through_an_epoch():
    views, x, items = pair(dropout=0.3), features(40, 50, 4, 4), list(range(40))
    codes = [views.code(view, 1, items, x) for view in (0, 1)]
    gone = [(code == 0).all(dim=3).all(dim=2) for code in codes]
    for one in gone:
        assert one.float().mean().item() == pytest.approx(0.3, abs=0.03)
        assert len({tuple(row.tolist()) for row in one}) == 40
    assert not torch.equal(*gone)
    for view in (0, 1):
        some = views.code(view, 1, [7, 3], x[[7, 3]])
        torch.testing.assert_close(some, codes[view][[7, 3]])
    plain = views.code(0, 1, items, x, colors=False)
    kept = ~gone[0][:, :, None, None].expand_as(plain)
    torch.testing.assert_close(codes[0][kept], plain[kept] / 0.7)
