"""Label codings that fit by luck: each file may pass, and the split as a whole is refused with the cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import potsdam_files
import pytest
from PIL import Image
from scipy.io import savemat

from uss_bench.contracts import Dataset
from uss_bench.data.split_check import check_split
from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry

RNG = np.random.default_rng(0)
SIZE = (24, 40)


def put(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def blocks(values: list[int], shares: list[float] | None = None) -> np.ndarray:
    """Return a label of blocks that hold these values."""
    coarse = RNG.choice(np.array(values, np.uint8), (SIZE[0] // 4, SIZE[1] // 4), p=shares)
    return coarse.repeat(4, 0).repeat(4, 1)


# --- Cityscapes: ids 0 to 33, of which 7 to 33 are the classes -------------------------------------

IDS = [0, 1, 3, 4, 7, 8, 11, 13, 17, 19, 20, 21, 23, 24, 26, 33]
"""Ids as a genuine street scene has them."""
TRAIN_ID = {7: 0, 8: 1, 11: 2, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 23: 10, 24: 11, 26: 13, 33: 18}


def cityscapes(root: Path, code: Callable[[np.ndarray], np.ndarray], count: int = 4) -> Dataset:
    for number in range(count):
        stem = f"val/city/city_{number:06d}_000019"
        put(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", RNG.integers(0, 256, (*SIZE, 3), np.uint8))
        put(root / "gtFine" / f"{stem}_gtFine_labelIds.png", code(blocks(IDS)))
    options = {"root": str(root), "partial": True, "train": "val"}
    return load_dataset(Registry(), "cityscapes27", options)[0]


def lookup(table: dict[int, int], other: int) -> Callable[[np.ndarray], np.ndarray]:
    values = np.full(256, other, np.uint8)
    values[list(table)] = list(table.values())
    return lambda label: values[label]


def test_genuine_cityscapes_pass(tmp_path):
    assert sum(check_split(cityscapes(tmp_path, lambda label: label), "val-partial").class_pixels) > 0


@pytest.mark.parametrize(("void", "words"), [(255, "the value 255"), (0, "train ids"), (18, "train ids")])
def test_train_ids_of_cityscapes_are_refused_with_and_without_255(tmp_path, void, words):
    dataset = cityscapes(tmp_path, lookup(TRAIN_ID, void))
    with pytest.raises(DataError, match=words) as caught:
        check_split(dataset, "val-partial")
    assert "labelTrainIds" in str(caught.value)
    with pytest.raises(DataError):
        dataset.verify()


@pytest.mark.parametrize("count", [1, 20])
def test_27_classes_in_a_row_are_refused_where_there_are_enough(tmp_path, count):
    dataset = cityscapes(tmp_path, lambda label: np.maximum(label, 7) - 7, count)
    if count == 20:
        with pytest.raises(DataError, match="27 classes in a row"):
            check_split(dataset, "val-partial")
    else:
        check_split(dataset, "val-partial")


# --- COCO-Stuff: 0 to 181 and 255 -------------------------------------------------------------------

FINE = [0, 2, 27, 43, 66, 84, 105, 123, 156, 168]
"""Person, car, umbrella, bottle, table, vase, clouds, grass, sky, tree: values of the stuffthingmaps."""


def coco(root: Path, code: Callable[[np.ndarray], np.ndarray], count: int, void: bool = True) -> Dataset:
    for number in range(count):
        name = f"{number + 1:012d}"
        label = blocks([*FINE, 255] if void else FINE)
        put(root / "images/val2017" / f"{name}.jpg", RNG.integers(0, 256, (*SIZE, 3), np.uint8))
        put(root / "annotations/val2017" / f"{name}.png", code(label))
    options = {"root": str(root), "lists": "none", "train": "val2017-all"}
    return load_dataset(Registry(), "cocostuff27", options)[0]


def contiguous(label: np.ndarray) -> np.ndarray:
    """Number the 171 classes of COCO-Stuff without gaps, as mmsegmentation does."""
    gaps = np.array([11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90])
    values = np.array([value - (gaps < value).sum() for value in range(256)], np.uint8)
    return np.where(label == 255, 255, values[label])


def one_based(label: np.ndarray) -> np.ndarray:
    return label + np.uint8(1)  # 255 becomes 0, which then means unlabeled


@pytest.mark.parametrize("count", [2, 20])
def test_genuine_maps_of_coco_pass(tmp_path, count):
    assert sum(check_split(coco(tmp_path, lambda label: label, count), "val2017-all").class_pixels) > 0


@pytest.mark.parametrize(("code", "value"), [(one_based, "28|44|67"), (contiguous, "25")])
def test_other_numberings_of_coco_are_refused_by_values_that_never_occur(tmp_path, code, value):
    with pytest.raises(DataError, match=f"holds the value ({value}) at") as caught:
        check_split(coco(tmp_path, code, 4), "val2017-all")
    assert "count from 1" in str(caught.value.hint)


def test_maps_of_coco_without_any_unlabeled_pixel_are_refused_where_there_are_enough(tmp_path):
    """One-based maps whose values happen to be in use: person is then what nobody labeled."""
    with pytest.raises(DataError, match=r"none of 20 maps has an unlabeled pixel \(255\)"):
        check_split(coco(tmp_path / "many", lambda label: label, 20, void=False), "val2017-all")
    check_split(coco(tmp_path / "few", lambda label: label, 2, void=False), "val2017-all")


# --- Potsdam: 0 to 5 and 255 ------------------------------------------------------------------------


def potsdam(root: Path, values: list[int]) -> Dataset:
    potsdam_files.archive(root)
    for path in (root / "gt").iterdir():
        label = RNG.choice(np.array(values, np.int32), (200, 200))
        savemat(path, {"gt": label})
    return load_dataset(Registry(), "potsdam3", {"root": str(root), "partial": True})[0]


@pytest.mark.parametrize("values", [[0, 1, 2, 3, 4, 5], [0, 1, 2, 255], [1, 3], [0, 1, 2]])
def test_labels_of_potsdam_pass(tmp_path, values):
    check_split(potsdam(tmp_path, values), "train-partial")


@pytest.mark.parametrize(
    ("values", "words"), [([1, 2, 3, 4, 5, 6], "the value 6"), ([1, 2, 3, 4, 5], "they seem to count from 1")]
)
def test_one_based_labels_of_potsdam_are_refused_with_and_without_clutter(tmp_path, values, words):
    with pytest.raises(DataError, match=words):
        check_split(potsdam(tmp_path, values), "train-partial")


# --- A folder ---------------------------------------------------------------------------------------


def folder(root: Path, labels: list[np.ndarray], classes: str | None) -> Dataset:
    for number, label in enumerate(labels):
        put(root / "images" / f"{number}.png", RNG.integers(0, 256, (*label.shape, 3), np.uint8))
        put(root / "labels" / f"{number}.png", label)
    options: dict[str, Any] = {"root": str(root)}
    if classes is not None:
        (root / "classes.toml").write_text(classes)
        options["classes"] = str(root / "classes.toml")
    return load_dataset(Registry(), "folder", options)[0]


def table(count: int, ignored: str = "255") -> str:
    rows = "".join(f'[[classes]]\nname = "class {one}"\ncolor = [{one}, 0, 0]\n' for one in range(count))
    return f'name = "mine"\nignore_values = [{ignored}]\n{rows}'


def test_labels_that_count_to_one_beyond_the_classes_are_told_why(tmp_path):
    """As those of ADE20K, where 0 is unlabeled."""
    with pytest.raises(DataError, match="holds the value 3 ") as caught:
        check_split(folder(tmp_path, [blocks([0, 1, 2, 3])], table(3)), "all")
    assert "values = [1] and so on, and ignore_values = [0]" in str(caught.value.hint)


def test_another_unknown_value_is_not_taken_for_a_shift(tmp_path):
    with pytest.raises(DataError, match="holds the value 9 ") as caught:
        check_split(folder(tmp_path, [blocks([0, 1, 2, 9])], table(3)), "all")
    assert "values = [1]" not in str(caught.value.hint)


def suggestion(root: Path, labels: list[np.ndarray]) -> tuple[str, str]:
    """Return what an error says of labels without a classes file, and the file that it suggests."""
    with pytest.raises(UsageError, match="no classes file") as caught:
        folder(root, labels, None).labels("all")
    return caught.value.what, str(caught.value.hint).partition("\n\n")[2]


def test_255_is_a_class_where_it_is_one_of_two_values(tmp_path):
    labels = [blocks([0, 255]), blocks([255])]
    said, text = suggestion(tmp_path, labels)
    assert "255 is one of two values" in said
    dataset = folder(tmp_path, labels, text)
    assert len(dataset.classes) == 2
    label = dataset.labels("all").label(0)
    np.testing.assert_array_equal(label, np.where(labels[0] == 255, 1, 0))


@pytest.mark.parametrize(("share", "said"), [(0.05, ""), (0.6, "255 covers")])
def test_255_is_void_among_more_values_and_said_to_cover_much(tmp_path, share, said):
    label = blocks([0, 1, 2, 255], [(1 - share) / 3] * 3 + [share])
    what, text = suggestion(tmp_path, [label])
    assert ("255 covers" in what) == bool(said)
    assert "ignore_values = [255]" in text
    report = check_split(folder(tmp_path, [label], text), "all")
    assert report.ignored_pixels == (label == 255).sum()
    assert any("are ignored" in one for one in report.notices([])) == bool(said)


@pytest.mark.parametrize("values", [[0, 1], [0], [255], [0, 1, 2, 3], [7, 9]])
def test_the_suggested_file_reads_the_labels_that_it_was_made_of(tmp_path, values):
    labels = [blocks(values)]
    _, text = suggestion(tmp_path, labels)
    dataset = folder(tmp_path, labels, text)
    assert len(dataset.classes) == len(values)
    assert dataset.labels("all").label(0).min() == 0
