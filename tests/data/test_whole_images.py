"""Whole images at native resolution: against the literal reading, and in all that reads or writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import ArrayImages, ArrayLabels, FakeBackbone, FakePool
from hypothesis import given, settings
from hypothesis import strategies as st
from literal import CLASSES, CLUSTERS, PATCH, Live, Toy, literal_bilinear, literal_counts, literal_logits
from PIL import Image

from uss_bench.crf import CrfParams, refine
from uss_bench.data.geometry import TransformedImages, working_size
from uss_bench.errors import DataError
from uss_bench.evaluation import upsampling
from uss_bench.evaluation.evaluator import Evaluator
from uss_bench.evaluation.external import ExternalPredictions
from uss_bench.evaluation.predictor import Predictor
from uss_bench.evaluation.upsampling import bilinear_rows, native_logits, pixel_logits
from uss_bench.features.encoder import Encoder
from uss_bench.features.store import FeatureStore
from uss_bench.plugins.registry import Registry
from uss_bench.protocol import Protocol, get_protocol
from uss_bench.results.arrays import stack_maps
from uss_bench.results.collection import TableKey
from uss_bench.results.files import read_arrays, read_record

CPU = torch.device("cpu")
SIZES = [(19, 26), (37, 16), (16, 16), (19, 26), (50, 41)]


def full(changes: str = "") -> Protocol:
    return get_protocol(f"full@2[eval_side=16{changes}]")


@pytest.fixture
def images() -> ArrayImages:
    """Images of one random color per block, of several sizes."""
    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, 256, (-(-h // 5), -(-w // 5), 3), dtype=np.uint8) for h, w in SIZES]
    whole = [block.repeat(5, axis=0).repeat(5, axis=1) for block in blocks]
    return ArrayImages([image[:h, :w] for image, (h, w) in zip(whole, SIZES, strict=True)])


@pytest.fixture
def labels() -> ArrayLabels:
    rng = np.random.default_rng(1)
    return ArrayLabels([rng.integers(-1, CLASSES, size).astype(np.int16) for size in SIZES])


def evaluator(images: ArrayImages, labels: ArrayLabels, protocol: Protocol, **options) -> Evaluator:
    items = TransformedImages.for_evaluation(images, protocol, patch=PATCH)
    given = {
        "method_name": "toy",
        "inputs": ["tokens"],
        "items": items,
        "features": Live(items),
        "labels": labels,
        "n_classes": CLASSES,
        "protocol": protocol,
        "alpha": 2.0,
        "pool": FakePool(),
        "device": CPU,
    }
    return Evaluator(**given | options)


# --- Sizes ---------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    side=st.integers(8, 600),
    patch=st.integers(1, 32),
)
def test_a_working_size_is_the_nearest_that_the_patch_divides(height, width, side, patch):
    exact = np.array([height, width]) * side / min(height, width)
    work = np.array(working_size(height, width, side, patch))
    assert (work % patch == 0).all()
    assert (work >= patch).all()
    assert ((np.abs(work - exact) <= patch / 2 + 1e-9) | (work == patch)).all()


def test_published_sizes():
    assert working_size(1024, 2048, 320, 8) == (320, 640)
    assert working_size(480, 640, 320, 8) == (320, 424)  # 426.7 is nearer to 424 than to 432
    assert working_size(480, 640, 320, 14) == (322, 420)
    assert working_size(200, 200, 320, 8) == (320, 320)


def test_items_are_resized_antialiased_and_mirrored_afterwards(images):
    items = TransformedImages.for_evaluation(images, full(), patch=PATCH)
    assert len(items) == 10
    for index, array in enumerate(images.arrays):
        height, width = working_size(*array.shape[:2], 16, PATCH)
        expected = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(items[index], expected)
        np.testing.assert_array_equal(items[5 + index], expected[:, ::-1])
        np.testing.assert_array_equal(items.scored(index), array)


def test_the_patch_is_part_of_the_identity_of_whole_images_only(images):
    def identity(protocol, patch):
        return TransformedImages.for_evaluation(images, protocol, patch=patch).identity()

    assert identity(full(), 4) != identity(full(), 8)
    square = full(",extent=square")
    assert identity(square, 4) == identity(square, 8)
    assert "whole" not in identity(square, 4), "features that were stored before are found again"


def test_an_image_smaller_than_a_patch_is_named(images):
    images.arrays[3] = images.arrays[3][:3]
    for protocol in (full(), full(",extent=square")):
        items = TransformedImages.for_evaluation(images, protocol, patch=PATCH)
        with pytest.raises(DataError, match=r"'image-3' is 26×3 pixels .* patch of the backbone 4×4"):
            items[3]


# --- Upsampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(5, 7), (1, 3), (6, 1), (9, 12)])
@pytest.mark.parametrize("size", [(23, 17), (9, 12), (64, 31), (4, 5)])
def test_rows_are_bilinear_between_the_centers_of_cells(grid, size):
    values = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(0))
    whole = bilinear_rows(values, size, range(size[0]))
    for one, item in zip(whole, values, strict=True):
        np.testing.assert_allclose(one, literal_bilinear(item.double().numpy(), size), atol=2e-6)
    # torch computes coordinates in float32, which costs it a few bits more
    torch.testing.assert_close(whole, F.interpolate(values, size=size, mode="bilinear"), rtol=0, atol=2e-5)


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 40), band=st.integers(1, 61), seed=st.integers(0, 9))
def test_bands_of_rows_are_those_of_the_whole_to_the_last_bit(height, width, band, seed):
    values = torch.randn(1, 4, 6, 9, generator=torch.Generator().manual_seed(seed))
    whole = bilinear_rows(values, (height, width), range(height))
    starts = range(0, height, band)
    bands = [bilinear_rows(values, (height, width), range(i, min(height, i + band))) for i in starts]
    assert torch.equal(torch.cat(bands, dim=2), whole)


@pytest.mark.parametrize("upsample", ["code", "logits"])
def test_native_logits_are_pixel_logits_in_bounded_memory(monkeypatch, upsample):
    code = torch.randn(1, 4, 6, 9, generator=torch.Generator().manual_seed(0))
    expected = pixel_logits(Toy(), code, (50, 41), upsample)
    monkeypatch.setattr(upsampling, "_BAND_VALUES", 4 * 41 * 7)
    method = Toy()
    torch.testing.assert_close(native_logits(method, code, (50, 41), upsample), expected)
    if upsample == "code":
        assert max(shape[2] for shape in method.classified) == 7
        assert sum(shape[2] for shape in method.classified) == 50


# --- Evaluation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", ["", ",flip=false", ",upsample=logits"])
def test_full_is_the_protocol_read_literally(monkeypatch, images, labels, changes):
    monkeypatch.setattr(upsampling, "_BAND_VALUES", 4 * 26 * 3)  # several bands for every image
    protocol, method, pool = full(changes), Toy(), FakePool()
    subject = evaluator(images, labels, protocol, pool=pool)
    result = subject.evaluate(method)
    for index, size in enumerate(SIZES):
        logits = 2 * literal_logits(method, subject.items[index], protocol, size)
        np.testing.assert_array_equal(pool.seen[index][0], images.arrays[index])
        np.testing.assert_allclose(
            pool.seen[index][1], logits - np.log(np.exp(logits).sum(axis=0)), atol=1e-4
        )
        raw = logits.argmax(axis=0)
        np.testing.assert_array_equal(result.raw[index], literal_counts(raw, labels.arrays[index]))
        np.testing.assert_array_equal(result.raw_maps[index], raw)
        np.testing.assert_array_equal(result.crf_maps[index], (raw + 1) % CLUSTERS)
        assert result.raw[index].sum() == (labels.arrays[index] >= 0).sum(), "every labeled pixel counts"


def test_candidates_count_every_pixel_of_every_image(images, labels):
    subject = evaluator(images, labels, full())
    (counts,) = subject.patch_counts([Toy()])
    assert counts.sum() == sum((label >= 0).sum() for label in labels.arrays)


def test_features_of_whole_images_are_streamed_one_by_one(images, tmp_path):
    items = TransformedImages.for_evaluation(images, full(), patch=PATCH)
    store = FeatureStore(tmp_path, FakeBackbone(), device=CPU)
    features = store.open(items, ["tokens"])
    assert not features.stored
    assert not list(tmp_path.rglob("*.npy"))
    for index in range(len(items)):
        shape = features.batch([index])["tokens"].shape
        assert shape == (1, 9, items[index].shape[0] // PATCH, items[index].shape[1] // PATCH)
    values = np.concatenate(
        [features[index]["tokens"].flatten(1).numpy() for index in range(len(items))], axis=1
    ).astype(np.float64)
    mean, deviation = features.moments("tokens")
    np.testing.assert_allclose(mean, values.mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(deviation, values.std(axis=1), atol=1e-3)


def test_predict_gives_the_maps_that_the_evaluation_counts(images, labels):
    protocol = full()
    evaluated = evaluator(images, labels, protocol).evaluate(Toy())
    spec, _ = Registry().method("dino")
    predictor = Predictor(Toy(), spec, Encoder(FakeBackbone(), CPU), protocol, 2.0)
    for pool, maps in ((None, evaluated.raw_maps), (FakePool(), evaluated.crf_maps)):
        for (name, predicted), expected in zip(predictor.label_maps(images, pool), maps, strict=True):
            assert name in images.ids
            np.testing.assert_array_equal(predicted, expected)


# --- CRF -----------------------------------------------------------------------------------------


def test_the_crf_scales_its_positions_with_the_image():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    logits = rng.normal(size=(3, 24, 40)).astype(np.float32)
    params = CrfParams(reference_side=12)
    by_hand = CrfParams(gaussian_sxy=2.0, bilateral_sxy=134.0)
    np.testing.assert_array_equal(refine(image, logits, params), refine(image, logits, by_hand))
    assert not np.array_equal(refine(image, logits, params), refine(image, logits, CrfParams()))


# --- Files ---------------------------------------------------------------------------------------


def test_maps_of_several_sizes_are_piled():
    same = [np.zeros((2, 3), np.uint8)] * 4
    assert stack_maps(same).shape == (4, 2, 3)
    several = [np.zeros((2, 3), np.uint8), np.ones((3, 2), np.uint8)]
    piled = stack_maps(several)
    assert (piled.shape, piled.dtype) == ((2,), object)
    for one, other in zip(piled, several, strict=True):
        np.testing.assert_array_equal(one, other)


def write_photos(root: Path) -> list[Path]:
    """Write five labeled scenes of several sizes as a `folder` dataset; return its options."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for index, (height, width) in enumerate([(40, 90), (70, 30), (33, 33), (70, 30), (48, 64)]):
        label = (np.arange(width) < width // 2).astype(np.uint8)[None].repeat(height, axis=0)
        noise = rng.integers(0, 30, (height, width, 3)) + 200 * label[..., None]
        Image.fromarray(noise.astype(np.uint8)).save(root / "images" / f"{index}.png")
        Image.fromarray(label).save(root / "labels" / f"{index}.png")
    classes = [
        f'[[classes]]\nname = "{name}"\ncolor = [{gray}, 0, 0]\n' for name, gray in (("a", 9), ("b", 99))
    ]
    (root / "classes.toml").write_text('name = "photos"\n' + "".join(classes))
    return ["--dataset", "folder", "--root", root, "--classes", root / "classes.toml"]


def test_run_show_predict_and_eval_of_images_of_several_sizes(command, tmp_path):
    photos = write_photos(tmp_path / "photos")
    common = ["--protocol", "full@2[eval_side=32]", "--out", tmp_path / "out", "--quiet"]
    run = [
        "run",
        "--method",
        "dino",
        *photos,
        "--backbone",
        "patchstats",
        "--set",
        "steps=20",
        "--training",
        "side=32",
        "--workers",
        1,
    ]
    said = command(*run, *common)
    assert said.code == 0, said.err
    (path,) = (tmp_path / "out").rglob("*.json")
    record = read_record(path)
    arrays = read_arrays(path, record)
    assert record.last.raw.pixels == 40 * 90 + 2 * 70 * 30 + 33 * 33 + 48 * 64
    assert [one.shape for one in arrays.maps["last", "crf"]] == [
        (40, 90),
        (70, 30),
        (33, 33),
        (70, 30),
        (48, 64),
    ]
    assert path.with_suffix(".png").stat().st_size > 1000

    maps = tmp_path / "maps"
    pictures = tmp_path / "photos" / "images"
    predict = ["predict", "--record", path, "--images", pictures, "--out", maps, "--workers", 1, "--quiet"]
    said = command(*predict)
    assert said.code == 0, said.err
    for name, kept in zip(arrays.map_ids, arrays.maps["last", "crf"], strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(maps / f"{name}.png")), kept)
    assert json.loads((maps / "legend.json").read_text())["0"]["class"] in ("a", "b")

    said = command("eval", maps, *photos, "--name", "again", *common)
    assert said.code == 0, said.err
    (again,) = (tmp_path / "out").rglob("again-*.json")
    assert read_record(again).last.raw == record.last.crf
    assert TableKey.of(read_record(again).cell) == TableKey.of(record.cell)


def test_maps_for_whole_images_must_have_their_size(images, labels, tmp_path):
    for name, size in zip(images.ids, SIZES, strict=True):
        np.save(tmp_path / f"{name}.npy", np.zeros(size, int))
    np.save(tmp_path / "image-1.npy", np.zeros((16, 16), int))
    maps = ExternalPredictions(tmp_path, images, labels, full())
    with pytest.raises(
        DataError, match=r"image-1.npy is 16×16; its image is 16×37, .* It must have that size"
    ):
        maps.evaluate(2, CLASSES)
