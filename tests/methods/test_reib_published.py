"""ReIB's runs as its page gives them, upon STEGO: genuine formats, small files, random weights."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import test_published_runs as published_runs
import torch
from checkpoint_files import genuine
from PIL import Image

from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_record
from uss_bench.results.record import base_cells

genuine_roots = published_runs.roots
README = published_runs.ROOT / "methods" / "reib" / "README.md"
COMMANDS = re.findall(r"^    (uss-bench run --method reib .+)$", README.read_text(encoding="utf-8"), re.M)
VITS = {"dinov3_vits16": 384, "dinov3_vitb16": 768}


@pytest.fixture(scope="module")
def roots(genuine_roots: dict[str, Path]) -> dict[str, Path]:
    """Those of the other methods, but Cityscapes in images that hold a patch of 16 pixels."""
    for path in genuine_roots["cityscapes27"].rglob("*.png"):
        with Image.open(path) as image:
            larger = image.resize((4 * image.width, 4 * image.height), Image.Resampling.NEAREST)
        larger.save(path)
    return genuine_roots


def option(command: str, name: str) -> str:
    words = shlex.split(command)
    return words[words.index(f"--{name}") + 1]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {name: folder / f"{name}.pth" for name in VITS}
    for name, dim in VITS.items():
        torch.save(genuine("dinov3", dim, 16, 0), files[name])
    return files


def test_the_page_has_a_command_for_every_published_preset():
    spec, _ = Registry().method("reib")
    chosen = {(one.when["dataset"], one.when["backbone"]) for one in spec.presets if len(one.when) == 2}
    assert {(option(one, "dataset"), option(one, "backbone")) for one in COMMANDS} == chosen


@pytest.mark.parametrize("asked", COMMANDS, ids=lambda one: option(one, "dataset"))
def test_a_command_runs_from_end_to_end_upon_stego(asked, command, roots, checkpoints, tmp_path):
    dataset, backbone = option(asked, "dataset"), option(asked, "backbone")
    spec, _ = Registry().method("reib")
    (preset,) = [one for one in spec.presets if one.when == {"dataset": dataset, "backbone": backbone}]
    base = preset.params["base"]
    few = {"steps": 2, "batch_size": 2, "checkpoint_every": 1}
    base = {**base, "params": {**base["params"], **few}}
    words = shlex.split(asked.replace("ROOT", str(roots[dataset])))[1:]
    words += ["--data", "partial=true", "--weights", checkpoints[backbone], "--workers", 1, "--quiet"]
    words += ["--protocol", "stego320@2[eval_side=64]", "--training", "side=64", "--out", tmp_path]
    words += [word for name, value in few.items() for word in ("--set", f"{name}={value}")]
    said = command(*words, "--set", f"base={json.dumps(base)}")
    assert said.code == 0, said.err
    (stego,), (path,) = tmp_path.glob("*/stego-*.json"), tmp_path.glob("*/reib-*.json")
    record = read_record(path)
    assert record.status == "done"
    assert base_cells(record.cell)["base"].id == read_record(stego).id
    assert [one.step for one in record.candidates] == [1, 2, None]
    assert record.cell.method.params["hidden"] == preset.params["hidden"]
    assert record.last.crf.pixels == record.last.raw.pixels > 0
