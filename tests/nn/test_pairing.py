"""Partners within a batch."""

from __future__ import annotations

import itertools

import pytest
import torch

from uss_bench.nn.pairing import near_derangement


@pytest.mark.parametrize("size", [2, 3, 4, 7, 32])
def test_no_image_is_paired_with_itself_and_fixed_points_move_on_by_one(size):
    for seed in range(200):
        partner = near_derangement(size, torch.Generator().manual_seed(seed)).tolist()
        drawn = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
        assert partner == [(i + 1) % size if drawn[i] == i else drawn[i] for i in range(size)]
        assert all(partner[i] != i for i in range(size))


def test_pairing_four_images_is_no_bijection_in_14_of_the_24_cases(monkeypatch):
    broken = 0
    for permutation in itertools.permutations(range(4)):
        monkeypatch.setattr(torch, "randperm", lambda size, generator, p=permutation: torch.tensor(p))
        broken += len(set(near_derangement(4, torch.Generator()).tolist())) < 4
    assert broken == 14


def test_a_single_image_has_no_partner():
    with pytest.raises(ValueError, match="at least two"):
        near_derangement(1, torch.Generator())
