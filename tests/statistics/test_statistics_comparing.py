"""Comparisons, tiers and power: against formulas written out, and on simulated methods of known skill."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from simulated_counts import PROTOCOL, simulated, some_counts
from simulation import Images, SimulatedMethod

from uss_bench.evaluation.scoring import score_under
from uss_bench.statistics.comparing import Difference, _holm, compare, rank_tiers
from uss_bench.statistics.intervals import Interval
from uss_bench.statistics.power import needed
from uss_bench.statistics.resampling import leave_one_out, resample

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
    center = 2 * found.value - 100 * drawn.mean()
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(abs(center) / variance**0.5, freedom))
    reach = scipy.stats.t.ppf(0.975, freedom) * variance**0.5
    assert (found.interval.low, found.interval.high) == pytest.approx((center - reach, center + reach))


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
