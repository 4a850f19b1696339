"""The lattice engine against pydensecrf: live where it is installed, and against stored results.

The stored results are pydensecrf's on generated inputs. To write them anew, with pydensecrf
installed::

    python tests/crf/test_crf_reference.py
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from uss_bench.crf import CrfParams, refine

GOLDEN = Path(__file__).parent / "crf_pydensecrf.npz"
CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid"
CAMVID_CLASSES = 11
VOID = 255

needs_pydensecrf = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None,
    reason="pydensecrf is not installed: pip install 'uss-bench[crf]'",
)
needs_camvid = pytest.mark.skipif(not CAMVID.is_dir(), reason="../shared/data/camvid is absent")


class Scene(NamedTuple):
    image: np.ndarray
    """uint8 (H, W, 3)"""
    log_probs: np.ndarray
    """float32 (K, H, W)"""
    truth: np.ndarray
    """int (H, W)"""


def weak_log_probs(truth: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Return twice the cosine similarities that a patch-wise method might give, float32 (K, H, W).

    Right on average, blurred over a patch or two, and noisy: what a CRF gets to work on in practice.
    """
    noise = np.random.default_rng(seed).standard_normal((classes, *truth.shape))
    one_hot = truth == np.arange(classes)[:, None, None]
    blurred = ndimage.gaussian_filter(one_hot + 5 * noise, sigma=(0, 5, 5))
    return (2 * np.clip(1.2 * blurred, -1, 1)).astype(np.float32)


def synthetic(classes: int, height: int, width: int, seed: int) -> Scene:
    """Return a generated scene: cells of one class and color each, a lighting gradient and texture."""
    rng = np.random.default_rng(seed)
    centers = rng.random((3 * classes, 2)) * (height, width)
    pixels = np.indices((height, width)).transpose(1, 2, 0)[:, :, None]
    cell = ((pixels - centers) ** 2).sum(axis=3).argmin(axis=2)
    truth = rng.integers(0, classes, len(centers))[cell]
    colors = rng.integers(40, 200, (len(centers), 3))[cell]
    texture = 8 * rng.standard_normal((height, width, 3)) + np.linspace(-30, 30, width)[:, None]
    image = np.clip(colors + texture, 0, 255).astype(np.uint8)
    return Scene(image, weak_log_probs(truth, classes, seed), truth)


def camvid(count: int, classes: int) -> list[Scene]:
    """Return 320 × 320 center crops of test images spread over the split."""
    files = sorted((CAMVID / "images" / "test").glob("*.jpg"))
    scenes = []
    for seed, file in enumerate(files[:: len(files) // count][:count]):
        box = (80, 20, 400, 340)
        image = np.asarray(Image.open(file).convert("RGB").crop(box))
        label = CAMVID / "labels" / "test" / f"{file.stem}.png"
        truth = np.asarray(Image.open(label).crop(box)).astype(int)
        scenes.append(Scene(image, weak_log_probs(truth, classes, seed), truth))
    return scenes


def miou(scenes: list[Scene], predictions: list[np.ndarray]) -> float:
    """Return the mean IoU in percent over the classes that occur."""
    classes = max(len(scene.log_probs) for scene in scenes)
    counts = np.zeros((classes, classes), int)
    for scene, predicted in zip(scenes, predictions, strict=True):
        valid = scene.truth != VOID
        np.add.at(counts, (scene.truth[valid], predicted[valid]), 1)
    hits = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return float(100 * (hits[union > 0] / union[union > 0]).mean())


def assert_equal_to_pydensecrf(scenes: list[Scene], params: CrfParams | None = None) -> None:
    """At least 99.9 % of the pixels have the same label, and the mIoU moves by 0.05 points at most."""
    params = params or CrfParams()
    ours, theirs = (
        [refine(scene.image, scene.log_probs, params, engine=engine).argmax(axis=0) for scene in scenes]
        for engine in ("lattice", "pydensecrf")
    )
    equal = np.concatenate([(a == b).ravel() for a, b in zip(ours, theirs, strict=True)])
    changed = [(a != scene.log_probs.argmax(axis=0)).mean() for a, scene in zip(ours, scenes, strict=True)]
    difference = miou(scenes, ours) - miou(scenes, theirs)
    # `pytest -s` shows the measured figures, which are better than what is asserted.
    print(
        f"\n{equal.mean():.4%} of {equal.size} pixels equal, mIoU {miou(scenes, ours):.3f}, "
        f"difference {difference:+.4f}; the CRF changed {np.mean(changed):.1%} of the labels"
    )
    assert np.mean(changed) > 0.01, "a CRF that changes nothing compares with everything"
    assert equal.mean() >= 0.999
    assert abs(difference) <= 0.05


@needs_pydensecrf
@pytest.mark.parametrize("classes", [2, 3, 11, 27])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (160, 160), (67, 101)])
def test_synthetic_scenes(classes: int, height: int, width: int) -> None:
    assert_equal_to_pydensecrf([synthetic(classes, height, width, seed) for seed in range(3)])


@needs_pydensecrf
def test_other_parameters() -> None:
    params = CrfParams(5, 3.0, 2.0, 40.0, 10.0, 7.0, 1e-3)
    assert_equal_to_pydensecrf([synthetic(5, 90, 120, seed) for seed in range(3)], params)


@needs_pydensecrf
def test_probabilities_agree_to_rounding() -> None:
    scene = synthetic(6, 64, 80, seed=0)  # a multiple of four pixels: pydensecrf pads others with black
    ours, theirs = (refine(scene.image, scene.log_probs, engine=e) for e in ("lattice", "pydensecrf"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.shared
@needs_camvid
@needs_pydensecrf
@pytest.mark.parametrize("classes", [CAMVID_CLASSES, 27])
def test_street_scenes(classes: int) -> None:
    assert_equal_to_pydensecrf(camvid(8, classes))


# --------------------------------------------------------------------------------------------------
# Stored results, for where there is no compiler to build pydensecrf with
# --------------------------------------------------------------------------------------------------

GOLDEN_SIZES = {"labels_3": (3, 120, 160), "labels_11": (11, 120, 160), "labels_27": (27, 160, 160)}
GOLDEN_SEED = 20110212


def golden_scene(name: str) -> Scene:
    return synthetic(*GOLDEN_SIZES.get(name, (4, 24, 32)), seed=GOLDEN_SEED)


@pytest.mark.parametrize("name", GOLDEN_SIZES)
def test_stored_labels(name: str) -> None:
    scene = golden_scene(name)
    with np.load(GOLDEN) as stored:
        expected = stored[name]
    actual = refine(scene.image, scene.log_probs).argmax(axis=0)
    assert (expected != scene.log_probs.argmax(axis=0)).mean() > 0.01
    assert (actual == expected).mean() >= 0.999


def test_stored_probabilities() -> None:
    scene = golden_scene("probabilities")
    with np.load(GOLDEN) as stored:
        expected = stored["probabilities"]
    np.testing.assert_allclose(refine(scene.image, scene.log_probs), expected, atol=1e-4)


def write_golden() -> None:
    stored = {}
    for name in (*GOLDEN_SIZES, "probabilities"):
        scene = golden_scene(name)
        q = refine(scene.image, scene.log_probs, engine="pydensecrf")
        stored[name] = q if name == "probabilities" else q.argmax(axis=0).astype(np.uint8)
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **stored)


if __name__ == "__main__":
    write_golden()
