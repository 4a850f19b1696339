"""PriMaPs-EM's published runs as its page gives them: what they ask for, and that they run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import test_published_runs as published_runs
import torch
from checkpoint_files import genuine

from uss_bench.claims import claims_for, load_claims
from uss_bench.results.files import read_record
from uss_bench.results.record import base_cells

Published = published_runs.Published
roots = published_runs.roots
VITS = {**published_runs.VITS, "dinov2_vits14": (384, 14)}
COUNTS = {"cityscapes27": 2975, "cocostuff27": 49_629, "potsdam3": 4545}
"""Training images; two and fifty epochs of 32."""


RUNS = published_runs.rows("primaps")


def called(run: Published) -> str:
    return f"{run.option('dataset')} {run.option('backbone')}"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {}
    for name in ("dino_vits8", "dinov2_vits14"):
        dim, patch = VITS[name]
        family, side = ("dinov2", 37) if "dinov2" in name else ("dino", 28)
        files[name] = folder / f"{name}.pth"
        torch.save(genuine(family, dim, patch, side), files[name])
    return files


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DINOv2's cards without the digests that random weights cannot have; DINO's cards state none."""
    folder = tmp_path_factory.mktemp("cards")
    for name, model, dim in (("dinov2_vitb14", "base", 768), ("dinov2_vits14", "small", 384)):
        (folder / name).mkdir()
        (folder / name / "spec.toml").write_text(
            f'kind = "backbone"\nname = "{name}"\ntitle = "none"\nsummary = "none"\nadapter = "timm"\n'
            f'overrides = true\nparams = {{ model = "vit_{model}_patch14_dinov2.lvd142m" }}\n'
            f"patch = 14\ndim = {dim}\n"
        )
    return folder


def test_the_page_has_every_published_number_and_no_other():
    claimed = {
        (one.dataset, one.backbone, one.accuracy, one.miou)
        for dataset in COUNTS
        for one in claims_for(load_claims(), method="primaps", dataset=dataset)
        if not one.variant
    }
    stated = {(run.option("dataset"), run.option("backbone"), run.accuracy, run.miou) for run in RUNS}
    assert stated == claimed
    assert len(RUNS) == 12


def run_it(run, command, roots, checkpoints, cards, out: Path, *more: object):
    words = shlex.split(run.command.replace("ROOT", str(roots[run.option("dataset")])))[1:]
    eval_side = 28 if VITS[run.option("backbone")][1] == 14 else 32
    protocol = f"{run.option('protocol')[:-1]},eval_side={eval_side}]"
    words[words.index("--protocol") + 1] = protocol
    words += ["--data", "partial=true", "--weights", checkpoints[run.option("backbone")], "--plugin", cards]
    words += ["--out", out, "--workers", 1, "--quiet", "--training", f"side={eval_side}"]
    few = {"steps": 2, "steps_init": 1, "batch_size": 2, "checkpoint_every": 1}
    words += [word for name, value in few.items() for word in ("--set", f"{name}={value}")]
    said = command(*words, *more)
    assert said.code == 0, said.err
    (path,) = out.glob("*/primaps-*.json")
    return said, read_record(path)


def chosen(run: Published) -> dict[str, int]:
    spec, _ = published_runs.Registry().method("primaps")
    (preset,) = [one for one in spec.presets if one.when == {"dataset": run.option("dataset")}]
    return preset.params


@pytest.mark.parametrize("run", RUNS, ids=called)
def test_budgets_are_two_and_fifty_epochs_in_batches(run):
    batches = COUNTS[run.option("dataset")] // 32
    params = chosen(run)
    assert (params["steps_init"], params["steps"], params["checkpoint_every"]) == (
        2 * batches,
        50 * batches,
        batches,
    )


ENDED = ("cityscapes27 dino_vits8", "cocostuff27 dinov2_vits14")
"""One of each patch; Potsdam-3 runs on top of STEGO below, and the others differ in names and width alone."""


@pytest.mark.parametrize("run", [run for run in RUNS if called(run) in ENDED], ids=called)
def test_a_command_runs_from_end_to_end(run, command, roots, checkpoints, cards, tmp_path):
    _, record = run_it(run, command, roots, checkpoints, cards, tmp_path)
    assert record.status == "done"
    assert record.cell.training.resize == record.protocol.resize == "bilinear"
    assert {"clustering", "maximization"} <= record.curves.keys()
    assert [one.step for one in record.candidates] == [1, 2, None]
    assert record.last.crf.pixels == record.last.raw.pixels > 0


def test_the_command_on_top_of_stego_runs_stego_first(command, roots, checkpoints, cards, tmp_path):
    (run,) = [one for one in RUNS if called(one) == "potsdam3 dino_vits8"]
    base = '{"method": "stego", "params": {"steps": 2, "batch_size": 2}}'
    _, record = run_it(run, command, roots, checkpoints, cards, tmp_path, "--set", f"base={base}")
    (stego,) = tmp_path.glob("*/stego-*.json")
    assert base_cells(record.cell)["base"].id == read_record(stego).id
    assert "clustering" not in record.curves
