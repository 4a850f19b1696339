"""A record's command tells where things lie: what takes a record needs no flag of the run again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from running import PLUGINS, SMALL

from uss_bench.errors import RunError
from uss_bench.experiment.recipe import find_recipe, read_recipe
from uss_bench.plugins.registry import Registry
from uss_bench.results.files import find_record, read_record


def photos(folder: Path) -> Path:
    """Write four labeled pictures, left half dark, as a `folder` dataset with its classes file."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for index in range(2):
            label = (np.arange(40) >= 20).astype(np.uint8)[None].repeat(40, axis=0)
            noise = rng.integers(0, 30, (40, 40, 3)) + 200 * label[..., None]
            Image.fromarray(noise.astype(np.uint8)).save(folder / "images" / split / f"{index}.png")
            Image.fromarray(label).save(folder / "labels" / split / f"{index}.png")
    rows = [
        '[[classes]]\nname = "dark"\ncolor = [9, 0, 0]\n',
        '[[classes]]\nname = "light"\ncolor = [99, 0, 0]\n',
    ]
    (folder / "classes.toml").write_text('name = "photos"\n' + "".join(rows))
    return folder


@pytest.fixture
def renamed(command, tmp_path, random_vit) -> Path:
    """The results folder of a run on a renamed backbone with weights of its own, on data of its own."""
    data = photos(tmp_path / "data")
    words = ["--method", "dino", "--dataset", "folder", "--root", data, "--classes", data / "classes.toml"]
    vit = random_vit
    words += ["--backbone", vit["backbone"], "--weights", vit["weights"], "--backbone-name", "mine"]
    words += [
        "--set",
        "steps=3",
        "--protocol",
        SMALL,
        "--out",
        tmp_path / "results",
        "--workers",
        1,
        "--quiet",
    ]
    said = command("run", *words)
    assert said.code == 0, said.err
    return tmp_path / "results"


def the_record(results: Path) -> Path:
    return find_record("", [results])


def test_predict_finds_the_renamed_backbone_and_its_weights(renamed, command, tmp_path):
    words = ["--images", tmp_path / "data" / "images" / "test", "--out", tmp_path / "maps", "--workers", 1]
    said = command("predict", "--record", the_record(renamed), *words)
    assert said.code == 0, said.err
    assert {path.name for path in (tmp_path / "maps").glob("[!.]*")} == {"0.png", "1.png", "legend.json"}


def test_a_probe_finds_data_backbone_and_weights(renamed, command):
    words = ["--out", renamed, "--steps", 2, "--workers", 1, "--quiet"]
    said = command("probe", read_record(the_record(renamed)).id[:8], *words)
    assert said.code == 0, said.err
    result = json.loads(the_record(renamed).with_suffix(".probe.json").read_text())
    assert result["backbone"]["name"] == "mine"


def test_errors_and_rerun_need_no_flags_either(renamed, command):
    record = the_record(renamed)
    assert command("errors", record, "--resamples", 3).code == 0
    said = command("rerun", record, "--workers", 1, "--quiet")
    assert said.code == 0, said.err
    assert "Every count is equal." in said.out


def test_what_lies_elsewhere_now_is_named_by_the_user_alone(renamed, command, tmp_path):
    shutil.move(tmp_path / "data", tmp_path / "moved")
    record = the_record(renamed)
    words = ["--out", renamed, "--steps", 2, "--workers", 1, "--quiet"]
    assert command("probe", record, *words).code != 0
    moved = tmp_path / "moved"
    said = command("probe", record, "--root", moved, "--classes", moved / "classes.toml", *words)
    assert said.code == 0, said.err


def test_a_recipe_drops_the_files_of_what_is_replaced(renamed):
    record = read_record(the_record(renamed))
    same = read_recipe(record)
    assert same.options["weights"]
    assert same.options["root"]
    other = read_recipe(record, backbone="patchstats", dataset="tiny")
    assert (other.options["weights"], other.options["root"]) == (None, None)
    kept = read_recipe(record, backbone=record.command.split("--backbone ")[1].split()[0])
    assert kept.options["weights"] == same.options["weights"]
    assert read_recipe(record, root=Path("there")).command.endswith("--root there")


def test_a_record_without_a_command_is_found_by_its_names(run):
    record = replace(run("dino", "tiny", params={"steps": 2}).record, command="")
    with pytest.raises(RunError, match="not made by 'uss-bench run'"):
        read_recipe(record)
    setup = find_recipe(record).setup(Registry([PLUGINS]))
    assert setup.cell(record.cell.seed).id == record.cell.id
