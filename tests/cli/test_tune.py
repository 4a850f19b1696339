"""``uss-bench tune`` and ``uss-bench audit criteria``: what they run, say and refuse."""

from __future__ import annotations

import pytest

QUICK = ("--dataset", "toy3", "--backbone", "patchstats", "--limit", 4, "--quiet", "--set", "batch_size=2")
QUICK += ("--protocol", "stego320@2[eval_side=96]", "--training", "side=96")


def test_settings_are_run_compared_and_one_is_preferred(command, tmp_path):
    asked = ("tune", "dino", *QUICK, "--try", "steps=1,20", "--try", "init_patches=50,900", "--seeds", 2)
    said = command(*asked, "--out", tmp_path)
    assert said.code == 0, said.err
    assert len(list(tmp_path.glob("toy3/*.json"))) == 8
    labels = [f"steps={steps} init_patches={patches}" for steps in (1, 20) for patches in (50, 900)]
    for label in labels:
        (row,) = [line for line in said.out.splitlines() if line.startswith(label)]
        assert "2 of 2" in row
    (preferred,) = [line for line in said.out.splitlines() if line.startswith("all of them, by mean rank")]
    assert any(preferred.endswith(label) for label in labels)
    assert "mIoU" not in said.out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    again = command(*asked, "--out", tmp_path, "--show-scores")
    assert "mIoU" in again.out
    assert "nothing was chosen by them" in again.out
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    judged = command("audit", "criteria", "--records", tmp_path)
    assert judged.code == 0, judged.err
    for title in ("seeds agree", "mirror images agree", "balance", "silhouette", "all of them, by mean rank"):
        (row,) = [line for line in judged.out.splitlines() if line.startswith(title)]
        assert " of 1" in row


def test_a_dry_run_runs_nothing(command, tmp_path):
    said = command("tune", "dino", *QUICK, "--try", "steps=1,2", "--out", tmp_path, "--dry-run")
    assert (said.code, list(tmp_path.iterdir())) == (0, [])
    assert "steps=2" in said.out


@pytest.mark.parametrize(
    ("tried", "why"),
    [
        (("steps",), "takes KEY=V1,V2"),
        (("steps=1,,2",), "takes KEY=V1,V2"),
        (("=1,2",), "takes KEY=V1,V2"),
        (("steps=4",), "at least two settings"),
        (("steps=4,4",), "names a value twice"),
        (("steps=1,2", "steps=3,4"), "names 'steps' twice"),
        (("stepps=1,2",), "no parameter 'stepps'"),
        (("steps=one,two",), "steps"),
        (("steps=" + ",".join(map(str, range(1, 70))),), "at most 64"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(command, tmp_path, tried, why):
    options = [part for one in tried for part in ("--try", one)]
    said = command("tune", "dino", *QUICK, *options, "--out", tmp_path)
    assert said.code == 2
    assert why in said.err
    assert not list(tmp_path.iterdir())


def test_records_without_criteria_are_no_ground_for_a_judgment(command, tmp_path):
    command("run", "--method", "dino", *QUICK, "--set", "steps=1", "--out", tmp_path)
    said = command("audit", "criteria", "--records", tmp_path)
    assert said.code == 2
    assert "three settings" in said.err
