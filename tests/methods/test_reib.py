"""ReIB: reconstruction and every term against literal forms, the warm start, and the planted world."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from fakes import FakeContext, MemoryFeatures, method_module
from literal_forms import features, literal_distillation, literal_sample, unit
from planted import accuracy, kmeans
from torch import Tensor

from uss_bench.errors import UsageError
from uss_bench.nn.correspondence import random_points
from uss_bench.nn.pairing import near_derangement
from uss_bench.plugins.params import method_params
from uss_bench.plugins.registry import Registry

reib = method_module("reib")
reconstruction = method_module("reib", "reconstruction:ssim")


# --- Comparisons ------------------------------------------------------------------


def literal_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Place by place: Gaussian averages over 11 × 11, with zeros outside, in the formula of 2004."""
    b, d, h, w = x.shape
    line = [math.exp(-((k - 5) ** 2) / (2 * 1.5**2)) for k in range(11)]
    values = []
    for image, channel, i, j in itertools.product(range(b), range(d), range(h), range(w)):
        sums = [x.new_zeros(()) for _ in range(5)]
        for k, m in itertools.product(range(11), range(11)):
            row, column = i + k - 5, j + m - 5
            if not (0 <= row < h and 0 <= column < w):
                continue
            p, q = x[image, channel, row, column], y[image, channel, row, column]
            weight = line[k] * line[m] / sum(line) ** 2
            for n, one in enumerate((p, q, p * p, q * q, p * q)):
                sums[n] = sums[n] + weight * one
        mx, my, xx, yy, xy = sums
        c1, c2 = 0.01**2, 0.03**2
        top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
        values.append(top / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2)))
    return torch.stack(values).view(x.shape)


def literal_compare(x: Tensor, y: Tensor, kind: str) -> Tensor:
    if kind == "ssim":
        return 1 - literal_ssim(x, y).mean()
    if kind == "mse":
        return torch.stack([(p - q) ** 2 for p, q in zip(x.flatten(), y.flatten(), strict=True)]).mean()
    away = 1 - (unit(x) * unit(y)).sum(dim=1).flatten()
    return torch.stack([one if kind == "cosine" else max(one - 0.1, one * 0) for one in away]).mean()


@pytest.mark.parametrize("kind", ["ssim", "cosine", "relaxed_cosine", "mse"])
def test_comparisons_are_their_literal_forms(kind):
    y = features(images=1, channels=2, seed=1)
    x = (y + 0.4 * features(images=1, channels=2, seed=2)).requires_grad_()
    ours, literal = reconstruction.compare(x, y, kind), literal_compare(x, y, kind)
    torch.testing.assert_close(ours, literal)
    torch.testing.assert_close(torch.autograd.grad(ours, x), torch.autograd.grad(literal, x))
    assert reconstruction.compare(y, y, kind).item() == pytest.approx(0, abs=1e-12)


# --- The network that rebuilds ----------------------------------------------------


def literal_rebuild(net, soft: Tensor) -> Tensor:
    def block(part, x: Tensor) -> Tensor:
        x = torch.nn.functional.conv2d(x, part[0].weight, part[0].bias, padding=1)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        scale, shift = part[1].weight[:, None, None], part[1].bias[:, None, None]
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    start = block(net.blocks[0], soft).clamp(min=0)
    x = block(net.blocks[1], start).clamp(min=0)
    if len(net.blocks) == 3:
        x = (block(net.blocks[2], x) + start).clamp(min=0)
    return torch.einsum("dk,bkhw->bdhw", net.last.weight[:, :, 0, 0], x) + net.last.bias[:, None, None]


@pytest.mark.parametrize("deep", [False, True])
def test_the_rebuilding_network_is_two_or_three_blocks_and_a_residual(deep):
    torch.manual_seed(0)
    net = reconstruction.Reconstruction(3, 6, 5, deep=deep).double()
    soft = features(channels=3).softmax(dim=1)
    torch.testing.assert_close(net(soft), literal_rebuild(net, soft))


# --- The loss ---------------------------------------------------------------------


def make(f: Tensor, **params) -> reib.Reib:
    """A method in training mode and in float64."""
    torch.manual_seed(0)
    small = {"clusters": 3, "dim": 5, "dropout": 0.0, "samples": 3, "hidden": 4}
    method = reib.Reib(**small | params)
    method.net = reib.Net(f.shape[1], method).double().train()
    return method


