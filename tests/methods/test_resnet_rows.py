"""Rows of SmooSeg's Table 1 on a ResNet-50, and SlotCon's read-out: the commands of the methods' pages, run.

Genuine are the commands, the formats of the data and the names and shapes of the checkpoints; images are few
and small, and weights random.
"""

from __future__ import annotations

import re
from pathlib import Path

import coco_files
import pytest
import torch
from checkpoint_files import moco_checkpoint, resnet50_state, slotcon_checkpoint
from PIL import Image
from test_published_runs import ROOT, VITS, Published, claim_of, rows

from uss_bench.claims import claim_differences, load_claims
from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_record

RESNETS = [
    run
    for method in ("dino", "stego", "smooseg")
    for run in rows(method)
    if run.option("backbone") not in VITS
]
SMALL = ("--protocol", "stego320@2[eval_side=64]", "--training", "side=64")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, state = tmp_path_factory.mktemp("resnets"), resnet50_state()
    found = {
        "resnet50": (folder / "resnet50.pth", state),
        "resnet50_mocov2": (folder / "moco_v2_800ep_pretrain.pth.tar", moco_checkpoint(state)),
        "resnet50_slotcon": (folder / "slotcon_full.pth", slotcon_checkpoint(state)),
    }
    for path, content in found.values():
        torch.save(content, path)
    return {name: path for name, (path, _) in found.items()}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of COCO, large enough that half of one holds a patch of 32 pixels."""
    folder = tmp_path_factory.mktemp("coco")
    for subset in ("train2017", "val2017"):
        coco_files.put_maps(coco_files.put_images(folder, subset), subset)
    for path in [*folder.rglob("*.jpg"), *folder.rglob("*.png")]:
        with Image.open(path) as picture:
            larger = picture.resize((128, 96), Image.Resampling.NEAREST)
        larger.save(path)
    return coco_files.put_lists(folder)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's card without the digest that random weights cannot have."""
    folder = tmp_path_factory.mktemp("cards") / "resnet50"
    folder.mkdir()
    (folder / "spec.toml").write_text(
        'kind = "backbone"\nname = "resnet50"\ntitle = "none"\nsummary = "none"\nentry = "again:ResNet50"\n'
        "overrides = true\npatch = 32\ndim = 2048\n"
    )
    (folder / "again.py").write_text(
        "from uss_bench.backbones.resnet50.resnet50 import ResNet50 as ResNet50\n"
    )
    return folder


def run_it(command, text: str, weights: Path, root: Path, card: Path, out: Path):
    words = text.replace("ROOT", str(root)).replace("FILE", str(weights)).split()[1:]
    words += [] if "--weights" in words else ["--weights", weights]
    words += ["--data", "partial=true", "--out", out, "--workers", 1, "--quiet", *SMALL]
    said = command(*words, "--set", "steps=2", "--set", "checkpoint_every=1", "--plugin", card)
    assert said.code == 0, said.err
    (path,) = out.glob("*/*.json")
    return read_record(path)


def test_the_rows_are_those_of_the_papers_table():
    """Every row of it that is on a ResNet-50 and has released weights and a released way to read them out."""
    printed = {
        (one.method, one.backbone, one.accuracy, one.miou)
        for one in load_claims()
        if one.paper == "smooseg" and one.table == "Table 1" and one.printed_backbone == "ResNet50"
    }
    pages = {(run.option("method"), run.option("backbone"), run.accuracy, run.miou) for run in RESNETS}
    assert printed - pages == {("slotcon", "resnet50_slotcon", 42.4, 18.3)}
    assert pages <= printed


@pytest.mark.parametrize("run", RESNETS, ids=str)
def test_a_row_runs_from_end_to_end_and_is_the_experiment_of_its_claim(
    run: Published, command, files, coco, card, tmp_path
):
    backbone = run.option("backbone")
    record = run_it(command, run.command, files[backbone], coco, card, tmp_path)
    assert record.status == "done"
    assert record.cell.backbone.name == backbone
    assert record.last.crf.pixels == record.last.raw.pixels > 0
    claim = claim_of(run)
    left = [one for one in claim_differences(claim, record.cell) if "partial" not in one]
    made_here = ("eval_side", "training side", "steps", "other weights")
    open_there = "the source does not say whether a CRF was applied"
    assert all(one.startswith(made_here) or one == open_there for one in left), left
    assert record.cell.method.params["standardize"] is False


def test_slotcons_read_out_runs_as_printed_on_a_file_in_the_genuine_layout(
    command, files, coco, card, tmp_path
):
    page = (ROOT / "methods/dino/README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^ {4}(uss-bench run .*resnet50_slotcon.*)$", page, re.M)
    record = run_it(command, text, files["resnet50_slotcon"], coco, card, tmp_path)
    assert record.cell.backbone.name == "resnet50_slotcon"
    assert (record.status, record.cell.method.name) == ("done", "dino")
    (claim,) = [one for one in load_claims() if one.method == "slotcon"]
    assert not claim.protocol
    assert "never released" in claim.note
    card_notes = " ".join(Registry().backbone("resnet50_slotcon")[0].notes)
    assert "Read-out never released" in card_notes
