"""Methods × backbones: shares against a computation by hand, and which records make a table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from board_records import write_runs

from uss_bench.audit.backbones import two_way, variance_shares
from uss_bench.results.collection import gather, read_entries


def test_shares_are_those_of_a_table_worked_out_by_hand():
    """Cells 11, 21, 31 and 51, each ± 1: the mean is 28.5, rows 16 and 41, columns 21 and 36."""
    scores = np.array([[[10, 12], [20, 22]], [[30, 32], [50, 52]]], dtype=float)
    # Rows: 8 · 12.5²; columns: 8 · 7.5²; interaction: every cell is 2.5 off; seeds: eight times 1².
    total = 1250 + 450 + 50 + 8
    found = variance_shares(scores)
    assert (found.method, found.backbone, found.both, found.seed) == pytest.approx(
        (1250 / total, 450 / total, 50 / total, 8 / total)
    )
    assert ((scores - scores.mean()) ** 2).sum() == pytest.approx(total)


@pytest.mark.parametrize("shape", [(2, 2, 1), (4, 3, 3), (6, 2, 5)])
def test_shares_add_up_and_turn_with_the_table(shape):
    scores = np.random.default_rng(3).normal(size=shape)
    one, other = variance_shares(scores), variance_shares(scores.transpose(1, 0, 2))
    assert one.method + one.backbone + one.both + one.seed == pytest.approx(1)
    assert (one.method, one.backbone) == pytest.approx((other.backbone, other.method))
    if shape[2] == 1:
        assert one.seed == 0


def test_scores_that_are_all_alike_have_no_shares():
    assert math.isnan(variance_shares(np.full((2, 2, 2), 7.0)).method)


def write_table(folder) -> None:
    for method, skill in (("dino", 0.3), ("stego", 0.6)):
        for backbone, more in (("vit", 0.0), ("cnn", 0.2)):
            write_runs(folder, method, skill + more, backbone=backbone, sha256=backbone)
    write_runs(folder, "hp", 0.4, backbone="vit", sha256="vit")
    write_runs(folder, "dino", 0.5, dataset="village", fingerprint="f1")


def test_a_table_holds_what_met_every_backbone_with_the_seeds_that_all_have(tmp_path):
    write_table(tmp_path)
    for backbone in ("vit", "xfeat"):
        write_runs(tmp_path, "eagle", 0.4, seeds=(1, 2), backbone=backbone, sha256=backbone)
    assert two_way(gather(read_entries([tmp_path])[0])) == [], "nothing met all three backbones"
    for backbone in ("vit", "cnn", "xfeat"):
        write_runs(tmp_path, "smooseg", 0.5, seeds=(0, 2, 3), backbone=backbone, sha256=backbone)
    for method in ("dino", "stego"):
        write_runs(tmp_path, method, 0.5, backbone="xfeat", sha256="xfeat")
    configurations = gather(read_entries([tmp_path])[0])
    (found,) = two_way(configurations)
    assert (found.rows, found.backbones) == (("dino", "smooseg", "stego"), ("cnn", "vit", "xfeat"))
    assert found.seeds == (0, 2)
    assert found.left_out == (("eagle", ("cnn",)),)
    (one,) = [
        c for c in configurations if (c.label, c.cell.backbone.name) == ("stego", "vit") and len(c.seeds) == 3
    ]
    assert found.scores["miou"][2, 1].tolist() == [one.records[seed].last.crf.miou for seed in (0, 2)]


def test_a_setting_is_a_row_of_its_own(tmp_path):
    write_table(tmp_path)
    for backbone in ("vit", "cnn"):
        write_runs(tmp_path, "stego", 0.5, params={"dim": 9}, backbone=backbone, sha256=backbone)
    (found,) = two_way(gather(read_entries([tmp_path])[0]))
    assert found.rows == ("dino", "stego", "stego (dim=9)")


def test_the_command_prints_scores_and_shares(tmp_path, command):
    assert command("audit", "backbones", "--records", tmp_path).code == 2
    write_table(tmp_path)
    said = command("audit", "backbones", "--records", tmp_path)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "town · stego320@2 · 3 seeds"
    (found,) = two_way(gather(read_entries([tmp_path])[0]))
    (row,) = [line.split() for line in lines if line.startswith("mIoU ")]
    share = found.shares("miou")
    assert row[1::2] == [f"{100 * one:.0f}" for one in (share.method, share.backbone, share.both, share.seed)]
