"""The published runs of PiCIE and MDC as their pages give them: what they ask for, and that they run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import test_published_runs as published_runs
import timm
import torch
from PIL import Image

from uss_bench.claims import claim_differences, claims_for, load_claims
from uss_bench.results.files import read_record

Published = published_runs.Published
small_roots = published_runs.roots


RUNS = [one for method in ("picie", "mdc") for one in published_runs.rows(method)]


def called(run: Published) -> str:
    return f"{run.option('method')} {run.option('dataset')}"


@pytest.fixture(scope="module")
def roots(small_roots: dict[str, Path]) -> dict[str, Path]:
    """The same files with four times the pixels a side: a patch of the backbone has 32."""
    for name in {run.option("dataset") for run in RUNS}:
        for path in small_roots[name].rglob("*.*g"):
            with Image.open(path) as opened:
                larger = opened.resize((4 * opened.width, 4 * opened.height), Image.Resampling.NEAREST)
            larger.save(path)
    return small_roots


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights by the names and shapes of torchvision's file."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("checkpoints") / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), file)
    return file


def test_every_page_has_both_datasets():
    assert [called(run) for run in RUNS] == [
        f"{method} {dataset}" for method in ("picie", "mdc") for dataset in ("cocostuff27", "cityscapes27")
    ]


@pytest.mark.parametrize(
    "run",
    # Each method once and each dataset once in every suite, the others in the long one.
    [pytest.param(run, marks=[pytest.mark.slow] * (n in (1, 2))) for n, run in enumerate(RUNS)],
    ids=called,
)
def test_the_command_runs_and_is_the_experiment_of_its_claim(run, command, roots, checkpoint, tmp_path):
    """At 64 pixels for one epoch of two images; the cell differs from the claim by just that."""
    words = shlex.split(run.command.replace("ROOT", str(roots[run.option("dataset")])))[1:]
    place = words.index("--protocol") + 1
    assert words[place] == "picie@1"
    words[place] = "picie@1[eval_side=64]"
    small = ["--training", "side=64", "--set", "epochs=1", "--set", "batch_size=2"]
    small += ["--data", "partial=true", "--weights", checkpoint, "--out", tmp_path, "--quiet"]
    said = command(*words, *small)
    assert said.code == 0, said.err
    (path,) = tmp_path.glob("*/*.json")
    record = read_record(path)
    assert record.status == "done"
    assert record.last.raw.pixels > 0
    assert record.last.crf is None
    assert record.curves
    claims = [
        one
        for one in claims_for(load_claims(), method=run.option("method"), dataset=run.option("dataset"))
        if (one.accuracy, one.miou) == (run.accuracy, run.miou)
    ]
    assert claims
    split, train = claims[0].split, claims[0].train_split
    assert set(claim_differences(claims[0], record.cell)) == {
        f"test split {split}-partial instead of {split}",
        f"train split {train}-partial instead of {train}",
        "eval_side 64 instead of 320",
        "training side 64 instead of 320",
    }
