"""Files and other runs as parameters, and maps laid over a dataset: in a run's identity, and found again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from running import PLUGINS
from safetensors.torch import load

from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.plan_file import Asked, RunTable
from uss_bench.launch.planning import plan_cells
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_record, read_state
from uss_bench.results.record import base_cells

FEW = {"steps": 3, "batch_size": 3}
SMALL = "stego320@2[eval_side=96]"
CELL = {"backbone": "patchstats", "training": {"side": 96}}


@pytest.fixture
def codebook(tmp_path) -> Path:
    path = tmp_path / "codebook.npy"
    np.save(path, np.random.default_rng(0).normal(size=(6, 48)).astype(np.float32))
    return path


@pytest.fixture
def maps(tmp_path) -> Path:
    folder = tmp_path / "depth"
    folder.mkdir()
    dataset, _ = load_dataset(Registry([PLUGINS]), "tiny", {})
    for split in dataset.splits:
        for index, name in enumerate(dataset.images(split).ids):
            np.save(folder / f"{name}.npy", np.full((48, 60), 1.0 + index))
    return folder


# --- Files -----------------------------------------------------------------------------------------


def test_a_file_enters_the_identity_by_its_content(run, codebook, tmp_path):
    def cell(path: Path | None):
        params = {} if path is None else {"codebook": str(path)}
        return run.setup("cause-like", params=params, **CELL).cell(0)

    first = cell(codebook)
    assert first.method.params["codebook"].startswith("sha256:")
    assert cell(None).method.params["codebook"] is None
    moved = tmp_path / "elsewhere.npy"
    shutil.move(codebook, moved)
    assert cell(moved).id == first.id
    np.save(moved, np.zeros((6, 48), np.float32))
    assert cell(moved).id != first.id != cell(None).id


def test_a_method_receives_the_file_itself(run, codebook):
    outcome = run("cause-like", params={"codebook": str(codebook), "steps": 1}, **CELL)
    state = load(read_state(outcome.path, outcome.record))
    np.testing.assert_array_equal(state["codebook.weight"], np.load(codebook))


def test_a_file_that_is_not_there_is_named(run, tmp_path):
    with pytest.raises(UsageError, match=r"codebook: .*none.npy cannot be read: No such file"):
        run.setup("cause-like", params={"codebook": str(tmp_path / "none.npy")}, **CELL)
    with pytest.raises(UsageError, match=r"codebook is a file, of which a record knows the digest alone"):
        run.setup("cause-like", params={"codebook": "sha256:0123"}, **CELL)


def test_a_record_with_a_file_is_repeated_from_its_command(command, codebook, tmp_path):
    options = ("--protocol", SMALL, "--training", "side=96", "--plugin", PLUGINS, "--quiet")
    asked = ("--method", "cause-like", "--dataset", "tiny", "--backbone", "patchstats", *options)
    said = command(
        "run", *asked, "--set", f"codebook={codebook}", "--set", "steps=2", "--out", tmp_path / "out"
    )
    assert said.code == 0, said.err
    (record,) = tmp_path.glob("out/tiny/*.json")
    again = command("rerun", record, "--plugin", PLUGINS, "--quiet")
    assert again.code == 0, again.err
    assert "Every count is equal" in again.out
    np.save(codebook, np.zeros((6, 48), np.float32))
    changed = command("rerun", record, "--plugin", PLUGINS, "--quiet")
    assert changed.code == 1
    assert "codebook" in changed.out + changed.err


# --- Other runs ------------------------------------------------------------------------------------


def booster(run, base, seed: int = 0, **params):
    return run("booster-like", params={"base": base, **params}, seed=seed, **CELL)


BASES = {
    "name": lambda first: "stego",
    "table": lambda first: {"method": "stego", "params": FEW},
    "record": lambda first: str(first.path),
}


@pytest.mark.parametrize("kind", BASES)
def test_a_run_is_built_upon_another_of_the_same_seed(run, kind):
    params = {} if kind == "name" else FEW
    if kind == "name":  # the base's own defaults are those of a run that is asked for by its name
        run = type(run)(run.registry, run.folder)
        pytest.importorskip("torch")
        setup = run.setup("booster-like", params={"base": "stego"}, **CELL)
        stated = setup.params["base"]
        assert stated["method"] == "stego"
        assert stated["params"] == run.setup("stego", **CELL).params
        assert base_cells(setup.cell(3))["base"].id == run.setup("stego", **CELL).cell(3).id
        return
    first = run("stego", params=params, **CELL)
    outcome = booster(run, BASES[kind](first))
    assert base_cells(outcome.record.cell)["base"].id == first.record.id
    state, base = (load(read_state(one.path, one.record)) for one in (outcome, first))
    for name, value in base.items():
        np.testing.assert_array_equal(state[f"base.{name}"], value)
    note = f"base is record {first.record.id} with state {first.record.state_sha256[:12]}"
    assert note in read_record(outcome.path).notes


def test_each_seed_has_its_own_base_and_parameters_of_the_base_are_part_of_the_identity(run):
    cells = {
        (steps, seed): run.setup(
            "booster-like", params={"base": {"method": "stego", "params": {"steps": steps}}}, **CELL
        ).cell(seed)
        for steps in (3, 4)
        for seed in (0, 1)
    }
    assert len({cell.id for cell in cells.values()}) == 4
    assert len({base_cells(cell)["base"].id for cell in cells.values()}) == 4


def test_a_base_that_was_not_run_is_named_before_anything_is_trained(run):
    with pytest.raises(
        UsageError, match=r"a run of 'stego' with seed 7 on the same data and backbone, is not in"
    ):
        booster(run, {"method": "stego", "params": FEW}, seed=7)


def test_what_is_no_method_and_no_record_is_refused(run, maps):
    with pytest.raises(UsageError, match="'stegos'"):
        run.setup("booster-like", params={"base": "stegos"}, **CELL)
    with pytest.raises(UsageError, match="base states param wrongly"):
        run.setup("booster-like", params={"base": {"method": "stego", "param": {}}}, **CELL)
    other = run("dino", params=FEW, backbone="random_cnn", training={"side": 96})
    with pytest.raises(UsageError, match="made on other data or with another backbone"):
        run.setup("booster-like", params={"base": str(other.path)}, **CELL)


def test_a_booster_predicts_without_the_base_s_record(run, tmp_path):
    from uss_bench.experiment.restoring import restore_method

    first = run("stego", params=FEW, **CELL)
    outcome = booster(run, str(first.path))
    first.path.unlink()
    setup = run.setup("dino", **CELL)
    store = run.store(setup)
    method = restore_method(outcome.path, outcome.record, setup.backbone, run.registry, store.device)
    features = store.open(setup.evaluation_items(), ["tokens"])
    assert method.classify(method.embed(features.batch([0, 1]))).shape[:2] == (2, 2)


def test_a_trained_state_is_a_base_for_every_seed_and_stands_in_the_cell_by_its_digest(run, tmp_path):
    first = run("stego", params=FEW, **CELL)
    copy = tmp_path / "elsewhere" / first.path.name
    copy.parent.mkdir()
    for suffix in (".json", ".safetensors"):
        shutil.copy(first.path.with_suffix(suffix), copy.with_suffix(suffix))
    first.path.unlink()
    file = str(copy.with_suffix(".safetensors"))
    for seed in (0, 5):
        outcome = booster(run, file, seed=seed)
        stated = outcome.record.cell.method.params["base"]
        assert stated["state"] == first.record.state_sha256
        assert base_cells(outcome.record.cell) == {}, "no run of this seed has to come first"
        state, base = (
            load(read_state(path, record))
            for path, record in ((outcome.path, outcome.record), (copy, first.record))
        )
        for name, value in base.items():
            np.testing.assert_array_equal(state[f"base.{name}"], value)
    named = run.setup("booster-like", params={"base": {"method": "stego", "params": FEW}}, **CELL)
    assert named.cell(0).id != run.setup("booster-like", params={"base": file}, **CELL).cell(0).id
    with pytest.raises(UsageError, match="of which a record knows the digest alone"):
        run.setup("booster-like", params={"base": stated}, **CELL)


def test_what_is_derived_from_a_base_follows_its_state(run, monkeypatch):
    """Two states of one cell, as another machine or --force may leave them, give two artifacts."""
    from uss_bench.experiment.assets import BaseRun

    base = {"method": "stego", "params": FEW}
    run("stego", params=FEW, **CELL)
    states = []
    usual = BaseRun.state.fget
    monkeypatch.setattr(BaseRun, "state", property(lambda self: states.append(usual(self)) or usual(self)))
    booster(run, base)
    before = set(run.folder.glob("features/**/derived/*"))
    booster(run, base)
    assert set(run.folder.glob("features/**/derived/*")) == before
    assert len(set(states)) == 1
    monkeypatch.setattr(BaseRun, "state", property(lambda self: "0" * 64))
    booster(run, base)
    assert len(set(run.folder.glob("features/**/derived/*")) - before) == 1


def test_a_run_upon_another_is_repeated_from_its_record(command, tmp_path):
    options = ("--protocol", SMALL, "--training", "side=96", "--plugin", PLUGINS, "--quiet")
    asked = ("--method", "booster-like", "--dataset", "tiny", "--backbone", "patchstats", *options)
    upon = ("--set", 'base={"method": "stego", "params": {"steps": 2, "batch_size": 3}}')
    said = command("run", *asked, *upon, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    (record,) = tmp_path.glob("out/tiny/booster-like*.json")
    (base,) = tmp_path.glob("out/tiny/stego*.safetensors")
    again = command("rerun", record, "--plugin", PLUGINS, "--quiet")
    assert again.code == 0, again.err
    assert "Every count is equal" in again.out
    # and from a state that is named by its file
    said = command("run", *asked, "--set", f"base={base}", "--out", tmp_path / "other")
    assert said.code == 0, said.err
    (record,) = tmp_path.glob("other/tiny/*.json")
    again = command("rerun", record, "--plugin", PLUGINS, "--quiet")
    assert again.code == 0, again.err


def test_plans_add_the_runs_that_others_build_upon(registry, codebook):
    def names(*methods: str, **params):
        table = RunTable(
            method=list(methods),
            dataset="tiny",
            backbone="patchstats",
            protocol=SMALL,
            training={"side": 96},
            params=params,
            seeds=2,
        )
        return [(one.setting, one.spec.seed) for one in plan_cells(list(map(Asked, table.cells())), registry)]

    own = [("", 0), ("", 1)]
    assert names("booster-like", base="dino") == [("dino (base)", 0), ("dino (base)", 1), *own]
    # a base may have a base, and what two build upon is run once
    nested = {"method": "booster-like", "params": {"base": "dino"}}
    assert [name for name, _ in names("booster-like", base=nested)] == [
        *["dino (base)", "dino (base)"],
        *["booster-like (base)", "booster-like (base)"],
        *["", ""],
    ]
    of_files = {"method": "cause-like", "params": {"codebook": str(codebook)}}
    assert names("booster-like", base=of_files) == own, "a base that reads files is left to who knows them"


def test_bases_that_differ_have_names_that_differ(registry):
    specs = [
        CellSpec(
            method="booster-like",
            dataset="tiny",
            protocol=SMALL,
            params={"base": base, "steps": steps},
            **CELL,
        )
        for base in ("dino", {"method": "dino", "params": {"steps": 7}})
        for steps in (2, 3)
    ]
    found = plan_cells(list(map(Asked, specs)), registry)
    bases = [one for one in found if one.spec.method == "dino"]
    assert len({one.setting for one in bases}) == len({one.cell.id for one in bases}) == 2


def test_a_study_runs_what_its_rows_build_upon(command, tmp_path):
    study = tmp_path / "boost.toml"
    study.write_text(
        'name = "boost"\ntitle = "Two steps and three"\nmethod = "booster-like"\n'
        'params = { base = { method = "dino", params = { steps = 2, batch_size = 3 } } }\n'
        'axis = { parameter = "steps", values = [2, 3] }\n'
    )
    options = ("--protocol", SMALL, "--training", "side=96", "--plugin", PLUGINS, "--quiet")
    asked = ("study", study, "--dataset", "tiny", "--backbone", "patchstats", "--seeds", 1, *options)
    said = command(*asked, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert len(list(tmp_path.glob("out/tiny/dino-*.json"))) == 1
    assert len(list(tmp_path.glob("out/tiny/booster-like-*.json"))) == 2
    assert "A method upon another one's code" in said.out
    assert "dino (base)" in said.out


def test_plans_put_bases_first_and_make_their_tasks_wait(registry, tmp_path):
    from uss_bench.experiment.cells import Execution
    from uss_bench.launch.tasks import make_tasks

    table = RunTable(
        method=["booster-like", "dino"],
        dataset="tiny",
        backbone="patchstats",
        protocol=SMALL,
        training={"side": 96},
        params={"booster-like.base": "dino"},
        seeds=2,
    )
    planned = plan_cells([Asked(spec) for spec in table.cells()], registry)
    assert [one.cell.method.name for one in planned] == ["dino", "dino", "booster-like", "booster-like"]
    _, tasks = make_tasks(planned, Execution(out="results"), tmp_path, jobs=2)
    by_name = {task.id: task for task in tasks}
    for one in planned[2:]:
        (base,) = base_cells(one.cell).values()
        needed = [by_name[name] for name in by_name if name.startswith("dino")]
        waiting = next(task for task in tasks if task.id.startswith(f"booster-like-s{one.cell.seed}"))
        assert [task.id for task in needed if task.id in waiting.after] == [
            f"dino-s{base.seed}-{base.id[:12]}"
        ]


# --- Maps ------------------------------------------------------------------------------------------


def test_maps_enter_the_cell_and_leave_the_data_alone(run, maps):
    without = run.setup("depthg-like", **CELL)
    given = run.setup("depthg-like", aux={"depth": str(maps)}, **CELL)
    assert given.fingerprint == without.fingerprint
    assert given.cell(0).dataset == without.cell(0).dataset
    assert set(given.cell(0).assets) == {"aux:depth"}
    assert without.cell(0).assets == {}
    np.save(maps / "scene-000.npy", np.zeros((48, 60)))
    changed = run.setup("depthg-like", aux={"depth": str(maps)}, **CELL)
    assert len({one.cell(0).id for one in (without, given, changed)}) == 3


def test_a_method_with_maps_shares_features_with_others(run, maps):
    run("dino", params=FEW, **CELL)
    outcome = run("depthg-like", params=FEW, aux={"depth": str(maps)}, **CELL)
    assert outcome.record.encoded_items == 0
    assert outcome.record.curves["depth"]


DAMAGES = {
    "missing": ("scene-101", None, r"1 images have no map in .* \(scene-101\)"),
    "size": ("scene-003", np.zeros((24, 30)), "'scene-003' is 30×24 pixels"),
    "NaN": ("scene-102", np.full((48, 60), np.nan), "'scene-102' holds NaN"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_wrong_maps_are_refused_before_training(run, maps, damage):
    name, values, message = DAMAGES[damage]
    (maps / f"{name}.npy").unlink()
    if values is not None:
        np.save(maps / f"{name}.npy", values)
    with pytest.raises(DataError, match=message):
        run("depthg-like", params=FEW, aux={"depth": str(maps)}, **CELL)


def test_maps_of_some_images_are_enough_for_a_limit(run, maps):
    (maps / "scene-101.npy").unlink()
    (maps / "scene-103.npy").unlink()
    outcome = run("depthg-like", params=FEW, aux={"depth": str(maps)}, limit=2, **CELL)
    assert outcome.record.images == 2


def test_the_command_line_lays_maps_over_and_repeats_it(command, maps, tmp_path):
    options = ("--protocol", SMALL, "--training", "side=96", "--plugin", PLUGINS, "--quiet")
    asked = ("--method", "depthg-like", "--dataset", "tiny", "--backbone", "patchstats", *options)
    few = ("--set", "steps=2", "--out", tmp_path / "out")
    assert command("run", *asked, *few, "--aux", f"depth={maps}").code == 0
    (path,) = tmp_path.glob("out/tiny/*.json")
    assert f"--aux depth={maps}" in read_record(path).command
    moved = maps.with_name("moved")
    maps.rename(moved)
    lost = command("rerun", path, "--plugin", PLUGINS, "--quiet")
    assert lost.code == 1
    assert "the folder does not exist" in lost.err
    again = command("rerun", path, "--plugin", PLUGINS, "--quiet", "--aux", f"depth={moved}")
    assert again.code == 0, again.err
    assert "Every count is equal" in again.out
    assert command("run", *asked, *few, "--aux", "depth").code == 2


def test_plan_files_and_cells_state_maps():
    table = RunTable(method="a", dataset="b", aux={"depth": "maps"})
    defaults = RunTable(aux={"heat": "heat", "depth": "other"})
    (spec,) = table.over(defaults).cells()
    assert spec.aux == {"heat": "heat", "depth": "maps"}
    assert CellSpec(method="a", dataset="b").aux == {}


def test_prediction_reads_maps_beside_any_images(command, run, tmp_path, monkeypatch):
    from PIL import Image

    outcome = run("infrared", **CELL)
    folder, heat = tmp_path / "photos", tmp_path / "heat"
    folder.mkdir(), heat.mkdir()
    for index, level in enumerate((40, 180)):
        Image.fromarray(np.full((32, 40, 3), 128, np.uint8)).save(folder / f"{index}.png")
        np.save(heat / f"{index}.npy", np.full((32, 40), level))
    asked = ("predict", "--record", outcome.path, "--images", folder, "--plugin", PLUGINS, "--no-crf")
    said = command(*asked, "--out", tmp_path / "maps", "--aux", f"infrared={heat}", "--quiet")
    assert said.code == 0, said.err
    found = [set(np.asarray(Image.open(tmp_path / "maps" / f"{index}.png")).ravel()) for index in (0, 1)]
    assert all(len(one) == 1 for one in found)
    assert found[0] != found[1]
