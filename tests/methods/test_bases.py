"""PriMaPs-EM and ReIB on top of a record: of a run, and of an official checkpoint that was imported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from released_files import lineage_head, prefixed, save_lightning
from running import PLUGINS
from safetensors.torch import load
from torch import nn

from uss_bench.results.files import read_record, read_state
from uss_bench.results.record import base_cells

CHANNELS, DIM, CLUSTERS = 192, 10, 4
FEW = {
    "primaps": {"steps": 1, "batch_size": 2, "lr": 0.0, "view": "none", "flip": "false"},
    "reib": {"steps": 1, "batch_size": 2, "lr": 0.0, "lr_probe": 0.0, "dim": DIM, "samples": 3},
}


def imported(command, folder: Path, where: list[object]) -> None:
    """Import a STEGO checkpoint with the genuine keys and random values."""
    torch.manual_seed(3)
    head = lineage_head(CHANNELS, DIM, nn.ReLU)
    state = prefixed("net.", dict(head.state_dict()))
    state |= {
        "cluster_probe.clusters": torch.randn(CLUSTERS, DIM),
        "linear_probe.weight": torch.randn(3, DIM, 1, 1),
        "train_cluster_probe.clusters": torch.randn(3, DIM),
    }
    options = {"arch": "dino", "dino_feat_type": "feat", "projection_type": "nonlinear", "continuous": True}
    said = command(
        "import-state", "stego", save_lightning(folder / "official.ckpt", state, **options), *where
    )
    assert said.code == 0, said.err


def trained(command, folder: Path, where: list[object]) -> None:
    sets = {"steps": 2, "batch_size": 2, "dim": DIM, "clusters": CLUSTERS, "samples": 3}
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    said = command("run", "--method", "stego", *words, *where)
    assert said.code == 0, said.err


@pytest.mark.parametrize("made", [imported, trained])
def test_both_start_from_what_the_record_holds(made, random_vit, command, tmp_path):
    out = tmp_path / "results"
    where = ["--dataset", "tiny", "--out", out, "--protocol", "stego320@2[eval_side=96,crf=none]"]
    where += ["--backbone", random_vit["backbone"], "--weights", random_vit["weights"]]
    where += ["--backbone-name", random_vit["backbone_name"], "--training", "side=96", "--plugin", PLUGINS]
    made(command, tmp_path, where)
    (path,) = out.glob("*/stego-*.json")
    base = read_record(path)
    assert base.cell.is_released == (made is imported)
    wanted = load(read_state(path, base))
    for method, few in FEW.items():
        sets = {**few, "base": path, "clusters": CLUSTERS}
        words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
        said = command("run", "--method", method, *words, *where, "--quiet")
        assert said.code == 0, said.err
        (found,) = out.glob(f"*/{method}-*.json")
        record = read_record(found)
        if made is imported:  # one state for every seed, so its digest is part of the cell
            assert record.cell.method.params["base"]["state"] == base.state_sha256
        else:
            assert base_cells(record.cell)["base"].id == base.id
        assert f"base is record {base.id} with state {base.state_sha256[:12]}" in record.notes
        state = load(read_state(found, record))
        if method == "reib":
            assert all(torch.equal(state[name], value) for name, value in wanted.items())
        else:
            kept = {name.removeprefix("base."): one for name, one in state.items() if "base." in name}
            assert all(torch.equal(kept[name], value) for name, value in wanted.items())
