"""Resampling and intervals: against repeated images, properties, and simulations with known truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from simulated_counts import PROTOCOL, simulated, some_counts
from simulation import Images, SimulatedMethod, population

from uss_bench.evaluation.scoring import score_under
from uss_bench.protocol import Protocol
from uss_bench.statistics import resampling
from uss_bench.statistics.intervals import image_interval, seed_interval
from uss_bench.statistics.resampling import Resampled, leave_one_out, resample
from uss_bench.statistics.sampling import estimate, too_few

RULES = [
    replace(PROTOCOL, matching=matching, extra_clusters=extra, absent_classes=absent)
    for matching, extra, absent in itertools.product(
        ("hungarian", "many-to-one"), ("strict", "drop", "merge"), ("skip-empty-union", "zero")
    )
]
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def same(one: Resampled, other: Resampled) -> None:
    for name in ("accuracy", "miou", "iou"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12, err_msg=name)


# --- Resampling ----------------------------------------------------------------------------------


def repeated(counts: np.ndarray, protocol: Protocol, resamples: int, seed: int) -> Resampled:
    """Draw whole images, stack them, and score the stack: one resample after another."""
    rng = np.random.default_rng(seed)
    sets = rng.integers(0, len(counts), (resamples, len(counts)))
    scores = [score_under(counts[drawn], protocol) for drawn in sets]
    return Resampled(
        np.array([one.accuracy for one in scores]),
        np.array([one.miou for one in scores]),
        np.array([one.iou for one in scores]),
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(6, 4), (3, 5), (4, 4)])
def test_a_resample_is_the_score_of_images_drawn_with_repetition(rule, shape):
    counts = some_counts(sum(shape), 7, *shape)
    same(resample(counts, rule, resamples=20, seed=3), repeated(counts, rule, 20, 3))


@pytest.mark.parametrize("rule", RULES)
def test_leaving_one_out_is_the_score_of_all_other_images(rule):
    counts = some_counts(1, 6, 6, 4)
    found = leave_one_out(counts, rule)
    for image in range(len(counts)):
        expected = score_under(np.delete(counts, image, axis=0), rule)
        np.testing.assert_allclose(found.miou[image], expected.miou)
        np.testing.assert_allclose(found.accuracy[image], expected.accuracy)
        np.testing.assert_allclose(found.iou[image], expected.iou)


def test_the_size_of_blocks_changes_nothing(monkeypatch):
    counts = some_counts(2, 30)
    whole = resample(counts, PROTOCOL, resamples=50, seed=1), leave_one_out(counts, PROTOCOL)
    monkeypatch.setattr(resampling, "_BLOCK_BYTES", 2000)
    for before, after in zip(
        whole,
        (resample(counts, PROTOCOL, resamples=50, seed=1), leave_one_out(counts, PROTOCOL)),
        strict=True,
    ):
        same(before, after)


def test_draws_depend_on_the_number_of_images_only_so_that_methods_are_paired():
    counts = some_counts(3)
    wider = np.concatenate([counts, np.zeros_like(counts)], axis=1)  # the same method with idle clusters
    same(resample(counts, PROTOCOL, seed=5), resample(wider, PROTOCOL, seed=5))
    assert (resample(counts, PROTOCOL, seed=5).miou != resample(counts, PROTOCOL, seed=6).miou).any()


def test_pixels_are_counted_exactly_however_many():
    counts = np.full((3, 2, 2), 2**40) + np.arange(12).reshape(3, 2, 2)
    same(resample(counts, PROTOCOL, resamples=9, seed=0), repeated(counts, PROTOCOL, 9, 0))


@few
@given(seed=seeds, order=st.permutations(range(5)))
def test_the_order_of_clusters_changes_nothing(seed, order):
    # So many pixels that no two assignments are equally good.
    counts = np.random.default_rng(seed).integers(0, 10**9, (12, 5, 4))
    before, after = (resample(one, PROTOCOL, resamples=30, seed=seed) for one in (counts, counts[:, order]))
    same(before, after)


@few
@given(seed=seeds, at=st.integers(1, 11))
def test_shards_of_images_joined_are_the_whole(seed, at):
    counts = some_counts(seed)
    shards = [counts[:at], counts[at:]]
    same(
        resample(np.concatenate(shards), PROTOCOL, resamples=20, seed=seed),
        resample(counts, PROTOCOL, resamples=20, seed=seed),
    )
    merged = score_under(sum(shard.sum(axis=0) for shard in shards), PROTOCOL)
    assert merged.miou == score_under(counts, PROTOCOL).miou


@pytest.mark.parametrize("counts", [np.zeros((2, 2)), np.zeros((0, 2, 2)), np.full((1, 1, 1), -1)])
def test_what_are_no_counts_per_image_is_refused(counts):
    for work in (resample, leave_one_out):
        with pytest.raises(ValueError, match="non-negative"):
            work(counts, PROTOCOL)


# --- Intervals -----------------------------------------------------------------------------------


def test_a_bias_is_taken_off_and_the_variance_is_the_mean_of_bootstrap_and_jackknife():
    values = np.array([3.0, 5.0, 10.0])
    drawn = values[np.array(list(itertools.product(range(3), repeat=3)))].mean(axis=1)  # every resample
    left_out = np.array([7.5, 6.5, 4.0])
    found = estimate(6.0, drawn + 0.25, left_out)
    assert found.value == pytest.approx(6.0 - 0.25)
    plug_in, unbiased = values.var() / 3, values.var(ddof=1) / 3  # known, for a mean
    assert found.variance == pytest.approx((plug_in * 27 / 26 + unbiased) / 2)


def test_the_accuracy_of_one_cluster_per_class_has_the_interval_of_a_mean():
    # Two classes that are never confused with equal images: the accuracy is a mean over images.
    rng = np.random.default_rng(0)
    right = rng.integers(600, 1000, 200)
    counts = np.zeros((200, 2, 2), dtype=np.int64)
    counts[:, 0, 0], counts[:, 1, 0], counts[:, 1, 1] = right, 1000 - right, 500
    found = image_interval([counts], PROTOCOL, "accuracy", resamples=4000)
    shares = 100 * (right + 500) / 1500
    expected = scipy.stats.t.interval(0.95, 199, shares.mean(), scipy.stats.sem(shares))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.05)


def test_seeds_that_are_copies_change_no_interval_over_images():
    (counts,) = simulated(0, 60)
    one, three = (image_interval([counts] * n, PROTOCOL, "miou", resamples=100) for n in (1, 3))
    assert (three.low, three.high) == pytest.approx((one.low, one.high))


@few
@given(seed=seeds, resamples=st.integers(20, 40))
def test_intervals_lie_within_what_a_score_can_be(seed, resamples):
    counts = [some_counts(seed), some_counts(seed + 1)]
    for metric in ("accuracy", "miou"):
        found = image_interval(counts, PROTOCOL, metric, resamples=resamples)
        assert 0 <= found.low <= found.high <= 100


def test_four_times_the_images_halve_the_width():
    widths = {}
    for images in (100, 400):
        bounds = [
            image_interval(simulated(seed, images), PROTOCOL, "miou", resamples=100) for seed in range(8)
        ]
        widths[images] = np.mean([one.high - one.low for one in bounds])
    assert widths[100] / widths[400] == pytest.approx(2, rel=0.2)


def test_intervals_over_images_cover_where_percentiles_do_not():
    world = population(20_000)
    held = {"ours": 0, "percentile": 0}
    for trial in range(100):
        rng = np.random.default_rng([trial, 9])
        method = SimulatedMethod.draw(rng, skill=0.3)
        truth = 100 * method.truth(world, PROTOCOL).accuracy
        counts = method.counts(Images.draw(100, rng), rng)
        found = image_interval([counts], PROTOCOL, "accuracy", resamples=100, seed=trial)
        held["ours"] += found.low <= truth <= found.high
        low, high = 100 * np.quantile(
            resample(counts, PROTOCOL, resamples=100, seed=trial).accuracy, [0.025, 0.975]
        )
        held["percentile"] += low <= truth <= high
    assert held["ours"] >= 88  # of 100; 95 is nominal, and fewer than 88 has a chance below 1 %
    assert held["percentile"] <= 80


def test_the_interval_over_seeds_is_students():
    values = [40.0, 42.5, 47.0]
    expected = scipy.stats.t.interval(0.9, 2, np.mean(values), scipy.stats.sem(values))
    found = seed_interval(values, level=0.9)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(expected)
    assert seed_interval([40.0]) is None


def test_too_few_images_are_said_to_be_too_few():
    counts = np.ones((40, 2, 3), dtype=np.int64)
    assert not too_few(counts, "miou")
    assert too_few(counts[:29], "accuracy")
    counts[4:, :, 2] = 0  # the last class is left in four images
    assert too_few(counts, "miou")
    assert not too_few(counts, "accuracy")
    assert image_interval([counts], PROTOCOL, "miou", resamples=10).note == "too few images"
    counts[:, :, 2] = 0  # a class that no image shows is not scored
    assert not too_few(counts, "miou")


def test_one_image_gives_no_interval():
    found = image_interval([some_counts(0, 1) + 1], PROTOCOL, "miou", resamples=10)
    assert math.isnan(found.low)
    assert found.note == "too few images"
