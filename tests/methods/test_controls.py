"""The controls `pca`, `randproj` and `debias`: their fits against literal forms, and what each is for."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import MemoryFeatures, method_module, planted
from planted import accuracy

from uss_bench.errors import UsageError
from uss_bench.evaluation.scoring import count, score
from uss_bench.plugins.registry import Registry

pca, randproj, debias = (method_module(name) for name in ("pca", "randproj", "debias"))
components = sys.modules[pca.principal_components.__module__]
position = sys.modules[debias.positional_component.__module__]
QUICK = {"steps": 60, "batch_size": 8, "checkpoint_every": 60}


def tokens_of(images: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(images, height, width, channels)) @ rng.normal(size=(channels, channels))
    return torch.from_numpy(mixed + 20).permute(0, 3, 1, 2).float()


class Derived:
    """A context that builds what is derived each time, over features in memory."""

    device = torch.device("cpu")

    def __init__(self, tokens: torch.Tensor, seed: int = 0) -> None:
        self._features = MemoryFeatures(tokens)
        self._seed = seed

    def features(self, inputs):
        return self._features

    def derived(self, name, build, inputs=("tokens",), *, params=None):
        return build(self._features, **(params or {}))

    def generator(self, purpose):
        return torch.Generator().manual_seed(self._seed)

    def steps(self, total, **keep):
        return range(1, total + 1)

    def report(self, step, **scalars):
        pass

    def checkpoint(self, step):
        pass


def miou(method, tokens: torch.Tensor, labels: np.ndarray, seed: int = 0) -> float:
    method.train(None, Derived(tokens, seed))
    predicted = method.classify(method.embed({"tokens": tokens})).argmax(dim=1).numpy()
    classes = int(labels.max()) + 1
    return score(
        np.stack([count(p, t, classes, classes) for p, t in zip(predicted, labels, strict=True)])
    ).miou


# --- Principal components ------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 4, 32])
def test_principal_components_are_those_of_a_covariance_in_loops(chunk):
    tokens = tokens_of(7, 5, 3, 2)
    rows = [
        tokens[n, :, y, x].double().numpy() for n, y, x in itertools.product(range(7), range(3), range(2))
    ]
    mean = sum(rows) / len(rows)
    covariance = np.zeros((5, 5))
    for row in rows:
        for i in range(5):
            for j in range(5):
                covariance[i, j] += (row[i] - mean[i]) * (row[j] - mean[j]) / len(rows)
    found = components.principal_components(MemoryFeatures(tokens), chunk=chunk)
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-6)
    directions = found["directions"].astype(np.float64)
    np.testing.assert_allclose(directions @ directions.T, np.eye(5), atol=1e-5)
    variances = [float(v @ covariance @ v) for v in directions]
    assert variances == sorted(variances, reverse=True)
    np.testing.assert_allclose(found["deviations"] ** 2, variances, rtol=1e-4)
    for v, variance in zip(directions, variances, strict=True):
        np.testing.assert_allclose(covariance @ v, variance * v, atol=1e-4 * variances[0])
        assert v[np.abs(v).argmax()] > 0


def test_whitened_components_have_deviation_one_and_bare_ones_their_own():
    tokens = tokens_of(6, 5, 4, 4)
    codes = {}
    for whiten in (False, True):
        method = pca.PcaKMeans(clusters=2, dim=3, whiten=whiten, steps=1)
        method.train(None, Derived(tokens))
        codes[whiten] = method.embed({"tokens": tokens}).transpose(0, 1).flatten(1)
    torch.testing.assert_close(codes[True].std(dim=1, correction=0), torch.ones(3), rtol=1e-4, atol=1e-4)
    deviations = codes[False].std(dim=1, correction=0)
    assert (deviations[:-1] > deviations[1:]).all()
    for code in codes.values():
        torch.testing.assert_close(code.mean(dim=1), torch.zeros(3), rtol=0, atol=1e-3)


def test_more_components_than_channels_are_refused_with_the_number_to_choose():
    with pytest.raises(UsageError, match="5 channels") as error:
        pca.PcaKMeans(clusters=2, dim=6).train(None, Derived(tokens_of(2, 5, 2, 2)))
    assert "dim=5" in (error.value.hint or "")


def test_components_find_classes_that_a_common_mean_hides_from_cosines():
    """The classes are small beside what all patches share; centering removes it, `randproj` does not."""
    tokens, labels = planted([2, 2, 1], channels=24, images=12, side=6, noise=0.5, seed=0)
    hidden = tokens + 3 * F.normalize(torch.ones(24), dim=0)[:, None, None]
    assert miou(pca.PcaKMeans(clusters=3, dim=3, **QUICK), hidden, labels) > 0.95
    assert miou(randproj.RandomProjectionKMeans(clusters=3, dim=3, **QUICK), hidden, labels) < 0.9


# --- Random projection ---------------------------------------------------------------------------


def test_a_random_projection_keeps_cosines_on_average_and_is_drawn_for_each_seed():
    tokens = tokens_of(4, 40, 3, 3) - 20
    points = F.normalize(tokens.movedim(1, -1).flatten(0, 2), dim=1)
    products, drawn = [], []
    for seed in range(200):
        method = randproj.RandomProjectionKMeans(clusters=2, dim=30, steps=1)
        method.train(None, Derived(tokens, seed))
        code = torch.einsum("md,kd->mk", points, method.directions)
        products.append(code @ code.T)
        drawn.append(method.directions)
    # A product's variance is at most 2 / dim; the mean of 200 draws has a deviation of 0.018.
    assert (torch.stack(products).mean(dim=0) - points @ points.T).abs().max() < 5 * 0.018
    assert not torch.equal(drawn[0], drawn[1])


# --- Positions -----------------------------------------------------------------------------------


def legendre(order: int, x: float) -> float:
    """Bonnet's recursion."""
    before, now = 1.0, x
    if order == 0:
        return before
    for n in range(1, order):
        before, now = now, ((2 * n + 1) * x * now - n * before) / (n + 1)
    return now


