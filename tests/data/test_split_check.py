"""A whole split is checked before it is used: the first thing wrong is named, and the rest is said."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_files
import numpy as np
import pytest
from PIL import Image

from uss_bench.contracts import Dataset
from uss_bench.data import split_check, split_process
from uss_bench.data.split_check import SplitReport, check_split
from uss_bench.data.split_process import check_split_apart
from uss_bench.errors import ContractError, DataError, RunError
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry

RNG = np.random.default_rng(0)
SIZE = (20, 28)
CLASSES = """
name = "mine"
ignore_values = [255]
[[classes]]
name = "road"
color = [1, 2, 3]
[[classes]]
name = "tree"
color = [4, 5, 6]
[[classes]]
name = "sky"
color = [7, 8, 9]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USS_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four labeled images in two splits."""
    for split in ("train", "test"):
        for number in range(4):
            image, label = place(tmp_path, split, number)
            put(image, RNG.integers(0, 256, (*SIZE, 3), np.uint8))
            put(label, RNG.integers(0, 3, SIZE, np.uint8))
    (tmp_path / "classes.toml").write_text(CLASSES)
    return tmp_path


def put(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def place(root: Path, split: str, number: int) -> tuple[Path, Path]:
    return root / "images" / split / f"{number}.png", root / "labels" / split / f"{number}.png"


def options(root: Path) -> dict[str, Any]:
    return {"root": str(root), "classes": str(root / "classes.toml")}


def load(root: Path) -> Dataset:
    return load_dataset(Registry(), "folder", options(root))[0]


def apart(root: Path, split: str = "test", **more: Any) -> SplitReport:
    given = {"registry": Registry(), "name": "folder", "options": options(root), **more}
    return check_split_apart(load(root), split, **given)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def misfit(path: Path) -> None:
    put(path, np.asarray(Image.open(path))[:-1])


def wrong_pixel(path: Path) -> None:
    label = np.array(Image.open(path))
    label[-1, -1] = 77
    put(path, label)


FAULTS: dict[str, tuple[int, Callable[[Path], None], str]] = {
    "a truncated image": (0, cut, r"test/3\.png is damaged or truncated"),
    "a truncated label": (1, cut, r"test/3\.png is damaged or truncated"),
    "an image of another size": (0, misfit, r"images/test/3\.png is 28×19 pixels, and its label map 28×20"),
    "a label of another size": (1, misfit, r"images/test/3\.png is 28×20 pixels, and its label map 28×19"),
    "one wrong pixel": (1, wrong_pixel, r"labels/test/3\.png holds the value 77 at x=27, y=19"),
    "no image at all": (0, lambda path: path.write_bytes(b""), r"test/3\.png is empty"),
    "a strip": (0, lambda path: put(path, RNG.integers(0, 256, (2, 900, 3), np.uint8)), "more than 32 times"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_last_file_of_the_test_split_is_checked_like_the_first(root, fault):
    side, spoil, words = FAULTS[fault]
    spoil(place(root, "test", 3)[side])
    with pytest.raises(DataError, match=words):
        check_split(load(root), "test")
    assert check_split(load(root), "test", limit=2).images == 2, "images 0 and 2"


def test_a_process_of_its_own_finds_the_same(root):
    assert apart(root, "train") == check_split(load(root), "train")
    wrong_pixel(place(root, "test", 3)[1])
    with pytest.raises(DataError, match="holds the value 77 at x=27") as caught:
        apart(root)
    assert "ignore_values" in str(caught.value.hint)


def test_a_process_that_dies_is_no_answer(root, monkeypatch):
    monkeypatch.setattr(split_process.sys, "executable", "/bin/false")
    with pytest.raises(RunError, match=r"split 'test' ended without an answer \(exit code 1\)"):
        apart(root)


def test_nothing_is_read_twice_until_a_file_changes(root, monkeypatch):
    first = check_split(load(root), "test")
    with monkeypatch.context() as patch:
        patch.setattr(split_check, "_check", lambda *_: pytest.fail("the split was read again"))
        assert check_split(load(root), "test") == apart(root) == first
    wrong_pixel(place(root, "test", 0)[1])
    with pytest.raises(DataError, match="77"):
        check_split(load(root), "test")


def test_another_meaning_of_values_is_another_check(root):
    before = check_split(load(root), "test")
    text = CLASSES
    for position, value in enumerate((1, 0, 2)):
        text = text.replace(
            f"color = [{3 * position + 1}", f"values = [{value}]\ncolor = [{3 * position + 1}"
        )
    (root / "classes.toml").write_text(text)
    after = check_split(load(root), "test")
    assert after.class_pixels == [before.class_pixels[one] for one in (1, 0, 2)] != before.class_pixels


def test_a_damaged_or_unwritable_cache_costs_time_only(root, cache):
    first = check_split(load(root), "test")
    for path in cache.rglob("*.json"):
        path.write_bytes(b"{")
    assert check_split(load(root), "test") == first


def notices(root: Path) -> list[str]:
    dataset = load(root)
    return check_split(dataset, "test").notices([row.name for row in dataset.classes])


def test_a_split_with_nothing_to_say_says_nothing(root):
    assert notices(root) == []


def test_classes_without_a_pixel_and_much_that_is_ignored_are_said(root):
    for number in range(4):
        label = np.full(SIZE, 255, np.uint8)
        label[: 4 + number] = 1
        put(place(root, "test", number)[1], label)
    assert notices(root) == [
        "No pixel of split 'test' is labeled road, sky.",
        "72% of the pixels of split 'test' are ignored by the labels.",
    ]


def test_test_labels_that_are_all_void_are_refused_and_training_labels_are_not(root):
    for split in ("train", "test"):
        for number in range(4):
            put(place(root, split, number)[1], np.full(SIZE, 255, np.uint8))
    with pytest.raises(DataError, match="'test' hold nothing but ignored pixels: nothing can be scored"):
        check_split(load(root), "test")
    assert check_split(load(root), "train").class_pixels == [0, 0, 0]


def turned(format: str, tag: int, array: np.ndarray) -> bytes:
    if format == "TIFF":
        return image_files.tiff(array, tags={274: [tag]})
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = tag
    Image.fromarray(array).save(buffer, format, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_tags_are_counted(root, format):
    for number, tag in enumerate((1, 3, 6, 3)):
        image, _ = place(root, "test", number)
        image.write_bytes(turned(format, tag, np.asarray(Image.open(image))))
    assert notices(root) == [
        "3 images of split 'test' have an orientation tag other than 1 (3: 2, 6: 1); they are read as "
        "stored, not as viewers turn them."
    ]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("tag", [5, 6, 7, 8])
def test_a_label_of_the_turned_image_is_told_by_the_tag(root, format, tag):
    image, label = place(root, "test", 1)
    image.write_bytes(turned(format, tag, np.asarray(Image.open(image))))
    put(label, RNG.integers(0, 3, SIZE[::-1], np.uint8))
    with pytest.raises(DataError, match="is 28×20 pixels, and its label map 20×28") as caught:
        check_split(load(root), "test")
    assert f"orientation tag is {tag}" in str(caught.value.hint)


def test_what_lies_beside_the_images_is_looked_at_every_time(root):
    assert notices(root) == []
    (root / "images" / "test" / "a.heic").write_bytes(b"")
    assert notices(root) == [f"Not read in {root}/images/test: 1 .heic."] == apart(root).notices([])


def test_generated_scenes_are_not_drawn_to_be_checked():
    dataset, _ = load_dataset(Registry(), "toy3", {})
    report = SplitReport(split="test", images=60, labeled=True)
    given = {"registry": Registry(), "name": "no such plugin", "options": {}}
    assert check_split_apart(dataset, "test", **given) == check_split(dataset, "test") == report


class Plugin:
    """A dataset of one image whose label map is what a test says."""

    name, splits, train_split, test_split = "plugin", ("all",), "all", "all"
    classes = ()

    def __init__(self, label: np.ndarray, ids: tuple[str, ...] = ("a",)) -> None:
        self.classes = [type("Class", (), {"name": name})() for name in "xyz"]
        self._label, self._ids = label, ids

    def images(self, split: str) -> Any:
        return type(
            "Images",
            (),
            {
                "ids": ("a",),
                "__len__": lambda self: 1,
                "image": lambda self, index: np.zeros((*SIZE, 3), np.uint8),
                "aux": lambda self, index: {},
                "fingerprint": lambda self: "images",
            },
        )()

    def labels(self, split: str) -> Any:
        label, ids = self._label, self._ids
        return type(
            "Labels",
            (),
            {
                "ids": ids,
                "__len__": lambda self: len(ids),
                "label": lambda self, index: label,
                "fingerprint": lambda self: str(label.tolist()),
            },
        )()


@pytest.mark.parametrize("value", [-2, 3, 255])
def test_a_plugins_label_out_of_range_is_told_by_its_image(value):
    label = np.zeros(SIZE, np.int16)
    label[3, 3] = value
    with pytest.raises(DataError, match=f"'a' holds {value}; classes are 0 to 2, and -1 is ignored"):
        check_split(Plugin(label), "all")


def test_a_plugins_label_of_another_size_is_told_by_its_image():
    with pytest.raises(DataError, match="Image 'a' is 28×20 pixels, and its label map 27×20"):
        check_split(Plugin(np.zeros((20, 27), np.int16)), "all")


def test_a_plugins_labels_in_another_order_are_its_fault():
    with pytest.raises(ContractError, match="labels with other ids"):
        check_split(Plugin(np.zeros(SIZE, np.int16), ids=("b",)), "all")
