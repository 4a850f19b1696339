"""Bad files as a user meets them: one clear message that names the file, whatever the dataset."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 24, 32
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GRAY = RGB[..., 0]


def encoded(array: np.ndarray, format: str, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(buffer, format)
    return buffer.getvalue()


@dataclass(frozen=True)
class Miniature:
    """A dataset of one image per split on disk, and the files of its test split."""

    options: list[object]
    image: Path
    label: Path
    value: int
    """A label value that stands for nothing."""


def put(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(array, "PNG"))  # whatever its suffix says: readers look at the content
    return path


def folder(root: Path) -> Miniature:
    image, label = put(root / "images" / "a.png", RGB), put(root / "labels" / "a.png", GRAY % 2)
    rows = "".join(
        f'[[classes]]\nname = "{name}"\ncolor = [0, 0, {index}]\n' for index, name in enumerate("ab")
    )
    (root / "classes.toml").write_text(f'name = "mine"\n{rows}')
    options = ["--dataset", "folder", "--root", root, "--classes", root / "classes.toml"]
    return Miniature(options, image, label, 7)


def cityscapes(root: Path) -> Miniature:
    for split in ("train", "val"):
        stem = f"{split}/city/city_000000_000019"
        image = put(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", RGB)
        label = put(root / "gtFine" / f"{stem}_gtFine_labelIds.png", GRAY % 34)
    return Miniature(
        ["--dataset", "cityscapes27", "--root", root, "--data", "partial=true"], image, label, 255
    )


def coco(root: Path) -> Miniature:
    for subset, number in (("train2017", "000000000009"), ("val2017", "000000000139")):
        image = put(root / "images" / subset / f"{number}.jpg", RGB)
        label = put(root / "annotations" / subset / f"{number}.png", GRAY % 11)
    return Miniature(["--dataset", "cocostuff27", "--root", root, "--data", "lists=none"], image, label, 200)


DATASETS = pytest.mark.parametrize("build", [folder, cityscapes, coco])
Build = Callable[[Path], Miniature]


def check(said, path: Path, *words: str) -> None:
    """Assert that a command failed with an error of ours which names `path`."""
    assert said.code == 1
    assert "did not foresee" not in said.err
    assert said.err.count("Error:") == 1
    for word in (path.name, *words):
        assert word in said.err


@DATASETS
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"not a picture", "is not an image"),
        (encoded(RGB, "PNG")[:700], "damaged or truncated"),
        (encoded(GRAY.astype(np.uint16) * 200, "PNG"), "more than 8 bits per channel"),
        (encoded(RGB, "JPEG", "CMYK"), "is in CMYK"),
    ],
    ids=["empty", "no picture", "truncated", "16-bit", "CMYK"],
)
def test_an_image_that_cannot_be_used_is_named(command, tmp_path, build: Build, content: bytes, words: str):
    data = build(tmp_path)
    data.image.write_bytes(content)
    check(command("verify", *data.options), data.image, words, "Try:")


@DATASETS
@pytest.mark.parametrize("mode", ["P", "L", "1", "RGBA"])
def test_palette_gray_and_alpha_are_no_errors(command, tmp_path, build: Build, mode: str):
    data = build(tmp_path)
    data.image.write_bytes(encoded(RGB, "PNG", mode))
    said = command("verify", *data.options)
    assert said.code == 0, said.err


@DATASETS
def test_a_label_of_another_size_is_named_with_both_sizes(command, tmp_path, build: Build):
    data = build(tmp_path)
    put(data.label, np.asarray(Image.open(data.label))[:20])
    check(command("verify", *data.options), data.image, "32×20", "32×24")


@DATASETS
def test_a_label_out_of_range_is_named_with_its_value_and_place(command, tmp_path, build: Build):
    data = build(tmp_path)
    label = np.array(Image.open(data.label))
    label[3, 5] = data.value
    put(data.label, label)
    check(command("verify", *data.options), data.label, str(data.value), "x=5", "y=3")


@DATASETS
def test_a_label_that_cannot_be_read_is_named(command, tmp_path, build: Build):
    data = build(tmp_path)
    for content, words in ((b"", "is empty"), (encoded(GRAY, "JPEG"), "cannot hold labels")):
        data.label.write_bytes(content)
        check(command("verify", *data.options), data.label, words)


@DATASETS
def test_an_empty_folder_says_what_should_be_there(command, tmp_path, build: Build):
    data = build(tmp_path / "full")
    empty = tmp_path / "empty"
    empty.mkdir()
    options = [empty if one == tmp_path / "full" else one for one in data.options]
    check(command("verify", *options), empty, "Try:")


def test_an_image_smaller_than_a_patch_ends_a_run(command, tmp_path):
    put(tmp_path / "photos" / "fine.png", RGB)
    put(tmp_path / "photos" / "speck.png", RGB[:5, :9])
    for protocol in ("stego320@2[eval_side=32]", "full@2[eval_side=32]"):
        said = command(
            *("run", "--method", "dino", "--dataset", "folder", "--root", tmp_path / "photos"),
            *("--backbone", "patchstats", "--set", "clusters=2", "--set", "steps=2", "--workers", 1),
            *("--protocol", protocol, "--training", "side=32", "--out", tmp_path / "out", "--quiet"),
        )
        check(said, Path("speck"), "9×5 pixels", "8×8")
