"""Features as int8: rounded by the formula, twice as once, and equal stored, in part or streamed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import ArrayImages, FakeBackbone

from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import RunError
from uss_bench.features.kept import KeptImages
from uss_bench.features.quantized import pack, packed_bytes, round_to_int8, unpack
from uss_bench.features.store import FeatureStore
from uss_bench.nn.batches import ShuffledBatches

CPU = torch.device("cpu")
FACETS = ("tokens", "keys@1", "cls")
ITEMS = TransformedImages(ArrayImages.random(300, 9, 11), side=8, filter="nearest")


def open_features(root, budget=10**9, backbone=None, dtype="int8", items=ITEMS):
    store = FeatureStore(
        root,
        backbone or FakeBackbone(),
        device=CPU,
        dtype=dtype,
        budget=budget,
        batch_size=16,
        log=lambda _: None,
    )
    return store.open(items, FACETS)


def by_loops(values: np.ndarray) -> np.ndarray:
    """The formula in float64: q · s, s = max |v| / 127 to 11 bits, q the nearest whole number to v / s."""
    rounded = np.zeros(values.shape)
    for place in np.ndindex(values.shape[:2]):
        channel = values[place].astype(np.float64)
        largest = np.abs(channel).max() / 127
        if largest:
            unit = 2.0 ** (np.floor(np.log2(largest)) - 10)
            scale = np.round(largest / unit) * unit
            rounded[place] = np.round(channel / scale) * scale
    return rounded


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (3, 5), (2, 4, 7)])
def test_rounding_is_the_formula_and_changes_nothing_twice(shape):
    generator = torch.Generator().manual_seed(0)
    sizes = 10 ** torch.linspace(-20, 20, shape[1]).view(-1, *[1] * (len(shape) - 2))
    values = torch.randn(shape, generator=generator) * sizes
    values[0, 0] = 0
    once = round_to_int8(values)
    np.testing.assert_allclose(once.numpy(), by_loops(values.numpy()), rtol=1e-6)
    assert torch.equal(round_to_int8(once), once)
    assert torch.equal(unpack(pack(once), shape[1:]), once)
    assert pack(values)[0].numel() == packed_bytes(shape[1:])


@pytest.mark.parametrize("budget", [0, 40_000])
def test_streamed_and_stored_in_part_are_as_stored(tmp_path, budget):
    stored, other = open_features(tmp_path / "a"), open_features(tmp_path / "b", budget)
    assert stored.stored
    assert not other.stored
    assert bool(list((tmp_path / "b").rglob("*.npy"))) == bool(budget)
    exact = open_features(tmp_path / "c", dtype="float32")
    for start in (0, 120, 290):
        rows = range(start, start + 10)
        one, two, three = (reader.batch(rows) for reader in (stored, other, exact))
        for facet in FACETS:
            assert torch.equal(one[facet], two[facet])
            assert torch.equal(one[facet], round_to_int8(three[facet]))
    for facet in FACETS:
        for one, two in zip(stored.moments(facet), other.moments(facet), strict=True):
            torch.testing.assert_close(one, two)


def test_they_take_about_half_the_space_of_float16(tmp_path):
    items = TransformedImages(ArrayImages.random(4, 40, 40), side=32, filter="nearest")
    sizes = {}
    for dtype in ("int8", "float16"):
        store = FeatureStore(tmp_path / dtype, FakeBackbone(), device=CPU, dtype=dtype, log=lambda _: None)
        store.open(items, ["tokens"])
        layout = store.layout(items, ["tokens"])
        (file,) = (tmp_path / dtype).rglob("*.npy")
        sizes[dtype] = layout.bytes_needed()
        assert file.stat().st_size == sizes[dtype] + 128
    assert sizes["int8"] < 0.6 * sizes["float16"]


def test_what_is_not_finite_is_refused(tmp_path):
    class Broken(FakeBackbone):
        def __call__(self, images, facets, **options):
            found = super().__call__(images, facets, **options)
            return {facet: value.fill_(torch.inf) for facet, value in found.items()}

    with pytest.raises(RunError, match="not finite in int8"):
        open_features(tmp_path, backbone=Broken())


class Counted(ArrayImages):
    """Images that count how often each is read."""

    def image(self, index):
        self.read = [*getattr(self, "read", []), index]
        return super().image(index)


def test_an_image_of_streamed_features_is_read_once_as_far_as_the_budget_goes(tmp_path):
    images = Counted.random(12, 9, 11)
    items = TransformedImages(images, side=8, filter="nearest")
    kept = KeptImages(items, tmp_path / "new", 8 * 3 * 64 + 5)
    for _ in range(3):
        for index in range(12):
            assert np.array_equal(kept(index), items[index])
    asked = [images.read.count(index) - 3 for index in range(12)]
    assert asked == [1] * 8 + [3] * 4
    assert not list((tmp_path / "new").iterdir()), "the file has no name"


def test_training_from_streamed_features_sees_the_same_batches_and_decodes_once(tmp_path):
    images = Counted.random(24, 9, 11)
    items = TransformedImages(images, side=8, filter="nearest")
    batches = {}
    for budget in (10**9, 24 * 3 * 64):
        images.read = []
        reader = open_features(tmp_path / str(budget), budget, dtype="float32", items=items)
        sampler = ShuffledBatches(24, 8, torch.Generator().manual_seed(1))
        found = reader.batches(sampler)
        batches[budget] = [next(found) for _ in range(9)]
    assert max(images.read.count(index) for index in range(24)) <= 1
    for (rows, one), (others, two) in zip(*batches.values(), strict=True):
        assert list(rows) == list(others)
        for facet in FACETS:
            assert torch.equal(one[facet], two[facet])


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    kept = KeptImages(ITEMS, tmp_path / "file", 10**9)
    assert np.array_equal(kept(3), ITEMS[3])
