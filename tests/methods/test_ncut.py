"""The control `ncut`: its cuts against a dense literal form, and segments that were planted."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from fakes import method_module
from planted import accuracy

from uss_bench.plugins.registry import Registry

ncut = method_module("ncut")
cut = sys.modules[ncut.segment_map.__module__]
IN_WORLD = {"exponent": 4.0, "threshold": 0.6}
"""What suits the planted world, whose features are noisier than a ViT's."""


def features(channels: int, height: int, width: int, *, parts: int, noise: float, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(parts, channels))
    labels = rng.integers(parts, size=(height, width))
    tokens = directions[labels] + noise * rng.normal(size=(height, width, channels))
    return torch.from_numpy(tokens).permute(2, 0, 1).float()


# --- A literal form ------------------------------------------------------------------------------


def literal_affinity(tokens: np.ndarray, exponent: float) -> np.ndarray:
    points = [tokens[:, y, x] for y in range(tokens.shape[1]) for x in range(tokens.shape[2])]
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in points] for a in points])
    return ((cosine - cosine.min()) / (cosine.max() - cosine.min())) ** exponent


def cut_value(weights: np.ndarray, side: np.ndarray) -> float:
    crossing = sum(weights[i, j] for i in np.flatnonzero(side) for j in np.flatnonzero(~side))
    return crossing / weights[side].sum() + crossing / weights[~side].sum()


