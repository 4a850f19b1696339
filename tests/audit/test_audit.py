"""What differs and what it costs: effects against scores by hand, pairs, protocols and papers."""

from __future__ import annotations

import csv
import io
import shlex

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from plot_records import a_cell, put

from uss_bench.audit.differences import between_papers, between_protocols, with_printed
from uss_bench.audit.effects import COUNTED, PAIRED, all_effects, commands, measure, measured_on
from uss_bench.audit.pairs import find_pairs
from uss_bench.audit.papers import Facts, as_paper, crf_text, find_paper, load_papers
from uss_bench.claims import load_claims
from uss_bench.cli import cli
from uss_bench.errors import DataError, UsageError
from uss_bench.evaluation.scoring import score_row, score_under
from uss_bench.plugins.registry import Registry
from uss_bench.protocol import (
    CrfParams,
    Protocol,
    TrainingGeometry,
    get_protocol,
    protocol_fields,
    protocol_names,
)
from uss_bench.results.arrays import Arrays
from uss_bench.results.collection import gather, read_entries
from uss_bench.results.differences import Change
from uss_bench.results.files import read_record, write_record
from uss_bench.results.record import CheckpointResult, Phase

# Two classes and three clusters: the third holds nearly as much of class 0 as the first.
SPLIT = np.array([[[41, 0], [0, 100], [39, 20]]])
# One cluster takes nearly all: what many-to-one and the Hungarian matching do not agree on.
GREEDY = np.array([[[60, 40], [50, 10]]])
BETTER = np.array([[[90, 0], [10, 60]]])


def configurations_in(folder):
    entries, broken = read_entries([folder])
    assert not broken
    return gather(entries)


def only(effect):
    (shift,) = effect.shifts
    return pytest.approx((shift.accuracy, shift.miou), abs=1e-3)


# --- From counts ---------------------------------------------------------------------------------


def test_what_dropping_and_merging_extra_clusters_gives(tmp_path):
    put(tmp_path, a_cell(), SPLIT)
    configurations = configurations_in(tmp_path)
    # Strict: 141 of 200 pixels right, IoU 41/80 and 100/120. Dropped: 141 of 141, IoU 1 and 1.
    dropped = measure(Change("extra_clusters", "strict", "drop"), configurations)
    assert only(dropped) == (29.5, 100 * (1 - (41 / 80 + 100 / 120) / 2))
    # Merged: 180 of 200, IoU 80/100 and 100/120.
    merged = measure(Change("extra_clusters", "strict", "merge"), configurations)
    assert only(merged) == (19.5, 100 * (80 / 100 - 41 / 80) / 2)
    back = measure(Change("extra_clusters", "merge", "strict"), configurations)
    assert only(back) == (-19.5, -100 * (80 / 100 - 41 / 80) / 2)


def test_what_many_to_one_gives_and_that_it_is_averaged_over_seeds(tmp_path):
    put(tmp_path, a_cell(seed=0), GREEDY)
    put(tmp_path, a_cell(seed=1), np.array([[[9, 0], [0, 9]]]))
    effect = measure(Change("matching", "hungarian", "many-to-one"), configurations_in(tmp_path))
    # Seed 0: Hungarian 40 + 50 of 160 right, many-to-one 110. Seed 1: no difference.
    assert effect.shifts[0].seeds == 2
    assert effect.shifts[0].accuracy == pytest.approx(100 * (110 - 90) / 160 / 2)


def test_what_counting_absent_classes_gives_where_one_is_absent(tmp_path):
    put(tmp_path, a_cell(), np.array([[[9, 0, 0], [1, 10, 0], [0, 0, 0]]]))
    put(tmp_path, a_cell("stego"), GREEDY)
    effect = measure(Change("absent_classes", "skip-empty-union", "zero"), configurations_in(tmp_path))
    mean = (9 / 10 + 10 / 11) / 2
    assert only(effect) == (0, 100 * mean * (2 / 3 - 1))


def test_what_the_crf_gives(tmp_path):
    put(tmp_path, a_cell(), GREEDY, BETTER)
    effect = measure(Change("crf", "off", "on"), configurations_in(tmp_path))
    assert effect.shifts[0].accuracy == pytest.approx(100 * (150 / 160 - 90 / 160))


