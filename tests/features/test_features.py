"""The feature store: served exactly, extracted once, and sound after whatever went wrong."""

from __future__ import annotations

import errno
import multiprocessing
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import ArrayImages, FakeBackbone

from uss_bench.contracts import Backbone, BackboneInfo
from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import ContractError, DataError, RunError, UsageError
from uss_bench.features.encoder import to_unit_range
from uss_bench.features.shards import CHECKED
from uss_bench.features.store import FeatureStore
from uss_bench.nn.batches import ShuffledBatches

FACETS = ("tokens", "keys@1", "cls")
CPU = torch.device("cpu")
IMAGES = ArrayImages.random(300, 9, 11)  # three shards: 128, 128 and 44 items


def make_store(root: Path, backbone: Backbone | None = None, **options) -> FeatureStore:
    options = {"device": CPU, "dtype": "float32", "log": lambda message: None} | options
    return FeatureStore(root, backbone or FakeBackbone(), **options)


def whole_images(images: ArrayImages = IMAGES, **options) -> TransformedImages:
    return TransformedImages(images, side=8, filter="nearest", **options)


def direct(items: TransformedImages, index: int) -> dict[str, torch.Tensor]:
    """The features of one item, without a store."""
    image = torch.from_numpy(items[index]).permute(2, 0, 1)[None] / 255
    return {facet: value[0] for facet, value in FakeBackbone()(image, FACETS).items()}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lock" not in path.name and path.name != CHECKED
    }


def no_partial_files(folder: Path) -> bool:
    return not any("partial" in name for name in files(folder))


# --- What is served ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"flips": True}, {"five_crop": True}])
def test_stored_and_streamed_features_are_those_of_the_backbone_item_by_item(tmp_path, options):
    items = whole_images(ArrayImages.random(30, 18, 22), **options)
    stored = make_store(tmp_path / "a", batch_size=7).open(items, FACETS)
    streamed = make_store(tmp_path / "b", budget=0, batch_size=4).open(items, FACETS)
    assert (stored.stored, streamed.stored) == (True, False)
    assert len(stored) == len(streamed) == len(items)
    for index in range(len(items)):
        for reader in (stored, streamed):
            assert reader.source(index) == items.source(index)
            torch.testing.assert_close(reader[index], direct(items, index), rtol=0, atol=0)


def test_streamed_features_are_rounded_as_stored_ones(tmp_path):
    items = whole_images(ArrayImages.random(9, 18, 22))
    stored = make_store(tmp_path / "a", dtype="float16").open(items, FACETS)
    streamed = make_store(tmp_path / "b", dtype="float16", budget=0).open(items, FACETS)
    for index in range(len(items)):
        torch.testing.assert_close(streamed[index], stored[index], rtol=0, atol=0)
        assert any((streamed[index][facet] != direct(items, index)[facet]).any() for facet in FACETS)


@pytest.mark.parametrize("indices", [[299, 0, 127, 128, 256, 0], torch.tensor([5, 131])])
@pytest.mark.parametrize("budget", [10**9, 0])
def test_a_batch_is_its_items_stacked_in_the_order_asked_for(tmp_path, indices, budget):
    reader = make_store(tmp_path, budget=budget).open(whole_images(), FACETS)
    batch = reader.batch(indices)
    for facet in FACETS:
        expected = torch.stack([direct(whole_images(), int(index))[facet] for index in indices])
        assert batch[facet].dtype == torch.float32
        torch.testing.assert_close(batch[facet], expected, rtol=0, atol=0)


def test_float16_moves_no_value_by_more_than_half_its_last_bit(tmp_path):
    items = whole_images()
    reader = make_store(tmp_path, dtype="float16").open(items, ["keys@1"])
    exact = torch.stack([direct(items, index)["keys@1"] for index in range(len(items))])
    served = reader.batch(range(len(items)))["keys@1"]
    normal = exact > 2**-14
    assert served.dtype == torch.float32
    assert 0 < ((served - exact).abs() / exact)[normal].max() <= 2**-11


@pytest.mark.parametrize("budget", [10**9, 0])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("facet", FACETS)
def test_moments_are_numpys_over_every_position_of_every_item(tmp_path, budget, dtype, facet):
    items = whole_images(ArrayImages.random(40, 18, 22), five_crop=True)
    reader = make_store(tmp_path, dtype=dtype, budget=budget, batch_size=64).open(items, FACETS)
    every = reader.batch(range(len(items)))[facet].numpy().astype(dtype).astype(np.float64)
    axes = (0, 2, 3) if every.ndim == 4 else 0
    mean, deviation = reader.moments(facet)
    assert mean.dtype == deviation.dtype == torch.float32
    np.testing.assert_allclose(mean, every.mean(axis=axes), rtol=1e-6)
    np.testing.assert_allclose(deviation, every.std(axis=axes), rtol=1e-5)


