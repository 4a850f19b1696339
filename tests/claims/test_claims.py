"""The ledger of claims: what is read, what is refused, what is found, and what the command shows."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from uss_bench import claims as package
from uss_bench.claims import Claim, built_in_folder, claims_for, load_claims, load_ledger
from uss_bench.claims.ledger import distinct
from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.registry import Registry
from uss_bench.protocol import get_protocol

CONDITIONS = """
[coco]
dataset = "cocostuff27"
split = "val"
backbone = "dino_vits8"
protocol = "stego320@2"
crf = true
params = { steps = 100, r = 2.0 }
note = "Measured so."

[mean]
dataset = "average"
"""
PAPER = """
[paper]
title = "A Paper"
authors = "Someone"
venue = "CVPR"
year = 2030

[[tables]]
name = "Table 1"
caption = "Results."
columns = ["accuracy", "miou", "gain"]
note = "Of the table."

[[tables.rows]]
label = "Ours"
method = "ours"
source = "own"
backbone = "ViT"
values = { coco = [50.0, 25.0], mean = [40.0, "-", 1.5] }

[[tables.rows]]
label = "w/o x"
method = "ours"
variant = "no x"
source = "own"
crf = false
params.r = 0.0
note = "Of the row."
values.coco = [12.0]

[[tables]]
name = "Table 2"
caption = "Settings."
columns = ["params"]
rows = [{ label = "r", method = "ours", source = "own", values.coco = [2.0] }]
"""


def a_ledger(folder: Path, paper: str = PAPER, conditions: str = CONDITIONS) -> Path:
    (folder / "paper.toml").write_text(paper)
    (folder / "conditions.toml").write_text(conditions)
    return folder


@pytest.fixture(scope="module")
def built_in() -> list[Claim]:
    return load_claims()


@pytest.fixture(scope="module")
def plugins() -> Registry:
    return Registry()


# --- Reading -------------------------------------------------------------------------------------


def test_a_row_becomes_one_claim_for_each_of_its_conditions(tmp_path):
    ledger = load_ledger(a_ledger(tmp_path))
    ours, mean, without, setting = ledger.claims
    assert ours == Claim(
        paper="paper",
        table="Table 1",
        label="Ours",
        method="ours",
        source="own",
        dataset="cocostuff27",
        split="val",
        backbone="dino_vits8",
        printed_backbone="ViT",
        protocol="stego320@2",
        crf=True,
        accuracy=50.0,
        miou=25.0,
        params={"steps": 100, "r": 2.0},
        notes=("Measured so.", "Of the table."),
    )
    assert (mean.dataset, mean.accuracy, mean.miou, mean.metrics) == ("average", 40.0, None, {"gain": 1.5})
    assert (without.variant, without.crf, without.params) == ("no x", False, {"steps": 100, "r": 0.0})
    assert (without.accuracy, without.miou) == (12.0, None)
    assert without.note == "Measured so. Of the row. Of the table."
    assert (setting.scored, setting.params) == (False, {"r": 2.0})
    assert ledger.papers["paper"].year == 2030
    assert ledger.captions == {("paper", "Table 1"): "Results.", ("paper", "Table 2"): "Settings."}


def test_a_number_is_shown_as_it_is_printed(tmp_path):
    ours, mean, *_ = load_claims(a_ledger(tmp_path))
    assert (ours.printed("accuracy"), mean.printed("miou")) == ("50.0", "–")
    assert replace(ours, decimals=2).printed("miou") == "25.00"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('method = "ours"', 'methode = "ours"', "methode"),
        ('method = "ours"', 'method = "Our Method"', "method"),
        ('source = "own"', 'source = "theirs"', "theirs"),
        ("[50.0, 25.0]", "[50.0, 25.0, 1.0, 2.0]", "4 numbers for 3 columns"),
        ("[50.0, 25.0]", '[50.0, "25"]', "25"),
        ("[50.0, 25.0]", "[]", "length"),
        ("coco = [50", "cocoa = [50", "no conditions 'cocoa'"),
        ("year = 2030", "year = 'soon'", "year"),
        ("[paper]", "[paper", "not TOML"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_file_and_the_place(tmp_path, old, new, told):
    with pytest.raises(DataError, match=re.escape(told)) as error:
        load_claims(a_ledger(tmp_path, paper=PAPER.replace(old, new, 1)))
    assert "paper.toml" in error.value.what
    if "cocoa" in new:
        assert error.value.hint is not None
        assert "'coco'" in error.value.hint


def test_conditions_are_checked_and_needed(tmp_path):
    folder = a_ledger(tmp_path, conditions=CONDITIONS.replace("split", "spilt"))
    with pytest.raises(DataError, match=r"conditions\.toml.*spilt"):
        load_claims(folder)
    (folder / "conditions.toml").unlink()
    with pytest.raises(DataError, match=r"conditions\.toml does not exist"):
        load_claims(folder)


# --- Finding -------------------------------------------------------------------------------------


def test_claims_for_finds_scores_of_the_method_as_published_its_own_paper_first(built_in):
    found = claims_for(built_in, method="smooseg", dataset="cityscapes27")
    assert {claim.method for claim in found} == {"smooseg"}
    assert {claim.dataset for claim in found} == {"cityscapes27"}
    assert all(claim.scored and not claim.variant for claim in found)
    sources = [claim.source for claim in found]
    assert sources == sorted(sources, key="own".__ne__)
    assert {"own", "cited"} == set(sources)


def test_claims_for_narrows_by_what_is_given(built_in):
    def found(**asked):
        return claims_for(built_in, method="stego", dataset="cocostuff27", **asked)

    assert {claim.backbone for claim in found()} == {"dino_vits8", "dino_vitb8", "resnet50_mocov2"}
    assert {claim.backbone for claim in found(backbone="dino_vitb8")} == {"dino_vitb8"}
    assert {claim.crf for claim in found(crf=False)} == {False}
    assert {claim.accuracy for claim in found(crf=False)} == {46.5}
    assert found(split="val") == found()
    assert found(split="val-5000") == []


def test_claims_that_do_not_say_whether_there_was_a_crf_fit_both(built_in):
    baseline = {"method": "dino", "dataset": "cocostuff27", "backbone": "dino_vits8"}
    for crf in (True, False):
        unstated = [claim for claim in claims_for(built_in, crf=crf, **baseline) if claim.crf is None]
        assert {claim.accuracy for claim in unstated} == {29.6}


def test_ablations_are_found_when_asked_for_and_come_last(built_in):
    found = claims_for(built_in, method="ds2dl", dataset="cityscapes27", variants=True)
    variants = [bool(claim.variant) for claim in found]
    assert sum(variants) == 5
    assert variants == sorted(variants)


def test_what_several_papers_print_of_one_experiment_is_said_once(built_in):
    found = claims_for(built_in, method="smooseg", dataset="potsdam3", crf=True, backbone="dino_vitb8")
    assert len(found) == 4
    (one,) = distinct(found)
    assert (one.paper, one.accuracy, one.miou) == ("smooseg", 82.7, 70.3)
    assert len(distinct([one, replace(one, accuracy=82.6)])) == 2


def test_the_ledger_comes_with_the_package(monkeypatch):
    assert {"conditions.toml", "ds2dl.toml", "smooseg.toml"} <= {
        path.name for path in built_in_folder().iterdir()
    }
    # Without an installed mapping, as in a checkout that was never installed, it is found beside the package.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    checkout = Path(package.__file__).parents[2]
    assert built_in_folder() == checkout / "leaderboards" / "claims"


# --- Names in the ledger are ours, or known not to be --------------------------------------------

FOREIGN_SPLITS = {"iic-7", "iic-few6", "train-labeled"}
FOREIGN_BACKBONES = {"ibot_vitb16", "msn_vits16", "mae_vitb16"}
FOREIGN_PROTOCOLS = {
    "per-image-oracle",
    "primaps-dinov2",
    "u2seg-many-to-one",
    "vice-256-clusters",
}


def test_every_condition_is_used():
    files = {path.name: tomllib.loads(path.read_text()) for path in built_in_folder().glob("*.toml")}
    conditions = files.pop("conditions.toml")
    rows = (row for file in files.values() for table in file["tables"] for row in table["rows"])
    assert {name for row in rows for name in row["values"]} == set(conditions)


def test_splits_are_those_of_the_adapters(built_in, plugins, tmp_path):
    named = {
        (claim.dataset, kind, split)
        for claim in built_in
        for kind, split in (("test", claim.split), ("train", claim.train_split))
        if split and split not in FOREIGN_SPLITS
    }
    assert {dataset for dataset, *_ in named} == {
        *("ade150", "cityscapes27", "cocostuff27", "potsdam3", "voc21")
    }
    for dataset, kind, split in sorted(named):
        spec, plugin = plugins.dataset(dataset)
        plugin.load()(spec, root=tmp_path, **{kind: split})
    spec, plugin = plugins.dataset("cityscapes27")
    with pytest.raises(UsageError, match="split"):
        plugin.load()(spec, root=tmp_path, test="picie")


def test_backbones_and_datasets_are_those_of_plugins(built_in, plugins):
    used = {claim.backbone for claim in built_in if claim.backbone}
    assert used - set(plugins.names("backbones")) == FOREIGN_BACKBONES
    datasets = {claim.dataset for claim in built_in}
    assert datasets - set(plugins.names("datasets")) == {"average"}


def test_protocols_are_ours_in_the_form_that_records_have(built_in):
    ours = {claim.protocol for claim in built_in} - FOREIGN_PROTOCOLS - {""}
    assert ours
    for text in ours:
        assert get_protocol(text).id == text


OFFERED = ("checkpoint_every",)
"""Of presets, and of no claim: it changes no number but the label-selected one."""


def test_published_presets_are_what_the_ledger_says_of_the_parameters(built_in, plugins):
    compared = set()
    for claim in built_in:
        if not claim.scored or claim.method not in plugins.names("methods"):
            continue
        for preset in plugins.method(claim.method)[0].presets:
            if preset.when == {"dataset": claim.dataset, "backbone": claim.backbone}:
                ours = {name: value for name, value in preset.params.items() if name not in OFFERED}
                stated = {name: claim.params[name] for name in ours}
                ablated = {name for name in ours if claim.variant and name.startswith("weight_")}
                assert {name: value for name, value in stated.items() if name not in ablated} == {
                    name: value for name, value in ours.items() if name not in ablated
                }
                compared.add((claim.method, preset.name))
    assert len(compared) == 26


def test_parameters_in_the_ledger_are_parameters_of_the_methods(built_in, plugins):
    for claim in built_in:
        if claim.scored and claim.method in plugins.names("methods"):
            known = inspect.signature(plugins.method(claim.method)[1].load()).parameters
            assert claim.params.keys() <= known.keys(), claim.label


# --- The command ---------------------------------------------------------------------------------


def test_the_command_shows_rows_notes_and_who_says_so(command):
    said = command("claims", "--method", "stego", "--dataset", "potsdam3")
    assert said.code == 0
    (row,) = (line for line in said.out.splitlines() if "62.6" in line)
    assert row.split()[:6] == ["stego", "dino_vits8", "yes", "labels", "77.0", "62.6"]
    assert "ds2dl T1 T3, smooseg" in row
    number = row.split()[-1]
    assert re.search(rf"^ *{number}  The released checkpoint is a ViT-S/8", said.out, flags=re.M)
    assert "82.7" not in said.out


def test_unusual_splits_and_protocols_stand_in_the_notes(command):
    said = command("claims", "--method", "picie", "--dataset", "cityscapes27")
    text = " ".join(said.out.split())
    assert "Split picie-eval, protocol picie@1" in text
    assert "3,475 images" in text


def test_a_paper_is_introduced_and_its_settings_and_ablations_shown(command):
    said = command("claims", "--paper", "smooseg")
    assert said.out.startswith("SmooSeg: Smoothness Prior")
    assert "NeurIPS 2023" in said.out
    assert re.search(r"· no cross-image term +dino_vits8 +yes +labels +36\.1 +10\.4 +smooseg\* T4", said.out)
    assert re.search(r"b2 +cocostuff27 -0\.02, cityscapes27 -0\.02, potsdam3 0\.1", said.out)


def test_the_table_fits_a_terminal_of_a_hundred_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    said = command("claims")
    assert max(map(len, said.out.splitlines())) <= 100


def test_every_score_of_the_ledger_is_in_the_table(command, built_in):
    shown = set(re.findall(r"\d+\.\d+", command("claims").out))
    for claim in built_in:
        for metric in ("accuracy", "miou"):
            assert claim.printed(metric) in shown | {"–"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--method", "stegos"), "'stego'"),
        (("--paper", "smoseg"), "'smooseg'"),
        (("--dataset", "potsdam"), "'potsdam3'"),
        (("--paper", "cause", "--method", "stego"), "cause"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(command, arguments, told):
    said = command("claims", *arguments)
    assert said.code == 2
    assert told in said.err


def test_a_ledger_of_ones_own_is_read_from_a_folder(command, tmp_path):
    said = command("claims", "--folder", a_ledger(tmp_path))
    assert said.code == 0
    assert re.search(r"ours +dino_vits8 +yes +\? +50\.0 +25\.0 +paper\* T1", said.out)
    assert "Also printed: gain 1.5." in said.out
    missing = command("claims", "--folder", tmp_path / "nothing")
    assert missing.code == 1
    assert "does not exist" in missing.err
