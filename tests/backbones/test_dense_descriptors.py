"""Backbones without weights to load: dense SIFT against OpenCV and by hand, and the random CNN."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from uss_bench.backbones.dense_sift.dense_sift import DenseSift
from uss_bench.backbones.random_cnn.random_cnn import RandomCNN
from uss_bench.contracts import Backbone
from uss_bench.errors import ContractError, UsageError
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import BackboneSpec


def spec(name: str, **fields) -> BackboneSpec:
    return BackboneSpec(name=name, title="", summary="", entry="a:b", **fields)


@pytest.fixture(scope="module")
def sift() -> DenseSift:
    return DenseSift(spec("dense_sift"))


def photograph(height: int, width: int) -> np.ndarray:
    """A gray image, uint8 (H, W), with structure at several scales and a flat corner."""
    rng = np.random.default_rng(3)
    image = np.zeros((height, width))
    for cell in (2, 4, 8, 16):
        coarse = rng.uniform(0, 64, (math.ceil(height / cell), math.ceil(width / cell)))
        image += np.kron(coarse, np.ones((cell, cell)))[:height, :width]
    image[-24:, -24:] = 100
    return image.astype(np.uint8)


def as_images(gray: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(gray).float().div(255).expand(1, 3, -1, -1)


# --- Dense SIFT ----------------------------------------------------------------------------------


def test_dense_sift_is_opencvs_up_to_its_rounding(sift):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is absent: pip install opencv-python-headless")
    gray = photograph(72, 96)
    # A cell is three times the scale, and OpenCV's size is twice the scale: cells of 4 pixels.
    keypoints = [
        cv2.KeyPoint(8.0 * column + 4, 8.0 * row + 4, 8 / 3, 0.0) for row in range(9) for column in range(12)
    ]
    kept, theirs = cv2.SIFT_create(sigma=4 / 3).compute(gray, keypoints)
    assert [point.pt for point in kept] == [point.pt for point in keypoints]
    tokens = sift(as_images(gray), ["tokens"])["tokens"]
    assert tokens.shape == (1, 128, 9, 12)
    ours = 512 * tokens[0].permute(1, 2, 0).reshape(-1, 128).numpy()
    # OpenCV rounds to whole numbers of 0 to 255; 0.05 of the 0.55 is for its approximate arctangent.
    assert np.abs(ours.clip(max=255) - theirs).max() < 0.55
    assert theirs.max() > 120


def lowe(gray: np.ndarray, row: int, column: int) -> np.ndarray:
    """The descriptor at one pixel, written pixel by pixel from Lowe's paper, section 6."""
    sigma = math.sqrt((4 / 3) ** 2 - 0.25)
    taps = np.exp(-((np.arange(-5, 6) / sigma) ** 2) / 2)
    taps /= taps.sum()
    smooth = np.pad(gray / 255, 5, mode="reflect")
    for axis in (0, 1):
        smooth = np.apply_along_axis(np.convolve, axis, smooth, taps, mode="valid")
    height, width = smooth.shape
    histogram = np.zeros((6, 6, 8))  # one cell more on each side, for what falls outside
    for y in range(max(1, row - 9), min(height - 1, row + 10)):
        for x in range(max(1, column - 9), min(width - 1, column + 10)):
            across, up = smooth[y, x + 1] - smooth[y, x - 1], smooth[y - 1, x] - smooth[y + 1, x]
            v, u = (y - row) / 4, (x - column) / 4
            weight = math.hypot(across, up) * math.exp(-(u**2 + v**2) / (2 * 2**2))
            place = (v + 2.5, u + 2.5, math.atan2(up, across) % (2 * math.pi) / (math.pi / 4))
            lower = [math.floor(value) for value in place]
            for corner in np.ndindex(2, 2, 2):
                share = math.prod(
                    fraction if side else 1 - fraction
                    for side, fraction in zip(corner, np.subtract(place, lower), strict=True)
                )
                i, j, k = np.add(lower, corner)
                histogram[i, j, k % 8] += weight * share
    descriptor = histogram[1:5, 1:5].ravel()
    clipped = np.minimum(descriptor, 0.2 * np.linalg.norm(descriptor))
    return clipped / np.linalg.norm(clipped)