def test_what_choosing_the_checkpoint_by_labels_gives_where_there_is_a_choice(tmp_path):
    path = put(tmp_path, a_cell(), GREEDY)
    record = read_record(path)
    row = score_row(score_under(BETTER, record.protocol))
    record = replace(record, selected=CheckpointResult(step=10, raw=row, crf=row))
    counts = {("last", kind): GREEDY for kind in ("raw", "crf")}
    counts |= {("selected", kind): BETTER for kind in ("raw", "crf")}
    write_record(tmp_path, record, Arrays(["image-0"], counts, [], {}), None)
    put(tmp_path, a_cell("stego"), GREEDY, candidates=[])
    effect = measure(Change("checkpoint", "last", "selected"), configurations_in(tmp_path))
    assert [one.configuration.cell.method.name for one in effect.shifts] == ["ds2dl"]
    assert effect.shifts[0].accuracy == pytest.approx(100 * (150 / 160 - 90 / 160))


def test_floors_are_shown_and_never_averaged(tmp_path):
    put(tmp_path, a_cell("random", backbone="none"), GREEDY)
    put(tmp_path, a_cell("dino"), np.array([[[9, 0], [0, 9]]]))
    change = Change("matching", "hungarian", "many-to-one")
    effect = measure(change, configurations_in(tmp_path), Registry().floors())
    assert len(effect.shifts) == 2
    assert [one.configuration.cell.method.name for one in effect.methods] == ["dino"]
    assert effect.summary("accuracy") == (0, 0, 0)


def test_the_range_is_over_configurations(tmp_path):
    put(tmp_path, a_cell("dino"), GREEDY)
    put(tmp_path, a_cell("stego"), np.array([[[9, 0], [0, 9]]]))
    effect = measure(Change("matching", "hungarian", "many-to-one"), configurations_in(tmp_path))
    assert effect.summary("accuracy") == pytest.approx((6.25, 0, 12.5))


# --- From pairs ----------------------------------------------------------------------------------


@pytest.fixture
def flipped(tmp_path):
    """One method with and without flips, two seeds in common."""
    for seed in (0, 1):
        put(tmp_path, a_cell(seed=seed), np.array([[[60, 0], [40 - 20 * seed, 100]]]))
    for seed in (0, 1, 2):
        cell = a_cell(seed=seed, protocol="stego320@2[flip=false]")
        put(tmp_path, cell, np.array([[[50, 0], [50, 100]]]))
    return tmp_path


def test_a_pair_gives_the_mean_difference_over_common_seeds_and_either_way(flipped):
    configurations = configurations_in(flipped)
    (pair,) = find_pairs(configurations)
    assert (pair.change.field, pair.seeds) == ("flip", [0, 1])
    effect = measure(Change("flip", True, False), configurations)
    # 160 and then (its classes have 80 and 100 pixels) 160 of 180 right with flips; 150 of 200 without.
    due = 100 * ((150 / 200 - 160 / 200) + (150 / 200 - 160 / 180)) / 2
    assert effect.shifts[0].accuracy == pytest.approx(due, abs=1e-3)
    back = measure(Change("flip", False, True), configurations)
    assert back.shifts[0].accuracy == pytest.approx(-due, abs=1e-3)
    assert (back.shifts[0].seeds, measure(Change("upsample", "code", "logits"), configurations).shifts) == (
        2,
        (),
    )


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": "stego320@2[flip=false,upsample=logits]"},
        {"protocol": "stego320@2[flip=false]", "steps": 7},
        {"protocol": "stego320@2[flip=false]", "code": "c0df"},
        {"protocol": "stego320@2[flip=false]", "fingerprint": "f2"},
        {"protocol": "stego320@2[flip=false]", "backbone": "other"},
        {"protocol": "stego320@2[flip=false]", "seed": 9},
        {"protocol": "stego320@2", "steps": 7},
    ],
)
def test_what_differs_in_more_is_no_pair(tmp_path, other):
    put(tmp_path, a_cell(), GREEDY)
    put(tmp_path, a_cell(**other), GREEDY)
    assert find_pairs(configurations_in(tmp_path)) == []