@pytest.mark.parametrize(("height", "width", "degree"), [(4, 4, 3), (3, 5, 2), (1, 4, 2)])
def test_position_terms_are_products_of_legendre_polynomials_at_the_patches_centers(height, width, degree):
    terms = position.position_terms((height, width), degree)
    orders = [(i, j) for i in range(degree + 1) for j in range(degree + 1) if 1 <= i + j <= degree]
    assert len(terms) == len(orders)
    expected = {
        (i, j): [
            [
                legendre(i, (2 * y + 1) / height - 1) * legendre(j, (2 * x + 1) / width - 1)
                for x in range(width)
            ]
            for y in range(height)
        ]
        for i, j in orders
    }
    ordered = [expected[i, n - i] for n in range(1, degree + 1) for i in range(n + 1)]
    np.testing.assert_allclose(terms, ordered, atol=1e-12)


def test_the_component_is_the_least_squares_fit_of_all_patches():
    tokens = tokens_of(6, 3, 4, 5)
    terms = position.position_terms((4, 5), 2).numpy()
    rows, targets = [], []
    for n, y, x in itertools.product(range(6), range(4), range(5)):
        rows.append([1.0, *terms[:, y, x]])
        targets.append(tokens[n, :, y, x].double().numpy())
    design, target = np.array(rows), np.array(targets)
    solution = np.linalg.solve(design.T @ design, design.T @ target)  # the normal equations
    found = position.positional_component(MemoryFeatures(tokens), degree=2, chunk=4)["coefficients"]
    np.testing.assert_allclose(found, solution[1:], rtol=1e-5, atol=1e-6)


