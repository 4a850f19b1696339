"""Methods look alike in every figure, and 30 of them can be told apart."""

from __future__ import annotations

from pathlib import Path

from board_records import write_runs

from uss_bench.plots.looks import look, looks
from uss_bench.results.collection import called, gather, read_entries


def test_thirty_methods_and_their_settings_can_be_told_apart():
    assert len({look(place) for place in range(30)}) == 30
    assert len({(one.color, one.marker) for one in map(look, range(30))}) == 30
    settings = [look(3, setting) for setting in range(4)]
    assert len(set(settings)) == 4


def test_a_method_keeps_its_look_whatever_else_is_drawn(tmp_path: Path):
    for tau in (0.1, 0.2):
        write_runs(tmp_path, "beta", params={"tau": tau}, seeds=(0,))
    write_runs(tmp_path, "alpha", seeds=(0,))
    titles = {"alpha": "ALPHA", "beta": "Beta on {backbone}", "gamma": "Gamma"}
    alpha, first, second = called(gather(read_entries([tmp_path])[0]), titles)
    assert [one.name for one in (alpha, first, second)] == [
        "ALPHA",
        "Beta on vit (tau=0.1)",
        "Beta on vit (tau=0.2)",
    ]
    together = looks([alpha, first, second])
    assert looks([first]) == [together[1]] == [look(1)]
    assert together[2] == look(1, 1)
    assert together[0] == look(0)


def test_a_setting_may_have_a_name_of_its_own(tmp_path: Path):
    for tau in (0.1, 0.2):
        write_runs(tmp_path, "beta", params={"tau": tau}, seeds=(0,))
    titles = {"beta": "Beta", "beta (tau=0.2)": "Beta, warm"}
    found = called(gather(read_entries([tmp_path])[0]), titles)
    assert [one.name for one in found] == ["Beta (tau=0.1)", "Beta, warm"]
