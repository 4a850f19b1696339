"""Statistics: resamples against repeated images, properties, and small simulations with known truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from uss_bench.protocol import Protocol, get_protocol
from uss_bench.scoring import score_under
from uss_bench.statistics import resampling
from uss_bench.statistics.comparing import Difference, _holm, compare, rank_tiers
from uss_bench.statistics.intervals import Interval, image_interval, seed_interval
from uss_bench.statistics.power import needed
from uss_bench.statistics.resampling import Resampled, leave_one_out, resample
from uss_bench.statistics.sampling import estimate, too_few
from uss_bench.statistics.simulation import Images, SimulatedMethod, population

PROTOCOL = get_protocol("stego320@1")
RULES = [
    replace(PROTOCOL, matching=matching, extra_clusters=extra, absent_classes=absent)
    for matching, extra, absent in itertools.product(
        ("hungarian", "many-to-one"), ("strict", "drop", "merge"), ("skip-empty-union", "zero")
    )
]
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def some_counts(seed: int, images: int = 12, clusters: int = 5, classes: int = 4) -> np.ndarray:
    """Counts of images that show few classes each; class 0 may be in none."""
    rng = np.random.default_rng(seed)
    shown = rng.random((images, 1, classes)) < 0.4
    return rng.integers(0, 500, (images, clusters, classes)) * shown


def simulated(seed: int, images: int, methods: int = 1, *, skill: float = 0.4) -> list[np.ndarray]:
    """Counts of methods of one kind on the same images."""
    rng = np.random.default_rng(seed)
    seen = Images.draw(images, rng)
    return [SimulatedMethod.draw(rng, skill=skill).counts(seen, rng) for _ in range(methods)]


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


# --- Comparing -----------------------------------------------------------------------------------


def test_identical_inputs_are_tied_with_no_difference():
    side = simulated(1, 60, 3)
    found = compare(side, side, PROTOCOL, resamples=50)
    for one in (found.accuracy, found.miou, *found.per_class):
        assert one is not None
        assert (one.value, one.p_value, one.verdict) == (0, 1, "tied")
        assert one.interval.low <= 0 <= one.interval.high
    assert (found.images, found.seeds) == (60, (3, 3))


def test_a_difference_is_of_means_over_seeds_and_turns_with_the_sides():
    a, b = simulated(2, 60, 2), simulated(2, 60, 3)[1:]
    there, back = compare(a, b, PROTOCOL, resamples=50), compare(b, a, PROTOCOL, resamples=50)
    means = [np.mean([score_under(one, PROTOCOL).miou for one in side]) for side in (a, b)]
    assert there.miou.value == pytest.approx(100 * (means[0] - means[1]))
    for one, other in [(there.miou, back.miou), *zip(there.per_class, back.per_class, strict=True)]:
        assert one is not None
        assert other is not None
        assert one.value == pytest.approx(-other.value)
        assert one.p_value == pytest.approx(other.p_value)
        assert one.interval.low == pytest.approx(-other.interval.high)


def test_the_variance_adds_welchs_over_seeds_to_that_of_paired_images():
    a, b = simulated(3, 60, 3), simulated(4, 60, 2)
    found = compare(a, b, PROTOCOL, resamples=50, seed=7).miou
    scores = [[100 * score_under(one, PROTOCOL).miou for one in side] for side in (a, b)]
    by_seeds = [np.var(side, ddof=1) / len(side) for side in scores]
    drawn, left = (
        np.mean([work(one).miou for one in a], axis=0) - np.mean([work(one).miou for one in b], axis=0)
        for work in (
            lambda one: resample(one, PROTOCOL, resamples=50, seed=7),
            lambda one: leave_one_out(one, PROTOCOL),
        )
    )
    by_images = 1e4 * (drawn.var(ddof=1) + 59 * left.var()) / 2
    assert found.error_of_images == pytest.approx(by_images**0.5)
    assert found.error_of_seeds == pytest.approx(sum(by_seeds) ** 0.5)
    variance = by_images + sum(by_seeds)
    freedom = variance**2 / (by_images**2 / 59 + by_seeds[0] ** 2 / 2 + by_seeds[1] ** 2 / 1)
    centre = 2 * found.value - 100 * drawn.mean()
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(abs(centre) / variance**0.5, freedom))
    reach = scipy.stats.t.ppf(0.975, freedom) * variance**0.5
    assert (found.interval.low, found.interval.high) == pytest.approx((centre - reach, centre + reach))


def test_what_is_plainly_better_is_found_better_and_what_is_plainly_worse_worse():
    (good,), (bad,) = simulated(5, 200, skill=0.8), simulated(5, 200, skill=0.2)
    assert compare([good], [bad], PROTOCOL, resamples=100).miou.verdict == "better"
    assert compare([bad], [good], PROTOCOL, resamples=100).miou.verdict == "worse"


def test_a_class_without_iou_has_no_difference_and_is_told_of():
    counts = some_counts(6, 40, 4, 4) + 1
    counts[:, :, 3] = 0
    counts[:, 3] = 0
    found = compare([counts], [counts], PROTOCOL, resamples=20)
    assert [one is None for one in found.per_class] == [False, False, False, True]
    assert any("no image shows: 1 of 4" in note for note in found.notes)
    assert any("one seed" in note for note in found.notes)


HOLM = [(1.0, 0.01), (2.0, 0.04), (3.0, 0.03), (4.0, 0.0125)]
"""Four tests; by hand: 4 × 0.01, 3 × 0.0125 raised to it, 2 × 0.03, and 0.04 raised to that."""


def test_p_values_of_classes_are_holms():
    tests = [Difference(value, Interval(0, 1), p, "better") for value, p in HOLM]
    found = _holm([tests[0], None, *tests[1:]], 0.95)
    assert found[1] is None
    assert [one.p_value for one in found if one] == pytest.approx([0.04, 0.06, 0.06, 0.04])
    assert [one.verdict for one in found if one] == ["better", "tied", "tied", "better"]


@pytest.mark.parametrize("other", [(11, 5, 4), (12, 5, 3)])
def test_other_images_or_classes_are_refused(other):
    with pytest.raises(ValueError, match="differ in images or classes"):
        compare([some_counts(0)], [some_counts(0, *other)], PROTOCOL)
    with pytest.raises(ValueError, match="seeds of the same images"):
        compare([some_counts(0), some_counts(0, 12, 6)], [some_counts(0)], PROTOCOL)


def test_the_clusters_may_differ():
    found = compare([some_counts(0, 40)], [some_counts(0, 40, 9)], PROTOCOL, resamples=20)
    assert not math.isnan(found.miou.value)


def trained(method: SimulatedMethod, images: Images, rng: np.random.Generator) -> list[np.ndarray]:
    return [method.retrained(rng, 0.1).counts(images, rng) for _ in range(3)]


def test_equals_are_told_apart_about_as_rarely_as_said():
    told = {"paired, both": 0, "images only": 0}
    for trial in range(40):
        rng = np.random.default_rng([trial, 4])
        method, images = SimulatedMethod.draw(rng, skill=0.4), Images.draw(100, rng)
        a, b = trained(method, images, rng), trained(method, images, rng)
        found = compare(a, b, PROTOCOL, resamples=60).miou
        told["paired, both"] += found.verdict != "tied"
        told["images only"] += abs(found.value) > 1.96 * found.error_of_images
    assert told["paired, both"] <= 6  # of 40; 2 are nominal, and more than 6 have a chance below 1 %
    assert told["images only"] >= 8


def test_more_images_find_a_difference_more_often():
    found = {}
    for images in (50, 200, 600):
        verdicts = []
        for trial in range(10):
            rng = np.random.default_rng([trial, 5])
            better = SimulatedMethod.draw(rng, skill=0.5)
            worse = better.towards(np.full((27, 27), 1 / 27), 0.08)
            seen = Images.draw(images, rng)
            sides = [[one.counts(seen, rng)] for one in (better, worse)]
            verdicts.append(compare(*sides, PROTOCOL, resamples=60).miou.verdict)
        assert "worse" not in verdicts
        found[images] = verdicts.count("better")
    assert found[50] < found[200] < found[600]


# --- Tiers ---------------------------------------------------------------------------------------


def test_tiers_put_copies_together_and_the_plainly_worse_below():
    (good,), (bad,), (floor,) = (simulated(8, 150, skill=skill) for skill in (0.9, 0.4, 0.05))
    assert rank_tiers([[bad], [good], [good], [floor]], PROTOCOL, resamples=50) == [2, 1, 1, 3]
    assert rank_tiers([[bad]], PROTOCOL, resamples=10) == [1]
    assert rank_tiers([], PROTOCOL) == []


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 3, 0, 2)])
def test_the_order_of_settings_changes_no_tier(order):
    sides = [simulated(9, 60, 2, skill=skill) for skill in (0.1, 0.4, 0.45, 0.8)]
    tiers = rank_tiers(sides, PROTOCOL, "accuracy", resamples=10)
    assert rank_tiers([sides[i] for i in order], PROTOCOL, "accuracy", resamples=10) == [
        tiers[i] for i in order
    ]


# --- Power ---------------------------------------------------------------------------------------


def tied(value: float, images: float, seeds: float) -> Difference:
    reach = 2 * math.hypot(images, seeds)
    return Difference(value, Interval(value - reach, value + reach), 0.5, "tied", images, seeds)


def test_what_is_needed_gives_the_said_power():
    found = needed(tied(1.0, 0.6, 0.2), 100, (3, 3))
    assert found is not None
    assert found.images is not None
    error = math.sqrt(0.6**2 * 100 / found.images + 0.2**2)
    assert scipy.stats.norm.sf(1.96 - 1.0 / error) == pytest.approx(0.8, abs=0.005)
    assert found.seeds is None  # the images alone leave 0.6 open, and 0.36 are allowed


def test_one_seed_hides_what_seeds_do_and_more_is_more_than_there_is():
    found = needed(tied(1.0, 0.4, 0.0), 100, (1, 1))
    assert found is not None
    assert found.seeds is None
    assert found.images == math.ceil(100 * 0.16 * (1.959964 + 0.841621) ** 2)
    close = needed(tied(5.0, 1.0, 1.0), 100, (3, 3))
    assert close is not None
    assert (close.images, close.seeds) == (101, 4)


def test_nothing_is_needed_for_a_verdict_nor_for_no_difference():
    assert needed(tied(0.0, 1.0, 1.0), 100, (3, 3)) is None
    decided = Difference(9.0, Interval(8.0, 10.0), 0.001, "better", 0.3, 0.3)
    assert needed(decided, 100, (3, 3)) is None