def test_what_is_left_has_no_correlation_with_position_and_the_same_mean():
    tokens = tokens_of(6, 4, 5, 5)
    method = debias.DebiasedKMeans(clusters=2, degree=2, steps=1)
    method.train(None, Derived(tokens))
    left = method.embed({"tokens": tokens}).double()
    terms = position.position_terms((5, 5), 2)
    centered = left.mean(dim=0) - left.mean(dim=(0, 2, 3))[:, None, None]
    fitted = torch.einsum("thw,dhw->td", terms - terms.mean(dim=(1, 2), keepdim=True), centered)
    assert fitted.abs().max() < 1e-4
    constant = torch.einsum("t,td->d", terms.mean(dim=(1, 2)), method.coefficients.double())
    torch.testing.assert_close(
        left.mean(dim=(0, 2, 3)), tokens.double().mean(dim=(0, 2, 3)) - constant, rtol=1e-5, atol=1e-4
    )


def test_a_component_fitted_on_one_grid_is_removed_on_a_finer_one():
    def ramp(side: int) -> torch.Tensor:
        centers = (2 * torch.arange(side) + 1) / side - 1
        return torch.stack([centers.expand(side, side), centers[:, None].expand(side, side) ** 2])[None]

    method = debias.DebiasedKMeans(clusters=2, degree=2, steps=1)
    method.train(None, Derived(ramp(7)))
    left = method.embed({"tokens": ramp(10)})
    assert left.flatten(2).std(dim=2).max() < 1e-5 < 0.1 < ramp(10).flatten(2).std(dim=2).min()


def test_classes_under_a_positional_component_are_found_only_without_it():
    tokens, labels = planted([1, 1, 1], channels=24, images=24, side=7, noise=0.4, seed=0)
    direction = F.normalize(torch.randn(24, generator=torch.Generator().manual_seed(1)), dim=0)
    ramp = torch.linspace(-3, 3, 7)[None, :].expand(7, 7)
    biased = tokens + direction[:, None, None] * ramp
    full = miou(debias.DebiasedKMeans(clusters=3, degree=2, **QUICK), biased, labels)
    without = miou(debias.DebiasedKMeans(clusters=3, degree=0, **QUICK), biased, labels)
    assert full > 0.9
    assert without < full - 0.05


def test_degree_zero_is_the_baseline():
    tokens, _ = planted([3, 2], channels=6, images=6, side=4, noise=0.6, seed=0)
    known = method_module("dino").DinoKMeans(clusters=3, steps=5, batch_size=3)
    method = debias.DebiasedKMeans(clusters=3, degree=0, steps=5, batch_size=3)
    for one in (known, method):
        one.train(None, Derived(tokens))
    torch.testing.assert_close(method.centroids, known.centroids, rtol=0, atol=0)


# --- All three -----------------------------------------------------------------------------------

METHODS = {"pca": {"dim": 16}, "randproj": {"dim": 64}, "debias": {"degree": 3}}
SEEDS = (1, 3)
"""K-means sticks at 66 to 90 % on single seeds, with every control as without: the better one counts."""


@pytest.mark.parametrize("name", METHODS)
def test_a_control_is_no_worse_than_k_means_in_the_planted_world(run, name):
    found, known = (
        max(accuracy(run, method, seed=seed, **params, **QUICK) for seed in SEEDS)
        for method, params in ((name, METHODS[name]), ("dino", {}))
    )
    assert found > known - 5
    assert found > accuracy(run, "random") + 30


@pytest.mark.parametrize("name", METHODS)
def test_a_restored_state_predicts_identically(name):
    tokens = tokens_of(4, 24, 3, 3)
    _, plugin = Registry().method(name)
    method, other = (plugin.load()(clusters=3, steps=2, batch_size=2, **METHODS[name]) for _ in range(2))
    method.train(None, Derived(tokens))
    other.load_state_dict(method.state_dict())
    logits = [one.classify(one.embed({"tokens": tokens})) for one in (method, other)]
    assert torch.equal(*logits)