@pytest.mark.parametrize(
    "params", [{}, {"comparison": "ssim", "alpha": 4.0, "reconstruction": "deep"}], ids=str
)
def test_the_terms_are_those_of_stego_and_the_reconstruction_of_the_features(params):
    f, f_pos = features(images=2, seed=1), features(images=2, seed=2)
    method = make(f, **params, b_self=0.1, b_knn=0.3, b_rand=0.6, negatives=2)
    terms = method.losses(f, f_pos, torch.Generator().manual_seed(5))

    draws = torch.Generator().manual_seed(5)
    here, there = random_points(2, 3, draws).double(), random_points(2, 3, draws).double()
    partners = [near_derangement(2, draws) for _ in range(2)]
    net = method.net
    code, code_pos = net.head(f), net.head(f_pos)

    def term(second: Tensor, second_code: Tensor, points: Tensor, b: float) -> Tensor:
        first = literal_sample(f, here), literal_sample(second, points)
        codes = literal_sample(code, here), literal_sample(second_code, points)
        return literal_distillation(*first, *codes, b, method.pointwise, method.zero_clamp)

    def cosine(z: Tensor, centroids: Tensor) -> Tensor:
        return torch.einsum("bdhw,kd->bkhw", unit(z), unit(centroids))

    powers = (method.alpha * cosine(code, net.soft)).exp()
    soft = powers / powers.sum(dim=1, keepdim=True)
    expected = {
        "probe": -cosine(code.detach(), net.centroids).max(dim=1).values.mean(),
        "corr_self": term(f, code, here, 0.1),
        "corr_knn": term(f_pos, code_pos, there, 0.3),
        "corr_rand": sum(term(f[one], code[one], there, 0.6) for one in partners) / 2,
        "reconstruction": literal_compare(literal_rebuild(net.reconstruction, soft), f, method.comparison),
    }
    torch.testing.assert_close(terms, expected, rtol=1e-8, atol=1e-11)
    parameters = list(net.parameters())
    ours, literal = (torch.autograd.grad(sum(values.values()), parameters) for values in (terms, expected))
    torch.testing.assert_close(ours, literal, rtol=1e-6, atol=1e-9)


def test_each_term_reaches_only_what_it_may_train():
    f = features()
    method = make(f)
    parameters = dict(method.net.named_parameters())
    for name, term in method.losses(f, features(seed=3), torch.Generator()).items():
        found = torch.autograd.grad(term, list(parameters.values()), allow_unused=True, retain_graph=True)
        reached = {n.split(".")[0] for n, g in zip(parameters, found, strict=True) if g is not None}
        wanted = {"probe": {"centroids"}, "reconstruction": {"head", "soft", "reconstruction"}}
        assert reached == wanted.get(name, {"head"})


def test_one_hot_clusters_are_rebuilt_as_the_mean_features_of_their_classes():
    """At the optimum of the squared error; the images are single patches, so that none sees another."""
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    soft = (labels[:, None] == torch.arange(3)).double()[..., None, None]
    f = features(images=60, channels=4, h=1, w=1)
    net = reconstruction.Reconstruction(3, 4, 8, deep=False).double()
    best = torch.stack([f[labels == k].mean(dim=0) for k in range(3)])[labels]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        reconstruction.compare(net(soft), f, "mse").backward()
        optimizer.step()
    torch.testing.assert_close(net(soft), best, rtol=0, atol=0.02)


# --- Training ---------------------------------------------------------------------


class Context(FakeContext):
    def derived(self, name, build, inputs=("tokens",), *, params):
        return build(self._features, **params)


def train(method, tokens: Tensor, seed: int = 0) -> Context:
    torch.manual_seed(seed)
    context = Context(method, MemoryFeatures(tokens), seed)
    method.train(None, context)
    return context


SMALL = {"clusters": 3, "dim": 4, "batch_size": 4, "samples": 3, "hidden": 4, "neighbors": 3}


class Base:
    """A run of another method that was trained."""

    method = "stego"

    def __init__(self, dim: int = 4) -> None:
        self.learned = method_module("stego").Stego(clusters=3, dim=dim, steps=2, batch_size=4, samples=3)
        train(self.learned, features(images=6).float())

    def load(self, device: torch.device):
        return self.learned


