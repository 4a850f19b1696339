"""Memory of the pairwise losses, counted and not timed: linear in patches, where literal forms are quadratic.

The literal forms are those that `benchmarks/` measures against. Each is shown to be the same loss.
"""

from __future__ import annotations

import importlib.util
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from fakes import method_module
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def script(name: str) -> ModuleType:
    """Import a file of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


literal_losses, measuring = script("literal_losses"), script("measuring")


# --- The literal forms ---------------------------------------------------------------------------


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator) + 0.3, dim=1)


def soft(*shape: int, seed: int) -> Tensor:
    return torch.softmax(5 * unit(*shape, seed=seed), dim=1).requires_grad_()


def assert_same_loss(method: str, wanting: Sequence[Tensor], *arguments: object) -> None:
    """Compare a method's own form with the literal one, in value and in the gradients of `wanting`."""
    name, literal = literal_losses.PLACES[method]
    results = []
    for form in (getattr(method_module(method), name), literal):
        value = form(*arguments)
        value = sum(value) if isinstance(value, tuple) else value
        results.append((value.detach(), torch.autograd.grad(value, wanting)))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("global_offset", [False, True])
def test_smoothness(global_offset):
    x, a = unit(3, 8, 11, seed=0), soft(3, 5, 11, seed=2)
    assert_same_loss("smooseg", (a,), x, a, torch.tensor([2, 0, 0]), -0.02, 0.5, global_offset)


@pytest.mark.parametrize("centre", [False, True])
def test_mean_pair_loss(centre):
    q, p = soft(3, 5, 11, seed=2), soft(3, 5, 11, seed=3)
    x, y = (unit(3, 8, 11, seed=seed).requires_grad_() for seed in (0, 1))
    b = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    assert_same_loss("ds2dl", (x, y, q, p, b), x, y, q, p, b, 2.2, centre)


@pytest.mark.parametrize("zero_clamp", [False, True])
@pytest.mark.parametrize("pointwise", [False, True])
def test_distillation(pointwise, zero_clamp):
    code, other = (3 * unit(3, 5, 11, seed=seed) - 0.5 for seed in (2, 3))
    code, other = code.requires_grad_(), other.requires_grad_()
    f, g = unit(3, 8, 11, seed=0), unit(3, 8, 11, seed=1)
    assert_same_loss("stego", (code, other), f, g, code, other, 0.2, pointwise, zero_clamp)


# --- Memory --------------------------------------------------------------------------------------


class Held(TorchDispatchMode):
    """Counts the bytes of what operations make while it is on: how many are held, and the most at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(one, Tensor):
                self._add(one.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if size and place not in self._known:
            self._known.add(place)
            weakref.finalize(storage, self._remove, place, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _remove(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


def peak(method: str, patches: int, **params: object) -> int:
    """Return the most bytes held at a time by the whole loss of a method, forward and backward."""
    torch.manual_seed(0)
    module = method_module(method)
    if method == "smooseg":
        learner = module.SmooSeg(clusters=3, dim=4, **params)
        learner.net = module.Net(8, 3, 4, 0.2)
    else:
        entry = {"ds2dl": "DS2DL", "stego": "Stego"}[method]
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
    ("ds2dl", {"centre_similarity": True}),
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
    name, literal = literal_losses.PLACES[method]
    monkeypatch.setattr(method_module(method), name, literal)
    peaks = [peak(method, patches, **params) for patches in (128, 256, 512)]
    assert growth(*peaks) > 3.5
    assert peaks[-1] > 2 * 4 * 512**2  # a matrix for each of two images


def test_the_benchmarks_count_what_is_lent_at_one_time():
    def work() -> None:
        first = torch.zeros(1_000_000)
        second = torch.zeros(250_000)
        del first, second
        torch.zeros(750_000)

    lent = measuring.peak_bytes(work)
    assert lent == pytest.approx(5_000_000, rel=1e-3)
