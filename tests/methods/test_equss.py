"""EQUSS: quantization and every term against loops over patches, its gradients, and the planted world."""

from __future__ import annotations

import pytest
import torch
from fakes import FakeContext, MemoryFeatures, method_module
from literal_forms import features, literal_distillation, literal_sample, unit
from planted import accuracy, kmeans, merged_accuracy
from torch import Tensor

from uss_bench.nn.correspondence import random_points
from uss_bench.nn.pairing import near_derangement
from uss_bench.plugins.params import method_params
from uss_bench.plugins.registry import Registry

equss = method_module("equss")
ProductQuantizer = equss.ProductQuantizer


def quantizer(dim: int = 6, parts: int = 3, entries: int = 4) -> ProductQuantizer:
    torch.manual_seed(0)
    return ProductQuantizer(dim, parts, entries).double()


def literal_quantization(books: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor, set[tuple[int, int]]]:
    """Patch by patch: the entry of least distance between unit vectors, and both mean squared errors."""
    parts, _, width = books.shape
    b, _, h, w = code.shape
    value = torch.empty_like(code)
    codebook, commitment, used = [], [], set()
    for image in range(b):
        for i in range(h):
            for j in range(w):
                for m in range(parts):
                    z = unit(code[image, m * width : (m + 1) * width, i, j], dim=0)
                    away = [float((z - unit(entry, dim=0)).detach().square().sum()) for entry in books[m]]
                    k = away.index(min(away))
                    used.add((m, k))
                    value[image, m * width : (m + 1) * width, i, j] = books[m, k].detach()
                    codebook.append((books[m, k] - z.detach()).square())
                    commitment.append((z - books[m, k].detach()).square())
    return value, torch.cat(codebook).mean(), torch.cat(commitment).mean(), used


def test_quantization_is_the_literal_search_in_each_codebook():
    quantize, code = quantizer(), features(images=2).requires_grad_()
    value, codebook, commitment, used = quantize(code)
    expected, *losses, chosen = literal_quantization(quantize.codebooks, code)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close((codebook, commitment), tuple(losses))
    assert {tuple(one) for one in used.nonzero().tolist()} == chosen
    assert 0 < len(chosen) <= 12
    torch.testing.assert_close(quantize.quantize(code), value)
    for ours, literal, parameter, other in (
        (codebook, losses[0], quantize.codebooks, code),
        (commitment, losses[1], code, quantize.codebooks),
    ):
        found, wanted = (torch.autograd.grad(one, parameter, retain_graph=True)[0] for one in (ours, literal))
        torch.testing.assert_close(found, wanted)
        assert torch.autograd.grad(ours, other, retain_graph=True, allow_unused=True)[0] is None


def test_the_gradient_goes_straight_through_to_the_unit_parts():
    quantize, code = quantizer(), features(images=2).requires_grad_()
    weights = features(images=2, seed=9)
    (found,) = torch.autograd.grad((weights * quantize(code)[0]).sum(), code)
    parts = [unit(one) for one in code.split(2, dim=1)]
    (expected,) = torch.autograd.grad((weights * torch.cat(parts, dim=1)).sum(), code)
    torch.testing.assert_close(found, expected)


def test_an_entry_finds_itself_and_keeps_its_length():
    quantize = quantizer()
    index = torch.tensor([[0, 3], [2, 1], [1, 1]])
    code = quantize.join(5 * quantize.entries(index), torch.empty(1, 6, 1, 2)).detach()
    assert quantize.nearest(quantize.split(code)).tolist() == index.tolist()
    torch.testing.assert_close(quantize.quantize(code), code / 5)


def test_parts_must_divide_the_code():
    with pytest.raises(ValueError, match="dim must be a multiple of parts: 6 is not one of 4"):
        ProductQuantizer(6, 4, 2)


def make(f: Tensor, **params) -> equss.Equss:
    """A method in training mode and in float64."""
    torch.manual_seed(0)
    small = {"clusters": 3, "dim": 6, "parts": 3, "entries": 4, "dropout": 0.0, "samples": 3}
    method = equss.Equss(**small | params)
    method.net = method.make_net(f.shape[1]).double().train()
    return method