def test_the_temperature_of_a_cell_may_differ_only_if_it_is_the_question(tmp_path):
    put(tmp_path, a_cell(), GREEDY)
    put(tmp_path, replace(a_cell(protocol="stego320@2[alpha=4.0]"), alpha=4.0), GREEDY)
    put(tmp_path, replace(a_cell(protocol="stego320@2[flip=false]"), alpha=3.0), GREEDY)
    assert [one.change.field for one in find_pairs(configurations_in(tmp_path))] == ["alpha"]


def test_a_protocols_name_is_no_difference(tmp_path):
    put(tmp_path, a_cell(), GREEDY)
    put(tmp_path, a_cell(protocol="stego322@2"), GREEDY)
    (pair,) = find_pairs(configurations_in(tmp_path))
    assert pair.change == Change("eval_side", 320, 322)


def test_all_effects_are_those_that_are_always_asked_and_those_that_pairs_show(flipped):
    put(flipped, a_cell(training=TrainingGeometry(side=112)), GREEDY)
    found = [one.change for one in all_effects(configurations_in(flipped))]
    assert found[:-1] == [*COUNTED, *PAIRED]
    assert (found[-1].field, {found[-1].before, found[-1].after}) == ("training.side", {112, 224})


# --- Commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        *PAIRED,
        Change("extra_clusters", "strict", "drop"),
        Change("crf", "off", "on"),
        Change("training.crops", "five", "none"),
        Change("crf.iterations", 10, 5),
        Change("score_side", None, 100),
        Change("alpha", 2.0, 4.0),
    ],
    ids=lambda change: change.field,
)
def test_the_commands_that_are_proposed_are_commands(change, tmp_path):
    lines = commands(change, [], tmp_path)
    assert lines
    for line in lines:
        program, name, *arguments = shlex.split(line)
        assert program == "uss-bench"
        context = cli.get_command(None, name).make_context(name, arguments)
        named = context.params["protocol"] or ()
        for protocol in [named] if isinstance(named, str) else named:
            get_protocol(protocol)
    if measured_on(change) == "pairs":
        asked = [shlex.split(line)[-1] for line in lines]
        if change.field.startswith("training."):
            assert asked == ["crops=five", "crops=none"]
        else:
            values = [protocol_fields(get_protocol(one))[change.field] for one in asked]
            assert values == [change.before, change.after]


def test_what_lies_there_is_not_asked_for_again_and_what_no_option_does_is_not_asked_for(tmp_path):
    put(tmp_path, a_cell("stego", dataset="toy3"), GREEDY, phases={"train": Phase(seconds=9, peak_bytes=0)})
    put(tmp_path, a_cell("dino", dataset="toy27"), GREEDY, phases={"train": Phase(seconds=1, peak_bytes=0)})
    (line,) = commands(Change("flip", True, False), configurations_in(tmp_path), tmp_path)
    assert "--method dino --dataset toy27" in line, "the configuration that trained fastest"
    assert "flip=false" in line
    assert commands(Change("no_such_field", 10, 5), [], tmp_path) == []
    assert commands(Change("absent_classes", "skip-empty-union", "zero"), [], tmp_path) == []


# --- Protocols and papers ------------------------------------------------------------------------


def test_protocols_differ_in_what_they_do_and_not_in_what_they_are_called():
    found = between_protocols(get_protocol("stego320@2"), get_protocol("stego322@2[flip=false]"))
    assert [(one.field, one.before, one.after) for one in found.rows] == [
        ("eval_side", "320", "322"),
        ("flip", "true", "false"),
    ]
    assert found.changes[1] == Change("flip", True, False)
    fields = {*Protocol.__struct_fields__} - {"name", "version", "crf"}
    crf = {f"crf.{name}" for name in CrfParams.__struct_fields__}
    assert {*found.alike} | {"eval_side", "flip"} == fields | crf


