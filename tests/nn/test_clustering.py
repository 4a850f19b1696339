"""The k-means loop of the controls: that of the baseline, over whatever points."""

from __future__ import annotations

import torch
from fakes import FakeContext, MemoryFeatures, method_module, planted

from uss_bench.nn.clustering import fit_centroids, patches_of


class Holder:
    """What `ctx` takes checkpoints of."""

    def __init__(self, clusters: int, dim: int) -> None:
        self.centroids = torch.zeros(clusters, dim)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"centroids": self.centroids}


def test_on_bare_features_it_is_the_baseline():
    tokens, _ = planted([3, 2, 1], channels=8, images=10, side=4, noise=1.0, seed=0)
    dino = method_module("dino").DinoKMeans(
        clusters=4, steps=7, batch_size=3, init_patches=100, checkpoint_every=3
    )
    known = FakeContext(dino, MemoryFeatures(tokens), 5)
    dino.train(None, known)
    holder, features = Holder(4, 8), MemoryFeatures(tokens)
    context = FakeContext(holder, features, 5)
    fit_centroids(
        holder.centroids,
        lambda items: patches_of(features.batch(items)["tokens"]),
        len(features),
        context,
        steps=7,
        batch_size=3,
        init_points=100,
        checkpoint_every=3,
    )
    torch.testing.assert_close(holder.centroids, dino.centroids, rtol=0, atol=0)
    assert [step for step, _ in context.offers] == [step for step, _ in known.offers] == [3, 6]
    assert context.reports == known.reports


def test_patches_of_a_code_are_its_vectors_in_reading_order():
    code = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    patches = patches_of(code)
    assert patches.shape == (8, 3)
    for b in range(2):
        for y in range(2):
            for x in range(2):
                assert patches[4 * b + 2 * y + x].tolist() == code[b, :, y, x].tolist()
