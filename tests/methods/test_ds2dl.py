"""DS²DL: every term against its equation written out in loops, what is detached, and what it finds."""

from __future__ import annotations

import functools
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from fakes import FakeContext, MemoryFeatures, method_module, planted
from literal_forms import literal_sinkhorn
from torch import Tensor

from uss_bench.evaluation.scoring import count, score
from uss_bench.nn.pairing import near_derangement
from uss_bench.plugins.params import method_params
from uss_bench.plugins.registry import Registry

ds2dl = method_module("ds2dl")
TERMS = ["intra", "cross", "l2g", "orth", "data"]


def unit(x: Tensor, dim: int = 1) -> Tensor:
    return x / (x * x).sum(dim=dim, keepdim=True).sqrt()


def features(images: int = 3, channels: int = 6, h: int = 2, w: int = 3, seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, channels, h, w, dtype=torch.float64, generator=generator) + 0.5


def make(f: Tensor, clusters: int = 3, **params) -> ds2dl.DS2DL:
    """A method in training mode, in float64, whose local and global prototypes differ."""
    torch.manual_seed(0)
    method = ds2dl.DS2DL(**{"clusters": clusters, "dim": 5, "dropout": 0.0, "b_init": 0.1} | params)
    method.net = method.make_net(f.shape[1]).double().train()
    method.net.teacher.add_(0.3 * torch.randn_like(method.net.teacher))
    with torch.no_grad():
        method.net.student.mul_(1 + torch.rand(clusters, 1, dtype=torch.float64))  # not of unit length
        method.net.b.add_(0.2 * torch.arange(len(method.net.b)))  # two biases differ
    return method


# --- Literal forms -------------------------------------------------------------------------------


def literal_pairs(x, y, q, p, b, r, *, center=False, cosine=False) -> Tensor:
    """Equation 3 over one pair of images (D, N), pair by pair."""
    terms = []
    similarity = [[(x[:, i] * y[:, j]).sum() for j in range(y.shape[1])] for i in range(x.shape[1])]
    for i, row in enumerate(similarity):
        shift = sum(row) / len(row) if center else 0.0
        for j, s in enumerate(row):
            t = s - shift + b
            label = (q[:, i] * p[:, j]).sum()
            if cosine:
                label = label / (q[:, i].norm() * p[:, j].norm())
            positive, negative = (1 + torch.exp(-t / r)).log(), (1 + torch.exp(r * t)).log()
            terms.append(label * positive + (1 - label) * negative)
    return torch.stack(terms).mean()


def project(net, f: Tensor) -> Tensor:
    """The projector as matrix products on (B, D, N)."""

    def dense(layer, values: Tensor) -> Tensor:
        return layer.weight[:, :, 0, 0] @ values + layer.bias[:, None]

    hidden = dense(net.projector.nonlinear[0], f)
    return dense(net.projector.linear, f) + dense(net.projector.nonlinear[2], hidden * torch.sigmoid(hidden))


def literal_losses(method, f: Tensor, partner: list[int]) -> dict[str, Tensor]:
    """All terms, patch by patch; nothing is detached but what the parameters say."""
    net, f, images = method.net, f.flatten(2), range(len(f))
    z = project(net, f)
    x = unit(f if method.similarity == "frozen" else z)
    labels_from = z if method.attach_labels else z.detach()
    q = torch.softmax(unit(net.teacher) @ unit(labels_from) / method.tau, dim=1)
    switches = {"center": method.center_similarity, "cosine": method.label_similarity == "cosine"}

    def pairs(other, b: Tensor) -> Tensor:
        values = [
            literal_pairs(x[i], x[other(i)], q[i], q[other(i)], b, method.r, **switches) for i in images
        ]
        return torch.stack(values).mean()

    cosine = (unit(net.teacher) @ unit(z)).detach()
    if method.sinkhorn_scope == "image":
        codes = [literal_sinkhorn(s, method.epsilon, method.sinkhorn_iterations) for s in cosine]
    else:
        joined = torch.cat(list(cosine), dim=1)
        codes = literal_sinkhorn(joined, method.epsilon, method.sinkhorn_iterations).chunk(len(f), dim=1)
    local = unit(net.student) @ unit(z.detach() if method.l2g_detach else z)
    predicted = torch.softmax(local / method.tau, dim=1).log()
    l2g = [-(codes[i][:, n] * predicted[i][:, n]).sum() for i in images for n in range(f.shape[2])]

    c = unit(net.student) if method.orth_normalize else net.student
    size = range(len(c))
    orth = [((c[k] * c[m]).sum() - float(k == m)).abs() for k in size for m in size]

    own = unit(net.student) @ unit(z.detach())
    wanted = (cosine if method.pseudo_labels == "global" else own).argmax(dim=1)
    guess = torch.softmax(own / method.data_tau, dim=1)
    data = [-guess[i, wanted[i, n], n].log() for i in images for n in range(f.shape[2])]
    return {
        "intra": pairs(lambda i: i, net.b[0]),
        "cross": pairs(lambda i: partner[i], net.b[-1]),
        "l2g": torch.stack(l2g).mean(),
        "orth": torch.stack(orth).mean() if method.orth_reduce == "mean" else torch.stack(orth).sum(),
        "data": torch.stack(data).mean(),
    }


