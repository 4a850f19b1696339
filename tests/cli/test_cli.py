"""The command line as a user meets it: what it writes, what it says, how it exits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import PLUGINS, SMALL

from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.resolving import resolve
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import Entry, TableKey, gather
from uss_bench.results.files import read_arrays, read_record

QUICK = ["--plugin", PLUGINS, "--quiet", "--workers", "1", "--protocol", SMALL]
DINO = ["run", "--method", "dino", "--dataset", "tiny", "--set", "steps=3", *QUICK]


@pytest.fixture
def uss(command, tmp_path) -> Callable[..., object]:
    """Run a command that writes into the test's own results folder."""

    def uss(*arguments):
        return command(*arguments, "--out", tmp_path / "results")

    return uss


def records(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/**/*.json"))


def test_run_leaves_a_record_its_arrays_the_state_and_a_picture(uss, tmp_path):
    said = uss(*DINO)
    assert said.code == 0
    (path,) = records(tmp_path)
    assert str(path) in said.out
    record = read_record(path)
    assert record.last is not None
    assert record.images == 4
    counts = read_arrays(path, record).counts["last", "crf"]
    assert counts.shape == (4, 2, 2)
    assert f"{record.last.crf.accuracy:.1f}" in said.out
    for suffix in (".png", ".safetensors"):
        assert path.with_suffix(suffix).stat().st_size > 0


def test_where_the_last_checkpoint_is_the_selected_one_its_arrays_are_kept_once(uss, tmp_path):
    uss(*DINO)
    (path,) = records(tmp_path)
    with np.load(path.with_suffix(".npz")) as file:
        assert not [name for name in file.files if "selected" in name]
    counts = read_arrays(path, read_record(path)).counts
    assert counts["selected", "crf"] is counts["last", "crf"]


def test_a_finished_run_is_not_repeated_unless_forced(uss, tmp_path):
    uss(*DINO)
    (path,) = records(tmp_path)
    before = path.stat().st_mtime_ns
    assert uss(*DINO).code == 0
    assert path.stat().st_mtime_ns == before
    assert uss(*DINO, "--force").code == 0
    assert path.stat().st_mtime_ns > before


def test_several_seeds_are_averaged_in_the_table(uss, tmp_path):
    said = uss(*DINO, "--seeds", 2)
    assert "mean ± sd" in said.out
    assert [read_record(path).cell.seed for path in records(tmp_path)] == [0, 1]


def test_a_dry_run_tells_done_from_pending_and_runs_nothing(uss, tmp_path):
    uss(*DINO)
    said = uss(*DINO, "--seeds", 2, "--dry-run")
    table = [line.split() for line in said.out.splitlines()[4:6]]
    assert [row[2] for row in table] == ["done", "pending"]
    assert Path(table[0][3]) == records(tmp_path)[0]
    assert said.out.splitlines()[7] == "1 of 2 cells pending."
    assert len(records(tmp_path)) == 1


def test_limit_takes_fewer_images_and_makes_another_record(uss, tmp_path):
    uss(*DINO)
    uss(*DINO, "--limit", 2)
    assert sorted(read_record(path).images for path in records(tmp_path)) == [2, 4]


def test_without_labels_it_trains_and_predicts_and_scores_nothing(uss, tmp_path):
    arguments = [*DINO, "--data", "labeled=false"]
    said = uss(*arguments)
    assert said.code == 2
    assert "number of clusters" in said.err
    said = uss(*arguments, "--set", "clusters=3")
    assert said.code == 0
    record = read_record(records(tmp_path)[0])
    assert record.last is None
    assert record.clusters == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method", "smoseg", "--dataset", "tiny"], "Did you mean 'smooseg'"),
        (["--method", "dino", "--dataset", "tinny"], "Did you mean 'tiny'"),
        (["--method", "dino", "--dataset", "tiny", "--backbone", "vit_smal_patch14_dinov2"], "Did you mean"),
        (["--method", "dino", "--dataset", "tiny", "--protocol", "stego32@1"], "or 'stego320@2'"),
        (["--method", "dino", "--dataset", "tiny", "--preset", "over"], "over-clustering"),
        (["--method", "dino", "--dataset", "tiny", "--set", "step=3"], "Did you mean 'steps'"),
        (["--method", "dino", "--dataset", "tiny", "--set", "steps=many"], "Expected `int`"),
        (["--method", "dino", "--dataset", "tiny", "--set", "steps"], "KEY=VALUE"),
        (["--method", "dino", "--dataset", "tiny", "--set", "clusters=0"], "at least 1"),
        (["--method", "dino", "--dataset", "folder"], "--root"),
        (
            ["--method", "dino", "--dataset", "tiny", "--protocol", "stego320@2[eval_side=322]"],
            "not a multiple",
        ),
        (["--method", "dino", "--dataset", "tiny", "--backbone", "timm"], "Name one"),
        (["--method", "dino", "--dataset", "tiny", "--weights", "x.pth"], "--backbone"),
        (["--method", "dino", "--dataset", "tiny", "--device", "abacus"], "--device cpu"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(command, tmp_path, arguments, expected):
    said = command("run", *arguments, "--plugin", PLUGINS, "--out", tmp_path)
    assert said.code == 2
    assert expected in said.err
    assert "Traceback" not in said.err
    assert not list(tmp_path.iterdir())


def test_an_unknown_command_is_answered_with_a_near_one(command):
    said = command("runn")
    assert said.code == 2
    assert "Did you mean 'run'" in said.err


def test_a_failed_run_exits_with_1_and_keeps_its_reason(uss, tmp_path):
    said = uss("run", "--method", "broken", "--dataset", "tiny", "--set", "fault=train raises", *QUICK)
    assert said.code == 1
    assert "broken" in said.err
    assert "Traceback" not in said.err
    (path,) = records(tmp_path)
    assert path.name.endswith(".failed.json")
    assert read_record(path).reason


def test_a_seed_that_fails_does_not_stop_the_others_nor_hide_its_reason(uss, tmp_path, monkeypatch):
    method = Registry().method("dino")[1].load()
    train = method.train
    monkeypatch.setattr(method, "train", lambda self, data, ctx: ctx.seed == 0 and train(self, data, ctx))
    said = uss(*DINO, "--seeds", 2)
    assert said.code == 1
    assert "IoU, seed 0" in said.out
    assert "failed in training" in said.err
    assert [read_record(path).status for path in records(tmp_path)] == ["done", "failed"]


def test_a_thread_that_cannot_be_started_is_told_as_too_little_memory(uss, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")  # as Python does where its stack finds no place

    monkeypatch.setattr("uss_bench.experiment.setup.Setup.open_store", refuse)
    said = uss(*DINO)
    assert said.code == 1
    assert "not enough memory" in said.err
    assert "ulimit -u" in said.err


def test_an_interrupted_run_exits_with_130_and_leaves_no_record(uss, tmp_path, monkeypatch):
    method = Registry().method("dino")[1].load()
    monkeypatch.setattr(method, "train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    said = uss(*DINO)
    assert said.code == 130
    assert "Interrupted" in said.err
    assert not records(tmp_path)


def test_show_lists_records_and_shows_one_in_full(uss, command, tmp_path):
    assert "No records" in uss("show").out
    uss(*DINO)
    (path,) = records(tmp_path)
    record = read_record(path)
    listing = uss("show").out
    assert record.id[:12] in listing
    page = uss("show", record.id[:8]).out
    assert record.id in page
    assert "striped" in page
    assert uss("show", "feed").code == 1


def test_show_tells_records_apart_by_the_parameters_that_differ(uss):
    uss(*DINO)
    uss(*DINO, "--set", "steps=4")
    listing = uss("show").out
    assert "steps=3" in listing
    assert "steps=4" in listing
    assert "init_patches" not in listing


def test_show_marks_records_whose_code_has_changed_since(uss, monkeypatch):
    uss(*DINO)
    assert "stale" not in uss("show").out
    monkeypatch.setattr("uss_bench.results.code.EVALUATOR_VERSION", -1)
    assert "stale" in uss("show").out


def test_a_damaged_record_is_named_and_does_not_hide_the_others(uss, tmp_path):
    uss(*DINO)
    (path,) = records(tmp_path)
    (path.parent / "broken-s0-0123456789ab.json").write_text("{")
    said = uss("show")
    assert said.code == 0
    assert read_record(path).id[:12] in said.out
    assert "broken-s0" in said.err


def test_predict_labels_whole_images_at_their_own_size(uss, command, tmp_path):
    uss(*DINO)
    (path,) = records(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("wide", (40, 90)), ("tall", (70, 30))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(photos / f"{name}.png")
    said = command(
        "predict", "--record", path, "--images", photos, "--out", tmp_path / "maps", "--workers", 1, "--quiet"
    )
    assert said.code == 0, said.err
    with Image.open(tmp_path / "maps" / "wide.png") as picture:
        assert picture.mode == "P"
        assert picture.size == (90, 40)
        assert np.array(picture).max() < 2
    legend = json.loads((tmp_path / "maps" / "legend.json").read_text())
    assert {entry["class"] for entry in legend.values()} == {"smooth", "striped"}


@pytest.mark.parametrize("crf", ["--crf", "--no-crf"])
def test_predict_labels_the_rest_where_some_photos_are_damaged(uss, command, tmp_path, crf):
    uss(*DINO)
    (path,) = records(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "c", "e"):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(photos / f"{name}.png")
    whole = (photos / "a.png").read_bytes()
    damaged = {"b.png": whole[: len(whole) // 2], "d.jpg": b"", "f.bmp": b"BM and no more"}
    for name, content in damaged.items():
        (photos / name).write_bytes(content)
    maps = tmp_path / "maps"
    said = command(
        "predict", "--record", path, "--images", photos, "--out", maps, "--workers", 1, "--quiet", crf
    )
    assert said.code == 1
    assert "3 of 6 images could not be labeled" in said.err
    assert all(name in said.err for name in damaged)
    assert {one.name for one in maps.glob("[!.]*")} == {"a.png", "c.png", "e.png", "legend.json"}


@pytest.mark.parametrize("foreign", ["photo.png", "legend.json"])
def test_predict_replaces_its_own_files_and_no_others(uss, command, tmp_path, foreign):
    uss(*DINO)
    (path,) = records(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (20, 20)).save(photos / "photo.png")
    arguments = ["predict", "--record", path, "--images", photos, "--workers", 1, "--quiet"]
    said = command(*arguments, "--out", photos)
    assert (said.code, "--out is the folder of the images" in said.err) == (2, True)
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / foreign).write_bytes(b"somebody's")
    assert command(*arguments, "--out", maps).code == 2
    assert (maps / foreign).read_bytes() == b"somebody's"
    (maps / foreign).unlink()
    assert command(*arguments, "--out", maps).code == 0
    assert command(*arguments, "--out", maps, "--no-crf").code == 0


def test_a_state_that_the_methods_code_does_not_take_any_more_is_told(uss, command, tmp_path, monkeypatch):
    uss(*DINO)
    (path,) = records(tmp_path)

    def of_another_version(self, state):
        raise KeyError("centroids")

    entry = Registry().find("methods", "dino").load()
    monkeypatch.setattr(entry, "load_state_dict", of_another_version)
    said = command("predict", "--record", path, "--images", tmp_path, "--out", tmp_path / "maps")
    assert said.code == 1
    assert "Method 'dino' failed in loading its state: KeyError: 'centroids'" in said.err


def label_folder(folder: Path, *, exchange: bool = False) -> Path:
    """Write the ground truth of `tiny`'s test split as if a method had predicted it."""
    spec, plugin = Registry([PLUGINS]).dataset("tiny")
    labels = plugin.load()(spec).labels("test")
    folder.mkdir()
    for index, name in enumerate(labels.ids):
        label = labels.label(index).clip(min=0)
        Image.fromarray((1 - label if exchange else label).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("exchange", [False, True])
def test_label_maps_made_elsewhere_are_matched_and_scored(uss, tmp_path, exchange):
    maps = label_folder(tmp_path / "maps", exchange=exchange)
    said = uss("eval", maps, "--dataset", "tiny", "--plugin", PLUGINS, "--name", "oracle")
    assert said.code == 0, said.err
    record = read_record(records(tmp_path)[0])
    assert record.cell.method.name == "oracle"
    assert record.last.raw.accuracy == 100
    assert record.last.crf is None
    assert record.last.raw.class_of_cluster == ([1, 0] if exchange else [0, 1])
    assert "Time" not in said.out
    assert "checkpoint" not in said.out
    said = uss("predict", "--record", records(tmp_path)[0], "--images", maps)
    assert (said.code, "has no trained state" in said.err) == (2, True)
    ours = resolve(CellSpec(method="constant", dataset="tiny"), Registry([PLUGINS])).cell(0)
    assert TableKey.of(record.cell) == TableKey.of(ours)


def test_predictions_made_elsewhere_state_what_they_are_and_are_marked_everywhere(uss, command, tmp_path):
    maps = label_folder(tmp_path / "maps")
    facts = ["--title", "The Oracle", "--paper", "Doe, CVPR 2026", "--ingredient", "text"]
    facts += ["--labels-used", "tuning", "--backbone", "patchstats", "--name", "oracle"]
    assert uss("eval", maps, "--dataset", "tiny", "--plugin", PLUGINS, *facts).code == 0
    (path,) = records(tmp_path)
    record = read_record(path)
    assert (record.external.title, record.external.ingredients) == ("The Oracle", ["text"])
    assert (record.labels_used, record.cell.backbone.name) == (["tuning"], "patchstats")
    (configuration,) = gather([Entry(path, record)])
    assert configuration.label == "oracle (external)"
    page = uss("show", record.id[:12]).out
    assert "The Oracle, Doe, CVPR 2026" in page
    table = uss("show").out
    assert "external" in table
    assert "stale" not in table


@pytest.mark.parametrize(
    ("asked", "protocol"),
    [
        ([], "stego320@2"),
        (["--patch", 14], "stego322@2"),
        (["--backbone", "dinov2_vitb14"], "stego322@2"),
        (["--backbone", "dino_vits8"], "stego320@2"),
        (["--patch", 14, "--protocol", "full@1"], "full@2"),
    ],
)
def test_the_protocol_of_external_predictions_follows_the_patch(uss, tmp_path, asked, protocol):
    maps = label_folder(tmp_path / "maps")
    said = uss("eval", maps, "--dataset", "tiny", "--plugin", PLUGINS, *asked)
    assert said.code == 0, said.err
    assert read_record(records(tmp_path)[0]).cell.protocol == protocol


@pytest.mark.parametrize("name", ["smooseg", "constant"])
def test_predictions_made_elsewhere_do_not_pass_as_a_built_in_method(uss, tmp_path, name):
    maps = label_folder(tmp_path / "maps")
    said = uss("eval", maps, "--dataset", "tiny", "--plugin", PLUGINS, "--name", name)
    assert (said.code, f"--name {name}-released" in said.err) == (2, True)


def test_label_maps_that_are_missing_or_of_another_size_are_refused(uss, tmp_path):
    maps = label_folder(tmp_path / "maps")
    Image.new("L", (7, 5)).save(maps / "scene-101.png")
    arguments = ["eval", maps, "--dataset", "tiny", "--plugin", PLUGINS]
    said = uss(*arguments)
    assert said.code == 1
    assert "scene-101.png is 7×5" in said.err
    (maps / "scene-101.png").unlink()
    said = uss(*arguments)
    assert said.code == 1
    assert "no prediction for image 'scene-101'" in said.err


def test_a_dataset_is_prepared_and_verified_by_name(command, tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "good.png")
    folder = ["--dataset", "folder", "--root", tmp_path]
    assert "is in place" in command("prepare", *folder).out
    assert command("verify", *folder).code == 0
    (tmp_path / "wrong.png").write_bytes(b"not a picture")
    said = command("verify", *folder)
    assert said.code == 1
    assert "wrong.png" in said.err


@pytest.mark.parametrize(
    "name", ["smooseg", "dino", "toy3", "folder", "timm", "patchstats", "stego320@2", "stego322@2"]
)
def test_everything_that_is_listed_has_a_page(command, name):
    said = command("info", name)
    assert said.code == 0
    assert name.partition("@")[0] in said.out
