"""Golden runs: the same when nothing changed, and loud, with names, when a loss did."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import PLUGINS, SMALL

from uss_bench.plugins.registry import Registry
from uss_bench.regression.comparison import disagreement
from uss_bench.regression.golden import read_plan

PLAN = f"""
threads = 1

[tolerance]
pixels = 0.02
points = 1.0

[defaults]
dataset = "tiny"
protocol = "{SMALL}"
limit = 4

[[runs]]
method = "constant"

[[runs]]
method = "smooseg"
backbone = "patchstats"
set = {{ steps = 20, lr_projector = 0.01 }}
"""
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory, isolated) -> Path:
    """A folder with a plan and the golden results of today's code."""
    from uss_bench.regression.golden import run_golden, write_golden

    folder = tmp_path_factory.mktemp("golden")
    (folder / "plan.toml").write_text(PLAN)
    write_golden(folder, run_golden(read_plan(folder), Registry([PLUGINS])))
    return folder


@pytest.fixture
def golden(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "golden"))


@pytest.fixture
def regress(command, golden):
    def regress(*arguments):
        return command("regress", "golden", "--golden", golden, "--plugin", PLUGINS, "--quiet", *arguments)

    return regress


@pytest.fixture
def broken(tmp_path) -> Path:
    """SmooSeg with the sign of its smoothness turned round, in place of the one that comes along."""
    folder = Path(shutil.copytree(Registry().find("methods", "smooseg").folder, tmp_path / "broken"))
    spec, code = folder / "spec.toml", folder / "smooseg.py"
    spec.write_text(spec.read_text().replace('name = "smooseg"', 'name = "smooseg"\noverrides = true', 1))
    text = code.read_text()
    assert "return (g - b) - (" in text
    code.write_text(text.replace("return (g - b) - (", "return (b - g) + ("))
    return folder


def elsewhere(golden: Path) -> None:
    """Pretend that the golden results were made with another torch."""
    path = golden / "golden.json"
    content = json.loads(path.read_text())
    content["environment"]["torch"] = "0.0"
    path.write_text(json.dumps(content))


def flip_pixels(golden: Path, share: float) -> None:
    """Give some pixels of SmooSeg's golden maps the other cluster."""
    path = golden / "smooseg-tiny-s0.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    maps = arrays["maps/raw"]
    flipped = np.random.default_rng(0).random(maps.shape) < share
    arrays["maps/raw"] = np.where(flipped, 1 - maps, maps).astype(maps.dtype)
    np.savez_compressed(path, **arrays)


def test_what_did_not_change_is_the_same_to_the_byte(regress):
    said = regress()
    assert said.code == 0, said.err
    assert "nothing may move" in said.out
    assert "MOVED" not in said.out


def test_a_broken_loss_exits_with_3_and_names_method_class_and_image(regress, broken):
    said = regress("--plugin", broken)
    assert said.code == 3
    assert "smooseg" in said.err
    assert "training parts at step 1" in said.err
    assert "class that moved most: s" in said.err, "smooth or striped"
    assert "image that moved most: scene-10" in said.err
    assert "--update" in said.err
    assert said.out.count("MOVED") == 1


def test_a_broken_loss_is_noticed_on_another_machine_as_well(regress, golden, broken):
    elsewhere(golden)
    assert regress("--plugin", broken).code == 3


def test_elsewhere_a_little_may_move_and_here_nothing(regress, golden):
    flip_pixels(golden, 0.01)
    assert regress().code == 3
    elsewhere(golden)
    said = regress()
    assert said.code == 0, said.err
    assert re.search(r"torch \S+ instead of 0\.0", said.out)
    assert "within tolerance" in said.out
    flip_pixels(golden, 0.05)
    assert regress().code == 3


def test_a_run_whose_inputs_are_others_has_moved_and_says_which(regress, golden):
    plan = golden / "plan.toml"
    plan.write_text(plan.read_text().replace("steps = 20", "steps = 21"))
    said = regress()
    assert said.code == 3
    assert "parameter steps is 21 and was 20" in said.err


def test_runs_that_only_plan_or_golden_files_have_are_told(regress, golden):
    plan = golden / "plan.toml"
    plan.write_text(plan.read_text().replace('"constant"', '"random"'))
    said = regress()
    assert said.code == 3
    assert "constant-tiny-s0" in said.out
    assert "random-tiny-s0" in said.out


def test_an_update_says_what_moved_and_leaves_no_old_files(regress, golden, broken):
    plan = golden / "plan.toml"
    plan.write_text(plan.read_text().replace('"constant"', '"random"'))
    said = regress("--update", "--plugin", broken)
    assert said.code == 0, said.err
    assert "Say in the commit message why these runs moved" in said.out
    assert {path.name for path in golden.glob("*.npz")} == {"random-tiny-s0.npz", "smooseg-tiny-s0.npz"}
    assert regress("--plugin", broken).code == 0


def test_golden_files_that_are_missing_or_damaged_are_named(regress, golden):
    (golden / "smooseg-tiny-s0.npz").write_bytes(b"PK\x03\x04 and no more")
    said = regress()
    assert said.code == 1
    assert "smooseg-tiny-s0.npz" in said.err
    (golden / "golden.json").unlink()
    said = regress()
    assert said.code == 2
    assert "--update" in said.err
    (golden / "plan.toml").write_text("seeds = 3")
    assert regress().code == 1


def test_disagreement_is_that_of_the_best_renumbering_by_brute_force():
    rng = np.random.default_rng(1)
    before = rng.integers(0, 4, (3, 8, 9))
    after = np.where(rng.random(before.shape) < 0.3, rng.integers(0, 4, before.shape), before)
    after = np.array([2, 0, 3, 1])[after]
    renumberings = (np.array(one) for one in itertools.permutations(range(4)))
    best = min(float((one[before] != after).mean()) for one in renumberings)
    assert disagreement(before, after).mean() == pytest.approx(best)
    assert not disagreement(before, np.array([3, 2, 0, 1])[before]).any()


def test_the_committed_plan_has_every_built_in_method_with_two_seeds():
    registry = Registry()
    plan = read_plan(REPOSITORY / "leaderboards" / "golden")
    cells = [cell for table in plan.runs for cell in table.over(plan.defaults).cells()]
    assert {(one.method, one.seed) for one in cells} == set(
        itertools.product(registry.names("methods"), (0, 1))
    )
