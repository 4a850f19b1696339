"""SmooSeg: the factorised losses against literal N × N ones, what is detached, and what it finds."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from fakes import FakeContext, MemoryFeatures, method_module, planted
from torch import Tensor

from uss_bench.evaluation.scoring import count, score
from uss_bench.nn.mean_teacher import MeanTeacherNet
from uss_bench.nn.pairing import near_derangement

smooseg = method_module("smooseg")
SHAPES = [(2, 3, 4, 2), (3, 8, 9, 5), (5, 6, 16, 3), (2, 4, 1, 7)]  # B, D, N, K


def unit(x: Tensor, dim: int = 1) -> Tensor:
    return x / (x * x).sum(dim=dim, keepdim=True).sqrt()


def random_unit(*shape: int, seed: int) -> Tensor:
    return unit(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def literal_smoothness(x: Tensor, a: Tensor, y: Tensor, c: Tensor, b: float, global_offset: bool) -> Tensor:
    """Equations 2 to 4 with every N × N matrix, and the released code's "pointwise" centering."""
    w = torch.einsum("bdp,bdq->bpq", x, y)
    batch_wide = w.mean()
    w = w - w.mean(dim=2, keepdim=True)
    if global_offset:
        w = w - w.mean() + batch_wide
    penalty = 1 - torch.einsum("bkp,bkq->bpq", a, c)
    return ((w - b) * penalty).mean()


# --- Equations 2 to 4 ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("global_offset", [False, True])
@pytest.mark.parametrize("b", [-0.02, 0.5])
def test_smoothness_and_its_gradient_are_those_of_the_literal_n_by_n_form(shape, global_offset, b):
    images, channels, patches, clusters = shape
    x = random_unit(images, channels, patches, seed=0) + 0.1
    a = random_unit(images, clusters, patches, seed=2).abs().requires_grad_()
    partner = torch.tensor([(image * 2 + 1) % images for image in range(images)])
    values = smooseg.smoothness(x, a, partner, b, b + 0.1, global_offset)
    expected = (
        literal_smoothness(x, a, x, a, b, global_offset),
        literal_smoothness(x, a, x[partner], a[partner], b + 0.1, global_offset),
    )
    for value, literal in zip(values, expected, strict=True):
        torch.testing.assert_close(value, literal, rtol=1e-10, atol=1e-12)
        slopes = [torch.autograd.grad(one, a, retain_graph=True)[0] for one in (value, literal)]
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


def test_the_global_offset_is_what_the_released_code_keeps_and_equation_2_does_not():
    x, a = random_unit(3, 4, 9, seed=0) + 0.5, random_unit(3, 2, 9, seed=1).abs()
    partner = torch.tensor([1, 2, 0])
    kept, left_out = (smooseg.smoothness(x, a, partner, 0.1, 0.1, keep) for keep in (True, False))
    assert all(abs(one - other) > 0.01 for one, other in zip(kept, left_out, strict=True))


# --- Equations 4 to 7 ----------------------------------------------------------------------------


def make(f: Tensor, clusters: int = 3, **params) -> smooseg.SmooSeg:
    """A method in training mode, in float64, whose student and teacher differ."""
    torch.manual_seed(0)
    method = smooseg.SmooSeg(**{"clusters": clusters, "dim": 5, "dropout": 0.0} | params)
    method.net = MeanTeacherNet(f.shape[1], clusters, method.dim, method.dropout).double().train()
    method.net.teacher.add_(0.3 * torch.randn_like(method.net.teacher))
    return method


