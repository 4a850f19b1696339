"""The order of training items, interrupted or not."""

from __future__ import annotations

import pytest
import torch

from uss_bench.nn.batches import ShuffledBatches


@pytest.mark.parametrize(("items", "size", "per_epoch"), [(10, 3, 3), (6, 3, 2), (2, 5, 1)])
def test_batches_permute_all_items_each_epoch_and_drop_the_short_rest(items, size, per_epoch):
    batches = ShuffledBatches(items, size, torch.Generator().manual_seed(0))
    epochs = [[next(batches) for _ in range(per_epoch)] for _ in range(4)]
    for epoch in epochs:
        drawn = [index for batch in epoch for index in batch]
        assert [len(batch) for batch in epoch] == [min(size, items)] * per_epoch
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(range(items))
    assert len({str(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize(("items", "size"), [(10, 3), (4, 8), (6, 6), (1, 1)])
def test_batches_go_on_in_the_middle_of_an_epoch(items, size):
    batches = ShuffledBatches(items, size, torch.Generator().manual_seed(0))
    for taken in range(8):
        state = batches.state_dict()
        other = ShuffledBatches(items, size, torch.Generator().manual_seed(1))
        other.load_state_dict(state)
        ahead = ShuffledBatches(items, size, torch.Generator())
        ahead.load_state_dict(state)
        assert [next(other) for _ in range(5)] == [next(ahead) for _ in range(5)], taken
        next(batches)
