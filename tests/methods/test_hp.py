"""HP: its pair loss against loops, its schedules by hand, its switches, and the planted world."""

from __future__ import annotations

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from fakes import FakeContext, MemoryFeatures, method_module
from planted import accuracy, kmeans
from test_loss_memory import script
from torch import Tensor, nn

from uss_bench.contracts import BackboneInfo
from uss_bench.data.views import View
from uss_bench.plugins.params import method_params
from uss_bench.plugins.registry import Registry

hp = method_module("hp")
pair_loss = sys.modules[hp.hidden_positive_loss.__module__]
literal_hp = script("literal_hp")


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def literal(
    z: Tensor, f: Tensor, r: Tensor, e: Tensor, r_e: Tensor, u: Tensor, lam: float, t: float
) -> Tensor:
    """The released code's steps as loops, for one of the two codes: not halved."""
    b, n = z.shape[:2]
    z, f, e, r, r_e = z.flatten(0, 1), f.flatten(0, 1), e.flatten(0, 1), r.flatten(), r_e.flatten()
    total = z.new_zeros(())
    for image in range(b):
        means, masses = [], []
        for row in range(n):
            i = image * n + row
            positive, specific, denominator = [], [], []
            for j in range(b * n):
                if j == i:
                    continue
                close = float(f[i] @ f[j])
                m = close > float(r[i]) or close > float(r[j])
                close = float(e[i] @ e[j])
                m_e = close > float(r_e[i]) or close > float(r_e[j])
                positive += [j] * m
                specific += [j] * m_e
                denominator += [j] * (m or bool(u[row, j]))
            if not positive:
                continue
            s = z[i] @ z.T / t
            log_sum = torch.log(sum(torch.exp(s[k]) for k in denominator))
            weights = {j: (j in positive) + lam * (j in specific) for j in {*positive, *specific}}
            mass = sum(weights.values())
            masses.append(mass)
            means.append(sum(w * (s[j] - log_sum) for j, w in weights.items()) / mass)
        if means:
            share = [mass / (sum(masses) / len(masses)) for mass in masses]
            total = total - (t / 0.07) * sum(a * m for a, m in zip(share, means, strict=True)) / len(means)
    return total / b


@pytest.mark.parametrize("lam", [0.0, 0.3])
@pytest.mark.parametrize(("b", "n", "density"), [(3, 4, 0.2), (2, 5, 1.0), (1, 6, 0.0)])
@pytest.mark.parametrize("tile", [7, 2**22])
def test_the_loss_and_its_gradients_are_those_of_loops_over_pairs(monkeypatch, lam, b, n, density, tile):
    monkeypatch.setattr(pair_loss, "_TILE", tile)
    f, e, z, mix = (unit(b, n, 3, seed=seed) for seed in range(4))
    r, r_e = (torch.rand(b, n, generator=torch.Generator().manual_seed(seed)).double() for seed in (5, 6))
    u = torch.rand(n, b * n, generator=torch.Generator().manual_seed(9)) < density
    values = []
    for loss in (
        lambda z, mix: pair_loss.hidden_positive_loss(z, mix, f, r, e, r_e, u, weight=lam, temperature=0.8),
        lambda z, mix: sum(literal(one, f, r, e, r_e, u, lam, 0.8) for one in (z, mix)) / 2,
    ):
        leaves = [one.clone().requires_grad_() for one in (z, mix)]
        value = loss(*leaves)
        values.append((value, torch.autograd.grad(value, leaves)))
    (value, gradients), (expected, wanted) = values
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    assert value.item() != 0
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_the_opponent_of_the_benchmark_is_the_same_loss_and_propagation(lam):
    f, e, z, mix = (unit(3, 12, 5, seed=seed) for seed in range(4))
    r, r_e = (0.5 * torch.rand(3, 12, dtype=torch.float64) for _ in range(2))
    u = torch.rand(12, 36) < 0.3
    code, weights = z.transpose(1, 2).unflatten(2, (3, 4)), torch.rand(3, 9, 3, 4, dtype=torch.float64)
    results = []
    for form in (pair_loss.hidden_positive_loss, literal_hp.hidden_positive_loss):
        leaves = [one.clone().requires_grad_() for one in (z, mix)]
        value = form(*leaves, f, r, e, r_e, u, weight=lam, temperature=0.8)
        results.append((value.detach(), *torch.autograd.grad(value, leaves)))
    torch.testing.assert_close(*results)
    torch.testing.assert_close(hp.propagated(code, weights), literal_hp.propagated(code, weights))


def test_without_positives_there_is_no_loss_and_no_gradient():
    z = unit(2, 3, 4, seed=0).requires_grad_()
    high = torch.full((2, 3), 2.0, dtype=torch.float64)
    u = torch.ones(3, 6, dtype=torch.bool)
    loss = pair_loss.hidden_positive_loss(z, z, z, high, z, high, u, weight=1.0, temperature=0.5)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == 0
    assert not gradient.any()


