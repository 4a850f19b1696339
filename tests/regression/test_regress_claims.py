"""Records against claims: what fails, what is known, and what cannot be compared."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from uss_bench.claims import Claim, ClaimCheck
from uss_bench.cli.output.regress import claims_report
from uss_bench.errors import DataError
from uss_bench.regression.claims import Known, judge, outdated, read_known

CLAIM = Claim(
    paper="smooseg",
    table="Table 3",
    label="SmooSeg",
    method="smooseg",
    source="own",
    dataset="potsdam3",
    accuracy=82.7,
    miou=70.3,
)
KNOWN = Known(paper="smooseg", method="smooseg", dataset="potsdam3", status="lower", reason="other weights")


def check(status: Any, metric: Any = "accuracy", values: tuple[float, ...] = (80.0, 81.0)) -> ClaimCheck:
    setting: Any = SimpleNamespace(label="smooseg (steps=300)")
    return ClaimCheck(setting, CLAIM, metric, "crf", "last", values, status, "a; b; c; d")


@pytest.mark.parametrize(
    ("status", "news"),
    [("lower", True), ("higher", True), ("reproduced", False), ("protocol differs", False), ("n/a", False)],
)
def test_only_a_deviation_under_the_claims_own_protocol_is_news(status, news):
    assert [one.is_news for one in judge([check(status)], [])] == [news]


@pytest.mark.parametrize(
    ("changes", "covered"),
    [
        ({}, True),
        ({"table": "Table 3", "metric": "accuracy"}, True),
        ({"table": "Table 1"}, False),
        ({"metric": "miou"}, False),
        ({"status": "higher"}, False),
        ({"dataset": "toy3"}, False),
        ({"paper": "ds2dl"}, False),
    ],
)
def test_a_known_deviation_covers_what_it_names_and_nothing_else(changes, covered):
    known = [Known(**{**msgspec.structs.asdict(KNOWN), **changes})]
    judged = judge([check("lower")], known)
    assert [one.is_news for one in judged] == [not covered]
    assert outdated(judged, known) == ([] if covered else known)


def test_the_report_keeps_what_cannot_be_compared_apart_with_both_metrics_in_a_row():
    checks = [check("lower"), check("protocol differs"), check("protocol differs", "miou", (61.0,))]
    checks[2] = dataclasses.replace(checks[2], configuration=checks[1].configuration)
    report = claims_report(judge(checks, [KNOWN]), [])
    compared, apart = report.split("Not comparable")
    assert "known: lower" in compared
    assert "other weights" in compared
    (row,) = [line for line in apart.splitlines() if "potsdam3" in line]
    assert "80.5 ± 0.7 | 82.7" in row
    assert "61.0 | 70.3" in row
    assert "and 2 more" in apart


def test_a_report_without_anything_comparable_says_so():
    assert "no claim can be checked" in claims_report(judge([check("protocol differs")], []), [])


def test_a_deviation_that_is_gone_is_to_be_taken_out():
    judged = judge([check("reproduced")], [KNOWN])
    assert "Take it out" in claims_report(judged, outdated(judged, [KNOWN]))


def test_the_ledger_of_known_deviations_is_read_and_a_wrong_one_is_an_error(tmp_path):
    path = tmp_path / "known.toml"
    with pytest.raises(DataError, match="does not exist"):
        read_known(path)
    path.write_text(
        '[[known]]\npaper = "smooseg"\nmethod = "smooseg"\ndataset = "potsdam3"\nstatus = "lower"\n'
        'reason = "other weights"\n'
    )
    assert read_known(path) == [KNOWN]
    path.write_text('[[known]]\npaper = "smooseg"\nstatus = "worse"\n')
    with pytest.raises(DataError, match=r"known\.toml"):
        read_known(path)


@pytest.fixture
def claims(command, monkeypatch, tmp_path):
    """Run the command on given checks, as if records had led to them."""

    def claims(*checks: ClaimCheck):
        monkeypatch.setattr("uss_bench.results.collection.read_entries", lambda folders: ([object()], []))
        monkeypatch.setattr("uss_bench.results.collection.gather", lambda entries: [])
        monkeypatch.setattr("uss_bench.claims.check_claims", lambda settings: list(checks))
        (tmp_path / "known.toml").write_text("known = []")
        return command("regress", "claims", "--known", tmp_path / "known.toml")

    return claims


def test_the_command_exits_with_3_for_news_and_names_it(claims):
    said = claims(check("lower"), check("protocol differs"))
    assert said.code == 3
    assert "smooseg (steps=300) on potsdam3 is lower than smooseg, Table 3: Acc 80.5 ± 0.7" in said.err
    assert "known.toml" in said.err


def test_the_command_exits_with_0_when_nothing_is_news(claims):
    assert claims(check("reproduced"), check("protocol differs"), check("n/a")).code == 0


def test_a_folder_without_records_is_named(command, tmp_path):
    said = command("regress", "claims", "--records", tmp_path)
    assert said.code == 1
    assert str(tmp_path) in said.err