def literal_cut(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """The generalized problem (D − W) y = λ D y, and every threshold of its second vector."""
    degrees = np.diag(weights.sum(axis=1))
    y = scipy.linalg.eigh(degrees - weights, degrees)[1][:, 1]
    sides = [y > threshold for threshold in np.sort(y)[:-1]]
    values = [cut_value(weights, side) for side in sides]
    best = int(np.argmin(values))
    return sides[best], values[best]


def literal_segments(weights: np.ndarray, threshold: float) -> list[set[int]]:
    def divide(part: list[int]) -> list[set[int]]:
        if len(part) == 1:
            return [set(part)]
        side, value = literal_cut(weights[np.ix_(part, part)])
        if value >= threshold:
            return [set(part)]
        first = [patch for patch, inside in zip(part, side, strict=True) if inside]
        return [*divide(first), *divide([patch for patch in part if patch not in first])]

    return sorted(divide(list(range(len(weights)))), key=min)


@pytest.mark.parametrize("exponent", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("side", [5, 9], ids=["dense", "iterative"])
def test_a_cut_is_the_best_threshold_of_the_second_generalized_eigenvector(side, exponent):
    tokens = features(12, side, side, parts=4, noise=0.4, seed=side)
    weights = cut.affinity(tokens, exponent)
    known = literal_affinity(tokens.double().numpy(), exponent)
    np.testing.assert_allclose(weights, known, atol=1e-9)
    assert (len(known) > cut._DENSE) == (side == 9)
    expected, value = literal_cut(known)
    found, found_value = cut.best_cut(weights)
    assert found.tolist() in (expected.tolist(), (~expected).tolist())
    assert found_value == pytest.approx(value, abs=1e-9)
    assert found_value == pytest.approx(cut_value(known, found.numpy()), abs=1e-9)


@pytest.mark.parametrize(
    ("exponent", "threshold"), [(1.0, 0.9), (4.0, 0.5), (4.0, 0.8), (10.0, 0.5), (10.0, 0.9)]
)
def test_segments_are_those_of_the_recursion(exponent, threshold):
    tokens = features(8, 5, 4, parts=3, noise=0.4, seed=1)
    weights = literal_affinity(tokens.double().numpy(), exponent)
    expected = np.zeros(20, dtype=int)
    for number, segment in enumerate(literal_segments(weights, threshold)):
        expected[list(segment)] = number
    found = cut.segment_map(tokens, exponent=exponent, threshold=threshold)
    assert found.flatten().tolist() == expected.tolist()


def test_the_threshold_and_the_exponent_make_more_or_fewer_segments():
    tokens = features(8, 8, 8, parts=4, noise=0.4, seed=0)

    def number(**params: float) -> int:
        return int(cut.segment_map(tokens, **{"exponent": 6.0, "threshold": 0.5, **params}).max()) + 1

    assert number(threshold=0.0) == 1 < number() < number(threshold=0.9) < number(threshold=3.0) == 64
    assert number(exponent=1.0) < number()


def test_a_second_eigenvector_that_lanczos_does_not_find_is_computed_densely(monkeypatch):
    weights = cut.affinity(features(8, 9, 9, parts=3, noise=0.4, seed=0), 4.0)
    known = cut.best_cut(weights)

    def gives_up(*_, **__):
        raise cut.ArpackNoConvergence("no", np.zeros(0), np.zeros((0, 0)))

    monkeypatch.setattr(cut, "eigsh", gives_up)
    found = cut.best_cut(weights)
    assert found[1] == pytest.approx(known[1], abs=1e-9)
    assert found[0].tolist() in (known[0].tolist(), (~known[0]).tolist())


# --- Borders -------------------------------------------------------------------------------------


def test_patches_that_are_alike_are_one_segment_and_equal_groups_are_never_divided():
    same = torch.ones(5, 4, 4)
    assert cut.segment_map(same, exponent=10.0, threshold=0.5).max() == 0
    assert cut.segment_map(torch.ones(5, 1, 1), exponent=10.0, threshold=0.5).shape == (1, 1)
    two = F.one_hot(torch.arange(100).view(10, 10) % 2, 5).permute(2, 0, 1).float()
    found = cut.segment_map(two, exponent=10.0, threshold=0.5)
    assert found.tolist() == (torch.arange(100).view(10, 10) % 2).tolist()


def test_segments_are_numbered_in_reading_order_whatever_the_sign_of_the_eigenvector(monkeypatch):
    tokens = features(8, 6, 6, parts=3, noise=0.1, seed=2)
    found = cut.segment_map(tokens, exponent=8.0, threshold=0.5)
    order = list(dict.fromkeys(found.flatten().tolist()))
    assert order == list(range(len(order)))
    assert len(order) > 1
    original = cut._second_eigenvector
    monkeypatch.setattr(cut, "_second_eigenvector", lambda *given: -original(*given))
    assert torch.equal(cut.segment_map(tokens, exponent=8.0, threshold=0.5), found)


def test_a_code_is_the_mean_feature_of_the_patchs_segment():
    tokens = torch.stack([features(8, 5, 6, parts=3, noise=0.3, seed=seed) for seed in range(2)])
    method = ncut.NormalizedCut(clusters=2, exponent=6.0)
    code = method.embed({"tokens": tokens})
    for image in range(2):
        found = cut.segments({"tokens": tokens[image]}, exponent=6.0, threshold=0.5)
        assert found["map"].dtype == np.int16
        for y in range(5):
            for x in range(6):
                inside = torch.from_numpy(found["map"] == found["map"][y, x])
                torch.testing.assert_close(code[image, :, y, x], tokens[image][:, inside].mean(dim=1))
                np.testing.assert_allclose(
                    code[image, :, y, x], found["means"][found["map"][y, x]], rtol=1e-5
                )


# --- The planted world ---------------------------------------------------------------------------


def test_segments_help_in_the_planted_world(run):
    """A threshold of 0 leaves whole images. K-means does not stick on this seed."""
    quick = {"steps": 60, "batch_size": 8, "checkpoint_every": 60}

    def reached(method: str, **params: float) -> float:
        return accuracy(run, method, seed=1, **quick, **params)

    found = reached("ncut", **IN_WORLD)
    assert found > reached("dino") - 5
    assert found > accuracy(run, "random") + 30
    assert reached("ncut", **{**IN_WORLD, "threshold": 0.0}) < found - 30


def test_a_restored_state_predicts_identically():
    _, plugin = Registry().method("ncut")
    method, other = (plugin.load()(clusters=3) for _ in range(2))
    method.centroids = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    other.load_state_dict(method.state_dict())
    tokens = features(8, 4, 4, parts=3, noise=0.3, seed=0)[None]
    logits = [one.classify(one.embed({"tokens": tokens})) for one in (method, other)]
    assert torch.equal(*logits)
