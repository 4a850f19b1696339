"""What a cell trains on, and who interpolates positions: asked for, recorded, part of keys and ids."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from plugin_folders import write_plugin
from running import PLUGINS, SMALL, Run

from uss_bench.data.geometry import CROPS, corner_crop, resize_center_crop
from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.cells import CellSpec, Execution
from uss_bench.experiment.command_line import command_line
from uss_bench.experiment.plan_file import read_plan
from uss_bench.experiment.recipe import read_recipe
from uss_bench.experiment.resolving import resolve
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore
from uss_bench.plugins.params import training_geometry
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import MethodSpec, read_spec
from uss_bench.protocol import TrainingGeometry
from uss_bench.results.files import read_record, record_files

FIVE = TrainingGeometry(crops="five")
FIVE_JPEG = TrainingGeometry(crops="five", crop_jpeg=True)
TABLES = """
[[training]]
params = { side = 256, resize = "bilinear" }

[[training]]
when = { dataset = "tiny" }
params = { crops = "five", crop_ratio = 0.75 }

[[training]]
when = { dataset = ["tiny", "toy3"], backbone = "none" }
params = { side = 320 }
"""


def spec_of(folder: Path, more: str) -> MethodSpec:
    spec = read_spec(write_plugin(folder / "new", more=more) / "spec.toml")
    assert isinstance(spec, MethodSpec)
    return spec


# --- What a method's spec says -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["stego", "smooseg", "ds2dl", "dino", "eagle"])
@pytest.mark.parametrize("backbone", ["dino_vits8", "dinov2_vitb14"])
@pytest.mark.parametrize(
    ("dataset", "cropped"),
    [("cocostuff27", True), ("cityscapes27", True), ("potsdam3", False), ("toy3", False), ("folder", False)],
)
def test_the_lineage_crops_coco_and_cityscapes_and_never_potsdam(method, backbone, dataset, cropped):
    spec, _ = Registry().method(method)
    cropping = FIVE if method == "dino" else FIVE_JPEG
    found = training_geometry(spec, {}, dataset=dataset, backbone=backbone)
    assert found == (cropping if cropped else TrainingGeometry())


@pytest.mark.parametrize("method", ["constant", "random"])
def test_a_floor_trains_on_nothing_that_needs_crops(method):
    spec, _ = Registry().method(method)
    assert training_geometry(spec, {}, dataset="cocostuff27", backbone="none") == TrainingGeometry()


@pytest.mark.parametrize(
    ("dataset", "backbone", "fields"),
    [
        ("other", "vit", {"side": 256}),
        ("tiny", "vit", {"side": 256, "crops": "five", "crop_ratio": 0.75}),
        ("tiny", "none", {"side": 320, "crops": "five", "crop_ratio": 0.75}),
        ("toy3", "none", {"side": 320}),
        ("toy3", "vit", {"side": 256}),
    ],
)
def test_every_table_that_a_run_meets_holds_and_the_last_says_it(tmp_path, dataset, backbone, fields):
    spec = spec_of(tmp_path, TABLES)
    expected = TrainingGeometry(**{"resize": "bilinear", **fields})
    assert training_geometry(spec, {}, dataset=dataset, backbone=backbone) == expected
    chosen = training_geometry(spec, {"side": 64}, dataset=dataset, backbone=backbone)
    assert chosen == TrainingGeometry(**{"resize": "bilinear", **fields, "side": 64})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("params = { sides = 96 }", "unknown field `sides`"),
        ("params = { side = 'wide' }", "Expected `int`"),
        ("params = { side = 96 }\nwhen = { method = 'dino' }", "when"),
        ("when = { dataset = 'tiny' }", "missing required field `params`"),
    ],
)
def test_a_table_that_cannot_be_is_refused_when_the_spec_is_read(tmp_path, table, message):
    with pytest.raises(DataError, match=message):
        spec_of(tmp_path, f"[[training]]\n{table}\n")


# --- How it is asked for -------------------------------------------------------------------------

ASKED = CellSpec(
    method="dino",
    dataset="tiny",
    backbone="tinyvit",
    positions="timm",
    protocol="stego320@2[eval_side=96]",
    training={"side": 128, "resize": "bilinear", "crops": "five", "crop_ratio": 0.7, "crop_jpeg": True},
)


def test_a_cells_command_states_it(monkeypatch, command):
    from uss_bench.cli.commands import run as run_command

    seen: dict[str, CellSpec] = {}
    monkeypatch.setattr(run_command, "Asked", lambda spec: seen.setdefault("spec", spec) and 1 / 0)
    command(*shlex.split(command_line(ASKED, Execution(out="elsewhere")))[1:])
    assert seen["spec"] == ASKED


def test_a_plan_file_states_it_and_its_tables_override_key_by_key(registry, tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(
        '[defaults]\ndataset = "tiny"\nbackbone = "tinyvit"\npositions = "timm"\n'
        'training = { side = 128, resize = "bilinear" }\n'
        '[[runs]]\nmethod = "dino"\n[[runs]]\nmethod = "dino"\ntraining = { side = 96 }\n'
    )
    _, (first, other) = read_plan(path, registry)
    assert first.spec.training == {"side": 128, "resize": "bilinear"}
    assert other.spec.training == {"side": 96, "resize": "bilinear"}
    assert first.spec.positions == "timm"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--training", "sides=96"], "no field 'sides'"),
        (["--training", "side"], "side"),
        (["--training", "crop_jpeg=true"], "no effect without crops"),
        (["--training", "side=100"], "--training side=96"),
        (["--training", "fit=squash", "--training", "width=100"], "--training width=96"),
        (["--positions", "mine"], "'mine' is not one of 'dino', 'timm'"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused_before_anything_runs(command, tmp_path, words, message):
    options = ["--method", "dino", "--dataset", "tiny", "--backbone", "tinyvit", "--out", tmp_path]
    said = command("run", *options, "--protocol", SMALL, *words, "--plugin", PLUGINS)
    assert said.code == 2
    assert message in said.err
    assert not list(tmp_path.iterdir())


def test_a_run_is_made_with_what_was_asked_for_and_can_be_repeated(command, tmp_path, monkeypatch):
    monkeypatch.setenv("USS_BENCH_CACHE", str(tmp_path / "cache"))  # other tests have stored test features
    options = ["--method", "dino", "--dataset", "tiny", "--backbone", "patchstats", "--set", "steps=2"]
    words = [*options, "--protocol", SMALL, "--training", "side=64", "--training", "crops=five"]
    said = command("run", *words, "--plugin", PLUGINS, "--out", tmp_path / "out", "--workers", 1, "--quiet")
    assert said.code == 0, said.err
    (path,) = record_files(tmp_path / "out")
    record = read_record(path)
    assert record.cell.training == TrainingGeometry(side=64, crops="five")
    assert record.encoded_items == 6 * 5 + 4 * 2, "five crops of six images, and four test images twice"
    assert read_recipe(record).setup(Registry([PLUGINS])).cell(0) == record.cell
    assert "64×64, nearest, five crops" in command("show", path, "--plugin", PLUGINS).out


def test_a_protocol_of_schema_1_says_what_is_trained_on_too(command, tmp_path):
    options = ["--method", "dino", "--dataset", "tiny", "--backbone", "patchstats", "--set", "steps=2"]
    old = "stego320@1[train_side=64,eval_side=96,flip=false]"
    words = ["--protocol", old, "--plugin", PLUGINS, "--out", tmp_path, "--workers", 1, "--quiet"]
    assert command("run", *options, *words).code == 0
    (path,) = record_files(tmp_path)
    record = read_record(path)
    assert record.cell.protocol == "stego320@2[eval_side=96,flip=false]"
    assert record.cell.training == TrainingGeometry(side=64)
    assert f"asked for as protocol {old} of schema 1" in record.notes
    said = command("run", *options, *words, "--training", "side=32", "--dry-run")
    assert "pending" in said.out, "what is said apart has precedence"


# --- What it decides -----------------------------------------------------------------------------

TINY: dict[str, Any] = {"method": "dino", "dataset": "tiny", "protocol": SMALL}


def ids(*setups: Setup) -> set[str]:
    return {setup.cell(0).id for setup in setups}


@pytest.mark.parametrize(
    "training",
    [
        {"side": 64},
        {"resize": "bilinear"},
        {"fit": "squash"},
        {"crops": "five"},
        {"crops": "five", "crop_jpeg": True},
        {"crops": "five", "crop_ratio": 0.75},
        {"fit": "squash", "width": 128},
    ],
    ids=str,
)
def test_every_field_is_part_of_the_id_and_of_the_key_of_features(registry, tmp_path, training):
    setups = [
        resolve(CellSpec(**TINY, backbone="patchstats", training=one), registry)
        for one in ({"side": 96}, {"side": 96, **training})
    ]
    assert len(ids(*setups)) == 2
    store = setups[0].open_store(torch.device("cpu"), root=tmp_path)
    assert len({store.key(setup.training_items()) for setup in setups}) == 2
    assert len({store.key(setup.evaluation_items()) for setup in setups}) == 1
    assert len({setup.cell(0).protocol_hash for setup in setups}) == 1, "it is no part of the evaluation"


def test_what_says_the_default_is_the_default(registry):
    said = {"fit": "crop", "crops": "none", "resize": "nearest", "side": 224, "width": None}
    setups = [resolve(CellSpec(**TINY, backbone="patchstats", training=one), registry) for one in ({}, said)]
    assert len(ids(*setups)) == 1


def test_items_are_the_crops_of_the_images(registry):
    training = {"side": 32, "crops": "five", "resize": "bilinear", "crop_ratio": 0.75}
    setup = resolve(CellSpec(**TINY, backbone="patchstats", training=training), registry)
    items, images = setup.training_items(), setup.train_images
    assert len(items) == len(images) * len(CROPS)
    for index in (0, 3, 9):
        image, crop = divmod(index, 5)
        expected = resize_center_crop(corner_crop(images.image(image), crop, 0.75), 32, "bilinear")
        np.testing.assert_array_equal(items[index], expected)


@pytest.fixture(scope="session")
def registers(tmp_path_factory) -> Path:
    """Weights of a ViT with registers, whose positions are not negligible."""
    path = tmp_path_factory.mktemp("weights") / "reg.safetensors"
    torch.manual_seed(0)
    state = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0).state_dict()
    safetensors.torch.save_file({name: value.clone() for name, value in state.items()}, path)
    return path


def test_the_rule_for_positions_is_part_of_the_backbones_identity(registry, registers, tmp_path):
    asked = {**TINY, "protocol": "stego322@2[eval_side=42]", "training": {"side": 42}}
    network = {"backbone": "vit_small_patch14_reg4_dinov2", "weights": str(registers)}
    own, timms, dinos = (
        resolve(CellSpec(**asked, **network, positions=rule), registry) for rule in (None, "timm", "dino")
    )
    assert [one.cell(0).backbone.positions for one in (own, timms, dinos)] == ["timm", "timm", "dino"]
    assert len(ids(own, timms)) == 1
    assert len(ids(own, dinos)) == 2
    assert own.cell(0).protocol_hash == dinos.cell(0).protocol_hash, "one hash keeps one meaning"
    keys = [
        FeatureStore(tmp_path, one.backbone, device=torch.device("cpu"), dtype="float16").key(
            one.training_items()
        )
        for one in (own, timms, dinos)
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_backbone_that_has_no_positions_takes_no_rule(registry):
    with pytest.raises(UsageError, match="positions"):
        resolve(CellSpec(**TINY, backbone="patchstats", positions="timm"), registry)


def test_a_run_on_squashed_images_of_unequal_sides(run: Run):
    training = {"fit": "squash", "side": 48, "width": 80}
    entry = run("dino", backbone="patchstats", params={"steps": 3}, training=training)
    assert entry.record.cell.training == TrainingGeometry(fit="squash", side=48, width=80)
    streamed = run("dino", backbone="patchstats", params={"steps": 3}, training=training, budget=0)
    np.testing.assert_array_equal(entry.arrays.counts["last", "raw"], streamed.arrays.counts["last", "raw"])
