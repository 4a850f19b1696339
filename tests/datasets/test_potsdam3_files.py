"""The files of Potsdam: MATLAB arrays and TIFF channels are read as stored, and broken ones are named."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from potsdam_files import PATCH, RNG, VALUES, archive, load, module, tiff
from scipy.io import loadmat, savemat

from uss_bench.errors import DataError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"img": PATCH[..., :3]}, r"\(200, 200, 3\), not uint8 \(200, 200, 4\)"),
        ({"img": PATCH.astype(np.float64)}, "float64"),
        ({"image": PATCH}, "no array of numbers called 'img'"),
        ({"img": "text"}, "no array of numbers called 'img'"),
        (b"", "damaged"),
        (b"x" * 500, "damaged"),
    ],
)
def test_broken_patches_are_named(tmp_path: Path, content: Any, words: str) -> None:
    path = archive(tmp_path) / "imgs" / "3.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path, partial=True).verify()
    assert "3.mat" in caught.value.what


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("packed", [False, True])
def test_arrays_are_read_as_scipy_reads_them(tmp_path: Path, dtype: str, packed: bool) -> None:
    path = tmp_path / "x.mat"
    arrays = {
        "text": "abc",
        "cell": np.array([1, "a"], object),
        "structure": {"img": np.zeros(3)},
        "longer_than_four": RNG.integers(0, 100, (3, 4, 5)).astype(dtype),
        "img": RNG.integers(0, 100, (7, 5)).astype(dtype),
        "z": RNG.integers(0, 2, (1, 1)).astype(dtype),
    }
    savemat(path, arrays, do_compression=packed)
    expected = loadmat(path)
    for name in ("longer_than_four", "img", "z"):
        found = module("matfile").read_array(path, name)
        assert found.dtype == expected[name].dtype == dtype
        np.testing.assert_array_equal(found, expected[name])
    for name in ("text", "cell", "structure"):
        with pytest.raises(DataError, match="no array of numbers"):
            module("matfile").read_array(path, name)


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_are_errors_and_no_crashes(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "x.mat"
    savemat(path, {"img": PATCH[:9, :9]}, do_compression=packed)
    whole = path.read_bytes()
    for _ in range(400):
        content = bytearray(whole)
        for place in RNG.integers(120, len(content), 3):
            content[place] = RNG.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            module("matfile").read_array(path, "img")


@pytest.mark.parametrize("cut", [100, 200, 2000])
def test_truncated_patches_are_named(tmp_path: Path, cut: int) -> None:
    for name in ("3", "7"):  # one is compressed
        path = archive(tmp_path / name) / "imgs" / f"{name}.mat"
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(DataError, match="damaged"):
            load(tmp_path / name, partial=True).verify()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((200, 200), 6, np.int32), "value 6 at x=0, y=0"),
        (np.full((200, 200), -1, np.int32), "value -1"),
        (VALUES[:100], r"\(100, 200\), not int32 \(200, 200\)"),
        (VALUES.astype(np.float32), "float32"),
    ],
)
def test_broken_labels_are_named(tmp_path: Path, values: np.ndarray, words: str) -> None:
    savemat(archive(tmp_path) / "gt" / "12.mat", {"gt": values})
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path, partial=True).verify()
    assert "12.mat" in caught.value.what


@pytest.mark.parametrize(
    ("text", "words"),
    [("../x\n", "not the name"), ("3\n3\n", "twice"), ("", "empty"), ("ä\n", "cannot be read")],
)
def test_broken_lists_are_named(tmp_path: Path, text: str, words: str) -> None:
    (archive(tmp_path) / "labelled_test.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        load(tmp_path, partial=True).images("test-partial")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rows": 60},
        {"tags": {262: [1], 338: [0, 0, 0]}},  # what GDAL writes for bands without meaning
        {"tags": {338: [2]}},
        {"rows": 7, "deflate": True},
        {"rows": 200, "deflate": True, "predictor": 2},
        {"rows": 64, "order": ">"},
        {"rows": 64, "big": True},
    ],
)
def test_four_channels_are_read_as_stored(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tiff(tmp_path / "x.tif", PATCH, **changes)
    np.testing.assert_array_equal(module("tiles").read_channels(path, 4), PATCH)


def test_tiled_tiffs_are_read(tmp_path: Path) -> None:
    padded = np.zeros((256, 256, 4), np.uint8)
    padded[:200, :200] = PATCH
    blocks = [padded[y : y + 128, x : x + 128] for y in (0, 128) for x in (0, 128)]
    path = tiff(
        tmp_path / "x.tif", np.concatenate(blocks), rows=128,
        tags={256: [200], 257: [200], 322: [128], 323: [128],
              324: [8, 65544, 131080, 196616], 325: [65536] * 4},
    )  # fmt: skip
    np.testing.assert_array_equal(module("tiles").read_channels(path, 4), PATCH)


def test_other_tiffs_are_refused(tmp_path: Path) -> None:
    read = module("tiles").read_channels
    for name, changes in {"lzw": {259: [5]}, "jpeg": {259: [7]}, "predictor": {317: [3]}}.items():
        with pytest.raises(DataError, match="not a TIFF that can be read") as caught:
            read(tiff(tmp_path / f"{name}.tif", PATCH, tags=changes), 4)
        assert "gdal_translate" in str(caught.value.hint)
    with pytest.raises(DataError, match="has 3 channels"):
        read(tiff(tmp_path / "rgb.tif", np.ascontiguousarray(PATCH[..., :3])), 4)
    for name, content in {"empty": b"", "text": b"<html>hello</html>", "head": b"II*\0\x08\0\0\0"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="damaged, or not a TIFF"):
            read(tmp_path / name, 4)
    path = tiff(tmp_path / "cut.tif", PATCH, rows=50, tags={279: [40_000, 40_000, 40_000, 30_000]})
    with pytest.raises(DataError, match="damaged"):
        read(path, 4)
    with pytest.raises(DataError, match="damaged"):
        read(tiff(tmp_path / "few.tif", PATCH, rows=50, tags={257: [400]}), 4)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "gone.tif", 4)