PAPERS = load_papers()


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_speaks_the_language_of_protocols_and_gives_its_sources(name):
    paper = PAPERS[name]
    fields = msgspec.to_builtins(get_protocol("stego320@2"))
    shared = {*fields} & {*Facts.__struct_fields__} - {"crf"}
    for field in shared:
        fact = getattr(paper.facts, field)
        if fact is not None:
            msgspec.convert(fields | {field: fact.value}, Protocol)
    assert all(fact is None or fact.source for fact in msgspec.structs.astuple(paper.facts))
    assert bool(paper.code) == bool(paper.commit)
    assert paper.facts.crf is None or paper.facts.crf.value in ("none", crf_text(CrfParams()))
    assert paper.facts.checkpoint is None or paper.facts.checkpoint.value in ("last", "selected")


def test_the_lineage_evaluates_as_our_protocol_says_but_for_the_known_defects():
    found = between_papers(PAPERS["stego"], find_paper("stego320@2", PAPERS))
    assert [one.field for one in found.rows] == ["extra_clusters", "checkpoint"]
    assert [one.change for one in found.rows] == [None, Change("checkpoint", "selected", "last")]
    assert {name for name, _ in found.unknown} == {"coco", "cityscapes", "potsdam", "five_crop", "monitor"}


def test_papers_are_compared_in_what_is_known_of_both():
    found = between_papers(PAPERS["picie"], PAPERS["eagle"])
    by_field = {one.field: one for one in found.rows}
    assert by_field["crf"].change == Change("crf", "off", "on")
    assert by_field["clusters"].change == Change("extra_clusters", "strict", "drop")
    assert by_field["upsample"].change == Change("upsample", "logits", "code")
    assert by_field["cityscapes"].change is None
    assert ("alpha", "PiCIE and MDC") in found.unknown
    assert {*by_field} | {*found.alike} | {name for name, _ in found.unknown} == {*Facts.__struct_fields__}
    turned = between_papers(PAPERS["eagle"], PAPERS["picie"])
    assert {one.field: one.change for one in turned.rows}["clusters"].before == "drop"


def test_squash_against_crop_is_a_change_that_pairs_can_measure():
    found = between_papers(PAPERS["picie"], PAPERS["transfgu"])
    changes = {one.field: one.change for one in found.rows}
    assert changes["geometry"] == Change("extent", "square", "squash") in PAIRED
    ours = between_papers(PAPERS["transfgu"], find_paper("full@2", PAPERS))
    assert {one.field: one.change for one in ours.rows}["geometry"] == Change("extent", "squash", "whole")
    patches = between_papers(PAPERS["iic"], PAPERS["stego"])
    assert {one.field: one.change for one in patches.rows}["geometry"] is None
    for name in protocol_names():
        protocol = get_protocol(name)
        other = find_paper("transfgu@1" if protocol.extent != "squash" else "stego320@2", PAPERS)
        row = {one.field: one for one in between_papers(as_paper(protocol), other).rows}["geometry"]
        assert row.change.before == protocol.extent


def test_printed_costs_are_differences_of_numbers_in_the_ledger_of_claims():
    claims = load_claims()

    def mean(method, crf):
        found = [
            one
            for one in claims
            if (one.paper, one.table, one.method, one.dataset) == ("smooseg", "Table 6", method, "average")
            and ("w/o" in one.label) != crf
        ]
        (one,) = found
        return one.accuracy, one.miou

    printed = {one.method.split(",")[0].lower(): one for one in PAPERS["smooseg"].costs}
    for method in ("stego", "smooseg"):
        gain = [after - before for before, after in zip(mean(method, False), mean(method, True), strict=True)]
        assert (printed[method].accuracy, printed[method].miou) == pytest.approx(gain, abs=0.11)
    (cost,) = PAPERS["transfgu"].costs
    pairs = {
        one.split: (one.accuracy, one.miou)
        for one in claims
        if one.method == "transfgu" and one.dataset == "cocostuff27" and not one.variant
    }
    shift = [a - b for a, b in zip(pairs["val-5000"], pairs["val"], strict=True)]
    assert (cost.accuracy, cost.miou) == pytest.approx(shift, abs=0.051)