def test_thresholds_are_the_nearest_cosines_of_the_pool_in_any_chunks(monkeypatch):
    f, pool = unit(11, 5, seed=0), unit(4, 5, seed=1)
    expected = [max(float(a @ b) for b in pool) for a in f]
    for tile in (4, 2**22):
        monkeypatch.setattr(pair_loss, "_TILE", tile)
        torch.testing.assert_close(pair_loss.thresholds(f, pool).tolist(), expected)


# --- Local positives -----------------------------------------------------------------------------


def literal_affinity(logits: Tensor, h: int, w: int) -> list[list[dict[int, float]]]:
    """Return, for each patch, its neighbors' weights by index, from loops over a row."""
    found = []
    for i, row in enumerate(logits):
        values = sorted(row.tolist())

        def quantile(share: float, values: list[float] = values) -> float:
            place = share * (len(values) - 1)
            low = int(place)
            high = min(low + 1, len(values) - 1)
            return values[low] + (place - low) * (values[high] - values[low])

        low, high = quantile(0.1), quantile(0.9)
        exponentials = [math.exp(min(max(value, low), high)) for value in row.tolist()]
        weights = [math.sqrt(h * w) * value / sum(exponentials) for value in exponentials]
        mean = sum(weights) / len(weights)
        near = {
            j: weights[j] if weights[j] >= mean else 0.0
            for j in range(h * w)
            if abs(j // w - i // w) <= 1 and abs(j % w - i % w) <= 1
        }
        found.append(near)
    return found


@pytest.mark.parametrize(("h", "w", "prefix"), [(3, 4, 1), (2, 2, 0), (4, 3, 5)])
def test_propagation_is_the_released_sum_over_the_neighborhood(h, w, prefix):
    generator = torch.Generator().manual_seed(h)
    full = 3 * torch.randn(prefix + h * w, prefix + h * w, generator=generator, dtype=torch.float64)
    kept = hp.local_affinity({"attention_logits_mean@-1": full}, prefix=prefix, height=h, width=w)["weights"]
    code = torch.randn(1, 5, h, w, generator=generator, dtype=torch.float64)
    mixed = hp.propagated(code, torch.from_numpy(kept)[None].double()).flatten(2)[0]
    flat = code.flatten(2)[0]
    for i, near in enumerate(literal_affinity(full[prefix:, prefix:], h, w)):
        expected = sum(weight * flat[:, j] for j, weight in near.items()) / len(near)
        torch.testing.assert_close(mixed[:, i], expected, rtol=1e-4, atol=1e-5)


def test_what_is_kept_of_the_logits_is_a_hundredth_of_them():
    logits = torch.randn(785, 785, generator=torch.Generator().manual_seed(0))
    kept = hp.local_affinity({"x": logits}, prefix=1, height=28, width=28)["weights"]
    assert kept.nbytes == 9 * 784 * 4
    assert logits.nbytes > 80 * kept.nbytes


def test_local_affinity_is_the_same_in_any_chunks_of_rows(monkeypatch):
    logits = torch.randn(31, 31, generator=torch.Generator().manual_seed(0))
    found = []
    for rows in (1, 7, 1000):
        monkeypatch.setattr(hp, "_ROWS", rows)
        found.append(hp.local_affinity({"x": logits}, prefix=1, height=5, width=6)["weights"])
    assert (found[0] == found[2]).all()
    assert (found[1] == found[2]).all()


def test_rows_of_grids_larger_than_64_by_64_have_quantiles_too():
    logits = torch.zeros(65 * 65, 65 * 65)
    kept = hp.local_affinity({"x": logits}, prefix=0, height=65, width=65)["weights"]
    assert kept[:, 1, 1] == pytest.approx([1 / 65] * 9)


def test_uniform_logits_mix_the_neighborhood_evenly():
    kept = hp.local_affinity({"x": torch.zeros(13, 13)}, prefix=1, height=3, width=4)["weights"]
    assert kept[:, 1, 1] == pytest.approx([12**0.5 / 12] * 9)
    assert (kept[:, 0, 0] > 0).sum() == 4


# --- Schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "expected"), [(1, 0), (51, 0), (52, 1 / 150), (126, 75 / 150), (200, 149 / 150)]
)
def test_task_specific_positives_come_in_after_the_warm_up(step, expected):
    method = hp.HP(clusters=3, steps=200, warmup=50)
    assert method.specific_weight(step) == pytest.approx(expected)