@pytest.mark.parametrize(("i", "j"), [(2, 3), (0, 0), (4, 5), (0, 5)])
def test_dense_sift_by_hand(sift, i, j):
    gray = photograph(64, 72)[:40, :48]
    ours = sift(as_images(gray), ["tokens"])["tokens"][0, :, i, j]
    np.testing.assert_allclose(ours.numpy(), lowe(gray, 8 * i + 4, 8 * j + 4), atol=1e-5)


def test_dense_sift_orientations_and_flat_patches(sift):
    ramp = torch.linspace(0.1, 0.9, 64)
    right = sift(ramp.expand(1, 3, 64, 64), ["tokens"])["tokens"][0, :, 4, 4].view(16, 8)
    up = sift(ramp.flip(0).view(-1, 1).expand(1, 3, 64, 64), ["tokens"])["tokens"][0, :, 4, 4].view(16, 8)
    assert set(right.argmax(dim=1).tolist()) == {0}
    assert set(up.argmax(dim=1).tolist()) == {2}
    assert right.norm() == pytest.approx(1, abs=1e-5)
    flat = sift(torch.full((1, 3, 32, 32), 0.37), ["tokens"])["tokens"]
    assert flat.abs().max() < 1e-2, "rounding errors must not pass for texture"


def test_dense_sift_gradient_is_finite_even_where_the_image_is_flat(sift):
    images = as_images(photograph(32, 40)).clone().requires_grad_()
    direction = torch.randn(1, 128, 4, 5, generator=torch.Generator().manual_seed(4))
    (sift(images, ["tokens"], grad=True)["tokens"] * direction).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.abs().max() > 0
    assert not sift(images, ["tokens"])["tokens"].requires_grad


# --- The random CNN ------------------------------------------------------------------------------


def test_random_cnn_is_the_same_everywhere_and_is_a_plain_cnn():
    torch.manual_seed(99)  # the run's seed is of no effect
    backbone = RandomCNN(spec("random_cnn"))
    # Pinned: another generator of random numbers would be another network.
    assert backbone.sha256 == "77a39c1df5ed770c1beed135f76e728da3ce4e7de974610105c86095ccb8fffe"
    assert RandomCNN(spec("random_cnn"), seed=1).sha256 != backbone.sha256
    assert RandomCNN(spec("random_cnn", mean=[0.5] * 3)).sha256 != backbone.sha256

    generator = torch.Generator().manual_seed(0)
    layers: list[torch.nn.Module] = []
    for inside, outside in ((3, 64), (64, 128), (128, 256), (256, 256)):
        convolution = torch.nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        bound = math.sqrt(6 / (9 * inside))
        convolution.weight.data = torch.rand(outside, inside, 3, 3, generator=generator) * 2 * bound - bound
        layers += [convolution, torch.nn.ReLU(), torch.nn.AvgPool2d(2)]
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        wanted = torch.nn.Sequential(*layers[:-1])((images - mean) / std)
    tokens = backbone(images, ["tokens"])["tokens"]
    assert tokens.shape == (2, 256, 8, 12)
    torch.testing.assert_close(tokens, wanted, atol=1e-4, rtol=1e-3)
    assert 0.05 < tokens.mean() < 5, "He's variance keeps the scale"


# --- What both refuse ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense_sift", "random_cnn"])
def test_contract_and_refusals(name):
    backbone = load_backbone(Registry(), name)
    assert isinstance(backbone, Backbone)
    assert backbone.to(torch.device("cpu")) is backbone
    assert (backbone.name, backbone.patch) == (name, 8)
    assert backbone(torch.zeros(1, 3, 8, 8), []) == {}
    assert backbone(torch.zeros(1, 3, 8, 8), ["tokens"])["tokens"].shape[2:] == (1, 1)
    meta = torch.device("meta")  # what does not move cannot be mixed with it
    moved = load_backbone(Registry(), name).to(meta)
    assert moved(torch.zeros(1, 3, 8, 8, device=meta), ["tokens"])["tokens"].device == meta
    with pytest.raises(UsageError, match="no facet 'cls'"):
        backbone(torch.zeros(1, 3, 8, 8), ["cls"])
    with pytest.raises(UsageError, match="width 12 is not a multiple of 8"):
        backbone(torch.zeros(1, 3, 8, 12), ["tokens"])
    with pytest.raises(UsageError, match="no weights to load"):
        load_backbone(Registry(), name, weights=Path("w.pth"))
    entry = Registry().backbone(name)[1].load()
    with pytest.raises(ContractError, match="says patch = 16; the network has 8"):
        entry(spec(name, patch=16))
