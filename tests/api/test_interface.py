"""The Python interface from end to end: run, load, predict, tabulate, compare."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from running import PLUGINS, SMALL, SMALL_TRAINING

import uss_bench
from uss_bench.api.records import records
from uss_bench.errors import RunError, UsageError
from uss_bench.results.collection import Entry

QUICK = {"protocol": SMALL, "training": SMALL_TRAINING, "plugins": [PLUGINS], "workers": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The records of two methods with two seeds each."""
    out = tmp_path_factory.mktemp("results")
    return uss_bench.run(["dino", "constant"], "tiny", seeds=2, params={"dino.steps": 5}, out=out, **QUICK)


@pytest.fixture
def folder(results):
    return results[0].path.parents[1]


def test_importing_the_package_imports_nothing_that_takes_time():
    code = "import sys, uss_bench; dir(uss_bench); print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_name_is_there_and_has_a_docstring():
    for name in uss_bench.__all__:
        assert getattr(uss_bench, name).__doc__
    assert set(uss_bench.__all__) <= set(dir(uss_bench))
    with pytest.raises(AttributeError, match="no attribute 'metrics'"):
        _ = uss_bench.metrics


def test_a_run_returns_its_records_and_is_not_repeated(results, folder):
    assert [(one.record.cell.method.name, one.record.cell.seed) for one in results] == [
        ("dino", 0),
        ("constant", 0),
        ("dino", 1),
        ("constant", 1),
    ]
    last = results[0].record.last
    assert last is not None
    assert last.crf is not None
    assert f"seed 0: Acc {last.crf.accuracy:.1f}, mIoU {last.crf.miou:.1f} with CRF; " in repr(results[0])
    before = [one.path.stat().st_mtime_ns for one in results]
    again = uss_bench.run(
        ["dino", "constant"], "tiny", seeds=2, params={"dino.steps": 5}, out=folder, **QUICK
    )
    assert [one.path.stat().st_mtime_ns for one in again] == before
    assert results[0].record.command.startswith("uss-bench run --method dino --dataset tiny")


def test_records_become_a_data_frame(results, folder):
    frame = records(folder)
    assert len(frame) == len(results) * 4  # two checkpoints, raw and refined
    row = frame.query("id == @results[0].record.id and refinement == 'crf' and checkpoint == 'last'")
    last = results[0].record.last
    assert last is not None
    assert last.crf is not None
    assert row.miou.item() == last.crf.miou
    assert set(frame.label) == {"dino", "constant"}
    classes = records([folder], per_class=True)
    assert len(classes) == 2 * len(frame)
    assert classes["class"].unique().tolist() == ["smooth", "striped"]
    mean = classes.groupby(["id", "checkpoint", "refinement"]).iou.mean()
    overall = frame.set_index(["id", "checkpoint", "refinement"]).miou
    assert np.allclose(mean, overall.reindex(mean.index), atol=1e-3)


def test_an_empty_folder_is_an_empty_frame(tmp_path):
    assert list(records(tmp_path).columns)[:3] == ["id", "method", "label"]
    assert records(tmp_path).empty


def test_two_methods_are_compared(folder):
    found = uss_bench.compare("dino", "constant", folder=folder, resamples=20)
    assert set(found.found) == {"raw", "crf"}
    assert found.found["raw"].miou.value == pytest.approx(
        np.mean([one.record.last.raw.miou for one in found.a.entries])
        - np.mean([one.record.last.raw.miou for one in found.b.entries]),
        abs=1e-3,
    )


@pytest.mark.parametrize("named", ["entry", "path", "id"])
def test_a_record_is_loaded_and_labels_images_as_its_run_did(results, folder, named):
    entry = results[0]
    record = {"entry": entry, "path": entry.path, "id": entry.record.id[:8]}[named]
    model = uss_bench.load(record, results=folder, plugins=[PLUGINS], device="cpu")
    data = uss_bench.dataset("tiny", plugins=[PLUGINS])
    images, labels = data.images(data.test_split), data.labels(data.test_split)
    assert labels is not None
    scores = uss_bench.ClusterScores(2, ignore_index=-1)
    for index in range(len(images)):
        prediction = model.predict(images.image(index), crf=False)
        assert prediction.clusters.shape == images.image(index).shape[:2]
        scores.update(prediction.clusters, labels.label(index))
    assert model.classes == ["smooth", "striped"]
    assert scores.compute().accuracy > 0.5
    assert np.array_equal(prediction.labels, np.array(model.class_of_cluster(crf=False))[prediction.clusters])


def test_an_image_may_come_in_any_usual_form(results, folder, tmp_path):
    model = uss_bench.load(results[0], plugins=[PLUGINS], device="cpu")
    data = uss_bench.dataset("tiny", plugins=[PLUGINS])
    image = data.images(data.test_split).image(0)
    Image.fromarray(image).save(tmp_path / "a.png")
    channels_first = torch.tensor(image).permute(2, 0, 1)
    forms = [image, Image.fromarray(image), tmp_path / "a.png", str(tmp_path / "a.png")]
    forms += [channels_first, channels_first / 255, image / 255]
    maps = [model.predict(form).clusters for form in forms]
    assert all(np.array_equal(one, maps[0]) for one in maps)


