"""Studies: what a plan may say, what the built-in ones do, and that a failed cell stops no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeContext, MemoryFeatures, method_module, planted
from plugin_folders import write_plugin
from running import PLUGINS, SMALL

from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.studies import find_study, known_studies, read_study
from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_record

PLAN = """
name = "mine"
title = "Steps and start"
method = "dino"
params = { batch_size = 2, init_patches = 64 }
"""
ROWS = """
[[rows]]
label = "short"
params = { steps = 2 }

[[rows]]
label = "long"
params = { steps = 4 }
"""
AXIS = "[axis]\nparameter = 'steps'\nvalues = [2, 4]\n"
QUICK = ["--plugin", PLUGINS, "--quiet", "--workers", "1", "--protocol", SMALL, "--dataset", "tiny"]


def plan(folder: Path, text: str = PLAN + ROWS, name: str = "mine.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- What a plan may say -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (PLAN, "either `rows` or an `axis`"),
        (PLAN + ROWS + AXIS, "either `rows` or an `axis`"),
        (PLAN + ROWS.replace("long", "short"), "two rows have the same label"),
        (PLAN + ROWS.replace("label", "lable", 1), r"unknown field `lable` - at `\$\.rows\[0\]`"),
        (PLAN + ROWS.replace("{ steps = 4 }", "{ batch_size = 4 }"), "`params` fixes .*: batch_size"),
        (PLAN + AXIS.replace("[2, 4]", "[]"), r"length >= 1 - at `\$\.axis\.values`"),
        (PLAN + AXIS.replace("[2, 4]", "[4, 2]"), r"must increase - at `\$\.axis`"),
        (PLAN + AXIS.replace("[2, 4]", "[2, 2]"), r"must increase - at `\$\.axis`"),
        (PLAN + AXIS.replace("[2, 4]", "['2']"), r"at `\$\.axis\.values\[0\]`"),
        (PLAN.replace("title", "titel") + ROWS, "unknown field `titel`|missing required field `title`"),
        (PLAN.replace('"mine"', '"My plan"') + ROWS, r"at `\$\.name`"),
    ],
)
def test_a_wrong_plan_is_an_error_that_names_the_file_and_the_key(tmp_path, text, complaint):
    path = plan(tmp_path, text)
    with pytest.raises(DataError, match=complaint) as caught:
        read_study(path)
    assert caught.value.what.startswith(str(path))


@pytest.mark.parametrize(
    ("old", "new", "place", "hint"),
    [
        ("{ steps = 4 }", "{ stepps = 4 }", "$.rows[1].params", "Did you mean 'steps'"),
        ("init_patches", "int_patches", "$.params", "Did you mean 'init_patches'"),
        ("{ steps = 4 }", "{ steps = 'four' }", "$.rows[1].params", None),
        ('"dino"', '"dinoo"', "$.method", "Did you mean 'dino'"),
    ],
)
def test_a_parameter_that_the_method_lacks_is_named_by_file_and_key(tmp_path, old, new, place, hint):
    path = plan(tmp_path, (PLAN + ROWS).replace(old, new))
    with pytest.raises(UsageError) as caught:
        read_study(path).check(Registry())
    assert str(path) in caught.value.what
    assert f"at `{place}`" in caught.value.what
    assert hint is None or hint in caught.value.hint


def test_a_wrong_parameter_of_an_axis_is_named_too(tmp_path):
    study = read_study(plan(tmp_path, PLAN + AXIS.replace("steps", "step")))
    with pytest.raises(UsageError, match=r"no parameter 'step' - at `\$\.axis`"):
        study.check(Registry())


def test_a_row_goes_before_the_user_and_the_user_before_the_plan(tmp_path):
    study = read_study(plan(tmp_path))
    row = study.plan.settings[1]
    assert study.params(row, {}) == {"batch_size": 2, "init_patches": 64, "steps": 4}
    assert study.params(row, {"batch_size": 8})["batch_size"] == 8
    with pytest.raises(UsageError, match="varies steps"):
        study.params(row, {"steps": 9})


def test_an_axis_gives_a_setting_for_each_value(tmp_path):
    study = read_study(plan(tmp_path, PLAN + AXIS.replace("[2, 4]", "[2, 4.5]")))
    assert [(row.label, row.params) for row in study.plan.settings] == [
        ("steps = 2", {"steps": 2}),
        ("steps = 4.5", {"steps": 4.5}),
    ]


def test_studies_are_found_in_the_folders_of_methods(tmp_path):
    folder = write_plugin(tmp_path / "new")
    path = plan(folder, (PLAN + ROWS).replace('"dino"', '"new"'), "studies/any.toml")
    assert find_study("mine", Registry([folder])).path.samefile(path)
    assert "mine" not in known_studies(Registry())
    with pytest.raises(UsageError, match="no study 'mien'") as caught:
        find_study("mien", Registry([folder]))
    assert "Did you mean 'mine'" in caught.value.hint
    plan(folder, PLAN + ROWS, "studies/other.toml")
    with pytest.raises(UsageError, match="Two studies are called 'mine'"):
        known_studies(Registry([folder]))
    with pytest.raises(DataError, match="does not exist"):
        find_study(str(tmp_path / "none.toml"), Registry())


# --- The studies of the papers -------------------------------------------------------------------

BUILT_IN = known_studies(Registry())


def test_every_study_of_both_papers_is_there():
    assert set(BUILT_IN) == {
        *("ds2dl-table2", "ds2dl-fig4", "ds2dl-fig8", "ds2dl-fig9", "ds2dl-readings"),
        *("smooseg-table4", "smooseg-fig6", "smooseg-fig7"),
    }


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_study_fits_its_method_and_contains_its_published_setting(name):
    study = BUILT_IN[name]
    study.check(Registry())
    spec, plugin = Registry().method(study.plan.method)
    assert study.path.parent == plugin.folder / "studies"
    assert study.plan.name.startswith(f"{spec.name}-")
    assert study.plan.paper
    entry = plugin.load()
    published = {**vars(entry(clusters=3)), **study.plan.params}
    same = [row for row in study.plan.settings if all(published[k] == v for k, v in row.params.items())]
    assert len(same) == 1, "the method as published stands in the study once"


def test_the_ablation_of_ds2dl_removes_one_of_its_five_terms_at_a_time():
    full, *rows = BUILT_IN["ds2dl-table2"].plan.settings
    assert full.params == {}
    assert [row.params for row in rows] == [
        {f"weight_{term}": 0.0} for term in ("orth", "data", "l2g", "cross", "intra")
    ]


ABLATIONS = {
    "w/o E_data": {"data"},
    "w/o E_smooth across images": {"inter"},
    "w/o E_smooth": {"intra", "inter"},
}


@pytest.mark.parametrize(("label", "gone"), ABLATIONS.items(), ids=ABLATIONS)
def test_a_row_of_smoosegs_table_removes_its_terms_and_nothing_else(label, gone, monkeypatch):
    """The term's own gradient is cut by hand, and the same state must come out, bit for bit."""
    smooseg = method_module("smooseg")
    tokens, _ = planted([2, 1, 1], channels=6, images=4, side=4, noise=0.5, seed=0)
    plan = BUILT_IN["smooseg-table4"].plan
    (switch,) = [row.params for row in plan.settings if row.label == label]

    def trained(**params: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        method = smooseg.SmooSeg(clusters=3, dim=4, steps=12, batch_size=4, **params)
        method.train(None, FakeContext(method, MemoryFeatures(tokens)))
        return method.state_dict()

    switched = trained(**switch)
    whole = trained()
    losses = smooseg.SmooSeg.losses

    def cut(self, f, partner):
        terms = losses(self, f, partner)
        return {name: term * (name not in gone) for name, term in terms.items()}

    monkeypatch.setattr(smooseg.SmooSeg, "losses", cut)
    expected = trained()
    assert switched.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(switched[name], value), name
    assert any(not torch.equal(whole[name], value) for name, value in expected.items())


# --- Running one ---------------------------------------------------------------------------------


def records(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/**/*.json"))


@pytest.fixture
def study(command, tmp_path):
    def study(text: str = PLAN + ROWS, *arguments: object, seeds: int = 2):
        return command(
            "study", plan(tmp_path, text), "--out", tmp_path / "results", "--seeds", seeds, *QUICK, *arguments
        )

    return study


def test_a_study_runs_every_setting_with_every_seed_and_shows_mean_and_deviation(study, tmp_path):
    said = study()
    assert said.code == 0, said.err
    found = [read_record(path) for path in records(tmp_path)]
    assert sorted((one.cell.method.params["steps"], one.cell.seed) for one in found) == [
        (2, 0),
        (2, 1),
        (4, 0),
        (4, 1),
    ]
    assert all(one.cell.method.params["batch_size"] == 2 for one in found)
    (line,) = [line for line in said.out.splitlines() if line.startswith("long")]
    scores = [one.last.crf.miou for one in found if one.cell.method.params["steps"] == 4]
    assert f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}" in line
    assert line.endswith("2 of 2")


def test_features_are_extracted_once_for_all_cells(study, tmp_path, monkeypatch):
    monkeypatch.setenv("USS_BENCH_CACHE", str(tmp_path / "cache"))
    study(seeds=1)
    by_steps = {one.cell.method.params["steps"]: one for one in map(read_record, records(tmp_path))}
    assert by_steps[2].encoded_items > 0
    assert by_steps[4].encoded_items == 0


def test_a_dry_run_lists_cells_as_done_or_pending_and_done_ones_are_skipped(study, tmp_path):
    study(seeds=1)
    before = {path: path.stat().st_mtime_ns for path in records(tmp_path)}
    listing = study(PLAN + ROWS, "--dry-run").out.splitlines()
    assert [re.sub(r"  +", "|", line).rpartition("|")[0] for line in listing[4:8]] == [
        "short, seed 0|done",
        "long, seed 0|done",
        "short, seed 1|pending",
        "long, seed 1|pending",
    ]
    assert listing[9] == "2 of 4 cells pending."
    assert study().code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(records(tmp_path)) == 4
    assert "0 of 4 cells pending" in study(PLAN + ROWS, "--dry-run").out


def test_a_cell_that_fails_does_not_stop_the_others_and_is_told_at_the_end(study, tmp_path):
    rows = "".join(
        f'[[rows]]\nlabel = "{label}"\nparams = {{ fault = "{fault}" }}\n'
        for label, fault in (("bad", "train raises"), ("good", "none"), ("worse", "logits are NaN"))
    )
    said = study('name = "faults"\ntitle = "Faults"\nmethod = "broken"\n' + rows, seeds=1)
    assert said.code == 1
    assert "2 of 3 cells failed" in said.err
    assert "bad, seed 0: Method 'broken' failed in training" in said.err
    assert "worse, seed 0: Method 'broken' predicted logits that are NaN" in said.err
    assert "Traceback" not in said.err
    lines = {line.split()[0]: line for line in said.out.splitlines() if line[:4] in ("bad ", "good", "wors")}
    assert lines["good"].endswith("1 of 1")
    assert lines["bad"].endswith("0 of 1")
    assert sorted(read_record(path).status for path in records(tmp_path)) == ["done", "failed", "failed"]


def test_a_sensitivity_study_draws_its_curve(study, tmp_path):
    said = study(PLAN + AXIS)
    assert said.code == 0, said.err
    (figure,) = (tmp_path / "results").glob("*/mine-*.png")
    assert figure.stat().st_size > 5000
    assert str(figure) in said.out


def test_without_labels_there_is_nothing_to_show_but_that_it_ran(study, tmp_path, monkeypatch):
    dataset = Registry([PLUGINS]).dataset("tiny")[1].load()
    monkeypatch.setattr(dataset, "labels", lambda self, split: None)
    said = study(PLAN + AXIS, "--set", "clusters=2", seeds=1)
    assert said.code == 0, said.err
    assert re.search(r"steps = 2 +– +– +– +– +– +1 of 1", said.out)
    assert not list((tmp_path / "results").glob("*/mine-*.png"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ds2dl-tabel2"], "Did you mean 'ds2dl-table2'"),
        (["ds2dl-table2", "--set", "weight_orth=1"], "varies weight_orth"),
    ],
)
def test_wrong_usage_exits_with_2(command, tmp_path, arguments, expected):
    said = command("study", *arguments, *QUICK, "--out", tmp_path)
    assert said.code == 2
    assert expected in said.err
    assert not list(tmp_path.iterdir())


# --- Looking at them -----------------------------------------------------------------------------


def test_studies_are_listed_and_have_pages(command):
    listing = command("ls", "studies").out
    for name, study in BUILT_IN.items():
        assert name in listing
        assert study.plan.title in command("info", name).out
    page = command("info", "smooseg-table4").out
    assert json.dumps(0.0) in page
    assert "w/o E_data" in page
    assert "Did you mean 'smooseg-fig6'" in command("info", "smooseg-fig66").err
