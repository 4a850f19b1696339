"""Habits: which records price them, and differences that are paired by images and by seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from board_records import FLOORS, write_runs
from scipy import stats

from uss_bench.audit.habits import HABITS, Habit, prices
from uss_bench.audit.pairs import find_pairs, pairs_of
from uss_bench.cli.output.habits import habits_text
from uss_bench.protocol import TrainingGeometry
from uss_bench.results.collection import gather, read_entries
from uss_bench.results.differences import Change
from uss_bench.statistics.comparing import compare, difference
from uss_bench.statistics.sampling import Sampling

BY_FIELD = {one.changes[0].field: one for one in HABITS}
FIVE = TrainingGeometry(crops="five")


def configurations_in(folder):
    entries, broken = read_entries([folder])
    assert not broken
    return gather(entries)


def priced(folder, habit: Habit):
    return prices(habit, configurations_in(folder), lambda record: {}, FLOORS)


# --- The difference ------------------------------------------------------------------------------


def sampling(scores: list[float], drawn: list[float], left_out: list[float]) -> Sampling:
    columns = (np.tile(np.array(one)[:, None], (1, 3)) for one in (scores, drawn, left_out))
    return Sampling(*columns, few=frozenset())


@pytest.mark.parametrize("same_seeds", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.9])
def test_a_difference_is_the_sum_of_two_variances_with_satterthwaites_freedom(same_seeds, share):
    a = sampling([0.50, 0.55, 0.57], [0.50, 0.53, 0.56, 0.58], [0.53, 0.54, 0.55, 0.54, 0.54])
    b = sampling([0.40, 0.44, 0.49], [0.41, 0.45, 0.44, 0.47], [0.44, 0.45, 0.43, 0.44, 0.44])
    found = difference(a, b, "accuracy", share=share, same_seeds=same_seeds)
    mean = [sum(one.scores[:, 0]) / 3 for one in (a, b)]
    value = mean[0] - share * mean[1]
    drawn, left = (x[:, 0] - share * y[:, 0] for x, y in ((a.drawn, b.drawn), (a.left_out, b.left_out)))
    images = (drawn.var(ddof=1) + 4 * left.var()) / 2
    if same_seeds:
        parts = [(images, 4), ((a.scores - share * b.scores)[:, 0].var(ddof=1) / 3, 2)]
    else:
        own = [one.scores[:, 0].var(ddof=1) / 3 for one in (a, b)]
        parts = [(images, 4), (own[0], 2), (share**2 * own[1], 2)]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / k for part, k in parts)
    center, reach = 2 * value - drawn.mean(), stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert found.value == pytest.approx(100 * value)
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (100 * (center - reach), 100 * (center + reach))
    )


def test_paired_seeds_need_as_many_on_both_sides():
    a, b = (sampling([0.5] * n, [0.5, 0.6], [0.5, 0.6]) for n in (2, 3))
    with pytest.raises(ValueError, match="2 and 3 seeds"):
        difference(a, b, "miou", same_seeds=True)


def test_seeds_that_move_both_sides_alike_leave_a_habit_certain_and_two_methods_not():
    a = sampling([0.30, 0.50, 0.70], [0.50, 0.51, 0.49], [0.50, 0.50, 0.51])
    b = sampling([0.28, 0.48, 0.68], [0.48, 0.49, 0.47], [0.48, 0.48, 0.49])
    assert difference(a, b, "accuracy", same_seeds=True).verdict == "better"
    assert difference(a, b, "accuracy").verdict == "tied"


# --- Which records -------------------------------------------------------------------------------


def test_a_checkpoint_that_labels_choose_is_priced_on_counts_per_method_and_by_its_own_rule(tmp_path):
    write_runs(tmp_path, "stego", 0.5, selected_skill=0.7)
    write_runs(tmp_path, "stego", 0.6, selected_skill=0.7, params={"dim": 9, "steps": 3})
    write_runs(tmp_path, "random", 0.1, selected_skill=0.2, backbone="none")
    write_runs(tmp_path, "hp", 0.5)
    (one,) = priced(tmp_path, BY_FIELD["checkpoint"])
    assert one.configuration.cell.method.params == {}, "the one at its stated setting"
    counts = [one.configuration.counts("crf", which) for which in ("selected", "last")]
    sides = [Sampling.of(each, one.configuration.records[0].protocol) for each in counts]
    assert one.gained["miou"] == difference(*sides, "miou", same_seeds=True)
    assert one.gained["miou"].value == pytest.approx(
        compare(*counts, one.configuration.records[0].protocol).miou.value
    )
    assert one.gained["miou"].verdict == "better"


def test_extra_clusters_are_priced_where_there_are_some(tmp_path):
    write_runs(tmp_path, "dino", 0.5, clusters=3)
    write_runs(tmp_path, "dino", 0.5, clusters=5, params={"clusters": 5})
    (one,) = priced(tmp_path, BY_FIELD["extra_clusters"])
    assert one.configuration.records[0].clusters == 5
    assert one.gained["accuracy"].verdict == "better"


@pytest.mark.parametrize(
    ("field", "without", "done"),
    [
        ("resize", {"protocol": "stego320@2[resize=bilinear]"}, {}),
        ("flip", {"protocol": "stego320@2[flip=false]"}, {}),
        ("crf.channels", {}, {"protocol": "stego320@2[crf.channels=bgr,crf.truncate=true]"}),
        ("training.resize", {"training": TrainingGeometry(resize="bilinear")}, {}),
        (
            "training.crop_jpeg",
            {"training": FIVE},
            {"training": TrainingGeometry(crops="five", crop_jpeg=True)},
        ),
        (
            "parameter.neighbor_dropout",
            {"params": {"neighbor_dropout": False}},
            {"params": {"neighbor_dropout": True}},
        ),
    ],
)
def test_other_habits_take_two_records_that_differ_in_them_alone(tmp_path, field, without, done):
    write_runs(tmp_path, "stego", 0.4, seeds=(0, 1, 2, 3), **without)
    write_runs(tmp_path, "stego", 0.6, **done)
    write_runs(tmp_path, "hp", 0.4, **without)
    write_runs(tmp_path, "hp", 0.4, dataset="village", fingerprint="f1", **done)
    (one,) = priced(tmp_path, BY_FIELD[field])
    assert one.configuration.seeds == (0, 1, 2)
    assert one.gained["miou"].verdict == "better", "in the direction of the habit"
    for other in HABITS[1:]:
        if other is not BY_FIELD[field]:
            assert not priced(tmp_path, other)


def test_half_of_a_habit_of_two_fields_is_not_the_habit(tmp_path):
    write_runs(tmp_path, "stego", 0.4)
    write_runs(tmp_path, "stego", 0.6, protocol="stego320@2[crf.channels=bgr]")
    assert not priced(tmp_path, BY_FIELD["crf.channels"])
    found = configurations_in(tmp_path)
    ((first, second),) = pairs_of(found, [Change("crf.channels", "rgb", "bgr")])
    assert (first.cell.protocol, second.cell.protocol) == ("stego320@2", "stego320@2[crf.channels=bgr]")
    assert [one.change.field for one in find_pairs(found)] == ["crf.channels"]


def test_the_page_says_what_was_not_measured_and_gives_each_price_its_interval(tmp_path, command):
    write_runs(tmp_path, "stego", 0.4, protocol="stego320@2[flip=false]")
    write_runs(tmp_path, "stego", 0.6)
    said = command("audit", "habits", "--records", tmp_path, "--format", "md")
    assert said.code == 0, said.err
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.out.splitlines() if "|" in line]
    summary = {row[0]: row for row in rows[2 : 2 + len(HABITS)]}
    assert [row[2] for row in summary.values()].count("not measured yet") == len(HABITS) - 1
    (one,) = priced(tmp_path, BY_FIELD["flip"])
    gained = one.gained["miou"]
    assert summary[BY_FIELD["flip"].title][3].startswith(f"{gained.value:+.1f} (")
    interval = f"({gained.interval.low:+.1f} to {gained.interval.high:+.1f})"
    assert rows[-1] == ["STEGO", "town · vit", "3", rows[-1][3], f"{gained.value:+.1f} {interval}", "gains"]
    assert command("audit", "habits", "--records", tmp_path / "none").code == 2
    empty = habits_text(dict.fromkeys(HABITS, ()), {})
    assert empty.count("not measured yet") == 2 * len(HABITS)
