"""The folder adapter: layouts, classes files, and every way in which files can contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from uss_bench.contracts import IGNORE
from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.registry import Registry

SHARED = Path(__file__).parents[3] / "shared" / "data"
RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
LABEL = np.array([[0, 1, 2, 0, 1, 255]] * 4, np.uint8)
CLASSES = """
name = "tri"
ignore_values = [255]
[[classes]]
name = "a"
color = [1, 2, 3]
[[classes]]
name = "b"
color = [4, 5, 6]
[[classes]]
name = "c"
color = [7, 8, 9]
"""
COLORED = """
name = "duo"
ignore_values = [[0, 0, 0]]
[[classes]]
name = "a"
color = [1, 2, 3]
values = [[255, 0, 0], [200, 0, 0]]
[[classes]]
name = "b"
color = [4, 5, 6]
values = [[0, 255, 0]]
"""


def load(root: Path, **options: Any) -> Any:
    spec, plugin = Registry().dataset("folder")
    return plugin.load()(spec, root=root, **options)


def put(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def tree(root: Path, *, splits: tuple[str, ...] = ("train", "test"), labeled: bool = True) -> Path:
    for split in splits:
        for stem in ("x", "y"):
            put(root / "images" / split / f"{stem}.png", RGB)
            if labeled:
                put(root / "labels" / split / f"{stem}.png", LABEL)
    return root


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.toml"
    path.write_text(CLASSES)
    return path


def test_split_folders(tmp_path: Path, classes: Path) -> None:
    data = load(tree(tmp_path / "d", splits=("train", "val", "test")), classes=classes)
    assert (data.name, tuple(data.splits)) == ("tri", ("test", "train", "val"))
    assert (data.train_split, data.test_split) == ("train", "test")
    images, labels = data.images("test"), data.labels("test")
    assert tuple(images.ids) == tuple(labels.ids) == ("x", "y")
    np.testing.assert_array_equal(images.image(0), RGB)
    label = labels.label(0)
    assert label.dtype == np.int16
    assert label[0].tolist() == [0, 1, 2, 0, 1, IGNORE]
    data.prepare()
    assert "2 labeled" in data.verify()


@pytest.mark.parametrize("folder", ["images", ""])
def test_flat_folders_have_one_split_and_say_so(tmp_path: Path, folder: str) -> None:
    put(tmp_path / "My Data!" / folder / "x.JPG", RGB)
    data = load(tmp_path / "My Data!")
    assert (data.name, tuple(data.splits), data.train_split, data.test_split) == (
        "my-data", ("all",), "all", "all",
    )  # fmt: skip
    assert data.classes == ()
    assert data.labels("all") is None
    assert "training and testing alike" in data.verify()


def test_flat_images_with_labels(tmp_path: Path, classes: Path) -> None:
    put(tmp_path / "d" / "images" / "x.jpg", RGB)
    put(tmp_path / "d" / "labels" / "x.png", LABEL)
    assert load(tmp_path / "d", classes=classes).labels("all").label(0)[0, 5] == IGNORE


def test_images_know_nothing_of_labels(tmp_path: Path, classes: Path) -> None:
    images = load(tree(tmp_path / "d"), classes=classes).images("train")
    images.fingerprint()
    assert "labels" not in repr([vars(images), images._files.paths])


def test_only_some_splits_may_be_labeled(tmp_path: Path, classes: Path) -> None:
    root = tree(tmp_path / "d", splits=("train",), labeled=False)
    data = load(tree(root, splits=("test",)), classes=classes)
    assert data.labels("train") is None
    assert data.labels("test") is not None


def test_labels_without_a_classes_file_get_one_to_paste(tmp_path: Path) -> None:
    root = tree(tmp_path / "d")
    data = load(root)
    assert len(data.images("test")) > 0  # to label images takes no labels
    with pytest.raises(UsageError, match="no classes file") as caught:
        data.labels("test")
    with pytest.raises(UsageError, match="no classes file"):
        data.verify()
    assert "label files." in str(caught.value.hint)
    assert "200" not in str(caught.value.hint)
    start = tmp_path / "start.toml"
    start.write_text(str(caught.value.hint).partition("\n\n")[2])
    assert load(root, classes=start).labels("test").label(0)[0].tolist() == [0, 1, 2, 0, 1, IGNORE]


def test_colored_labels(tmp_path: Path) -> None:
    path = tmp_path / "duo.toml"
    path.write_text(COLORED)
    put(tmp_path / "d" / "images" / "x.png", RGB[:1, :4])
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 0], [200, 0, 0]]], np.uint8)
    label = put(tmp_path / "d" / "labels" / "x.png", colors)
    data = load(tmp_path / "d", classes=path)
    assert data.labels("all").label(0).tolist() == [[0, 1, IGNORE, 0]]
    put(label, np.array([[[255, 0, 0], [0, 255, 0], [9, 9, 9], [200, 0, 0]]], np.uint8))
    with pytest.raises(DataError, match=r"\[9, 9, 9\] at x=2, y=0"):
        data.labels("all").label(0)
    put(label, np.zeros((1, 4), np.uint8))
    with pytest.raises(DataError, match="grayscale"):
        data.labels("all").label(0)


def test_gray_labels_saved_as_rgb_are_read(tmp_path: Path, classes: Path) -> None:
    root = tree(tmp_path / "d")
    put(root / "labels" / "test" / "x.png", np.stack([LABEL] * 3, -1))
    assert load(root, classes=classes).labels("test").label(0)[0].tolist() == [0, 1, 2, 0, 1, IGNORE]


def test_an_unknown_value_is_named_with_its_place(tmp_path: Path, classes: Path) -> None:
    wrong = LABEL.copy()
    wrong[2, 3] = 77
    put(tree(tmp_path / "d") / "labels" / "test" / "y.png", wrong)
    data = load(tmp_path / "d", classes=classes)
    with pytest.raises(DataError, match=r"y\.png holds the value 77 at x=3, y=2"):
        data.verify()


def test_a_label_of_another_size_is_named_with_both_sizes(tmp_path: Path, classes: Path) -> None:
    put(tree(tmp_path / "d") / "labels" / "test" / "y.png", LABEL[:3])
    with pytest.raises(DataError, match=r"y\.png is 6×4 pixels.* 6×3"):
        load(tmp_path / "d", classes=classes).verify()


def test_missing_labels_are_counted_and_the_first_is_named(tmp_path: Path, classes: Path) -> None:
    root = tree(tmp_path / "d")
    (root / "labels" / "test" / "x.png").rename(root / "labels" / "test" / "x_label.png")
    with pytest.raises(DataError, match=r"1 of 2 images .*x\.png") as caught:
        load(root, classes=classes).labels("test")
    assert "x_label.png" in str(caught.value.hint)


def test_two_images_of_one_stem_clash(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", RGB)
    put(tmp_path / "a.png", RGB)
    with pytest.raises(DataError, match=r"a\.jpg and a\.png"):
        load(tmp_path)


def test_a_missing_or_empty_folder_is_explained(tmp_path: Path) -> None:
    for root in (tmp_path / "gone", tmp_path):
        with pytest.raises(DataError) as caught:
            load(root)
        assert "ROOT/images/train" in str(caught.value.hint)


def test_loose_images_beside_split_folders_are_refused(tmp_path: Path) -> None:
    put(tree(tmp_path, labeled=False) / "images" / "z.png", RGB)
    with pytest.raises(DataError, match=r"z\.png"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CLASSES.replace("[255]", "[1]"), "two things"),
        (CLASSES.replace("[255]", "[[0, 0, 0]]"), "mix"),
        (CLASSES.replace("[255]", "[-1]"), "within"),
        (CLASSES + "color_map = 1", "color_map"),
        ("name = 'x'\nclasses = []", "length"),
    ],
)
def test_a_contradictory_classes_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "classes.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        load(tree(tmp_path / "d"), classes=path)


def test_wrong_options_are_refused(tmp_path: Path, classes: Path) -> None:
    root = tree(tmp_path / "d")
    with pytest.raises(UsageError, match="camvi") as caught:
        load(root, classes="camvi")
    assert "'camvid'" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no split"):
        load(root, classes=classes, test="tset")
    with pytest.raises(UsageError, match="name"):
        load(root, classes=classes, name="No Name")
    with pytest.raises(UsageError, match="which one is for train"):
        load(tree(tmp_path / "e", splits=("one", "two"), labeled=False))
    with pytest.raises(DataError, match="no label files"):
        load(tree(tmp_path / "f", labeled=False), classes=classes)


def test_further_channels(tmp_path: Path) -> None:
    put(tmp_path / "images" / "train" / "x.png", RGB)
    depth = np.arange(24, dtype=np.uint16).reshape(4, 6) * 1000
    put(tmp_path / "aux" / "depth" / "train" / "x.png", depth)
    (tmp_path / "aux" / "flow" / "train").mkdir(parents=True)
    np.save(tmp_path / "aux" / "flow" / "train" / "x.npy", np.ones((4, 6, 2), np.float32))
    images = load(tmp_path).images("train")
    before, aux = images.fingerprint(), images.aux(0)
    np.testing.assert_array_equal(aux["depth"], depth)
    assert aux["flow"].shape == (4, 6, 2)
    np.save(tmp_path / "aux" / "flow" / "train" / "x.npy", np.ones((3, 6, 2), np.float32))
    with pytest.raises(DataError, match=r"x\.npy changed while it was in use"):
        images.aux(0)
    images = load(tmp_path).images("train")
    assert images.fingerprint() != before
    with pytest.raises(DataError, match=r"x\.npy is 6×3"):
        images.aux(0)
    (tmp_path / "aux" / "flow" / "train" / "x.npy").unlink()
    with pytest.raises(DataError, match="no 'flow'"):
        load(tmp_path).images("train")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "n_classes", "train", "test"), [("camvid", 11, 367, 233), ("dubai", 5, 54, 18)]
)
def test_real_datasets(name: str, n_classes: int, train: int, test: int) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs {name} in ../shared/data")
    data = load(SHARED / name, classes=name)
    assert (data.name, len(data.classes), data.test_split) == (name, n_classes, "test")
    assert (len(data.images("train")), len(data.images("test"))) == (train, test)
    labels = data.labels("test")
    found = np.unique(np.concatenate([np.unique(labels.label(index)) for index in range(0, test, 6)]))
    assert set(found) <= {IGNORE, *range(n_classes)}