def gradients(loss: Tensor, method) -> dict[str, Tensor]:
    parameters = dict(method.net.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {n: g for n, g in zip(parameters, found, strict=True) if g is not None and g.any()}


# --- Equations 1 to 8 ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"r": 1.0},
        {"r": 6.0, "tau": 0.5},
        {"similarity": "learned"},
        {"similarity": "learned", "attach_labels": False, "separate_b": True},
        {"center_similarity": True, "separate_b": True},
        {"center_similarity": True, "similarity": "learned"},
        {"label_similarity": "cosine"},
        {"sinkhorn_scope": "batch", "epsilon": 0.5},
        {"l2g_detach": True, "sinkhorn_iterations": 1},
        {"orth_reduce": "sum", "orth_normalize": False},
        {"pseudo_labels": "local", "data_tau": 0.1},
    ],
    ids=str,
)
def test_every_term_and_its_gradient_are_those_of_the_equation(params):
    f = features()
    method = make(f, **params)
    terms = method.losses(f, torch.tensor([1, 2, 0]))
    expected = literal_losses(method, f, [1, 2, 0])
    assert list(terms) == TERMS
    torch.testing.assert_close(terms, expected, rtol=1e-7, atol=1e-10)
    for name in TERMS:
        ours, literal = (gradients(values[name], method) for values in (terms, expected))
        torch.testing.assert_close(ours, literal, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("images", "channels", "h", "w", "clusters"), [(2, 3, 1, 1, 2), (4, 8, 3, 2, 7)])
@pytest.mark.parametrize("similarity", ["frozen", "learned"])
def test_terms_hold_for_other_shapes_and_repeated_partners(images, channels, h, w, clusters, similarity):
    f, partner = features(images, channels, h, w), [1, 0, 0, 1][:images]
    method = make(f, clusters, similarity=similarity)
    terms, expected = method.losses(f, torch.tensor(partner)), literal_losses(method, f, partner)
    torch.testing.assert_close(terms, expected, rtol=1e-7, atol=1e-10)
    total, literal = (gradients(sum(values.values()), method) for values in (terms, expected))
    torch.testing.assert_close(total, literal, rtol=1e-6, atol=1e-9)


def test_r_of_1_is_binary_cross_entropy():
    f = features(images=1).flatten(2)
    x, q, b = unit(f), torch.softmax(f[:, :3], dim=1), torch.tensor(0.3, dtype=torch.float64)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(x.mT @ x + b, q.mT @ q)
    torch.testing.assert_close(ds2dl.mean_pair_loss(x, x, q, q, b, 1.0, False), expected)