def test_head_and_probe_start_as_the_base_left_them():
    base = Base()
    method = reib.Reib(**SMALL, base=base, steps=1, lr=0.0, lr_probe=0.0)
    train(method, features(images=6).float())
    found, wanted = method.state_dict(), base.learned.state_dict()
    assert set(wanted) < set(found)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_base_of_another_size_is_refused():
    method = reib.Reib(**SMALL, base=Base(dim=5), steps=1)
    with pytest.raises(UsageError, match="no head that reib could start from"):
        train(method, features(images=6).float())


def test_without_reconstruction_the_head_takes_stegos_steps():
    tokens, same = features(images=6).float(), {"clusters": 3, "dim": 4, "steps": 3, "batch_size": 4}
    base = Base()
    ours = reib.Reib(**SMALL, base=base, steps=3, weight_reconstruction=0.0, dropout=0.0)
    train(ours, tokens)
    theirs = method_module("stego").Stego(**same, samples=3, neighbors=3, dropout=0.0)
    make_net = theirs.make_net

    def warm(channels: int):
        net = make_net(channels)
        net.load_state_dict(dict(base.learned.state_dict()))
        return net

    theirs.make_net = warm
    train(theirs, tokens)
    found, wanted = ours.state_dict(), theirs.state_dict()
    torch.testing.assert_close({name: found[name] for name in wanted}, dict(wanted))


@pytest.mark.parametrize(
    "switch",
    [{"reconstruction": "deep"}, {"comparison": "ssim"}, {"alpha": 3.0}, {"weight_correspondence": 0.1}],
    ids=str,
)
def test_every_switch_changes_what_is_learned(switch):
    tokens, states = features(images=6).float(), []
    for params in ({}, switch):
        method = reib.Reib(**SMALL, steps=3, **params)
        train(method, tokens)
        states.append(method.state_dict()["head.linear.weight"])
    assert not torch.equal(*states)


def test_a_restored_state_predicts_identically():
    tokens = features(images=4).float()
    method = reib.Reib(**SMALL, steps=3, standardize=True, checkpoint_every=2)
    context = train(method, tokens)
    assert [step for step, _ in context.offers] == [2]
    other = reib.Reib(**SMALL)
    other.load_state_dict(method.state_dict())
    logits = [one.classify(one.embed({"tokens": tokens})) for one in (method, other)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_every_preset_fits_the_signature_and_the_spec_declares_how_constants_were_found():
    plugin = Registry().find("methods", "reib")
    assert plugin.spec.ingredients == ["tuned-on-labels"]
    for preset in plugin.spec.presets:
        plugin.load()(**method_params(plugin, preset, {}, n_classes=3))


# --- The planted world --------------------------------------

FAST = {
    **{
        "dim": 8,
        "hidden": 32,
        "steps": 100,
        "batch_size": 16,
        "samples": 6,
        "alpha": 5.0,
        "standardize": True,
    },
    **{"lr": 2e-3, "lr_probe": 5e-2, "lr_soft": 2e-2, "lr_reconstruction": 1e-2},
}
ATTRACTING = {"weight_rand": 0.0, "b_self": -0.2, "b_knn": -0.2}
"""Nothing but the reconstruction keeps codes apart: one setting of four, chosen because it shows that."""


@pytest.mark.slow
def test_it_finds_the_planted_classes_and_the_reconstruction_alone_keeps_codes_apart(run):
    found = accuracy(run, "reib", **FAST)
    assert found > kmeans(run) - 5
    assert found > accuracy(run, "random") + 20
    rebuilding = accuracy(run, "reib", **FAST, **ATTRACTING, weight_reconstruction=5.0)
    assert accuracy(run, "reib", **FAST, **ATTRACTING, weight_reconstruction=0.0) < rebuilding - 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_planted_classes_upon_stego_from_every_seed(run, seed):
    few = {name: FAST[name] for name in ("dim", "steps", "batch_size", "samples", "lr", "lr_probe")}
    accuracy(run, "stego", seed=seed, **few, standardize=True)
    base = {"method": "stego", "params": {"clusters": 6, **few, "standardize": True}}
    assert accuracy(run, "reib", seed=seed, **{**FAST, "steps": 400}, base=base) > 85