def test_what_is_not_there_is_said(tmp_path):
    reader = make_store(tmp_path).open(whole_images(), ["tokens"])
    with pytest.raises(UsageError, match="hold tokens, not 'cls'"):
        reader.moments("cls")
    for index in (-1, 300):
        with pytest.raises(IndexError):
            reader[index]
    with pytest.raises(DataError, match="no images"):
        make_store(tmp_path).open(whole_images(ArrayImages([])), ["tokens"])


def test_pixels_become_the_unit_range_channels_first():
    squares = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3) * 7
    result = to_unit_range(squares, CPU)
    assert (result.dtype, tuple(result.shape)) == (torch.float32, (2, 3, 2, 3))
    assert result[1, 2, 0, 1].item() == pytest.approx(squares[1, 0, 1, 2] / 255)


def test_images_that_are_square_already_raise_no_warning_of_torch(tmp_path):
    images = ArrayImages.random(2, 10, 10)  # Pillow's result is then served uncropped, and is read-only
    torch.set_warn_always(True)
    try:
        assert len(make_store(tmp_path).open(whole_images(images), ["tokens"])) == 2
    finally:
        torch.set_warn_always(False)


# --- Extracted once ------------------------------------------------------------------------------


def test_extraction_happens_once_for_all_stores_of_one_folder(tmp_path):
    first = make_store(tmp_path)
    first.open(whole_images(), FACETS)
    first.open(whole_images(), FACETS)
    second = make_store(tmp_path)
    second.open(whole_images(), ["tokens"])
    assert (first.encoded, second.encoded) == (300, 0)


def test_another_facet_is_extracted_without_the_first(tmp_path):
    make_store(tmp_path).open(whole_images(), ["tokens"])
    before = files(tmp_path)
    backbone = FakeBackbone()
    reader = make_store(tmp_path, backbone).open(whole_images(), ["tokens", "cls"])
    assert {facets for _, facets in backbone.calls} == {("cls",)}
    assert before.items() <= files(tmp_path).items()
    torch.testing.assert_close(reader[200]["cls"], direct(whole_images(), 200)["cls"])


@pytest.mark.parametrize(
    ("change", "items"),
    [
        ({"backbone": FakeBackbone("other weights")}, whole_images()),
        ({"backbone": FakeBackbone(positions="timm")}, whole_images()),
        ({"dtype": "float16"}, whole_images()),
        ({}, whole_images(ArrayImages.random(300, 9, 11, seed=1))),
        ({}, whole_images(flips=True)),
    ],
    ids=["weights", "positions", "dtype", "images", "items"],
)
def test_whatever_decides_features_is_part_of_their_key(tmp_path, change, items):
    assert make_store(tmp_path).key(whole_images()) == make_store(tmp_path, batch_size=3).key(whole_images())
    assert make_store(tmp_path, **change).key(items) != make_store(tmp_path).key(whole_images())


def _extract(root: Path, barrier, results) -> None:
    store = make_store(root)
    barrier.wait(120)
    reader = store.open(whole_images(), ["tokens"])
    results.put((store.encoded, reader.batch(range(300))["tokens"].numpy()))


