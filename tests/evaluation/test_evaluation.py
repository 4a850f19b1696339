"""The evaluator against a literal reading of the protocol, one image and one pixel at a time."""

from __future__ import annotations

import collections
import gc
import math
import tracemalloc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from fakes import ArrayImages, ArrayLabels, FakeBackbone, FakePool
from literal import (
    CLASSES,
    CLUSTERS,
    PATCH,
    Live,
    Toy,
    literal_classify,
    literal_code,
    literal_counts,
    literal_logits,
)
from PIL import Image
from torch import Tensor

from uss_bench.data.geometry import TransformedImages, resize_center_crop
from uss_bench.errors import ContractError, DataError
from uss_bench.evaluation import evaluator as evaluation
from uss_bench.evaluation import upsampling
from uss_bench.evaluation.evaluator import Evaluation, Evaluator, panel_indices
from uss_bench.protocol import Protocol, get_protocol

SIDE = 16


def small(changes: str = "") -> Protocol:
    return get_protocol(f"stego320@2[eval_side={SIDE}{changes}]")


def blotches(count: int) -> ArrayImages:
    """Images of one random color per block, so that patches differ as those of pictures do."""
    colors = np.random.default_rng(0).integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    return ArrayImages([image.repeat(4, axis=0).repeat(4, axis=1)[:19, :26] for image in colors])


def random_labels(count: int, height: int, width: int) -> ArrayLabels:
    rng = np.random.default_rng(1)
    return ArrayLabels(list(rng.integers(-1, CLASSES, (count, height, width)).astype(np.int16)))


def make(count: int = 5, *, protocol: Protocol | None = None, **options) -> Evaluator:
    protocol = protocol or small()
    items = TransformedImages.for_evaluation(blotches(count), protocol)
    given = {
        "method_name": "toy",
        "inputs": ["tokens"],
        "items": items,
        "features": Live(items),
        "labels": random_labels(count, 19, 26),
        "n_classes": CLASSES,
        "protocol": protocol,
        "alpha": 2.0,
        "pool": FakePool(),
        "device": torch.device("cpu"),
        "batch_size": 2,
    }
    return Evaluator(**given | options)


# --- Pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", ["", ",flip=false", ",upsample=logits", ",flip=false,upsample=logits"])
@pytest.mark.parametrize("alpha", [2.0, 4.0])
def test_evaluation_is_the_protocol_read_literally(changes, alpha):
    protocol, method, pool = small(changes), Toy(), FakePool()
    evaluator = make(protocol=protocol, alpha=alpha, pool=pool)
    result = evaluator.evaluate(method)
    assert result.clusters == CLUSTERS
    assert len(np.unique(result.raw_maps)) > 2  # a constant map would prove little
    for index in range(5):
        image = evaluator.items[index]
        logits = alpha * literal_logits(method, image, protocol, (SIDE, SIDE))
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=0))
        np.testing.assert_array_equal(pool.seen[index][0], image)
        assert pool.seen[index][1].dtype == np.float32
        np.testing.assert_allclose(pool.seen[index][1], log_probabilities, atol=1e-4)

        label = resize_center_crop(evaluator.labels.label(index), SIDE, "nearest")
        raw = logits.argmax(axis=0)
        refined = (raw + 1) % CLUSTERS  # the fake CRF
        np.testing.assert_array_equal(result.raw[index], literal_counts(raw, label))
        np.testing.assert_array_equal(result.crf[index], literal_counts(refined, label))
        np.testing.assert_array_equal(result.raw_maps[evaluator.kept.index(index)], raw)
        np.testing.assert_array_equal(result.crf_maps[evaluator.kept.index(index)], refined)


def by_pillow(array: np.ndarray, size: tuple[int, int], filter: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize(size[::-1], filter))


def centered(array: np.ndarray, side: int, filter: Image.Resampling) -> np.ndarray:
    """The short side, here the height, at `side`, and the central square."""
    wide = by_pillow(array, (side, int(side * array.shape[1] / array.shape[0])), filter)
    left = round((wide.shape[1] - side) / 2)
    return wide[:, left : left + side]


