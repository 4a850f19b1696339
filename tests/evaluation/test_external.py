"""Predictions made elsewhere: score arrays give what the evaluator gives, and what is wrong is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import ArrayImages, ArrayLabels, FakePool
from literal import CLASSES, CLUSTERS, Live, Toy

from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import DataError
from uss_bench.evaluation.evaluator import Evaluator
from uss_bench.evaluation.external import ExternalPredictions
from uss_bench.evaluation.predictor import logits_of
from uss_bench.protocol import Protocol, get_protocol

SIDE = 16


def small(changes: str = "") -> Protocol:
    return get_protocol(f"stego320@1[eval_side={SIDE},train_side={SIDE}{changes}]")


@pytest.fixture
def images() -> ArrayImages:
    colors = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    return ArrayImages([image.repeat(4, axis=0).repeat(4, axis=1)[:19, :26] for image in colors])


@pytest.fixture
def labels() -> ArrayLabels:
    rng = np.random.default_rng(1)
    return ArrayLabels(list(rng.integers(-1, CLASSES, (3, 19, 26)).astype(np.int16)))


@pytest.fixture
def items(images) -> TransformedImages:
    return TransformedImages.for_evaluation(images, small())


def write_scores(folder: Path, items: TransformedImages, *, softmax: bool = False) -> None:
    """Write the scores of `Toy` at the size of the protocol's square."""
    features = Live(items)
    for index in range(items.unflipped):
        batch, mirrored = (features.batch([one]) for one in (index, index + items.unflipped))
        (logits,) = logits_of(Toy(), batch, mirrored, [(SIDE, SIDE)], small())
        array = torch.softmax(2.0 * logits, dim=0) if softmax else logits
        np.save(folder / f"{items.images.ids[index]}.npy", array.numpy())


@pytest.mark.parametrize("softmax", [False, True])
def test_score_arrays_are_counted_and_refined_as_the_evaluator_does(tmp_path, images, labels, items, softmax):
    pool, ours = FakePool(), FakePool()
    evaluated = Evaluator(
        method_name="toy",
        inputs=["tokens"],
        items=items,
        features=Live(items),
        labels=labels,
        n_classes=CLASSES,
        protocol=small(),
        alpha=2.0,
        pool=pool,
        device=torch.device("cpu"),
    ).evaluate(Toy())
    write_scores(tmp_path, items, softmax=softmax)
    kind = "probabilities" if softmax else "logits"
    found = ExternalPredictions(tmp_path, images, labels, small(), scores=kind)
    counted = found.evaluate(None, CLASSES, ours)
    np.testing.assert_array_equal(counted["raw"].counts, evaluated.raw)
    np.testing.assert_array_equal(counted["crf"].counts, evaluated.crf)
    for (image, scores), (expected_image, expected) in zip(ours.seen, pool.seen, strict=True):
        np.testing.assert_array_equal(image, expected_image)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert [counted["crf"].maps[i].tolist() for i in range(3)] == evaluated.crf_maps.tolist()


def test_score_arrays_of_whole_images_go_through_the_geometry(tmp_path, images, labels):
    """The image's middle is 10.5 of 21 columns after the resize, and 8.5 of 16 after the crop."""
    for name in images.ids:
        ramp = np.linspace(-1, 1, 26, dtype=np.float32)[None].repeat(19, axis=0)
        np.save(tmp_path / f"{name}.npy", np.stack([-ramp, ramp]))
    found = ExternalPredictions(tmp_path, images, labels, small())
    counted = found.evaluate(None, CLASSES)
    assert set(counted) == {"raw"}, "without a pool nothing is refined"
    for prediction in counted["raw"].maps.values():
        assert prediction.shape == (SIDE, SIDE)
        assert (prediction == (np.arange(SIDE) >= 9)).all()


@pytest.mark.parametrize(
    ("array", "scores", "message"),
    [
        (np.full((2, SIDE, SIDE), np.nan, np.float32), "logits", "NaN or infinite"),
        (np.full((2, SIDE, SIDE), 0.5, np.float32), "logits", r"sum to 1.\n.*--scores probabilities"),
        (
            np.full((2, SIDE, SIDE), 0.4, np.float32),
            "probabilities",
            r"no probabilities.*\n.*--scores logits",
        ),
        (np.zeros((3, SIDE, SIDE), np.float32), "logits", "scores of 3 clusters, and 2 are expected"),
        (np.zeros((2, 7, 5), np.float32), "logits", "is 5×7; its image is 26×19"),
        (np.zeros((SIDE, SIDE), np.int64), "logits", "unlike the first"),
        (np.zeros((SIDE, SIDE), np.float32), "logits", "is no prediction: it holds float32"),
        (np.zeros((2, SIDE, SIDE), np.int64), "logits", "is no prediction: it holds int64"),
    ],
)
def test_wrong_score_arrays_are_refused_by_name(tmp_path, images, labels, array, scores, message):
    good = np.stack([np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), 3.0)]).astype(np.float32)
    if scores == "probabilities":
        good = np.full_like(good, 0.5)
    for name in images.ids:
        np.save(tmp_path / f"{name}.npy", good)
    np.save(tmp_path / f"{images.ids[1]}.npy", array)
    with pytest.raises(DataError, match=f"image-1.npy (.|\n)*{message}"):
        ExternalPredictions(tmp_path, images, labels, small(), scores=scores).evaluate(2, CLASSES, FakePool())


def test_maps_are_only_counted(tmp_path, images, labels):
    for name in images.ids:
        np.save(tmp_path / f"{name}.npy", np.zeros((SIDE, SIDE), np.int64))
    counted = ExternalPredictions(tmp_path, images, labels, small()).evaluate(CLUSTERS, CLASSES, FakePool())
    assert set(counted) == {"raw"}
    assert counted["raw"].counts[:, 1:].sum() == 0