def test_a_prediction_is_shown_over_its_image_and_replaces_no_file(results, tmp_path):
    model = uss_bench.load(results[0], plugins=[PLUGINS], device="cpu")
    data = uss_bench.dataset("tiny", plugins=[PLUGINS])
    image = data.images(data.test_split).image(0)
    prediction = model.predict(image)
    assert np.array_equal(prediction.overlay(0), image)
    assert np.array_equal(prediction.overlay(1), prediction.colors[prediction.clusters])
    assert prediction._repr_png_().startswith(b"\x89PNG")
    prediction.save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), prediction.overlay())
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(RunError, match="exists already"):
        prediction.save(tmp_path / "a.png", opacity=1)
    assert (tmp_path / "a.png").read_bytes() == before
    with pytest.raises(RunError, match="does not end like a picture"):
        prediction.save(tmp_path / "a.unknown")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.full((4, 4, 3), 2.0),
        np.full((4, 4, 3), np.nan),
        np.zeros((4, 4, 3), np.int64),
    ],
)
def test_what_is_no_image_is_refused(results, image):
    with pytest.raises(UsageError):
        uss_bench.dense_crf(image, np.zeros((2, 4, 4), np.float32))


def test_the_crf_is_that_of_the_harness():
    from uss_bench.crf import CrfParams, refine

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
    logits = rng.normal(size=(3, 20, 24)).astype(np.float32)
    found = uss_bench.dense_crf(image, torch.tensor(logits), iterations=3)
    assert np.array_equal(found, refine(image, logits, CrfParams(iterations=3)))
    with pytest.raises(UsageError, match="no parameter 'iteration'"):
        uss_bench.dense_crf(image, logits, iteration=3)


def test_wrong_options_are_named(tmp_path):
    with pytest.raises(UsageError, match="no option 'epochs'"):
        uss_bench.run("dino", "toy3", epochs=3, out=tmp_path)
    with pytest.raises(UsageError, match="no method 'dinoo'"):
        uss_bench.run("dinoo", "toy3", out=tmp_path)
    assert not list(tmp_path.iterdir())


class Fails:
    def __init__(self, *, clusters: int) -> None:
        self.clusters = clusters

    def train(self, data, ctx):
        raise ValueError("it never worked")


def test_a_failed_cell_is_an_error_after_the_others(tmp_path):
    with pytest.raises(RunError, match="1 of 2 cells failed"):
        uss_bench.run([Fails, "constant"], "tiny", out=tmp_path, **QUICK)
    assert len(records(tmp_path)) == 4


def test_entries_are_entries(results):
    assert all(isinstance(one, Entry) for one in results)


def test_the_command_writes_overlays_beside_its_maps(results, command, tmp_path):
    data = uss_bench.dataset("tiny", plugins=[PLUGINS])
    images = data.images(data.test_split)
    (tmp_path / "photos").mkdir()
    for index in range(2):
        Image.fromarray(images.image(index)).save(tmp_path / "photos" / f"{index}.png")
    words = ["--record", results[0].path, "--images", tmp_path / "photos", "--out", tmp_path / "maps"]
    said = command("predict", *words, "--overlay", "--plugin", PLUGINS, "--workers", 1)
    assert said.code == 0, said.err
    names = {path.name for path in (tmp_path / "maps").glob("[!.]*")}
    assert names == {"0.png", "0.overlay.jpg", "1.png", "1.overlay.jpg", "legend.json"}
    model = uss_bench.load(results[0], plugins=[PLUGINS], device="cpu")
    found = np.asarray(Image.open(tmp_path / "maps" / "0.overlay.jpg")).astype(int)
    assert np.abs(found - model.predict(images.image(0)).overlay()).mean() < 8  # JPEG


def test_show_prints_the_same_data(folder, command):
    said = command(
        "show", "--out", folder, "--columns", "label,seed,refinement,checkpoint,miou", "--format", "csv"
    )
    assert said.code == 0, said.err
    frame = records(folder)
    read = pd.read_csv(io.StringIO(said.out))
    assert read.columns.tolist() == ["label", "seed", "refinement", "checkpoint", "miou"]
    assert np.allclose(read.miou, frame.miou)
    said = command("show", "--out", folder, "--per-class", "--format", "json")
    assert {row["class"] for row in json.loads(said.out)} == {"smooth", "striped"}
    said = command("show", "--out", folder, "--columns", "label,miou")
    assert said.out.splitlines()[0].split() == ["label", "miou"]
    wrong = command("show", "--out", folder, "--columns", "label,mIoU")
    assert wrong.code == 2
    assert "Did you mean 'miou'" in wrong.err
    assert command("show", "abc", "--out", folder, "--format", "csv").code == 2
