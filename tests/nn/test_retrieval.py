"""In-context retrieval, against brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import MemoryFeatures
from held_memory import Held
from sklearn.neighbors import NearestNeighbors

from uss_bench.nn.retrieval import MemoryBank, balanced_patches, memory_bank, nearest_keys, patch_labels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("chunk", [3, 7, 50, 1000])
def test_neighbors_are_those_of_scikit_learn_by_cosine_however_the_bank_is_cut(chunk):
    queries, keys = torch.randn(20, 6, generator=seeded(1)), torch.randn(50, 6, generator=seeded(2))
    cosine, nearest = nearest_keys(F.normalize(queries, dim=1), F.normalize(keys, dim=1), 5, chunk)
    known = NearestNeighbors(n_neighbors=5, metric="cosine").fit(keys.numpy())
    distance, places = known.kneighbors(queries.numpy())
    np.testing.assert_array_equal(nearest.numpy(), places)
    np.testing.assert_allclose(1 - cosine.numpy(), distance, atol=1e-6)


def test_a_patch_gets_the_labels_of_its_neighbors_weighted_by_a_softmax_of_cosines():
    keys, values = torch.randn(40, 6, generator=seeded(1)), torch.rand(40, 3, generator=seeded(2))
    tokens = torch.randn(2, 6, 3, 4, generator=seeded(3))
    bank = MemoryBank(keys, values, neighbors=7, temperature=0.1)
    code = bank.embed({"tokens": tokens})
    assert code.shape == (2, 3, 3, 4)
    assert bank.classify(code) is code
    for image, row, column in np.ndindex(2, 3, 4):
        query = tokens[image, :, row, column].double().numpy()
        table = keys.double().numpy()
        cosine = table @ query / np.linalg.norm(table, axis=1) / np.linalg.norm(query)
        chosen = np.argsort(-cosine)[:7]
        weights = np.exp(cosine[chosen] / 0.1)
        expected = weights @ values.double().numpy()[chosen] / weights.sum()
        np.testing.assert_allclose(code[image, :, row, column].numpy(), expected, rtol=1e-4)


def test_labels_are_counted_by_the_patch_that_they_lie_in():
    label = np.random.default_rng(0).integers(-1, 3, (12, 8))
    found = patch_labels(torch.from_numpy(label), (3, 2), 3)
    for row, column in np.ndindex(3, 2):
        cell = label[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert found[2 * row + column].tolist() == [(cell == one).sum() for one in range(3)]


def test_patches_of_rare_classes_come_first_and_those_without_labels_never():
    counts = torch.zeros(100, 3)
    counts[:90, 0] = 4
    counts[90:92, 1] = 4  # a score of at most 2, where the others' mean is 45
    chosen = [balanced_patches(counts, 10, seeded(seed)).tolist() for seed in range(20)]
    assert all(len(set(one)) == 10 and max(one) < 92 for one in chosen)
    assert np.mean([{90, 91} <= set(one) for one in chosen]) > 0.9
    assert len(balanced_patches(counts, 1000, seeded())) == 92


def test_a_bank_holds_equally_many_patches_of_every_item_and_their_shares_of_classes():
    tokens = torch.randn(4, 5, 3, 3, generator=seeded())
    labels = torch.randint(-1, 2, (4, 6, 6), generator=seeded(5))
    bank = memory_bank(MemoryFeatures(tokens), lambda row: labels[row], 2, seeded(), size=8)
    assert bank.keys.shape == (8, 5)
    torch.testing.assert_close(bank.values.sum(dim=1), torch.ones(8))
    patches = F.normalize(tokens.permute(0, 2, 3, 1).reshape(36, 5), dim=1)
    where = [int((patches == key).all(dim=1).nonzero()) for key in bank.keys]
    assert [place // 9 for place in where] == [0, 0, 1, 1, 2, 2, 3, 3]
    for place, value in zip(where, bank.values, strict=True):
        item, row, column = place // 9, place % 9 // 3, place % 3
        cell = labels[item, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert value[1] == (cell == 1).sum() / (cell >= 0).sum()


def test_more_items_than_the_bank_holds_give_a_patch_each_evenly_spaced():
    tokens = torch.randn(10, 4, 2, 2, generator=seeded())
    features = MemoryFeatures(tokens)
    bank = memory_bank(features, lambda row: torch.zeros(4, 4, dtype=torch.int64), 2, seeded(), size=5)
    assert len(bank.keys) == 5
    assert [int((tokens == one[0]).flatten(1).all(dim=1).nonzero()) for one in features.read] == [
        0,
        2,
        4,
        6,
        8,
    ]


def test_a_bank_of_no_labels_is_refused():
    nothing = torch.full((4, 4), -1)
    with pytest.raises(ValueError, match="no pixel has a label"):
        memory_bank(MemoryFeatures(torch.randn(2, 4, 2, 2)), lambda row: nothing, 2, seeded())


def test_memory_beside_the_result_does_not_grow_with_the_queries_and_the_bank_is_linear():
    def held(images: int, keys: int) -> int:
        bank = MemoryBank(torch.randn(keys, 8), torch.rand(keys, 5))
        tokens = torch.randn(images, 8, 32, 32)
        with Held() as memory:
            code = bank.embed({"tokens": tokens})
        return memory.peak - 2 * code.untyped_storage().nbytes() - tokens.untyped_storage().nbytes()

    few = held(1, 20_000)
    assert held(6, 20_000) <= 1.05 * few
    assert held(1, 60_000) <= 1.5 * few, "similarities exist for a piece of the bank at a time"
