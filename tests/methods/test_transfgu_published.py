"""TransFGU's published runs as its page gives them: what they ask for, and that they run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import test_published_runs as published_runs
import torch
from checkpoint_files import genuine

from uss_bench.claims import claim_differences, claims_for, load_claims
from uss_bench.results.files import read_record

Published = published_runs.Published
roots = published_runs.roots
GRID = (4, 4)
"""Patches of an image here; Cityscapes' images have twice as many along."""


RUNS = published_runs.rows("transfgu")


def called(run: Published) -> str:
    return f"{run.option('dataset')} {run.accuracy}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights by the names and shapes of DINO's file."""
    file = tmp_path_factory.mktemp("checkpoints") / "dino_vits8.pth"
    torch.save(genuine("dino", 384, 8, 28), file)
    return file


def claim_of(run: Published):
    (claim,) = {
        one.split: one
        for one in claims_for(load_claims(), method="transfgu", dataset=run.option("dataset"), variants=True)
        if (round(one.accuracy, 1), round(one.miou, 1)) == (run.accuracy, run.miou)
    }.values()
    return claim


def test_every_number_of_the_page_is_a_claim():
    assert [called(run) for run in RUNS] == ["cocostuff27 52.7", "cocostuff27 44.5", "cityscapes27 77.9"]
    for dataset in ("cocostuff27", "cityscapes27"):
        claimed = {
            (round(one.accuracy, 1), round(one.miou, 1))
            for one in claims_for(load_claims(), method="transfgu", dataset=dataset, variants=True)
        }
        stated = {(run.accuracy, run.miou) for run in RUNS if run.option("dataset") == dataset}
        assert stated <= claimed


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=called)
def test_the_command_runs_and_is_the_experiment_of_its_claim(run, command, roots, checkpoint, tmp_path):
    """On few images of few patches and for one epoch; the cell differs from the claim by just that."""
    words = shlex.split(run.command.replace("ROOT", str(roots[run.option("dataset")])))[1:]
    is_wide = run.option("dataset") == "cityscapes27"
    height, width = 8 * GRID[0], 8 * GRID[1] * (1 + is_wide)
    sides = f"eval_side={height},eval_width={width}" if is_wide else f"eval_side={height}"
    words[words.index("--protocol") + 1] = f"transfgu@1[{sides}]"
    words += ["--training", f"side={height}", *(["--training", f"width={width}"] if is_wide else [])]
    for name, value in {"epochs": 1, "passes": 1, "batch_size": 2, "window_stride": 1.0}.items():
        words += ["--set", f"{name}={value}"]
    words += ["--data", "partial=true", "--weights", checkpoint, "--out", tmp_path, "--quiet"]
    said = command(*words)
    assert said.code == 0, said.err
    (path,) = tmp_path.glob("*/*.json")
    record = read_record(path)
    assert record.status == "done"
    assert record.cell.seed == 2021
    assert record.last.raw.pixels > 0
    assert record.last.crf is None
    assert {"pseudo_label", "uncertainty", "diversity", "shuffled"} <= record.curves.keys()
    assert record.cell.method.params["foreground"] == (0 if is_wide else 12)
    claim = claim_of(run)
    found = set(claim_differences(claim, record.cell))
    assert found == {
        f"test split {claim.split}-partial instead of {claim.split}",
        *(
            [f"train split {claim.train_split}-partial instead of {claim.train_split}"]
            if claim.train_split  # the claim of 44.5 does not say
            else []
        ),
        f"eval_side {height} instead of 320",
        f"training side {height} instead of 320",
        *(
            [f"eval_width {width} instead of 640", f"training width {width} instead of 640"]
            if is_wide
            else []
        ),
    }