@pytest.mark.parametrize("params", [{}, {"correspond": "quantized"}, {"output": "code"}], ids=str)
def test_the_terms_pair_images_points_and_shifts_as_the_code_does(params):
    f, f_pos = features(seed=1), features(seed=2)
    method = make(f, **params, b_self=0.1, b_knn=0.3, b_rand=0.6, negatives=2)
    terms, used = method.losses(f, f_pos, torch.Generator().manual_seed(5))

    draws = torch.Generator().manual_seed(5)
    here, there = random_points(4, 3, draws).double(), random_points(4, 3, draws).double()
    partners = [near_derangement(4, draws) for _ in range(2)]
    code, code_pos = method.net.head(f), method.net.head(f_pos)
    books = method.net.quantizer.codebooks
    quantized, codebook, commitment, chosen = literal_quantization(books, code)

    def straight(z: Tensor) -> Tensor:
        z_norm = torch.cat([unit(part) for part in z.split(2, dim=1)], dim=1)
        return z_norm + (literal_quantization(books, z)[0] - z_norm).detach()

    ours, near = (code, code_pos) if method.correspond == "code" else (straight(code), straight(code_pos))

    def term(second: Tensor, second_code: Tensor, points: Tensor, b: float) -> Tensor:
        first = literal_sample(f, here), literal_sample(second, points)
        codes = literal_sample(ours, here), literal_sample(second_code, points)
        return literal_distillation(*first, *codes, b, method.pointwise, method.zero_clamp)

    out = quantized if method.output == "quantized" else code.detach()
    cosine = torch.einsum("bdhw,kd->bkhw", unit(out), unit(method.net.centroids))
    expected = {
        "probe": -cosine.max(dim=1).values.mean(),
        "corr_self": term(f, ours, here, 0.1),
        "corr_knn": term(f_pos, near, there, 0.3),
        "corr_rand": sum(term(f[one], ours[one], there, 0.6) for one in partners) / 2,
        "codebook": codebook,
        "commitment": commitment,
    }
    assert {tuple(one) for one in used.nonzero().tolist()} == chosen
    torch.testing.assert_close(terms, expected, rtol=1e-8, atol=1e-11)
    parameters = list(method.net.parameters())
    found, literal = (torch.autograd.grad(sum(values.values()), parameters) for values in (terms, expected))
    torch.testing.assert_close(found, literal, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("correspond", ["code", "quantized"])
def test_each_term_reaches_only_what_it_may_train(correspond):
    f = features()
    method = make(f, correspond=correspond)
    parameters = dict(method.net.named_parameters())
    terms, _ = method.losses(f, features(seed=3), torch.Generator().manual_seed(0))
    for name, term in terms.items():
        found = torch.autograd.grad(term, list(parameters.values()), allow_unused=True, retain_graph=True)
        reached = {n.split(".")[0] for n, g in zip(parameters, found, strict=True) if g is not None}
        assert reached == {{"probe": "centroids", "codebook": "quantizer"}.get(name, "head")}


# --- Training ---------------------------------------------------------------------


class Context(FakeContext):
    def derived(self, name, build, inputs=("tokens",), *, params):
        return build(self._features, **params)


def train(method, tokens: Tensor, seed: int = 0) -> Context:
    torch.manual_seed(seed)
    context = Context(method, MemoryFeatures(tokens), seed)
    method.train(None, context)
    return context


SMALL = {"clusters": 3, "dim": 6, "parts": 3, "entries": 4, "batch_size": 4, "samples": 3}


def test_dead_codes_are_the_entries_that_no_patch_was_given_since_the_last_report(monkeypatch):
    used = []
    losses = equss.Equss.losses

    def noting(self, *arguments):
        found = losses(self, *arguments)
        used.append(found[1].clone())
        return found

    monkeypatch.setattr(equss.Equss, "losses", noting)
    method = equss.Equss(**{**SMALL, "entries": 40}, steps=50, standardize=True)
    context = train(method, features(images=6).float())
    first, second = (scalars["dead_codes"] for _, scalars in context.reports)
    assert [step for step, _ in context.reports] == [1, 50]
    assert first == int((~used[0]).sum()) > 0
    assert second == int((~torch.stack(used[1:]).any(dim=0)).sum())


@pytest.mark.parametrize(
    "switch",
    [{"correspond": "quantized"}, {"output": "code"}, {"weight_quantization": 0.0}, {"clip": 1e-3}],
    ids=str,
)
def test_every_switch_changes_what_is_learned(switch):
    tokens, states = features(images=6).float(), []
    for params in ({}, switch):
        method = equss.Equss(**SMALL, steps=5, lr=1e-2, **params)
        train(method, tokens)
        states.append(torch.cat([value.flatten() for value in method.state_dict().values()]))
    assert not torch.equal(*states)


@pytest.mark.parametrize("output", ["quantized", "code"])
def test_a_restored_state_predicts_identically(output):
    tokens = features(images=4).float()
    method = equss.Equss(**SMALL, steps=3, standardize=True, checkpoint_every=2, output=output)
    context = train(method, tokens)
    assert [step for step, _ in context.offers] == [2]
    other = equss.Equss(**SMALL, output=output)
    other.load_state_dict(method.state_dict())
    logits = [one.classify(one.embed({"tokens": tokens})) for one in (method, other)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_every_preset_fits_the_signature():
    plugin = Registry().find("methods", "equss")
    for preset in plugin.spec.presets:
        plugin.load()(**method_params(plugin, preset, {}, n_classes=3))


# --- The planted world ------------------------------------------------------------

FAST = {
    **{"dim": 64, "parts": 8, "entries": 4, "steps": 100, "batch_size": 16, "samples": 6},
    **{"lr": 2e-3, "lr_probe": 5e-2, "standardize": True},
}


def test_it_finds_the_planted_classes(run):
    found = accuracy(run, "equss", **FAST)
    assert found > kmeans(run) - 5
    assert found > accuracy(run, "random") + 20


ONE_BOOK = {**FAST, "dim": 16, "parts": 1, "entries": 12}
"""Twelve codes in all, so that entries that are not learned cut through the classes."""


@pytest.mark.parametrize("steps", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_codes_tell_classes_apart_by_what_the_codebook_learns(run, steps):
    """Learned entries against untrained ones; not that quantization helps, which it does not (README.md).

    In the mean over seeds that had no part in the choice of the setting: 99, 88 and 76, and 71, 81 and 82;
    at 300 steps 99, 89 and 88, and 71, 83 and 84.
    """
    asked = ONE_BOOK | {"steps": steps}
    full, untrained = (
        [merged_accuracy(run, "equss", seed=seed, **asked, weight_quantization=weight) for seed in (6, 7, 8)]
        for weight in (1.0, 0.0)
    )
    assert sum(untrained) / 3 < sum(full) / 3 - 5
