"""The k-means baseline: its start, its update, and what it finds."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import FakeContext, MemoryFeatures, method_module, planted

from uss_bench.evaluation.scoring import count, score
from uss_bench.nn.kmeans import kmeans_plus_plus

dino = method_module("dino")


def train(method, tokens: torch.Tensor, seed: int = 0) -> tuple[FakeContext, MemoryFeatures]:
    features = MemoryFeatures(tokens)
    context = FakeContext(method, features, seed)
    method.train(None, context)
    return context, features


# --- The update ----------------------------------------------------------------------------------


def unit_patches(batch: torch.Tensor) -> torch.Tensor:
    return F.normalize(batch, dim=1).permute(0, 2, 3, 1).flatten(0, 2)


def start(features: MemoryFeatures, context: FakeContext, steps: int) -> torch.Tensor:
    """The centroids before the first step: k-means++ with the run's own generator on the batches before."""
    generator = context.generator("k-means++")
    sample = torch.cat([unit_patches(batch) for batch in features.read[:-steps]])
    keep = torch.randperm(len(sample), generator=generator)[:60]
    return kmeans_plus_plus(sample[keep], 4, generator)


def test_centroids_move_as_in_a_loop_over_patches():
    tokens, _ = planted([1, 1, 1], channels=6, images=9, side=4, noise=1.5, seed=0)
    method = dino.DinoKMeans(clusters=4, steps=5, batch_size=3, init_patches=60, checkpoint_every=1)
    context, features = train(method, tokens)
    states = [state["centroids"] for _, state in context.offers]
    seen = np.zeros(4)
    befores = [start(features, context, 5), *states[:-1]]
    for before, after, batch in zip(befores, states, features.read[-5:], strict=True):
        moved = before.double().numpy().copy()
        for patch in unit_patches(batch).double().numpy():
            k = int((before.double().numpy() @ patch).argmax())
            seen[k] += 1
            moved[k] += (patch - moved[k]) / seen[k]  # Sculley's per-center learning rate
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        np.testing.assert_allclose(after, moved, atol=1e-5)


# --- The whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_kmeans_recovers_classes_that_were_planted_in_the_features(standardize, seed):
    tokens, labels = planted([5, 3, 2], channels=24, images=12, side=7, noise=0.7, seed=seed)
    method = dino.DinoKMeans(clusters=3, steps=30, batch_size=6, standardize=standardize)
    train(method, tokens, seed)
    predicted = method.classify(method.embed({"tokens": tokens})).argmax(dim=1).numpy()
    counts = np.stack([count(p, t, 3, 3) for p, t in zip(predicted, labels, strict=True)])
    assert score(counts).miou > 0.9


@functools.cache
def planted_miou(seed: int, **params) -> float:
    """mIoU on the planted problem of the other methods: three classes of unequal size, 5 × 5 patches."""
    tokens, labels = planted([5, 3, 2], channels=24, images=12, side=5, noise=0.7, seed=seed)
    method = dino.DinoKMeans(clusters=3, steps=30, batch_size=6, **params)
    train(method, tokens, seed)
    predicted = method.classify(method.embed({"tokens": tokens})).argmax(dim=1).numpy()
    counts = np.stack([count(p, t, 3, 3) for p, t in zip(predicted, labels, strict=True)])
    return score(counts).miou


@pytest.mark.parametrize("params", [{}, {"standardize": True}], ids=str)
def test_k_means_finds_planted_classes_or_sticks_in_a_poor_optimum(params):
    """Measured: it sticks on one of five seeds, and on two of five where features are standardized."""
    results = [planted_miou(seed, **params) for seed in range(5)]
    assert all(one > 0.95 or one < 0.5 for one in results)
    assert {one > 0.95 for one in results} == {True, False}


def test_a_random_start_is_no_worse_than_k_means_plus_plus_on_the_planted_problem():
    """Three patches to choose three centroids from leave nothing to choose. Measured: it never sticks."""
    assert all(planted_miou(seed, init_patches=3) > 0.95 for seed in range(5))


def test_fewer_patches_than_clusters_leave_empty_clusters_and_no_error():
    tokens = torch.randn(1, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    method = dino.DinoKMeans(clusters=8, steps=3)
    train(method, tokens)
    logits = method.classify(method.embed({"tokens": tokens}))
    assert logits.shape == (1, 8, 2, 2)
    torch.testing.assert_close(logits.amax(dim=1), torch.ones(1, 2, 2))


def test_reported_inertia_falls_and_checkpoints_are_offered():
    tokens, _ = planted([1, 1, 1], channels=12, images=8, side=5, noise=0.8, seed=3)
    context, _ = train(dino.DinoKMeans(clusters=3, steps=100, batch_size=4, checkpoint_every=50), tokens)
    assert [step for step, _ in context.offers] == [50, 100]
    assert [step for step, _ in context.reports] == [1, 50, 100]
    assert context.reports[-1][1]["inertia"] < context.reports[0][1]["inertia"]


def test_a_restored_state_predicts_identically():
    tokens = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    method = dino.DinoKMeans(clusters=3, steps=2, batch_size=2, standardize=True)
    train(method, tokens)
    other = dino.DinoKMeans(clusters=3)
    other.load_state_dict(method.state_dict())
    logits = [one.classify(one.embed({"tokens": tokens})) for one in (method, other)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)
