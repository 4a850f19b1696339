"""Training images and extra channels: kept as they were decoded, or read ahead, and the same either way."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import ArrayImages

from uss_bench.data.geometry import TransformedImages
from uss_bench.data.overlay import AuxFolder, Overlay
from uss_bench.errors import DataError, UsageError
from uss_bench.features.planes import PlaneStore
from uss_bench.nn.batches import ShuffledBatches

CPU = torch.device("cpu")
ARRAYS = ArrayImages.random(140, 21, 27).arrays
DEPTH = [{"depth": array[..., :2] / 7.0 - 3, "flat": array[..., 0]} for array in ARRAYS]
IMAGES = ArrayImages(ARRAYS, DEPTH)
PER_IMAGE = 3 * 16 * 16


class Counted(ArrayImages):
    def __init__(self) -> None:
        super().__init__(ARRAYS, DEPTH)
        self.seen: list[int] = []

    def image(self, index: int) -> np.ndarray:
        self.seen.append(index)
        return super().image(index)


def make(root: Path, budget: int = 10**9, messages: list[str] | None = None) -> PlaneStore:
    return PlaneStore(root, CPU, budget, log=lambda message: (messages or []).append(message))


def items(images=IMAGES, **options) -> TransformedImages:
    return TransformedImages(images, **{"side": 16, "filter": "bilinear"} | options)


@pytest.mark.parametrize("budget", [10**9, 130 * PER_IMAGE, 0])
def test_images_are_those_of_the_geometry_whatever_is_stored(tmp_path, budget):
    crops = items(five_crop=True, images=ArrayImages(ARRAYS[:30]))
    reader = make(tmp_path, budget).open(crops, "image")
    assert (len(reader), reader.side, reader.source(7)) == (150, 16, (1, 2))
    batch = reader.batch([149, 3, 0, 128])
    assert batch.dtype == torch.uint8
    for place, index in enumerate((149, 3, 0, 128)):
        np.testing.assert_array_equal(batch[place].permute(1, 2, 0), crops[index])
        np.testing.assert_array_equal(reader[index], batch[place])
    assert len(list(tmp_path.glob("*/image/*.npy"))) == {10**9: 2, 130 * PER_IMAGE: 1, 0: 0}[budget]


def test_images_are_decoded_once_for_all_readers(tmp_path):
    images = Counted()
    make(tmp_path).open(items(images), "image")
    first = len(images.seen)
    reader = make(tmp_path).open(items(images), "image")
    reader.batch(range(140))
    assert first <= 141, "each once, and the first for its shape"
    assert len(images.seen) - first <= 1


@pytest.mark.parametrize("budget", [10**9, 0])
def test_channels_keep_their_values_and_follow_the_geometry(tmp_path, budget):
    store = make(tmp_path, budget)
    depth = store.open(items(), "aux:depth").batch([5, 139])
    assert (depth.dtype, tuple(depth.shape)) == (torch.float32, (2, 2, 16, 16))
    expected = items().transform(DEPTH[139]["depth"].astype(np.float32), 139)
    np.testing.assert_array_equal(depth[1].permute(1, 2, 0), expected)

    nearest = store.open(items(), "aux:depth@nearest").batch([139])[0]
    expected = items(filter="nearest").transform(DEPTH[139]["depth"].astype(np.float32), 139)
    np.testing.assert_array_equal(nearest.permute(1, 2, 0), expected)
    assert not torch.equal(nearest, depth[1])
    assert store.open(items(), "aux:flat").batch([0]).shape == (1, 1, 16, 16)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"no extra channel 'heat' \(they have: depth, flat\).\nAdd one: --aux heat=DIR"
    ):
        make(tmp_path).open(items(), "aux:heat")
    with pytest.raises(
        UsageError, match=r"'aux:depth@cubic' asks for a filter 'cubic'.\nKnown: nearest, bilinear"
    ):
        make(tmp_path).open(items(), "aux:depth@cubic")
    with pytest.raises(DataError, match="no images"):
        make(tmp_path).open(items(ArrayImages([])), "image")


def test_maps_that_differ_in_depth_do_not_stack(tmp_path):
    aux = [{"depth": array[..., : 1 + index % 2]} for index, array in enumerate(ARRAYS)]
    with pytest.raises(DataError, match="'aux:depth' have 1 values per pixel for some images, 2 for others"):
        make(tmp_path).open(items(ArrayImages(ARRAYS, aux)), "aux:depth")


def test_keys_tell_images_geometries_channels_and_overlays_apart(tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    for index, name in enumerate(IMAGES.ids):
        np.save(folder / f"{name}.npy", np.full((21, 27), index))
    store = make(tmp_path)
    first = Overlay(IMAGES, [AuxFolder("depth", folder)])
    keys = [
        store.key(items(), "image"),
        store.key(items(side=8), "image"),
        store.key(items(ArrayImages(ARRAYS[::-1])), "image"),
        store.key(items(), "aux:depth"),
        store.key(items(), "aux:flat"),
        store.key(items(), "aux:depth@nearest"),
        store.key(items(first), "aux:depth"),
    ]
    assert len(set(keys)) == len(keys)
    assert store.key(items(first), "image") == keys[0], "an overlay leaves images alone"
    assert store.key(items(first), "aux:flat") == keys[4]
    np.save(folder / "image-3.npy", np.zeros((21, 27)))
    assert store.key(items(Overlay(IMAGES, [AuxFolder("depth", folder)])), "aux:depth") != keys[-1]
    assert first.fingerprint() == IMAGES.fingerprint()


@pytest.mark.parametrize("budget", [10**9, 130 * PER_IMAGE, 0])
def test_batches_follow_the_sampler_and_are_read_ahead(tmp_path, budget):
    images = Counted()
    reader = make(tmp_path, budget).open(items(images), "image")
    images.seen.clear()
    sampler, alone = (ShuffledBatches(140, 8, torch.Generator().manual_seed(0)) for _ in range(2))
    batches = reader.batches(sampler)
    for _ in range(5):
        indices, batch = next(batches)
        assert list(indices) == list(next(alone))
        assert torch.equal(batch, reader.batch(indices))
    if budget:
        return
    expected = {index for _ in range(3) for index in next(alone)}
    deadline = time.monotonic() + 60
    while not expected <= set(images.seen) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert expected <= set(images.seen)
