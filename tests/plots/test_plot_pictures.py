"""Panels and embeddings: the maps and codes of records, on the data that the records were made from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import ArrayImages, ArrayLabels
from matplotlib.colors import to_rgb
from plot_records import COLORS, a_cell, put
from running import PLUGINS, Run

from uss_bench.errors import DataError, UsageError
from uss_bench.evaluation.scoring import count
from uss_bench.experiment.recipe import find_recipe
from uss_bench.experiment.restoring import Restored, restore
from uss_bench.plots import colors, embedding, panels
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import Entry
from uss_bench.results.files import read_record

SIDE = 32
PROTOCOL = f"stego320@2[eval_side={SIDE}]"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> tuple[ArrayImages, ArrayLabels]:
    """Four images of three classes, in stripes, with some ignored pixels."""
    images = ArrayImages.random(4, SIDE, SIDE)
    label = np.repeat(np.arange(SIDE) * 3 // SIDE, SIDE).reshape(SIDE, SIDE)
    labels = [np.roll(label, shift, axis=0) for shift in range(4)]
    labels[0][:4] = -1
    return images, ArrayLabels(labels)


def an_entry(folder: Path, method: str, labels: ArrayLabels, *, order: tuple[int, ...], **cell) -> Entry:
    """Return a record that is right everywhere, with its clusters in another order than the classes."""
    maps = np.stack([np.array(order)[np.maximum(label, 0)] for label in labels.arrays]).astype(np.uint8)
    counts = np.stack([count(one, label, 3, 3) for one, label in zip(maps, labels.arrays, strict=True)])
    path = put(folder, a_cell(method, protocol=PROTOCOL, **cell), counts, maps=maps[:3])
    return Entry(path, read_record(path))


# --- Panels --------------------------------------------------------------------------------------


def test_a_grid_shows_images_truth_and_matched_colors(tmp_path, data):
    images, labels = data
    shown = [
        (name, an_entry(tmp_path, name, labels, order=order))
        for name, order in (("a", (1, 2, 0)), ("b", (2, 0, 1)))
    ]
    found = panels.grid(shown, images, labels, refinements=("raw", "crf"), count=2)
    assert [title for title, _ in found.rows] == ["image", "ground truth", "a", "a\n+ CRF", "b", "b\n+ CRF"]
    rows = dict(found.rows)
    np.testing.assert_array_equal(rows["image"], images.arrays[:2])
    palette = np.array([*COLORS[:3], colors.IGNORED], dtype=np.uint8)
    np.testing.assert_array_equal(rows["ground truth"], palette[np.stack(labels.arrays[:2])])
    labeled = np.stack(labels.arrays[:2]) >= 0
    for name in ("a", "b\n+ CRF"):
        np.testing.assert_array_equal(np.stack(rows[name])[labeled], np.stack(rows["ground truth"])[labeled])
    assert found.legend[-1] == ("ignored", colors.IGNORED)
    canvas = panels.draw(found)
    assert len(canvas.axes) == 12
    np.testing.assert_array_equal(canvas.axes[2].images[0].get_array(), rows["ground truth"][0])
    assert [text.get_text() for text in canvas.texts] == [title for title, _ in found.rows]


def test_other_images_or_labels_than_the_records_are_refused(tmp_path, data):
    images, labels = data
    shown = [("a", an_entry(tmp_path, "a", labels, order=(0, 1, 2)))]
    moved = ArrayLabels([np.roll(label, 1, axis=0) for label in labels.arrays[1:]] + labels.arrays[:1])
    with pytest.raises(DataError, match="labels are not those"):
        panels.grid(shown, images, moved)
    fewer = ArrayImages(images.arrays[:3])
    with pytest.raises(DataError, match="images are not those"):
        panels.grid(shown, fewer, labels)


def test_a_long_title_is_broken_between_words_and_set_smaller():
    title, size = panels._fitted("smooseg (standardize=false)\n+ CRF", 0.8)
    assert title == "smooseg\n(standardize=false)\n+ CRF"
    assert size < 7
    assert panels._fitted("dino", 0.8) == ("dino", 7.0)


def test_long_titles_of_panels_lie_within_the_figure():
    tile = np.zeros((8, 8, 3), dtype=np.uint8)
    titles = ("image", "k-means on tinyvit (clusters=32, standardize=false)\n+ CRF")
    grid = panels.Grid(tuple((title, (tile,) * 8) for title in titles), (("road", (0, 0, 0)),))
    canvas = panels.draw(grid)
    canvas.draw_without_rendering()
    for text in canvas.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= canvas.axes[0].get_window_extent().x0


def test_panels_are_drawn_from_the_command_line(tmp_path, run, command):
    for method in ("constant", "random"):
        run(method, "tiny")
    out = tmp_path / "panels.png"
    arguments = (
        "--plugin",
        PLUGINS,
        "--dataset",
        "tiny",
        "--records",
        run.results,
        "--out",
        out,
        "--count",
        2,
    )
    said = command("plot", "panels", *arguments)
    assert said.code == 0, said.err
    assert out.exists()
    assert said.out.splitlines()[1].startswith("caption Predictions of Constant, Random in the colors")


# --- Embedding -----------------------------------------------------------------------------------


@pytest.fixture
def trained(run: Run) -> Entry:
    outcome = run("dino", "tiny", params={"steps": 5})
    return Entry(outcome.path, outcome.record)


def restored(entry: Entry, registry: Registry, dataset: str) -> Restored:
    setup = find_recipe(entry.record, dataset=dataset).setup(registry)
    return restore(entry.path, entry.record, setup, registry, CPU)


def test_codes_are_those_of_the_restored_method_with_the_labels_below_them(trained, run):
    found = restored(trained, run.registry, "tiny")
    codes = embedding.patch_codes(found, images=4, points=10**6, device=CPU)
    again = embedding.patch_codes(found, images=4, points=100, device=CPU)
    assert len(codes.codes) == len(codes.classes) == len(codes.clusters) > 100
    with torch.no_grad():
        code = torch.from_numpy(codes.codes).T[None, :, :, None]
        np.testing.assert_array_equal(found.method.classify(code).argmax(dim=1)[0, :, 0], codes.clusters)
    assert set(codes.classes) <= set(range(len(trained.record.classes)))
    rows = {row.tobytes() for row in codes.codes}
    assert len(again.codes) == 100
    assert all(row.tobytes() in rows for row in again.codes)


def test_a_cloud_has_the_colors_of_classes_and_of_matched_clusters(trained):
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 60)
    centers = np.eye(8)[classes] * 20
    codes = embedding.Codes((centers + rng.normal(size=(120, 8))).astype(np.float32), classes, classes)
    found = embedding.cloud("dino", trained, codes)
    first, second = found.points[:60], found.points[60:]
    apart = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert apart > max(first.std(), second.std())
    palette = np.array([row.color for row in trained.record.classes])
    np.testing.assert_array_equal(found.class_colors, palette[classes])
    canvas = embedding.draw([found, found], colors.legend([trained]))
    drawn = canvas.axes[0].collections[0]
    np.testing.assert_allclose(drawn.get_offsets(), found.points)
    np.testing.assert_allclose(drawn.get_facecolors()[0][:3], to_rgb(palette[0] / 255))


def test_codes_that_all_point_one_way_show_nothing(trained):
    same = embedding.Codes(np.ones((200, 4), np.float32), np.zeros(200, int), np.zeros(200, int))
    with pytest.raises(UsageError, match="All codes of dino point one way"):
        embedding.cloud("dino", trained, same)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UsageError, match="not installed") as error:
        embedding.require_sklearn()
    assert error.value.hint == 'pip install "uss-bench[plots]"'


def test_a_state_that_is_missing_and_other_data_are_told(trained, run, monkeypatch):
    registry = run.registry
    with pytest.raises(DataError, match="not the images and labels"):
        restored(trained, registry, "toy3")
    trained.path.with_suffix(".safetensors").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        restored(trained, registry, "tiny")


def test_an_embedding_is_drawn_from_the_command_line(tmp_path, trained, run, command):
    out = tmp_path / "embedding.png"
    arguments = ("--plugin", PLUGINS, "--dataset", "tiny", "--records", run.results, "--out", out)
    said = command("plot", "embedding", *arguments, "--points", 120, "--images", 4, "--device", "cpu")
    assert said.code == 0, said.err
    assert out.exists()
    assert "caption t-SNE of the codes of 120 test patches" in said.out
