"""The toy scenes: frozen, deterministic, unbalanced, and hard by color alone."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression

from uss_bench.contracts import IGNORE
from uss_bench.errors import UsageError
from uss_bench.plugins.registry import Registry

FROZEN = {
    ("train", 0): ("15714dfb6fcfa330", "5703ceaeaba8efea"),
    ("train", 7): ("7553a4b422f3313d", "0b9dae5dd5376e3e"),
    ("train", 35): ("535b46cfc9469081", "ec2d8984e8b68602"),
    ("test", 0): ("243ea45f00859d95", "6e03b82cfd4b10a4"),
    ("heldout", 0): ("d7b63c4029cf0a54", "6a5eab7159f3b76f"),
}
"""First digits of the sha256 of images and labels: published figures are about exactly these scenes."""


def load(**options: Any) -> Any:
    spec, plugin = Registry().dataset("toy3")
    return plugin.load()(spec, **options)


@pytest.fixture(scope="module")
def toy3() -> Any:
    return load()


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(("scene", "expected"), FROZEN.items())
def test_the_generator_is_frozen(toy3: Any, scene: tuple[str, int], expected: tuple[str, str]) -> None:
    split, index = scene
    found = digest(toy3.images(split).image(index)), digest(toy3.labels(split).label(index))
    assert found == expected


def test_shapes_types_and_order(toy3: Any) -> None:
    assert [row.name for row in toy3.classes] == [
        "roads and cars",
        "buildings and clutter",
        "vegetation and trees",
    ]
    assert {split: len(toy3.images(split)) for split in toy3.splits} == {
        "train": 200,
        "test": 60,
        "heldout": 60,
    }
    images, labels = toy3.images("test"), toy3.labels("test")
    assert images.ids == labels.ids
    assert images.image(3).shape == (200, 200, 3)
    assert images.image(3).dtype == np.uint8
    assert labels.label(3).shape == (200, 200)
    assert labels.label(3).dtype == np.int16


def test_no_scene_is_in_two_splits(toy3: Any) -> None:
    scenes = [
        {digest(toy3.images(split).image(index)) for index in range(20)}
        for split in ("train", "test", "heldout")
    ]
    assert len(set.union(*scenes)) == 60


def test_a_reader_cannot_spoil_the_next_reader(toy3: Any) -> None:
    first = toy3.images("test").image(0)
    first[:] = 0
    assert toy3.images("test").image(0).any()


def test_the_seed_makes_another_world_with_another_name_and_fingerprint(toy3: Any) -> None:
    other = load(seed=1)
    assert other.name == "toy3-seed1"
    assert other.images("test").fingerprint() != toy3.images("test").fingerprint()
    assert load().images("test").fingerprint() == toy3.images("test").fingerprint()
    assert toy3.images("test").fingerprint() != toy3.images("train").fingerprint()
    assert toy3.images("test").fingerprint() != toy3.labels("test").fingerprint()


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True])
def test_a_wrong_seed_is_refused(seed: object) -> None:
    with pytest.raises(UsageError, match="seed"):
        load(seed=seed)


def test_an_unknown_split_is_refused_with_the_known_ones(toy3: Any) -> None:
    with pytest.raises(UsageError, match="heldout"):
        toy3.images("held-out")


def test_images_hold_no_label(toy3: Any) -> None:
    images = toy3.images("train")
    images.image(0)
    images.fingerprint()
    assert not [name for name in vars(images) if "label" in name]
    assert not any(isinstance(value, np.ndarray) for value in vars(images).values())


@pytest.fixture(scope="module")
def scenes(toy3: Any) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Forty scenes to learn from and forty to test on."""
    return {
        split: [(toy3.images(split).image(i), toy3.labels(split).label(i)) for i in range(40)]
        for split in ("train", "test")
    }


def test_classes_are_unbalanced_and_some_pixels_are_ignored(scenes: Any) -> None:
    labels = np.stack([label for rows in scenes.values() for _, label in rows])
    assert set(np.unique(labels)) == {IGNORE, 0, 1, 2}
    assert 0.01 < (labels == IGNORE).mean() < 0.08
    roads, buildings, vegetation = np.bincount(labels[labels >= 0]) / (labels >= 0).sum()
    assert 0.30 < roads < 0.40
    assert 0.17 < buildings < 0.27
    assert 0.37 < vegetation < 0.48


def color(image: np.ndarray) -> np.ndarray:
    return image.reshape(-1, 3) / 255


def structure(image: np.ndarray) -> np.ndarray:
    """Return color, contrast and edge strength around every pixel, at two scales."""
    gray = image.mean(2) / 255
    high_pass = (gray - uniform_filter(gray, 3)) ** 2
    rows, columns = np.gradient(gray)
    fields = []
    for size in (9, 25):
        fields += [uniform_filter(image[..., channel] / 255, size) for channel in range(3)]
        spread = uniform_filter(gray**2, size) - uniform_filter(gray, size) ** 2
        fields += [np.sqrt(np.maximum(spread, 0)), np.sqrt(np.maximum(uniform_filter(high_pass, size), 0))]
        fields += [np.sqrt(np.maximum(uniform_filter(rows**2 + columns**2, size), 0))]
    return np.stack(fields, -1).reshape(-1, len(fields))


def sample(rows: Any, describe: Any) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    xs, ys = [], []
    for image, label in rows:
        kept = rng.permutation(np.flatnonzero(label >= 0))[:500]
        xs.append(describe(image)[kept])
        ys.append(label.ravel()[kept])
    return np.concatenate(xs), np.concatenate(ys)


def test_color_alone_fails_and_structure_does_not(scenes: Any) -> None:
    x, _ = sample(scenes["train"], color)
    x_test, y_test = sample(scenes["test"], color)
    clusters = MiniBatchKMeans(3, n_init=3, random_state=0).fit(x).predict(x_test)
    counts = np.zeros((3, 3))
    np.add.at(counts, (clusters, y_test), 1)
    matched = counts[linear_sum_assignment(-counts)].sum() / counts.sum()
    assert matched < 0.55

    x, y = sample(scenes["train"], structure)
    x_test, y_test = sample(scenes["test"], structure)
    mean, spread = x.mean(0), x.std(0)
    model = LogisticRegression(max_iter=300).fit((x - mean) / spread, y)
    accuracy = model.score((x_test - mean) / spread, y_test)
    assert accuracy > 0.74
