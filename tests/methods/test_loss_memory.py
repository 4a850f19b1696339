"""Memory of the pairwise losses, counted and not timed: linear in patches, where literal forms are quadratic.

The literal forms are those that `benchmarks/` measures against. Each is shown to be the same loss.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from fakes import method_module
from held_memory import Held
from torch import Tensor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    """Import a file of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


literal_losses, measuring = script("literal_losses"), script("measuring")
literal_eagle = script("literal_eagle")


# --- The literal forms ---------------------------------------------------------------------------


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator) + 0.3, dim=1)


def soft(*shape: int, seed: int) -> Tensor:
    return torch.softmax(5 * unit(*shape, seed=seed), dim=1).requires_grad_()


def assert_same_loss(method: str, wanting: Sequence[Tensor], *arguments: object) -> None:
    """Compare a method's own form with the literal one, in value and in the gradients of `wanting`."""
    home, name, literal = literal_losses.PLACES[method]
    results = []
    for form in (getattr(home or method_module(method), name), literal):
        value = form(*arguments)
        value = sum(value) if isinstance(value, tuple) else value
        results.append((value.detach(), torch.autograd.grad(value, wanting)))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("global_offset", [False, True])
def test_smoothness(global_offset):
    x, a = unit(3, 8, 11, seed=0), soft(3, 5, 11, seed=2)
    assert_same_loss("smooseg", (a,), x, a, torch.tensor([2, 0, 0]), -0.02, 0.5, global_offset)


@pytest.mark.parametrize("center", [False, True])
def test_mean_pair_loss(center):
    q, p = soft(3, 5, 11, seed=2), soft(3, 5, 11, seed=3)
    x, y = (unit(3, 8, 11, seed=seed).requires_grad_() for seed in (0, 1))
    b = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    assert_same_loss("ds2dl", (x, y, q, p, b), x, y, q, p, b, 2.2, center)


@pytest.mark.parametrize("zero_clamp", [False, True])
@pytest.mark.parametrize("pointwise", [False, True])
def test_distillation(pointwise, zero_clamp):
    code, other = (3 * unit(3, 5, 11, seed=seed) - 0.5 for seed in (2, 3))
    code, other = code.requires_grad_(), other.requires_grad_()
    f, g = unit(3, 8, 11, seed=0), unit(3, 8, 11, seed=1)
    assert_same_loss("stego", (code, other), f, g, code, other, 0.2, pointwise, zero_clamp)


def test_the_parts_of_eagle():
    eagle = method_module("eagle")
    generator = torch.Generator().manual_seed(0)
    code, keys = (torch.randn(3, 5, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    colors = torch.rand(3, 3, 4, 4, generator=generator, dtype=torch.float64)
    given = (code, colors, 3)
    ours, literal = eagle.eigenvectors(*given), literal_eagle.eigenvectors(*given)
    torch.testing.assert_close(ours.abs(), literal.abs())  # signs are the solver's
    torch.testing.assert_close(eagle.patch_weights(keys), literal_eagle.patch_weights(keys))
    values, labels = code.flatten(2).transpose(1, 2).flatten(0, 1), torch.arange(48) % 5
    found = sys.modules[eagle.object_contrast.__module__].medoids(values, labels, 5)
    assert found.tolist() == literal_eagle.medoids(values, labels, 5).tolist()


# --- Memory --------------------------------------------------------------------------------------


def peak(method: str, patches: int, **params: object) -> int:
    """Return the most bytes held at a time by the whole loss of a method, forward and backward."""
    torch.manual_seed(0)
    module = method_module(method)
    entry = {"smooseg": "SmooSeg", "ds2dl": "DS2DL", "stego": "Stego"}[method]
    learner = getattr(module, entry)(clusters=3, dim=4, **params)
    learner.net = learner.make_net(8)
    learner.net.train()
    f, other = torch.randn(2, 2, 8, 16, patches // 16)
    given = (other, torch.Generator()) if method == "stego" else (torch.tensor([1, 0]),)
    with Held() as held:
        terms = learner.losses(f, *given)
        sum(terms.values()).backward()
        del terms
    return held.peak


def growth(few: int, some: int, many: int) -> float:
    """Return by how much more a second doubling adds than the first: 2 if linear, 4 if quadratic."""
    return (many - some) / (some - few)


VARIANTS = [
    ("smooseg", {}),
    ("smooseg", {"global_offset": False}),
    ("ds2dl", {}),
    ("ds2dl", {"similarity": "learned"}),
    ("ds2dl", {"center_similarity": True}),
]
SAMPLED = [("stego", {}), ("stego", {"zero_clamp": False, "pointwise": False})]
"""Losses over pairs of sampled points, whose number does not grow with the patches."""


@pytest.mark.parametrize(("method", "params"), [*VARIANTS, *SAMPLED], ids=str)
def test_memory_of_a_loss_is_linear_in_patches_and_below_one_matrix_of_all_pairs(method, params):
    # From 512 patches on DS²DL's tiles are of one size.
    peaks = [peak(method, patches, **params) for patches in (512, 1024, 2048)]
    assert growth(*peaks) < 2.2
    assert peaks[-1] < 4 * 2048**2


@pytest.mark.parametrize(("method", "params"), VARIANTS, ids=str)
def test_memory_of_a_literal_loss_fails_this(monkeypatch, method, params):
    home, name, literal = literal_losses.PLACES[method]
    monkeypatch.setattr(home or method_module(method), name, literal)
    peaks = [peak(method, patches, **params) for patches in (128, 256, 512)]
    assert growth(*peaks) > 3.5
    assert peaks[-1] > 2 * 4 * 512**2  # a matrix for each of two images


def test_pairs_of_hp_at_the_published_batch_hold_less_than_half_a_gigabyte(monkeypatch):
    """64 × 784 patches, stopped after the first image's anchors, of which each image has as many.

    Beyond inputs and gradients. The code's length changes neither masks nor tiles, so that it is small here.
    """
    hp = method_module("hp")
    pairs = sys.modules[hp.hidden_positive_loss.__module__]
    b, n, d = 64, 784, 8
    z, mix, f, e = (F.normalize(torch.randn(b, n, d), dim=2) for _ in range(4))
    limits = torch.full((b, n), 0.7)
    candidates = torch.rand(n, b * n) < 0.02
    found, anchors = pairs._positives, []

    def until(x: Tensor, limit: Tensor, tile: slice) -> Tensor:
        if tile.start >= n:
            raise StopIteration
        anchors.append(tile.stop - tile.start)
        return found(x, limit, tile)

    monkeypatch.setattr(pairs, "_positives", until)
    with Held() as held, pytest.raises(StopIteration):
        pairs._HiddenPositives.forward(None, z, mix, f, limits, e, limits, candidates, 0.5, 0.6)
    assert sum(anchors) == 2 * n
    assert held.peak - 2 * 4 * z.numel() < 0.5e9
    assert held.peak > 2 * candidates.numel(), "what is positive is kept for an image"


def test_the_benchmarks_count_what_is_lent_at_one_time():
    def work() -> None:
        first = torch.zeros(1_000_000)
        second = torch.zeros(250_000)
        del first, second
        torch.zeros(750_000)

    lent = measuring.peak_bytes(work)
    assert lent == pytest.approx(5_000_000, rel=1e-3)
