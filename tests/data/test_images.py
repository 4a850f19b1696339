"""Reading images and labels: what is converted, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uss_bench.data.images import image_size, read_image, read_label
from uss_bench.errors import DataError

GRAY = np.arange(48, dtype=np.uint8).reshape(6, 8)
RGB = np.stack([GRAY, GRAY + 50, GRAY + 100], -1)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def test_color_comes_back_exactly(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    np.testing.assert_array_equal(read_image(path), RGB)
    assert image_size(path) == (6, 8)


def test_gray_becomes_color(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", GRAY)), np.stack([GRAY] * 3, -1))


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    clear = np.concatenate([RGB, np.zeros((6, 8, 1), np.uint8)], -1)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", clear)), RGB)


def test_a_palette_image_becomes_color_and_a_palette_label_its_indices(tmp_path: Path) -> None:
    paletted = Image.frombytes("P", (8, 6), (GRAY % 3).tobytes())
    paletted.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    paletted.save(tmp_path / "a.png", transparency=bytes([0, 255, 128]))
    assert read_image(tmp_path / "a.png")[0, :3].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), GRAY % 3)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (6, 8, 3)


@pytest.mark.parametrize(
    ("mode", "suffix", "words"),
    [("CMYK", "tif", "CMYK"), ("I;16", "png", "8 bits"), ("F", "tif", "8 bits"), ("LAB", "tif", "LAB")],
)
def test_what_would_lose_meaning_is_refused_with_a_way_out(
    tmp_path: Path, mode: str, suffix: str, words: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    if mode == "I;16":
        Image.fromarray(GRAY.astype(np.uint16) * 300).save(path)
    else:
        Image.fromarray(GRAY if mode == "F" else RGB).convert(mode).save(path)
    with pytest.raises(DataError, match=words) as caught:
        read_image(path)
    assert str(path) in caught.value.what
    assert caught.value.hint


def test_labels_keep_their_values(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_label(save(tmp_path / "gray.png", GRAY)), GRAY)
    np.testing.assert_array_equal(read_label(save(tmp_path / "rgb.png", RGB)), RGB)
    deep = GRAY.astype(np.uint16) * 300
    np.testing.assert_array_equal(read_label(save(tmp_path / "deep.png", deep)), deep)
    binary = read_label(save(tmp_path / "bit.png", (GRAY % 2) * 255, "1"))
    np.testing.assert_array_equal(binary, GRAY % 2)


def test_a_jpeg_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="JPEG"):
        read_label(save(tmp_path / "a.jpg", GRAY))


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "empty"), (b"hello", "image"), (None, "does not exist"), (b"cut", "damaged")]
)
def test_a_broken_file_is_one_error_that_names_it(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "a.png"
    if content == b"cut":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        whole = save(path, noise).read_bytes()
        content = whole[: len(whole) // 2]
    if content is not None:
        path.write_bytes(content)
    for read in (read_image, read_label):
        with pytest.raises(DataError, match=words) as caught:
            read(path)
        assert str(path) in caught.value.what


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(path)
