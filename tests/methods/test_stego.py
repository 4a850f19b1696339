"""STEGO: every term against loops over points, sampling, the neighbor table, and what it finds."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from fakes import FakeContext, MemoryFeatures, method_module, planted
from literal_forms import features, literal_distillation, literal_sample, unit
from torch import Tensor

from uss_bench.evaluation.scoring import count, score
from uss_bench.nn import correspondence
from uss_bench.nn.correspondence import random_points
from uss_bench.nn.knn import knn_table
from uss_bench.nn.pairing import near_derangement
from uss_bench.plugins.params import method_params
from uss_bench.plugins.registry import Registry

stego = method_module("stego")


class Context(FakeContext):
    """A context that builds derived arrays each time, and remembers their parameters."""

    def __init__(self, method: object, features: MemoryFeatures, seed: int = 0) -> None:
        super().__init__(method, features, seed)
        self.built: list[dict[str, object]] = []

    def derived(self, name, build, inputs=("tokens",), *, params):
        self.built.append(params)
        return build(self._features, **params)


def make(f: Tensor, clusters: int = 3, **params) -> stego.Stego:
    """A method in training mode and in float64."""
    torch.manual_seed(0)
    method = stego.Stego(**{"clusters": clusters, "dim": 5, "dropout": 0.0, "samples": 3} | params)
    method.net = method.make_net(f.shape[1]).double().train()
    return method


# --- The loss ------------------------------------------------------------------------------------


def project(net, f: Tensor) -> Tensor:
    """The head: a linear path plus a ReLU path."""

    def dense(layer, values: Tensor) -> Tensor:
        return torch.einsum("od,bdhw->bohw", layer.weight[:, :, 0, 0], values) + layer.bias[:, None, None]

    hidden = dense(net.head.nonlinear[0], f)
    return dense(net.head.linear, f) + dense(net.head.nonlinear[2], hidden.clamp(min=0))


@pytest.mark.parametrize("params", [{}, {"negatives": 2}, {"pointwise": False, "zero_clamp": False}], ids=str)
def test_the_terms_pair_images_points_and_shifts_as_the_code_does(params):
    f, f_pos = features(seed=1), features(seed=2)
    method = make(f, **params, b_self=0.1, b_knn=0.3, b_rand=0.6)
    terms = method.losses(f, f_pos, torch.Generator().manual_seed(5))

    draws = torch.Generator().manual_seed(5)
    here, there = random_points(4, 3, draws).double(), random_points(4, 3, draws).double()
    partners = [near_derangement(4, draws) for _ in range(method.negatives)]
    code, code_pos = project(method.net, f), project(method.net, f_pos)

    def term(second: Tensor, second_code: Tensor, points: Tensor, b: float) -> Tensor:
        first = literal_sample(f, here), literal_sample(second, points)
        codes = literal_sample(code, here), literal_sample(second_code, points)
        return literal_distillation(*first, *codes, b, method.pointwise, method.zero_clamp)

    rand = [term(f[partner], code[partner], there, 0.6) for partner in partners]
    cosine = torch.einsum("bdhw,kd->bkhw", unit(code.detach()), unit(method.net.centroids))
    expected = {
        "probe": -cosine.max(dim=1).values.mean(),
        "corr_self": term(f, code, here, 0.1),
        "corr_knn": term(f_pos, code_pos, there, 0.3),
        "corr_rand": sum(rand) / len(rand),
    }
    torch.testing.assert_close(terms, expected, rtol=1e-8, atol=1e-11)
    parameters = list(method.net.parameters())
    ours, literal = (torch.autograd.grad(sum(values.values()), parameters) for values in (terms, expected))
    torch.testing.assert_close(ours, literal, rtol=1e-7, atol=1e-10)


def test_each_term_reaches_only_what_it_may_train():
    f = features()
    method = make(f)
    parameters = dict(method.net.named_parameters())
    for name, term in method.losses(f, features(seed=3), torch.Generator().manual_seed(0)).items():
        found = torch.autograd.grad(term, list(parameters.values()), allow_unused=True, retain_graph=True)
        reached = {n.split(".")[0] for n, g in zip(parameters, found, strict=True) if g is not None}
        assert reached == ({"centroids"} if name == "probe" else {"head"})


@pytest.mark.parametrize(("training", "switch"), [(True, True), (True, False), (False, True)])
def test_correspondence_is_computed_from_dropped_out_features_where_asked(monkeypatch, training, switch):
    seen = []
    monkeypatch.setattr(
        correspondence, "sample", lambda values, points: seen.append(values) or values.flatten(2)
    )
    f = features(channels=40)
    method = make(f, dropout=0.5, feature_dropout=switch)
    method.net.train(training)
    method.losses(f, features(channels=40, seed=3), torch.Generator().manual_seed(0))
    dropped = (seen[0] == 0).all(dim=(2, 3))
    assert dropped.any() == (training and switch)
    torch.testing.assert_close(unit(seen[0] + 1e-300), unit(f * ~dropped[..., None, None] + 1e-300))


# --- Training ------------------------------------------------------------------------------------


def train(method, tokens: Tensor, seed: int = 0) -> Context:
    torch.manual_seed(seed)
    context = Context(method, MemoryFeatures(tokens), seed)
    method.train(None, context)
    return context


@pytest.mark.parametrize("standardize", [False, True])
def test_neighbors_are_those_of_the_features_in_use(standardize):
    tokens = features(images=9).float() + 2
    context = train(
        stego.Stego(clusters=3, steps=2, batch_size=3, neighbors=4, standardize=standardize), tokens
    )
    (params,) = context.built
    assert params == {"count": 4, "standardize": standardize}
    seen = (tokens - tokens.mean((0, 2, 3))[:, None, None]) if standardize else tokens
    pooled = seen.mean((2, 3)) / (tokens.std((0, 2, 3), correction=0) if standardize else 1)
    nearest = (unit(pooled) @ unit(pooled).T).fill_diagonal_(-2).argmax(dim=1)
    table = knn_table(MemoryFeatures(tokens), **params)["neighbors"]
    assert table[:, 1].tolist() == nearest.tolist()


@pytest.mark.parametrize("dropout", [0.1, 0.4])
def test_the_released_table_of_neighbors_is_made_with_the_dropout_of_the_head(dropout):
    tokens = features(images=9).float()
    given = {"clusters": 3, "steps": 1, "batch_size": 3, "dropout": dropout}
    (clean,) = train(stego.Stego(**given), tokens).built
    (dropped,) = train(stego.Stego(**given, neighbor_dropout=True), tokens).built
    assert dropped == clean | {"dropout": dropout}
    assert "dropout" not in clean


def test_training_takes_adams_steps_on_the_weighted_sum():
    tokens = features(images=8).float()
    weights = {"weight_self": 0.4, "weight_knn": 1.5, "weight_rand": 0.7}
    method = stego.Stego(clusters=3, dim=4, steps=5, batch_size=3, dropout=0.0, samples=3, **weights)
    context = train(method, tokens)
    memory = context._features
    table, *batches = memory.read  # one read for the table, then the neighbors and the batch of each step
    assert len(table) == 8

    torch.manual_seed(0)
    other = stego.Stego(clusters=3, dim=4, dropout=0.0, samples=3)
    other.net = other.make_net(6)
    head = torch.optim.Adam(other.net.head.parameters(), lr=5e-4)
    probe = torch.optim.Adam([other.net.centroids], lr=5e-3)
    draws = context.generator("positives, points and partners")
    for f_pos, f in zip(batches[::2], batches[1::2], strict=True):
        torch.randint(1, 8, (3,), generator=draws)  # the ranks of the positives
        terms = other.losses(f, f_pos, draws)
        loss = 0.4 * terms["corr_self"] + 1.5 * terms["corr_knn"] + 0.7 * terms["corr_rand"] + terms["probe"]
        head.zero_grad()
        probe.zero_grad()
        loss.backward()
        head.step()
        probe.step()
    torch.testing.assert_close(
        dict(method.net.state_dict()), dict(other.net.state_dict()), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("projection", ["nonlinear", "none"])
def test_training_standardizes_reports_and_offers_as_asked(projection):
    tokens = 5 * features(images=6).float() + 3
    method = stego.Stego(
        clusters=3, steps=60, batch_size=4, checkpoint_every=20, standardize=True, projection=projection
    )
    context = train(method, tokens)
    names = ["probe", "corr_self", "corr_knn", "corr_rand"] if projection == "nonlinear" else ["probe"]
    assert [step for step, _ in context.offers] == [20, 40, 60]
    assert [(step, list(scalars)) for step, scalars in context.reports] == [(1, names), (50, names)]
    torch.testing.assert_close(method.net.standardizer.mean, tokens.mean((0, 2, 3)))
    assert not method.net.training


def test_without_a_head_the_code_is_the_feature_and_no_neighbors_are_read():
    tokens = features(images=6).float()
    method = stego.Stego(clusters=3, steps=5, batch_size=3, projection="none")
    context = train(method, tokens)
    assert not context.built
    assert len(context._features.read) == 5
    torch.testing.assert_close(method.embed({"tokens": tokens}), tokens, rtol=0, atol=0)


@pytest.mark.parametrize("projection", ["nonlinear", "none"])
def test_a_restored_state_predicts_identically(projection):
    tokens = features(images=4).float()
    params = {"clusters": 3, "dim": 4, "projection": projection}
    method = stego.Stego(steps=3, batch_size=2, standardize=True, **params)
    train(method, tokens)
    other = stego.Stego(**params)
    other.load_state_dict(method.state_dict())
    logits = [one.classify(one.embed({"tokens": tokens})) for one in (method, other)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_a_seed_fixes_the_result():
    states = []
    for seed in (0, 0, 1):
        method = stego.Stego(clusters=3, dim=4, steps=5, batch_size=3)
        train(method, features(images=6).float(), seed)
        states.append(method.state_dict()["centroids"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_every_preset_fits_the_signature():
    plugin = Registry().find("methods", "stego")
    for preset in plugin.spec.presets:
        method = plugin.load()(**method_params(plugin, preset, {}, n_classes=3))
        assert method.clusters == 3
        if preset.name == "iaroa":
            assert repr(method) == repr(stego.Stego(clusters=3))


# --- A planted problem ---------------------------------------------------------------------------


@functools.cache
def planted_miou(seed: int, **params) -> tuple[float, int]:
    """mIoU on three planted classes of unequal size, and how many clusters are in use."""
    tokens, labels = planted([5, 3, 2], channels=24, images=12, side=5, noise=0.7, seed=seed)
    faster = {"steps": 200, "lr": 2e-3, "lr_probe": 2e-2}  # instead of 5,000 small steps
    method = stego.Stego(clusters=3, dim=8, batch_size=4, samples=5, standardize=True, **faster, **params)
    train(method, tokens, seed)
    predicted = method.classify(method.embed({"tokens": tokens})).argmax(dim=1).numpy()
    counts = np.stack([count(p, t, 3, 3) for p, t in zip(predicted, labels, strict=True)])
    return score(counts).miou, len(np.unique(predicted))


@pytest.mark.parametrize("seed", range(5))
def test_planted_classes_are_recovered_but_not_without_the_zero_clamp(seed):
    assert planted_miou(seed)[0] > 0.9
    assert planted_miou(seed, zero_clamp=False)[0] < 0.6


def test_the_probe_alone_may_stick_where_it_finds_the_classes_in_the_distilled_code():
    """Measured: on the raw features it ends in a poor optimum for three of five seeds."""
    raw = [planted_miou(seed, projection="none")[0] for seed in range(5)]
    assert min(raw) < 0.6
    assert max(raw) > 0.9


def test_without_the_random_term_a_cluster_may_be_lost():
    """Measured: on one of five seeds; the others find the classes."""
    results = [planted_miou(seed, weight_rand=0.0) for seed in range(5)]
    assert all(used < 3 or miou > 0.95 for miou, used in results)
    assert {used < 3 for _, used in results} == {True, False}


@pytest.mark.parametrize("params", [{"weight_self": 0.0}, {"weight_knn": 0.0}, {"pointwise": False}], ids=str)
def test_three_parts_hardly_matter_on_the_planted_problem(params):
    assert min(planted_miou(seed, **params)[0] for seed in range(5)) > 0.95
