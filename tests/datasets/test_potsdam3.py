"""The Potsdam adapter: the distributed patches and the raw tiles, which must say the same."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from file_server import serve
from PIL import Image
from potsdam_files import COLORS, LISTS, PATCH, RNG, SPEC, VALUES, archive, load, module, tiff
from running import Run
from scipy.io import savemat

from uss_bench.contracts import IGNORE
from uss_bench.data import FileSet
from uss_bench.errors import DataError, UsageError

FACTS = Path(__file__).parents[3] / "shared" / "research" / "methods.md"


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A root with one raw tile, and what its halves hold: uint8 (3000, 3000, 4), int32 (3000, 3000)."""
    root = tmp_path_factory.mktemp("tiles")
    small = RNG.integers(0, 256, (60, 60, 4), dtype=np.uint8)
    values = RNG.integers(0, 6, (60, 60), dtype=np.int32)
    half, half_values = (np.kron(one, np.ones((50, 50, 1)[: one.ndim], one.dtype)) for one in (small, values))
    whole = half.repeat(2, 0).repeat(2, 1)
    colors = COLORS[half_values].repeat(2, 0).repeat(2, 1)
    # Only the upper left pixel of four counts for labels, and all four count for the image.
    colors[1::2, :40], colors[:40, 1::2] = COLORS[0], COLORS[0]
    whole[0, 0], whole[0, 1], whole[1, 0], whole[1, 1] = 1, 2, 2, 1  # 1.5, which OpenCV rounds up
    half = half.copy()
    half[0, 0] = 2
    tiff(root / "4_Ortho_RGBIR" / "top_potsdam_2_10_RGBIR.tif", whole, rows=100, deflate=True)
    (root / "5_Labels_for_participants").mkdir()
    path = root / "5_Labels_for_participants" / "top_potsdam_2_10_label.tif"
    Image.fromarray(colors).save(path, compression="tiff_adobe_deflate")
    return root, half, half_values


def test_the_merge_of_six_classes_is_the_published_one() -> None:
    assert [row.values for row in SPEC.classes] == [[0, 4], [1, 5], [2, 3]]
    if not FACTS.is_file():
        pytest.skip("needs ../shared/research/methods.md")
    section = FACTS.read_text(encoding="utf-8").partition("## 6.3")[2].partition("\n# ")[0]
    assert "{0,4}→0" in section
    assert "{1,5}→1" in section
    assert "{2,3}→2" in section
    colors = section.partition("Colour maps: SmooSeg ")[2].partition(";")[0].split(" / ")
    assert [list(row.color) for row in SPEC.classes] == [[int(x) for x in one.split(",")] for one in colors]
    for value, color in enumerate(COLORS.tolist()):
        assert f"{value} " in section
        assert ",".join(map(str, color)) in section
    for stem, (number, _) in LISTS.items():
        assert f"`{stem}.txt` ({number:,})" in section


def test_the_distributed_archive(tmp_path: Path) -> None:
    data = load(archive(tmp_path), partial=True)
    assert (data.name, data.train_split, data.test_split) == ("potsdam3", "train-partial", "test-partial")
    images, labels = data.images("train-partial"), data.labels("train-partial")
    assert tuple(images.ids) == tuple(labels.ids) == ("7", "3")  # in the list's order
    for index in range(2):
        np.testing.assert_array_equal(images.image(index), PATCH[..., :3])
        np.testing.assert_array_equal(images.aux(index)["infrared"], PATCH[..., 3])
        merged = np.select([VALUES == 255, VALUES % 4 == 0, VALUES % 4 == 1], [IGNORE, 0, 1], 2)
        assert labels.label(index).dtype == np.int16
        np.testing.assert_array_equal(labels.label(index), merged)
    assert "gt" not in repr([vars(images), images._files.paths])
    assert tuple(data.images("all-partial").ids) == ("12", "7", "1", "3")
    iic = data.images("iic-labeled-partial"), data.labels("iic-labeled-partial")
    assert tuple(iic[0].ids) == tuple(iic[1].ids) == ("7", "3", "12")
    assert data.labels("all-partial") is data.labels("unlabeled-partial") is None
    assert "train-partial 2 labeled, test-partial 1 labeled" in data.verify()


