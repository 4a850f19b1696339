"""The COCO-Stuff adapter: splits and their lists, options, and what `prepare` fetches."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from coco_files import (
    IDS,
    SIZE,
    all_labels,
    load,
    module,
    put_images,
    put_json,
    put_lists,
    put_maps,
    put_panoptic,
)
from file_server import serve
from running import Run

from uss_bench.errors import DataError, UsageError
from uss_bench.files.download import Resource


def test_the_source_is_found_and_stands_in_the_splits(tmp_path: Path) -> None:
    put_panoptic(put_images(tmp_path))
    assert load(tmp_path).splits == tuple(
        f"{one}-panoptic" for one in ("train", "train-7", "val", "val-5000", "train-few6", "val-few6")
    )
    put_json(tmp_path)
    assert load(tmp_path, partial=True).test_split == "val-json-partial"
    put_maps(tmp_path)
    assert load(tmp_path).test_split == "val"
    assert load(tmp_path, labels="panoptic", test="val-5000").test_split == "val-5000-panoptic"
    assert load(tmp_path / "gone").test_split == "val"
    (tmp_path / "annotations" / "val2017").rename(tmp_path / "val2017")
    (tmp_path / "stuffthingmaps").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "stuffthingmaps" / "val2017")
    assert len(all_labels(load(tmp_path, lists="none"))) == 3


def test_curated_lists_select_in_their_order(tmp_path: Path) -> None:
    put_lists(put_maps(put_images(tmp_path)), (IDS[2], IDS[0], "000000999999"))
    data = load(tmp_path, partial=True)
    images = data.images("val-partial")
    assert tuple(images.ids) == tuple(data.labels("val-partial").ids) == (IDS[2], IDS[0])
    assert "annotations" not in repr(vars(images))
    assert images.image(0).shape == (*SIZE, 3)
    assert tuple(data.images("val-5000-partial").ids) == IDS
    assert data.images("val-5000-partial").image(1).shape == (*SIZE, 3)  # grayscale on disk
    with pytest.raises(DataError, match=r"'train-partial' has 97,702 images, and .* has 0"):
        data.images("train-partial")


def test_published_lists_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(put_maps(put_images(tmp_path)))
    with pytest.raises(DataError, match=r"curated list of 2,175 images") as caught:
        data.images("val")
    for words in ("raw.githubusercontent.com", "val2017/Coco164kFull_Stuff_Coarse_7.txt", "lists=none"):
        assert words in str(caught.value.hint)
    with pytest.raises(DataError, match=r"5,000 images, and .* has 3"):
        data.images("val-5000")
    put_lists(tmp_path)
    with pytest.raises(DataError, match="3 ids instead of 97,702"):
        data.images("train")
    split = module("splits").Split("val2017", "Coco164kFull_Stuff_Coarse_7", 3, "0123")
    monkeypatch.setitem(data._splits, "val", split)
    with pytest.raises(DataError, match="but others"):
        data.images("val")
    content = (tmp_path / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt").read_bytes()
    monkeypatch.setitem(data._splits, "val", split._replace(sha256=hashlib.sha256(content).hexdigest()[:16]))
    assert len(data.labels("val")) == 3
    (tmp_path / "images" / "val2017" / f"{IDS[1]}.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images of split 'val' are missing; .*285\.jpg"):
        data.images("val")


@pytest.mark.parametrize("line", ["../../etc/passwd", "139", f"{IDS[0]}\n{IDS[0]}", "é"])
def test_broken_lists_are_named(tmp_path: Path, line: str) -> None:
    path = put_lists(put_images(tmp_path)) / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=r"no id of 12 digits|ids twice"):
        load(tmp_path, partial=True).images("val-partial")


def test_wrong_options(tmp_path: Path) -> None:
    for options, words in (
        ({"labels": "panoptik"}, "panoptic"),
        ({"lists": "all"}, "curated"),
        ({"lists": None}, "curated"),
        ({"test": "val-500"}, "val-5000"),
    ):
        with pytest.raises(UsageError) as caught:
            load(tmp_path, **options)
        assert words in str(caught.value.hint)
    with pytest.raises(DataError, match=r"has no images|cannot be read"):
        load(tmp_path, lists="none").images("val2017-all")


def zipped(folder: Path, prefix: str = "") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, prefix + str(path.relative_to(folder)))
    return stream.getvalue()


@pytest.mark.parametrize("source", ["stuffthingmaps", "json", "panoptic"])
def test_prepare_gets_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    original, root = tmp_path / "original", tmp_path / "root"
    downloads = module("downloads")
    for subset in ("train2017", "val2017"):
        for put in (put_images, put_maps, put_json, put_panoptic):
            put(original / put.__name__, subset)
    put_lists(original)
    folder = original / "put_panoptic" / "annotations"
    for subset in ("train2017", "val2017"):
        inner = folder / f"panoptic_{subset}"
        content = zipped(inner, f"panoptic_{subset}/")
        for path in inner.iterdir():
            path.unlink()
        (folder / f"panoptic_{subset}.zip").write_bytes(content)
    with serve() as server:
        served = {f"{subset}.zip": zipped(original / "put_images/images" / subset, f"{subset}/")
                  for subset in ("train2017", "val2017")}  # fmt: skip
        served["stuffthingmaps_trainval2017.zip"] = zipped(original / "put_maps/annotations")
        served["annotations_trainval2017.zip"] = zipped(original / "put_json")
        served["stuff_annotations_trainval2017.zip"] = zipped(original / "put_json")
        served["panoptic_annotations_trainval2017.zip"] = zipped(original / "put_panoptic")
        for path in (original / "curated").rglob("*.txt"):
            served[str(path.relative_to(original))] = path.read_bytes()
        server.files.update(served)

        def here(part: Any) -> Any:
            return part._replace(resource=Resource(f"{server.url}/{part.resource.name}", part.resource.name))

        for key, part in list(downloads.IMAGES.items()):
            monkeypatch.setitem(downloads.IMAGES, key, here(part))
        for key, parts in list(downloads.ANNOTATIONS.items()):
            monkeypatch.setitem(downloads.ANNOTATIONS, key, tuple(here(part) for part in parts))
        monkeypatch.setattr(downloads, "LIST_URL", server.url + "/curated/{subset}/{name}.txt")
        monkeypatch.setattr(server, "kind", "application/octet-stream")
        for name, split in list(module("splits").CURATED.items()):
            monkeypatch.setitem(module("splits").CURATED, name, split._replace(published=3, sha256=""))
        data = load(root, labels=source)
        data.prepare()
        assert "3 labeled" in data.verify()
        asked = len(server.seen)
        assert asked == (6 if source == "json" else 5)
        load(root).prepare()
        assert len(server.seen) == asked
        assert load(root).test_split == data.test_split
        server.files.clear()
        with pytest.raises(DataError, match="404") as caught:
            load(tmp_path / "other", labels=source).prepare()
        for words in ("118,287", "train2017.zip", "97,702", str(tmp_path / "other")):
            assert words in str(caught.value.hint)


def test_a_miniature_runs_end_to_end(run: Run, tmp_path: Path) -> None:
    for subset in ("train2017", "val2017"):
        put_panoptic(put_images(tmp_path / "data", subset), subset)
    options = {"root": tmp_path / "data", "lists": "none"}
    record = run("random", "cocostuff27", backbone="patchstats", data=options).record
    assert (record.cell.dataset.name, record.cell.dataset.test_split) == (
        "cocostuff27",
        "val2017-all-panoptic",
    )
