"""The criteria that need no label, against loops and against states whose values are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from uss_bench.training.criteria import read_criteria, sample_images, silhouette
from uss_bench.training.monitoring import balance


class Nearest:
    """A method whose cluster of a patch is the largest of its channels."""

    def embed(self, batch):
        return batch["tokens"]

    def classify(self, code):
        return code


class Columns(Nearest):
    """One that labels places: left half 0, right half 1, whatever it sees."""

    def classify(self, code):
        right = torch.linspace(-1, 1, code.shape[3]).expand(len(code), 1, code.shape[2], -1)
        return torch.cat([-right, right], dim=1)


def tokens(seed: int, channels: int = 5, side: int = 6, images: int = 3) -> torch.Tensor:
    return torch.randn(images, channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_silhouette_is_that_of_loops_over_patches():
    points = tokens(0, images=1)[0].flatten(1).T * torch.rand(36, 1)
    owners = torch.arange(36) % 4 + 3 * (torch.arange(36) > 20)  # numbers with gaps
    unit = (points / points.norm(dim=1, keepdim=True)).double().numpy()
    means = {k: unit[owners.numpy() == k].mean(axis=0) for k in set(owners.tolist())}
    values = []
    for vector, owner in zip(unit, owners.tolist(), strict=True):
        far = {k: 1 - vector @ mean / np.linalg.norm(mean) for k, mean in means.items()}
        own = far.pop(owner)
        nearest = min(far.values())
        values.append((nearest - own) / max(own, nearest))
    assert silhouette(points, owners) == pytest.approx(np.mean(values), abs=1e-6)


def test_separate_clusters_have_a_silhouette_of_one_and_a_single_cluster_has_none():
    points = torch.eye(3).repeat(5, 1)
    assert silhouette(points, torch.arange(15) % 3) == pytest.approx(1)
    assert silhouette(points, torch.arange(15) // 5) < 0.01
    assert silhouette(points, torch.zeros(15, dtype=torch.long)) == 0


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([1, 0, 0], 0), ([0.5, 0.5], 1), ([0.5, 0.5, 0, 0], 0.5), ([1], 0), ([1 / 3] * 3, 1)],
)
def test_balance_is_entropy_over_that_of_equal_shares(shares, expected):
    assert balance(np.array(shares)) == pytest.approx(expected)


def test_views_agree_where_what_is_seen_decides_and_not_where_the_place_does():
    batch = {"tokens": tokens(1)}
    mirrored = {"tokens": batch["tokens"].flip(3)}
    assert read_criteria(Nearest(), [(batch, mirrored)], ["tokens"]).views == 1
    assert read_criteria(Columns(), [(batch, mirrored)], ["tokens"]).views == 0
    assert read_criteria(Nearest(), [(batch, None)], ["tokens"]).views is None


def test_batches_add_up_and_the_space_is_that_of_the_first_map():
    whole = {"tokens": tokens(2), "attention": torch.zeros(3, 2, 36, 36, 1)}
    parts = [({name: value[i : i + 1] for name, value in whole.items()}, None) for i in range(3)]
    one = read_criteria(Nearest(), [(whole, None)], ["attention", "tokens"])
    assert read_criteria(Nearest(), parts, ["attention", "tokens"]) == one
    clusters = whole["tokens"].argmax(dim=1)
    shares = torch.bincount(clusters.flatten(), minlength=5).double() / clusters.numel()
    entropy = -float((shares * shares.log()).sum()) / math.log(5)
    assert one.balance == pytest.approx(entropy, abs=1e-6)
    points = whole["tokens"].flatten(2).transpose(1, 2).flatten(0, 1)
    assert one.silhouette == pytest.approx(silhouette(points, clusters.flatten()), abs=1e-6)
    assert read_criteria(Nearest(), parts, []).silhouette is None


@pytest.mark.parametrize("images", [1, 5, 64, 65, 1000])
def test_the_sample_is_spread_over_the_split_without_repeats(images):
    chosen = sample_images(images)
    assert len(chosen) == len(set(chosen)) == min(images, 64)
    assert chosen[0] == 0
    assert chosen[-1] >= images - max(1, images // 32)
    assert chosen == sorted(chosen)
