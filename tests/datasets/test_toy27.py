"""The toy street scenes: frozen, deterministic, long-tailed, and hard by color alone."""

from __future__ import annotations

import hashlib
import importlib
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import MiniBatchKMeans
from sklearn.ensemble import ExtraTreesClassifier

from uss_bench.contracts import IGNORE
from uss_bench.errors import UsageError
from uss_bench.plugins.registry import Registry

FROZEN = {
    ("train", 0): ("35b4043397b0bf43", "d2aae217e0bea5bd"),
    ("train", 7): ("5277e5af1db5fc8c", "ed2f99b77b36ac94"),
    ("train", 55): ("02dfd2280593055f", "a7bd0b77321d29d6"),
    ("train", 141): ("8df14b9b1e6c90d6", "74d42b687edefa3a"),
    ("test", 0): ("966aeb0fdbe7ad18", "1f97e176e8790257"),
    ("heldout", 0): ("ca5074c9d786430f", "46b9bc380f9851a9"),
}
"""First digits of the sha256 of images and labels: published figures are about exactly these scenes."""
FROZEN_UNLABELED = "4f2d7b4ff1ebcac1"

CLASSES = 27
SCENES = {"train": 300, "test": 100, "heldout": 60}


def load(**options: Any) -> Any:
    spec, plugin = Registry().dataset("toy27")
    return plugin.load()(spec, **options)


def module(dataset: Any, name: str) -> Any:
    """Return a module of the plugin's own folder."""
    package = Registry().find("datasets", "toy27").load().__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.{name}")


@pytest.fixture(scope="module")
def toy27() -> Any:
    return load()


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(("scene", "expected"), FROZEN.items())
def test_the_generator_is_frozen(toy27: Any, scene: tuple[str, int], expected: tuple[str, str]) -> None:
    split, index = scene
    found = digest(toy27.images(split).image(index)), digest(toy27.labels(split).label(index))
    assert found == expected


def test_depth_is_exact_and_no_part_of_the_images(toy27: Any) -> None:
    images = toy27.images("train")
    for index in (0, 7, 55):
        depth, label = images.aux(index)["depth"], toy27.labels("train").label(index)
        assert (depth.dtype, depth.shape) == (np.float32, label.shape)
        assert depth.min() >= 1
        assert depth.max() == 250
        sky, road = (depth[label == value] for value in (16, 0))
        assert (sky == 250).all()
        # The road is a plane: its depth falls with the rows below the horizon, as 1 / (row - horizon).
        rows = np.nonzero((label == 0).sum(axis=1) > 20)[0]
        inverse = np.array([1 / np.median(depth[row][label[row] == 0]) for row in rows])
        seen = inverse > 1 / 60
        line = np.polynomial.Polynomial.fit(rows[seen], inverse[seen], 1)
        assert np.abs(line(rows[seen]) - inverse[seen]).max() < 0.02 * inverse[seen].max()
        assert np.median(road) < 60
    assert images.aux_fingerprint("depth") not in ("", images.fingerprint())
    assert images.aux_fingerprint("infrared") == ""
    images.aux(0)["depth"][:] = 0
    assert images.aux(0)["depth"].any()


def test_drawing_a_scene_again_gives_the_same_bytes(toy27: Any) -> None:
    render = module(toy27, "scenes").render
    first, second = render(0, 5), render(0, 5)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert np.array_equal(first[0], toy27.images("train").image(5))


def test_shapes_types_and_order(toy27: Any) -> None:
    assert len(toy27.classes) == CLASSES
    assert [toy27.classes[i].name for i in (0, 10, 11, 16, 26)] == [
        "road",
        "pole",
        "polegroup",
        "sky",
        "bicycle",
    ]
    assert len({row.color for row in toy27.classes}) == CLASSES
    assert {split: len(toy27.images(split)) for split in toy27.splits} == SCENES
    images, labels = toy27.images("test"), toy27.labels("test")
    assert images.ids == labels.ids
    assert images.image(3).shape == (192, 256, 3)
    assert images.image(3).dtype == np.uint8
    assert labels.label(3).shape == (192, 256)
    assert labels.label(3).dtype == np.int16


def test_the_class_numbers_are_those_of_the_spec(toy27: Any) -> None:
    palette = module(toy27, "palette")
    names = [row.name.upper().replace(" ", "_") for row in toy27.classes]
    assert [getattr(palette, name) for name in names] == list(range(CLASSES))


def test_no_scene_is_in_two_splits_or_among_the_unlabeled(toy27: Any) -> None:
    scenes = module(toy27, "scenes")
    drawn = [{digest(toy27.images(split).image(index)) for index in range(12)} for split in SCENES]
    drawn.append({digest(scenes.unlabeled_scene(index)) for index in range(12)})
    assert len(set.union(*drawn)) == 48
    ranges = sorted(module(toy27, "toy27").SPLITS.values())
    ends = [first + count for first, count in ranges]
    assert all(end <= first for end, (first, _) in zip(ends, ranges[1:], strict=False))
    assert ends[-1] <= scenes.UNLABELED


def test_unlabeled_scenes_are_frozen_and_counted_from_nought(toy27: Any) -> None:
    unlabeled_scene = module(toy27, "scenes").unlabeled_scene
    assert unlabeled_scene(3).shape == (192, 256, 3)
    assert digest(unlabeled_scene(0)) == FROZEN_UNLABELED
    assert not np.array_equal(unlabeled_scene(0), unlabeled_scene(0, seed=1))
    with pytest.raises(ValueError, match="-1"):
        unlabeled_scene(-1)


