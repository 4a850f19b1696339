"""A record repeated: equal, moved with a cause, moved without, or not to be repeated at all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from running import PLUGINS, SMALL

from uss_bench.plugins.registry import Registry
from uss_bench.protocol import get_protocol, protocol_fields
from uss_bench.results.differences import Change, changes, differences, moved_shares
from uss_bench.results.files import read_arrays, read_record, write_record


@pytest.fixture(scope="module")
def made(tmp_path_factory, isolated) -> Path:
    """A folder with the record of a small run, made by its command line."""
    from click.testing import CliRunner

    from uss_bench.cli import cli

    folder = tmp_path_factory.mktemp("made")
    words = ["run", "--method", "dino", "--dataset", "tiny", "--set", "steps=3", "--protocol", SMALL]
    words += ["--device", "cpu", "--workers", "1", "--note", "a remark"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["uss-bench", *words])
        here = ["--plugin", str(PLUGINS), "--quiet", "--out", str(folder)]
        CliRunner().invoke(cli, [*words, *here], catch_exceptions=False)
    return folder


@pytest.fixture
def record(made, tmp_path) -> Path:
    (path,) = Path(shutil.copytree(made, tmp_path / "results")).glob("tiny/*.json")
    return path


@pytest.fixture
def rerun(command, tmp_path):
    def rerun(*arguments):
        return command("rerun", *arguments, "--plugin", PLUGINS, "--quiet", "--workers", "1")

    return rerun


def edited(path: Path, cell=None, **changes) -> Path:
    """Write a record again with other content, as if it had been made so; return its new path."""
    record = read_record(path)
    cell = cell or record.cell
    arrays, out = read_arrays(path, record), path.parent.parent.parent / "edited"
    return write_record(out, replace(record, cell=cell, id=cell.id, **changes), arrays, b"state")[0]


def with_other_code(path: Path) -> Path:
    cell = read_record(path).cell
    return edited(path, replace(cell, method=replace(cell.method, code="0" * 12)))


@pytest.fixture
def moving(monkeypatch) -> None:
    """Let DINO exchange the clusters in the left half of every image, whatever was trained."""
    method = Registry().method("dino")[1].load()
    classify = method.classify

    def turned(self, code):
        logits = classify(self, code).clone()
        half = logits.shape[-1] // 2
        logits[..., :half] = logits[..., :half].flip(1)
        return logits

    monkeypatch.setattr(method, "classify", turned)


def test_a_record_is_repeated_with_equal_counts_and_nothing_is_kept(rerun, record, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    said = rerun(record)
    assert said.code == 0, said.err
    assert "Nothing differs" in said.out
    assert "Every count is equal." in said.out
    assert sorted(tmp_path.rglob("*")) == before


def test_the_new_record_can_be_kept_and_repeated_in_its_turn(rerun, record, tmp_path):
    said = rerun(record, "--out", tmp_path / "again")
    assert said.code == 0, said.err
    (path,) = tmp_path.glob("again/tiny/*.json")
    old, new = read_record(record), read_record(path)
    assert (new.id, new.arrays_sha256, new.command) == (old.id, old.arrays_sha256, old.command)
    assert new.notes[:2] == ["a remark", f"repeats record {old.id}"]
    assert rerun(path).code == 0


def test_it_uses_the_threads_of_the_records_command(rerun, record):
    before = read_record(record)
    environment = {**before.environment, "threads": 1}
    path = edited(record, command=f"{before.command} --threads 1", environment=environment)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        same, other = rerun(path), rerun(path, "--threads", "2")
    finally:
        torch.set_num_threads(threads)
    assert "Nothing differs" in same.out
    assert re.search(r"threads +1 +2", other.out)


def test_a_record_that_is_there_is_never_overwritten(rerun, record):
    before = record.read_bytes()
    said = rerun(record, "--out", record.parent.parent)
    assert said.code == 2
    assert "exists already" in said.err
    assert record.read_bytes() == before


def test_other_code_is_said_before_and_equal_numbers_are_enough(rerun, record):
    said = rerun(with_other_code(record))
    assert said.code == 0, said.err
    assert re.search("code of the method +000000000000 +[0-9a-f]{12} +may move numbers", said.out)
    assert "Every count is equal." in said.out


def test_numbers_that_moved_without_a_cause_are_a_regression(rerun, record, moving):
    said = rerun(record)
    assert said.code == 3
    assert "nothing differs that should move them" in said.err
    assert re.search(r"\d\.\d{3}% of the pixels  scene-10\d", said.out)
    assert re.search(r"IoU of \w+ +\d+\.\d\d +\d+\.\d\d +[+-]", said.out)
    assert "prediction or refinement moved" in said.out


def test_numbers_that_moved_with_other_code_are_no_regression(rerun, record, moving):
    said = rerun(with_other_code(record))
    assert said.code == 1
    assert "code of the method" in said.err


def test_another_version_of_a_library_is_a_cause_and_another_commit_is_none(rerun, record, moving):
    environment = read_record(record).environment
    said = rerun(edited(record, environment={**environment, "torch": "0.1"}))
    assert said.code == 1
    assert re.search("torch +0.1 +.*may move numbers", said.out)
    said = rerun(edited(record, environment={**environment, "git": "abc"}))
    assert said.code == 3
    assert re.search("git +abc +.*should not matter", said.out)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda cell: {"dataset": replace(cell.dataset, fingerprint="f" * 64)}, "images and labels"),
        (lambda cell: {"backbone": replace(cell.backbone, sha256="a" * 64)}, "weights"),
        (lambda cell: {"protocol_hash": "0" * 12}, "protocol_hash"),
    ],
    ids=["data", "weights", "protocol"],
)
def test_other_inputs_are_another_experiment_and_nothing_runs(rerun, record, monkeypatch, change, expected):
    monkeypatch.setattr(
        "uss_bench.experiment.runner.run_cell", lambda *given, **options: pytest.fail("it ran")
    )
    cell = read_record(record).cell
    said = rerun(edited(record, replace(cell, **change(cell))))
    assert said.code == 1
    assert f"Others would be: {expected}" in said.err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"command": ""}, "a program that does not state it"),
        ({"command": "uss-bench eval maps --dataset tiny"}, "was not made by 'uss-bench run'"),
        (
            {"command": "uss-bench run --method dino --dataset tiny; touch {mark}"},
            "belongs to no option",
        ),
        ({"command": "uss-bench run --method dino --dataset 'tiny"}, "was not made by"),
        ({"command": "uss-bench run --help"}, "--help has no value"),
        ({"command": "uss-bench run --method dino --shell sh"}, "there is no option --shell"),
        ({"command": "uss-bench run --method dino --threads many"}, "invalid literal"),
        ({"command": "uss-bench run --method dino --dataset gone"}, "cannot be repeated.*gone"),
        ({"command": "uss-bench run --method dino --dataset folder --root gone"}, "cannot be repeated.*gone"),
        ({"status": "failed", "last": None}, "run that failed"),
        ({"last": None}, "without labels"),
    ],
)
def test_what_cannot_be_repeated_is_said_with_its_reason(rerun, record, tmp_path, changes, expected):
    mark = tmp_path / "mark"
    if "command" in changes:
        changes = {"command": changes["command"].replace("{mark}", str(mark))}
    said = rerun(edited(record, **changes))
    assert said.code == 1
    assert re.search(expected, said.err)
    assert "Traceback" not in said.err
    assert not mark.exists()


def test_no_plugin_is_loaded_because_a_record_names_it(command, record, tmp_path):
    mark = tmp_path / "loaded"
    plugin = tmp_path / "hostile"
    plugin.mkdir()
    (plugin / "hostile.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (plugin / "spec.toml").write_text((PLUGINS / "tiny" / "spec.toml").read_text())
    path = edited(record, command=f"uss-bench run --method dino --dataset tiny --plugin {plugin}")
    said = command("rerun", path, "--quiet")
    assert said.code == 1
    assert not mark.exists()


def test_root_and_weights_replace_those_of_the_command(record):
    from uss_bench.experiment.recipe import read_recipe

    words = "uss-bench study x --dataset folder --root a --backbone vit --weights w.pth --seeds 5 --set k=1"
    recipe = read_recipe(replace(read_record(record), command=words), root=Path("b c"), weights=Path("v.pth"))
    assert recipe.command == f"{words} --root 'b c' --weights v.pth"
    assert (recipe.options["root"], recipe.options["weights"]) == (Path("b c"), Path("v.pth"))


def test_a_damaged_npz_is_named(rerun, record):
    record.with_suffix(".npz").write_bytes(b"")
    said = rerun(record)
    assert said.code == 1
    assert "is damaged" in said.err


def test_nothing_differs_from_itself(record):
    one = read_record(record)
    assert differences(one, one.cell, one.environment) == {"input": [], "cause": [], "harmless": []}


@pytest.mark.parametrize(
    ("part", "change", "weight", "field"),
    [
        ("method", {"code": "0" * 12}, "cause", "code of the method"),
        ("method", {"params": {"clusters": 9}}, "input", "parameter clusters"),
        ("dataset", {"fingerprint": "0"}, "input", "images and labels"),
        ("dataset", {"limit": 3}, "input", "dataset limit"),
        ("backbone", {"sha256": "0"}, "input", "weights"),
        ("backbone", {"feature_dtype": "float32"}, "input", "backbone feature_dtype"),
    ],
)
def test_every_input_of_a_cell_is_weighed(record, part, change, weight, field):
    one = read_record(record)
    if "params" in change:
        change = {"params": one.cell.method.params | change["params"]}
    cell = replace(one.cell, **{part: replace(getattr(one.cell, part), **change)})
    found = differences(one, cell, one.environment)
    assert [each.field for each in found.pop(weight)] == [field]
    assert not any(found.values())


@pytest.mark.parametrize(
    ("name", "weight"),
    [("torch", "cause"), ("processor", "cause"), ("python", "harmless"), ("git", "harmless")],
)
def test_what_changed_on_the_machine_is_weighed(record, name, weight):
    one = read_record(record)
    found = differences(one, one.cell, {**one.environment, name: "another"})
    assert [each.field for each in found.pop(weight)] == [name]
    assert not any(found.values())


def test_fields_of_protocols_are_flat_and_nameless():
    first, second = get_protocol("stego320@2"), get_protocol("stego320@2[flip=false]")
    assert changes(protocol_fields(first), protocol_fields(second)) == [Change("flip", True, False)]
    assert protocol_fields(first)["crf.iterations"] == 10
    assert not {"name", "version"} & protocol_fields(first).keys()
    other = replace(first, name="other", crf=replace(first.crf, iterations=5))
    assert changes(protocol_fields(first), protocol_fields(other)) == [Change("crf.iterations", 10, 5)]


# --- How far counts moved --------------------------------------------------------------------------


def counted(maps: np.ndarray, labels: np.ndarray) -> np.ndarray:
    table = np.zeros((len(maps), 3, 2), dtype=np.int64)
    for image in range(len(maps)):
        np.add.at(table[image], (maps[image], labels[image]), 1)
    return table


def test_the_shares_are_a_lower_bound_that_single_changes_reach():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (4, 100))
    maps = rng.integers(0, 3, (4, 100))
    moved = maps.copy()
    moved[1, :7] = (moved[1, 0] + 1) % 3
    moved[3] = rng.integers(0, 3, 100)
    shares = moved_shares(counted(maps, labels), counted(moved, labels))
    truth = (maps != moved).mean(axis=1)
    assert shares[0] == shares[2] == 0
    assert (shares <= truth + 1e-12).all()
    assert shares[1] > 0
    one = maps.copy()
    one[2, 5] = (one[2, 5] + 1) % 3
    assert moved_shares(counted(maps, labels), counted(one, labels)) == pytest.approx([0, 0, 0.01, 0])


def test_renumbered_clusters_move_no_image():
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 50, (5, 4, 3))
    assert moved_shares(counts, counts[:, [2, 0, 3, 1]]).tolist() == [0] * 5
    assert moved_shares(np.zeros((2, 4, 3), np.int64), np.zeros((2, 4, 3), np.int64)).tolist() == [0, 0]
