"""Mutual information over displacements, against loops, the released convolution and what must hold."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.nn.mutual_information import EPS, information_loss, joint_counts


def maps(*shape: int, seed: int, sharpness: float = 1.0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (sharpness * drawn).softmax(dim=1)


def convolved(first: Tensor, second: Tensor, half: int) -> Tensor:
    """The shape of the released code: the second maps are the kernel of one convolution."""
    counts = F.conv2d(first.transpose(0, 1), second.transpose(0, 1), padding=half)
    return counts.permute(2, 3, 0, 1)


def literal_counts(first: Tensor, second: Tensor, half: int) -> Tensor:
    images, classes, height, width = first.shape
    rows = []
    for down, right in itertools.product(range(-half, half + 1), repeat=2):
        table = [[torch.zeros((), dtype=torch.float64)] * second.shape[1] for _ in range(classes)]
        for b, y, x in itertools.product(range(images), range(height), range(width)):
            if 0 <= y + down < height and 0 <= x + right < width:
                for i, j in itertools.product(range(classes), range(second.shape[1])):
                    table[i][j] = table[i][j] + first[b, i, y + down, x + right] * second[b, j, y, x]
        rows.append(torch.stack([torch.stack(row) for row in table]))
    return torch.stack(rows).unflatten(0, (2 * half + 1, 2 * half + 1))


def literal_loss(counts: Tensor, weight: float) -> Tensor:
    losses = []
    for table in counts.flatten(0, 1):
        p = table / table.sum()
        p = (p + p.T) / 2
        total = torch.zeros((), dtype=torch.float64)
        for i, j in itertools.product(range(len(p)), repeat=2):
            a, b = sum(p[i, k] for k in range(len(p))), sum(p[k, j] for k in range(len(p)))
            total = total - p[i, j] * (p[i, j].log() - weight * a.log() - weight * b.log())
        losses.append(total)
    return torch.stack(losses).mean()


# --- Joint counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("half", "size"), [(0, (3, 3)), (1, (3, 4)), (2, (4, 3)), (4, (3, 2))])
def test_one_correlation_gives_the_counts_of_loops_and_of_the_released_convolution(half, size):
    first, second = maps(2, 3, *size, seed=1), maps(2, 4, *size, seed=2)
    found = joint_counts(first, second, half)
    assert found.shape == (2 * half + 1, 2 * half + 1, 3, 4)
    torch.testing.assert_close(found, literal_counts(first, second, half))
    torch.testing.assert_close(found, convolved(first, second, half))


def test_single_precision_is_close_to_the_convolution_at_the_size_of_a_run():
    first, second = (maps(3, 6, 64, 64, seed=s, sharpness=4).float() for s in (1, 2))
    expected = convolved(first.double(), second.double(), 10)
    found = joint_counts(first, second, 10).double()
    assert (found - expected).abs().max() < 1e-6 * expected.sum(dim=(2, 3)).max()


# --- The loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("displacements", ["each", "summed"])
@pytest.mark.parametrize("weight", [1.0, 1.5])
@pytest.mark.parametrize("half", [0, 1])
def test_loss_and_gradient_are_the_literal_ones(half, weight, displacements):
    given = [maps(2, 3, 3, 4, seed=s).requires_grad_() for s in (1, 2)]
    found = information_loss(*given, half_window=half, entropy_weight=weight, displacements=displacements)
    counts = literal_counts(*given, half)
    if displacements == "summed":
        counts = counts.sum(dim=(0, 1), keepdim=True)
    expected = literal_loss(counts, weight)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    slopes = [torch.autograd.grad(one, given) for one in (found, expected)]
    for slope, literal in zip(*slopes, strict=True):
        torch.testing.assert_close(slope, literal, rtol=1e-9, atol=1e-12)


def test_loss_and_gradient_are_those_of_the_released_convolution():
    given = [maps(3, 4, 9, 8, seed=s, sharpness=3).requires_grad_() for s in (1, 2)]
    found = information_loss(*given, half_window=3, entropy_weight=1.5)
    expected = literal_loss(convolved(*given, 3), 1.5)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for slope, literal in zip(
        torch.autograd.grad(found, given), torch.autograd.grad(expected, given), strict=True
    ):
        torch.testing.assert_close(slope, literal, rtol=1e-9, atol=1e-12)


def test_the_loss_is_the_negative_mutual_information_of_two_equal_even_maps_and_zero_of_independent_ones():
    labels = torch.arange(64).reshape(1, 8, 8) % 4
    hard = F.one_hot(labels, 4).permute(0, 3, 1, 2).double()
    assert information_loss(hard, hard).item() == pytest.approx(-math.log(4))
    rows = F.one_hot(torch.arange(8) % 4, 4).T.double()
    down, across = rows[None, :, :, None].expand(1, 4, 8, 8), rows[None, :, None, :].expand(1, 4, 8, 8)
    assert information_loss(down, across).item() == pytest.approx(0, abs=1e-12)
    # Classes that never occur are clamped, and have no say.
    assert information_loss(hard[:, :1], hard[:, :1]).item() == pytest.approx(0, abs=1e-12)
    wide = torch.cat([hard, torch.zeros(1, 2, 8, 8)], dim=1)
    assert information_loss(wide, wide).item() == pytest.approx(-math.log(4), abs=40 * 36 * EPS + 1e-9)


def test_without_the_entropy_of_classes_one_class_for_everything_is_best():
    one = F.one_hot(torch.zeros(1, 8, 8, dtype=torch.int64), 2).permute(0, 3, 1, 2).double()
    even = F.one_hot(torch.arange(64).reshape(1, 8, 8) % 2, 2).permute(0, 3, 1, 2).double()
    for weight, better, worse in ((0.0, one, even), (1.0, even, one), (1.5, even, one)):
        losses = [information_loss(x, x, entropy_weight=weight).item() for x in (better, worse)]
        assert losses[0] < losses[1]


def test_places_that_only_one_view_shows_count_nothing():
    first, second = maps(2, 3, 6, 6, seed=1), maps(2, 3, 6, 6, seed=2)
    seen = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    seen[:, :, 1:5, 2:6] = True
    found = information_loss(first, second, half_window=1, seen=seen)
    cut = [one[:, :, 1:5, 2:6] for one in (first, second)]
    assert found.item() == pytest.approx(information_loss(*cut, half_window=1).item(), rel=1e-12)
