"""Maps laid over a dataset's images: found by their ids, checked before training, apart from the images."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from fakes import ArrayImages
from PIL import Image

from uss_bench.data.overlay import AuxFolder, Overlay, check_channel, extra_channel
from uss_bench.data.subset import limited
from uss_bench.data.validated import validated
from uss_bench.errors import DataError

SIZE = (6, 9)
IMAGES = ArrayImages.random(4, *SIZE)


def depth(index: int) -> np.ndarray:
    return np.arange(54, dtype=np.float32).reshape(SIZE) + 1000 * index


WRITERS = {
    "float .npy": lambda path, values: np.save(path.with_suffix(".npy"), values),
    "16-bit .png": lambda path, values: Image.fromarray(values.astype(np.uint16)).save(
        path.with_suffix(".png")
    ),
    "float .tif": lambda path, values: Image.fromarray(values).save(path.with_suffix(".tif")),
}


def write(
    folder: Path, ids=IMAGES.ids, writer=WRITERS["float .npy"], change=lambda index, values: values
) -> Path:
    for index, name in enumerate(ids):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        writer(folder / name, change(index, depth(index)))
    return folder


def overlay(folder: Path, images=IMAGES, name: str = "depth") -> Overlay:
    return Overlay(images, [AuxFolder(name, folder)])


@pytest.mark.parametrize("kind", WRITERS)
def test_values_are_those_of_the_files(tmp_path, kind):
    images = overlay(write(tmp_path, writer=WRITERS[kind]))
    check_channel(images, "depth")
    for index in range(4):
        np.testing.assert_array_equal(extra_channel(images, index, "depth"), depth(index))
        np.testing.assert_array_equal(images.image(index), IMAGES.image(index))


def test_eight_bit_and_several_values_per_pixel(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    write(tmp_path, writer=lambda path, _: Image.fromarray(values).save(path.with_suffix(".png")))
    np.testing.assert_array_equal(extra_channel(overlay(tmp_path), 0, "depth"), values)
    write(
        tmp_path / "gray",
        writer=lambda path, _: Image.fromarray(values[..., 0]).save(path.with_suffix(".png")),
    )
    np.testing.assert_array_equal(extra_channel(overlay(tmp_path / "gray"), 0, "depth"), values[..., 0])


def test_an_overlay_stands_beside_the_channels_of_the_dataset_and_replaces_those_of_its_name(tmp_path):
    own = ArrayImages(IMAGES.arrays, [{"depth": np.zeros(SIZE), "infrared": np.ones(SIZE)}] * 4)
    images = overlay(write(tmp_path), own)
    assert set(images.aux(0)) == {"depth", "infrared"}
    np.testing.assert_array_equal(images.aux(1)["depth"], depth(1))


def test_the_fingerprint_is_the_images_and_the_channels_is_the_files(tmp_path):
    images = overlay(write(tmp_path))
    assert images.fingerprint() == IMAGES.fingerprint()
    before = images.aux_fingerprint("depth")
    assert images.aux_fingerprint("infrared") == ""
    assert overlay(write(tmp_path / "copy")).aux_fingerprint("depth") == before
    np.save(tmp_path / "image-2.npy", depth(7))
    assert overlay(tmp_path).aux_fingerprint("depth") != before
    for wrapped in (limited(images, 4), validated(images, None, "Dataset 'x'", 0)[0]):
        assert wrapped.aux_fingerprint("depth") == before


def test_maps_may_lie_in_the_folders_of_their_images_or_in_one(tmp_path):
    images = ArrayImages(IMAGES.arrays)
    images.ids = [f"city-{index % 2}/{name}" for index, name in enumerate(IMAGES.ids)]
    for folder in (write(tmp_path / "nested", images.ids), write(tmp_path / "flat")):
        np.testing.assert_array_equal(overlay(folder, images).aux(3)["depth"], depth(3))
    write(tmp_path / "double", ["a/image-0", "b/image-0"])
    with pytest.raises(
        DataError, match=r"'city-0/image-0' may have the map .*a/image-0.npy or .*b/image-0.npy"
    ):
        overlay(tmp_path / "double", images)


def test_missing_maps_are_named_before_anything_is_read(tmp_path):
    with pytest.raises(DataError, match=r"--aux depth=.*the folder does not exist"):
        AuxFolder("depth", tmp_path / "none")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="the folder holds no map"):
        AuxFolder("depth", tmp_path)
    write(tmp_path)
    for name in ("image-1", "image-3"):
        (tmp_path / f"{name}.npy").unlink()
    with pytest.raises(
        DataError, match=r"2 images have no map in .* \(image-1, image-3\).\nA map is called like its image"
    ):
        overlay(tmp_path)


CHANGES = {
    "size": (
        lambda index, values: values[:, :-1] if index == 2 else values,
        r"'image-2' is 8×6 pixels, and the image 9×6",
    ),
    "turned": (lambda index, values: values.T, r"'image-0' is 6×9 pixels, and the image 9×6"),
    "NaN": (
        lambda index, values: np.where(values == 1005, np.nan, values),
        "'image-1' holds NaN or infinity",
    ),
    "infinity": (
        lambda index, values: np.where(values == 3005, np.inf, values),
        "'image-3' holds NaN or infinity",
    ),
    "dimensions": (
        lambda index, values: values[None, None],
        r"'image-0' is float32 \(1, 1, 6, 9\); a map is numbers",
    ),
    "text": (lambda index, values: values.astype(str), r"'image-0' is <U.* a map is numbers"),
    "nothing": (lambda index, values: values[:, :0], "a map is numbers"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_map_that_does_not_fit_is_named(tmp_path, change):
    images = overlay(write(tmp_path, change=CHANGES[change][0]))
    with pytest.raises(DataError, match=CHANGES[change][1]):
        check_channel(images, "depth")


FILES = {
    "objects.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    + b" " * 58
    + b"\n",
    "cut.npy": b"\x93NUMPY\x01",
    "empty.npy": b"",
    "empty.png": b"",
    "text.png": b"depth",
}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_map_is_a_data_error_with_its_name(tmp_path, name):
    images = ArrayImages(IMAGES.arrays[:1])
    images.ids = [Path(name).stem]
    (tmp_path / name).write_bytes(FILES[name])
    with pytest.raises(DataError, match=re.escape(name)):
        check_channel(overlay(tmp_path, images), "depth")


def test_a_check_is_done_once_for_the_same_maps(tmp_path):
    class Counted(ArrayImages):
        read = 0

        def image(self, index):
            self.read += 1
            return super().image(index)

    images = Counted(ArrayImages.random(4, *SIZE, seed=5).arrays)
    for times in (4, 4):
        check_channel(overlay(write(tmp_path), images), "depth")
        assert images.read == times
    np.save(tmp_path / "image-0.npy", depth(9))
    check_channel(overlay(tmp_path, images), "depth")
    assert images.read == 8


def test_the_name_of_a_missing_channel_and_how_to_add_one_are_in_the_error():
    with pytest.raises(
        DataError, match=r"no extra channel 'depth' \(they have: none\).\nAdd one: --aux depth=DIR"
    ):
        extra_channel(IMAGES, 0, "depth")


@pytest.mark.parametrize(("images", "maps"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_maps_pair_with_images_whose_names_look_the_same(tmp_path, images, maps):
    path = tmp_path / unicodedata.normalize(maps, "é.NPY")
    np.save(path, np.zeros((3, 3)))
    (tmp_path / unicodedata.normalize(maps, "é.NPY.npy")).rename(path)
    assert AuxFolder("depth", tmp_path).files([unicodedata.normalize(images, "é")]) == [path]


def test_a_map_that_leads_nowhere_is_an_error(tmp_path):
    (tmp_path / "a.npy").symlink_to("nowhere.npy")
    with pytest.raises(DataError, match="a link that leads nowhere"):
        AuxFolder("depth", tmp_path)