def test_what_a_paper_printed_stands_where_no_record_shows_it_and_nowhere_else(tmp_path, command):
    assert all(one.source for paper in PAPERS.values() for one in paper.costs)
    assert all(one.field in Facts.__struct_fields__ for paper in PAPERS.values() for one in paper.costs)
    sides = with_printed(between_papers(PAPERS["picie"], PAPERS["eagle"]), PAPERS.values())
    assert {one.field for one in sides.rows if one.printed} == {"crf"}
    said = command("audit", "papers", "picie", "eagle", "--records", tmp_path).out
    assert "no records; printed: Acc +3.6, mIoU +2.2" in " ".join(said.split())
    assert "printed: SmooSeg, Table 6" in said
    put(tmp_path, a_cell(), GREEDY, BETTER)
    said = command("audit", "papers", "picie", "eagle", "--records", tmp_path).out
    assert "printed: " not in said
    said = command("audit", "papers", "picie", "transfgu", "--records", tmp_path).out
    assert "Acc -8.2, mIoU -1.3" in " ".join(said.split())
    assert "other test images" in " ".join(said.split())
    assert "'stego320@2[extent=squash]'" in said


@pytest.mark.parametrize("name", protocol_names())
def test_our_protocols_can_be_said_as_papers(name):
    facts = as_paper(get_protocol(name)).facts
    assert {one for one in Facts.__struct_fields__ if getattr(facts, one) is None} == {
        "coco",
        "cityscapes",
        "potsdam",
        "five_crop",
        "monitor",
    }


def test_wrong_names_and_empty_ledgers_are_told(tmp_path):
    with pytest.raises(UsageError, match=r"no paper 'steggo'[\s\S]*'stego'"):
        find_paper("steggo", PAPERS)
    with pytest.raises(DataError, match="holds no protocol"):
        load_papers(tmp_path)
    (tmp_path / "one.toml").write_text('title = "One"\npaper = "x"\nyear = 1\n[facts]\nflipp = 1\n')
    with pytest.raises(DataError, match=r"one\.toml.*flipp"):
        load_papers(tmp_path)


# --- The command ---------------------------------------------------------------------------------


def test_papers_are_listed_and_compared(tmp_path, command):
    assert all(name in command("audit", "papers").out for name in PAPERS)
    put(tmp_path, a_cell(), GREEDY, BETTER)
    said = command("audit", "papers", "picie", "smooseg", "--records", tmp_path)
    assert said.code == 0
    assert "Acc +37.5 (+37.5 … +37.5)" in said.out
    assert "not measured: no paired records" in said.out
    assert "--protocol 'stego320@2[upsample=logits]'" in said.out
    table = said.out.partition("Sources")[0]
    assert max(len(line) for line in table.splitlines()) <= 110
    assert command("audit", "papers", "picie").code == 2


def test_protocols_are_compared_and_equal_ones_are_told_so(flipped, command):
    arguments = ["audit", "protocols", "stego320@2", "stego320@2[flip=false]", "--records", flipped]
    said = command(*arguments, "--format", "md")
    assert said.code == 0
    assert "| flip " in said.out
    assert "1 paired configuration, 2 runs" in said.out
    assert "They do not differ" in command("audit", "protocols", "stego320@2", "stego320@2").out
    assert command("audit", "protocols", "stego320@2", "stego32@1").code == 2


def test_effects_as_a_table_and_per_configuration(flipped, command):
    put(flipped, a_cell("random", backbone="none"), GREEDY, phases={"train": Phase(seconds=0, peak_bytes=0)})
    said = command("audit", "effects", "--records", flipped)
    assert "run --method ds2dl" in said.out
    assert "run --method random" not in said.out  # which no rule of features or training can move
    assert (said.code, "not measured" in said.out, "+12.5" in said.out) == (0, True, True)
    assert max(len(line) for line in said.out.partition("To measure")[0].splitlines()) <= 110
    table = command("audit", "effects", "--records", flipped, "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(table)))
    assert {row["rule"] for row in rows} == {"matching", "crf", "checkpoint", "flip"}
    assert [row["runs"] for row in rows if row["rule"] == "flip"] == ["2"]
    assert command("audit", "effects", "--records", flipped / "none").code == 2