@pytest.mark.parametrize("r", [1.0, 2.1, 6.0])
def test_the_slopes_of_both_pair_losses_are_those_of_appendix_a3(r):
    """∂Q₁/∂t = −σ(−t/r)/r for sure positives, ∂Q₂/∂t = r σ(rt) for sure negatives."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    for label, slope in (
        (1.0, lambda t: -1 / r / (1 + math.exp(t / r))),
        (0.0, lambda t: r / (1 + math.exp(-r * t))),
    ):
        for b in (-1.5, -1.0, 0.4):
            shift = torch.tensor(b, dtype=torch.float64, requires_grad=True)
            value = ds2dl.mean_pair_loss(one, one, one, label * one, shift, r, False)
            (found,) = torch.autograd.grad(value, shift)
            assert found.item() == pytest.approx(slope(1 + b), rel=1e-9)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("tile", [1, 7, 13, 26, 10**6])
def test_the_pair_loss_does_not_depend_on_its_tiles(monkeypatch, tile, center):
    monkeypatch.setattr(sys.modules[ds2dl.mean_pair_loss.__module__], "_TILE", tile)
    f = features(images=2, channels=4, h=1, w=13)
    x, y = (unit(f.flatten(2)[order]).requires_grad_() for order in ([0, 1], [1, 0]))
    q, p = (torch.softmax(2 * one.detach(), dim=1).requires_grad_() for one in (x, y))
    b = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    inputs = (x, y, q, p, b)
    found = ds2dl.mean_pair_loss(*inputs, 2.2, center)
    expected = torch.stack(
        [literal_pairs(x[i], y[i], q[i], p[i], b, 2.2, center=center) for i in (0, 1)]
    ).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs))


def reached(method, f: Tensor) -> dict[str, set[str]]:
    terms = method.losses(f, torch.tensor([1, 2, 0]))
    return {name: {key.split(".")[0] for key in gradients(term, method)} for name, term in terms.items()}


def test_each_term_reaches_only_what_it_may_train():
    f = features()
    cluster = {"l2g": {"student"}, "orth": {"student"}, "data": {"student"}}
    both = {"projector", "b"}
    assert reached(make(f), f) == {"intra": both, "cross": both, **cluster}
    assert reached(make(f, similarity="learned"), f) == {"intra": both, "cross": both, **cluster}
    as_label = make(f, similarity="learned", attach_labels=False)
    assert reached(as_label, f) == {"intra": both, "cross": both, **cluster}
    only_b = make(f, attach_labels=False)
    assert reached(only_b, f) == {"intra": {"b"}, "cross": {"b"}, **cluster}
    attached = make(f, l2g_detach=False)
    assert reached(attached, f) == {"intra": both, "cross": both, **cluster, "l2g": {"projector", "student"}}
    assert "teacher" not in dict(only_b.net.named_parameters())


def test_detached_labels_leave_the_embedding_only_the_gradient_through_s():
    f = features()
    attached, detached = (make(f, similarity="learned", attach_labels=a) for a in (True, False))
    frozen = make(f, similarity="frozen")
    through = [gradients(m.losses(f, torch.tensor([1, 2, 0]))["intra"], m) for m in (attached, detached)]
    assert all((through[0][n] - through[1][n]).abs().max() > 1e-6 for n in through[0] if "projector" in n)
    label_only = gradients(frozen.losses(f, torch.tensor([1, 2, 0]))["intra"], frozen)
    assert all((label_only[n] - through[1][n]).abs().max() > 1e-6 for n in through[1] if "projector" in n)


@pytest.mark.parametrize("term", TERMS)
def test_a_weight_of_0_leaves_its_term_out_and_others_scale_theirs(term):
    f = features()
    assert list(make(f, **{f"weight_{term}": 0.0}).losses(f, torch.tensor([1, 2, 0]))) == [
        name for name in TERMS if name != term
    ]


def test_the_pair_loss_never_sees_dropout_but_through_the_projector(monkeypatch):
    seen = []
    monkeypatch.setattr(ds2dl, "mean_pair_loss", lambda x, *rest: seen.append(x) or x.new_zeros(()))
    f = features(channels=40)
    make(f, dropout=0.5).losses(f, torch.tensor([1, 2, 0]))
    torch.testing.assert_close(seen[0], unit(f.flatten(2)))


# --- Training ------------------------------------------------------------------------------------


def train(method, tokens: Tensor, seed: int = 0) -> FakeContext:
    torch.manual_seed(seed)
    context = FakeContext(method, MemoryFeatures(tokens), seed)
    method.train(None, context)
    return context


@pytest.mark.parametrize("first", [True, False])
def test_global_prototypes_follow_the_local_ones_before_or_after_the_step(first):
    method = ds2dl.DS2DL(
        clusters=3, dim=4, steps=4, batch_size=3, momentum=0.7, lr_prototypes=0.05, checkpoint_every=1,
        optimizer="adam", ema_first=first,
    )  # fmt: skip
    states = [state for _, state in train(method, features(images=6).float()).offers]
    assert len(states) == 4
    for before, after in itertools.pairwise(states):
        followed = before if first else after
        torch.testing.assert_close(after["teacher"], 0.7 * before["teacher"] + 0.3 * followed["student"])
        assert (after["student"] - before["student"]).abs().max() > 0.01


def test_local_and_global_prototypes_start_as_the_same_unit_vectors():
    net = ds2dl.DS2DL(clusters=5, dim=4).make_net(6)
    torch.testing.assert_close(net.teacher, net.student.detach(), rtol=0, atol=0)
    torch.testing.assert_close(net.teacher.norm(dim=1), torch.ones(5))
    assert net.teacher.data_ptr() != net.student.data_ptr()


@pytest.mark.parametrize("optimizer", ["adam", "radam"])
def test_training_takes_the_steps_of_the_optimizer_on_the_weighted_sum(optimizer):
    tokens = features(images=5).float()
    weights = {"weight_intra": 0.5, "weight_cross": 2.0, "weight_l2g": 0.3, "weight_data": 0.0}
    method = ds2dl.DS2DL(
        clusters=3, dim=4, steps=7, batch_size=3, dropout=0.0, lr_b=0.01, optimizer=optimizer, **weights
    )
    context = FakeContext(method, features_in_memory := MemoryFeatures(tokens))
    torch.manual_seed(0)
    method.train(None, context)

    torch.manual_seed(0)
    net = method.net
    other = ds2dl.DS2DL(clusters=3, dim=4, dropout=0.0)
    other.net = other.make_net(6)
    rule = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}[optimizer]
    rates = {"projector": 1e-4, "student": 5e-4, "b": 0.01}
    named = [(n.split(".")[0], p) for n, p in other.net.named_parameters()]
    optimizer = rule([{"params": [p], "lr": rates[n]} for n, p in named])
    pairs = context.generator("pairs")
    for f in features_in_memory.read:
        terms = other.losses(f, near_derangement(3, pairs))
        loss = 0.5 * terms["intra"] + 2.0 * terms["cross"] + 0.3 * terms["l2g"] + terms["orth"]
        optimizer.zero_grad()
        loss.backward()
        other.net.teacher.lerp_(other.net.student.detach(), 0.002)
        optimizer.step()
    torch.testing.assert_close(dict(net.state_dict()), dict(other.net.state_dict()), rtol=1e-5, atol=1e-7)


def test_training_standardizes_reports_and_offers_as_asked():
    tokens = 5 * features(images=6).float() + 3
    method = ds2dl.DS2DL(clusters=3, steps=60, batch_size=4, checkpoint_every=20, standardize=True)
    context = train(method, tokens)
    assert [step for step, _ in context.offers] == [20, 40, 60]
    assert [(step, list(scalars)) for step, scalars in context.reports] == [
        (1, [*TERMS, "b"]),
        (50, [*TERMS, "b"]),
    ]
    torch.testing.assert_close(method.net.standardizer.mean, tokens.mean((0, 2, 3)))
    assert not method.net.training


def test_a_learning_rate_of_0_holds_the_bias():
    method = ds2dl.DS2DL(clusters=3, steps=20, batch_size=4, b_init=-0.3, lr_b=0.0, optimizer="adam")
    train(method, features(images=6).float())
    assert method.net.b.tolist() == pytest.approx([-0.3])


@pytest.mark.parametrize("similarity", ["frozen", "learned"])
@pytest.mark.parametrize("center", [False, True])
def test_the_label_free_bias_is_minus_the_mean_of_s_over_all_pairs(similarity, center):
    f, partner = features(), [1, 2, 0]
    params = {"similarity": similarity, "center_similarity": center, "b_init": "mean"}
    one, two = (make(f, separate_b=separate, **params) for separate in (False, True))
    x = unit(f.flatten(2) if similarity == "frozen" else project(one.net, f.flatten(2)))
    patches = range(x.shape[2])
    kinds = []
    for others in ([0, 1, 2], partner):
        s = [
            (x[i][:, n] * x[j][:, m]).sum()
            - center * sum((x[i][:, n] * x[j][:, k]).sum() for k in patches) / 6
            for i, j in enumerate(others)
            for n in patches
            for m in patches
        ]
        kinds.append(-sum(s) / len(s))
    torch.testing.assert_close(two.balanced_bias(f, torch.tensor(partner)), torch.stack(kinds))
    expected = torch.stack([(kinds[0] + kinds[1]) / 2])
    torch.testing.assert_close(one.balanced_bias(f, torch.tensor(partner)), expected)


def test_training_starts_the_bias_by_the_first_batch_whichever_pairs_it_takes():
    tokens = features(images=6).float()
    params = {"clusters": 3, "steps": 2, "batch_size": 4, "b_init": "mean", "lr_b": 0.0, "standardize": True}
    found = []
    for weights in ({}, {"weight_intra": 0.0}):
        method = ds2dl.DS2DL(**params, **weights)
        context = FakeContext(method, features_in_memory := MemoryFeatures(tokens))
        method.train(None, context)
        first = method.net.standardizer(features_in_memory.read[0])
        partner = near_derangement(4, context.generator("pairs"))
        torch.testing.assert_close(method.net.b.detach(), method.balanced_bias(first, partner))
        found.append(method.net.b.item())
    assert found[0] == found[1]


@pytest.mark.parametrize("separate_b", [False, True])
def test_a_restored_state_predicts_identically(separate_b):
    tokens = features(images=4).float()
    params = {"clusters": 3, "dim": 4, "separate_b": separate_b}
    method = ds2dl.DS2DL(steps=3, batch_size=2, standardize=True, **params)
    train(method, tokens)
    other = ds2dl.DS2DL(**params)
    other.load_state_dict(method.state_dict())
    logits = [one.classify(one.embed({"tokens": tokens})) for one in (method, other)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_a_seed_fixes_the_result():
    states = []
    for seed in (0, 0, 1):
        method = ds2dl.DS2DL(clusters=3, dim=4, steps=5, batch_size=3)
        train(method, features(images=6).float(), seed)
        states.append(method.state_dict()["teacher"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_every_preset_fits_the_signature():
    plugin = Registry().find("methods", "ds2dl")
    assert {preset.name for preset in plugin.spec.presets} >= {
        "cocostuff27-vits8",
        "cityscapes27-vits8",
        "potsdam3-vitb8",
    }
    for preset in plugin.spec.presets:
        assert plugin.load()(**method_params(plugin, preset, {}, n_classes=3)).clusters == 3


# --- A planted problem ---------------------------------------------------------------------------


@functools.cache
def planted_miou(seed: int, **params) -> tuple[float, int]:
    """mIoU on three planted classes of unequal size, and how many clusters are in use."""
    tokens, labels = planted([5, 3, 2], channels=24, images=12, side=5, noise=0.7, seed=seed)
    method = ds2dl.DS2DL(
        clusters=3,
        dim=8,
        batch_size=4,
        standardize=True,
        optimizer="adam",
        # 120 large steps instead of 4,000 small ones.
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
def test_planted_classes_are_recovered_but_not_by_the_cluster_structure_alone(seed):
    full, used = planted_miou(seed)
    cluster_only, _ = planted_miou(seed, weight_intra=0.0, weight_cross=0.0)
    assert (full > 0.85, used) == (True, 3)
    assert cluster_only < full - 0.15


def test_a_bias_that_starts_at_0_loses_a_cluster_or_finds_the_classes_better_still():
    """Measured: three of five seeds lose a cluster, the other two find everything."""
    results = [planted_miou(seed, b_init=0.0) for seed in range(5)]
    assert all(used < 3 or miou > 0.95 for miou, used in results)
    assert {used < 3 for _, used in results} == {True, False}


@pytest.mark.parametrize("seed", range(5))
def test_a_projector_trained_by_local_to_global_prediction_does_worse_on_the_planted_problem(seed):
    """Measured: 63 to 90 with its gradient, 91 to 98 without."""
    assert planted_miou(seed, l2g_detach=False)[0] < planted_miou(seed)[0] - 0.02


@pytest.mark.pinned
@pytest.mark.parametrize("term", ["l2g", "orth", "data", "cross"])
@pytest.mark.parametrize("seed", range(5))
def test_four_terms_hardly_matter_on_the_planted_problem(seed, term):
    """Measured: within two points of the full method, in either direction."""
    assert planted_miou(seed, **{f"weight_{term}": 0.0})[0] == pytest.approx(planted_miou(seed)[0], abs=0.02)


@pytest.mark.pinned
def test_the_embeddings_reading_finds_more_on_four_of_five_seeds_and_fails_on_one():
    """Measured: 100 96 98 37 94, against 98 94 92 92 91."""
    learned = [planted_miou(seed, similarity="learned", attach_labels=False)[0] for seed in range(5)]
    better = [one > planted_miou(seed)[0] for seed, one in enumerate(learned)]
    assert better == [True, True, True, False, True]
    assert learned[3] < 0.5
