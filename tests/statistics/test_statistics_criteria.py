"""Choosing settings without labels, and judging such choices by labels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from uss_bench.results.collection import Configuration, gather, read_entries
from uss_bench.statistics.criteria import (
    COMBINED,
    CRITERIA,
    Reading,
    choose,
    judge,
    read_setting,
    seeds_agree,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[Configuration]:
    """Three settings of `dino` with two seeds each on toy3, as configurations."""
    from click.testing import CliRunner

    from uss_bench.cli import cli

    out = tmp_path_factory.mktemp("tuned")
    arguments = ["tune", "dino", "--dataset", "toy3", "--backbone", "patchstats", "--limit", "6"]
    arguments += [
        "--try",
        "steps=1,4,30",
        "--set",
        "batch_size=2",
        "--seeds",
        "2",
        "--out",
        str(out),
        "--quiet",
    ]
    arguments += ["--protocol", "stego320@2[eval_side=96]", "--training", "side=96"]
    answer = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    entries, broken = read_entries([out])
    assert not broken
    return gather(entries)


def agreement_by_loops(one: np.ndarray, other: np.ndarray, clusters: int) -> float:
    """The best share of equal pixels over all permutations of the clusters."""
    from itertools import permutations

    return max(np.mean(np.array(order)[one] == other) for order in permutations(range(clusters)))


def test_agreement_of_seeds_is_the_best_over_all_renamings(settings):
    for setting in settings:
        a, b = setting.entries
        maps = [np.concatenate([m.ravel() for m in e.arrays.maps["last", "raw"]]) for e in (a, b)]
        assert seeds_agree(a, b) == pytest.approx(agreement_by_loops(*maps, setting.records[0].clusters))
        assert seeds_agree(a, a) == 1


def test_a_setting_is_read_off_its_records(settings):
    for setting in settings:
        values = read_setting(setting).values
        assert values.keys() == CRITERIA.keys()
        records = setting.records
        assert values["views"] == pytest.approx(np.mean([one.criteria.views for one in records]))
        assert values["balance"] == pytest.approx(np.mean([one.criteria.balance for one in records]))


def reading(label: str, **values: float) -> Reading:
    return Reading(Configuration((), label), values)


def test_each_criterion_prefers_its_largest_and_together_the_best_mean_rank():
    readings = [
        reading("a", seeds=0.9, views=0.5, balance=0.7, silhouette=0.1),
        reading("b", seeds=0.8, views=0.9, balance=0.8, silhouette=0.2),
        reading("c", seeds=0.1, views=0.6, balance=0.9, silhouette=0.0),
    ]
    chosen = {name: choose(readings, name).configuration.label for name in (*CRITERIA, COMBINED)}
    assert chosen == {"seeds": "a", "views": "b", "balance": "c", "silhouette": "b", COMBINED: "b"}


def test_what_some_setting_lacks_chooses_nothing_and_is_left_out_of_the_ranks():
    readings = [reading("a", views=0.9, balance=0.1), reading("b", balance=0.2)]
    assert choose(readings, "views") is None
    assert choose(readings, "seeds") is None
    assert choose(readings, COMBINED).configuration.label == "b"
    assert choose([reading("a"), reading("b")], COMBINED) is None


def test_choices_are_judged_by_the_scores_of_their_settings(settings):
    choices = judge(settings)
    assert [one.criterion for one in choices] == [*CRITERIA, COMBINED]
    scores = {one.label: np.mean([r.last.crf.miou for r in one.records]) for one in settings}
    for one in choices:
        own = scores[one.chosen.configuration.label]
        assert one.gain == pytest.approx(own - np.mean(list(scores.values())))
        assert one.loss == pytest.approx(max(scores.values()) - own)
        assert -1 <= one.correlation <= 1
    assert judge(settings[:2]) == []


def test_older_records_are_read_and_judge_nothing(settings, tmp_path):
    for setting in settings:
        for entry in setting.entries:
            for file in entry.path.parent.glob(f"{entry.path.stem}.*"):
                (tmp_path / file.name).write_bytes(file.read_bytes())
            kept = json.loads(entry.path.read_text())
            del kept["criteria"]
            (tmp_path / entry.path.name).write_text(json.dumps(kept))
    entries, broken = read_entries([tmp_path])
    assert (len(entries), broken) == (6, [])
    assert all(entry.record.criteria is None for entry in entries)
    assert judge(gather(entries)) == []
    assert read_setting(gather(entries)[0]).values.keys() == {"seeds"}
