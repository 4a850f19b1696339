"""Files of a folder that are no image, have no partner or lead nowhere: an error, or counted by name."""

from __future__ import annotations

import shutil
import tomllib
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_files
import numpy as np
import potsdam_files
import pytest
from PIL import Image

from uss_bench.data import verify_splits
from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_arrays, read_record

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
LABEL = RGB[..., 0] % 2
CLASSES = """
name = "mine"
[[classes]]
name = "a"
color = [1, 2, 3]
[[classes]]
name = "b"
color = [4, 5, 6]
"""


def put(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def load(root: Path, **options: Any) -> Any:
    return load_dataset(Registry(), "folder", {"root": str(root), **options})[0]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A root with two labeled splits of two images."""
    for name in ("train", "val"):
        for stem in ("x", "y"):
            put(tmp_path / "d" / "images" / name / f"{stem}.png", RGB)
            put(tmp_path / "d" / "labels" / name / f"{stem}.png", LABEL)
    (tmp_path / "classes.toml").write_text(CLASSES)
    return tmp_path / "d"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A root with two labeled images and no splits."""
    for stem in ("x", "y"):
        put(tmp_path / "d" / "images" / f"{stem}.png", RGB)
        put(tmp_path / "d" / "labels" / f"{stem}.png", LABEL)
    (tmp_path / "classes.toml").write_text(CLASSES)
    return tmp_path / "d"


def lead_nowhere(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere.png")


Change = Callable[[Path], object]
ERRORS: dict[str, tuple[Change, str]] = {
    "an image that leads nowhere": (
        lambda d: lead_nowhere(d / "images/val/x.png"),
        "links that lead nowhere",
    ),
    "one more image that leads nowhere": (
        lambda d: lead_nowhere(d / "images/train/z.jpg"),
        "1 of 3 files .* lead nowhere",
    ),
    "a label that leads nowhere": (lambda d: lead_nowhere(d / "labels/val/y.png"), "links that lead nowhere"),
    "a label without an image": (
        lambda d: put(d / "labels/train/z.png", LABEL),
        r"1 labels in .*labels/train have no image .*z\.png",
    ),
    "a label under another name": (
        lambda d: (d / "labels/val/x.png").rename(d / "labels/val/x_gt.png"),
        r"1 of 2 images have no label .*x\.png",
    ),
    "labels/validation beside images/val": (
        lambda d: (d / "labels/val").rename(d / "labels/validation"),
        "labels in the folder .*labels/validation, and the images lie in the folders train, val",
    ),
    "labels of one more split": (
        lambda d: put(d / "labels/test/x.png", LABEL),
        "labels in the folder .*labels/test",
    ),
    "labels beside their folders": (lambda d: put(d / "labels/x.png", LABEL), "labels loose in .*labels"),
    "labels of another format": (
        lambda d: [path.rename(path.with_suffix(".npy")) for path in (d / "labels/val").iterdir()],
        r"labels/val has no labels \(png, tif, tiff, bmp\). Not read in .*: 2 \.npy",
    ),
    "loose images beside splits": (lambda d: put(d / "images/z.png", RGB), "both in split folders"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_would_vanish_is_an_error(split: Path, tmp_path: Path, kind: str) -> None:
    change, words = ERRORS[kind]
    change(split)
    with pytest.raises(DataError, match=words):
        load(split, classes=str(tmp_path / "classes.toml")).verify()


def test_labels_in_a_folder_beside_loose_images_are_an_error(flat: Path, tmp_path: Path) -> None:
    put(flat / "labels" / "all" / "x.png", LABEL)
    with pytest.raises(DataError, match=r"labels in the folder .*all, and the images lie in no folder"):
        load(flat, classes=str(tmp_path / "classes.toml"))


LEFT_OUT: dict[str, tuple[Change, str]] = {
    "formats that are not read": (
        lambda d: [(d / "images/val" / name).write_bytes(b"") for name in ("a.heic", "b.jp2", "c.HEIC")],
        "Not read in {d}/images/val: 2 .heic, 1 .jp2.",
    ),
    "a folder within a split": (
        lambda d: put(d / "images/val/night/z.png", RGB),
        "Not read in {d}/images/val: the folder 'night'.",
    ),
    "a folder without images": (
        lambda d: (d / "images/raw").mkdir(),
        "Not read in {d}/images: the folder 'raw'.",
    ),
    "a channel of no image": (
        lambda d: [put(d / f"aux/depth/val/{stem}.png", LABEL) for stem in "xyz"],
        "Not read in {d}/aux/depth/val: 1 .png.",
    ),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_else_is_left_out_is_counted_by_name(
    command: Any, split: Path, tmp_path: Path, kind: str
) -> None:
    change, sentence = LEFT_OUT[kind]
    change(split)
    data = ["--dataset", "folder", "--root", split, "--classes", tmp_path / "classes.toml"]
    said = command("verify", *data, "--quiet")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[1:] == [sentence.format(d=split)]


def test_photos_beside_a_folder_are_counted(tmp_path: Path) -> None:
    put(tmp_path / "photos" / "a.jpg", RGB)
    put(tmp_path / "photos" / "more" / "b.jpg", RGB)
    (tmp_path / "photos" / "c.heic").write_bytes(b"")
    assert f"Not read in {tmp_path}/photos: 1 .heic, the folder 'more'." in load(tmp_path / "photos").verify()


def test_a_folder_of_other_files_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"has no images .* Not read in .*: 1 \.heic"):
        load(tmp_path)


def test_run_and_predict_say_what_they_leave_out(command: Any, split: Path, tmp_path: Path) -> None:
    for name in ("train", "val"):
        (split / "images" / name / "a.heic").write_bytes(b"")
    run = ["run", "--method", "random", "--dataset", "folder", "--root", split, "--backbone", "patchstats"]
    size = ["--protocol", "stego320@2[eval_side=32]", "--training", "side=32", "--workers", 1]
    said = command(*run, "--classes", tmp_path / "classes.toml", *size, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    for name in ("train", "val"):
        assert f"Not read in {split}/images/{name}: 1 .heic." in said.err
    (record,) = (tmp_path / "out").rglob("random-*.json")
    photos = shutil.copytree(split / "images" / "val", tmp_path / "photos")
    predict = ["predict", "--record", record, "--images", photos, "--workers", 1]
    said = command(*predict, "--out", tmp_path / "maps")
    assert said.code == 0, said.err
    assert f"Not read in {photos}: 1 .heic." in said.err
    lead_nowhere(photos / "z.png")
    said = command(*predict, "--out", tmp_path / "other")
    assert said.code == 1
    assert "links that lead nowhere" in said.err


# --- Names that look the same, and suffixes in capitals ------------------------------------------------


@pytest.mark.parametrize(("images", "labels"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_images_labels_and_channels_pair_whatever_the_form_of_accents(
    tmp_path: Path, images: str, labels: str
) -> None:
    for stem in ("Åé", "über 한"):
        put(tmp_path / "d/images" / unicodedata.normalize(images, f"{stem}.PNG"), RGB)
        put(tmp_path / "d/labels" / unicodedata.normalize(labels, f"{stem}.png"), LABEL)
        put(tmp_path / "d/aux/depth" / unicodedata.normalize(labels, f"{stem}.png"), LABEL)
    (tmp_path / "classes.toml").write_text(CLASSES)
    dataset = load(tmp_path / "d", classes=str(tmp_path / "classes.toml"))
    assert list(dataset.images("all").ids) == sorted(
        unicodedata.normalize("NFC", stem) for stem in ("Åé", "über 한")
    )
    dataset.verify()
    np.testing.assert_array_equal(dataset.images("all").aux(1)["depth"], LABEL)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("suffix", [".png", ".PNG"])
def test_predictions_of_others_are_found_whatever_the_form_and_case(
    command: Any, tmp_path: Path, form: str, suffix: str
) -> None:
    for stem in ("é", "ü"):
        put(tmp_path / "d/images" / f"{stem}.png", RGB)
        put(tmp_path / "d/labels" / f"{stem}.png", LABEL)
        put(tmp_path / "maps" / unicodedata.normalize(form, f"{stem}{suffix}"), LABEL)
    (tmp_path / "classes.toml").write_text(CLASSES)
    options = ["--dataset", "folder", "--root", tmp_path / "d", "--classes", tmp_path / "classes.toml"]
    size = ["--protocol", "full@2", "--out", tmp_path / "out"]
    said = command("eval", tmp_path / "maps", *options, *size, "--quiet")
    assert said.code == 0, said.err
    assert " 100.0 " in said.out


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".TIF", ".TIFF", ".bmp"])
def test_labels_may_be_of_any_format_that_holds_exact_values(
    split: Path, tmp_path: Path, suffix: str
) -> None:
    for path in sorted((split / "labels").rglob("*.png")):
        put(path.with_name(f"{path.stem}{suffix}"), LABEL)
        if suffix != ".png":
            path.unlink()
    dataset = load(split, classes=str(tmp_path / "classes.toml"))
    np.testing.assert_array_equal(dataset.labels("val").label(1), LABEL)


def test_cityscapes_with_suffixes_in_capitals(tmp_path: Path) -> None:
    label = (RGB[..., 0] % 34).astype(np.uint8)
    put(tmp_path / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.PNG", RGB)
    put(tmp_path / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.PNG", label)
    options = {"root": str(tmp_path), "partial": True, "train": "val"}
    dataset, _ = load_dataset(Registry(), "cityscapes27", options)
    assert list(dataset.images("val-partial").ids) == ["ulm_000000_000019"]
    dataset.verify()
    lead_nowhere(tmp_path / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.PNG")
    with pytest.raises(DataError, match="a link that leads nowhere"):
        dataset.labels("val-partial")


def test_coco_with_suffixes_in_capitals(tmp_path: Path) -> None:
    number = "000000000139"
    put(tmp_path / "images/val2017" / f"{number}.JPG", RGB)
    put(tmp_path / "annotations/val2017" / f"{number}.PNG", (RGB[..., 0] % 11).astype(np.uint8))
    curated = tmp_path / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"
    curated.parent.mkdir(parents=True)
    curated.write_text(f"{number}\n")
    options = {"root": str(tmp_path), "partial": True, "train": "val"}
    dataset, _ = load_dataset(Registry(), "cocostuff27", options)
    assert list(dataset.images("val-partial").ids) == [number]
    assert "val-partial 1 labeled" in verify_splits(dataset)


@pytest.mark.parametrize("suffix", [".tif", ".TIF", ".TIFF"])
def test_tiles_of_potsdam_with_suffixes_in_capitals(tmp_path: Path, suffix: str) -> None:
    potsdam_files.tiff(tmp_path / f"4_Ortho_RGBIR/top_potsdam_2_10_RGBIR{suffix}", potsdam_files.PATCH)
    label = f"top_potsdam_2_10_label{'.tif' if suffix == '.tif' else '.TIF'}"
    put(tmp_path / "5_Labels_for_participants" / label, RGB)
    options = {"root": str(tmp_path), "partial": True, "train": "tiles-labeled", "test": "tiles-labeled"}
    dataset, _ = load_dataset(Registry(), "potsdam3", options)
    assert len(dataset.images("tiles-labeled-partial")) == 225
    assert len(dataset.labels("tiles-labeled-partial")) == 225


# --- What is stored is what is scored --------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_labels_and_predictions_of_few_bits_hold_what_is_stored(
    command: Any, tmp_path: Path, bits: int
) -> None:
    values = RNG.integers(0, min(2**bits, 6), (24, 32))
    values[0] = min(2**bits, 6) - 1
    for folder in ("d/labels", "maps"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.png").write_bytes(image_files.png(values, bits))
    put(tmp_path / "d/images/x.png", RGB)
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "d").labels("all")
    suggested = str(caught.value.hint).partition("\n\n")[2]
    classes = tmp_path / "classes.toml"
    classes.write_text(suggested)
    found = [row["values"] for row in tomllib.loads(suggested)["classes"]]
    assert found == [[value] for value in range(int(values.max()) + 1)]
    options = ["--dataset", "folder", "--root", tmp_path / "d", "--classes", classes, "--protocol", "full@2"]
    said = command("eval", tmp_path / "maps", *options, "--out", tmp_path / "out", "--quiet")
    assert said.code == 0, said.err
    (record,) = (tmp_path / "out").rglob("*.json")
    assert read_record(record).last.raw.accuracy == 100


def test_a_run_and_its_predictions_do_not_depend_on_the_orientation_tag(command: Any, tmp_path: Path) -> None:
    found = []
    for tag in (1, 3, 6):
        root = tmp_path / str(tag) / "d"
        for number in range(2):
            image = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            image[:12] //= 8
            (root / "images").mkdir(parents=True, exist_ok=True)
            (root / "images" / f"{number}.tif").write_bytes(image_files.tiff(image, tags={274: [tag]}))
            put(
                root / "labels" / f"{number}.png", np.arange(24)[:, None].repeat(32, 1).astype(np.uint8) // 12
            )
        (root / "classes.toml").write_text(CLASSES)
        data = ["--dataset", "folder", "--root", root, "--classes", root / "classes.toml"]
        run = ["run", "--method", "dino", *data, "--backbone", "patchstats", "--set", "steps=10", "--quiet"]
        size = ["--protocol", "full@2[eval_side=32]", "--training", "side=32", "--workers", 1]
        said = command(*run, *size, "--out", root / "out")
        assert said.code == 0, said.err
        (record,) = (root / "out").rglob("dino-*.json")
        arrays = read_arrays(record, read_record(record))
        predict = ["predict", "--record", record, "--images", root / "images", "--out", root / "maps"]
        assert command(*predict, "--workers", 1, "--quiet").code == 0
        maps = [np.asarray(Image.open(path)) for path in sorted((root / "maps").glob("*.png"))]
        found.append([arrays.counts["last", "crf"], *maps])
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(one, expected)
    assert found[0][1].shape == (24, 32)


def test_classes_without_a_test_pixel_are_named_on_the_table(command: Any, tmp_path: Path) -> None:
    put(tmp_path / "d/images/x.png", RGB)
    put(tmp_path / "d/labels/x.png", LABEL)
    put(tmp_path / "maps/x.png", LABEL)
    classes = tmp_path / "classes.toml"
    classes.write_text(
        CLASSES
        + "".join(f'[[classes]]\nname = "{name}"\ncolor = [{name == "c"}, 9, 9]\n' for name in "cd")
        .replace("True", "1")
        .replace("False", "0")
    )
    options = ["--dataset", "folder", "--root", tmp_path / "d", "--classes", classes, "--protocol", "full@2"]
    said = command("eval", tmp_path / "maps", *options, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert "No pixel of split 'all' is labeled c, d." in said.err
    assert "No test pixel is of the classes: c, d." in said.out
    (record,) = (tmp_path / "out").rglob("*.json")
    assert "No test pixel is of the classes: c, d." in command("show", record).out