def features(images: int = 4, channels: int = 6, h: int = 3, w: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(images, channels, h, w, dtype=torch.float64, generator=generator) + 0.5


def project(net, f: Tensor) -> Tensor:
    """The projector as a matrix product on (B, D, N): linear path plus SiLU path."""

    def dense(layer, values: Tensor) -> Tensor:
        return layer.weight[:, :, 0, 0] @ values + layer.bias[:, None]

    hidden = dense(net.projector.nonlinear[0], f)
    return dense(net.projector.linear, f) + dense(net.projector.nonlinear[2], hidden * torch.sigmoid(hidden))


def literal_losses(method, f: Tensor, partner: list[int], global_offset: bool) -> dict[str, Tensor]:
    """E_smooth within images and across, and E_data: nothing detached but what must be."""
    net, f = method.net, f.flatten(2)
    z, x = project(net, f), unit(f)
    teacher = torch.einsum("bdn,kd->bkn", unit(z), unit(net.teacher))
    a = unit(torch.softmax(teacher / method.tau, dim=1))
    within = literal_smoothness(x, a, x, a, method.b_intra, global_offset)
    other, other_a = (torch.stack([t[i] for i in partner]) for t in (x, a))
    across = literal_smoothness(x, a, other, other_a, method.b_inter, global_offset)
    student = torch.einsum("bdn,kd->bkn", unit(z.detach()), unit(net.student))
    terms = []
    for image, patch in itertools.product(range(f.shape[0]), range(f.shape[2])):
        wanted = int(teacher[image, :, patch].argmax())
        terms.append(student[image, :, patch].exp().sum().log() - student[image, wanted, patch])
    return {"intra": within, "inter": across, "data": torch.stack(terms).mean()}


@pytest.mark.parametrize("params", [{}, {"global_offset": False}, {"tau": 0.5}, {"b_intra": 0.3}])
@pytest.mark.parametrize("partner", [[1, 2, 3, 0], [2, 0, 0, 1]])
def test_losses_and_their_gradients_are_those_of_the_equations(params, partner):
    f = features()
    method = make(f, **params)
    parameters = dict(method.net.named_parameters())
    values = method.losses(f, torch.tensor(partner))
    expected = literal_losses(method, f, partner, params.get("global_offset", True))
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12)
    for name, value in values.items():
        slopes = [
            torch.autograd.grad(one, list(parameters.values()), retain_graph=True, materialize_grads=True)
            for one in (value, expected[name])
        ]
        torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["intra", "inter", "data"])
def test_a_term_of_weight_0_is_left_out_and_a_weight_scales_its_term(name):
    f, tokens = features(), features(images=6).float()
    terms = make(f, **{f"weight_{name}": 0.0}).losses(f, torch.tensor([1, 2, 3, 0]))
    assert list(terms) == [one for one in ("intra", "inter", "data") if one != name]

    def trained(weight: float) -> dict[str, Tensor]:
        method = smooseg.SmooSeg(clusters=3, dim=4, steps=3, batch_size=3, **{f"weight_{name}": weight})
        train(method, tokens)
        return method.state_dict()

    part = "student" if name == "data" else "projector.linear.weight"
    whole, without = trained(1.0)[part], trained(0.0)[part]
    assert not torch.equal(whole, without)
    if name != "data":  # it is alone to train the student, and Adam does not see the scale of a lone term
        assert not torch.equal(whole, trained(0.5)[part])


def test_each_loss_reaches_only_what_it_may_train():
    f = features()
    method = make(f)
    losses = method.losses(f, torch.tensor([1, 0, 3, 2]))
    parameters = dict(method.net.named_parameters())
    reached = []
    for loss in losses.values():
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
        pairs = zip(parameters, found, strict=True)
        reached.append({name for name, gradient in pairs if gradient is not None and gradient.any()})
    projector = {name for name in parameters if name.startswith("projector.")}
    assert reached == [projector, projector, {"student"}]
    assert "teacher" not in parameters
    assert not method.net.teacher.requires_grad


