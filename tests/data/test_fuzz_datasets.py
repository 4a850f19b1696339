"""Spoilt files of datasets: MATLAB, GeoTIFF, COCO's JSON, lists, odd names."""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import coco_files
import numpy as np
import potsdam_files
import pytest
from fuzzing import FUZZ, IMAGES, RGB, ignore_warnings, spoilt, survives
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from uss_bench.errors import DataError
from uss_bench.plugins.registry import Registry

pytestmark = ignore_warnings


def matlab(**options: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"text": "abc", "img": RGB}, **options)
    return buffer.getvalue()


def geotiff(**changes: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.dstack([RGB, RGB[..., :1]])
        return potsdam_files.tiff(Path(folder) / "a.tif", pixels, **changes).read_bytes()


@FUZZ
@given(spoilt([matlab(), matlab(do_compression=True)]))
def test_matlab_files(content: bytes) -> None:
    survives(lambda path: potsdam_files.module("matfile").read_array(path, "img"), content, "a.mat")


def test_packed_matlab_arrays_within_each_other_end(tmp_path) -> None:
    content = zlib.compress(b"")
    for _ in range(3):
        content = zlib.compress(struct.pack("<LL", 15, len(content)) + content)
    header = bytes(124) + b"\0\1IM"
    (tmp_path / "a.mat").write_bytes(header + struct.pack("<LL", 15, len(content)) + content)
    with pytest.raises(DataError, match="a packed array holds another"):
        potsdam_files.module("matfile").read_array(tmp_path / "a.mat", "img")


@FUZZ
@given(spoilt([geotiff(), geotiff(deflate=True, predictor=2, rows=8), geotiff(big=True, order=">")]))
def test_geotiff(content: bytes) -> None:
    survives(lambda path: potsdam_files.module("tiles").read_channels(path, 4), content, "a.tif")


@pytest.mark.parametrize("tags", [{256: [60_000], 257: [60_000]}, {256: [2**32 - 1], 278: [2**32 - 1]}])
def test_a_geotiff_that_declares_more_pixels_than_a_tile_has_is_refused(tmp_path, tags) -> None:
    (tmp_path / "a.tif").write_bytes(geotiff(tags=tags))
    with pytest.raises(DataError, match=r"a\.tif is damaged"):
        potsdam_files.module("tiles").read_channels(tmp_path / "a.tif", 4)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = coco_files.put_images(tmp_path_factory.mktemp("coco"))
    coco_files.put_panoptic(coco_files.put_json(root))
    return root / "annotations"


def segments(folder: Path, instances: Path) -> Any:
    module = coco_files.module("segments")
    table = coco_files.module("segments").ValueTable(coco_files.SPEC.classes, [255])
    return module.SegmentFiles(instances, folder / "stuff_val2017.json", coco_files.IDS, table)


@FUZZ
@given(st.data())
def test_instances(coco: Path, data: st.DataObject) -> None:
    content = data.draw(spoilt([(coco / "instances_val2017.json").read_bytes()]))
    survives(lambda path: [segments(coco, path).read(one) for one in coco_files.IDS], content, "a.json")


@FUZZ
@given(st.data())
def test_panoptic(coco: Path, data: st.DataObject) -> None:
    pngs = {number: coco / "panoptic_val2017" / f"{number}.png" for number in coco_files.IDS}
    names = [row.name for row in coco_files.SPEC.classes]
    content = data.draw(spoilt([(coco / "panoptic_val2017.json").read_bytes()]))

    def read(path: Path) -> None:
        file = coco_files.module("panoptic").PanopticFile(path, pngs, names)
        for number in coco_files.IDS:
            file.read(number)

    survives(read, content, "a.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"height": 60_000, "width": 60_000}, "the size 60000×60000"),
        ({"height": -1}, "the size 32×-1"),
        ({"segmentation": [[0.0, 0.0, 1e9, 0.0, 1e9, 1e9]]}, "leaves the image"),
        ({"segmentation": [[0.0, 0.0, 32.0, 24.0] * 500]}, "longer than all outlines"),
        ({"segmentation": {"size": [24, 32], "counts": "o" * 1_000_000}}, "too many digits"),
        ({"segmentation": {"size": [24, 32], "counts": [768 * 10**9]}}, "do not cover the image"),
    ],
)
def test_a_segment_that_would_fill_the_memory_is_refused(tmp_path, coco, change, words) -> None:
    content = json.loads((coco / "instances_val2017.json").read_text())
    for row in (*content["images"], *content["annotations"]):
        row.update({key: value for key, value in change.items() if key in row})
    stuff = json.loads((coco / "stuff_val2017.json").read_text())
    for row in stuff["images"]:
        row.update({key: value for key, value in change.items() if key in row})
    (tmp_path / "stuff_val2017.json").write_text(json.dumps(stuff))
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        segments(tmp_path, tmp_path / "a.json").read(coco_files.IDS[0])


@FUZZ
@given(spoilt(["".join(f"{one}\n" for one in coco_files.IDS).encode()]))
def test_curated_lists(content: bytes) -> None:
    module = coco_files.module("splits")
    survives(lambda path: module._read_list(path, module.CURATED["val"], partial=True), content, "list.txt")


def test_a_file_whose_name_is_no_text_is_named(tmp_path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(IMAGES[0])
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    spec, plugin = Registry().dataset("folder")
    with pytest.raises(DataError, match="whose name is not text"):
        plugin.load()(spec, root=str(tmp_path))