def test_a_reader_cannot_spoil_the_next_reader(toy27: Any) -> None:
    first = toy27.images("test").image(0)
    first[:] = 0
    assert toy27.images("test").image(0).any()


def test_the_seed_makes_another_world_with_another_name_and_fingerprint(toy27: Any) -> None:
    other = load(seed=1)
    assert other.name == "toy27-seed1"
    assert other.images("test").fingerprint() != toy27.images("test").fingerprint()
    assert load().images("test").fingerprint() == toy27.images("test").fingerprint()
    assert toy27.images("test").fingerprint() != toy27.images("train").fingerprint()
    assert toy27.images("test").fingerprint() != toy27.labels("test").fingerprint()


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True])
def test_a_wrong_seed_is_refused(seed: object) -> None:
    with pytest.raises(UsageError, match="seed"):
        load(seed=seed)


def test_an_unknown_split_is_refused_with_the_known_ones(toy27: Any) -> None:
    with pytest.raises(UsageError, match="heldout"):
        toy27.images("held-out")


def test_images_hold_no_label(toy27: Any) -> None:
    images = toy27.images("train")
    images.image(0)
    images.fingerprint()
    assert not [name for name in vars(images) if "label" in name]
    assert not any(isinstance(value, np.ndarray) for value in vars(images).values())


@pytest.fixture(scope="module")
def counts(toy27: Any) -> dict[str, np.ndarray]:
    """Pixels per scene and class; the first column counts the ignored ones."""
    labels = {split: toy27.labels(split) for split in ("train", "test")}
    return {
        split: np.stack(
            [np.bincount(rows.label(i).ravel() - IGNORE, minlength=CLASSES + 1) for i in range(100)]
        )
        for split, rows in labels.items()
    }


def test_every_class_is_in_train_and_in_test(counts: dict[str, np.ndarray]) -> None:
    for rows in counts.values():
        assert ((rows[:, 1:] > 0).sum(0) >= 3).all()


def test_the_tail_is_long(toy27: Any, counts: dict[str, np.ndarray]) -> None:
    pixels = sum(counts.values())[:, 1:]
    shares = dict(zip([row.name for row in toy27.classes], pixels.sum(0) / pixels.sum(), strict=True))
    ranked = sorted(shares.values(), reverse=True)
    assert next(iter(shares)) == "road"
    assert 0.25 < shares["road"] < 0.36
    assert sum(ranked[:5]) > 0.75
    assert ranked[0] / ranked[-1] > 100
    assert sum(share < 0.01 for share in ranked) >= 12


def test_many_classes_are_absent_from_most_images(counts: dict[str, np.ndarray]) -> None:
    present = (np.concatenate(list(counts.values()))[:, 1:] > 0).mean(0)
    assert (present < 0.5).sum() >= 14
    assert (present < 0.15).sum() >= 5


def test_a_few_pixels_are_ignored(counts: dict[str, np.ndarray]) -> None:
    for rows in counts.values():
        assert 0.03 < rows[:, 0].sum() / rows.sum() < 0.06


def color(image: np.ndarray) -> np.ndarray:
    return image.reshape(-1, 3) / 255


def structure(image: np.ndarray) -> np.ndarray:
    """Return color, contrast and edges around every pixel, and where it lies."""
    gray = image.mean(2) / 255
    edges = [gradient**2 for gradient in np.gradient(gray)]
    fields = [image[..., channel] / 255 for channel in range(3)]
    for size in (7, 21):
        fields += [uniform_filter(image[..., channel] / 255, size) for channel in range(3)]
        spread = uniform_filter(gray**2, size) - uniform_filter(gray, size) ** 2
        fields += [np.sqrt(np.maximum(spread, 0))]
        fields += [np.sqrt(np.maximum(uniform_filter(edge, size), 0)) for edge in edges]
    rows, columns = np.indices(gray.shape)
    fields += [rows / gray.shape[0], abs(columns / gray.shape[1] - 0.5)]
    return np.stack(fields, -1).reshape(-1, len(fields))


def sample(dataset: Any, split: str, describe: Any) -> tuple[np.ndarray, np.ndarray]:
    """Describe 300 labeled pixels of each of the first 60 scenes."""
    rng = np.random.default_rng(0)
    xs, ys = [], []
    for index in range(60):
        image, label = dataset.images(split).image(index), dataset.labels(split).label(index)
        kept = rng.permutation(np.flatnonzero(label >= 0))[:300]
        xs.append(describe(image)[kept])
        ys.append(label.ravel()[kept])
    return np.concatenate(xs), np.concatenate(ys)


def test_color_alone_fails_and_structure_does_not(toy27: Any) -> None:
    x, _ = sample(toy27, "train", color)
    x_test, y_test = sample(toy27, "test", color)
    clusters = MiniBatchKMeans(CLASSES, n_init=3, random_state=0).fit(x).predict(x_test)
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (clusters, y_test), 1)
    matched = table[linear_sum_assignment(-table)].sum() / table.sum()
    assert matched < 0.22

    x, y = sample(toy27, "train", structure)
    x_test, y_test = sample(toy27, "test", structure)
    model = ExtraTreesClassifier(40, min_samples_leaf=2, random_state=0).fit(x, y)
    assert model.score(x_test, y_test) > 0.68