@pytest.mark.parametrize(("training", "switch"), [(True, True), (True, False), (False, True)])
def test_closeness_is_computed_from_dropped_out_features_where_asked(monkeypatch, training, switch):
    seen = []

    def spy(x, *arguments):
        seen.append(x)
        return torch.zeros(()), torch.zeros(())

    monkeypatch.setattr(smooseg, "smoothness", spy)
    f = features(channels=40)
    method = make(f, dropout=0.5, closeness_dropout=switch)
    method.net.train(training)
    method.losses(f, torch.tensor([1, 0, 3, 2]))
    dropped = (seen[0] == 0).all(dim=2)  # whole channels of an image
    assert dropped.any() == (training and switch)
    expected = unit(f.flatten(2) * ~dropped[..., None])
    torch.testing.assert_close(seen[0], expected)


# --- Training ------------------------------------------------------------------------------------


def train(method, tokens: Tensor, seed: int = 0) -> FakeContext:
    torch.manual_seed(seed)
    context = FakeContext(method, MemoryFeatures(tokens), seed)
    method.train(None, context)
    return context


@pytest.mark.parametrize("first", [True, False])
def test_the_teacher_follows_the_student_before_or_after_the_optimizers_step(first):
    tokens = features(images=6).float()
    few = {"clusters": 3, "dim": 4, "steps": 4, "batch_size": 3, "checkpoint_every": 1}
    method = smooseg.SmooSeg(**few, momentum=0.7, lr_prototypes=0.05, ema_first=first)
    states = [state for _, state in train(method, tokens).offers]
    assert len(states) == 4
    if first:
        torch.testing.assert_close(unit(states[0]["teacher"]), states[0]["teacher"])  # as at the start
    for before, after in itertools.pairwise(states):
        expected = 0.7 * before["teacher"] + 0.3 * (before if first else after)["student"]
        torch.testing.assert_close(after["teacher"], expected)
        assert (after["student"] - before["student"]).abs().max() > 0.01


def test_student_and_teacher_start_as_the_same_unit_vectors():
    net = MeanTeacherNet(6, 5, 4, 0.0)
    torch.testing.assert_close(net.teacher, net.student.detach(), rtol=0, atol=0)
    torch.testing.assert_close(net.teacher.norm(dim=1), torch.ones(5))
    assert net.teacher.data_ptr() != net.student.data_ptr()


def test_training_takes_adams_steps_on_the_weighted_sum():
    tokens = features(images=5).float()
    weights = {"weight_intra": 0.5, "weight_inter": 2.0}
    method = smooseg.SmooSeg(clusters=3, dim=4, steps=7, batch_size=3, dropout=0.0, **weights)
    context = FakeContext(method, in_memory := MemoryFeatures(tokens))
    torch.manual_seed(0)
    method.train(None, context)

    torch.manual_seed(0)
    other = smooseg.SmooSeg(clusters=3, dim=4, dropout=0.0)
    other.net = MeanTeacherNet(6, 3, 4, 0.0)
    projector = torch.optim.Adam(other.net.projector.parameters(), lr=1e-4)
    student = torch.optim.Adam([other.net.student], lr=5e-4)
    pairs = context.generator("pairs")
    for f in in_memory.read:
        terms = other.losses(f, near_derangement(3, pairs))
        projector.zero_grad()
        student.zero_grad()
        (0.5 * terms["intra"] + 2.0 * terms["inter"] + terms["data"]).backward()
        other.net.teacher.lerp_(other.net.student.detach(), 0.002)
        projector.step()
        student.step()
    torch.testing.assert_close(
        dict(method.net.state_dict()), dict(other.net.state_dict()), rtol=1e-5, atol=1e-7
    )


def test_training_standardizes_reports_and_offers_as_asked():
    tokens = 5 * features(images=6).float() + 3
    method = smooseg.SmooSeg(clusters=3, steps=60, batch_size=4, checkpoint_every=20, standardize=True)
    context = train(method, tokens)
    assert [step for step, _ in context.offers] == [20, 40, 60]
    assert [(step, set(scalars)) for step, scalars in context.reports] == [
        (1, {"intra", "inter", "data"}),
        (50, {"intra", "inter", "data"}),
    ]
    torch.testing.assert_close(method.net.standardizer.mean, tokens.mean((0, 2, 3)))
    assert not method.net.training


