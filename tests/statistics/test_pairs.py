"""All pairs of one table: each as `compare` finds it, with p-values corrected for their number."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_records import write_runs

from uss_bench.results.collection import Configuration, gather, read_entries
from uss_bench.results.stated import main_settings
from uss_bench.statistics.comparing import compare
from uss_bench.statistics.pairs import pairs

SKILLS = {"alpha": 0.6, "beta": 0.55, "gamma": 0.3}


@pytest.fixture
def found(tmp_path: Path) -> list[Configuration]:
    for index, (method, skill) in enumerate(SKILLS.items()):
        write_runs(tmp_path, method, skill, seeds=(2 * index, 2 * index + 1))
    return gather(read_entries([tmp_path])[0])


def test_every_pair_is_as_compare_finds_it_but_for_the_correction(found):
    matrix = pairs(found, "crf", resamples=200)
    assert [one.label for one in matrix.configurations] == ["alpha", "beta", "gamma"]
    alone = {}
    for i, j in matrix.found:
        counts = [matrix.configurations[place].counts("crf") for place in (i, j)]
        one = compare(*counts, found[0].records[0].protocol, resamples=200).miou
        alone[i, j] = one.p_value
        assert matrix.found[i, j]["miou"].value == pytest.approx(one.value)
        assert matrix.found[i, j]["miou"].interval == one.interval
    least = 0.0
    for rank, (place, p_value) in enumerate(sorted(alone.items(), key=lambda item: item[1])):
        least = min(1.0, max(least, (len(alone) - rank) * p_value))
        assert matrix.found[place]["miou"].p_value == pytest.approx(least)


def test_a_difference_turned_round_has_the_other_sign_and_verdict(found):
    matrix = pairs(found, "crf", resamples=50)
    there, back = matrix.difference(0, 2, "miou"), matrix.difference(2, 0, "miou")
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert back.value == -there.value
    assert (back.interval.low, back.interval.high) == (-there.interval.high, -there.interval.low)
    assert matrix.means[0]["miou"] - matrix.means[2]["miou"] == pytest.approx(there.value)


def test_the_stated_setting_is_chosen_whatever_it_scores(tmp_path):
    for tau, skill in ((0.1, 0.3), (0.2, 0.9), (0.3, 0.5)):
        write_runs(tmp_path, "alpha", skill, params={"tau": tau}, seeds=(0,))
    found = gather(read_entries([tmp_path])[0])
    for due in (0.1, 0.2, 0.3):
        (main,) = main_settings(found, lambda record, due=due: {"tau": due})
        assert main.cell.method.params == {"tau": due}
