"""VOC, ADE20K, LoveDA and Vaihingen in their genuine layouts: what is read, counted and refused."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paired_files as files
import pytest
from file_server import serve
from PIL import Image
from running import Run

from uss_bench.contracts import IGNORE
from uss_bench.data.split_check import check_split
from uss_bench.errors import DataError, UsageError
from uss_bench.kit import check_dataset
from uss_bench.plugins.registry import Registry


@dataclass(frozen=True)
class Layout:
    """One layout of one dataset, and what must come out of it."""

    dataset: str
    tree: Callable[[Path], files.Tree]
    classes: int
    class_of: Callable[[np.ndarray], np.ndarray]
    """From stored values to classes, written independently of the class tables."""
    published: tuple[int, int]
    unknown: int
    """A value that stands for nothing."""


def voc_class(values: np.ndarray) -> np.ndarray:
    return np.where(values == 255, IGNORE, values.astype(np.int64))


def less_one(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int64) - 1


LAYOUTS = {
    "voc": Layout("voc21", files.voc, 21, voc_class, (1464, 1449), 21),
    "voc without the kit's folders": Layout(
        "voc21", lambda root: files.voc(root, ""), 21, voc_class, (1464, 1449), 254
    ),
    "ade": Layout("ade150", files.ade, 150, less_one, (20_210, 2000), 151),
    "ade without its folder": Layout(
        "ade150", lambda root: files.ade(root, ""), 150, less_one, (20_210, 2000), 255
    ),
    "loveda": Layout("loveda", files.loveda, 7, less_one, (2522, 1669), 8),
    "loveda as prepared": Layout(
        "loveda", lambda root: files.loveda(root, prepared=True), 7, less_one, (2522, 1669), 255
    ),
    "vaihingen": Layout("vaihingen", files.vaihingen, 6, less_one, (344, 398), 7),
}
ONE_EACH = [LAYOUTS[name] for name in ("voc", "ade", "loveda", "vaihingen")]


@pytest.fixture(params=LAYOUTS, ids=str)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def test_values_become_classes_and_void_is_ignored(layout, tmp_path):
    tree = layout.tree(tmp_path)
    data = files.load(layout.dataset, tmp_path)
    assert len(data.classes) == layout.classes
    seen = 0
    for split in (data.train_split, data.test_split):
        images, labels = data.images(split), data.labels(split)
        assert list(images.ids) == list(labels.ids) == sorted(images.ids)
        for index, name in enumerate(labels.ids):
            label = labels.label(index)
            assert label.dtype == np.int16
            assert images.image(index).shape == (*label.shape, 3)
            np.testing.assert_array_equal(label, layout.class_of(tree.labels[name]))
            seen += 1
    assert seen >= 4
    assert (label == IGNORE).any() or layout.dataset == "ade150"


def test_counts_of_classes_are_those_of_the_files(layout, tmp_path):
    tree = layout.tree(tmp_path)
    data = files.load(layout.dataset, tmp_path)
    for split in (data.train_split, data.test_split):
        report = check_split(data, split)
        counted = np.zeros(layout.classes, np.int64)
        ignored = 0
        for name in data.images(split).ids:
            for row in layout.class_of(np.asarray(Image.open(tree.files[name]))):
                for value in row:
                    if value == IGNORE:
                        ignored += 1
                    else:
                        counted[value] += 1
        assert report.class_pixels == counted.tolist()
        assert report.ignored_pixels == ignored
        assert counted.sum() > 0


def test_a_value_that_stands_for_nothing_is_named(layout, tmp_path):
    tree = layout.tree(tmp_path)
    data = files.load(layout.dataset, tmp_path)
    name = data.images(data.test_split).ids[-1]
    spoilt = tree.labels[name].copy()
    spoilt[5, 7] = layout.unknown
    Image.fromarray(spoilt).save(tree.files[name])
    with pytest.raises(DataError, match=rf"{name}.* holds the value {layout.unknown} at x=7, y=5") as caught:
        data.verify()
    assert "Label files are" in str(caught.value.hint)


def test_broken_and_missing_files_are_named(layout, tmp_path):
    tree = layout.tree(tmp_path)
    data = files.load(layout.dataset, tmp_path)
    name = data.images(data.test_split).ids[0]
    path, content = tree.files[name], tree.files[name].read_bytes()
    before = data.labels(data.test_split).fingerprint(), data.images(data.test_split).fingerprint()
    Image.fromarray(np.zeros((*files.SIZE, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match="in color"):
        data.verify()
    after = data.labels(data.test_split).fingerprint(), data.images(data.test_split).fingerprint()
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"damaged|truncated|cannot be read"):
        data.verify()
    Image.fromarray(tree.labels[name][:, :-8]).save(path)
    with pytest.raises(DataError, match=r"56×48|64×48"):
        data.verify()
    path.unlink()
    with pytest.raises(DataError, match=rf"1 of \d+ labels are missing; .*{name}"):
        data.labels(data.test_split)


def test_a_split_has_its_published_number_of_images(layout, tmp_path):
    layout.tree(tmp_path)
    data = files.load(layout.dataset, tmp_path, partial=False)
    for split, number in zip((data.train_split, data.test_split), layout.published, strict=True):
        with pytest.raises(DataError, match=f"'{split}' has {number:,} images") as caught:
            data.images(split)
        assert "partial=true" in str(caught.value.hint)


def test_images_lead_to_no_label_and_every_check_passes(layout, tmp_path):
    layout.tree(tmp_path)
    options = {"root": str(tmp_path), "partial": True}
    findings = check_dataset(layout.dataset, Registry(), options)
    assert not [one for one in findings if one.status in ("failed", "skipped")], findings


@pytest.mark.parametrize("layout", ONE_EACH, ids=lambda layout: layout.dataset)
def test_a_miniature_runs_end_to_end(layout, run: Run, tmp_path):
    layout.tree(tmp_path / "data")
    options = {"root": str(tmp_path / "data"), "partial": True}
    entry = run("dino", layout.dataset, backbone="patchstats", data=options, params={"steps": 2})
    record = entry.record
    assert (record.cell.dataset.name, record.clusters) == (layout.dataset, layout.classes)
    assert entry.arrays.counts["last", "raw"].shape[1:] == (layout.classes, layout.classes)


@pytest.mark.parametrize("layout", ONE_EACH, ids=lambda layout: layout.dataset)
def test_without_files_there_are_steps_and_wrong_options_are_named(layout, tmp_path, monkeypatch):
    data = files.load(layout.dataset, tmp_path / "none")
    monkeypatch.setattr(type(data), "archives", ())  # nothing is downloaded here
    with pytest.raises(DataError) as caught:
        data.prepare()
    assert str(tmp_path / "none") in str(caught.value.hint)
    with pytest.raises(UsageError, match="no split 'vall'"):
        files.load(layout.dataset, tmp_path, test="vall")
    with pytest.raises(UsageError, match="true or false"):
        files.load(layout.dataset, tmp_path, partial="no")


# --- Pascal VOC ---------------------------------------------------------------------------------------


def test_the_colors_of_voc_are_its_palette():
    spec, _ = Registry().dataset("voc21")
    assert [channel for row in spec.classes for channel in row.color] == files.voc_palette()[: 3 * 21]


def test_voc_without_background_ignores_it(tmp_path):
    tree = files.voc(tmp_path)
    data = files.load("voc21", tmp_path, taxonomy="voc20")
    whole = files.load("voc21", tmp_path)
    assert (data.name, len(data.classes), data.classes[0].name) == ("voc20", 20, "aeroplane")
    labels = data.labels("val-partial")
    stored = tree.labels[labels.ids[0]].astype(np.int64)
    np.testing.assert_array_equal(labels.label(0), np.where((stored == 0) | (stored == 255), -1, stored - 1))
    assert labels.fingerprint() != whole.labels("val-partial").fingerprint()
    with pytest.raises(UsageError, match="no taxonomy 'voc19'"):
        files.load("voc21", tmp_path, taxonomy="voc19")


def test_the_augmented_list_takes_labels_of_both_folders(tmp_path):
    tree = files.voc(tmp_path)
    base = tmp_path / "VOCdevkit/VOC2012"
    own = tree.labels["2007_000032"]
    files._put(base / "SegmentationClassAug/2007_000032.png", np.zeros_like(own))
    data = files.load("voc21", tmp_path, train="trainaug")
    labels = data.labels(data.train_split)
    assert list(labels.ids) == ["2007_000032", "2007_000039", "2008_000015"]
    np.testing.assert_array_equal(labels.label(0), voc_class(own))
    np.testing.assert_array_equal(labels.label(2), tree.labels["2008_000015"])
    (base / "ImageSets/Segmentation/trainaug.txt").unlink()
    with pytest.raises(DataError, match=r"trainaug\.txt does not exist"):
        data.images(data.train_split)
    assert len(data.images("train-partial")) == 2


@pytest.mark.parametrize("line", ["../2007_000032", "2007_000032", "/JPEGImages/2007_000032.jpg"])
def test_a_wrong_line_of_a_list_of_voc_is_named(tmp_path, line):
    files.voc(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    path.write_text(f"2007_000032\n{line}\n")
    with pytest.raises(DataError, match="comes twice" if line == "2007_000032" else "is not an id"):
        files.load("voc21", tmp_path).images("train-partial")


def test_the_archive_of_voc_is_downloaded_and_extracted(tmp_path, monkeypatch):
    base = "VOCdevkit/VOC2012/"
    files.voc(tmp_path / "source", base)
    with tarfile.open(tmp_path / "voc.tar", "w") as tape:
        tape.add(tmp_path / "source/VOCdevkit", "VOCdevkit")
    with serve() as server:
        server.files["voc.tar"] = (tmp_path / "voc.tar").read_bytes()
        data = files.load("voc21", tmp_path / "root")
        ((resource, place),) = data.archives
        local = type(resource)(f"{server.url}/voc.tar", resource.name)
        monkeypatch.setattr(type(data), "archives", [(local, place)])
        data.prepare()
        data.prepare()
        assert len(server.seen) == 1
    assert "val-partial 2 labeled" in data.verify()
    assert not (tmp_path / "root" / base / "SegmentationClassAug").exists(), "the archive has no such folder"


# --- LoveDA and Vaihingen -----------------------------------------------------------------------------


def test_both_layouts_of_loveda_are_the_same_dataset(tmp_path):
    files.loveda(tmp_path / "a")
    files.loveda(tmp_path / "b", prepared=True)
    one, other = (files.load("loveda", tmp_path / name) for name in "ab")
    for split in one.splits:
        assert one.images(split).fingerprint() == other.images(split).fingerprint()
        assert one.images(split).ids == other.images(split).ids
    assert one.labels("train-partial").fingerprint() == other.labels("train-partial").fingerprint()
    assert one.labels("test-partial") is None


def test_whole_tiles_of_vaihingen_are_read_by_their_colors(tmp_path):
    tree = files.vaihingen_tiles(tmp_path)
    data = files.load("vaihingen", tmp_path, train="tiles-train", test="tiles-val")
    assert [
        [name[20:] for name in data.images(split).ids] for split in (data.train_split, data.test_split)
    ] == [
        ["1", "34"],
        ["2", "38"],
    ]
    labels = data.labels(data.test_split)
    np.testing.assert_array_equal(labels.label(1), less_one(tree.labels[labels.ids[1]]))
    assert "tiles-val-partial 2 labeled" in data.verify()
    full = tmp_path / "gts_for_participants/top_mosaic_09cm_area2.tif"
    full.parent.mkdir()
    tree.files[labels.ids[0]].rename(full)
    assert data.labels(data.test_split).label(0).shape == files.SIZE
    spoilt = np.asarray(Image.open(full)).copy()
    spoilt[3, 4] = 9
    Image.fromarray(spoilt).save(full)
    with pytest.raises(DataError, match="at x=4, y=3"):
        data.verify()
    Image.fromarray(spoilt[..., 0]).save(full)
    with pytest.raises(DataError, match="is grayscale"):
        data.verify()


def test_the_areas_of_vaihingen_are_33_and_in_one_split_each():
    published = sys.modules[type(files.load("vaihingen", Path())).__module__].SPLITS
    train, val = published["tiles-train"][0], published["tiles-val"][0]
    assert (len(train | val), train & val) == (33, frozenset())
