"""Plan files: what they may say, which cells they give, and that a record's command is of its cell alone."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from msgspec.structs import replace
from PIL import Image
from running import PLUGINS, SMALL

from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.cells import CellSpec, Execution
from uss_bench.experiment.command_line import command_line, parse_pairs
from uss_bench.experiment.plan_file import RunTable, read_plan
from uss_bench.experiment.recipe import read_recipe
from uss_bench.launch.planning import plan_cells, tell_apart
from uss_bench.launch.stored import stored_plans
from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_record, record_files

PLAN = """
name = "comparison"

[defaults]
dataset = "toy3"
seeds = 2
set = { clusters = 3, steps = 5 }
note = "by a plan"

[[runs]]
method = ["dino", "smooseg"]
set = { steps = 7 }

[[runs]]
method = "random"
dataset = ["toy3", "toy27"]
backbone = "tinyvit"
seeds = 1
seed = 4
limit = 10
"""


def written(folder: Path, text: str = PLAN) -> Path:
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def test_a_table_gives_every_method_on_every_dataset_with_every_seed(tmp_path):
    name, asked = read_plan(written(tmp_path), Registry())
    assert name == "comparison"
    assert [(one.spec.dataset, one.spec.seed, one.spec.method) for one in asked] == [
        ("toy3", 0, "dino"),
        ("toy3", 0, "smooseg"),
        ("toy3", 1, "dino"),
        ("toy3", 1, "smooseg"),
        ("toy3", 4, "random"),
        ("toy27", 4, "random"),
    ]


def test_the_plan_that_the_documents_show_is_one(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "launchers.md"
    text = page.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    name, asked = read_plan(written(tmp_path, text), Registry())
    assert (name, len(asked)) == ("comparison", 2 * 3 + 2 * 3)


def test_a_table_goes_before_the_defaults_and_joins_their_parameters(tmp_path):
    _, asked = read_plan(written(tmp_path), Registry())
    first, last = asked[0].spec, asked[-1].spec
    assert (first.params, last.params) == ({"clusters": 3, "steps": 7}, {"clusters": 3, "steps": 5})
    assert (first.backbone, last.backbone) == (None, "tinyvit")
    assert (first.limit, last.limit) == (None, 10)
    assert first.notes == last.notes == ["by a plan"]


def test_cells_are_called_by_what_tells_them_apart(tmp_path):
    _, asked = read_plan(written(tmp_path), Registry())
    assert tell_apart([one.spec for one in asked])[1] == "smooseg, toy3, steps=7"
    assert tell_apart([asked[0].spec, asked[2].spec]) == ["", ""], "they differ in the seed"


def test_cells_are_called_by_their_datasets_name_and_by_its_place_only_where_that_is_needed(tmp_path):
    def settings(*roots: str) -> list[str]:
        for root in roots:
            for split in ("train", "test"):
                folder = tmp_path / root / "images" / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40)).save(folder / "one.png")
        tables = [
            f'[[runs]]\nmethod = "random"\ndataset = "folder"\nset.clusters = 2\nroot = "{tmp_path / root}"'
            for root in roots
        ]
        _, asked = read_plan(written(tmp_path, "\n".join(tables)), Registry())
        return [one.setting for one in plan_cells(asked, Registry())]

    assert settings("street", "field") == ["street", "field"]
    # Two folders of one name, with other images.
    Image.new("RGB", (40, 40), "red").save(tmp_path / "street" / "images" / "train" / "two.png")
    assert settings("street", "far/street") == [
        f"root={tmp_path / root}" for root in ("street", "far/street")
    ]


def test_a_parameter_may_be_for_one_of_several_methods(tmp_path):
    table = RunTable(
        method=["smooseg", "ds2dl"],
        dataset="toy3",
        params=parse_pairs(("steps=7", "ds2dl.steps=9", "smooseg.b-inter=0.5", "ds2dl.r=2"), "--set"),
    )
    smooseg, ds2dl = (one.params for one in table.cells())
    assert smooseg == {"steps": 7, "b_inter": 0.5}
    assert ds2dl == {"steps": 9, "r": 2}
    for key in ("stego.steps", "smooseg.loss.b"):
        with pytest.raises(UsageError, match=rf"'{key}' is for method '.*', which is not among"):
            replace(table, params={key: 1}).cells()


def test_a_plans_defaults_may_be_for_a_method_of_another_table(tmp_path):
    text = PLAN.replace("steps = 5 }", 'steps = 5, "random.steps" = 8 }').replace(
        "set = { steps = 7 }", 'set = { "dino.steps" = 7 }'
    )
    _, asked = read_plan(written(tmp_path, text), Registry())
    assert [one.spec.params["steps"] for one in asked] == [7, 5, 7, 5, 8, 8]
    assert not any("." in name for one in asked for name in one.spec.params)
    with pytest.raises(UsageError, match=r"at `\$\.runs\[0\]`: .* for method 'stego'"):
        read_plan(written(tmp_path, text.replace("dino.steps", "stego.steps")), Registry())


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "comparison"', 'name = "A b"', r"at `\$\.name`"),
        ("[[runs]]", "[[run]]", "unknown field `run`|missing required field `runs`"),
        ("limit = 10", "limmit = 10", r"unknown field `limmit` - at `\$\.runs\[1\]`"),
        ("limit = 10", "limit = 0", r">= 1 - at `\$\.runs\[1\]\.limit`"),
        ("limit = 10", "seeds = 3", "is not TOML"),
        ("seed = 4", "seed = -1", r"at `\$\.runs\[1\]\.seed`"),
        ('method = "random"', "method = []", r"length >= 1 - at `\$\.runs\[1\]\.method`"),
        ("{ steps = 7 }", "7", r"at `\$\.runs\[0\]\.set`"),
    ],
)
def test_a_wrong_plan_is_an_error_that_names_the_file_and_the_key(tmp_path, old, new, complaint):
    path = written(tmp_path, PLAN.replace(old, new))
    with pytest.raises(DataError, match=complaint) as caught:
        read_plan(path, Registry())
    assert caught.value.what.startswith(str(path))


@pytest.mark.parametrize(
    ("old", "new", "complaint", "hint"),
    [
        ('"random"', '"randon"', r"\$\.runs\[1\]`: there is no method 'randon'", "Did you mean 'random'"),
        ('"toy27"', '"toy28"', r"\$\.runs\[1\]`: there is no dataset 'toy28'", "Did you mean 'toy27'"),
        ('method = "random"', "", r"\$\.runs\[1\]`: Nothing says which method to run", "--method NAME"),
        ("limit = 10", 'root = "a"', r"\$\.runs\[1\]`: 'root' belongs to one dataset", "a table for each"),
        (
            'backbone = "tinyvit"',
            'weights = "w.pth"',
            r"\$\.runs\[1\]`: 'weights' needs one backbone",
            "Name it",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_an_error_that_names_the_table(tmp_path, old, new, complaint, hint):
    with pytest.raises(UsageError, match=complaint) as caught:
        read_plan(written(tmp_path, PLAN.replace(old, new)), Registry())
    assert hint in caught.value.hint


def test_a_wrong_parameter_in_a_plan_is_told_with_its_table(command, tmp_path):
    said = command("run", "--plan", written(tmp_path, PLAN.replace("steps = 7", "stepps = 7")), "--dry-run")
    assert said.code == 2
    assert "at `$.runs[0]`: Method 'dino' has no option 'stepps'" in said.err


@pytest.mark.parametrize("flag", [["--method", "dino"], ["--seeds", "3"], ["--set", "a=1"], ["--note", "x"]])
def test_what_to_run_is_said_once(command, tmp_path, flag):
    said = command("run", "--plan", written(tmp_path), *flag)
    assert said.code == 2
    assert f"{flag[0]} and --plan both say what to run" in said.err


def test_a_command_that_says_nothing_is_told_what_to_say(command):
    said = command("run", "--dataset", "toy3")
    assert (said.code, "Nothing says which method to run" in said.err) == (2, True)


def test_several_methods_and_datasets_are_listed_each_with_each(command, tmp_path):
    names = ["--method", "random", "--method", "constant", "--dataset", "tiny", "--dataset", "toy3"]
    said = command("run", *names, "--limit", 2, "--dry-run", "--plugin", PLUGINS, "--out", tmp_path)
    assert said.code == 0, said.err
    for row in ("random, tiny, seed 0", "constant, tiny, seed 0", "random, toy3, seed 0"):
        assert row in said.out
    assert "4 of 4 cells pending." in said.out
    assert not list(tmp_path.iterdir())


# --- The command of a record ---------------------------------------------------------------------

ODD = CellSpec(
    method="dino",
    dataset="folder",
    data={"root": "my photos", "classes": "123", "depth": True},
    backbone="vit_small_patch14_dinov2",
    weights="v.pth",
    params={"clusters": 8, "name": "8", "flag": False, "text": "it's"},
    limit=4,
    seed=7,
    notes=["a remark"],
    labels_used=["tuning"],
)


def test_a_cells_command_is_read_as_the_same_cell(monkeypatch, command):
    from uss_bench.cli.commands import run as run_command

    line = command_line(ODD, Execution(out="elsewhere", threads=1, store_budget=0.5, plugins=["p"]))
    words = shlex.split(line)
    assert words[:2] == ["uss-bench", "run"]
    seen = {}
    monkeypatch.setattr(run_command, "Asked", lambda spec: seen.setdefault("spec", spec) and 1 / 0)
    command(*words[1:-2])  # without --plugin, which would be looked for
    assert seen["spec"] == ODD


def test_records_of_many_cells_can_be_rerun_one_by_one_and_their_plan_has_one_owner(command, tmp_path):
    small = ["--protocol", SMALL, "--workers", "1", "--plugin", PLUGINS, "--out", tmp_path, "--quiet"]
    names = ["--method", "random", "--method", "constant", "--dataset", "tiny", "--seeds", "2"]
    assert command("run", *names, *small, "--note", "odd 'note'").code == 0
    paths = record_files(tmp_path)
    assert len(paths) == 4, "and no file of the plan is taken for a record"
    record = read_record(paths[-1])
    recipe = read_recipe(record)
    assert recipe.setup(Registry([PLUGINS])).cell(record.cell.seed) == record.cell
    assert recipe.options["seed"] == record.cell.seed == 1
    assert record.notes[0] == "odd 'note'"
    paths[0].unlink()
    [plan] = stored_plans(tmp_path)
    before = (plan.path / "plan").read_bytes()
    with plan.at_work():
        said = command("run", *names, *small, "--note", "odd 'note'", "--jobs", 2)
    assert (said.code, "Another process runs this plan" in said.err) == (2, True)
    assert (plan.path / "plan").read_bytes() == before