def test_a_restored_state_predicts_identically():
    tokens = features(images=4).float()
    method = smooseg.SmooSeg(clusters=3, dim=4, steps=3, batch_size=2, standardize=True)
    train(method, tokens)
    other = smooseg.SmooSeg(clusters=3, dim=4)
    other.load_state_dict(method.state_dict())
    logits = [one.classify(one.embed({"tokens": tokens})) for one in (method, other)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_adam_makes_the_papers_sums_of_the_means(monkeypatch):
    """Each term is all that its parameters see, and Adam does not see the scale of a gradient."""
    tokens, losses = features(images=6).float(), smooseg.SmooSeg.losses

    def trained() -> dict[str, Tensor]:
        method = smooseg.SmooSeg(clusters=3, dim=4, steps=30, batch_size=3, lr_projector=1e-2)
        train(method, tokens)
        return method.state_dict()

    means = trained()
    patches = 3 * tokens.shape[2] * tokens.shape[3]

    def sums(self, f, partner):
        terms = losses(self, f, partner)
        pairs = patches * tokens.shape[2] * tokens.shape[3]
        return {name: term * (patches if name == "data" else pairs) for name, term in terms.items()}

    monkeypatch.setattr(smooseg.SmooSeg, "losses", sums)
    torch.testing.assert_close(trained(), means, rtol=1e-3, atol=1e-4)


# --- A planted problem ---------------------------------------------------------------------------


@functools.cache
def planted_miou(seed: int, **params) -> tuple[float, int]:
    """mIoU on three planted classes of unequal size, and how many clusters are in use."""
    tokens, labels = planted([5, 3, 2], channels=24, images=12, side=5, noise=0.7, seed=seed)
    method = smooseg.SmooSeg(
        clusters=3,
        dim=8,
        batch_size=4,
        standardize=True,
        # 120 large steps instead of 3,000 small ones.
        steps=120,
        lr_projector=1e-2,
        lr_prototypes=5e-3,
        momentum=0.95,
        **params,
    )
    train(method, tokens, seed)
    predicted = method.classify(method.embed({"tokens": tokens})).argmax(dim=1).numpy()
    counts = np.stack([count(p, t, 3, 3) for p, t in zip(predicted, labels, strict=True)])
    return score(counts).miou, len(np.unique(predicted))


@pytest.mark.parametrize("seed", range(5))
def test_planted_classes_are_recovered_but_not_without_smoothness(seed):
    full, used = planted_miou(seed)
    assert (full > 0.95, used) == (True, 3)
    assert planted_miou(seed, weight_intra=0.0, weight_inter=0.0)[0] < full - 0.2


def test_without_pairs_across_images_a_cluster_is_lost_or_all_is_well():
    """Measured: two of five seeds lose a cluster, the others are within two points of the full method."""
    results = [planted_miou(seed, weight_inter=0.0) for seed in range(5)]
    assert all(used < 3 or miou > 0.95 for miou, used in results)
    assert {used < 3 for _, used in results} == {True, False}


def test_without_pairs_within_images_every_planted_problem_is_solved_worse_and_one_not_at_all():
    """Measured: 36 99 85 92 92, against 100 100 98 100 100."""
    results = [planted_miou(seed, weight_intra=0.0)[0] for seed in range(5)]
    assert all(one < planted_miou(seed)[0] for seed, one in enumerate(results))
    assert min(results) < 0.5


@pytest.mark.parametrize(
    "params",
    [
        {"weight_data": 0.0},
        {"b_intra": 0.5, "b_inter": -0.02},
        {"global_offset": False},
        {"closeness_dropout": False},
    ],
    ids=str,
)
def test_neither_the_data_term_nor_the_papers_reading_matters_on_the_planted_problem(params):
    assert min(planted_miou(seed, **params)[0] for seed in range(5)) > 0.95
