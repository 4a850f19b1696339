"""The Cityscapes adapter: the class table, the official folders in miniature, and all that may be amiss."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import Run

from uss_bench.contracts import IGNORE
from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.registry import Registry

FACTS = Path(__file__).parents[3] / "shared" / "research" / "methods.md"
SPEC, PLUGIN = Registry().dataset("cityscapes27")
RGB = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
IDS = np.arange(32, dtype=np.uint8).reshape(4, 8).repeat(2, axis=0).repeat(2, axis=1)
IDS[0, 0] = 33


def load(root: Path, **options: Any) -> Any:
    return PLUGIN.load()(SPEC, root=root, **options)


def put(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def tree(root: Path, labels: str = "gtFine") -> Path:
    for split, city in (("train", "zurich"), ("train", "aachen"), ("val", "munster"), ("test", "berlin")):
        stem = f"{city}_000000_000019"
        put(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", RGB)
        if split != "test":
            put(root / labels / split / city / f"{stem}_gtFine_labelIds.png", IDS)
            put(root / labels / split / city / f"{stem}_gtFine_color.png", RGB)
    put(root / "leftImg8bit" / "train_extra" / "erlangen" / "erlangen_000000_000000_leftImg8bit.png", RGB)
    return root


def label_of(root: Path) -> Path:
    return root / "gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png"


def test_the_class_table_is_the_published_one() -> None:
    if not FACTS.is_file():
        pytest.skip("needs ../shared/research/methods.md")
    section = FACTS.read_text(encoding="utf-8").partition("## 6.2")[2].partition("## 6.3")[0]
    listed = section.partition("colours:")[2].partition("\n")[0]
    rows = re.findall(r"\s*([a-z ]+) (\d+),(\d+),(\d+)[;.]", listed)[:27]
    assert [(row.name, row.color) for row in SPEC.classes] == [
        (name, tuple(int(part) for part in color)) for name, *color in rows
    ]


def test_ids_7_to_33_are_the_classes() -> None:
    assert [row.values for row in SPEC.classes] == [[value] for value in range(7, 34)]
    assert SPEC.default_backbone == "dino_vits8"


@pytest.mark.parametrize("labels", ["gtFine", "annotations/gtFine"])
def test_the_official_folders(tmp_path: Path, labels: str) -> None:
    data = load(tree(tmp_path, labels), partial=True)
    assert (data.name, data.train_split, data.test_split) == ("cityscapes27", "train-partial", "val-partial")
    images, truth = data.images("train-partial"), data.labels("train-partial")
    assert tuple(images.ids) == tuple(truth.ids) == ("aachen_000000_000019", "zurich_000000_000019")
    np.testing.assert_array_equal(images.image(1), RGB)
    label = truth.label(1)
    assert label.dtype == np.int16
    expected = np.where(IDS < 7, IGNORE, IDS.astype(np.int16) - 7)
    np.testing.assert_array_equal(label, expected)
    assert images.aux(0) == {}
    assert "gtFine" not in repr([vars(images), images._files.paths])
    assert "train-partial 2 labeled, val-partial 1 labeled" in data.verify()
    data.prepare()


def test_the_splits_of_picie(tmp_path: Path) -> None:
    data = load(tree(tmp_path), partial=True, train="picie-train", test="picie-eval")
    assert (data.train_split, data.test_split) == ("picie-train-partial", "picie-eval-partial")
    evaluated, trained = data.images(data.test_split), data.images(data.train_split)
    assert [name.split("_")[0] for name in evaluated.ids] == ["aachen", "zurich", "munster"]
    assert [name.split("_")[0] for name in trained.ids] == ["berlin", "erlangen"]
    assert data.labels(data.train_split) is None
    assert len(data.labels(data.test_split)) == 3


def test_published_numbers_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(tree(tmp_path))
    for split, number in (
        ("train", "2,975"),
        ("val", "500"),
        ("picie-eval", "3,475"),
        ("picie-train", "21,523"),
    ):
        with pytest.raises(DataError, match=f"'{split}' has {number} images") as caught:
            data.images(split)
        assert "partial=true" in str(caught.value.hint)
    monkeypatch.setitem(type(data).published, "val", 1)
    assert len(data.images("val")) == 1


def test_nothing_is_there(tmp_path: Path) -> None:
    for options in ({}, {"partial": True}):
        data = load(tmp_path / "gone", **options)
        with pytest.raises(DataError, match="0 of them"):
            data.images(data.test_split)
        with pytest.raises(DataError) as caught:
            data.prepare()
        for words in ("cityscapes-dataset.com/register", "2,975", "1,525", "19,998", str(tmp_path / "gone")):
            assert words in str(caught.value.hint)


def test_a_missing_label_is_an_error(tmp_path: Path) -> None:
    label_of(tree(tmp_path)).unlink()
    with pytest.raises(
        DataError, match=r"1 of 1 labels are missing; .*munster_000000_000019_gtFine_labelIds"
    ):
        load(tmp_path, partial=True).labels("val-partial")


def test_wrong_files_are_named(tmp_path: Path) -> None:
    data = load(tree(tmp_path), partial=True)
    before = data.labels("val-partial").fingerprint(), data.images("val-partial").fingerprint()
    train_ids = IDS.copy()
    train_ids[2, 3] = 255
    put(label_of(tmp_path), train_ids)
    with pytest.raises(DataError, match=r"munster.*holds the value 255 at x=3, y=2") as caught:
        data.verify()
    assert "labelTrainIds" in str(caught.value.hint)
    after = data.labels("val-partial").fingerprint(), data.images("val-partial").fingerprint()
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)
    put(label_of(tmp_path), RGB)
    with pytest.raises(DataError, match="in color"):
        data.verify()
    put(label_of(tmp_path), IDS[:, :6])
    with pytest.raises(DataError, match=r"16×8 pixels, .* 6×8"):
        data.verify()
    label_of(tmp_path).write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        data.verify()


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no split 'vall'"):
        load(tmp_path, test="vall")
    with pytest.raises(UsageError, match="true or false"):
        load(tmp_path, partial="no")
    with pytest.raises(UsageError, match="no split 'val'"):
        load(tmp_path, partial=True).images("val")


def test_a_miniature_runs_end_to_end(run: Run, tmp_path: Path) -> None:
    options = {"root": tree(tmp_path / "data"), "partial": True}
    record = run("random", "cityscapes27", backbone="patchstats", data=options).record
    assert (record.cell.dataset.name, record.cell.dataset.test_split) == ("cityscapes27", "val-partial")
