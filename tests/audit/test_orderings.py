"""Orderings that papers print: read off the ledger as a reader would, and tested on planted records."""

from __future__ import annotations

import itertools

import pytest
from board_records import write_runs

from uss_bench.audit.orderings import Ordering, Printed, Side, printed_orderings
from uss_bench.audit.orderings import tested_orderings as on_records
from uss_bench.claims import load_claims
from uss_bench.claims.ledger import UNVERIFIED, Claim
from uss_bench.results.collection import gather, read_entries
from uss_bench.statistics.comparing import compare


def claim(method: str, miou: float, source: str = "cited", dataset: str = "coco", **more) -> Claim:
    given = {"paper": "p", "table": "Table 1", "label": method, "backbone": "vit", **more}
    return Claim(method=method, miou=miou, source=source, dataset=dataset, **given)


def lines(claims: list[Claim]) -> set[tuple[str, str, str, tuple[float, ...]]]:
    return {
        (one.kind, str(one.better), str(one.worse), tuple(round(p.ahead, 1) for p in one.printed))
        for one in printed_orderings(claims)
    }


def test_a_paper_ranks_its_own_method_its_ablations_and_its_crf():
    claims = [
        claim("mine", 20.0, "own"),
        claim("theirs", 18.0),
        claim("better", 21.5),
        claim("mine", 15.0, "own", variant="no pairs", params={"weight": 0.0}),
        claim("mine", 19.0, "own", crf=False),
        claim("mine", 30.0, "own", dataset="city"),
        claim("theirs", 33.0, dataset="city"),
    ]
    assert lines(claims) == {
        ("method", "theirs", "mine", (-2.0, 3.0)),
        ("method", "better", "mine", (1.5,)),
        ("ablation", "mine", "mine weight=0.0", (5.0,)),
        ("crf", "mine", "mine without CRF", (1.0,)),
    }


@pytest.mark.parametrize(
    "other",
    [
        claim("theirs", 18.0, backbone="resnet"),
        claim("theirs", 18.0, table="Table 2"),
        claim("theirs", 18.0, dataset="average"),
        claim("theirs", 18.0, variant=UNVERIFIED),
        claim("theirs", 18.0, crf=False),
    ],
    ids=["backbone", "table", "average", "memory", "unrefined"],
)
def test_what_stands_elsewhere_or_was_measured_otherwise_is_no_ordering(other):
    assert lines([claim("mine", 20.0, "own"), other]) == set()


def test_two_papers_that_print_the_same_ordering_are_counted_together():
    claims = [
        claim("a", 20.0, "own", paper="p"),
        claim("b", 18.0, paper="p"),
        claim("b", 19.0, "own", paper="q"),
        claim("a", 18.5, paper="q"),
    ]
    (one,) = printed_orderings(claims)
    assert (str(one.better), str(one.worse), one.papers) == ("a", "b", ["p", "q"])
    assert [place.ahead for place in one.printed] == pytest.approx([2.0, -0.5])


def test_the_ledger_prints_what_ds2dl_and_smooseg_claim():
    found = {(str(one.better), str(one.worse)): one for one in printed_orderings(load_claims())}
    assert min(place.ahead for place in found["ds2dl", "smooseg"].printed) == pytest.approx(1.1)
    assert [p.ahead for p in found["ds2dl", "ds2dl weight_intra=0.0"].printed] == pytest.approx([15.3])
    for one, other in itertools.combinations(found, 2):
        assert one != other[::-1]


ORDERINGS = [
    Ordering("method", Side("good"), Side("poor"), (Printed("p", "t", "d", 5.0),)),
    Ordering("method", Side("poor"), Side("good"), (Printed("p", "t", "d", 5.0),)),
    Ordering("method", Side("good"), Side("twin"), (Printed("p", "t", "d", 1.0),)),
    Ordering("ablation", Side("good"), Side("good", (("weight", 0.0),)), (Printed("p", "t", "d", 9.0),)),
    Ordering("ablation", Side("good"), Side("good", (("other", 0.0),)), (Printed("p", "t", "d", 9.0),)),
    Ordering("method", Side("good"), Side("absent"), (Printed("p", "t", "d", 9.0),)),
]


def test_records_say_what_holds_what_does_not_and_what_cannot_be_told(tmp_path):
    given = {"params": {"weight": 1.0, "dim": 8}}
    for method, skill in (("good", 0.8), ("twin", 0.8), ("poor", 0.2)):
        write_runs(tmp_path, method, skill, **given)
    write_runs(tmp_path, "good", 0.3, params={"weight": 0.0, "dim": 8})
    write_runs(tmp_path, "poor", 0.2, dataset="village", fingerprint="f1", **given)
    write_runs(tmp_path, "good", 0.8, backbone="other", sha256="bb", **given)
    configurations = gather(read_entries([tmp_path])[0])
    found = on_records(ORDERINGS, configurations, lambda record: given["params"])
    assert [(one.ordering, one.outcome) for one in found] == list(
        zip(ORDERINGS[:4], ["holds", "does not", "cannot be told", "holds"], strict=True)
    )
    here = [one for one in configurations if one.table.dataset == "town" and one.cell.backbone.name == "vit"]
    of_method = {one.cell.method.name: one for one in here if one.cell.method.params == given["params"]}
    sides = [of_method["good"], of_method["poor"]]
    expected = compare(*(one.counts("crf") for one in sides), sides[0].records[0].protocol).miou
    assert found[0].difference == expected


def test_a_crf_is_tested_on_what_was_refined_alone(tmp_path):
    write_runs(tmp_path, "good", 0.8)
    write_runs(tmp_path, "good", 0.8, dataset="village", fingerprint="f1", crf=False)
    ordering = Ordering("crf", Side("good"), Side("good", refined=False), (Printed("p", "t", "d", 1.0),))
    configurations = gather(read_entries([tmp_path])[0])
    (found,) = on_records([ordering], configurations, lambda record: {})
    assert found.table.dataset == "town"
    (town,) = [one for one in configurations if one.table.dataset == "town"]
    expected = compare(town.counts("crf"), town.counts("raw"), town.records[0].protocol).miou
    assert found.difference == expected


def test_the_command_prints_a_row_each_and_a_summary(command, tmp_path):
    write_runs(tmp_path, "smooseg", 0.8)
    write_runs(tmp_path, "stego", 0.3)
    said = command("audit", "orderings", "--records", tmp_path)
    assert said.code == 0, said.err
    (row,) = [line for line in said.out.splitlines() if line.startswith("SmooSeg > STEGO ")]
    assert row.split()[-1] == "holds"
    assert "hold both sides of" in said.out
    assert command("audit", "orderings", "--records", tmp_path / "none").code == 2