def test_two_processes_share_one_extraction(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    other = spawn.Process(target=_extract, args=(tmp_path, barrier, results))
    other.start()
    _extract(tmp_path, barrier, results)
    (encoded_here, here), (encoded_there, there) = (results.get(timeout=120) for _ in range(2))
    other.join(60)
    assert other.exitcode == 0
    assert {encoded_here, encoded_there} == {0, 300}
    np.testing.assert_array_equal(here, there)


def _extract_share(root: Path, part: int, barrier, results) -> None:
    store = make_store(root)
    barrier.wait(120)
    store.extract(whole_images(), FACETS, part, 2)
    results.put(store.encoded)


def test_shares_built_at_the_same_time_are_the_extraction_of_one_process(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(3), spawn.Queue()
    # The second share is given twice, as by a job that was started again while the first still ran.
    others = [
        spawn.Process(target=_extract_share, args=(tmp_path / "shared", 1, barrier, results))
        for _ in range(2)
    ]
    for other in others:
        other.start()
    _extract_share(tmp_path / "shared", 0, barrier, results)
    encoded = [results.get(timeout=120) for _ in range(3)]
    for other in others:
        other.join(60)
        assert other.exitcode == 0
    make_store(tmp_path / "alone").open(whole_images(), FACETS)
    assert files(tmp_path / "shared") == files(tmp_path / "alone")
    assert encoded.count(128 + 44) == 1  # shards 0 and 2; shard 1 may be computed twice, and is written once
    assert sum(encoded) in (300, 300 + 128)


def test_a_share_builds_its_own_shards_only_and_what_is_damaged_of_them(tmp_path):
    make_store(tmp_path).extract(whole_images(), ["tokens"], 1, 3)
    kept = next(tmp_path.glob("*/tokens/*.npy"))
    assert [path.name for path in tmp_path.glob("*/tokens/*.npy")] == ["00001-of-00003.npy"]
    flip_byte(kept)
    store = make_store(tmp_path)
    store.extract(whole_images(), ["tokens"], 1, 3)
    store.extract(whole_images(), ["tokens"], 1, 3)
    assert store.encoded == 128
    opening = make_store(tmp_path)
    torch.testing.assert_close(
        opening.open(whole_images(), ["tokens"])[130]["tokens"], direct(whole_images(), 130)["tokens"]
    )
    assert opening.encoded == 300 - 128


def test_shares_of_what_is_streamed_build_nothing(tmp_path):
    store = make_store(tmp_path, budget=0)
    store.extract(whole_images(), ["tokens"], 0, 2)
    assert store.encoded == 0
    assert not list(tmp_path.rglob("*.npy"))


# --- Damage --------------------------------------------------------------------------------------


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "suffix", "said"),
    [
        (flip_byte, ".npy", True),
        (truncate, ".npy", True),
        (Path.unlink, ".npy", True),
        (Path.unlink, ".json", False),  # a shard without a sidecar was never finished
        (truncate, ".json", False),
    ],
    ids=["flipped bit", "truncated", "deleted", "no sidecar", "truncated sidecar"],
)
def test_a_damaged_shard_is_found_and_built_again_alone(
    tmp_path, damage: Callable[[Path], object], suffix: str, said: bool
):
    make_store(tmp_path).open(whole_images(), FACETS)
    before = files(tmp_path)
    shard = next(tmp_path.glob(f"*/tokens/00001-of-00003{suffix}"))
    damage(shard)

    messages: list[str] = []
    backbone = FakeBackbone()
    store = make_store(tmp_path, backbone, log=messages.append)
    reader = store.open(whole_images(), FACETS)
    assert files(tmp_path) == before
    assert store.encoded == 128
    assert {facets for _, facets in backbone.calls} == {("tokens",)}
    assert [bool(re.search(r"00001-of-00003.npy.*'tokens'.*damaged", line)) for line in messages] == [
        True
    ] * said
    torch.testing.assert_close(reader[130], direct(whole_images(), 130))


def test_an_interrupted_extraction_leaves_nothing_half_written_and_continues(tmp_path):
    with pytest.raises(ContractError, match="the backbone broke"):
        make_store(tmp_path, FakeBackbone(fail_at=200)).open(whole_images(), FACETS)
    names = [name.partition("/")[2] for name in files(tmp_path)]
    facets = sorted(f"{facet}/00000-of-00003.{kind}" for facet in FACETS for kind in ("json", "npy"))
    assert sorted(names) == sorted(["about.json", *facets])

    store = make_store(tmp_path)
    reader = store.open(whole_images(), FACETS)
    assert store.encoded == 300 - 128
    torch.testing.assert_close(reader[250], direct(whole_images(), 250))


