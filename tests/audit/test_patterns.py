"""Ablations against the pattern in print: read off the ledger, and judged on planted records."""

from __future__ import annotations

import pytest
from board_records import write_runs

from uss_bench.audit.patterns import DEEP, printed_removals, readings
from uss_bench.claims import load_claims
from uss_bench.cli.output.patterns import readings_text
from uss_bench.experiment.studies import known_studies
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import gather, read_entries
from uss_bench.statistics.comparing import compare

REMOVALS = printed_removals(load_claims(), "ds2dl", "Table 2")
WEIGHTS = {name: 1.0 for one in REMOVALS for name in one.params}
SETTINGS = {"frozen": {"similarity": "frozen"}, "learned": {"similarity": "learned"}}
DEFAULTS = {**WEIGHTS, "similarity": "frozen"}


def test_the_ledger_has_the_papers_pattern():
    assert [(*one.params, round(one.points, 1), one.deep) for one in REMOVALS] == [
        ("weight_orth", 0.3, False),
        ("weight_data", 0.8, False),
        ("weight_l2g", 1.6, False),
        ("weight_cross", 29.0, True),
        ("weight_intra", 52.1, True),
    ]
    with pytest.raises(ValueError, match="no accuracy of the full method"):
        printed_removals(load_claims(), "ds2dl", "Table 99")


def test_the_studies_are_what_the_ledger_prints_and_eight_readings_at_most():
    studies = known_studies(Registry())
    rows = {tuple(row.params.items()) for row in studies["ds2dl-table2"].plan.settings if row.params}
    assert rows == {tuple(one.params.items()) for one in REMOVALS}
    plan = studies["ds2dl-readings"].plan
    assert len(plan.settings) <= 8
    bases = [plan.rows[0].params, plan.rows[3].params]
    for row in plan.rows:
        assert row.params.keys() == plan.varied
        assert min(sum(row.params[name] != base[name] for name in base) for base in bases) <= 1


def write_ablation(folder, skills: dict[str, float], full: float = 0.8, **params) -> None:
    """Write the full method, and each row with its skill; every row has seeds of its own."""
    write_runs(folder, "ds2dl", full, params={**WEIGHTS, "steps": 5, **params})
    for name, skill in skills.items():
        write_runs(folder, "ds2dl", skill, params={**WEIGHTS, "steps": 5, **params, name: 0.0})


PAPERS = {"weight_orth": 0.8, "weight_data": 0.8, "weight_l2g": 0.8, "weight_cross": 0.5, "weight_intra": 0.2}


def read(folder):
    configurations = gather(read_entries([folder])[0])
    return readings(configurations, "ds2dl", SETTINGS, REMOVALS, DEFAULTS)


def test_the_papers_pattern_holds_and_its_reverse_does_not(tmp_path):
    write_ablation(tmp_path, PAPERS, similarity="frozen")
    write_ablation(tmp_path, {**PAPERS, "weight_l2g": 0.3}, similarity="learned")
    frozen, learned = read(tmp_path)
    assert (frozen.label, frozen.pattern, learned.pattern) == ("frozen", "holds", "does not")
    assert [one.outcome for one in learned.rows] == ["holds", "holds", "does not", "holds", "holds"]
    full, row = (
        next(c for c in gather(read_entries([tmp_path])[0]) if c.cell.method.params == wanted)
        for wanted in (
            {**WEIGHTS, "steps": 5, "similarity": "frozen"},
            {**WEIGHTS, "steps": 5, "similarity": "frozen", "weight_cross": 0.0},
        )
    )
    expected = compare(row.counts(), full.counts(), full.records[0].protocol).accuracy
    assert frozen.rows[3].difference == expected


@pytest.mark.parametrize(
    ("changed", "pattern", "order"),
    [
        ({"weight_intra": 0.5, "weight_cross": 0.2}, "does not", "does not"),
        ({"weight_intra": 0.5}, "cannot be told", "cannot be told"),
        ({"weight_cross": 0.8}, "does not", "holds"),
        ({"weight_intra": 0.8, "weight_cross": 0.8}, "does not", "cannot be told"),
    ],
)
def test_both_kinds_of_pairs_must_cost_much_and_those_within_images_most(tmp_path, changed, pattern, order):
    write_ablation(tmp_path, PAPERS | changed, similarity="frozen")
    (found,) = read(tmp_path)
    assert (found.pattern, found.orders) == (pattern, (order,))


def test_a_row_on_the_line_cannot_be_told(tmp_path):
    (full,) = write_runs(tmp_path / "probe", "ds2dl", 0.8, seeds=[0])
    accuracy = gather(read_entries([full.parent])[0])[0].records[0].last.crf.accuracy / 100
    # Two thirds of what is not skill misses: accuracy is about 1/3 + 2/3 skill.
    line = ((1 - DEEP) * accuracy - 1 / 3) * 3 / 2
    write_ablation(tmp_path / "runs", PAPERS | {"weight_orth": line}, similarity="frozen")
    (found,) = read(tmp_path / "runs")
    assert (found.rows[0].outcome, found.pattern) == ("cannot be told", "cannot be told")


def test_missing_rows_leave_the_pattern_open_until_one_contradicts_it(tmp_path):
    write_ablation(tmp_path, {"weight_intra": 0.2}, similarity="frozen")
    write_ablation(tmp_path, {"weight_intra": 0.8}, similarity="learned")
    write_runs(tmp_path, "ds2dl", 0.3, params={**WEIGHTS, "steps": 6, "similarity": "frozen"})
    frozen, learned = read(tmp_path)
    assert (frozen.pattern, learned.pattern) == (None, "does not")
    assert [one is None for one in frozen.rows] == [True, True, True, True, False]
    said = readings_text([*SETTINGS, "attached"], REMOVALS, [frozen, learned], markdown=True)
    row = {line.split("|")[1].strip(): line for line in said.splitlines() if line.startswith("|")}
    assert row["frozen"].count("not measured yet") == 6
    assert row["attached"].split("|")[2].strip() == "not measured yet"
    assert "contradicted in “learned”" in said
    assert "-52.1" in row["*in print*"]


def test_without_records_all_is_not_measured_yet():
    said = readings_text(SETTINGS, REMOVALS, [], markdown=True)
    assert said.count("not measured yet") == 2
    assert "No reading has been measured" in said
