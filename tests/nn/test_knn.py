"""The table of neighbors against brute force, and what is drawn from it."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from fakes import MemoryFeatures
from literal_forms import features

from uss_bench.nn.knn import knn_table, positives


@pytest.mark.parametrize(("items", "neighbors"), [(40, 30), (70, 5), (7, 30), (1, 30)])
def test_the_table_is_that_of_a_brute_force_search(items, neighbors):
    tokens = features(items, 5, 2, 3)
    memory = MemoryFeatures(tokens)
    table = knn_table(memory, count=neighbors, chunk=16)["neighbors"]
    pooled = [t.flatten(1).sum(dim=1) for t in tokens]
    for i in range(items):
        cosine = [(a @ pooled[i] / (a.norm() * pooled[i].norm())).item() for a in pooled]
        order = sorted(range(items), key=lambda j: (j != i, -cosine[j]))
        assert table[i].tolist() == order[:neighbors]


def test_an_item_is_its_own_rank_0_among_copies():
    tokens = features(1).repeat(6, 1, 1, 1)
    memory = MemoryFeatures(tokens)
    table = knn_table(memory, count=4)["neighbors"]
    assert table[:, 0].tolist() == list(range(6))
    assert all(len(set(row)) == 4 for row in table.tolist())


def test_a_standardized_table_is_that_of_standardized_features():
    tokens = features(20, 5, 2, 3) + 3
    moments = MemoryFeatures(tokens).moments("tokens")
    mean, deviation = (moment[:, None, None] for moment in moments)
    table = knn_table(MemoryFeatures(tokens), count=6, standardize=True)["neighbors"]
    by_hand = knn_table(MemoryFeatures((tokens - mean) / deviation), count=6)["neighbors"]
    assert table.tolist() == by_hand.tolist()
    assert table.tolist() != knn_table(MemoryFeatures(tokens), count=6)["neighbors"].tolist()


def test_positives_are_uniform_over_ranks_1_to_7():
    table = torch.arange(30).repeat(2, 1) + 100 * torch.arange(2)[:, None]
    draws = 7000
    items = torch.ones(draws, dtype=torch.int64)
    found = positives(table, items, 7, torch.Generator().manual_seed(0))
    counts = Counter((found - 100).tolist())
    assert set(counts) == set(range(1, 8))
    assert all(abs(n - draws / 7) < 4.5 * math.sqrt(draws / 7) for n in counts.values())


@pytest.mark.parametrize(("width", "expected"), [(3, {1, 2}), (2, {1}), (1, {0})])
def test_a_narrow_table_gives_what_it_has(width, expected):
    table = torch.arange(width)[None]
    items = torch.zeros(200, dtype=torch.int64)
    assert set(positives(table, items, 7, torch.Generator()).tolist()) == expected


@pytest.mark.parametrize("standardize", [False, True])
def test_dropout_zeroes_whole_channels_of_each_item_before_the_mean(standardize):
    tokens = features(40, 24, 2, 3).float() + 1
    memory = MemoryFeatures(tokens)
    table = knn_table(memory, count=8, standardize=standardize, dropout=0.3, chunk=16)["neighbors"]
    kept = torch.rand((40, 24), generator=torch.Generator().manual_seed(0)) >= 0.3
    assert 0.6 < kept.float().mean() < 0.8
    if standardize:
        mean, deviation = memory.moments("tokens")
        tokens = (tokens - mean[:, None, None]) / deviation[:, None, None]
    dropped = torch.where(kept[:, :, None, None], tokens, 0) / 0.7  # as a layer of dropout would do it
    expected = knn_table(MemoryFeatures(dropped), count=8)["neighbors"]
    assert table.tolist() == expected.tolist()
    assert table.tolist() != knn_table(memory, count=8, standardize=standardize)["neighbors"].tolist()
    assert table[:, 0].tolist() == list(range(40))


@pytest.mark.parametrize("state", [0, 1])
def test_a_table_with_dropout_depends_on_no_global_generator_and_not_on_chunks(state):
    torch.manual_seed(state)
    memory = MemoryFeatures(features(30, 12, 2, 3).float())
    before = torch.get_rng_state()
    tables = [knn_table(memory, count=5, dropout=0.2, chunk=chunk)["neighbors"].tolist() for chunk in (7, 30)]
    assert tables[0] == tables[1]
    assert torch.equal(before, torch.get_rng_state())