def test_without_a_list_of_all_the_others_make_one(tmp_path: Path) -> None:
    data = load(archive(tmp_path, with_all=False), partial=True)
    assert tuple(data.images("all-partial").ids) == ("7", "3", "12", "1")


def test_published_numbers_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(archive(tmp_path))
    for split, number in (("train", "4,545"), ("test", "855"), ("unlabeled", "3,150"), ("all", "8,550")):
        with pytest.raises(DataError, match=f"'{split}' has {number} images"):
            data.images(split)
    monkeypatch.setitem(module("patches").LISTS, "train", ("labelled_train", 2))
    assert len(data.images("train")) == 2
    (tmp_path / "imgs" / "3.mat").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images are missing; .*3\.mat"):
        data.images("train")


def test_a_missing_label_is_an_error(tmp_path: Path) -> None:
    (archive(tmp_path) / "gt" / "3.mat").unlink()
    with pytest.raises(DataError, match=r"1 of 2 labels are missing; .*3\.mat"):
        load(tmp_path, partial=True).labels("train-partial")


def test_fingerprints_follow_the_files(tmp_path: Path) -> None:
    data = load(archive(tmp_path), partial=True)
    before = data.images("test-partial").fingerprint(), data.labels("test-partial").fingerprint()
    savemat(tmp_path / "gt" / "12.mat", {"gt": np.zeros((200, 200), np.int32)})
    after = data.images("test-partial").fingerprint(), data.labels("test-partial").fingerprint()
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def test_tiles_are_halved_and_cut_row_by_row(tiles: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, half, values = tiles
    data = load(root, train="tiles-labeled", test="tiles-labeled", partial=True)
    assert data.test_split == "tiles-labeled-partial"
    images, labels = data.images(data.test_split), data.labels(data.test_split)
    assert len(images) == len(labels) == 225
    assert (images.ids[0], images.ids[16], images.ids[224]) == ("2_10_0_0", "2_10_1_1", "2_10_14_14")
    merge = np.array([0, 1, 2, 2, 0, 1])
    for index in (0, 16, 224):
        top, left = index // 15 * 200, index % 15 * 200
        cut = slice(top, top + 200), slice(left, left + 200)
        np.testing.assert_array_equal(images.image(index), half[cut][..., :3])
        np.testing.assert_array_equal(images.aux(index)["infrared"], half[cut][..., 3])
        np.testing.assert_array_equal(labels.label(index), merge[values[cut]])
    assert data.labels("tiles-all-partial") is None
    assert "label" not in repr([vars(images), images._files.paths])
    with pytest.raises(IndexError):
        images.image(225)


def test_patches_and_tiles_say_the_same(tiles: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    root, half, values = tiles
    archive(tmp_path)
    names = {"7": 0, "3": 37, "12": 224}
    for name, index in names.items():
        cut = (
            slice(index // 15 * 200, index // 15 * 200 + 200),
            slice(index % 15 * 200, index % 15 * 200 + 200),
        )
        savemat(tmp_path / "imgs" / f"{name}.mat", {"img": half[cut]})
        savemat(tmp_path / "gt" / f"{name}.mat", {"gt": values[cut]})
    patches, raw = load(tmp_path, partial=True), load(root, partial=True)
    for split in ("train-partial", "test-partial"):
        for position, name in enumerate(patches.images(split).ids):
            one, other = patches.images(split), raw.images("tiles-labeled-partial")
            np.testing.assert_array_equal(one.image(position), other.image(names[name]))
            np.testing.assert_array_equal(one.aux(position)["infrared"], other.aux(names[name])["infrared"])
            np.testing.assert_array_equal(
                patches.labels(split).label(position),
                raw.labels("tiles-labeled-partial").label(names[name]),
            )


def test_missing_and_wrong_tiles(tiles: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"24 tiles \(5,400 patches\), and .* has 1 of them"):
        load(tiles[0]).images("tiles-labeled")
    with pytest.raises(DataError, match=r"38 tiles \(8,550 patches\)"):
        load(tiles[0]).images("tiles-all")
    tiff(tmp_path / "4_Ortho_RGBIR" / "top_potsdam_2_11_RGBIR.tif", PATCH)
    tiff(tmp_path / "4_Ortho_RGBIR" / "top_potsdam_2_13_RGBIR.tif", PATCH)  # never had public labels
    data = load(tmp_path, partial=True)
    assert len(data.images("tiles-labeled-partial")) == 225
    assert len(data.images("tiles-all-partial")) == 450
    with pytest.raises(DataError, match="200×200 pixels, not 6000×6000"):
        data.images("tiles-labeled-partial").image(0)
    with pytest.raises(DataError, match=r"1 of 1 labels of tiles are missing; .*2_11_label"):
        data.labels("tiles-labeled-partial")


def half(what: str, path: Path) -> np.ndarray:
    return getattr(module("tiles"), f"_half_{what}")(FileSet([path]), path)


def test_tiles_are_halved_as_opencv_halves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV, with which the archive was made")
    monkeypatch.setattr(module("tiles"), "TILE_SIDE", 200)
    expected = cv2.resize(PATCH, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(half("image", tiff(tmp_path / "x.tif", PATCH)), expected)
    Image.fromarray(COLORS[VALUES % 6]).save(tmp_path / "label.tif")
    expected = cv2.resize(VALUES % 6, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(half("values", tmp_path / "label.tif"), expected)


def test_colors_of_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("tiles"), "TILE_SIDE", 4)
    colors = np.zeros((4, 4, 3), np.uint8)
    colors[...] = COLORS[4]
    colors[0, 0] = (252, 255, 3)
    path = tmp_path / "label.tif"
    Image.fromarray(colors).save(path)
    assert (half("values", path) == 4).all()
    colors[2, 0] = (128, 128, 128)
    Image.fromarray(colors).save(tmp_path / "gray.tif")
    with pytest.raises(DataError, match=r"\[128, 128, 128\] at x=0, y=2"):
        half("values", tmp_path / "gray.tif")


def test_prepare_gets_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "Potsdam.tar.gz"
    with tarfile.open(packed, "w:gz") as tape:
        tape.add(archive(tmp_path / "source"), "Potsdam")
    root = tmp_path / "root"
    with serve() as server:
        server.files["Potsdam.tar.gz"] = packed.read_bytes()
        resource = module("potsdam3").ARCHIVE
        monkeypatch.setattr(
            module("potsdam3"), "ARCHIVE", type(resource)(f"{server.url}/Potsdam.tar.gz", resource.name)
        )
        data = load(root, partial=True)
        data.prepare()
        assert "1 labeled" in data.verify()
        data.prepare()
        assert len(server.seen) == 1
        with pytest.raises(DataError, match="4,545") as caught:
            load(root).prepare()  # the archive of this test lacks most patches
        assert "labelled_train.txt  4,545 lines" in str(caught.value.hint)
        server.files.clear()
        with pytest.raises(DataError, match="404") as caught:
            load(tmp_path / "other").prepare()
        for words in ("imgs/*.mat   8,550", "isprs.org", str(tmp_path / "other")):
            assert words in str(caught.value.hint)
    with pytest.raises(DataError, match="on request") as caught:
        load(tmp_path / "other", train="tiles-all", test="tiles-labeled").prepare()
    assert "38 files" in str(caught.value.hint)


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no split 'tset'"):
        load(tmp_path, test="tset")
    with pytest.raises(UsageError, match="true or false"):
        load(tmp_path, partial=1)
    with pytest.raises(DataError, match=r"labelled_test\.txt does not exist"):
        load(tmp_path).images("test")


def test_a_miniature_archive_runs_end_to_end(run: Run, tmp_path: Path) -> None:
    options = {"root": archive(tmp_path / "data"), "partial": True}
    record = run("random", "potsdam3", backbone="patchstats", data=options).record
    assert (record.cell.dataset.name, record.cell.dataset.test_split) == ("potsdam3", "test-partial")
