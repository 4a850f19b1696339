"""Views: what is drawn, how images and features follow, and the way back."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance

from uss_bench.data.views import (
    Geometric,
    Photometric,
    View,
    Views,
    align,
    apply_geometric,
    apply_photometric,
)
from uss_bench.runtime.seeding import derive_seed

ALL = Photometric(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, gray=0.2, blur=0.5, solarize=0.1)
WIDE = Geometric(scale=(0.4, 1.0), flip=0.5)


def generator(purpose: str, *key: int, seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, "/".join([purpose, *map(str, key)])))


def draw(photometric=None, geometric=None, count: int = 200, **options) -> list[View]:
    return Views(generator, "view", photometric=photometric, geometric=geometric, **options).draw(
        0, range(count)
    )


def ramp(side: int) -> torch.Tensor:
    """Return an image whose values are its own coordinates in [-1, 1]: x, y and 1."""
    centers = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)])


# --- Drawing ---------------------------------------------------------------------------------------


def test_a_view_belongs_to_epoch_and_item_and_not_to_a_batch():
    views = Views(generator, "view", photometric=ALL, geometric=WIDE)
    together = views.draw(3, [5, 1, 9])
    assert [views.draw(3, [item])[0] for item in (5, 1, 9)] == together
    assert views.draw(3, torch.tensor([9, 5])) == [together[2], together[0]]
    assert views.draw(4, [5]) != together[:1]
    assert Views(generator, "other", photometric=ALL, geometric=WIDE).draw(3, [5]) != together[:1]
    other_seed = functools.partial(generator, seed=1)
    assert Views(other_seed, "view", photometric=ALL, geometric=WIDE).draw(3, [5]) != together[:1]


def test_by_default_nothing_changes():
    images = torch.rand(3, 3, 8, 8)
    views = draw(count=3)
    assert views == [View(top=v.top, left=v.left) for v in views]
    assert torch.equal(apply_photometric(images, views), images)
    assert torch.equal(apply_geometric(images, views, (8, 8)), images)


def test_probabilities_and_ranges_are_those_asked_for():
    views = draw(
        Photometric(brightness=0.5, hue=0.1, jitter=0.8, gray=0.25, blur=0.5, sigma=(1.0, 2.0)),
        Geometric(scale=(0.5, 0.75), flip=0.5, degrees=10, shear=5, zoom=(0.8, 1.25)),
        count=2000,
    )
    names = [dict(view.operations) for view in views]
    for name, share in (("brightness", 0.8), ("hue", 0.8), ("gray", 0.25), ("blur", 0.5), ("contrast", 0.0)):
        assert np.mean([name in one for one in names]) == pytest.approx(share, abs=0.04), name
    assert all(("brightness" in one) == ("hue" in one) for one in names), "one coin for the four"
    for name, low, high in (("brightness", 0.5, 1.5), ("hue", -0.1, 0.1), ("blur", 1, 2)):
        values = [one[name] for one in names if name in one]
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
    ranges = {"scale": (0.5, 0.75), "top": (0, 1), "left": (0, 1), "degrees": (-10, 10), "shear": (-5, 5)}
    for name, (low, high) in (ranges | {"zoom": (0.8, 1.25)}).items():
        values = [getattr(view, name) for view in views]
        assert low <= min(values) <= max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    assert np.mean([view.flip for view in views]) == pytest.approx(0.5, abs=0.04)
    first = [
        view.operations[0][0] for view in views if len(view.operations) > 1 and "hue" in dict(view.operations)
    ]
    assert np.mean([name == "hue" for name in first]) == pytest.approx(0.5, abs=0.05), "in random order"


def test_each_operation_may_have_a_coin_of_its_own_and_a_fixed_order():
    views = draw(
        Photometric(
            brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, jitter=0.8, each=True, shuffled=False
        ),
        count=2000,
    )
    order = ["brightness", "contrast", "saturation", "hue"]
    assert all([n for n, _ in v.operations] == [n for n in order if n in dict(v.operations)] for v in views)
    lengths = np.bincount([len(view.operations) for view in views], minlength=5) / len(views)
    expected = [0.2**4, 4 * 0.8 * 0.2**3, 6 * 0.8**2 * 0.2**2, 4 * 0.8**3 * 0.2, 0.8**4]
    np.testing.assert_allclose(lengths, expected, atol=0.04)


def test_a_switch_moves_no_other_number():
    plain, blurred = (
        draw(Photometric(brightness=0.3), WIDE),
        draw(Photometric(brightness=0.3, blur=1.0, gray=1.0), WIDE),
    )
    for one, other in zip(plain, blurred, strict=True):
        assert one.operations == other.operations[: len(one.operations)]
        assert (one.scale, one.top, one.left, one.flip) == (other.scale, other.top, other.left, other.flip)


# --- Color -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_colors_change_as_in_pillow_which_the_released_codes_use(name, enhance):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for factor in (0.7, 1.3):
        ours = (
            apply_photometric(image[None], [View(operations=((name, factor),))])[0].permute(1, 2, 0).numpy()
        )
        theirs = np.asarray(enhance(Image.fromarray(pixels)).enhance(factor))
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        floats = apply_photometric(image[None] / 255, [View(operations=((name, factor),))])[0]
        assert (255 * floats.permute(1, 2, 0).numpy() - theirs).__abs__().max() <= 1.5


def test_operations_are_applied_in_their_order():
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    one = apply_photometric(images, [View(operations=(("brightness", 1.9), ("contrast", 0.2)))])
    other = apply_photometric(images, [View(operations=(("contrast", 0.2), ("brightness", 1.9)))])
    by_hand = (images * 1.9).clamp(0, 1)
    gray = (by_hand * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(1).mean()
    torch.testing.assert_close(one, 0.2 * by_hand + 0.8 * gray)
    assert not torch.allclose(one, other, atol=0.05)


def test_gray_blur_and_solarize():
    images = torch.zeros(1, 3, 15, 15)
    images[..., 7, 7] = 1
    gray = apply_photometric(torch.rand(1, 3, 4, 4), [View(operations=(("gray", 1.0),))])
    assert torch.equal(gray, gray[:, :1].expand_as(gray))
    blurred = apply_photometric(images, [View(operations=(("blur", 1.0),))])[0, 0]
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert (blurred[7, 8] / blurred[7, 7]).item() == pytest.approx(np.exp(-0.5), abs=1e-4)
    assert apply_photometric(images, [View(operations=(("blur", 1.0),), kernel=3)])[0, 0, 7, 9] == 0
    assert torch.equal(
        apply_photometric(images, [View(operations=(("solarize", 0.5),))])[0, 0, 7, 7], torch.tensor(0.0)
    )


def test_normalized_images_are_clamped_as_the_released_code_of_hp_has_it():
    view = View(operations=(("brightness", 1.0),))
    assert apply_photometric(torch.full((1, 3, 2, 2), -2.0), [view]).max() == 0
    assert apply_photometric(torch.full((1, 3, 2, 2), 2.5), [view]).min() == 1


# --- Geometry --------------------------------------------------------------------------------------


def test_a_crop_and_flip_is_cut_at_whole_pixels_and_resized_as_by_hand():
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    view = View(scale=0.55, top=0.3, left=0.9, flip=True)
    side, top, left = int(0.55 * 64), int(0.3 * (64 - 35)), int(0.9 * (64 - 35))
    crop = image[..., top : top + side, left : left + side]
    expected = F.interpolate(crop, (16, 16), mode="bilinear", align_corners=False).flip(3)
    torch.testing.assert_close(apply_geometric(image, [view, view], (16, 16)), expected)


VIEWS = {
    "crop": View(scale=0.5, top=0.25, left=0.75),
    "flip": View(scale=0.5, top=0.25, left=0.75, flip=True),
    "rotation": View(scale=0.5, top=0.5, left=0.4, degrees=25),
    "all": View(scale=0.5, top=0.4, left=0.6, degrees=-15, shear=10, zoom=1.2, flip=True),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_the_matrix_says_where_each_pixel_of_the_view_comes_from(view):
    side = 96
    shown = apply_geometric(ramp(128)[None], [view], (side, side))[0]
    centers = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    there = torch.einsum("ij,jhw->ihw", view.matrix(), torch.stack([x, y, torch.ones_like(x)]))
    torch.testing.assert_close(shown[:2], there, atol=0.02, rtol=0)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_features_come_back_over_the_image(view):
    seen = apply_geometric(ramp(160)[None], [view], (80, 80))
    back, inside = align(seen, [view], None, (80, 80))
    assert 0.1 < inside.float().mean() < 0.9
    error = (back - ramp(80)[None]).abs()[:, :2]
    assert (error * inside).max() < 2 / 80, "within a patch"
    assert torch.equal(back * ~inside, torch.zeros_like(back))


@pytest.mark.parametrize("first", VIEWS)
@pytest.mark.parametrize("second", VIEWS)
def test_one_view_comes_over_another(first, second):
    first, second = VIEWS[first], VIEWS[second]
    seen = apply_geometric(ramp(160)[None], [first], (80, 80))
    moved, inside = align(seen, [first], [second], (80, 80))
    wanted = apply_geometric(ramp(160)[None], [second], (80, 80))
    assert inside.any()
    assert ((moved - wanted).abs()[:, :2] * inside).max() < 2 / 80


def test_the_image_over_a_view_is_the_view():
    views = list(VIEWS.values())
    values = torch.rand(4, 5, 40, 40, generator=torch.Generator().manual_seed(0))
    values = F.avg_pool2d(values, 9, stride=1, padding=4)
    moved, inside = align(values, None, views, (20, 20))
    wanted = apply_geometric(values, views, (20, 20))
    assert ((moved - wanted).abs() * inside)[..., 1:-1, 1:-1].max() < 0.05


def test_a_gradient_reaches_the_features():
    values = torch.rand(2, 3, 8, 8, requires_grad=True)
    aligned, _ = align(values, [VIEWS["all"], VIEWS["crop"]], None, (8, 8))
    aligned.sum().backward()
    assert (values.grad.flatten(1).abs().sum(1) > 0).all()
