"""The two views of PiCIE: colors as drawn, and a place that pixels and codes share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from uss_bench.data.view_pairs import PLACE, ViewPair, released_colors
from uss_bench.data.views import Photometric, Views
from uss_bench.runtime.seeding import derive_seed


def generator(purpose: str, *key: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, purpose, *key))


def pair(net=None, *, colors: bool = False):
    color = released_colors(grayscale=False, blur="effective") if colors else Photometric()
    net = net or (lambda x: F.avg_pool2d(x, 4))
    return ViewPair(SimpleNamespace(generator=generator), net, color, PLACE)


def test_both_codes_show_the_same_place_but_for_whole_positions():
    """The code of the network is the place of a pixel in the image: 80 × 80 positions.

    The released crop of a code has whole positions: its corner and its side are each rounded down by less
    than one. So one border is off by less than a position, the other by less than two, and the mean by one.
    """
    ramp = (torch.arange(640) * 255 / 639).round().to(torch.uint8)
    images = torch.stack([ramp.expand(640, 640), ramp[:, None].expand(640, 640), ramp.expand(640, 640)])
    items = [0, 1, 2, 3, 4, 5]
    first, second = (pair().code(view, 1, items, images.expand(6, 3, 640, 640)) for view in (0, 1))
    assert first.shape == second.shape == (6, 3, 80, 80)
    apart = (first - second).abs()
    assert apart.max() < 2 / 80
    assert apart.mean(dim=(1, 2, 3)).max() < 1 / 80
    assert any(one[0, 0, 0] > one[0, 0, -1] for one in first), "some are flipped"
    assert (first[0] - first[1]).abs().max() > 0.05, "each image has a place of its own"


def test_every_pass_of_an_epoch_sees_the_same_views_whatever_the_batch():
    images = (torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).byte()
    views = pair(colors=True)
    for view in (0, 1):
        whole = views.code(view, 1, [3, 1, 0, 2], images[[3, 1, 0, 2]])
        torch.testing.assert_close(views.code(view, 1, [0], images[:1]), whole[2:3])
        assert not torch.allclose(views.code(view, 2, [0], images[:1]), whole[2:3], atol=1e-3)


def test_colors_of_the_two_views_differ_and_can_be_left_out():
    images = (torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).byte()
    plain, changed = pair(), pair(colors=True)
    for view in (0, 1):
        as_it_is = plain.code(view, 1, [0, 1, 2], images)
        assert torch.equal(changed.code(view, 1, [0, 1, 2], images, colors=False), as_it_is)
        assert not torch.equal(changed.code(view, 1, [0, 1, 2], images), as_it_is)


@pytest.mark.parametrize("grayscale", [False, True])
@pytest.mark.parametrize(("blur", "low", "high"), [("effective", 0.0, 1.8), ("stated", 0.1, 2.0)])
def test_colors_are_drawn_as_the_released_code_does(grayscale, blur, low, high):
    color = released_colors(grayscale=grayscale, blur=blur)
    drawn = Views(generator, "color 1", photometric=color).draw(1, range(2000))
    counts = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "gray", "blur"), 0)
    sigmas = []
    for view in drawn:
        names = [name for name, _ in view.operations]
        assert names == [name for name in counts if name in names], "in fixed order"
        for name, value in view.operations:
            counts[name] += 1
            if name == "blur":
                sigmas.append(value)
    for name in ("brightness", "contrast", "saturation", "hue"):
        assert counts[name] / 2000 == pytest.approx(0.8, abs=0.04)
    assert counts["gray"] / 2000 == pytest.approx(0.2 * grayscale, abs=0.03 * grayscale)
    assert counts["blur"] / 2000 == pytest.approx(0.5, abs=0.04)
    assert low <= min(sigmas) < low + 0.05
    assert high - 0.05 < max(sigmas) <= high