@pytest.mark.parametrize("upsample", ["code", "logits"])
@pytest.mark.parametrize(
    ("changes", "seen", "scored"),
    [
        (",score_side=24", 16, 24),
        (",score_side=10", 16, 10),
        (",extent=squash", (16, 16), (16, 16)),
        (",extent=squash,eval_width=24", (16, 24), (16, 24)),
        (",extent=squash,eval_width=24,score_side=20", (16, 24), (20, 20)),
    ],
)
def test_squashing_and_the_size_of_scoring_are_read_literally(changes, seen, scored, upsample):
    protocol, method, pool = small(f"{changes},resize=bilinear,upsample={upsample}"), Toy(), FakePool()
    evaluator = make(protocol=protocol, pool=pool)
    result = evaluator.evaluate(method)
    fit = centered if isinstance(seen, int) else by_pillow
    size = (scored, scored) if isinstance(scored, int) else scored
    for index in range(5):
        native = evaluator.items.images.image(index)
        image = fit(native, seen, Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(evaluator.items[index], image)
        logits = 2 * literal_logits(method, image, protocol, size)
        refined_over, log_probabilities = pool.seen[index]
        np.testing.assert_array_equal(refined_over, fit(native, scored, Image.Resampling.BILINEAR))
        expected = logits - np.log(np.exp(logits).sum(axis=0))
        np.testing.assert_allclose(log_probabilities, expected, atol=1e-4)
        label = fit(evaluator.labels.label(index), scored, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(result.raw[index], literal_counts(logits.argmax(axis=0), label))
    assert result.raw_maps.shape[1:] == result.crf_maps.shape[1:] == size
    (patches,) = evaluator.patch_counts([method])
    assert patches.sum() == result.raw.sum()


def test_without_a_crf_the_same_is_predicted_and_nothing_refined():
    refined, plain = make().evaluate(Toy()), make(protocol=small(",crf=none"), pool=None).evaluate(Toy())
    np.testing.assert_array_equal(plain.raw, refined.raw)
    np.testing.assert_array_equal(plain.raw_maps, refined.raw_maps)
    assert (plain.crf, plain.crf_maps) == (None, None)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_batch_size_changes_nothing(batch_size):
    expected, result = make().evaluate(Toy()), make(batch_size=batch_size).evaluate(Toy())
    for field in ("raw", "crf", "raw_maps", "crf_maps"):
        np.testing.assert_array_equal(getattr(result, field), getattr(expected, field))


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_classifying_in_bands_of_rows_changes_nothing(monkeypatch, rows):
    whole, pool = Toy(), FakePool()
    expected = make(pool=pool).evaluate(whole)
    assert set(whole.classified) == {(1, 4, SIDE, SIDE)}

    monkeypatch.setattr(upsampling, "_TILE_VALUES", rows * 4 * SIDE)
    banded, banded_pool = Toy(), FakePool()
    result = make(pool=banded_pool).evaluate(banded)
    assert max(shape[2] for shape in banded.classified) == rows
    assert len(banded.classified) == 5 * math.ceil(SIDE / rows)
    np.testing.assert_array_equal(result.raw, expected.raw)
    for one, other in zip(pool.seen, banded_pool.seen, strict=True):
        np.testing.assert_allclose(one[1], other[1], atol=1e-6)


def test_images_and_extra_channels_reach_the_method_under_the_items_geometry():
    images = blotches(2)
    images.extra = [{"infrared": image[..., 0], "depth": image[..., :2]} for image in images.arrays]
    items = TransformedImages.for_evaluation(images, small())
    seen = []

    class Reader(Toy):
        def embed(self, batch):
            seen.append(batch)
            return torch.ones(len(batch["image"]), 4, 4, 4)

    inputs = ["image", "aux:infrared", "aux:depth"]
    make(2, items=items, features=None, inputs=inputs).evaluate(Reader())
    for batch, first in zip(seen, (0, 2), strict=True):  # the images, then their mirror images
        assert set(batch) == set(inputs)
        for row in range(2):
            item = items[first + row]
            np.testing.assert_allclose(batch["image"][row], item.transpose(2, 0, 1) / 255, rtol=1e-6)
            np.testing.assert_array_equal(batch["aux:infrared"][row], item[None, ..., 0])
            np.testing.assert_array_equal(batch["aux:depth"][row], item[..., :2].transpose(2, 0, 1))
    with pytest.raises(DataError, match=r"no extra channel 'lidar' \(they have: depth, infrared\)"):
        make(2, items=items, inputs=["aux:lidar"]).evaluate(Reader())


def test_without_labels_there_are_maps_and_no_counts():
    labeled, unlabeled = make().evaluate(Toy()), make(labels=None, n_classes=0).evaluate(Toy())
    assert unlabeled.raw.shape == unlabeled.crf.shape == (5, CLUSTERS, 0)
    np.testing.assert_array_equal(unlabeled.raw_maps, labeled.raw_maps)


# --- Candidates ----------------------------------------------------------------------------------


def test_candidates_are_counted_unflipped_with_every_pixel_in_the_cluster_of_its_patch():
    evaluator, methods = make(), [Toy(0), Toy(1)]
    totals = [np.zeros((CLUSTERS, CLASSES), dtype=np.int64) for _ in methods]
    for index in range(5):
        label = resize_center_crop(evaluator.labels.label(index), SIDE, "nearest")
        for method, total in zip(methods, totals, strict=True):
            code = literal_code(method, evaluator.items[index])
            patches = literal_classify(method, code).argmax(axis=0)
            total += literal_counts(np.kron(patches, np.ones((PATCH, PATCH), dtype=int)), label)
    assert all((total.sum(axis=1) > 0).sum() > 2 for total in totals)
    for result, total in zip(evaluator.patch_counts(methods), totals, strict=True):
        np.testing.assert_array_equal(result, total)


# --- Memory --------------------------------------------------------------------------------------


class Census:
    """Counts how many of the arrays it was shown are alive, and remembers the most at once."""

    def __init__(self) -> None:
        self.alive = self.most = 0

    def show(self, array: object) -> None:
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(array, self.forget)

    def forget(self) -> None:
        self.alive -= 1


def peak(images: int) -> tuple[int, int, Evaluation]:
    """Return the peak of traced bytes, the most arrays alive at once, and the evaluation."""
    census = Census()

    class Counted(Toy):
        def classify(self, code):
            logits = super().classify(code)
            self.classified.clear()
            census.show(code)
            census.show(logits)
            return logits

    class Forgetful(FakePool):
        def labels(self, items, names=()):
            for image, log_probabilities in items:
                census.show(image)
                census.show(log_probabilities)
                yield log_probabilities.argmax(axis=0)

    protocol = get_protocol("stego320@2[eval_side=64]")
    evaluator = make(images, protocol=protocol, pool=Forgetful())
    gc.collect()
    tracemalloc.start()
    try:
        result = evaluator.evaluate(Counted())
        return tracemalloc.get_traced_memory()[1], census.most, result
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_images():
    few_bytes, few_arrays, few = peak(64)
    many_bytes, many_arrays, many = peak(256)
    one_map = few.raw_maps[0].nbytes
    assert len(few.raw_maps) == len(many.raw_maps) == evaluation.PANEL_IMAGES
    assert many_arrays == few_arrays <= 10
    assert many_bytes - few_bytes < (256 - 64) * one_map / 2  # the counts, and not even a label map


class DecodedImages(ArrayImages):
    """Images that are made anew whenever they are asked for, and counted."""

    def __init__(self, count: int) -> None:
        super().__init__(blotches(count).arrays)
        self.census = Census()
        self.read: collections.Counter[int] = collections.Counter()

    def image(self, index: int) -> np.ndarray:
        self.read[index] += 1
        image = self.arrays[index].copy()
        self.census.show(image)
        return image


class ReadsImages(Toy):
    """Sees the images themselves, as an end-to-end method does."""

    def embed(self, batch):
        return super().embed(FakeBackbone()(batch["image"], ["tokens"]))


@pytest.mark.parametrize("flip", ["true", "false"])
@pytest.mark.parametrize("inputs", [["tokens"], ["image"]])
def test_an_image_is_decoded_once_whoever_reads_it(inputs, flip):
    protocol = small(f",flip={flip}")
    images = DecodedImages(7)
    items = TransformedImages.for_evaluation(images, protocol)
    method = ReadsImages() if inputs == ["image"] else Toy()
    features = None if inputs == ["image"] else Live(TransformedImages.for_evaluation(blotches(7), protocol))
    options = {"protocol": protocol, "inputs": inputs, "items": items, "features": features}
    result = make(7, **options).evaluate(method)
    assert images.read == dict.fromkeys(range(7), 1)
    expected = make(7, protocol=protocol).evaluate(Toy())
    np.testing.assert_array_equal(result.raw, expected.raw)
    np.testing.assert_array_equal(result.raw_maps, expected.raw_maps)

    images.read.clear()
    make(7, **options).patch_counts([method, method])
    # What is scored is patches: only a method that reads images needs them.
    assert images.read == (dict.fromkeys(range(7), 1) if inputs == ["image"] else {})


def test_the_images_in_flight_are_as_many_whatever_their_number():
    def most_at_once(count: int) -> int:
        images = DecodedImages(count)
        make(count, items=TransformedImages.for_evaluation(images, small()), inputs=["image"]).evaluate(
            ReadsImages()
        )
        assert images.census.alive == 0
        return images.census.most

    # A batch of two at work, two read ahead, and up to two being read or handed over.
    assert 2 <= most_at_once(64) <= 6
    assert 2 <= most_at_once(12) <= 6


# --- Contract ------------------------------------------------------------------------------------


def raising(*arguments) -> Tensor:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("step", "wrong", "message"),
    [
        ("embed", lambda x: x["tokens"][0], r"embedded 2 images as 9×4×4 float32"),
        ("embed", lambda x: x["tokens"][:1], r"embedded 2 images as 1×9×4×4 float32"),
        ("embed", lambda x: x["tokens"].long(), r"int64; a code is float \(B, d, h, w\)"),
        ("embed", raising, "failed in embed: ZeroDivisionError: division by zero"),
        ("embed", lambda x: x["keys"], "failed in embed: KeyError: 'keys'"),
        ("classify", lambda code: code[..., :1], r"classified a code of 1×4×16×16 float32 as 1×4×16×1"),
        ("classify", lambda code: code[0, 0], "classif"),
        ("classify", lambda code: code / 0, "NaN or infinite"),
        ("classify", raising, "failed in classify: ZeroDivisionError"),
    ],
)
def test_a_broken_contract_is_told_by_method_and_step(step: str, wrong: Callable, message: str):
    method = Toy()
    setattr(method, step, wrong)
    with pytest.raises(ContractError, match=f"Method 'toy' .*{message}"):
        make().evaluate(method)
    if step == "embed":
        with pytest.raises(ContractError, match=f"Method 'toy' .*{message}"):
            make().patch_counts([method])


# --- Panels --------------------------------------------------------------------------------------


class Named(ArrayImages):
    def __init__(self, count: int, fingerprint: str) -> None:
        super().__init__([np.zeros((8, 8, 3), np.uint8)] * count)
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        return self._fingerprint


def chosen(count: int, fingerprint: str, **options) -> list[int]:
    return panel_indices(
        TransformedImages(Named(count, fingerprint), **{"side": 8, "filter": "nearest", **options})
    )


def test_panels_show_the_same_images_for_every_method_and_protocol():
    kept = chosen(100, "split")
    assert len(set(kept)) == evaluation.PANEL_IMAGES
    assert kept == sorted(kept)
    assert kept == chosen(100, "split", side=16, flips=True, filter="bilinear")
    assert kept != chosen(100, "another split")


def test_a_small_split_is_kept_whole():
    assert chosen(7, "split") == list(range(7))


@pytest.mark.parametrize(("clusters", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_maps_are_as_narrow_as_the_clusters_allow(clusters, dtype):
    class Wide(Toy):
        def classify(self, code):
            ramp = torch.zeros(1, clusters, *code.shape[2:])
            ramp[:, -1] = 1
            return ramp

    result = make().evaluate(Wide())
    assert result.raw_maps.dtype == result.crf_maps.dtype == dtype
    assert (result.raw_maps == clusters - 1).all()