def test_the_averaged_head_follows_the_head_before_the_step():
    net = hp.Net(4, 3, 2, 0.1)
    before = [one.clone() for one in net.averaged.parameters()]
    with torch.no_grad():
        for one in net.head.parameters():
            one.add_(1)
    net.follow(0.9)
    for old, average, head in zip(before, net.averaged.parameters(), net.head.parameters(), strict=True):
        torch.testing.assert_close(average, 0.9 * old + 0.1 * head)
        assert not average.requires_grad
        assert head.requires_grad


def test_the_released_jitter_of_normalized_pixels_loses_all_that_is_darker_than_the_mean():
    info = BackboneInfo(name="x", patch=4, dim=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = [View(operations=(("brightness", 1.0),))] * 2  # changes nothing but for torchvision's clamp
    legacy, rgb = (hp.second_view(images, views, info, space) for space in ("normalized", "rgb"))
    torch.testing.assert_close(rgb, images / 255)
    low, high = torch.tensor(info.mean)[:, None, None], torch.tensor(info.mean)[:, None, None] + 0.2
    torch.testing.assert_close(legacy, rgb.clamp(low, high))


# --- A step --------------------------------------------------------------------------------------


def make(**params) -> hp.HP:
    torch.manual_seed(0)
    method = hp.HP(**{"clusters": 3, "dim": 4, "steps": 9, "warmup": 2, "candidates": 0.5} | params)
    method.net = hp.Net(6, 4, 3, method.dropout).double().train()
    return method


def terms_of(method: hp.HP, *, second: bool = True, weight: float = 0.3) -> dict[str, Tensor]:
    torch.manual_seed(1)
    projection = nn.Linear(4, 4).double()
    f, other = torch.randn(2, 2, 6, 3, 4, dtype=torch.float64)
    return method.losses(
        f,
        weights=torch.rand(2, 9, 3, 4, dtype=torch.float64) if method.propagate else None,
        other=other if second else None,
        pools=(unit(5, 6, seed=3), unit(5, 4, seed=4)),
        projection=projection,
        specific_weight=weight,
        draws=torch.Generator().manual_seed(2),
    )


def test_positives_come_from_dropped_out_vectors_unless_clean_ones_are_asked_for():
    losses = [terms_of(make(dropout=0.5, feature_dropout=on))["contrast"].item() for on in (True, False)]
    assert losses[0] != losses[1]
    same = [terms_of(make(dropout=0.0, feature_dropout=on))["contrast"].item() for on in (True, False)]
    assert same[0] == same[1]


def test_without_a_second_view_there_is_no_consistency_and_the_rest_is_the_same():
    with_view, without = (terms_of(make(dropout=0.0), second=second) for second in (True, False))
    assert with_view.keys() - without.keys() == {"consistency"}
    assert without["contrast"] == with_view["contrast"]


def test_consistency_is_the_mean_distance_of_unit_codes_with_the_offset_of_the_released_code():
    method = make(dropout=0.0)
    found = terms_of(method)["consistency"]
    torch.manual_seed(1)
    projection = nn.Linear(4, 4).double()
    distances = []
    f, other = torch.randn(2, 2, 6, 3, 4, dtype=torch.float64)
    for image in range(2):
        for row in range(3):
            for column in range(4):
                z = []
                for values in (f, other):
                    code = method.net.head(values[image, :, row, column].view(1, 6, 1, 1)).flatten()
                    projected = projection(code)
                    z.append(projected / projected.norm())
                distances.append((z[0] - z[1] + 1e-6).norm())
    torch.testing.assert_close(found, torch.stack(distances).mean())


def test_the_averaged_head_is_used_and_then_follows():
    """The codes of a step are those of the average before it follows: as if it did not follow at all."""
    losses = [terms_of(make(dropout=0.0, momentum=m))["contrast"].item() for m in (0.0, 1.0)]
    assert losses[0] == losses[1]
    method = make(momentum=0.9)
    before = method.net.averaged.linear.weight.clone()
    with torch.no_grad():
        method.net.head.linear.weight.add_(1)
    terms_of(method)
    expected = 0.9 * before + 0.1 * method.net.head.linear.weight
    torch.testing.assert_close(method.net.averaged.linear.weight, expected)


def test_the_probe_alone_moves_the_centroids_and_the_contrast_the_head():
    method = make()
    terms = terms_of(method)
    head, centroids = method.net.head.linear.weight, method.net.centroids
    wanted = {"probe": (False, True), "contrast": (True, False), "consistency": (True, False)}
    for name, (to_head, to_centroids) in wanted.items():
        given = torch.autograd.grad(terms[name], [head, centroids], retain_graph=True, allow_unused=True)
        assert [one is not None for one in given] == [to_head, to_centroids]


@pytest.mark.parametrize(("items", "pool"), [(12, 5), (4, 9)])
def test_a_pool_is_a_patch_of_each_of_some_items_with_dropout_on(items, pool):
    method = make(pool_size=pool, batch_size=3)
    features = MemoryFeatures(torch.randn(items, 6, 3, 4, dtype=torch.float64))
    context = FakeContext(method, features)
    torch.manual_seed(0)
    agnostic, specific = method.pools(features, context, 7)
    assert agnostic.shape == (min(items, pool), 6)
    assert specific.shape == (min(items, pool), 4)
    torch.testing.assert_close(agnostic.norm(dim=1), torch.ones(len(agnostic)), rtol=2e-3, atol=0)
    dropped = method.pools(features, context, 7)[0]
    method.net.eval()
    clean = method.pools(features, context, 7)[0]
    assert not torch.equal(agnostic, dropped), "other channels are dropped"
    every = F.normalize(features.batch(range(items))["tokens"], dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    best = (clean.double() @ every.T).amax(dim=1)
    torch.testing.assert_close(best, torch.ones_like(best), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("items", "steps", "every", "expected"),
    [(8, 13, 2, [0, 3, 7, 11]), (8, 9, 10, [0]), (20, 14, 3, [0, 4, 7, 10, 14])],
)
def test_the_specific_pool_is_drawn_anew_on_schedule_within_an_epoch(items, steps, every, expected):
    """With batches of 2 an epoch of 8 items has 4 steps, one of 20 has 10; their first never draws."""
    method = hp.HP(
        clusters=2,
        dim=4,
        steps=steps,
        batch_size=2,
        renew_every=every,
        pool_size=4,
        consistency=0.0,
        propagate=False,
    )
    features = MemoryFeatures(torch.randn(items, 6, 2, 2))
    drawn, pools = [], method.pools
    method.pools = lambda features, ctx, step: drawn.append(step) or pools(features, ctx, step)
    context = FakeContext(method, features)
    context.info = BackboneInfo(name="x", patch=4, dim=6)
    context.grid = (2, 2)
    method.train(None, context)
    assert drawn == expected
    assert not method.net.training


def test_presets_hold_the_released_constants():
    plugin = Registry().find("methods", "hp")
    table = {
        "cocostuff27-vits8": (512, 0.8, 0.05, 0.02, 0.99, 1000, 100, 2048, 22896, 64),
        "cityscapes27-vits8": (512, 0.6, 0.05, 0.02, 0.999, 50, 20, 2048, 1380, 64),
        "potsdam3-vitb8": (256, 0.4, 0.0, 1.0, 0.999, 100, 20, 1024, 710, 64),
    }
    for preset in plugin.spec.presets:
        m = plugin.load()(**method_params(plugin, preset, {}, n_classes=3))
        if preset.name in table:
            found = (m.dim, m.temperature, m.consistency, m.candidates, m.momentum, m.warmup, m.renew_every)
            assert (*found, m.pool_size, m.steps, m.batch_size) == table[preset.name]


# --- The planted world ---------------------------------------------------------------------------

SMALL = {"batch_size": 4, "steps": 120, "dim": 64, "pool_size": 48, "renew_every": 10, "warmup": 30}
SMALL |= {"candidates": 1.0, "temperature": 0.4, "consistency": 0.0, "lr": 2e-3, "lr_probe": 0.1}
"""Potsdam-3's constants, which suit a pool that is small beside the batch, and larger steps."""


def test_it_finds_the_classes_of_the_planted_world(run):
    """Measured, seeds 0 to 2: 82, 99 and 99, where k-means has 83, 81 and 84."""
    found = accuracy(run, "hp", **SMALL)
    assert found > kmeans(run) - 5
    assert found > accuracy(run, "random") + 30


@pytest.mark.parametrize("seeds", [(0,), pytest.param((2, 3, 4), marks=pytest.mark.slow)], ids=str)
def test_without_the_consistency_of_views_brightness_hides_the_classes(run, seeds):
    """What a record scores, on every seed; 2 to 4 had no part in the choice of the setting.

    Measured, seeds 0 to 4: 97, 91, 86, 98 and 98 with the term, and 61, 68, 68, 64 and 72 without it.
    """
    weak = SMALL | {"standardize": True, "dim": 32}
    for seed in seeds:
        full, without = (
            accuracy(run, "hp", "view", seed=seed, **weak | {"consistency": alpha}) for alpha in (7.0, 0.0)
        )
        assert without < full - 5


@pytest.mark.parametrize(("name", "images"), [("toy3", 200), ("toy27", 300)])
def test_small_presets_renew_the_task_specific_pool_within_an_epoch(name, images):
    """Else its patches would be codes of the untrained head to the end."""
    plugin = Registry().find("methods", "hp")
    (preset,) = (one for one in plugin.spec.presets if one.name == name)
    spec, _ = Registry().dataset(name)
    assert {one.name: one.images for one in spec.splits}["train"] == images
    method = plugin.load()(**method_params(plugin, preset, {}, n_classes=3))
    assert method.renew_every < images // method.batch_size