def full_disk(*arguments, **keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("broken", ["numpy.save", "os.fsync"])
def test_a_full_disk_is_a_data_error_and_leaves_no_partial_file(tmp_path, monkeypatch, broken):
    with monkeypatch.context() as patch:
        patch.setattr(broken, full_disk)
        with pytest.raises(DataError, match="No space left on device"):
            make_store(tmp_path).open(whole_images(), FACETS)
    assert no_partial_files(tmp_path)
    assert len(make_store(tmp_path).open(whole_images(), FACETS)) == 300


@pytest.mark.filterwarnings("default:overflow")
def test_features_beyond_float16_are_refused_by_name(tmp_path):
    with pytest.raises(RunError, match="'tokens' that are not finite in float16"):
        make_store(tmp_path, FakeBackbone(gain=1e6), dtype="float16").open(whole_images(), ["tokens"])
    assert not list(tmp_path.rglob("*.npy"))
    streamed = make_store(tmp_path, FakeBackbone(gain=1e6), dtype="float16", budget=0)
    with pytest.raises(RunError, match="'tokens' that are not finite in float16"):
        streamed.open(whole_images(), ["tokens"]).batch([0])
    reader = make_store(tmp_path, FakeBackbone(gain=1e6)).open(whole_images(), ["tokens"])
    assert torch.isfinite(reader[0]["tokens"]).all()


# --- Streaming -----------------------------------------------------------------------------------


PER_ITEM = 4 * (9 * 4 + 9)  # float32 tokens (9, 2, 2) and cls (9,)


def test_what_a_budget_holds_is_stored_and_the_rest_is_streamed(tmp_path):
    facets, messages = ["tokens", "cls"], []
    fits = make_store(tmp_path / "a", budget=300 * PER_ITEM).open(whole_images(), facets)
    store = make_store(tmp_path / "b", budget=300 * PER_ITEM - 1, log=messages.append)
    partly = store.open(whole_images(), facets)
    assert (fits.stored, partly.stored) == (True, False)
    assert re.search("streamed, 2 of 3 parts are stored: .*budget", messages[0])
    assert store.encoded == 256
    assert len(list(tmp_path.glob("b/**/*.npy"))) == 4

    chosen = [299, 0, 127, 128, 270, 256, 255]
    batch = partly.batch(chosen)
    assert store.encoded == 256 + 3
    for facet in facets:
        assert torch.equal(batch[facet], fits.batch(chosen)[facet])
        for ours, whole in zip(partly.moments(facet), fits.moments(facet), strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-6, atol=1e-7)
    again = make_store(tmp_path / "b", budget=300 * PER_ITEM - 1)
    again.open(whole_images(), facets)
    assert again.encoded == 0


@pytest.mark.parametrize("parts", [1, 2])
def test_shares_of_what_a_budget_holds_are_what_opening_stores(tmp_path, parts):
    options = {"budget": 300 * PER_ITEM - 1}
    for part in range(parts):
        make_store(tmp_path / "shared", **options).extract(whole_images(), ["tokens", "cls"], part, parts)
    make_store(tmp_path / "alone", **options).open(whole_images(), ["tokens", "cls"])
    assert files(tmp_path / "shared") == files(tmp_path / "alone")


def test_less_than_one_part_is_streamed_altogether(tmp_path):
    messages: list[str] = []
    store = make_store(tmp_path, budget=128 * PER_ITEM - 1, log=messages.append)
    streamed = store.open(whole_images(), ["tokens", "cls"])
    assert not streamed.stored
    assert re.search("streamed, not stored: .*budget", messages[0])
    assert not list(tmp_path.rglob("*.npy"))
    streamed.batch([1, 2, 3])
    assert store.encoded == 3


def test_opening_for_a_look_stores_nothing_and_takes_what_is_there(tmp_path):
    make_store(tmp_path, budget=200 * PER_ITEM).open(whole_images(), ["tokens", "cls"])
    before = files(tmp_path)
    store = make_store(tmp_path)
    reader = store.open(whole_images(), ["tokens", "cls"], build=False)
    torch.testing.assert_close(reader.batch([5, 200])["cls"][1], direct(whole_images(), 200)["cls"])
    assert (store.encoded, reader.stored) == (1, False)
    assert files(tmp_path) == before


def test_what_was_stored_is_opened_without_the_backbone(tmp_path):
    make_store(tmp_path).open(whole_images(), FACETS)
    backbone = FakeBackbone(fail_at=0)
    reader = make_store(tmp_path, backbone).open(whole_images(), FACETS)
    assert reader[7]["tokens"].shape == (9, 2, 2)
    make_store(tmp_path / "streamed", backbone, budget=0).open(whole_images(), FACETS)
    assert backbone.calls == []


def test_one_facet_has_one_store_whatever_it_is_called(tmp_path):
    first = make_store(tmp_path)
    first.open(whole_images(), ["keys@1"])
    second = make_store(tmp_path)
    reader = second.open(whole_images(), ["keys@-1", "keys@1"])
    assert second.encoded == 0
    batch = reader.batch([0, 3])
    assert list(batch) == ["keys@-1", "keys@1"]
    assert torch.equal(*batch.values())
    assert torch.equal(reader.moments("keys@-1")[0], reader.moments("keys@1")[0])
    with pytest.raises(UsageError, match="'fake' has 1 blocks"):
        second.open(whole_images(), ["keys@12"])
    assert not list(tmp_path.glob("*/keys@-1"))


class Unusual(FakeBackbone):
    """A backbone with a facet of its own, whose shape nobody knows but itself."""

    info = BackboneInfo("fake", 4, 9, facets=("tokens", "edges"))

    def __call__(self, images, facets, *, grad=False):
        return dict.fromkeys(facets, images[:, :2, ::8, ::8])


def test_a_facet_of_a_backbones_own_is_measured_once(tmp_path):
    reader = make_store(tmp_path, Unusual()).open(whole_images(), ["edges"])
    assert reader[200]["edges"].shape == (2, 1, 1)


def test_a_backbone_that_is_not_what_its_info_says_is_refused(tmp_path):
    with pytest.raises(
        ContractError, match=r"gave 'tokens' of \(2, 1, 1\).*by its info it should be \(9, 2, 2\)"
    ):
        make_store(tmp_path, Unusual()).open(whole_images(), ["tokens"])


# --- Reading ahead ---------------------------------------------------------------------------------


class Slow(ArrayImages):
    """Images that note in which order they were read, and by which thread."""

    def __init__(self, images: ArrayImages) -> None:
        super().__init__(images.arrays)
        self.seen: list[int] = []

    def image(self, index: int) -> np.ndarray:
        self.seen.append(index)
        return super().image(index)


@pytest.mark.parametrize("budget", [10**9, 200 * PER_ITEM, 0])
def test_batches_are_those_of_the_sampler_with_its_state_beside_them(tmp_path, budget):
    reader = make_store(tmp_path, budget=budget).open(whole_images(), ["tokens", "cls"])
    sampler, alone = (ShuffledBatches(300, 32, torch.Generator().manual_seed(1)) for _ in range(2))
    for _, (indices, batch) in zip(range(25), reader.batches(sampler), strict=False):
        assert list(indices) == list(next(alone))
        assert torch.equal(batch["tokens"], reader.batch(indices)["tokens"])
        states = sampler.state_dict(), alone.state_dict()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_images_of_the_next_batches_are_decoded_before_they_are_asked_for(tmp_path):
    images = Slow(IMAGES)
    reader = make_store(tmp_path, budget=0).open(whole_images(images), ["tokens"])
    sampler, alone = (ShuffledBatches(300, 8, torch.Generator().manual_seed(1)) for _ in range(2))
    batches = reader.batches(sampler)
    next(batches)
    wanted = [index for _ in range(8) for index in next(alone)]
    deadline = time.monotonic() + 60
    while len(images.seen) < len(wanted) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(images.seen) == sorted(wanted)
    for _ in range(20):
        next(batches)
    assert max(np.bincount(images.seen)) == 1, "an item is decoded once in an epoch"


def test_a_sampler_whose_generator_serves_others_as_well_is_followed(tmp_path):
    reader = make_store(tmp_path, budget=0).open(whole_images(ArrayImages(IMAGES.arrays[:40])), ["tokens"])
    shared, other = (torch.Generator().manual_seed(1) for _ in range(2))
    sampler, alone = ShuffledBatches(40, 8, shared), ShuffledBatches(40, 8, other)
    for step, (indices, _) in zip(range(30), reader.batches(sampler), strict=False):
        assert list(indices) == list(next(alone))
        if step % 3 == 0:  # draws in between, as for augmentation
            assert torch.equal(torch.rand(2, generator=shared), torch.rand(2, generator=other))


def test_what_exceeds_the_disk_is_streamed_unless_it_is_there_already(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    make_store(tmp_path / "kept").open(whole_images(), ["tokens"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    messages: list[str] = []
    assert not make_store(tmp_path / "new", log=messages.append).open(whole_images(), ["tokens"]).stored
    assert re.search("streamed.*the disk has", messages[0])
    assert make_store(tmp_path / "kept").open(whole_images(), ["tokens"]).stored


def test_a_cache_that_cannot_be_written_is_streamed_around(tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    messages: list[str] = []
    reader = make_store(tmp_path / "file", log=messages.append).open(whole_images(), ["tokens"])
    assert not reader.stored
    assert re.search("streamed.*cannot be written", messages[0])
    torch.testing.assert_close(reader[3]["tokens"], direct(whole_images(), 3)["tokens"])


def test_features_are_served_although_their_folder_became_read_only(tmp_path, monkeypatch):
    make_store(tmp_path).open(whole_images(), ["tokens"])

    def refuse(self, *arguments, **keywords):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    reader = make_store(tmp_path).open(whole_images(), ["tokens"])
    torch.testing.assert_close(reader[3]["tokens"], direct(whole_images(), 3)["tokens"])
