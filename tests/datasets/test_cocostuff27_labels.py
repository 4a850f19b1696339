"""The labels of COCO-Stuff: the table of values, three sources that must agree, and broken files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import (
    COARSE,
    IDS,
    MAPS,
    MERGED,
    REMOVED,
    SIZE,
    SPEC,
    all_labels,
    dump,
    load,
    module,
    packed,
    polygons,
    put_images,
    put_json,
    put_maps,
    put_panoptic,
    runs,
    save,
)

from uss_bench.contracts import IGNORE
from uss_bench.errors import DataError

SHARED = Path(__file__).parents[3] / "shared"
FACTS = SHARED / "research" / "methods.md"


def test_the_table_of_182_values_is_the_published_one() -> None:
    flat = [COARSE[value] for value in range(182)]
    assert hashlib.sha256(bytes(flat)).hexdigest()[:16] == "5b6c6ce82fb97a8c"
    assert sum(len(row.values) for row in SPEC.classes) == 182
    assert len({row.name for row in SPEC.classes}) == 27
    assert [row.kind for row in SPEC.classes] == ["thing"] * 12 + ["stuff"] * 15
    if not FACTS.is_file():
        pytest.skip("the digest is right; needs ../shared/research/methods.md to compare cell by cell")
    section = FACTS.read_text(encoding="utf-8").partition("## 6.1")[2].partition("## 6.2")[0]
    lookup = section.partition("```\n")[2].partition("```")[0]
    assert flat == [int(cell) for cell in lookup.split()]
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| (\d+),(\d+),(\d+) \| ([^|]+) \|$", section, re.MULTILINE)
    assert len(rows) == 27
    for row, (position, name, red, green, blue, fine) in zip(SPEC.classes, rows, strict=True):
        assert SPEC.classes[int(position)] is row
        assert row.name.replace(" (", "(") == name.strip()
        assert row.color == (int(red), int(green), int(blue))
        assert row.values == [int(one) for one in re.findall(r"(\d+):", fine)]
    for split in module("splits").CURATED.values():
        assert not split.list_name or f"{split.published:,}" in section
        assert split.sha256 in section


def test_three_sources_agree_pixel_by_pixel(tmp_path: Path) -> None:
    table = np.full(256, IGNORE)
    table[list(COARSE)] = list(COARSE.values())
    put_panoptic(put_json(put_maps(put_images(tmp_path))))
    found = {}
    for source, end in (("stuffthingmaps", ""), ("json", "-json"), ("panoptic", "-panoptic")):
        data = load(tmp_path, labels=source, lists="none")
        assert data.test_split == f"val2017-all{end}"
        found[source] = all_labels(data)
    for index, fine in enumerate(MAPS.values()):
        expected = table[fine]
        for label in (found["stuffthingmaps"][index], found["json"][index]):
            assert label.dtype == np.int16
            np.testing.assert_array_equal(label, expected)
        # Panoptic has 53 of the 91 kinds of stuff: the others are under another kind, or unlabeled.
        for value, other in MERGED.items():
            assert COARSE[value] != COARSE[other]
            expected[fine == value] = COARSE[other]
        expected[np.isin(fine, REMOVED)] = IGNORE
        np.testing.assert_array_equal(found["panoptic"][index], expected)
    seen = np.unique(np.concatenate([fine.reshape(-1) for fine in MAPS.values()]))
    assert set(seen.tolist()) & set(MERGED)
    assert set(seen.tolist()) & set(REMOVED)
    assert 0 in seen  # drawn as a crowd


def test_small_things_lie_over_large_ones_and_crowds_below(tmp_path: Path) -> None:
    put_images(tmp_path)
    box = np.zeros((3, *SIZE), bool)
    box[0, 2:20, 2:30], box[1, 5:9, 5:9], box[2, 4:18, 4:25] = True, True, True
    image = {"id": int(IDS[0]), "height": SIZE[0], "width": SIZE[1]}
    rows = [
        {"category_id": 47, "segmentation": polygons(box[1])},  # a cup on a table among a crowd
        {"category_id": 67, "segmentation": polygons(box[2])},
        {"category_id": 1, "segmentation": runs(box[0]), "iscrowd": 1},
    ]
    sky = {"category_id": 157, "segmentation": packed(np.ones(SIZE)), "image_id": image["id"]}
    annotations = [row | {"image_id": image["id"]} for row in rows]
    dump(tmp_path / "annotations/instances_val2017.json", {"images": [image], "annotations": annotations})
    dump(tmp_path / "annotations/stuff_val2017.json", {"images": [image], "annotations": [sky]})
    data = load(tmp_path, lists="none")
    expected = np.full(SIZE, COARSE[156])
    for mask, value in ((box[0], 0), (box[2], 66), (box[1], 46)):
        expected[mask] = COARSE[value]
    np.testing.assert_array_equal(data.labels(data.test_split).label(0), expected)
    with pytest.raises(DataError, match="does not know the image 000000000285"):
        data.labels(data.test_split).label(1)


def test_run_lengths_are_read_as_pycocotools_reads_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((rng.integers(1, 40), rng.integers(1, 40))) < rng.random()
        for coded in (packed(mask), runs(mask)):
            rle = module("segments")._Rle(tuple(coded["size"]), coded["counts"])
            np.testing.assert_array_equal(module("segments")._decode(rle, mask.shape), mask)


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], "too few points"),
        ([], "too few points"),
        ({"size": [4, 4], "counts": "0"}, "its size is"),
        ({"size": [24, 32], "counts": ""}, "do not cover"),
        ({"size": [24, 32], "counts": "\x01"}, "hold"),
        ({"size": [24, 32], "counts": [10, -10, 768]}, "do not cover"),
        ({"size": [24, 32], "counts": [1, 2]}, "do not cover"),
        ("text", "segment"),
    ],
)
def test_broken_segments_are_named(tmp_path: Path, segment: Any, words: str) -> None:
    put_json(put_images(tmp_path))
    path = tmp_path / "annotations" / "stuff_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = segment
    dump(path, content)
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path, lists="none", train="val2017-all").verify()
    assert "stuff_val2017.json" in caught.value.what
    assert "139" in caught.value.what


def test_other_broken_json(tmp_path: Path) -> None:
    put_panoptic(put_json(put_images(tmp_path)))
    folder = tmp_path / "annotations"
    for name, key, words in (("stuff", "json", "category 7"), ("instances", "json", "category 107")):
        path = folder / f"{name}_val2017.json"
        kept = path.read_text()
        content = json.loads(kept)
        content["annotations"][0]["category_id"] = int(words.split()[1])
        dump(path, content)
        with pytest.raises(DataError, match=words):
            all_labels(load(tmp_path, labels=key, lists="none"))
        path.write_text(kept[:1000])
        with pytest.raises(DataError, match=f"{name}_val2017.json is not a COCO annotation file"):
            all_labels(load(tmp_path, labels=key, lists="none"))
        path.write_text(kept)
    content = json.loads((folder / "panoptic_val2017.json").read_text())
    content["categories"][0]["supercategory"] = "cellar"
    dump(folder / "panoptic_val2017.json", content)
    with pytest.raises(DataError, match="'cellar'"):
        all_labels(load(tmp_path, labels="panoptic", lists="none"))
    content["categories"][0]["supercategory"] = "ceiling"
    content["annotations"][0]["segments_info"].pop()
    dump(folder / "panoptic_val2017.json", content)
    with pytest.raises(DataError, match=r"139\.png has the segment \d+"):
        all_labels(load(tmp_path, labels="panoptic", lists="none"))
    save(folder / "panoptic_val2017" / f"{IDS[0]}.png", MAPS[IDS[0]])
    with pytest.raises(DataError, match="grayscale"):
        all_labels(load(tmp_path, labels="panoptic", lists="none"))
    (folder / "panoptic_val2017" / f"{IDS[1]}.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 panoptic PNGs are missing; .*285\.png"):
        all_labels(load(tmp_path, labels="panoptic", lists="none"))


def test_wrong_label_maps_are_named(tmp_path: Path) -> None:
    put_maps(put_images(tmp_path))
    data = load(tmp_path, lists="none", train="val2017-all")
    assert "val2017-all 3 labeled" in data.verify()
    before = data.images("val2017-all").fingerprint(), data.labels("val2017-all").fingerprint()
    path = tmp_path / "annotations" / "val2017" / f"{IDS[1]}.png"
    one_based = MAPS[IDS[1]].copy()
    one_based[3, 4] = 182
    save(path, one_based)
    with pytest.raises(DataError, match=r"285\.png holds the value 182 at x=4, y=3"):
        data.verify()
    after = data.images("val2017-all").fingerprint(), data.labels("val2017-all").fingerprint()
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    save(path, MAPS[IDS[1]][:10])
    with pytest.raises(DataError, match=r"32×24 pixels.* 32×10"):
        data.verify()
    path.unlink()
    with pytest.raises(DataError, match=r"1 of 3 label maps are missing") as caught:
        data.verify()
    assert "annotations/val2017/*.png" in str(caught.value.hint)


@pytest.mark.shared
def test_real_panoptic_images() -> None:
    root = SHARED / "data" / "coco"
    if not root.is_dir():
        pytest.skip("needs coco in ../shared/data")
    data = load(root, lists="none")
    assert (data.train_split, data.test_split) == ("train2017-all-panoptic", "val2017-all-panoptic")
    assert (len(data.images(data.train_split)), len(data.images(data.test_split))) == (100, 100)
    images, labels = data.images(data.test_split), data.labels(data.test_split)
    counts = np.zeros(28, np.int64)
    for index in range(100):
        label = labels.label(index)
        assert images.image(index).shape == (*label.shape, 3)
        counts += np.bincount(label.reshape(-1) + 1, minlength=28)
    assert (counts[1:] > 0).all()
    assert counts[0] / counts.sum() < 0.15
    person, sky = counts[1 + 9] / counts.sum(), counts[1 + 23] / counts.sum()
    assert 0.05 < person < 0.2
    assert 0.02 < sky < 0.2
    assert len(load(root, lists="none", train="val2017-all").verify()) > 50
